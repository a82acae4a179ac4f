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
from msr_runtime.inference.device import CPU, Provider, device_of, without_graphs
from msr_runtime.inference.limited import limited
from msr_runtime.inference.many_samples import ManySamples
from msr_runtime.inference.onnx_network import OnnxDeviation, OnnxNetwork, OnnxUpdate
from msr_runtime.inference.predictor import Predictors
from msr_runtime.inference.providers import check_providers
from msr_runtime.inference.session import make_session
from msr_runtime.inference.session_spec import read_spec
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
        bundle.check_graphs()
        run_first(bundle)
        given = {PREDICT: providers, ADAPT: varying, LOSS: varying}
        # An update reads U twice, and does little with it.
        given |= dict.fromkeys((UPDATE, DEVIATION), (CPU,))
        self._bundle, self._manifest, self._varying = bundle, manifest, varying
        self._graphs: Mapping[str, onnxruntime.InferenceSession] = {
            # adapt.onnx multiplies by U and by its transpose. Both are fast without packing, and packing would copy U
            # for each of the two products.
            file: self._session(file, wanted, prepack=file != ADAPT)
            for file, wanted in given.items()
            if file in bundle.files
        }
        if SUMS in bundle.files and [*varying] != [CPU]:
            _ = self._sums  # only trying it says whether another provider runs it
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

    def _session(
        self, file: str, providers: Sequence[Provider], *, prepack: bool = True, optimize: bool = True
    ) -> onnxruntime.InferenceSession:
        where = f"bundle '{self._bundle.path}': {file}"
        return make_session(self._bundle.files[file], where, providers, prepack=prepack, optimize=optimize)

    # Only an adaptation to many samples needs the next two sessions. Two threads may make them twice.

    @cached_property
    def _sums(self) -> onnxruntime.InferenceSession:
        """The session of sums.onnx, which holds U as adapt.onnx does. `run_first` has run the graph."""
        return self._session(SUMS, self._varying, prepack=False)

    @cached_property
    def _solve(self) -> onnxruntime.InferenceSession:
        """The session of solve.onnx, which `run_first` leaves out.

        It has thousands of operators of a few numbers each, so it runs on the CPU, and to make it takes as long as all
        other sessions together.

        Raises:
            BundleError: If the graph does not match the manifest.
        """
        K, where = self._manifest.filter_parameters, f"bundle '{self._bundle.path}'"
        solve = self._session(SOLVE, (CPU,), optimize=False)
        given = {"sums": [K, K + 1], "samples": [1], "v": [1, K]}
        check_parts(where, SOLVE, [part for part in solve.get_inputs() if part.name != STEP], given)
        check_parts(where, SOLVE, solve.get_outputs(), {next_name("v"): [1, K]})
        return solve

    def runs(self, limit: TimeLimit | None = None) -> Runs:
        """As in `Backend`."""

        def bounded(session: onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
            return limited(session, limit) if limit else session

        graphs = {file: bounded(graph) for file, graph in self._graphs.items()}
        start, x, y = self.start, self._x, self._y
        inner_loop = updater = deviations = None
        if ADAPT in graphs:
            many = None
            if SUMS in self._bundle.files:  # a bundle has both graphs for many samples, or none
                outputs = width(self._manifest.outputs)
                many = ManySamples(lambda: bounded(self._sums), lambda: bounded(self._solve), outputs)
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
