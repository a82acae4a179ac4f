"""How large the parts of a bundle may be. What is larger is refused before it is read, unpacked or run."""

from msr_runtime.bundle.manifest import Manifest
from msr_runtime.task import width

MAX_BYTES = 2**31 - 1
"""Largest size of any file. It is the largest ONNX model that protobuf can hold."""
MAX_MANIFEST = 2**24
"""Largest size of manifest.json. Most of it is numbers that the rule learned; 100,000 of them take 3 MiB."""
MAX_LINE = 2**16
"""Largest size of the digest's file and of the signature's."""
MAX_SAMPLES = 2**16
"""Most samples in the golden example's support set, and in its queries."""
MAX_GOLDEN = 2**27
"""Most bytes of the golden example's arrays together, and of a listed file that no other limit covers."""
_FIXED = 2**25
"""Numbers of a graph that the manifest does not count: layers that do not adapt, scales, indices."""


def largest_constant(manifest: Manifest) -> int:
    """Return the most numbers that one constant of a graph may have: U and its products, and `_FIXED` more.

    U has one row per entry of a weight and one column per filter parameter. The Gauss-Newton rule keeps products of U
    too.
    """
    return _FIXED + 2 * manifest.filter_parameters * max(manifest.weight_entries, manifest.filter_parameters)


def largest_graph(manifest: Manifest) -> int:
    """Return the most bytes of a graph's file: its constants in float32, with as many again in smaller ones."""
    return min(MAX_BYTES, 8 * largest_constant(manifest))


def largest_source(manifest: Manifest) -> int:
    """Return the most bytes of a file of native code: its constants as text, of at most 16 characters a number."""
    return min(MAX_BYTES, 16 * largest_constant(manifest))


def largest_tensors(manifest: Manifest) -> int:
    """Return the most bytes of a safetensors file: a header, v, folded weights, a belief and its first samples."""
    rows, columns = manifest.belief_shape
    numbers = manifest.filter_parameters + manifest.weight_entries + rows * (columns + 1)
    if manifest.recursion:
        numbers += manifest.recursion.relinearize * (width(manifest.inputs) + width(manifest.outputs) + 1)
    return min(MAX_BYTES, 4 * numbers + 2**16 + 2**10 * len(manifest.weights))
