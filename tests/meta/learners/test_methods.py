"""Each learner adapts the tensors it names, at valid rates, and learns a linear toy task."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import ANIL, LEARNERS, BigMAML, MetaSGD, learner_class
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.reparameterize import FullSymmetry, fold
from msr_runtime.meta.training.outer import OuterLoss, damp_large, outer_gradient
from msr_runtime.task import Group, Loss

CONFIG = LearnerConfig(width=8, depth=2, filters=5, context=3, rule="gradient")
INPUTS, OUTPUTS = 4, 2
# (4+1)*8 + (8+1)*8 + (8+1)*2 weights and biases
SIZES = {"msr": 4 * 5 + 5 + 2, "maml": 130, "meta-sgd": 130, "anil": 18, "cavia": 3}


STEPPING = ("msr", "maml", "maml-big", "anil", "meta-sgd", "cavia", "fine-tuning")
"""The methods that adapt by gradient steps."""


def _learner(method: str, config: LearnerConfig = CONFIG) -> Learner:
    torch.manual_seed(0)
    return learner_class(method)(config, (INPUTS,), (OUTPUTS,), "mse")


def _rule(learner: Learner) -> GradientSteps:
    assert isinstance(learner.rule, GradientSteps)
    return learner.rule


def _rates(learner: Learner) -> Tensors:
    return _rule(learner).rates(0)


@pytest.mark.parametrize("method", SIZES)
def test_what_adapts(method: str) -> None:
    """The method decides how many numbers adapt. There is one rate parameter per tensor."""
    learner = _learner(method)
    assert learner.adapted_size() == SIZES[method]
    assert set(learner.start()) == set(learner.adapted_names) == set(_rates(learner))


@pytest.mark.parametrize(
    ("method", "changes", "loss", "rule"),
    [
        ("msr", {}, "mse", ("gauss-newton", 2)),
        ("msr", {}, "huber", ("gauss-newton", 2)),
        ("cavia", {}, "mse", ("gauss-newton", 2)),
        ("msr", {}, "cross_entropy", ("gradient", 5)),
        ("msr", {"network": "conv"}, "mse", ("gradient", 5)),
        ("msr", {"rule": "gradient"}, "mse", ("gradient", 5)),
        ("msr", {"inner_steps": 3}, "mse", ("gauss-newton", 3)),
        ("maml", {}, "mse", ("gradient", 5)),
        ("maml", {"rule": "gauss-newton"}, "mse", ("gauss-newton", 2)),
        ("maml-big", {}, "mse", ("gradient", 5)),
    ],
)
def test_the_rule_that_none_names_is_the_one_that_was_measured_best(
    method: str, changes: dict[str, Any], loss: Loss, rule: tuple[str, int]
) -> None:
    """And so is the number of its steps. The learner's own configuration names both."""
    inputs = (1, 6, 6) if changes.get("network") == "conv" else (INPUTS,)
    config = LearnerConfig(width=4, depth=1, filters=3, **changes)
    learner = learner_class(method)(config, inputs, (OUTPUTS,), loss)
    assert (learner.config.rule, learner.config.inner_steps) == rule
    assert learner.rule is not None
    assert learner.rule.steps == rule[1]
    assert isinstance(learner.rule, GaussNewton) == (rule[0] == "gauss-newton")


def test_names_of_what_adapts() -> None:
    """MSR moves filter parameters alone, ANIL the last layer, CAVIA its context."""
    assert all(name.endswith(".original") for name in _learner("msr").adapted_names)
    assert _learner("anil").adapted_names == ("layers.2.weight", "layers.2.bias")
    assert _learner("cavia").adapted_names == ("context",)


@pytest.mark.parametrize(
    ("rule", "given", "wanted"), [("gauss-newton", None, 0.3), ("ridge", None, 0.001), ("gauss-newton", 2.0, 2.0)]
)
def test_damping_starts_where_configured_or_where_its_rule_begins(rule, given, wanted: float) -> None:
    """Gauss-Newton, which linearizes the network, starts with more damping than ridge."""
    learner = _learner("msr", CONFIG.model_copy(update={"rule": rule, "damping": given}))
    assert isinstance(learner.rule, GaussNewton)
    torch.testing.assert_close(learner.rule.damping(0), torch.tensor(wanted))


