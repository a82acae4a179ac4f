"""Every method that learns online, with the settings that are chosen for it on validation streams."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from online_deployed import Deployed
from online_learned import Filtered, Unadapted, Windowed
from online_peers import Features, Kalman, LeastSquares, LowPass, Online, Prior, Scaling
from online_restarts import Restarting
from online_scores import grid
from online_worlds import World
from training import Job

from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainSettings
from msr_runtime.task import Group

PEERS = ("Kalman, products", "Kalman, linear", "RLS, products", "RLS, linear", "low-pass", "last value")
"""Methods that no outer loop trains."""
FILTERED = {"recursive MSR": "msr", "recursive CAVIA": "cavia", "recursive ANIL": "anil"}
"""Methods under the recursive rule, and the learner of each."""
ONCE = ", linearized once"
"""Follows the name of a method under the recursive rule where no sample is linearized again."""
BATCH = ("windowed Gauss-Newton", "OnlineAdapter", "no adaptation")
"""MSR by the batch rule: at every tick from v0 on a window, as it is deployed, and not adapting."""
STAYS = 1e9
"""A time constant that forgets nothing."""


class Candidate(NamedTuple):
    """A method, and the settings to choose from on streams of each kind."""

    make: Callable[..., Online]
    settings: Callable[[str], list[dict[str, Any]]]
    as_trained: dict[str, Any] | None = None
    """The settings with which training tasks say how sure it is. None: it does not say it."""


def candidate(method: str, world: World, runs: Path, seed: int) -> Candidate:
    """Return a method of a world.

    Args:
        method: One of `PEERS`, `FILTERED` and `BATCH`. Behind those of `FILTERED` may stand `ONCE`.
        world: The world.
        runs: The folder of the trained runs.
        seed: Of the run.

    """
    if method in PEERS:
        return _peer(method, world)
    if (filtered := method.removesuffix(ONCE)) in FILTERED:
        checkpoint = load_checkpoint(run_of(runs, world, FILTERED[filtered], "recursive", seed))
        again = method == filtered
        return Candidate(
            lambda **settings: Restarting(Filtered(checkpoint, relinearize=again, **settings)),
            lambda kind: grid(noise=(0.3, 1.0, 3.0), ticks=_ticks(world, kind)),
            {"noise": 1.0, "ticks": STAYS},
        )
    run = run_of(runs, world, "msr", "batch", seed)
    checkpoint = load_checkpoint(run)
    if method == "no adaptation":
        return Candidate(lambda: Unadapted(checkpoint), lambda _: [{}])
    if method == "OnlineAdapter":
        return Candidate(lambda: Deployed(run, world.family()), lambda _: [{}])
    windows = (10, 20, 40)
    return Candidate(
        lambda **settings: Windowed(checkpoint, **settings),
        lambda kind: grid(window=windows[2:] if kind == "stays" else windows, damping=(0.3, 1.0)),
    )


def run_of(runs: Path, world: World, learner: str, rule: str, seed: int) -> Path:
    """Return the folder of a run.

    Args:
        runs: The folder of the runs.
        world: The world.
        learner: `msr`, `anil` or `cavia`.
        rule: `start`, Gauss-Newton steps for a quarter of the outer steps; `recursive`, which begins there; or `batch`,
            Gauss-Newton steps for all of them.
        seed: Of the run.

    """
    mirror = {None: "", True: " mirror", False: " no mirror"}[world.mirror]
    return runs / f"{world.name}{mirror} {learner} {rule} {seed}"


def trainings(world: World, runs: Path, steps: int, shots: int, seed: int) -> tuple[list[Job], list[Job]]:
    """Return what is trained first, and what begins where those end.

    Every method gets the same number of outer steps. The filters begin by Gauss-Newton steps, which cost less, and take
    the last three quarters under the recursive rule. With only half of them under it, they had larger errors after ten
    samples than the batch rule.

    Args:
        world: The world.
        runs: The folder of the runs.
        steps: Outer steps of each method.
        shots: Most samples that a filter is trained on.
        seed: Of the runs.

    """
    first, second = [], []
    settings = TrainSettings(seed=seed, steps=steps // 4, shots=world.shots)
    for learner, network in world.learners.items():
        newton = network.model_copy(update={"rule": "gauss-newton", "inner_steps": 2})
        start = run_of(runs, world, learner, "start", seed)
        first.append(Job(start, world.family(), learner, newton, settings))
        changes = {"steps": steps - steps // 4, "shots": shots, "fewest_shots": 1, "start": str(start)}
        filtered = settings.model_copy(update=changes)
        recursive = network.model_copy(update={"rule": "recursive", "gate": None})
        run = run_of(runs, world, learner, "recursive", seed)
        second.append(Job(run, world.family(), learner, recursive, filtered))
    newton = world.learners["msr"].model_copy(update={"rule": "gauss-newton", "inner_steps": 2})
    whole = settings.model_copy(update={"steps": steps})
    first.append(Job(run_of(runs, world, "msr", "batch", seed), world.family(), "msr", newton, whole))
    return first, second


class Copying:
    """A peer that learns from every sample and from its copies under a group: so it knows the robot's mirror too."""

    def __init__(self, peer: Online, group: Group) -> None:
        self.peer, self.group = peer, group

    def start(self, streams: int) -> None:
        self.peer.start(streams)

    def predict(self, x: NDArray) -> NDArray:
        return self.peer.predict(x)

    def update(self, x: NDArray, y: NDArray) -> None:
        for on_x, on_y in zip(self.group.inputs[::-1], self.group.outputs[::-1], strict=True):
            self.peer.update((x @ on_x.T).astype(np.float32), (y @ on_y.T).astype(np.float32))


def _peer(method: str, world: World) -> Candidate:
    x, y = world.samples()
    scaling, group = Scaling.of(x, y), world.group()
    if method == "last value":
        return Candidate(lambda: LowPass(1, scaling.y_center), lambda _: [{}])
    if method == "low-pass":
        return Candidate(lambda ticks: LowPass(ticks, scaling.y_center), lambda _: grid(ticks=(2, 4, 8, 16, 32, 64)))
    features = Features(scaling, products=method.endswith("products"))

    def copying(peer: Online) -> Online:
        return peer if group is None else Copying(peer, group)

    if method.startswith("RLS"):
        return Candidate(
            lambda **settings: copying(LeastSquares(features, **settings)),
            lambda _: grid(forgetting=(0.9, 0.95, 0.98, 0.995, 1.0), spread=(0.1, 1.0, 10.0, 100.0)),
        )
    prior = Prior.fit(features, x, y)

    def kalman(peer: Kalman) -> Online:
        # A sample and its copies are no two samples that surprise one after another.
        return Restarting(peer) if group is None else Copying(peer, group)

    return Candidate(
        lambda **settings: kalman(Kalman(features, prior, **settings)),
        lambda kind: grid(noise=(0.3, 1.0, 3.0), spread=(0.5, 1.0, 2.0), ticks=_ticks(world, kind)),
        {"noise": 1.0, "spread": 1.0, "ticks": STAYS},
    )


def _ticks(world: World, kind: str) -> tuple[float, ...]:
    return (STAYS,) if kind == "stays" else world.ticks
