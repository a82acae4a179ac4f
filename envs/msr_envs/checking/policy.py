"""`check_policy`: does a policy have the symmetry that a family declares? If not, which field does not fit?

A mirror that is written by hand can be wrong, and nobody may notice: the data is augmented with it, and the network is
measured with it. A policy that was made without it can show the mistake. It may come from anywhere: only its
predictions are needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.symmetry import DeclaredSymmetry
from msr_runtime.errors import FamilyError
from msr_runtime.families import FiniteFamily, rows_per_sample
from msr_runtime.task import Field, Predict, SymmetricFamily, TaskFamily, as_matrices, field_slices

HOLDS, BROKEN = 0.1, 0.3
"""Errors up to the first are those of a network that learned the symmetry; above the second it is broken."""
_BETTER = 0.5
"""A field is named as the one that does not fit, if another action on it leaves so much of the error or less."""
_TASKS, _SAMPLES = 16, 32
_MOST_ELEMENTS = 8
"""Elements of a group that names no generators, which are tested."""
_MOST_SIGNS = 32
"""In a field of more numbers, the sign of each single one is not tried."""

Action = NDArray[np.float64]
"""What an element does to one field, `(n, n)`."""


class Other(NamedTuple):
    """Another action on one field, with which the policy would have the symmetry, or nearly."""

    field: str
    """The field, with its side: `input yaw_rate`."""
    words: str
    """What the element would do to it, such as `changed its sign`."""
    error: float
    """The largest error that would be left, over the output fields."""


@dataclass(frozen=True)
class ElementReport:
    """What was found of one generator, or of one element of a group that names no generators."""

    name: str
    """Its name, such as `mirror` or `turn by 60°`."""
    errors: dict[str, float]
    """Output field to its error. 0 is an exact symmetry. 1 says that the prediction for a turned input is as far from
    the turned prediction as two predictions for unrelated inputs are from each other."""
    other: Other | None
    """The single change of the declaration that leaves the least error, if it leaves much less."""

    @property
    def broken(self) -> bool:
        """Whether an output field breaks it."""
        return not max(self.errors.values()) <= BROKEN

    def __str__(self) -> str:
        said = ", ".join(f"{name} {error:.2g} {_verdict(error)}" for name, error in self.errors.items())
        if self.other is not None:
            said += (
                f"; the {self.other.field} does not fit: if it {self.other.words}, at most {self.other.error:.2g} "
                "would be left"
            )
        return f"{self.name}: {said}"


@dataclass(frozen=True)
class PolicyReport:
    """The result of `check_policy`. As text, it has a line for each generator of the group."""

    family: str
    """The family's name."""
    elements: tuple[ElementReport, ...]
    """Each generator, or some elements of a group that names none."""

    @property
    def broken(self) -> bool:
        """Whether an element of the group is broken."""
        return any(element.broken for element in self.elements)

    def __str__(self) -> str:
        return "\n".join(map(str, self.elements))