@pytest.mark.parametrize("method", STEPPING)
def test_rates_start_where_configured_and_stay_positive(method: str) -> None:
    """Rates stay positive however far the outer loop pushes. Meta-SGD also learns the sign."""
    learner = _learner(method)
    for name, rate in _rates(learner).items():
        symmetry = learner.network.get_submodule(name.removesuffix("original") + "0") if method == "msr" else None
        gain = symmetry.gain() if isinstance(symmetry, FullSymmetry) else 1.0
        torch.testing.assert_close(rate * gain, torch.full_like(rate, CONFIG.inner_rate))
    with torch.no_grad():
        for parameter in _rule(learner).parameters():
            parameter.fill_(-20.0)
    rates = torch.cat([rate.flatten() for rate in _rates(learner).values()])
    assert bool((rates < 0).all()) if isinstance(learner, MetaSGD) else bool((rates > 0).all())
    if isinstance(learner, MetaSGD):
        assert rates.numel() == learner.adapted_size()


def test_msr_with_a_square_symmetry_matrix_starts_as_maml() -> None:
    """With orthogonal columns that span all weights, one inner step equals a plain one, for any scale of U."""
    learner = LEARNERS["msr"](CONFIG.model_copy(update={"filters": 10_000}), (INPUTS,), (OUTPUTS,), "mse").double()
    plain = LEARNERS["maml"](CONFIG, (INPUTS,), (OUTPUTS,), "mse").double()
    plain.network.load_state_dict(fold(learner.network))
    x, y = torch.randn(6, INPUTS, dtype=torch.float64), torch.randn(6, OUTPUTS, dtype=torch.float64)
    adapted = fold(learner.network, learner.adapt(x, y, steps=1))
    for name, tensor in plain.adapt(x, y, steps=1).items():
        torch.testing.assert_close(adapted[name], tensor, rtol=1e-4, atol=1e-6)  # U was drawn in float32


def test_cavia_starts_each_task_at_a_zero_that_is_not_learned() -> None:
    """In the outer loop the context has no gradient. Everything else has."""
    learner = _learner("cavia")
    start = learner.start()["context"]
    assert not start.any()
    assert not start.requires_grad
    x = torch.randn(6, INPUTS)
    learner.support_loss(learner.adapt(x, x[:, :OUTPUTS]), x, x[:, :OUTPUTS]).backward()
    without = {name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"network.context"}


@pytest.mark.parametrize("form", ["full", "kronecker"])
@pytest.mark.parametrize("width", [8, 24, 48])
def test_the_big_maml_is_as_big_as_msr_and_never_bigger(form, width: int) -> None:
    """The widened network has at most MSR's count, and at least 90 % of it."""
    config = LearnerConfig(width=width, depth=2, filters=16, form=form)
    big, msr = (sum(p.numel() for p in _learner(m, config).parameters()) for m in ("maml-big", "msr"))
    assert 0.9 * msr < big <= msr
    assert isinstance(_learner("maml-big", config), BigMAML)


