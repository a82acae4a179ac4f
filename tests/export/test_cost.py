"""The exporter measures what rounding costs, says so in the manifest, and does not round if it costs too much."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from msr_export import export_bundle
from msr_export.cost import choose_precision
from msr_export.rounding import constants, rounded
from msr_runtime import AdaptiveModel, Bundle, BundleError, SignatureError
from msr_runtime.bundle.rounding import MOST_COST, Rounding
from msr_runtime.bundle.signing import make_keys
from msr_runtime.bundle.store import ADAPT, write_bundle
from msr_runtime.meta.evaluation.predictor import torch_adapt
from msr_runtime.meta.evaluation.scores import score_all


def _choose(exporter: Any, learner: Any, **options: Any) -> Any:
    known: dict[str, Any] = {"shots": 6, "seed": 3, "tasks": 20} | options
    return choose_precision(learner, exporter.scaled, exporter.family, **known)


def test_errors_are_those_of_an_evaluation(exporter: Any) -> None:
    """On the same tasks, `score` gives the same errors over the orbit, of the rounded learner and of the exact one."""
    learner = exporter.build("msr", "mse")
    near, found = _choose(exporter, learner, asked="int8")
    assert (found.precision, found.tried, found.tasks) == ("int8", "int8", 20)
    methods = {str(each is near): torch_adapt(each, exporter.scaled) for each in (near, learner)}
    rng = np.random.default_rng(3)
    scores = score_all(exporter.family, methods, rng, tasks=20, shots=6, queries=32, split="validation")
    assert found.error == pytest.approx(scores["True"].orbit.mean(), rel=1e-4)
    assert found.float32_error == pytest.approx(scores["False"].orbit.mean(), rel=1e-4)


def test_float16_is_taken_if_it_costs_next_to_nothing(exporter: Any) -> None:
    """Nothing was asked for. The learner is the rounded one."""
    learner = exporter.build("msr", "mse")
    near, found = _choose(exporter, learner)
    assert found.precision == "float16"
    assert abs(found.cost) <= MOST_COST
    wanted, _ = rounded(learner, "float16")
    assert all(map(torch.equal, near.state_dict().values(), wanted.state_dict().values()))


def test_a_rounding_that_costs_too_much_is_not_taken(exporter: Any) -> None:
    """Two columns of U that nearly cancel: what is left of them drowns in their rounding. By request it is taken."""
    learner = exporter.build("msr", "mse", inner_rate=1e-9)
    with torch.no_grad():
        for name, U in constants(learner).items():
            learner.start()[name.replace(".0.U", ".original")][:2] = torch.tensor([0.1, -0.1])
            U[:, :2] += 20_000
    same, found = _choose(exporter, learner)
    assert same is learner
    assert (found.precision, found.tried) == ("float32", "float16")
    assert found.cost > MOST_COST
    assert "float32, because 0.1 % more error at most is wanted of float16" in found.describe()
    near, asked = _choose(exporter, learner, asked="float16")
    assert near is not learner
    assert asked == found.model_copy(update={"precision": "float16"})


def test_a_classifier_is_judged_by_its_scores(exporter: Any) -> None:
    """The cross entropy moves where the share of wrong labels does not."""
    learner, family = exporter.build("anil", "cross_entropy"), exporter.sides
    normalization = exporter.scaled.model_copy(update={"output_center": (0.0, 0.0), "output_scale": (1.0, 1.0)})
    _, found = choose_precision(learner, normalization, family, shots=6, seed=3, tasks=5)
    assert found is not None
    assert found.error != found.float32_error
    assert found.error == pytest.approx(found.float32_error, rel=1e-2)


def test_nothing_is_measured_where_nothing_is_rounded(exporter: Any) -> None:
    """All of MAML adapts; and float32 was asked for."""
    for learner, asked in ((exporter.build("maml", "mse"), None), (exporter.build("msr", "mse"), "float32")):
        assert _choose(exporter, learner, asked=asked) == (learner, None)


def test_an_error_of_zero_has_a_cost() -> None:
    """Nothing is divided by zero."""
    at = {"precision": "int8", "tried": "int8", "tasks": 1, "float32_error": 0.0}
    assert Rounding(**at, error=0.0).cost == 0
    assert Rounding(**at, error=1.0).cost == np.inf


def test_a_rounded_bundle_is_signed_and_its_scales_are_checked(exporter: Any, tmp_path: Path) -> None:
    """Parity and the golden example hold for the rounded learner. Another scale is found, with any digests."""
    learner = exporter.build("msr", "mse", width=20, filters=12)
    known: dict[str, Any] = {"family": exporter.family, "shots": 6, "seed": 3, "config_digest": "0"}
    path = export_bundle(
        learner, exporter.scaled, tmp_path / "bundle", **known, validation_tasks=4, precision="int8", structure=False
    )
    private, public = tmp_path / "a.pem", tmp_path / "a.pub.pem"
    make_keys(private, public)
    bundle = Bundle.open(path).sign(private)
    rounding = AdaptiveModel.load(path, trusted_keys=[public]).manifest.rounding
    assert rounding is not None
    assert (rounding.precision, rounding.tasks) == ("int8", 4)

    model = onnx.load_from_string(bundle.files[ADAPT])
    numbers = {part.name for part in model.graph.initializer if part.data_type == TensorProto.INT8}
    assert numbers
    scaled = {name for node in model.graph.node if node.op_type == "Mul" for name in node.input}
    scales = next(part for part in model.graph.initializer if part.name in scaled and list(part.dims)[1:] == [1])
    value = numpy_helper.to_array(scales)
    scales.CopyFrom(numpy_helper.from_array(value * np.float32(1.5), scales.name))
    tampered = bundle.files | {ADAPT: model.SerializeToString()}  # type: ignore[operator]
    (path / ADAPT).write_bytes(tampered[ADAPT])
    with pytest.raises(BundleError, match=r"adapt\.onnx .* has sha256"):
        Bundle.open(path)
    write_bundle(tmp_path / "forged", bundle.manifest, tampered)
    with pytest.raises(SignatureError):
        Bundle.open(tmp_path / "forged", [public])
    with pytest.raises(BundleError, match="is off by"):
        AdaptiveModel.load(tmp_path / "forged")
