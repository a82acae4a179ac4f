"""`LogFamily`: a task family from the logs of a robot."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from msr_envs.logs.description import LogDescription, read_description
from msr_envs.logs.drives import read_files
from msr_envs.logs.fields import make_fields
from msr_envs.logs.notes import log_notes
from msr_envs.logs.oddities import odd_values, require_apart, require_changing
from msr_envs.logs.present import Present
from msr_envs.logs.samples import Samples, moments, take_samples
from msr_envs.logs.splits import divide
from msr_envs.logs.windows import Anywhere, Windows
from msr_envs.splits import require_split
from msr_envs.symmetry import DeclaredSymmetry, SymmetryGroup
from msr_runtime.errors import FamilyError
from msr_runtime.task import Array, Loss, Split, TaskBatch


class LogFamily:
    """The family of a log. The files are read once and kept in memory as float32.

    A drive is a task, or a column groups drives into tasks. `log_family` makes one from a YAML file. If the description
    states a symmetry, it makes a `SymmetricLogFamily`.

    Args:
        said: The description.
        folder: Where its paths begin.

    Raises:
        FamilyError: A file or a column is missing or damaged, or too few drives have enough samples.

    """

    def __init__(self, said: LogDescription, folder: str | Path = ".") -> None:
        self.name = said.name or "logs"
        self.description = said
        files = list(read_files(said, Path(folder)))
        read = [take_samples(said, drive) for file in files for drive in file.drives]
        self.notes = log_notes(said, files, read)
        """What was read, what was left out, and which columns are not read."""
        kept = [samples for samples in read if len(samples.x) >= said.shortest]
        if not kept:
            raise FamilyError(
                f"family '{self.name}': no drive has {said.shortest} samples; {'; '.join(self.notes[1:])}; lower "
                "`shortest`, `horizon` or `lags`"
            )
        self.loss: Loss = said.loss
        inputs, outputs = moments(said)
        self.inputs = make_fields(said, inputs, files[0].elements, [samples.x for samples in kept])
        self.outputs = make_fields(said, outputs, files[0].elements, [samples.y for samples in kept])
        self.notes += tuple(odd_values(kept, self.inputs, self.outputs))
        require_changing(self.name, kept, self.outputs)
        self.rate_hz = _rate(said, {file.rate_hz for file in files}, kept)
        self.consecutive = said.query == "after"
        self.query_sets: tuple[str, ...] = ("after",) if self.consecutive else ("all",)
        self._present = Present.of(inputs, outputs, self.inputs, self.outputs)
        self._windows = Windows(max(1, said.horizon) - 1 + said.gap) if self.consecutive else Anywhere()
        tasks: dict[str, list[Samples]] = {}
        for samples in kept:
            tasks.setdefault(samples.drive.task, []).append(samples)
        self.task_names = tuple(tasks)
        self._drives = [tuple(len(samples.x) for samples in members) for members in tasks.values()]
        self._x = [np.concatenate([samples.x for samples in members]) for members in tasks.values()]
        self._y = [np.concatenate([samples.y for samples in members]) for members in tasks.values()]
        self._split = divide(self.name, self.task_names, said.split)
        require_apart(self.name, kept, {self.task_names[i]: split for split, own in self._split.items() for i in own})

    @property
    def examples(self) -> int:
        """How many samples every task has for a support set and its queries together."""
        return min(self._holds(task) for members in self._split.values() for task in members)

    def count_tasks(self, split: Split) -> int:
        """Return how many tasks a split has."""
        return len(self._split[split])

    def split_names(self, split: Split) -> tuple[str, ...]:
        """Return the names of the tasks of a split."""
        require_split(self.name, split)
        return tuple(self.task_names[task] for task in self._split[split])

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks of one split, and a support set and a query set of each.

        A task is drawn twice only after all of the split were drawn once. Support and query sets share no sample. If a
        task has too few samples for all queries, queries repeat.

        Returns:
            x `(tasks, shots or queries, *x)` and y `(tasks, shots or queries, *y)`, float32.

        Raises:
            FamilyError: `split` is unknown, or a task has too few samples for `shots` and a query.

        """
        require_split(self.name, split)
        members = self._split[split]
        if not members:
            raise FamilyError(f"family '{self.name}': no task of the split '{split}' has enough samples; record more")
        for task in members:
            if shots + min(queries, 1) > self._holds(task):
                raise FamilyError(
                    f"family '{self.name}': task '{self.task_names[task]}' has {self._holds(task)} samples for a "
                    f"support set and its queries, but {shots} support samples and a query were asked for; lower the "
                    f"shots (--settings.shots), or leave out short drives: shortest: {self._needed(shots)}"
                )
        rounds = -(-tasks // len(members))  # rounded up: each round draws every task once
        chosen = np.concatenate([rng.permutation(members) for _ in range(rounds)])[:tasks]
        picks = [(task, *self._windows.draw(rng, self._drives[task], shots, queries)) for task in chosen]
        x, y = self._x, self._y
        return TaskBatch(
            np.stack([x[task][support] for task, support, _ in picks]),
            np.stack([y[task][support] for task, support, _ in picks]),
            np.stack([x[task][query] for task, _, query in picks]),
            np.stack([y[task][query] for task, _, query in picks]),
        )

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: the description states no symmetry."""
        return x, y

    def last_value(self, support_y: Array, x: Array) -> Array:
        """Return what y would be if nothing changed any more.

        A number of y that x holds too is taken from x, a change is zero, and any other is the last one of the support.

        Args:
            support_y: `(shots, *y)`.
            x: `(queries, *x)`.

        """
        return self._present.predict(support_y, x)

    def at_least(self, examples: int) -> Self | None:
        """Return the family of those tasks that have so many samples, drawn from anywhere in a task.

        None if the split `train` has no such task. Other splits may then be empty.
        """
        family = copy.copy(self)
        family._windows, family.consecutive, family.query_sets = Anywhere(), False, ("all",)
        family._split = {
            split: [task for task in members if family._holds(task) >= examples]
            for split, members in self._split.items()
        }
        return family if family._split["train"] else None

    def _holds(self, task: int) -> int:
        return self._windows.holds(self._drives[task])

    def _needed(self, shots: int) -> int:
        return shots + 1 + (self._windows.between if isinstance(self._windows, Windows) else 0)


class SymmetricLogFamily(DeclaredSymmetry, LogFamily):
    """A log with a symmetry: the description states the group, and with each field how the group acts on it."""

    def __init__(self, said: LogDescription, folder: str | Path = ".") -> None:
        super().__init__(said, folder)
        group = said.symmetry_group()
        if group is None:
            raise FamilyError(
                f"family '{self.name}': the description states no symmetry, but this family needs one; say symmetry, "
                "or make a LogFamily"
            )
        self.symmetry: SymmetryGroup = group
        self.group()  # refuses fields that do not say how the group acts on them, before anything is trained


def log_family(said: str | Path | LogDescription, folder: str | Path = ".") -> LogFamily:
    """Return the family of a log.

    Args:
        said: A YAML file, from whose folder its paths begin, or a description.
        folder: Where the paths of a description begin.

    Raises:
        FamilyError: As `read_description` and `LogFamily`.

    """
    if not isinstance(said, LogDescription):
        path = Path(said)
        said, folder = read_description(path), path.parent
    return (SymmetricLogFamily if said.symmetry else LogFamily)(said, folder)


def _rate(said: LogDescription, stated: set[float | None], read: Sequence[Samples]) -> float | None:
    """Return the rate of the rows in Hz: as described, as the files state it, or from the usual step of the time."""
    if said.rate_hz is not None:
        return said.rate_hz
    if len(stated) == 1 and (rate := next(iter(stated))) is not None:
        return rate
    steps = [samples.step for samples in read if samples.step is not None]
    return float(f"{1 / np.median(steps):.4g}") if steps else None
