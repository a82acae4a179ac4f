"""Round the U of a bundle to what the C code stores, and compute the golden example anew with it."""

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from msr_c.constants import Constants
from msr_c.precision import stored
from msr_runtime.adaptation.sessions import Sessions
from msr_runtime.bundle.golden import Golden
from msr_runtime.bundle.store import GRAPHS, START, Bundle, encode_start
from msr_runtime.errors import ExportError


def rounded(bundle: Bundle, constants: Constants, start: dict[str, NDArray], store: str) -> Bundle:
    """Return the bundle with the U that the C code stores in each of its graphs. It is not on disk.

    Args:
        bundle: The bundle.
        constants: The symmetry matrices of its graphs.
        start: The bundle's v and weights.
        store: `float16` or `int8`.

    Raises:
        ExportError: If the bundle has no U: nothing of it would be stored in fewer bytes.
    """
    if not constants.symmetries:
        raise ExportError(
            f"U is to be stored as {store}, but '{bundle.path}' has no symmetry matrix that the C code reads row "
            "by row: leave the store at float32"
        )
    known = {each.rows.size: [] for each in constants.symmetries.values()}
    for each in constants.symmetries.values():
        known[each.rows.size].append((len(each.rows), np.sort(each.rows, axis=None)))
    files = dict(bundle.files)
    for file in files.keys() & set(GRAPHS):
        model = onnx.load_from_string(files[file])
        for constant in model.graph.initializer:
            value = numpy_helper.to_array(constant)
            for k, numbers in known.get(value.size, []):
                # Each graph has its own order of U's numbers, but those that make one number of a weight lie together.
                if value.shape[-1] % k == 0 and np.array_equal(np.sort(value, axis=None), numbers):
                    rows = stored(value.reshape(-1, k).T, store).rounded
                    near = np.ascontiguousarray(rows.T.reshape(value.shape))
                    constant.CopyFrom(numpy_helper.from_array(near, constant.name))
        files[file] = model.SerializeToString()
    files[START] = encode_start(start | _folded(constants, start, store))
    return replace(bundle, files=files)


def _folded(constants: Constants, start: dict[str, NDArray], store: str) -> dict[str, NDArray]:
    """The weights that the rounded U makes of v0."""
    weights, begin = {}, 0
    for name, weight in start.items():
        symmetry = constants.symmetries.get(f"U_{name}")
        if name == "v" or symmetry is None:
            continue
        begin = _part_of(start["v"], symmetry.rows, symmetry.weight, weight)
        rows = stored(symmetry.rows, store).rounded.astype(np.float64)
        flat = start["v"][0, begin : begin + len(rows)].astype(np.float64) @ rows
        folded = flat.reshape(symmetry.weight)
        weights[name] = (folded.T if folded.ndim == 2 else folded).astype(np.float32)
    return weights


def _part_of(v: NDArray, rows: NDArray, shape: tuple[int, ...], weight: NDArray) -> int:
    """Where the part of v begins that makes a weight."""
    wanted = (weight.T if weight.ndim == 2 else weight).reshape(-1)
    near = 1e-5 * float(np.abs(wanted).max())
    for begin in range(v.shape[1] - len(rows) + 1):
        if np.allclose(v[0, begin : begin + len(rows)].astype(np.float64) @ rows, wanted, rtol=1e-4, atol=near):
            return begin
    raise ExportError(f"no part of v makes the weight of shape {shape}; the bundle's start does not fit its graphs")


def golden_of(bundle: Bundle) -> Golden:
    """Compute the golden example of a bundle with ONNX Runtime."""
    golden, sessions = bundle.golden(), Sessions(bundle, ("CPUExecutionProvider",))
    end = sessions.adapt(golden.support_x, golden.support_y, golden.steps, sessions.start)
    if end.predictor is None:
        raise ExportError(f"bundle '{bundle.path}' adapts to no finite network with this store of U: take float32")
    losses = np.array([end.loss_before, end.loss_after], np.float32)
    y0, y = sessions.start(golden.x), end.predictor(golden.x)
    return golden._replace(v=end.predictor.tensors["v"].copy(), losses=losses, y0=y0, y=y)
