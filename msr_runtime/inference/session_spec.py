"""Read the description of one input or output from the graph of a session."""

import math

import numpy as np

from msr_runtime.arrays import FLOAT32
from msr_runtime.errors import BundleError
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.task import Field

_DTYPES = {"tensor(float)": FLOAT32, "tensor(int64)": np.dtype(np.int64)}


def read_spec(
    session: onnxruntime.InferenceSession, name: str, fields: tuple[Field, ...], output: bool = False
) -> SampleSpec:
    """Read the sample shape and dtype of one input or output from a graph, and check them against its fields.

    Args:
        session: The session of the graph.
        name: The name of the input or output in the graph.
        fields: The fields that the manifest lists for it. Empty for labels.
        output: Whether to look among the graph's outputs.

    Raises:
        BundleError: If the graph has no such input or output, its type or shape is not supported, or its size differs
            from the size of the fields.
    """
    parts = {part.name: part for part in (session.get_outputs() if output else session.get_inputs())}
    if name not in parts:
        raise BundleError(
            f"the graph has no {'output' if output else 'input'} '{name}' but {sorted(parts)}; export again"
        )
    # A graph gives a number for a fixed axis and a name, such as "batch", for an axis of any length.
    shape, dtype = tuple(parts[name].shape[1:]), _DTYPES.get(parts[name].type)
    if dtype is None or not all(isinstance(axis, int) for axis in shape):
        raise BundleError(
            f"'{name}' of the graph is {parts[name].type} {parts[name].shape}, but {' or '.join(_DTYPES)} is wanted, "
            "with a fixed size of every axis but the first; export again"
        )
    wanted = sum(field.size for field in fields)
    if fields and math.prod(shape) != wanted:
        raise BundleError(
            f"'{name}' of the graph has samples of shape {shape}, but the manifest's fields make {wanted} numbers; "
            "graph and manifest are not from one export: export again"
        )
    return SampleSpec(name, shape, dtype, fields)
