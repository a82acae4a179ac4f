"""The graphs of the rule `recursive`: against closed forms, against torch over many updates, and in a bundle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from msr_export.recursion_parity import check_recursion
from msr_export.streams import draw_streams
from msr_runtime import AdaptiveModel, BundleError
from msr_runtime.bundle.manifest import parse_manifest
from msr_runtime.bundle.npz import encode_arrays
from msr_runtime.bundle.store import STREAM, Bundle, write_bundle
from msr_runtime.bundle.stream import Stream
from msr_runtime.errors import ParityError
from msr_runtime.inference.belief import Belief
from msr_runtime.inference.onnx_network import OnnxUpdate
from msr_runtime.inference.session import make_session
from msr_runtime.inference.state import State
from msr_runtime.inference.updater import Updater
from msr_runtime.meta.rules.recursive import Recursive

MEMORY = 12
CPU = ("CPUExecutionProvider",)


@pytest.fixture(scope="module")
def iterated(exporter: Any) -> Any:
    """An MSR whose filter linearizes its first samples again, forgets, and keeps few rows."""
    return exporter.exported("msr", "mse", rule="recursive", time_constant=30.0, memory=MEMORY)


@pytest.fixture(scope="module")
def stream(exporter: Any, iterated: Any) -> Stream:
    """What torch makes of some updates of it."""
    learner, normalization = iterated.learner, iterated.normalization
    (drawn,) = draw_streams(learner, normalization, learner.rule, exporter.inputs(normalization), 0, [3 * MEMORY])
    return drawn


class Regression:
    """Bayesian linear regression of `y = W [x, 1]` in float64, by its normal equations."""

    def __init__(self, start: NDArray, scales: NDArray, noise: NDArray) -> None:
        """Begin at the prior: the mean `(J, n + 1)`, the deviations alike, and the variances of the noise `(J,)`."""
        self.start, self.scales, self.noise = start, scales, noise

    def learn(self, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Return the mean `(J, n + 1)` and the covariances `(J, n + 1, n + 1)` after samples, in normalized units."""
        wide, means, covariances = np.concatenate([x, np.ones((len(x), 1))], 1), [], []
        for row, scale, noise, target in zip(self.start, self.scales, self.noise, y.T, strict=True):
            precision = np.diag(scale**-2) + wide.T @ wide / noise
            covariances.append(np.linalg.inv(precision))
            means.append(row + covariances[-1] @ wide.T @ (target - wide @ row) / noise)
        return np.array(means), np.array(covariances)


