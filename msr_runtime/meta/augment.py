"""Algorithm 2 of Zhou, Knowles and Finn (2021), and the test that an augmentation has to pass before it is trained on.

Augmented queries teach the outer loop what the group does to one and the same task. An augmentation that moves a task
onto another one, as a turn does to a robot with one weak leg, teaches something false instead, and training shows no
sign of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import AugmentationError
from msr_runtime.task import Field, SymmetricFamily, TaskBatch, TaskFamily, field_slices, width

Floats = NDArray[np.float64]

# What makes a refusal: by how much the error has to grow, how sure that must be, and from where on it matters.
_LEAST_RATIO = 1.2
_LEAST_T = 4.0
_LEAST_EXCESS = 1e-3

_TASKS, _TRAIN, _HELD_OUT, _COPIES = 24, 256, 256, 2
_BANDWIDTHS = (1.0, 3.0)
_RIDGES = (1e-6, 1e-4, 1e-2)
_BUMPS = np.linspace(-2.0, 2.0, 7)


@dataclass(frozen=True)
class AugmentationReport:
    """How well each task can be learned without and with augmented copies, told by samples that nobody augmented."""

    family: str
    """The family's name."""
    group: str
    """The group's name, or `its augmentation` if the family has no `group()`."""
    field: str
    """The output field whose error grows most."""
    error_without: float
    """That field's held-out error without augmented copies: MSE over variance, the geometric mean over the tasks."""
    error_with: float
    """The same with augmented copies among the training samples."""
    t: float
    """Student's t of the logarithm of the two errors' ratio, paired over the tasks."""

    @property
    def ratio(self) -> float:
        """How much the augmentation multiplies the error."""
        return self.error_with / self.error_without

    @property
    def accepted(self) -> bool:
        """Whether the augmentation may be trained on: the error grows little, not surely, or not by what matters."""
        excess = self.error_with - self.error_without
        return self.ratio < _LEAST_RATIO or self.t < _LEAST_T or excess < _LEAST_EXCESS


def augment_queries(family: TaskFamily, rng: np.random.Generator, batch: TaskBatch) -> TaskBatch:
    """Algorithm 2: the support stays as it was drawn, each query is augmented by a random group element of its own."""
    query_x, query_y = family.augment(rng, batch.query_x, batch.query_y)
    return batch._replace(query_x=query_x, query_y=query_y)


def augments(family: TaskFamily) -> bool:
    """Whether `family.augment` does anything: if nothing, it is a symmetry, and images would be long in the testing."""
    rng = np.random.default_rng(0)
    batch = family.sample(rng, 2, 1, 32 * len(family.query_sets), "train")
    x, y = family.augment(rng, batch.query_x.copy(), batch.query_y.copy())
    return not (np.array_equal(x, batch.query_x) and np.array_equal(y, batch.query_y))


def check_augmentation(family: TaskFamily, rng: np.random.Generator) -> AugmentationReport:
    """Ask whether `family.augment` is a symmetry of each single task, with no network and in a few seconds.

    Every task is learned twice by kernel ridge regression: from its own samples, and from the same with augmented
    copies of them. A symmetry's copies are true samples and can only help; copies that belong to another task do harm.
    Both are scored on further samples of the task that are not augmented. Samples come from the last of
    `family.query_sets`, the widest: an augmentation can be tested only where the un-augmented samples of a task overlap
    with its copies.
    """
    count = _TRAIN + _HELD_OUT
    batch = family.sample(rng, _TASKS, 1, count * len(family.query_sets), "train")
    x, y = batch.query_x[:, -count:], batch.query_y[:, -count:]
    copies = [family.augment(rng, x[:, :_TRAIN], y[:, :_TRAIN]) for _ in range(_COPIES)]
    features = _scaled(family.inputs, np.concatenate([x, *(copy_x for copy_x, _ in copies)], 1))
    targets = _targets(family, np.concatenate([y, *(copy_y for _, copy_y in copies)], 1))

    held_out = slice(_TRAIN, count)
    own = np.arange(_TRAIN)
    own_and_copies = np.concatenate([own, np.arange(count, features.shape[1])])
    parts = list(field_slices(family.outputs).values())
    without = _held_out_errors(features, targets, own, held_out, parts)
    with_copies = _held_out_errors(features, targets, own_and_copies, held_out, parts)

    growth = np.log(with_copies / without)
    t = growth.mean(0) / np.maximum(growth.std(0, ddof=1) / np.sqrt(_TASKS), 1e-12)
    reports = [
        AugmentationReport(
            family=family.name,
            group=f"the group {family.group().name}" if isinstance(family, SymmetricFamily) else "its augmentation",
            field=field.name,
            error_without=float(np.exp(np.log(without[:, i]).mean())),
            error_with=float(np.exp(np.log(with_copies[:, i]).mean())),
            t=float(t[i]),
        )
        for i, field in enumerate(family.outputs)
    ]
    return max(reports, key=lambda report: (not report.accepted, report.ratio))


