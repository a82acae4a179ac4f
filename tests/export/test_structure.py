"""The exporter leaves out what of U is not needed, keeps the inner loop, and says what it costs and buys."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_export import export_bundle
from msr_export.shots import with_most_shots
from msr_export.structure import choose_structure
from msr_export.structure_search import applied, cheapest
from msr_export.truncation import can_truncate, directions, lost, truncate
from msr_export.tying import tied
from msr_runtime import AdaptiveModel
from msr_runtime.bundle.structure import MOST_STRUCTURE_COST
from msr_runtime.errors import FamilyError
from msr_runtime.meta.evaluation.predictor import torch_adapt
from msr_runtime.meta.learners.learner import Learner
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
    assert can_truncate(exporter.build("msr", "mse"))
    assert not can_truncate(exporter.build("meta-sgd", "mse", reparameterized=True))


def test_a_learner_without_u_is_left_alone(exporter: Any) -> None:
    """Nothing is drawn and nothing measured."""
    learner = exporter.build("maml", "mse")
    assert choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=4) == (learner, None)


def test_a_filter_keeps_its_columns(exporter: Any) -> None:
    """With fewer it would take itself for surer than it is."""
    learner = exporter.build("msr", "mse", rule="recursive")
    assert choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=4) == (learner, None)


def test_what_is_lost_gets_less_with_each_direction(exporter: Any) -> None:
    """Nothing is lost with all of them, and all that moves with none that moves."""
    symmetry = exporter.build("msr", "mse").network.get_submodule(f"{_WEIGHT}.0")
    v0, moves = torch.randn(5), torch.randn(9, 5)
    basis = directions(symmetry, v0, moves)
    wrong = lost(symmetry, moves, basis)
    assert wrong.shape == (5,)
    assert (np.diff(wrong) < 0).all()
    assert wrong[-1] == pytest.approx(0, abs=1e-12)
    assert lost(symmetry, moves, torch.zeros(1, 5, dtype=torch.float64)) == pytest.approx([1])


class _Judge:
    """Wants so many columns of the first layer, and does not care otherwise."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def errors(self, learner: Learner) -> np.ndarray:
        v = learner.start()[f"{_WEIGHT}.original"]
        return np.full(4, 1.0 + 0.1 * max(0, self.columns - len(v)))


@pytest.mark.parametrize("columns", [(2, 1), (1, 3), (6, 6)])
def test_every_judge_has_to_agree(exporter: Any, columns: tuple[int, int]) -> None:
    """As few columns are left as the one allows that wants most, and all where one wants all."""
    learner = exporter.build("msr", "mse", filters=6)
    moves = {
        name: torch.randn(20, 1) * torch.randn(tensor.shape) + 0.01 * torch.randn(20, *tensor.shape)
        for name, tensor in learner.start().items()
        if name.endswith("original")
    }
    judges: Any = [_Judge(each) for each in columns]
    forms = cheapest(learner, judges, moves, 0.02, ties=False)
    left = applied(learner, forms).start()
    assert len(left[f"{_WEIGHT}.original"]) == max(columns)
    weights = [name for name in moves if name.endswith("weight.original") and not name.startswith(_WEIGHT)]
    assert weights
    assert all(left[name].numel() == 2 for name in weights), "along v0, and along the moves"


def test_a_weight_keeps_its_moves_whatever_the_errors_say(exporter: Any) -> None:
    """Where tasks move v everywhere, no column is left out."""
    learner = exporter.build("msr", "mse", filters=6)
    name = f"{_WEIGHT}.original"
    judges: Any = [_Judge(1)]
    assert not cheapest(learner, judges, {name: torch.randn(99, 6)}, 0.02, ties=False)


def test_nothing_is_left_out_where_adapting_does_not_help(exporter: Any) -> None:
    """Errors would hold without any column. The verdict says why all are kept."""
    learner = exporter.build("msr", "mse", inner_rate=1e-9)
    same, found = choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=4)
    assert same is learner
    assert found is not None
    assert not found.layers
    assert found.unadapted_error == pytest.approx(found.full_error, rel=1e-3)
    assert "because adapting helps too little to say what it needs: error " in found.describe()
    assert "can be left out within 2 %" in found.model_copy(update={"unadapted_error": None}).describe()


class _Recorded:
    """The tiny family with 20 samples a task."""

    def __init__(self, family: Any) -> None:
        self.family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, *rest: Any) -> Any:
        if shots > 20:
            raise FamilyError("20 samples a task")
        return self.family.sample(rng, tasks, shots, *rest)


def test_as_many_samples_are_taken_as_the_family_has(exporter: Any) -> None:
    """64 and 32 are refused, and 16 are not. Those of meta-training are never halved."""
    learner, family = exporter.build("msr", "mse"), _Recorded(exporter.family)
    _, found = choose_structure(learner, exporter.scaled, family, shots=6, seed=3, tasks=4)  # type: ignore[arg-type]
    assert found is not None
    assert found.many is not None
    assert found.many.shots == 16
    _, found = choose_structure(learner, exporter.scaled, family, shots=17, seed=3, tasks=4)  # type: ignore[arg-type]
    assert found is not None
    assert found.many is None
    with pytest.raises(FamilyError, match="20 samples"):
        with_most_shots(lambda count: family.sample(np.random.default_rng(0), 1, count, 1, "train"), 21, 64)


@pytest.mark.parametrize("rule", ["gradient", "gauss-newton"])
def test_a_smaller_bundle_computes_what_torch_does(exporter: Any, tmp_path: Path, rule: str) -> None:
    """Parity, golden example and limits are those of the smaller learner; its errors stay within the tolerance."""
    learner = exporter.build("msr", "mse", rule=rule, depth=1)
    _convolution(learner.network.get_submodule(f"{_WEIGHT}.0"), 1e-4)
    known: dict[str, Any] = {"shots": 6, "seed": 3}
    smaller, found = choose_structure(learner, exporter.scaled, exporter.family, **known, tasks=20)
    known |= {"config_digest": "0", "validation_tasks": 20, "precision": "float32"}
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
    assert structure.many is not None
    assert structure.many.shots == 64
    assert re.search(r"multiplications a product with U; .* %, with 64 samples [+-]\S+ %; ", structure.describe())
    assert model.manifest.filter_parameters <= learner.adapted_size()
    assert (layer.rows is not None) == (rule == "gradient")
    batch = exporter.family.sample(np.random.default_rng(0), 1, 6, 4, "test")
    sample = batch.support_x[0], batch.support_y[0]
    wanted = torch_adapt(smaller, exporter.scaled)(*sample)(batch.query_x[0])
    assert np.allclose(model.adapted(*sample)(batch.query_x[0]), wanted, atol=1e-2)


def test_biases_alone_are_not_looked_at(exporter: Any) -> None:
    """With Kronecker products, only biases have a full U."""
    learner = exporter.build("msr", "mse", form="kronecker")
    assert choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=4) == (learner, None)
