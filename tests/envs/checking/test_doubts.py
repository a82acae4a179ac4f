"""What `check_family` warns of, since it may be meant: queries that repeat the support set, and unused ranges."""

import warnings
from typing import Any

import numpy as np
import pytest

from msr_envs import check_family
from msr_envs.checking.doubts import doubts
from msr_envs.synthetic.one_dimension import RANK1
from msr_runtime.errors import FamilyWarning
from msr_runtime.task import SPLITS, Field, Loss, Split, TaskBatch


class Cart:
    """A cart with an unknown gain. Its mirror image is a cart."""

    name, query_sets = "cart", ("all",)
    loss: Loss = "mse"
    inputs: tuple[Field, ...] = (Field(name="current", shape=(1,), unit="A", low=-1, high=1),)
    outputs: tuple[Field, ...] = (Field(name="speed", shape=(1,), unit="m/s", low=-3, high=3),)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        rng = np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])
        x = rng.uniform(-1, 1, (tasks, shots + queries, 1)).astype(np.float32)
        y = (rng.uniform(1, 3, (tasks, 1, 1)) * x).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: Any, y: Any) -> Any:
        return x, y


class Repeats(Cart):
    """Its queries are the support set, again and again."""

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        batch = super().sample(rng, tasks, shots, queries, split)
        again = np.arange(queries) % shots
        return batch._replace(query_x=batch.support_x[:, again], query_y=batch.support_y[:, again])


class Millimetres(Cart):
    """The declared range is of m/s, and the values are smaller by 1000."""

    def sample(self, *call: Any) -> TaskBatch:
        batch = super().sample(*call)
        return batch._replace(support_y=batch.support_y / 1000, query_y=batch.query_y / 1000)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        (Repeats(), r"family 'cart': 100 % of the queries of a task are samples of its support set.*divide them"),
        (
            Millimetres(),
            r"field 'speed' holds values from -0\.00\d+ to 0\.00\d+ m/s, which is 0\.0\d+ % of its declared range, -3 "
            r"to 3; the likely cause is another unit",
        ),
    ],
)
def test_it_is_warned_of_in_one_sentence(family: Cart, says: str) -> None:
    """And the family is not refused."""
    with pytest.warns(FamilyWarning, match=says) as given:
        assert "keeps the contract" in check_family(family)
    assert len(given) == 1


def test_what_rests_and_what_is_drawn_anew_is_fine() -> None:
    """A field that never changes, such as a robot that stands, has samples that are alike and no range."""

    class Standing(Cart):
        def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
            batch = super().sample(rng, tasks, shots, queries, split)
            return TaskBatch(*(np.full_like(part, 0.5) for part in batch))

    with warnings.catch_warnings():
        warnings.simplefilter("error", FamilyWarning)
        for family in (Cart(), RANK1):
            check_family(family)
        batch = Standing().sample(np.random.default_rng(0), 2, 3, 4, "train")
        assert (batch.support_x == 0.5).all()
        assert not list(doubts(Standing(), [batch]))
