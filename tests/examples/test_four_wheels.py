"""The base on four omni wheels keeps the contract, and quarter turns are an exact symmetry of its simulator."""

import sys
from pathlib import Path

import numpy as np
import pytest

from msr_envs import check_family, load_family
from msr_runtime.meta import check_augmentation
from msr_runtime.meta.symmetry.finding import known_group
from msr_runtime.task import TaskFamily

EXAMPLE = Path(__file__).parents[2] / "examples" / "four_wheels.py"


@pytest.fixture(scope="module")
def family() -> TaskFamily:
    return load_family(f"{EXAMPLE}:FourWheels")


def test_it_keeps_the_contract(family: TaskFamily) -> None:
    """Shapes, dtypes, bounds, splits and the declared group."""
    assert "keeps the contract" in str(check_family(family))


def test_quarter_turns_are_a_symmetry_of_each_task(family: TaskFamily) -> None:
    """So the outer loop may augment by them."""
    report = check_augmentation(family, np.random.default_rng(0))
    assert report.accepted
    assert report.ratio < 1, "copies of a task's own samples help to learn it"


def test_a_quarter_turn_is_exact(family: TaskFamily) -> None:
    """The simulator knows nothing of the declared group, and agrees with it to the last digits."""
    group, rng = known_group(family), np.random.default_rng(0)
    assert group is not None
    module = sys.modules[type(family).__module__]
    base = {name: rng.uniform(low, high, (1, 1)) for name, (low, high) in module.RANGES.items()}
    x = rng.uniform(-1, 1, (1, 9, 7))
    for move_x, move_y in zip(group.inputs, group.outputs, strict=True):
        turned = module.twist_change(base, x @ move_x.T)
        assert np.allclose(turned, module.twist_change(base, x) @ move_y.T, atol=1e-9)
