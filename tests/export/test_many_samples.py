"""A bundle whose rule solves a linear system adapts to many samples by sums over parts of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_export.freeze import flatten
from msr_runtime import AdaptiveModel, Bundle
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.bundle.store import MANY, SOLVE, SUMS, write_bundle
from msr_runtime.errors import BundleError
from msr_runtime.inference import many_samples
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.serving.cost import most_samples, relative_cost


@pytest.fixture(scope="module")
def export(exporter) -> Any:
    return exporter.exported("msr", "mse", rule="gauss-newton", inner_steps=2, damping=0.1)


@pytest.fixture(scope="module")
def learner(export) -> Learner:
    return export.learner


@pytest.fixture(scope="module")
def newton(exporter, export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exporter.write(export, tmp_path_factory.mktemp("newton") / "bundle")


def _support(exporter, shots: int) -> tuple[np.ndarray, np.ndarray]:
    batch = exporter.family.sample(np.random.default_rng(0), 1, shots, 1, "test")
    return batch.support_x[0], batch.support_y[0]


@pytest.mark.parametrize("shots", [1, 6, 1000])
@pytest.mark.parametrize("part", [1, 2**22])
def test_it_adapts_as_torch_does(exporter, learner, newton, monkeypatch, shots: int, part: int) -> None:
    """By either way of a step, and by parts of one sample."""
    if (part, shots) == (1, 1000):
        shots = 200
    monkeypatch.setattr(many_samples, "_PART", part)
    monkeypatch.setattr(many_samples, "_PER_ROW", 0)  # the system of v is then the cheaper one for most
    model = AdaptiveModel.load(newton)
    support = _support(exporter, shots)
    result = model.adapt(*support, guard=UNLIMITED)
    x, y = map(torch.from_numpy, exporter.scaled.normalize(*support))
    adapted = learner.adapt(x, y)
    wanted = flatten(learner, adapted).numpy()
    assert np.abs(model.v - wanted).max() <= 1e-5 * np.abs(wanted).max()
    losses = [learner.support_loss(tensors, x, y).item() for tensors in (learner.start(), adapted)]
    assert [result.loss_before, result.loss_after] == pytest.approx(losses, rel=1e-4)
    raw = model.predict(support[0][:3])
    mine = exporter.scaled.raw_y(learner(adapted, x[:3]).detach().numpy())
    np.testing.assert_allclose(raw, mine, rtol=1e-4, atol=1e-4)


def test_it_starts_where_it_is_told_and_stops_between_parts(exporter, newton, monkeypatch) -> None:
    monkeypatch.setattr(many_samples, "_PART", 1)
    model, support, asked = AdaptiveModel.load(newton), _support(exporter, 120), []
    model.adapt(*support, steps=1, guard=UNLIMITED)
    model.adapt(*support, steps=1, start="accepted", guard=UNLIMITED)
    again = AdaptiveModel.load(newton)
    again.adapt(*support, steps=2, guard=UNLIMITED, check=lambda: asked.append(1))
    # Both steps of this rule have a damping of their own, so two first steps are not the two steps.
    assert not np.array_equal(model.v, again.v)
    assert len(asked) > 200

    def stop() -> None:
        if len(asked) > 230:
            raise TimeoutError
        asked.append(1)

    before = again.v
    with pytest.raises(TimeoutError):
        again.adapt(*support, guard=UNLIMITED, check=stop)
    assert np.array_equal(again.v, before)


def test_the_cost_is_linear_in_the_samples_and_never_falls(newton) -> None:
    """The server's estimate follows: ten times the samples cost ten times as much, and a budget finds the most."""
    manifest = Bundle.open(newton).manifest
    costs = [relative_cost(manifest, count, 2) for count in range(1, 2000)]
    assert costs == sorted(costs)
    assert relative_cost(manifest, 10**7, 2) / relative_cost(manifest, 10**6, 2) == pytest.approx(10, rel=0.01)
    assert most_samples(manifest, 2000, 2, costs[499]) >= 500


def test_half_of_the_graphs_is_refused_and_a_bundle_without_them_adapts(exporter, newton, tmp_path) -> None:
    """An older bundle has adapt.onnx alone."""
    whole = Bundle.open(newton)
    for name in MANY:
        files = {key: value for key, value in whole.files.items() if key != name}
        with pytest.raises(BundleError, match=f"not '{name}'"):
            write_bundle(tmp_path / name, whole.manifest, files)
    old = {key: value for key, value in whole.files.items() if key not in (SUMS, SOLVE)}
    models = [AdaptiveModel.load(write_bundle(tmp_path / "old", whole.manifest, old)), AdaptiveModel.load(newton)]
    for model in models:
        model.adapt(*_support(exporter, 150), guard=UNLIMITED)
    np.testing.assert_allclose(models[0].v, models[1].v, rtol=1e-5, atol=1e-6)


def test_a_system_of_another_bundle_is_refused_when_it_is_needed(exporter, newton, tmp_path) -> None:
    """Its session is made by the first adaptation to many samples. The earlier weights stay."""
    whole = Bundle.open(newton)
    files = {**whole.files, SOLVE: whole.files[SUMS]}
    model = AdaptiveModel.load(write_bundle(tmp_path / "mixed", whole.manifest, files))
    model.adapt(*_support(exporter, 2), guard=UNLIMITED)
    before = model.v
    with pytest.raises(BundleError, match=r"solve\.onnx has .* but its manifest wants"):
        model.adapt(*_support(exporter, 1000), guard=UNLIMITED)
    assert np.array_equal(model.v, before)
