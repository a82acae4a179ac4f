"""Prototypes of images: a learned temperature, and classes that are compared in every pose of a group."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.learners.prototypes import ProtoNets
from msr_runtime.meta.networks.prototypes import OrbitPrototypeNetwork
from msr_runtime.meta.symmetry.grid import GridGroup, GridName, product
from msr_runtime.meta.symmetry.reparameterize import fold
from msr_runtime.meta.training.outer import OuterLoss, damp_large, outer_gradient, traced_gradient

SHAPE, MAP, CLASSES = (2, 10, 10), (8, 3, 3), 3
CONFIG = LearnerConfig(network="conv-grid", width=8, depth=2, grid_group="D2")


def _learner(method: str = "orbit-prototypes", **changes: Any) -> Learner:
    torch.manual_seed(0)
    config = CONFIG.model_copy(update=changes)
    return LEARNERS[method](config, SHAPE, (CLASSES,), "cross_entropy").double()


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _poses(name: GridName, x: Tensor) -> list[Tensor]:
    """Images `(samples, *SHAPE)` in every pose of the group."""
    group = GridGroup.named(name)
    return [x.flatten(1)[:, p].unflatten(1, SHAPE) for p in product(group.fixed(SHAPE[0]), group.on_grid(*SHAPE[1:]))]


def _embedding(learner: Learner) -> nn.Module:
    assert isinstance(learner.network, OrbitPrototypeNetwork)
    return learner.network.embedding


@pytest.mark.parametrize("name", ["C2", "D2", "C4", "D4"])
def test_scores_are_the_same_in_every_pose(name: GridName) -> None:
    """The map of a moved image is the moved map, exactly, so a moved query is as near to the moved prototype."""
    learner, x = _learner(grid_group=name), _normal(6, *SHAPE)
    adapted = learner.adapt(_normal(3, *SHAPE, seed=1), torch.arange(3))
    scores, embedded = learner(adapted, x), _embedding(learner)(x)
    group = GridGroup.named(name)
    assert not torch.allclose(scores, learner(adapted, x.flatten(2).roll(1, 2).reshape(x.shape)))
    for moved, moves in zip(_poses(name, x), group.on_map(*MAP), strict=True):
        torch.testing.assert_close(_embedding(learner)(moved), embedded[:, moves], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(learner(adapted, moved), scores, rtol=1e-10, atol=1e-10)


def test_eighths_of_a_turn_hold_nearly_on_smooth_images() -> None:
    """Scores of images that are turned by 45 degrees change less than with quarter turns alone."""
    places = torch.linspace(-1, 1, 17, dtype=torch.float64)
    rows, columns = torch.meshgrid(places, places, indexing="ij")

    def seen(angle: float) -> Tensor:
        """Three classes, each a smooth pattern of two colors, turned around the middle."""
        r, c = math.cos(angle) * rows - math.sin(angle) * columns, math.sin(angle) * rows + math.cos(angle) * columns
        spots = [((r - a).square() + (c - b).square()).mul(-4).exp() for a, b in ((0.4, 0), (0.2, 0.4), (-0.3, 0.3))]
        return torch.stack([torch.stack([spot, r * spot]) for spot in spots])

    errors = {}
    for name in ("C4", "C8"):
        torch.manual_seed(0)
        config = LearnerConfig(network="conv-grid", width=16, depth=3, grid_group=name)
        learner = LEARNERS["orbit-prototypes"](config, (2, 17, 17), (CLASSES,), "cross_entropy").double()
        adapted = learner.adapt(seen(0), torch.arange(CLASSES))
        upright, turned = learner(adapted, seen(0)), learner(adapted, seen(math.pi / 4))
        errors[name] = ((turned - upright).square().mean() / upright.var()).item()
    assert errors["C8"] < 0.5 * errors["C4"]


@pytest.mark.parametrize("method", ["orbit-prototypes", "protonets"])
def test_refined_means_fit_the_support_set_better(method: str) -> None:
    """Gauss-Newton steps lower the loss of the support set; a class without samples is still not taught."""
    x, y = _normal(12, *SHAPE), torch.arange(12) % 2
    plain = _learner(method, head="map", temperature=0.1)
    refined = _learner(method, head="map", temperature=0.1, rule="gauss-newton", damping=1e-4)
    assert [name for name, _ in refined.named_parameters() if name not in dict(plain.named_parameters())]
    refined.load_state_dict(plain.state_dict(), strict=False)
    means, moved = plain.adapt(x, y), refined.adapt(x, y)
    before, after = plain.support_loss(means, x, y), refined.support_loss(moved, x, y)
    assert after < 0.9 * before
    assert not moved[refined.adapted_names[0]].reshape(CLASSES, -1)[2].any()
    embedding, rest = refined.apart()  # type: ignore[attr-defined]
    torch.testing.assert_close(rest.adapt(embedding(x), y), moved)


def test_the_outer_gradient_of_a_refinement_is_that_of_finite_differences() -> None:
    """In float64, along a random direction of filters, temperature, damping and scale; traced, it is the same."""
    learner = _learner(rule="gauss-newton", damping=1e-3, width=4, depth=1)
    x, y = _normal(2, 10, *SHAPE), (torch.arange(20) % CLASSES).reshape(2, 10)
    batch, loss = [x[:, :6], y[:, :6], x[:, 6:], y[:, 6:]], OuterLoss(learner)
    value, gradients = outer_gradient(loss)(batch)
    assert {name.rpartition(".")[2] for name in gradients} >= {"sharpness", "damping_parameters", "scale_parameters"}
    parameters = dict(loss.named_parameters())
    directions = {name: torch.randn_like(gradient) for name, gradient in gradients.items()}
    slope, values = sum((gradients[name] * direction).sum() for name, direction in directions.items()), []
    for sign in (1, -1):
        with torch.no_grad():
            moved = {n: parameters[n] + sign * 1e-6 * direction for n, direction in directions.items()}
            values.append(damp_large(torch.func.functional_call(loss, moved, tuple(batch))).mean())
    torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-5, atol=1e-9)
    again, traced = traced_gradient(loss, batch)(batch)
    assert torch.equal(again, value)
    assert all(torch.equal(traced[name], gradient) for name, gradient in gradients.items())


def test_a_class_is_the_mean_of_its_samples_and_its_orbit() -> None:
    """The folded weights hold what the group makes of each mean v; scores are read off distances."""
    learner, x, y = _learner(), _normal(5, *SHAPE), torch.tensor([0, 2, 0, 2, 1])
    embedded, adapted = _embedding(learner)(x), learner.adapt(x, y)
    means = torch.stack([embedded[y == label].mean(0) for label in range(CLASSES)])
    torch.testing.assert_close(adapted["parametrizations.prototypes.original"].reshape(means.shape), means)
    moves = torch.from_numpy(GridGroup.named("D2").on_map(*MAP))
    orbits = fold(learner.network, adapted)["prototypes"].unflatten(0, (CLASSES, 4))
    torch.testing.assert_close(orbits, means[:, moves])
    distances = (embedded[:, None, None] - orbits).square().mean(-1)
    torch.testing.assert_close(learner(adapted, x), (-distances / 0.1).logsumexp(-1))


@pytest.mark.parametrize("method", ["orbit-prototypes", "protonets"])
def test_a_class_that_was_not_taught_never_wins(method: str) -> None:
    """Its prototype is zero, and so near an image whose embedding is small: its score is still below all others."""
    learner = _learner(method, head="map")
    for name, parameter in learner.network.named_parameters():
        if "bias" in name:  # so that a dark image has an embedding near zero
            nn.init.zeros_(parameter)
    x = torch.cat([_normal(2, *SHAPE), 1e-3 * _normal(4, *SHAPE, seed=1)])
    scores = learner(learner.adapt(x[:2], torch.tensor([0, 2])), x)
    assert (scores[:, 1] < scores[:, [0, 2]].amin(1) - 1).all()
    taught = learner.adapt(x[:3], torch.arange(3))
    assert (learner(taught, x[3:]).argmax(1) == 2).all()  # a dark class that was taught does win
    at_v0 = learner(learner.start(), x)
    torch.testing.assert_close(at_v0, at_v0[:, :1].expand_as(at_v0))  # where nothing is taught, no class is likelier


@pytest.mark.parametrize("method", ["orbit-prototypes", "protonets"])
def test_a_class_is_added_without_forgetting(method: str) -> None:
    """What has no samples keeps its prototype to the last bit; the new class has that of a learner taught at once."""
    learner, x = _learner(method, head="map"), _normal(4, *SHAPE)
    two = learner.adapt(x[:2], torch.arange(2))
    assert isinstance(learner, ProtoNets)
    ((_, three),) = learner.relearn(two, x[2:], torch.tensor([2, 2])).items()
    ((_, before),), ((_, whole),) = two.items(), learner.adapt(x, torch.tensor([0, 1, 2, 2])).items()
    assert torch.equal(three.reshape(3, -1)[:2], before.reshape(3, -1)[:2])
    torch.testing.assert_close(three, whole)


def test_a_temperature_changes_how_sure_prototypes_are_and_nothing_else() -> None:
    """With one, scores are mean squared distances over it; prototypes are the same means."""
    plain, warm = _learner("protonets", head="map"), _learner("protonets", head="map", temperature=0.5)
    x, y = _normal(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    first, second = plain.adapt(x, y), warm.adapt(x, y)
    torch.testing.assert_close(first, second)
    numbers = math.prod(MAP)
    assert first["prototypes"].shape == (CLASSES, numbers)
    torch.testing.assert_close(plain(first, x) / (0.5 * numbers), warm(second, x))


@pytest.mark.parametrize("method", ["orbit-prototypes", "protonets"])
def test_the_outer_gradient_is_that_of_finite_differences(method: str) -> None:
    """In float64, along a random direction of all parameters together; the traced graph gives the eager numbers."""
    learner = _learner(method, temperature=0.3)
    loss = OuterLoss(learner)
    labels = torch.arange(CLASSES).repeat(2, 1)
    batch = [_normal(2, 3, *SHAPE), labels, _normal(2, 6, *SHAPE, seed=1), labels.repeat(1, 2)]
    value, gradients = outer_gradient(loss)(batch)
    again, traced = traced_gradient(loss, batch)(batch)
    assert torch.equal(value, again)
    assert all(torch.equal(gradients[name], traced[name]) for name in gradients)
    names = {name.removeprefix("learner.network.") for name in gradients}
    assert "sharpness" in names
    assert not any("prototypes" in name for name in names)  # a task's prototypes start from nothing that is learned
    parameters = dict(loss.named_parameters())
    directions = {name: torch.randn_like(parameters[name]) for name in gradients}

    def at(step: float) -> Tensor:
        moved = {name: parameters[name].detach() + step * directions[name] for name in gradients}
        return damp_large(torch.func.functional_call(loss, moved, tuple(batch))).mean()

    slope = sum((gradients[name] * directions[name]).sum() for name in gradients)
    torch.testing.assert_close((at(1e-5) - at(-1e-5)) / 2e-5, slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["maml", "anil", "msr", "maml-big"])
@pytest.mark.parametrize("head", ["linear", "mean"])
def test_gradient_methods_learn_on_the_grid_too(method: str, head: str) -> None:
    """The outer gradient is finite and reaches the first filters, with and without the group."""
    forms = [{}, {"form": "equivariant"}, {"form": "equivariant", "norm": "layer"}]
    for changes in forms if method == "msr" else [{"grid_group": None}, {"grid_group": None, "norm": "layer"}]:
        learner = _learner(method, head=head, inner_steps=2, filters=5, **changes)
        labels = torch.arange(CLASSES).repeat(2, 1)
        batch = [_normal(2, 3, *SHAPE), labels, _normal(2, 3, *SHAPE, seed=1), labels]
        value, gradients = outer_gradient(OuterLoss(learner))(batch)
        assert value.isfinite()
        first = [gradient for name, gradient in gradients.items() if "layers.0" in name]
        assert any(gradient.any() for gradient in first)


def test_equivariant_msr_answers_alike_in_every_pose() -> None:
    """After any adaptation: v moves, and U keeps the group."""
    learner, x = _learner("msr", form="equivariant", inner_steps=3), _normal(6, *SHAPE)
    adapted = learner.adapt(_normal(3, *SHAPE, seed=1), torch.arange(3))
    scores = learner(adapted, x)
    assert not torch.allclose(scores, learner(learner.start(), x))
    for moved in _poses("D2", x):
        torch.testing.assert_close(learner(adapted, moved), scores, rtol=1e-10, atol=1e-10)


def test_a_kronecker_u_starts_at_the_group_and_may_leave_it() -> None:
    """One term per element: equivariant for every v at the start; the outer loop moves the factors."""
    learner, x = _learner("msr", form="kronecker", inner_steps=2), _normal(6, *SHAPE)
    with torch.no_grad():
        for name in learner.adapted_names:
            learner.network.get_parameter(name).normal_()
    labels = torch.arange(CLASSES).repeat(2, 1)
    batch = [_normal(2, 3, *SHAPE), labels, _normal(2, 3, *SHAPE, seed=1), labels]

    def apart() -> float:
        with torch.no_grad():
            scores = learner(learner.start(), x)
            moved = [learner(learner.start(), pose) for pose in _poses("D2", x)]
        return max(float((each - scores).abs().max() / scores.abs().max()) for each in moved)

    assert apart() < 1e-5  # the factors were made in float32
    _, gradients = outer_gradient(OuterLoss(learner))(batch)
    factors = {name: p for name, p in learner.named_parameters() if name.endswith("weight.0.A")}
    assert [len(factor) for factor in factors.values()] == [4, 4, 4]
    with torch.no_grad():
        for name, factor in factors.items():
            assert gradients[f"learner.{name}"].any()
            factor -= 0.1 * torch.sign(gradients[f"learner.{name}"])
    assert apart() > 1e-3


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("orbit-prototypes", {"grid_group": None}, "no group is named; name it by --learner.grid-group"),
        ("orbit-prototypes", {"grid_group": "found"}, "no family is here in whose .* let `prepare` find them, or name"),
        ("orbit-prototypes", {"network": "conv"}, "the network is 'conv'; take network 'conv-grid'"),
        ("orbit-prototypes", {"width": 10}, "order 4 is wanted, for example 8"),
        ("maml", {"head": "map"}, "take head 'linear' or 'mean'"),
        ("protonets", {"network": "mlp", "head": "map"}, "network 'mlp' has no head"),
        ("protonets", {"network": "mlp", "norm": "layer"}, "network 'mlp' has no norm"),
        (
            "msr",
            {"grid_group": None, "form": "equivariant"},
            "no flips and turns are named.*--learner.grid-group",
        ),
        ("msr", {"network": "conv", "form": "equivariant"}, "leaves pixels over at one end.*take network 'conv-grid'"),
        ("msr", {"network": "mlp", "form": "equivariant"}, "flips and turns images, but the network is a MLP"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(method: str, changes: dict[str, Any], words: str) -> None:
    """Each message says which option mends it."""
    with pytest.raises(TrainingError, match=words):
        _learner(method, **changes)


def test_batch_norm_is_refused_by_name() -> None:
    """Statistics of a test batch would tell a sample what the others are."""
    with pytest.raises(ValueError, match=r"'batch', but statistics of a batch.*--learner\.norm layer"):
        LearnerConfig.model_validate({"norm": "batch"})
