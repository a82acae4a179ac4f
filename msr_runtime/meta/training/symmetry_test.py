"""The test that an augmentation must pass before training: is it a symmetry of each single task?"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import AugmentationError, AugmentationWarning
from msr_runtime.families import FiniteFamily, UnevenFamily
from msr_runtime.meta.training.kernel_ridge import BANDWIDTHS, RIDGES, Floats, residuals, scaled, targets
from msr_runtime.meta.training.students_t import TASKS, paired_t, tasks_to_test
from msr_runtime.task import SymmetricFamily, TaskFamily, field_slices

Verdict = Literal["holds", "in doubt", "refused"]
"""What the test found: a symmetry of each task; copies that surely do harm, but little beside the whole of y, or too
few samples to judge by; or no symmetry of each task."""

LEAST_RATIO = 1.2
"""An augmentation holds if the error grows by less than this factor."""
LEAST_T = 4.0
"""It holds, too, if the growth is less certain than this Student's t."""
LEAST_EXCESS = 1e-3
"""Otherwise it is refused if the error grows by this share of the field's variance, and in doubt if by less."""
ENOUGH = 256
"""Samples of each task to learn from, and as many held out. With fewer recorded examples, no augmentation holds without
doubt."""

_COPIES = 2


@dataclass(frozen=True)
class AugmentationReport:
    """Result of the test: the held-out error of each task, learned without and with augmented copies of its samples.

    The held-out samples themselves are not augmented.

    Example:
        >>> from msr_runtime.meta import AugmentationReport
        >>> print(AugmentationReport("cart", "the group C2", "speed", error_without=0.02, error_with=0.01, t=-9.0))
        a symmetry of each task: held-out error of 'speed' 0.02 without augmented copies, 0.01 with them ...
        >>> AugmentationReport("cart", "the group C2", "speed", error_without=1e-6, error_with=3e-4, t=30.0).verdict
        'in doubt'

    """

    family: str
    """The family's name."""
    group: str
    """The words `the group NAME`, or `its augmentation` if the family has no `group()`."""
    field: str
    """The output field whose error grows most."""
    error_without: float
    """Held-out error of that field without augmented copies: mean squared error over variance, as the geometric mean
    over the tasks."""
    error_with: float
    """The same error, with augmented copies among the training samples."""
    t: float
    """Student's t of the logarithm of `ratio`, paired over the tasks. Large and positive: the error surely grows. Of
    fewer than 24 tasks, the one that would be as sure with 24."""
    samples: int = ENOUGH
    """Held-out samples of each task."""
    tasks: int = TASKS
    """Tasks that were tested."""

    @property
    def ratio(self) -> float:
        """The error with augmented copies, divided by the error without."""
        return self.error_with / self.error_without

    @property
    def verdict(self) -> Verdict:
        """Whether the augmentation may be used, by `LEAST_RATIO`, `LEAST_T`, `LEAST_EXCESS` and `ENOUGH`."""
        if self._unsure:
            return "in doubt"
        if self.ratio < LEAST_RATIO or self.t < LEAST_T:
            return "holds" if self.samples >= ENOUGH else "in doubt"
        return "refused" if self.error_with - self.error_without >= LEAST_EXCESS else "in doubt"

    @property
    def _unsure(self) -> bool:
        """Whether the error grows, and the tasks are too few to say how surely."""
        return self.tasks < TASKS and self.ratio >= LEAST_RATIO and self.t < LEAST_T

    @property
    def accepted(self) -> bool:
        """Whether training goes on: the augmentation holds, or is in doubt."""
        return self.verdict != "refused"

    def __str__(self) -> str:
        return f"{_WORDS[self.verdict]}: {self.figures()}"

    def figures(self) -> str:
        """Return both errors, their ratio and t, as text."""
        return (
            f"held-out error of '{self.field}' {self.error_without:.2g} without augmented copies, "
            f"{self.error_with:.2g} with them (ratio {self.ratio:.2f}, t {self.t:.1f})"
        )

    def doubt(self) -> str:
        """Return in words why the augmentation is in doubt, and what to do."""
        said = f"family '{self.family}': it is in doubt whether {self.group} is a symmetry of each of its tasks: "
        if self._unsure:
            return (
                f"{said}augmented copies raise the error, {self.figures()}, but {self.tasks} tasks are too few to be "
                "sure. Record more tasks, or train with and without it and compare (--settings.no-augment)"
            )
        if self.ratio < LEAST_RATIO or self.t < LEAST_T:
            return (
                f"{said}it was tested on {self.samples} held-out samples of each task, and a sure test needs {ENOUGH}. "
                f"They show no harm: {self.figures()}. Record more, or train with and without it and compare "
                "(--settings.no-augment)"
            )
        return (
            f"{said}augmented copies surely raise the error, {self.figures()}. This is little beside the variance of "
            f"'{self.field}', but it can be all that differs between your tasks, for example if y is the next state, "
            "most of which x holds already. Then let y be the change of the state: the test can tell with that. If it "
            "is a tolerance of the robot, go on"
        )


_WORDS: dict[Verdict, str] = {
    "holds": "a symmetry of each task",
    "in doubt": "IN DOUBT whether a symmetry of each task",
    "refused": "no symmetry of each task",
}