@pytest.mark.parametrize("method", STEPPING)
def test_adaptation_reduces_the_support_loss(method: str) -> None:
    """Every untrained method gets closer to a linear toy with each further inner step."""
    learner = _learner(method).eval()
    if method == "cavia":  # the context acts only through the network: untrained, it adapts little
        with torch.no_grad():
            _rule(learner).rate_parameters.fill_(0.5)
    x = torch.randn(20, INPUTS)
    y = x @ torch.randn(INPUTS, OUTPUTS)
    losses = [learner.support_loss(learner.adapt(x, y, steps), x, y).item() for steps in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("method", ["maml", "anil", "meta-sgd", "cavia", "no-adaptation", "fine-tuning"])
def test_every_method_runs_on_a_reparameterized_network(method: str) -> None:
    """The inner loop moves filter parameters in place of weights, and the outer loop reaches every U."""
    config = CONFIG.model_copy(update={"reparameterized": True})
    plain, learner = _learner(method), _learner(method, config)
    assert len(learner.adapted_names) == len(plain.adapted_names)
    moved = [name for name in learner.adapted_names if name != "context"]
    assert all(name.endswith(".original") for name in moved)
    x = torch.randn(6, INPUTS)
    learner.support_loss(learner.adapt(x, x[:, :OUTPUTS]), x, x[:, :OUTPUTS]).backward()
    symmetries = [p for name, p in learner.network.named_parameters() if name.endswith("weight.0.U")]
    assert len(symmetries) == 3
    assert all(p.grad is not None and p.grad.any() for p in symmetries)  # biases start at v = 0, where U does nothing


@pytest.mark.parametrize("rule", ["gradient", "gauss-newton", "ridge"])
def test_the_outer_gradient_of_images_is_that_of_finite_differences(rule) -> None:
    """In float64, along a random direction of all parameters together, for MSR on convolutions."""
    torch.manual_seed(0)
    depth = 0 if rule == "ridge" else 1
    config = LearnerConfig(network="conv", width=2, depth=depth, inner_steps=2, rule=rule, damping=0.1, filters=3)
    size = 4 - 2 * depth
    loss = OuterLoss(learner_class("msr")(config, (2, 6, 6), (2, 4 - 2 * depth, size), "mse").double())
    batch = [torch.randn(3, n, *s, dtype=torch.float64) for n in (2, 3) for s in ((2, 6, 6), (2, size, size))]
    _, gradients = outer_gradient(loss)(batch)
    parameters = dict(loss.named_parameters())
    directions = {name: torch.randn_like(parameters[name]) for name in gradients}

    def value(step: float) -> torch.Tensor:
        moved = {name: parameters[name].detach() + step * directions[name] for name in gradients}
        return damp_large(torch.func.functional_call(loss, moved, tuple(batch))).mean()

    slope = sum((gradients[name] * directions[name]).sum() for name in gradients)
    torch.testing.assert_close((value(1e-5) - value(-1e-5)) / 2e-5, slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [name for name in LEARNERS if name != "orbit-prototypes"])
@pytest.mark.parametrize("network", ["conv", "mlp"])
def test_every_method_learns_from_images(method: str, network) -> None:
    """The outer gradient reaches the first layer. Classes are told apart by a vector of scores."""
    labels = method == "protonets"
    config = LearnerConfig(network=network, width=4, depth=2, inner_steps=2, filters=3, context=3)
    flat = {"cavia": "puts its context beside the input of an 'mlp'", "attention": "makes one token of a whole sample"}
    if method in flat and network == "conv":
        with pytest.raises(TrainingError, match=f"'{method}' {flat[method]}, but the network is 'conv'"):
            LEARNERS[method](config, (1, 8, 8), (2, 2, 2), "mse")
        return
    torch.manual_seed(0)
    learner = LEARNERS[method](config, (1, 8, 8), (3,) if labels else (2, 2, 2), "cross_entropy" if labels else "mse")
    batch = []
    for samples in (3, 4):
        y = torch.randint(3, (2, samples)) if labels else torch.randn(2, samples, 2, 2, 2)
        batch += [torch.randn(2, samples, 1, 8, 8), y]
    loss = OuterLoss(learner)
    value, gradients = outer_gradient(loss)(batch)
    assert value.isfinite()
    symmetries = {"layers.0.weight", "layers.0.parametrizations.weight.0.U", "mlp.layers.0.weight"}
    first = [g for name, g in gradients.items() if name.endswith(tuple(symmetries)) and ".blocks." not in name]
    assert len(first) == 1
    assert first[0].any()


def test_a_local_layer_learns_and_is_not_reparameterized() -> None:
    """MAML takes a step on it. MSR has no layer there to share in, and is refused."""
    config = LearnerConfig(network="local", depth=0, inner_steps=1, inner_rate=1.0)
    learner = LEARNERS["maml"](config, (8,), (6,), "mse")
    assert learner.adapted_size() == 6 * 3 + 6
    x, y = torch.randn(9, 8), torch.randn(9, 6)
    before, after = (learner.support_loss(learner.adapt(x, y, steps), x, y) for steps in (0, 1))
    assert after < before
    with pytest.raises(TrainingError, match="'local' cannot be reparameterized, but method 'msr' is to be"):
        LEARNERS["msr"](config, (8,), (6,), "mse")


def test_without_hidden_layers_the_big_maml_is_maml() -> None:
    """There is no width to increase."""
    config = LearnerConfig(network="conv", depth=0, filters=5)
    big, plain = (LEARNERS[name](config, (1, 6, 6), (4, 4, 4), "mse") for name in ("maml-big", "maml"))
    assert big.adapted_size() == plain.adapted_size()


def test_prototypes_are_the_means_of_their_classes() -> None:
    """Scores are negative squared distances to them.

    A class without support has its prototype at the origin, and scores below all others.
    """
    learner = LEARNERS["protonets"](CONFIG, (INPUTS,), (3,), "cross_entropy")
    x, y = torch.randn(5, INPUTS), torch.tensor([0, 2, 0, 2, 2])
    embedded = learner.network.embedding(x)  # type: ignore[operator]
    prototypes = learner.adapt(x, y)["prototypes"]
    wanted = torch.stack([embedded[[0, 2]].mean(0), torch.zeros(CONFIG.width), embedded[[1, 3, 4]].mean(0)])
    torch.testing.assert_close(prototypes, wanted)
    scores, taught = learner({"prototypes": prototypes}, x), [0, 2]
    torch.testing.assert_close(scores[:, taught], -torch.cdist(embedded, prototypes[taught]).square())
    assert (scores[:, 1] < scores[:, taught].min(1).values).all()


def test_prototypes_need_classes() -> None:
    """The method refuses a regression family by name."""
    with pytest.raises(TrainingError, match="'protonets' tells classes apart, but the family's loss is mse"):
        _learner("protonets")


def test_the_equivariant_form_needs_a_group_that_fits() -> None:
    """A family without matrices, and layers that the group cannot act on, are refused with a reason."""
    config = CONFIG.model_copy(update={"form": "equivariant"})
    with pytest.raises(TrainingError, match=r"'equivariant' needs the group's matrices.*no group\(\)"):
        _learner("msr", config)
    flips = np.stack([np.eye(2), -np.eye(2)])
    with pytest.raises(TrainingError, match=r"'msr' cannot have form 'equivariant': .*width must be a multiple of its"):
        learner_class("msr")(config.model_copy(update={"width": 7}), (2,), (2,), "mse", Group("C2", flips, flips))


def test_a_bias_that_a_group_wants_to_be_zero_does_not_adapt() -> None:
    """The bias of the last layer of an equivariant network is not among the adapted tensors."""
    flips = np.stack([np.eye(2), -np.eye(2)])
    config = CONFIG.model_copy(update={"form": "equivariant", "width": 8})
    learner = learner_class("msr")(config, (2,), (2,), "mse", Group("C2", flips, flips))
    assert len(learner.adapted_names) == 2 * (config.depth + 1) - 1
    assert f"layers.{config.depth}.bias" not in learner.adapted_names


def test_the_floors() -> None:
    """One adapts nothing. The other adapts nothing in training, and by its given rate in use."""
    x = torch.randn(6, INPUTS)
    y = x[:, :OUTPUTS]
    assert _learner("no-adaptation").adapt(x, y) == {}
    assert _learner("no-adaptation").adapted_size() == 0
    tuned = _learner("fine-tuning")
    assert all(torch.equal(tensor, tuned.start()[name]) for name, tensor in tuned.adapt(x, y).items())
    maml = _learner("maml")
    adapted = maml.adapt(x, y)
    assert all(torch.equal(tensor, adapted[name]) for name, tensor in tuned.eval().adapt(x, y).items())
    assert not any(parameter.requires_grad for parameter in _rule(tuned).parameters())


def test_an_unknown_method_lists_those_there_are() -> None:
    """A misspelled name is answered with every right name."""
    with pytest.raises(TrainingError, match="no method 'mmaml'") as error:
        learner_class("mmaml")
    assert all(name in str(error.value) for name in ("msr", "maml", "maml-big", "anil", "meta-sgd", "cavia"))


@pytest.mark.parametrize("name", STEPPING)
def test_shrinking_makes_every_rate_a_tenth_smaller(name: str) -> None:
    """Positive rates stay positive, and signed rates keep their sign."""
    learner = LEARNERS[name](LearnerConfig(width=8, depth=1, rule="gradient"), (3,), (2,), "mse")
    before = {key: rate.detach().clone() for key, rate in _rates(learner).items()}
    _rule(learner).shrink()
    for key, rate in _rates(learner).items():
        torch.testing.assert_close(rate.detach(), 0.9 * before[key])


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("meta-sgd", "rule", "gauss-newton"),
        ("meta-sgd", "step_rates", True),
        ("cavia", "bias", False),
        ("protonets", "bias", False),
        ("protonets", "rule", "ridge"),
    ],
)
def test_an_option_that_a_method_does_not_use_is_refused(method: str, option: str, value: object) -> None:
    config = CONFIG.model_copy(update={option: value})
    with pytest.raises(TrainingError, match=f"method '{method}' does not use the option {option}.*leave it at"):
        learner_class(method)(config, (INPUTS,), (OUTPUTS,), "cross_entropy")


@pytest.mark.parametrize("reparameterized", [False, True])
def test_anil_adapts_the_last_layer_of_any_network(reparameterized: bool) -> None:
    """The built-in networks have the same last layer as before; a network of one's own may have other names."""

    class Own(ANIL):
        def build_network(self) -> torch.nn.Module:
            layers = {"body": torch.nn.Linear(INPUTS, 5), "act": torch.nn.Tanh(), "head": torch.nn.Linear(5, OUTPUTS)}
            return torch.nn.Sequential(OrderedDict(layers))

    config = CONFIG.model_copy(update={"reparameterized": reparameterized})
    torch.manual_seed(0)
    names = Own(config, (INPUTS,), (OUTPUTS,), "mse").adapted_names
    assert len(names) == 2
    assert all(name.startswith("head.") for name in names)
    for network, shapes in (("mlp", ((INPUTS,), (OUTPUTS,))), ("conv", ((1, 5, 5), (1, 5, 5)))):
        built = ANIL(config.model_copy(update={"network": network}), *shapes, "mse")
        assert len(built.adapted_names) == 2
        assert all(name.startswith(f"layers.{CONFIG.depth}.") for name in built.adapted_names)
