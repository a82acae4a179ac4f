"""Streams of a simulated robot: one sample a tick, of a task that stays, jumps or drifts.

Samples come from the sector that the robot looks at. Beside each of them stand queries over the orbit, labelled by the
task of the same tick: what the robot would need if it looked another way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.hex_drive.simulator import HexTask
from msr_envs.registry import load_family
from msr_envs.ring_nav.operator import RingTask
from msr_runtime.task import SPLITS, Array, Split

KINDS = ("stays", "jumps", "drifts")
JUMP = 50
"""Ticks between two jumps."""
DRIFT = 100
"""Ticks in which a task becomes another one."""


class Streams(NamedTuple):
    """Streams of equal length, in raw units, float32."""

    x: Array
    """`(streams, ticks, *x)`: one sample a tick."""
    y: Array
    """`(streams, ticks, *y)`."""
    query_x: Array
    """`(streams, ticks, queries, *x)`: samples of the same tick's task, each moved by a random group element."""
    query_y: Array
    """`(streams, ticks, queries, *y)`."""
    size: float
    """The mean square, or the variance, of y, with each output in units of half its range: errors are over it."""
    half_range: NDArray[np.float64]
    """`(y,)`: half the range of each output."""


@cache
def simulated_streams(
    family_name: str, kind: str, split: Split, streams: int, *, ticks: int, queries: int, seed: int = 1
) -> Streams:
    """Simulate streams of fresh tasks. Equal arguments give equal streams, so that methods can be compared.

    Args:
        family_name: `ring-nav` or `hex-drive`.
        kind: One of `KINDS`.
        split: The split that the tasks come from.
        streams: The number of streams.
        ticks: Samples of each stream.
        queries: Samples over the orbit at each tick.
        seed: Of every random draw.

    """
    family = load_family(family_name)
    rng = np.random.default_rng([SPLITS.index(split), KINDS.index(kind), seed])
    tasks = [task for _ in range(streams) for task in tasks_of_a_stream(family, kind, rng, ticks)]
    batch = _following(family, tasks).sample(rng, len(tasks), 1, 2 * queries, split)
    # the first half of the queries come from the sector; each is moved by a group element of its own
    orbit = family.augment(rng, batch.query_x[:, :queries], batch.query_y[:, :queries])
    x, y = (part.reshape(streams, ticks, -1) for part in (batch.support_x, batch.support_y))
    query_x, query_y = (np.asarray(part, np.float32).reshape(streams, ticks, queries, -1) for part in orbit)
    half_range = np.concatenate([np.full(field.size, (field.high - field.low) / 2) for field in family.outputs])
    size = float(np.mean(np.sum((query_y / half_range) ** 2, -1)))
    return Streams(x, y, query_x, query_y, size, half_range)


def tasks_of_a_stream(family: Any, kind: str, rng: np.random.Generator, ticks: int) -> Iterator[Any]:
    """Yield the task of every tick."""
    task = family.draw_task(rng)
    following = family.draw_task(rng)
    for tick in range(ticks):
        if kind == "jumps" and tick and tick % JUMP == 0:
            task = family.draw_task(rng)
        if kind == "drifts" and tick and tick % DRIFT == 0:
            task, following = between(task, following, 1.0), family.draw_task(rng)
        yield between(task, following, tick % DRIFT / DRIFT) if kind == "drifts" else task


def between(first: Any, second: Any, share: float) -> Any:
    """Return the task that lies `share` of the way from `first` to `second`, inside the family's ranges."""
    if isinstance(first, HexTask):
        pairs = zip(first._asdict().items(), second, strict=True)
        return HexTask(**{name: a + share * (b - a) for (name, a), b in pairs if name != "strengths"})
    # the short way round, and no sideways push below the smallest that the family knows
    turn = (second.mount - first.mount + np.pi) % (2 * np.pi) - np.pi
    second = replace(second, mount=first.mount + turn, tangential=np.abs(second.tangential) * np.sign(first.tangential))
    names = [field.name for field in fields(RingTask)]
    return RingTask(*((1 - share) * getattr(first, name) + share * getattr(second, name) for name in names))


def _following(family: Any, tasks: Sequence[Any]) -> Any:
    """Return a family like this one, whose tasks are these, one after another."""
    queue = iter(tasks)
    return type("Following", (type(family),), {"draw_task": lambda _self, _rng: next(queue)})()
