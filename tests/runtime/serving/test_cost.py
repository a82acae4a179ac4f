"""The estimated cost of an adaptation, and the budget that refuses it before it runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msr_runtime import AdaptiveModel
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.errors import InputError
from msr_runtime.serving.access import Limits
from msr_runtime.serving.cost import most_samples, relative_cost
from msr_runtime.serving.policy import Policy


@pytest.fixture
def manifest(linear: Any) -> Callable[..., Manifest]:
    """A function that returns the linear bundle's manifest with another rule: 3 steps, K = 4, 2 outputs."""
    return lambda rule: linear.manifest().model_copy(update={"rule": rule})


@pytest.mark.parametrize("rule", ["gradient", "class-means", "gauss-newton", "ridge"])
def test_the_adaptation_of_meta_training_costs_1(manifest: Callable[..., Manifest], rule: str) -> None:
    own = manifest(rule)
    assert relative_cost(own, own.shots, own.inner_steps) == 1
    assert relative_cost(own, own.shots, 10 * own.inner_steps) == pytest.approx(10)


def test_only_rules_that_solve_a_system_are_cubic(manifest: Callable[..., Manifest]) -> None:
    """A hundred times the samples cost a gradient step a hundred times as much, Gauss-Newton up to a million times."""
    gradient, newton = manifest("gradient"), manifest("gauss-newton")
    assert relative_cost(gradient, 100 * gradient.shots, gradient.inner_steps) == pytest.approx(100)
    large = [relative_cost(newton, shots, newton.inner_steps) for shots in (10_000, 20_000)]
    assert large[1] / large[0] == pytest.approx(8, rel=0.01)


def test_the_most_samples_are_within_the_limit(manifest: Callable[..., Manifest]) -> None:
    newton = manifest("gauss-newton")
    most = most_samples(newton, 1024, 3, 1000)
    assert relative_cost(newton, most, 3) <= 1000 < relative_cost(newton, most + 1, 3)
    assert most_samples(newton, most - 1, 3, 1000) == most - 1
    assert most_samples(newton, 1024, 10_000_000, 1000) == 0


def test_a_request_beyond_the_budget_is_refused_before_it_runs(bundle_path: Path, adapting: Any, draw: Any) -> None:
    """The sentence names the rule, the cost, the limit, and what would be accepted."""
    model = AdaptiveModel.load(bundle_path)
    shots, steps = model.manifest.shots, model.manifest.inner_steps
    policy = Policy(model, Limits(adapt_cost=2))
    assert policy.answer(adapting(draw(1, 2 * shots, 3), draw(2, 2 * shots, 2)))["steps"] == steps
    checked = []
    for message, advice in (
        (adapting(draw(1, 4 * shots, 3), draw(2, 4 * shots, 2)), f"send at most {2 * shots} samples, or fewer steps"),
        (adapting(draw(1, 1, 3), draw(2, 1, 2), steps=1000), "send fewer steps"),
    ):
        with pytest.raises(InputError, match=re.escape(advice)) as refused:
            policy.answer(message, lambda: checked.append(1))
        assert "of the rule gradient" in str(refused.value)
        assert "at most 2 times" in str(refused.value)
        assert not checked
