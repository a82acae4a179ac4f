"""The exporter leaves out what of U is not needed, keeps the inner loop, and says what it costs and buys."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_export import export_bundle, truncation
from msr_export.shots import with_most_shots
from msr_export.structure import choose_structure
from msr_export.structure_search import applied, cheapest, symmetries, within
from msr_export.truncation import can_truncate, directions, lost, truncate, updates
from msr_export.tying import TiedSymmetry, tied
from msr_runtime import AdaptiveModel
from msr_runtime.bundle.structure import FEWEST_TASKS, MOST_STRUCTURE_COST, LayerStructure, Structure
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
    """Wants so many columns of the first layer in one query set, and does not care otherwise."""

    tasks = 4

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def by_set(self, learner: Learner) -> tuple[np.ndarray, np.ndarray]:
        v = learner.start()[f"{_WEIGHT}.original"]
        errors = np.ones((2, 4)) + np.array([[0], [0.1 * max(0, self.columns - len(v))]])
        return errors, np.full((2, 4), 9.0)


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


def test_tied_rows_keep_the_moves_too(exporter: Any) -> None:
    """One row is long, and all others, equal in pairs, are short: a wide tolerance would take them for zero."""
    learner = exporter.build("msr", "mse", filters=6)
    symmetry = learner.network.get_submodule(f"{_WEIGHT}.0")
    with torch.no_grad():
        symmetry.U.copy_(torch.eye(6)[torch.arange(len(symmetry.U)) % 6])
        symmetry.U[0] *= 6
    judges: Any = [_Judge(1)]
    moves = {name: torch.randn(20, *v.shape) for name, v in learner.start().items()}
    form = cheapest(learner, judges, moves, 0.02, columns=False)[f"{_WEIGHT}.original"]
    assert isinstance(form, TiedSymmetry)
    assert len(form.R) == 7
    assert len(tied(symmetry, 0.2).R) == 1  # type: ignore[union-attr]


def test_nothing_is_left_out_where_adapting_does_not_help(exporter: Any) -> None:
    """Errors would hold without any column. The verdict says why all are kept."""
    learner = exporter.build("msr", "mse", inner_rate=1e-9)
    same, found = choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=8)
    assert same is learner
    assert found is not None
    assert not found.layers
    assert found.unadapted_error == pytest.approx(found.full_error, rel=1e-3)
    assert "all of U is kept: adapting helps too little to say what it needs: error " in found.describe()["structure"]


def test_it_says_why_nothing_is_left_out(exporter: Any) -> None:
    """Too few tasks, adapting that helps too little with many samples alone, or nothing that is worth it."""
    at = {"layers": (), "error": 0.1, "full_error": 0.1, "unadapted_error": 1, "multiply_adds": 9}
    at |= {"full_multiply_adds": 9, "tasks": 9}
    many = {"shots": 64, "error": 0.6, "full_error": 0.6, "unadapted_error": 1}
    lines = [Structure(**at | more).describe()["structure"] for more in ({}, {"many": many}, {"tasks": 7})]  # type: ignore[arg-type]
    assert lines[0] == "all of U is kept: less than 10 % could be left out within 2 % more error"
    assert "helps too little to say what it needs: error 0.6 with 64 samples, without adapting 1" in lines[1]
    assert "7 validation tasks are too few" in lines[2]
    learner = exporter.build("msr", "mse")
    same, found = choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=FEWEST_TASKS - 1)
    assert same is learner
    assert found is not None
    assert found.unclear == "7 validation tasks are too few to say what it needs; 8 are wanted"


def test_no_line_is_long_however_many_layers_there_are() -> None:
    """Eight layers have a line each; those that save least are counted."""
    layers = tuple(
        LayerStructure(weight=f"layers.{index}.weight", numbers=99, columns=index + 1, columns_before=64)
        for index in range(20)
    )
    at = {"tasks": 100, "error": 0.012345678, "full_error": 0.012345678, "multiply_adds": 10**7}
    many = {"shots": 64, "error": 0.2, "full_error": 0.2}
    lines = Structure(**at, layers=layers, full_multiply_adds=10**8, many=many).describe()  # type: ignore[arg-type]
    names = ["structure", "structure costs", "with 64 samples"]
    assert list(lines) == [*names, *(f"U of layers.{index}.weight" for index in range(8)), "other weights"]
    assert lines["other weights"] == "12, of which each saves less"
    assert all(len(line) < 80 for line in lines.values())


def test_one_robot_does_not_rule() -> None:
    """The errors of all others double, which the mean hardly shows. Nor does a query set hide behind another."""
    before = np.concatenate([np.full((1, 99), 0.01), [[100.0]]], 1)
    after = np.concatenate([np.full((1, 99), 0.02), [[100.0]]], 1)
    assert after.mean() < 1.02 * before.mean()
    assert within(before, before, 0.02, tasks=100)
    assert not within(before, after, 0.02, tasks=100)
    sets = np.ones((2, 20))
    assert not within(sets, sets + np.array([[-0.1], [0.03]]), 0.02, tasks=20)


def test_repeats_of_a_task_do_not_make_it_surer() -> None:
    """A hundred draws of nine robots say as much of other robots as nine do."""
    before = np.ones((1, 100))
    after = before + 0.01 + 0.04 * np.sin(np.arange(100))
    assert within(before, after, 0.02, tasks=100, sure=2)
    assert not within(before, after, 0.02, tasks=9, sure=2)


class _Recorded:
    """The tiny family with few tasks of 20 samples, and training tasks of 10."""

    most = {"validation": 20, "train": 10}

    def __init__(self, family: Any) -> None:
        self.family = family

    def count_tasks(self, split: str) -> int:
        return 9 if split == "validation" else 99

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: str) -> Any:
        if shots > self.most[split]:
            raise FamilyError(f"{self.most[split]} samples a task")
        return self.family.sample(rng, tasks, shots, queries, split)


def test_as_many_samples_are_taken_as_the_family_has(exporter: Any) -> None:
    """64 and 32 are refused, and 16 are not; training tasks give 8. Those of meta-training are never halved."""
    learner = exporter.build("msr", "mse", rule="gauss-newton", depth=1)
    family = _Recorded(exporter.family)
    _, found = choose_structure(learner, exporter.scaled, family, shots=6, seed=3, tasks=20)  # type: ignore[arg-type]
    assert found is not None
    assert found.many is not None
    assert found.many.shots == 16
    assert found.tasks == 9, "the others are repeats"
    assert not found.unclear
    _, found = choose_structure(learner, exporter.scaled, family, shots=17, seed=3, tasks=4)  # type: ignore[arg-type]
    assert found is not None
    assert found.many is None
    with pytest.raises(FamilyError, match="20 samples"):
        with_most_shots(lambda count: family.sample(np.random.default_rng(0), 1, count, 1, "validation"), 21, 64)


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
    lines = structure.describe()
    assert re.fullmatch(r"\d+ of \d+ multiplications per product with U", lines["structure"])
    assert lines["structure costs"].endswith(" on 20 validation tasks")
    assert re.match(r"[+-]\S+ % error, \S+ in place of ", lines["with 64 samples"])
    assert lines["U of layers.0.weight"] == layer.describe()
    rounding = model.manifest.rounding
    assert rounding is None or rounding.float32_error == structure.error
    assert model.manifest.filter_parameters <= learner.adapted_size()
    assert (layer.rows is not None) == (rule == "gradient")
    batch = exporter.family.sample(np.random.default_rng(0), 1, 6, 4, "test")
    sample = batch.support_x[0], batch.support_y[0]
    wanted = torch_adapt(smaller, exporter.scaled)(*sample)(batch.query_x[0])
    assert np.allclose(model.adapted(*sample)(batch.query_x[0]), wanted, atol=1e-2)


@pytest.mark.parametrize("form", ["full", "equivariant"])
def test_columns_of_each_form_are_looked_at(exporter: Any, form: str) -> None:
    """The coordinates of an equivariant weight are a vector, as a bias is. So it is looked at."""
    learner = exporter.build("msr", "mse", form=form)
    parts = symmetries(learner)
    assert f"{_WEIGHT}.original" in parts
    judges: Any = [_Judge(1)]
    moves = {name: torch.ones(20, len(v)) for name, v in learner.start().items()}
    forms = cheapest(learner, judges, moves, 0.02, ties=False)
    smaller = applied(learner, forms)
    assert len(smaller.start()[f"{_WEIGHT}.original"]) == 2, "along v0, and along the moves"
    before, after = (fold(each.network, each.start()) for each in (learner, smaller))
    assert all(torch.allclose(after[name], weight, atol=1e-6) for name, weight in before.items())


def test_what_saves_next_to_nothing_is_not_worth_an_error(exporter: Any) -> None:
    """Columns of a bias take no time."""
    learner = exporter.build("msr", "mse")
    name = _WEIGHT.replace("weight", "bias") + ".original"
    judges: Any = [_Judge(1)]
    assert not cheapest(learner, judges, {name: torch.ones(20, 5)}, 0.02, ties=False)


def test_a_wide_layer_without_a_pattern_takes_no_time() -> None:
    """Each of 16,384 rows would be compared with all others: minutes, at four tolerances."""
    torch.manual_seed(0)
    symmetry = FullSymmetry(torch.randn(128, 128), 16)
    begin = time.process_time()  # it counts neither other processes nor a slow disk
    assert all(tied(symmetry, near) is None for near in (0.2, 0.1, 0.05, 0.02))
    assert time.process_time() - begin < 5
    _convolution_of(symmetry)
    pattern = tied(symmetry, 0.02)
    assert pattern is not None
    assert len(pattern.R) == 16
    assert tied(symmetry, 0.02, most=15) is None


def _convolution_of(symmetry: FullSymmetry) -> None:
    columns = symmetry.U.shape[1]
    with torch.no_grad():
        symmetry.U.copy_(torch.eye(columns)[torch.arange(len(symmetry.U)) % columns])


def test_large_samples_are_drawn_some_tasks_at_a_time(exporter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 256 tasks at once would fill the memory."""
    seen = []

    class _Seen(_Recorded):
        def sample(self, rng: np.random.Generator, tasks: int, *rest: Any) -> Any:
            seen.append(tasks)
            return super().sample(rng, tasks, *rest)

    learner, family = exporter.build("msr", "mse"), _Seen(exporter.family)
    known: Any = {"shots": 6, "seed": 3}
    assert all(len(each) == 256 for each in updates(learner, exporter.scaled, family, **known).values())  # type: ignore[arg-type]
    monkeypatch.setattr(truncation, "_NUMBERS", 100 * 6 * 4)
    assert all(len(each) == 256 for each in updates(learner, exporter.scaled, family, **known).values())  # type: ignore[arg-type]
    assert seen == [256, 100, 100, 56]


def test_biases_alone_are_not_looked_at(exporter: Any) -> None:
    """With Kronecker products, only biases have a full U."""
    learner = exporter.build("msr", "mse", form="kronecker")
    assert choose_structure(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=4) == (learner, None)
