"""Options that a configuration sets and nothing uses: they are refused, and no other option is."""

from typing import Any

import pytest
import torch
from torch.func import functional_call

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import LEARNERS, MAML
from msr_runtime.meta.learners.unused import refuse_unused
from msr_runtime.meta.rules.gradient import GradientSteps
from msr_runtime.task import Loss

OTHER: dict[str, Any] = {
    "width": 3,
    "bias": False,
    "rule": "recursive",
    "inner_steps": 3,
    "inner_rate": 0.3,
    "step_rates": True,
    "damping": 0.7,
    "first_order": True,
    "memory": 2,
    "gate": 0.3,
    "relinearize": 2,
    "time_constant": 4.0,
    "objective": "error",
    "filters": 2,
    "form": "kronecker",
    "terms": 2,
    "context": 5,
}
"""Values that are not the default. Not among them: `network`, `depth` and `reparameterized` are always used."""
SITUATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "ridge": {"rule": "ridge"},
    "gauss-newton": {"rule": "gauss-newton"},
    "recursive": {"rule": "recursive"},
    "reparameterized": {"reparameterized": True},
    "kronecker": {"reparameterized": True, "form": "kronecker"},
    "kronecker, no bias": {"reparameterized": True, "form": "kronecker", "bias": False},
    "linear": {"depth": 0},
}


def _trace(method: str, config: LearnerConfig) -> list[torch.Tensor]:
    """What a learner computes: its tensors, the gradient of its loss after adapting, and this loss in use."""
    torch.manual_seed(0)
    loss: Loss = "cross_entropy" if method == "protonets" else "mse"
    learner = LEARNERS[method](config, (3,), (2,), loss)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, generator=generator)
    y = torch.arange(6) % 2 if loss == "cross_entropy" else torch.randn(6, 2, generator=generator)
    trained = {name: tensor for name, tensor in learner.named_parameters() if tensor.requires_grad}

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.learner = learner

        def forward(self) -> torch.Tensor:
            return learner.query_loss(x, y, x, y)

    value = functional_call(Outer(), {f"learner.{name}": tensor for name, tensor in trained.items()}, ())
    gradient = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    in_use = learner.eval().support_loss(learner.adapt(x, y), x, y)
    return [*(tensor.detach() for tensor in trained.values()), *(g for g in gradient if g is not None), in_use.detach()]


def _equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("method", sorted(LEARNERS.keys() - {"orbit-prototypes"}))
def test_a_method_takes_the_plain_situation(method: str) -> None:
    """So the next test compares something for it. What needs a group of flips and turns is tested last."""
    _trace(method, LearnerConfig(depth=1, width=5, filters=4))


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("method", LEARNERS)
def test_an_option_is_unused_if_it_changes_nothing(method: str, situation: str) -> None:
    """What a method computes is the same with another value of each option that it calls unused, and of no other."""
    base = LearnerConfig(**{"depth": 1, "width": 5, "filters": 4, **SITUATIONS[situation]})
    cls = LEARNERS[method]
    try:
        before = _trace(method, base)
    except TrainingError:  # the method refuses the situation itself
        return
    for option, value in OTHER.items():
        if option in SITUATIONS[situation]:
            continue
        config = base.model_copy(update={option: value})
        try:
            same = _equal(before, _trace(method, config))
        except TrainingError:
            continue
        assert same == (option in cls.unused(base)), f"{method}, {situation}: {option}"


def test_a_rule_of_ones_own_may_use_every_option_of_rules() -> None:
    """Nobody knows what it reads."""

    class Own(MAML):
        def build_rule(self) -> GradientSteps:
            return GradientSteps(dict.fromkeys(self.adapted_names, self.config.damping or 0.1), 1)

    assert "damping" in MAML.unused(LearnerConfig())
    assert "damping" not in Own.unused(LearnerConfig())
    assert issubclass(Own, Learner)


def test_the_refusal_names_what_mends_it() -> None:
    """The method, the option, the value seen, the reason, the value wanted and the option of the command."""
    config = LearnerConfig(step_rates=True, rule="ridge")
    with pytest.raises(TrainingError) as error:
        refuse_unused("maml", config, MAML.unused(config), ["rule", "step_rates"])
    assert str(error.value) == (
        "method 'maml' does not use the option step_rates, but it is set to True: the rule 'ridge' has no inner rates, "
        "as 'gradient' has (--learner.rule gradient); leave it at False (--learner.step-rates), or choose what uses it"
    )


@pytest.mark.parametrize(
    ("method", "form", "option", "words"),
    [
        ("msr", "equivariant", "filters", "the group says how many"),
        ("msr", "kronecker", "terms", "one for each element"),
        ("orbit-prototypes", "full", "filters", "the group says how many"),
    ],
)
def test_what_a_group_of_flips_and_turns_settles_is_unused(method: str, form: Any, option: str, words: str) -> None:
    """The learner is the same with another value, and the option is refused."""
    config = LearnerConfig(network="conv-grid", width=4, depth=1, grid_group="D2", form=form)
    config = config.model_copy(update={"reparameterized": method == "msr"})
    starts = []
    for value in (2, 3):
        torch.manual_seed(0)
        changed = config.model_copy(update={option: value})
        starts.append(LEARNERS[method](changed, (1, 6, 6), (2,), "cross_entropy").state_dict())
        with pytest.raises(TrainingError, match=words):
            refuse_unused(method, changed, LEARNERS[method].unused(changed), [option])
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items())


@pytest.mark.parametrize("network", ["mlp", "conv", "local"])
def test_a_network_without_the_grid_is_what_is_refused(network: str) -> None:
    """And not the group, without which the method would ask for one."""
    config = LearnerConfig(network=network, grid_group="D2")
    assert "grid_group" not in LEARNERS["orbit-prototypes"].unused(config)
    with pytest.raises(TrainingError, match="take network 'conv-grid'"):
        LEARNERS["orbit-prototypes"](config, (1, 6, 6), (2,), "cross_entropy")