def check_policy(predict: Predict, family: TaskFamily, rng: np.random.Generator) -> PolicyReport:
    """Measure how well a policy keeps the symmetry that a family declares, field by field.

    The error of an output field is `rms |f(g x) - g f(x)|` over `√2 rms |f(x) - mean f|`, for each generator g of the
    group. Where it is large, g is tried with another action on one field at a time: with the opposite sign, with the
    field left as it is, with parts in other places, with the sign of one number changed, turned the other way. If one
    of these leaves much less of the error, that field is what the policy and the declaration disagree on.

    Args:
        predict: The policy f, x `(samples, *x)` to y `(samples, *y)`, in the family's units. It must not adapt.
        family: The family, with a group. Its validation tasks give the samples.
        rng: Source of the samples.

    Returns:
        The report. It says nothing about whether the group is a symmetry of the tasks: `msr train` tests that.

    Raises:
        FamilyError: The family has no group, or the policy's predictions do not have its shape.

    Example:
        Two policies that drive to the goal. In the second, the robot's y points to the right:

        >>> import numpy as np
        >>> from msr_envs import check_policy, load_family
        >>> family, rng = load_family("ring-nav"), np.random.default_rng(0)
        >>> print(check_policy(lambda x: x[:, -2:] * 0.5, family, rng))
        turn by 22.5°: velocity ... holds
        >>> print(check_policy(lambda x: x[:, -2:] * [0.5, -0.5], family, rng))
        turn by 22.5°: velocity 0.5... BROKEN; the input goal does not fit: if it turned the other way, at most ...

    """
    if not isinstance(family, SymmetricFamily):
        raise FamilyError(
            f"family '{family.name}' has no group, so there is no symmetry to compare the policy with; let it derive "
            "from msr_envs.symmetry.DeclaredSymmetry, and say with each field how the group acts on it"
        )
    sets, samples = len(family.query_sets), _SAMPLES
    if isinstance(family, FiniteFamily):
        samples = max(1, min(samples, (family.examples - 1) // sets))
    batch = family.sample(rng, _TASKS, 1, samples * sets, "validation")
    x = batch.query_x[:, -samples * rows_per_sample(family) :].reshape(-1, *batch.query_x.shape[2:])
    policy = _Policy(predict, family, x)
    return PolicyReport(family.name, tuple(policy.element(*each) for each in _elements(family)))


def _elements(family: SymmetricFamily) -> list[tuple[str, Action, Action]]:
    """Name, action on x and action on y of each generator, or of the first elements."""
    group = family.group()
    if isinstance(family, DeclaredSymmetry):
        symmetry = family.symmetry
        numbers = {str(each): symmetry.words.index((i,)) for i, each in enumerate(symmetry.generators)}
    else:
        numbers = {f"element {i} of {group.name}": i for i in range(1, min(group.order, _MOST_ELEMENTS + 1))}
    return [(name, as_matrices(group.inputs[i : i + 1])[0], group.outputs[i]) for name, i in numbers.items()]


class _Policy:
    """A policy on some samples, and its predictions."""

    def __init__(self, predict: Predict, family: TaskFamily, x: NDArray) -> None:
        self._predict, self._family, self._shape, self._dtype = predict, family, x.shape, x.dtype
        self._parts = field_slices(family.outputs)
        self._x = x.reshape(len(x), -1).astype(np.float64)
        self._y = self._answer(self._x)
        # two predictions that have nothing to do with each other are √2 deviations apart
        deviation = {name: self._y[:, part].std(0) for name, part in self._parts.items()}
        self._sizes = {name: max(np.sqrt(2 * np.square(each).sum()), 1e-12) for name, each in deviation.items()}

    def element(self, name: str, on_x: Action, on_y: Action) -> ElementReport:
        """Measure one element, and look for another action on one field if it is not kept."""
        turned = self._answer(self._x @ on_x.T)
        errors = self._errors(turned, on_y)
        worst = max(errors.values())
        if worst <= HOLDS:
            return ElementReport(name, errors, None)
        found = [
            Other(f"input {field.name}", words, max(self._errors(self._answer(self._x @ other.T), on_y).values()))
            for field, words, other in _others(self._family.inputs, on_x)
        ]
        found += [
            Other(f"output {field.name}", words, max(self._errors(turned, other).values()))
            for field, words, other in _others(self._family.outputs, on_y)
        ]
        best = min(found, key=lambda other: other.error, default=None)
        return ElementReport(name, errors, best if best is not None and best.error <= _BETTER * worst else None)

    def _errors(self, turned: NDArray, on_y: Action) -> dict[str, float]:
        apart = turned - self._y @ on_y.T
        return {
            name: float(np.sqrt(np.square(apart[:, part]).sum(1).mean()) / self._sizes[name])
            for name, part in self._parts.items()
        }

    def _answer(self, vectors: NDArray) -> NDArray:
        y = np.asarray(self._predict(vectors.reshape(self._shape).astype(self._dtype)), np.float64)
        wanted = sum(field.size for field in self._family.outputs)
        if y.size != len(vectors) * wanted or not np.isfinite(y).all():
            raise FamilyError(
                f"the policy gave predictions of shape {y.shape} for {len(vectors)} samples"
                + (", some of them not finite" if not np.isfinite(y).all() else "")
                + f", but family '{self._family.name}' has {wanted} finite numbers in each y; the likely cause is "
                "another policy, or inputs in other units or another order"
            )
        return y.reshape(len(vectors), -1)


def _others(fields: Sequence[Field], matrix: Action) -> Iterator[tuple[Field, str, Action]]:
    """Every other action on one field: the field, the action in words, and the whole matrix with it."""
    for name, part in field_slices(fields).items():
        field = next(field for field in fields if field.name == name)
        block, seen = matrix[part, part], [matrix[part, part]]
        for words, other in _actions(field, block):
            if not any(np.allclose(other, each) for each in seen):
                seen.append(other)
                whole = matrix.copy()
                whole[part, part] = other
                yield field, words, whole


def _actions(field: Field, block: Action) -> Iterator[tuple[str, Action]]:
    size = len(block)
    yield "stayed as it is", np.eye(size)
    yield ("changed its sign" if np.allclose(block, np.eye(size)) else "had the opposite sign"), -block
    yield "changed its sign alone, and no number its place", -np.eye(size)
    yield "turned the other way", block.T
    for words, order in _places(size):
        yield f"had {words}", np.eye(size)[order]
        yield f"had {words}, and changed its sign", -np.eye(size)[order]
    if 1 < size <= _MOST_SIGNS:
        for number in range(size):
            other = block.copy()
            other[:, number] *= -1
            named = field.names[number] if field.names else f"{field.name}[{number}]"
            yield f"had the opposite sign in {named}", other


def _places(size: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Usual ways in which numbers change places in a mirror."""
    if size > 1:
        yield "its numbers in reverse", np.arange(size)[::-1]
    if size > 2 and size % 2 == 0:
        yield "its halves swapped", np.roll(np.arange(size), size // 2)
        yield "its neighbors swapped", np.arange(size).reshape(-1, 2)[:, ::-1].ravel()
    if size > 2:
        yield "its numbers in reverse, but for the first", np.r_[0, np.arange(1, size)[::-1]]


def _verdict(error: float) -> str:
    return "holds" if error <= HOLDS else "nearly holds" if error <= BROKEN else "BROKEN"