def check_augmentation(family: TaskFamily, rng: np.random.Generator) -> AugmentationReport:
    """Test whether `family.augment` is a symmetry of each single task. It needs no network and takes a few seconds.

    Every task is learned twice by kernel ridge regression: from its own samples, and from its own samples together with
    augmented copies of them. Both results are scored on further samples of the same task, which are not augmented. If
    the augmentation is a symmetry, the copies are true samples of the task and can only help. If not, the copies belong
    to another task and raise the error.

    Samples come from the last of `family.query_sets`, the widest one: an augmentation can be tested only where samples
    that are not augmented lie among the augmented copies. A family that has few examples of each task (`FiniteFamily`)
    is tested on as many as it has. Of an `UnevenFamily`, the tasks that have enough are taken, if there are any.

    A vehicle with one weak thruster is refused, because a turn moves the weakness to another thruster:

        report = check_augmentation(load_family("hex-weak-thruster"), np.random.default_rng(0))
        print(report.accepted)  # False
        print(report)  # no symmetry of each task: held-out error of 'yaw_rate_change' 0.0034 without augmented ...

    Args:
        family: The family. Tasks of its split `train` are drawn.
        rng: Source of every random draw.

    Returns:
        The report of the output field with the worst verdict and, among these, whose error grows most.

    """
    if isinstance(family, UnevenFamily):
        family = family.at_least(2 * ENOUGH + 1) or family.at_least(family.examples) or family
    train = min(ENOUGH, (family.examples - 1) // 2) if isinstance(family, FiniteFamily) else ENOUGH
    if train < 2:
        raise AugmentationError(
            f"family '{family.name}': a task has too few examples to test whether the augmentation is a symmetry of "
            "it, and 5 are the least; record more, or train without augmentation (--settings.no-augment)"
        )
    count = 2 * train
    batch = family.sample(rng, tasks_to_test(family), 1, count * len(family.query_sets), "train")
    x, y = batch.query_x[:, -count:], batch.query_y[:, -count:]
    copies = [family.augment(rng, x[:, :train], y[:, :train]) for _ in range(_COPIES)]
    features = scaled(family.inputs, np.concatenate([x, *(copy_x for copy_x, _ in copies)], 1))
    wanted = targets(family, np.concatenate([y, *(copy_y for _, copy_y in copies)], 1))

    held_out = slice(train, count)
    # the axis of samples is now: training samples, held-out samples, copies of the training samples
    own = np.arange(train)
    own_and_copies = np.concatenate([own, np.arange(count, features.shape[1])])
    parts = list(field_slices(family.outputs).values())
    without = _held_out_errors(features, wanted, own, held_out, parts)
    with_copies = _held_out_errors(features, wanted, own_and_copies, held_out, parts)

    # logarithms: tasks differ in difficulty by factors, and each task is compared with itself
    growth = np.log(with_copies / without)
    t = paired_t(growth)
    reports = [
        AugmentationReport(
            family=family.name,
            group=f"the group {family.group().name}" if isinstance(family, SymmetricFamily) else "its augmentation",
            field=field.name,
            error_without=float(np.exp(np.log(without[:, i]).mean())),
            error_with=float(np.exp(np.log(with_copies[:, i]).mean())),
            t=float(t[i]),
            samples=train,
            tasks=len(x),
        )
        for i, field in enumerate(family.outputs)
    ]
    return max(reports, key=lambda report: (list(_WORDS).index(report.verdict), report.ratio))


def require_symmetry(family: TaskFamily, rng: np.random.Generator) -> AugmentationReport:
    """Refuse a family whose augmentation is not a symmetry of each of its tasks (see `check_augmentation`).

    An augmentation that is in doubt is accepted, with an `AugmentationWarning`.

    Returns:
        The report of an accepted augmentation.

    Raises:
        AugmentationError: The augmentation is refused. The message names the family, its group, the output field whose
            error grows most, and its two errors.

    """
    report = check_augmentation(family, rng)
    if not report.accepted:
        raise AugmentationError(
            f"family '{report.family}': {report.group} is not a symmetry of each of its tasks. Learned from a task's "
            f"own samples, the held-out error of '{report.field}' is {report.error_without:.2g} of its variance. With "
            f"augmented copies of these samples, it is {report.error_with:.2g}; a symmetry would not raise it. The "
            "likely cause is a mistake in the group, such as a missing minus sign or parts that do not change places. "
            "If the group is right, it is a property of the task that the group moves, such as one weak actuator: the "
            "copies then belong to another task. Give the network that property as an input which the group permutes, "
            "train without augmentation (--settings.no-augment), or set insist_on_augmentation to train anyway "
            "(--settings.insist-on-augmentation)."
        )
    if report.verdict == "in doubt":
        warnings.warn(report.doubt(), AugmentationWarning, stacklevel=2)
    return report


def _held_out_errors(
    features: Floats, wanted: Floats, training: NDArray[np.int64], held_out: slice, parts: list[slice]
) -> Floats:
    """Return MSE over variance, `(tasks, fields)`, at the bandwidth and ridge with the lowest error over all tasks."""
    variance = [wanted[:, held_out, part].var(1).mean() + 1e-12 for part in parts]
    settings = [(bandwidth, ridge) for bandwidth in BANDWIDTHS for ridge in RIDGES]
    errors = np.empty((len(settings), len(features), len(parts)))
    for task, (x, y) in enumerate(zip(features, wanted, strict=True)):
        mean = y[training].mean(0)
        for index, residual in enumerate(residuals(x[training], y[training] - mean, x[held_out], y[held_out] - mean)):
            errors[index, task] = [np.mean(residual[:, part] ** 2) / v for part, v in zip(parts, variance, strict=True)]
    errors += 1e-12
    return errors[np.log(errors).mean((1, 2)).argmin()]
