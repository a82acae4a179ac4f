"""The sessions of a bundle in ONNX Runtime, checked against its manifest."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from msr_runtime.adaptation.backend import Runs
from msr_runtime.adaptation.first_run import check_parts, run_first
from msr_runtime.adaptation.inner_loop import InnerLoop
from msr_runtime.adaptation.support_loss import SupportLoss
from msr_runtime.bundle.manifest import STEP, next_name
from msr_runtime.bundle.store import ADAPT, DEVIATION, LOSS, PREDICT, SOLVE, SUMS, UPDATE, Bundle
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.deviation import Deviations
from msr_runtime.inference.many_samples import ManySamples
from msr_runtime.inference.onnx_network import OnnxDeviation, OnnxNetwork, OnnxUpdate
from msr_runtime.inference.predictor import Predictors
from msr_runtime.inference.providers import CPU, check_providers, device_of, without_graphs
from msr_runtime.inference.sample_spec import read_spec
from msr_runtime.inference.session import Provider, make_session
from msr_runtime.inference.state import State
from msr_runtime.inference.time_limit import TimeLimit
from msr_runtime.inference.updater import Updater
from msr_runtime.task import width


class OnnxBackend:
    """The `Backend` of ONNX Runtime.

    Args:
        bundle: The opened bundle.
        providers: As in `AdaptiveModel.load`.

    Raises:
        BundleError: If the graphs do not match the manifest, if ONNX Runtime refuses them, or if their first run takes
            too long, 60 s.
        ProviderError: If a requested provider does not start.
    """

    def __init__(self, bundle: Bundle, providers: Sequence[Provider]) -> None:
        # The number of shots changes from call to call, so adapt and loss cannot be captured as CUDA graphs.
        manifest, varying = bundle.manifest, without_graphs(providers)
        check_providers(providers)
        run_first(bundle)
        given = {PREDICT: providers, ADAPT: varying, LOSS: varying, SUMS: varying}
        # An update reads U twice, and does little with it.
        given |= dict.fromkeys((UPDATE, DEVIATION), (CPU,))
        self._graphs: Mapping[str, onnxruntime.InferenceSession] = {
            file: make_session(
                bundle.files[file],
                f"bundle '{bundle.path}': {file}",
                wanted,
                # These multiply by U and by its transpose. Both are fast without packing, and packing would copy U for
                # each of the two products.
                prepack=file not in (ADAPT, SUMS),
            )
            for file, wanted in given.items()
            if file in bundle.files
        }
        self._bundle, self._manifest = bundle, manifest
        predict, of_support = self._graphs[PREDICT], self._graphs.get(ADAPT, self._graphs[LOSS])
        self._x = read_spec(predict, "x", manifest.inputs)
        self._y = read_spec(predict, "y", manifest.outputs, output=True)
        labels = manifest.loss == "cross_entropy"
        x = read_spec(of_support, "support_x", manifest.inputs)
        y = read_spec(of_support, "support_y", () if labels else manifest.outputs)
        self.support = x, y._replace(classes=width(manifest.outputs)) if labels else y
        """As in `Backend`."""
        self.most: int | None = None
        """As in `Backend`."""
        self.start = State(bundle.start(), device_of(providers))
        """As in `Backend`."""

    @cached_property
    def _solve(self) -> onnxruntime.InferenceSession:
        """The session of solve.onnx, which `run_first` leaves out.

        It has thousands of operators of a few numbers each, so it runs on the CPU, and to make it takes as long as all
        other sessions together. Only an adaptation to many samples needs it. Two threads may make it twice.

        Raises:
            BundleError: If the graph does not match the manifest.
        """
        K, where = self._manifest.filter_parameters, f"bundle '{self._bundle.path}'"
        solve = make_session(self._bundle.files[SOLVE], f"{where}: {SOLVE}", (CPU,), optimize=False)
        given = {"sums": [K, K + 1], "samples": [1], "v": [1, K]}
        check_parts(where, SOLVE, [part for part in solve.get_inputs() if part.name != STEP], given)
        check_parts(where, SOLVE, solve.get_outputs(), {next_name("v"): [1, K]})
        return solve

    def runs(self, limit: TimeLimit | None = None) -> Runs:
        """As in `Backend`."""
        graphs = {file: limit.limited(graph) if limit else graph for file, graph in self._graphs.items()}
        start, x, y = self.start, self._x, self._y
        inner_loop = updater = deviations = None

        def solve() -> onnxruntime.InferenceSession:
            return limit.limited(self._solve) if limit else self._solve

        if ADAPT in graphs:
            # A bundle has both graphs for many samples, or none.
            many = ManySamples(graphs[SUMS], solve, width(self._manifest.outputs)) if SUMS in graphs else None
            inner_loop = InnerLoop(graphs[ADAPT], graphs[LOSS], start, many)
        if recursion := self._manifest.recursion:
            host = State(start.tensors)
            updater = Updater(OnnxUpdate(graphs[UPDATE]), host, recursion.relinearize)
            deviations = Deviations(OnnxDeviation(graphs[DEVIATION]), x, y, host)
        return Runs(
            Predictors(OnnxNetwork(graphs[PREDICT]), x, y, start),
            SupportLoss(graphs[LOSS], start.tensors),
            inner_loop,
            updater,
            deviations,
        )
