"""The exporter leaves out what of U is not needed, keeps the inner loop, and says what it costs and buys."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_export import export_bundle
from msr_export.structure import choose_structure
from msr_export.truncation import directions, truncate, turns_freely
from msr_export.tying import tied
from msr_runtime import AdaptiveModel
from msr_runtime.bundle.structure import MOST_STRUCTURE_COST
from msr_runtime.meta.evaluation.predictor import torch_adapt
from msr_runtime.meta.symmetry.forms import FullSymmetry
from msr_runtime.meta.symmetry.reparameterize import fold

_WEIGHT = "layers.0.parametrizations.weight"
RULES = ("gradient", "gauss-newton", "recursive")


def _convolution(symmetry: FullSymmetry, noise: float) -> None:
    """Make U one that repeats its five rows and zero, but for some noise."""
    rows = torch.cat([torch.eye(5), torch.zeros(1, 5)])[torch.arange(len(symmetry.U)) % 6]
    with torch.no_grad():
        symmetry.U.copy_(rows + noise * torch.randn_like(rows))


def test_equal_rows_are_found(exporter: Any) -> None:
    """Each weight is one number of v or zero. A U without equal rows has no pattern."""
    symmetry = exporter.build("msr", "mse").network.get_submodule(f"{_WEIGHT}.0")
    assert tied(symmetry, 0.02) is None
    _convolution(symmetry, 1e-3)
    pattern = tied(symmetry, 0.02)
    assert pattern is not None
    assert len(pattern.R) == 5
    v = torch.arange(1.0, 6.0)
    assert torch.allclose(pattern(v), symmetry(v), atol=0.02)
    first, after_six = pattern(v).flatten()[[0, 6]]
    assert first == after_six
    assert not pattern(v).flatten()[5::6].any()
    assert pattern.gain() == pytest.approx(symmetry.gain(), rel=1e-2)


@pytest.mark.parametrize("rule", RULES)
def test_a_rotation_keeps_the_inner_loop(exporter: Any, rule: str) -> None:
    """With a basis of all directions, the adapted weights are those of the learner before."""
    learner, turned = (exporter.build("msr", "mse", rule=rule) for _ in range(2))
    symmetry = learner.network.get_submodule(f"{_WEIGHT}.0")
    start = learner.start()[f"{_WEIGHT}.original"]
    basis = directions(symmetry, start, torch.randn(9, 5))
    assert basis.shape == (5, 5)
    truncate(turned, f"{_WEIGHT}.original", basis)
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    before, after = (fold(each.network, each.adapt(x, y)) for each in (learner, turned))
    for name, weight in before.items():
        assert torch.allclose(after[name], weight, atol=1e-4), name


def test_rates_of_single_numbers_keep_their_v(exporter: Any) -> None:
    """Meta-SGD's rates measure each number of v by itself, so no rotation is tried."""
    assert turns_freely(exporter.build("msr", "mse"))
    assert not turns_freely(exporter.build("meta-sgd", "mse", reparameterized=True))


def test_a_learner_without_u_is_left_alone(exporter: Any) -> None:
    """Nothing is drawn and nothing measured."""
    learner = exporter.build("maml", "mse")
    assert choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=4) == (learner, None)


@pytest.mark.parametrize("rule", ["gradient", "gauss-newton", pytest.param("recursive", marks=pytest.mark.slow)])
def test_a_smaller_bundle_computes_what_torch_does(exporter: Any, tmp_path: Path, rule: str) -> None:
    """Parity, golden example and limits are those of the smaller learner; its errors stay within the tolerance."""
    learner = exporter.build("msr", "mse", rule=rule, depth=1)
    _convolution(learner.network.get_submodule(f"{_WEIGHT}.0"), 1e-4)
    known: dict[str, Any] = {"shots": 6, "seed": 3}
    smaller, found = choose_structure(learner, exporter.scaled, exporter.family, **known, tasks=20)
    known |= {"config_digest": "0", "validation_tasks": 20, "precision": "float32", "structure": True}
    path = export_bundle(learner, exporter.scaled, tmp_path / "bundle", family=exporter.family, **known)
    model = AdaptiveModel.load(path)
    structure = model.manifest.structure
    assert structure is not None
    assert found is not None
    assert structure.cost <= MOST_STRUCTURE_COST
    assert structure.multiply_adds < structure.full_multiply_adds
    by_name = {layer.weight: layer for layer in structure.layers}
    layer = by_name["layers.0.weight"]
    assert layer.multiply_adds < layer.multiply_adds_before
    assert "multiplications a product with U" in structure.describe()
    assert model.manifest.filter_parameters <= learner.adapted_size()
    assert (layer.rows is not None) == (rule == "gradient")
    if rule == "recursive":
        return
    batch = exporter.family.sample(np.random.default_rng(0), 1, 6, 4, "test")
    sample = batch.support_x[0], batch.support_y[0]
    wanted = torch_adapt(smaller, exporter.scaled)(*sample)(batch.query_x[0])
    assert np.allclose(model.adapted(*sample)(batch.query_x[0]), wanted, atol=1e-2)
