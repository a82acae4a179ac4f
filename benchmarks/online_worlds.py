"""Where methods learn online: the simulated robots, and a real one by its logs, with one terrain left for the tests.

A world gives streams by kind and split, samples of training tasks for the peers, and the family that learners train on.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from online_logs import BLOCK, LOG_KINDS, describe, log_streams
from online_scores import SAMPLES, Followed
from online_streams import JUMP, KINDS, Streams, simulated_streams

from msr_envs.logs import SymmetricLogFamily
from msr_envs.registry import load_family
from msr_runtime.files import write_atomically
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.task import Array, Group, Split

PEER_TASKS, PEER_SAMPLES = 600, 512
"""Training tasks that the peers' priors are fitted on, and samples of each."""
SOON = 10
"""Samples after a jump at which its error is shown again."""
EARLY = 32
"""Samples after a switch over which the error is shown."""


class World(Protocol):
    """See the module."""

    @property
    def name(self) -> str:
        """The robot, or the terrain of the tests."""
        ...

    @property
    def mirror(self) -> bool | None:
        """Whether methods may know the robot's mirror. None: the simulated robots' symmetry is always known."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of streams."""
        ...

    @property
    def learners(self) -> dict[str, LearnerConfig]:
        """The network of each method that is trained."""
        ...

    @property
    def ticks(self) -> tuple[float, ...]:
        """Time constants to choose from."""
        ...

    @property
    def shots(self) -> int:
        """Samples that the batch rule is trained with."""
        ...

    def streams(self, kind: str, split: Split) -> Streams:
        """Return the streams of one kind and split."""
        ...

    def samples(self) -> tuple[Array, Array]:
        """Return samples of training tasks: x `(tasks, samples, x)`, y `(tasks, samples, y)`."""
        ...

    def family(self) -> str:
        """Return the name or file of the family, for `load_family`."""
        ...

    def group(self) -> Group | None:
        """Return a group by which peers may copy each sample that they learn from. None: they may not."""
        ...

    def figures(self, kind: str, followed: Followed) -> dict[str, Any]:
        """Return what is shown of a method on streams of a kind."""
        ...


class Simulated(NamedTuple):
    """ring-nav or hex-drive."""

    name: str
    test_streams: int
    validation_streams: int
    mirror: bool | None = None
    kinds: tuple[str, ...] = KINDS
    ticks: tuple[float, ...] = (15, 50, 150)
    shots: int = 10

    @property
    def learners(self) -> dict[str, LearnerConfig]:
        # the peers have the networks that a search found best for them; MSR keeps the smaller one of the demo
        large = LearnerConfig(depth=4, width=128)
        return {"msr": LearnerConfig(depth=3, width=48, filters=48), "anil": large, "cavia": large}

    def streams(self, kind: str, split: Split) -> Streams:
        stays = kind == "stays"
        ticks = max(SAMPLES) + 1 if stays else 200 if split == "test" else 100
        count = self.test_streams if split == "test" else self.validation_streams
        return simulated_streams(self.name, kind, split, count, ticks=ticks, queries=16 if stays else 4)

    def samples(self) -> tuple[Array, Array]:
        return _orbit_samples(self.name)

    def family(self) -> str:
        return self.name

    def group(self) -> Group | None:
        return None

    def figures(self, kind: str, followed: Followed) -> dict[str, Any]:
        figures: dict[str, Any] = {"next": float(followed.next.mean()), "orbit": float(followed.orbit.mean())}
        if kind == "stays":
            figures["after"] = {str(n): float(followed.orbit[:, n].mean()) for n in SAMPLES}
        if kind == "jumps":
            jumps = np.arange(JUMP, followed.orbit.shape[1], JUMP)
            figures["at_jump"], figures["soon_after"] = (
                float(followed.orbit[:, jumps + later].mean()) for later in (0, SOON)
            )
        return figures


class Logs(NamedTuple):
    """A real robot with two driven sides, by its logs."""

    folder: Path
    """Of the CSV files."""
    out: Path
    """Where the family's file is written."""
    terrain: str
    """The terrain that is left for the tests."""
    mirror: bool | None
    kinds: tuple[str, ...] = LOG_KINDS
    ticks: tuple[float, ...] = (15, 50, 150, 500)
    shots: int = 32

    @property
    def name(self) -> str:
        return self.terrain

    @property
    def learners(self) -> dict[str, LearnerConfig]:
        small = LearnerConfig(depth=2, width=32, filters=8)
        networks = {"anil": LearnerConfig(depth=2, width=32), "cavia": LearnerConfig(depth=2, width=64, context=8)}
        built_in = {"msr": small.model_copy(update={"form": "equivariant"})}
        return built_in | networks if self.mirror else {"msr": small} | networks

    def streams(self, kind: str, split: Split) -> Streams:
        return log_streams(self.folder, self.terrain, kind, split)

    def samples(self) -> tuple[Array, Array]:
        streams, group = self.streams("in order", "train"), self.group()
        x, y = streams.x, streams.y
        if group is not None:
            x, y = (
                np.concatenate([part, (part @ matrices[1].T).astype(np.float32)], 1)
                for part, matrices in ((x, group.inputs), (y, group.outputs))
            )
        return x, y

    def family(self) -> str:
        said = describe(self.folder.resolve(), self.terrain, mirror=bool(self.mirror))
        path = self.out / f"{said.name}.yaml"
        text = json.dumps(said.model_dump(mode="json", exclude_none=True), indent=1).encode()  # JSON is YAML as well
        if not path.exists() or path.read_bytes() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        return str(path)

    def group(self) -> Group | None:
        return _log_group(self.folder, self.terrain) if self.mirror else None

    def figures(self, kind: str, followed: Followed) -> dict[str, Any]:
        figures: dict[str, Any] = {"next": float(followed.next.mean())}
        if kind == "switches":
            figures["before"] = float(followed.next[:, EARLY:BLOCK].mean())
            figures["early"] = float(followed.next[:, BLOCK : BLOCK + EARLY].mean())
            figures["late"] = float(followed.next[:, BLOCK + EARLY :].mean())
        return figures


@cache
def _log_group(folder: Path, terrain: str) -> Group:
    return SymmetricLogFamily(describe(folder, terrain, mirror=True)).group()


@cache
def _orbit_samples(name: str) -> tuple[Array, Array]:
    """Samples of training tasks from everywhere, each moved by a group element, as meta-training sees its queries."""
    family = load_family(name)
    batch = family.sample(np.random.default_rng(5), PEER_TASKS, 1, PEER_SAMPLES, "train")
    return family.augment(np.random.default_rng(6), batch.query_x, batch.query_y)
