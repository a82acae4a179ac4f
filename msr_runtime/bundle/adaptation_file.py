"""A saved adaptation: `v` and its folded weights in safetensors format, with the digest of their bundle.

Of a bundle with the rule `recursive`, it also holds how sure the model is of v.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from msr_runtime.bundle.limits import largest_tensors
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.store import Bundle, load_tensors
from msr_runtime.errors import BundleError
from msr_runtime.task import Array

_MAX_HEADER = 2**20


def encode_adaptation(tensors: Mapping[str, Array], bundle: Bundle) -> bytes:
    """Return a saved adaptation as bytes.

    Args:
        tensors: The filter parameters "v" `(1, K)` and the weights folded from them, float32, by name. With the rule
            `recursive` also those of its belief, see `msr_runtime.inference.belief.Belief`.
        bundle: The bundle that was adapted.
    """
    return save(dict(tensors), {"bundle": bundle.digest, "digest": _digest(tensors)})


def read_adaptation(path: str | os.PathLike[str], manifest: Manifest) -> bytes:
    """Return the bytes of a saved adaptation's file.

    Args:
        path: The file.
        manifest: The manifest of the bundle that is to act with it. It limits how much is read.

    Raises:
        BundleError: If the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(largest_tensors(manifest) + 1)  # what is larger is refused, and not read whole
    except OSError as error:
        raise BundleError(
            f"adaptation '{path}' cannot be read ({error}); give the path of a file that save_adaptation wrote"
        ) from error


def decode_adaptation(data: bytes, bundle: Bundle, where: str) -> dict[str, Array]:
    """Return the tensors that were given to `encode_adaptation`, by name, "v" first.

    Args:
        data: The bytes of a saved adaptation.
        bundle: The bundle that is to act with it.
        where: The name of the data in error messages.

    Raises:
        BundleError: If the bytes are damaged, belong to another bundle, are more than its tensors take, or hold a
            number that is not finite.
    """
    try:
        # The header is read here, because `load` returns only the tensors.
        size = int.from_bytes(data[:8], "little")
        if size > _MAX_HEADER:
            raise ValueError(f"its header has {size} bytes, more than the {_MAX_HEADER} allowed")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError) as error:  # a header that is not UTF-8, JSON or an object
        raise BundleError(
            f"{where} cannot be read ({error}); it is damaged or not a saved adaptation: copy it again, or adapt again"
        ) from error
    if (seen := metadata.get("bundle")) != bundle.digest:
        raise BundleError(
            f"{where} was saved from bundle {seen}, but this bundle is {bundle.digest}; filter parameters are valid "
            "only for the bundle that they were adapted with: load that bundle, or adapt again"
        )
    tensors = load_tensors(data, bundle.manifest, where, belief=bundle.manifest.recursion is not None)
    if metadata.get("digest") != (seen := _digest(tensors)):
        raise BundleError(
            f"{where}: its tensors have sha256 {seen}, but its header says {metadata.get('digest')}; it was changed or "
            "damaged: copy it again, or adapt again"
        )
    return tensors


def _digest(tensors: Mapping[str, Array]) -> str:
    """Return the sha256 over the names and bytes of the tensors, sorted by name."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return whole.hexdigest()