def require_symmetry(family: TaskFamily, rng: np.random.Generator) -> AugmentationReport:
    """Refuse a family whose augmentation is no symmetry of each of its tasks (see `check_augmentation`).

    Raises:
        AugmentationError: naming the family, its group, the output field that suffers most and its two errors.
    """
    report = check_augmentation(family, rng)
    if not report.accepted:
        raise AugmentationError(
            f"family '{report.family}': {report.group} is no symmetry of its tasks. Learned from a task's own "
            f"samples, the held-out error of '{report.field}' is {report.error_without:.2g} of its variance; with "
            f"augmented copies it is {report.error_with:.2g}, where a symmetry would not raise it. The likely cause "
            "is something in the task that the group moves, such as one weak actuator, so that the copies belong to "
            "another task. Give the network that property as an input which the group permutes or, to train all the "
            "same, set insist_on_augmentation (--settings.insist-on-augmentation)."
        )
    return report


def _scaled(fields: Sequence[Field], x: NDArray) -> Floats:
    # x (tasks, samples, *x) as vectors, each field divided by its root mean square: a group that acts within the fields
    # leaves this scale alone
    features = x.reshape(*x.shape[:2], -1).astype(np.float64)
    for part in field_slices(fields).values():
        features[..., part] /= np.sqrt(np.mean(features[..., part] ** 2)) + 1e-12
    return features


def _targets(family: TaskFamily, y: NDArray) -> Floats:
    if family.loss == "cross_entropy":
        return np.eye(width(family.outputs))[y.reshape(*y.shape[:2])]
    return y.reshape(*y.shape[:2], -1).astype(np.float64)


def _held_out_errors(
    features: Floats, targets: Floats, training: NDArray[np.int64], held_out: slice, parts: list[slice]
) -> Floats:
    """MSE over variance, `(tasks, fields)`, at the bandwidth and ridge that suit the family best."""
    variance = [targets[:, held_out, part].var(1).mean() + 1e-12 for part in parts]
    settings = [(bandwidth, ridge) for bandwidth in _BANDWIDTHS for ridge in _RIDGES]
    errors = np.empty((len(settings), len(features), len(parts)))
    for task, (x, y) in enumerate(zip(features, targets, strict=True)):
        mean = y[training].mean(0)
        for index, residual in enumerate(_residuals(x[training], y[training] - mean, x[held_out], y[held_out] - mean)):
            errors[index, task] = [np.mean(residual[:, part] ** 2) / v for part, v in zip(parts, variance, strict=True)]
    errors += 1e-12
    return errors[np.log(errors).mean((1, 2)).argmin()]


def _residuals(x: Floats, y: Floats, asked: Floats, wanted: Floats) -> list[Floats]:
    # What robots do is largely a sum of a linear part and of curves in single inputs (thrusters, beams): the kernel
    # offers both beside a general one, and so learns a task from few samples.
    curves, asked_curves = _curves(x), _curves(asked)
    size = x.shape[1]
    additive, asked_additive = curves @ curves.T / size, asked_curves @ curves.T / size
    square, asked_square = _square_distances(x, x) / size, _square_distances(asked, x) / size
    residuals = []
    for bandwidth in _BANDWIDTHS:
        kernel = additive + np.exp(-square / (2 * bandwidth**2))
        asked_kernel = asked_additive + np.exp(-asked_square / (2 * bandwidth**2))
        for ridge in _RIDGES:
            weights = np.linalg.solve(kernel + ridge * np.eye(len(x)), y)
            residuals.append(asked_kernel @ weights - wanted)
    return residuals


def _curves(x: Floats) -> Floats:
    bumps = np.exp(-((x[..., None] - _BUMPS) ** 2) / 0.5)
    return np.concatenate([x, bumps.reshape(len(x), -1)], 1)


def _square_distances(a: Floats, b: Floats) -> Floats:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0.0)