def test_a_linear_network_is_bayesian_regression(exporter: Any) -> None:
    """v, the innovations, their variances and the rows' covariance are those of the closed form, sample by sample."""
    export = exporter.exported("maml", "mse", depth=0, rule="recursive", gate=None)
    learner, scaling, frozen = export.learner, export.normalization, export.frozen
    rule: Recursive = learner.rule
    x, y = exporter.draw(export, 15)
    normal_x, normal_y = (each.astype(np.float64) for each in scaling.normalize(x, y))
    tensors, scales = learner.start(), {name: scale.item() for name, scale in rule.scales().items()}
    weight, bias = (tensors[name].detach().double().numpy() for name in learner.adapted_names)
    deviations = [np.full(each.shape, scales[name]) for name, each in zip(scales, (weight, bias), strict=True)]
    wide = [np.concatenate([part, more[:, None]], 1) for part, more in ((weight, bias), deviations)]
    exact = Regression(wide[0], wide[1], rule.noise().detach().double().numpy())
    assert frozen.recursion is not None
    start = State({"v": frozen.v0, **frozen.weights})
    graph = OnnxUpdate(make_session(frozen.recursion.update, "update.onnx", CPU))
    updater = Updater(graph, start, rule.relinearize)
    run = updater.begin(start.block, Belief.prior(rule.memory, 2, frozen.v0.size))
    scale = np.asarray(scaling.output_scale)
    for count in range(len(x)):
        mean, covariances = exact.learn(normal_x[:count], normal_y[:count])
        row = np.append(normal_x[count], 1.0)
        seen = run.update(x[count], y[count], 1.0)
        assert seen is not None
        variance = np.einsum("i,jik,k->j", row, covariances, row) + exact.noise
        errors = normal_y[count] - mean @ row
        np.testing.assert_allclose(seen.error, errors * scale, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(seen.variance, variance * scale**2, rtol=1e-3)
        assert seen.nis == pytest.approx((errors**2 / variance).sum(), rel=1e-2)
        mean, covariances = exact.learn(normal_x[: count + 1], normal_y[: count + 1])
        v = np.concatenate([mean[:, :-1].ravel(), mean[:, -1]])
        np.testing.assert_allclose(run.tensors["v"][0], v, atol=1e-4)
    whitened = run.belief.covariance()
    of_first = [*range(4), 8]  # the weights of the first output, and its bias
    wanted = covariances[0] / np.outer(wide[1][0], wide[1][0])
    np.testing.assert_allclose(whitened[np.ix_(of_first, of_first)], wanted, atol=1e-4)


def test_what_is_no_weight_is_exported_too(exporter: Any) -> None:
    """The context of CAVIA is a part of the network's input."""
    export = exporter.exported("cavia", "mse", rule="recursive", memory=MEMORY)
    learner, normalization = export.learner, export.normalization
    (drawn,) = draw_streams(learner, normalization, learner.rule, exporter.inputs(normalization), 0, [2 * MEMORY])
    assert check_recursion(learner, normalization, export.frozen, drawn).shots == (2 * MEMORY,)


class TestParity:
    """ONNX Runtime and torch, over more updates than the memory holds."""

    def test_they_agree(self, iterated: Any, stream: Stream) -> None:
        """And what was compared is written down."""
        parity = check_recursion(iterated.learner, iterated.normalization, iterated.frozen, stream)
        assert parity.max_relative_error <= stream.allowed(1e-5) <= 1e-3
        assert parity.shots == (3 * MEMORY,)
        assert (stream.keep < 0.9).any()

    @pytest.mark.parametrize("part", ["nis", "v", "total", "query_y"])
    def test_a_wrong_graph_is_found(self, iterated: Any, stream: Stream, part: str) -> None:
        """Whatever it computes wrongly."""
        wrong = stream._replace(**{part: getattr(stream, part) * 1.01})
        with pytest.raises(ParityError, match=r"updates: the relative error is"):
            check_recursion(iterated.learner, iterated.normalization, iterated.frozen, wrong)

    def test_wrong_weights_are_found(self, iterated: Any, stream: Stream) -> None:
        """The weights that act are compared too, not only v."""
        moved = {name: weight + 0.01 for name, weight in iterated.frozen.weights.items()}
        wrong = iterated.frozen._replace(weights=moved)
        with pytest.raises(ParityError):
            check_recursion(iterated.learner, iterated.normalization, wrong, stream)


@pytest.fixture(scope="module")
def written(exporter: Any, iterated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that learner."""
    with torch.no_grad():
        return exporter.write(iterated, tmp_path_factory.mktemp("recursive") / "bundle")


class TestBundle:
    """What the exporter writes of the rule."""

    def test_the_manifest_describes_the_filter(self, iterated: Any, written: Path) -> None:
        """Times are in seconds: the family runs at 50 Hz."""
        manifest = Bundle.open(written).manifest
        assert manifest.rule == "recursive"
        assert manifest.recursion is not None
        assert manifest.recursion.memory == MEMORY
        assert manifest.recursion.gate == iterated.learner.rule.gate
        assert manifest.recursion.tick == pytest.approx(0.02)
        keep = iterated.learner.rule.keep().item()
        assert manifest.recursion.tau is not None
        assert np.exp(-manifest.recursion.tick / manifest.recursion.tau) == pytest.approx(keep, rel=1e-5)
        assert manifest.learned["noise"] == pytest.approx(iterated.learner.rule.noise().tolist())
        assert {"scale of layers.0.weight", "scale of layers.0.bias"} <= manifest.learned.keys()
        assert {"update.onnx", "deviation.onnx", "stream.npz"} <= manifest.files.keys()
        assert "adapt.onnx" not in manifest.files

    def test_without_relinearization_it_loads_as_format_6(self, exporter: Any, tmp_path: Path) -> None:
        """The graph then has no input for it, as those of the format before."""
        with torch.no_grad():
            once = exporter.exported("msr", "mse", rule="recursive", relinearize=0, memory=MEMORY)
            bundle = Bundle.open(exporter.write(once, tmp_path / "bundle"))
        document = json.loads(bundle.manifest.to_bytes()) | {"format_version": 6}
        assert document["recursion"].pop("relinearize") == 0
        manifest = parse_manifest(json.dumps(document).encode(), "bundle")
        again = AdaptiveModel.load(write_bundle(tmp_path / "again", manifest, bundle.files))
        assert again.self_test() <= bundle.stream().allowed(manifest.parity.tolerance)

    def test_the_robot_replays_it(self, written: Path) -> None:
        """Golden example and golden stream."""
        model = AdaptiveModel.load(written)
        assert model.self_test() <= model.bundle.stream().allowed(model.manifest.parity.tolerance)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"nis": np.zeros(3)}, "nis has shape"),
            ({"keep": None}, "keep"),
            ({"rounding": np.array(0.5)}, "rounding is 0.5"),
        ],
    )
    def test_a_malformed_stream_is_refused(
        self, written: Path, tmp_path: Path, change: dict[str, Any], said: str
    ) -> None:
        """Before it is replayed."""
        bundle = Bundle.open(written)
        arrays = {name: value for name, value in (bundle.stream()._asdict() | change).items() if value is not None}
        files = {**bundle.files, STREAM: encode_arrays(arrays)}
        changed = write_bundle(tmp_path / "changed", bundle.manifest, files)
        with pytest.raises(BundleError, match=rf"stream\.npz is not a golden stream \(.*{said}"):
            AdaptiveModel.load(changed)

    @pytest.mark.parametrize("name", ["update.onnx", "deviation.onnx", "stream.npz"])
    def test_no_file_may_be_missing(self, written: Path, tmp_path: Path, name: str) -> None:
        """The manifest says that the rule needs them."""
        bundle = Bundle.open(written)
        files = {each: data for each, data in bundle.files.items() if each != name}
        with pytest.raises(BundleError, match=f"'{name}' is missing"):
            write_bundle(tmp_path / "changed", bundle.manifest, files)

    def test_graphs_of_another_memory_are_refused(self, written: Path, tmp_path: Path) -> None:
        """Their rows would not be those of the belief."""
        bundle = Bundle.open(written)
        assert bundle.manifest.recursion is not None
        other = bundle.manifest.recursion.model_copy(update={"memory": MEMORY + 1})
        changed = write_bundle(
            tmp_path / "changed", bundle.manifest.model_copy(update={"recursion": other}), bundle.files
        )
        with pytest.raises(BundleError, match=r"update\.onnx has .* but its manifest wants"):
            AdaptiveModel.load(changed)
