"""The first run of a bundle's graphs: as they are written, on one sample of zeros, and with a time limit.

When ONNX Runtime makes a session, it computes in advance what depends on constants alone, and nothing ends that. A few
small constants can be made to take hours: products of products. In the first run, nothing is computed in advance. Each
node runs once, and the run ends when its time is over.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.bundle.manifest import LOSS_AFTER, LOSSES, STEP, Manifest, next_name
from msr_runtime.bundle.store import ADAPT, DEVIATION, LOSS, PREDICT, SUMS, UPDATE, Bundle
from msr_runtime.errors import BundleError
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.deviation import OUTPUTS
from msr_runtime.inference.device import CPU
from msr_runtime.inference.limited import limited
from msr_runtime.inference.session import make_session
from msr_runtime.inference.time_limit import LONGEST, TimeLimit
from msr_runtime.relinearization import LINEARIZED
from msr_runtime.task import sample_shape, width


def run_first(bundle: Bundle, longest: float = LONGEST) -> None:
    """Compare the inputs and outputs of a bundle's graphs with its manifest, and run each graph once on the CPU.

    solve.onnx is left out: its sessions never compute anything in advance.

    Args:
        bundle: The opened bundle.
        longest: Longest time that all runs together may take, in s.

    Raises:
        BundleError: If ONNX Runtime refuses a graph, if one does not match the manifest or does not run, or if they
            take too long.
    """
    where = f"bundle '{bundle.path}'"
    steps = (UPDATE, DEVIATION) if bundle.manifest.recursion else (ADAPT, SUMS)
    files = [file for file in (PREDICT, *steps, LOSS) if file in bundle.files]
    graphs = {
        file: make_session(bundle.files[file], f"{where}: {file}", (CPU,), prepack=False, optimize=False)
        for file in files
    }
    _check_graphs(where, bundle, graphs)
    start = bundle.start()
    with TimeLimit(longest) as limit:
        for file, graph in graphs.items():
            feed = {part.name: start.get(part.name, _zeros(part)) for part in graph.get_inputs()}
            try:
                limited(graph, limit).run(None, feed)
            except Exception as error:  # the bindings of ONNX Runtime raise many types for a malformed graph
                if limit.over:
                    raise BundleError(limit.message(f"{where}: a run of {file}")) from error
                raise BundleError(
                    f"{where}: {file} does not run ({error}); the graph does not match its manifest: export again"
                ) from error


def check_parts(where: str, file: str, parts: Sequence[onnxruntime.NodeArg], wanted: dict[str, list]) -> None:
    """Raise BundleError unless these inputs or outputs of a graph have the names and shapes `wanted`."""
    seen = {part.name: part.shape for part in parts}
    if seen != wanted:
        raise BundleError(
            f"{where}: {file} has {seen}, but its manifest wants {wanted}; the two are not of one export: export again"
        )


def _check_graphs(where: str, bundle: Bundle, graphs: dict[str, onnxruntime.InferenceSession]) -> None:
    predict, loss = graphs[PREDICT], graphs[LOSS]
    K = bundle.manifest.filter_parameters
    weights = {weight.name: list(weight.shape) for weight in bundle.manifest.weights}
    state = {"v": [1, K]} | weights
    check_parts(where, PREDICT, predict.get_overridable_initializers(), weights)
    moved = {next_name(name): shape for name, shape in state.items()}
    if bundle.manifest.recursion:
        _check_recursive(where, bundle.manifest, graphs, weights, moved)
    for file, wanted in ((ADAPT, state), (LOSS, weights)):
        if file in graphs:
            others = ("support_x", "support_y", STEP)
            check_parts(where, file, [part for part in graphs[file].get_inputs() if part.name not in others], wanted)
    if ADAPT in graphs:
        outputs = graphs[ADAPT].get_outputs()
        after = {part.name: [] for part in outputs if part.name == LOSS_AFTER}
        check_parts(where, ADAPT, outputs, moved | {"loss": []} | after)
    # Bundles of format version 4 and older have no output of each sample's loss.
    each = [part for part in loss.get_outputs() if part.name == LOSSES and len(part.shape) == 1]
    check_parts(where, LOSS, [part for part in loss.get_outputs() if part not in each], {"loss": []})
    if SUMS in graphs:
        check_parts(where, SUMS, graphs[SUMS].get_outputs(), {"sums": [K, K + 1], "loss": []} | weights)
        check_parts(where, SUMS, [part for part in graphs[SUMS].get_inputs() if part.name == "v"], {"v": [1, K]})


def _check_recursive(
    where: str,
    manifest: Manifest,
    graphs: dict[str, onnxruntime.InferenceSession],
    weights: dict[str, list],
    moved: dict[str, list],
) -> None:
    """Compare the graphs of the rule `recursive` with the manifest."""
    (rows, K), J = manifest.belief_shape, width(manifest.outputs)
    x, y = (list(sample_shape(fields)) for fields in (manifest.inputs, manifest.outputs))
    belief = {"rows": [rows + J, K], "decays": [rows + J]}
    sample = {"x": [1, *x], "y": [1, *y]}
    assert manifest.recursion is not None
    linearized = {LINEARIZED: [1, K]} if manifest.recursion.relinearize else {}
    check_parts(where, UPDATE, graphs[UPDATE].get_inputs(), sample | {"v": [1, K]} | linearized | weights | belief)
    seen = {"new_rows": [J, K], "innovation": [1, *y], "variance": [1, *y], "nis": [1]}
    check_parts(where, UPDATE, graphs[UPDATE].get_outputs(), moved | seen)
    check_parts(where, DEVIATION, graphs[DEVIATION].get_inputs(), {"x": [1, *x]} | weights | belief)
    check_parts(where, DEVIATION, graphs[DEVIATION].get_outputs(), {name: [1, *y] for name in OUTPUTS})


def _zeros(part: onnxruntime.NodeArg) -> NDArray:
    """Zeros for one input of a graph. An axis of any length gets one entry."""
    shape = [axis if isinstance(axis, int) else 1 for axis in part.shape]
    return np.zeros(shape, np.int64 if "int64" in part.type else np.float32)
