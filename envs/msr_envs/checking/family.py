"""`check_family`: does an object keep the `TaskFamily` contract? It tells before hours of training are spent."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from msr_envs.checking.declaration import contradiction
from msr_envs.checking.doubts import doubts
from msr_envs.checking.episodes import check_episodes
from msr_envs.checking.group import check_action, check_group
from msr_runtime.errors import FamilyError, FamilyWarning, MsrError
from msr_runtime.families import EpisodicFamily, FiniteFamily, rows_per_sample
from msr_runtime.task import (
    SLACK,
    SPLITS,
    ClosedLoop,
    ClosedLoopFamily,
    DeclaredFamily,
    Field,
    Group,
    Loss,
    Split,
    SymmetricFamily,
    TaskBatch,
    TaskFamily,
    field_slices,
    sample_shape,
    width,
)

_MEMBERS = ("name", "inputs", "outputs", "loss", "query_sets", "sample", "augment")
_SIZES = ((1, 1, 1), (2, 3, 2), (3, 10, 16))
"""Sizes of the batches that are drawn: tasks, shots, and queries per query set."""
_FARTHEST = 0.5
"""How far an augmented value may lie outside its field's bounds, as a share of `high - low`. Turning the corner of a
square or of a cube goes 0.21 or 0.37 beyond; a sign that the bounds do not allow goes up to 1 beyond."""

T = TypeVar("T")


def check_family(family: object, closed_loop: bool = False) -> str:
    """Check the members, fields, samples, splits, augmentation and group of a family.

    It does not check whether the augmentation is a symmetry of each task: `msr_runtime.meta.check_augmentation` does,
    and `prepare` calls it before training. A `group()` that is written by hand is compared with the `representation` of
    the fields; where they disagree, a `FamilyWarning` says so. So it does where queries repeat the support set, and
    where a field uses less than a hundredth of its declared range.

    Args:
        family: The object to check.
        closed_loop: Check `rate_hz` and `evaluate` too. This drives two tasks twice.

    Returns:
        A sentence that all is well and, where the fields say how they turn, what that means, in words.

    Raises:
        FamilyError: At the first broken rule. The message says which value was seen, which value is wanted, and the
            likely cause. Where the family's own code fails, the message names file and line.

    Example:
        >>> from msr_envs import check_family, load_family
        >>> print(check_family(load_family("ring-nav")).splitlines()[0])
        family 'ring-nav' keeps the contract, group C16
        >>> check_family("ring-nav")
        Traceback (most recent call last):
        msr_runtime.errors.FamilyError: 'ring-nav' is not a TaskFamily: it lacks name, inputs, ...

    """
    checked = require_members(family)
    _check_attributes(checked)
    for sizes in _sizes(checked):
        batches = [_sample(checked, 0, sizes, split) for split in SPLITS]
        for split, batch in zip(SPLITS, batches, strict=True):
            _check_batch(checked, batch, sizes, split)
    for doubt in doubts(checked, batches):  # the last sizes are the largest
        warnings.warn(f"family '{checked.name}': {doubt}", FamilyWarning, stacklevel=2)
    _check_randomness(checked)
    _check_augment(checked)
    if isinstance(checked, EpisodicFamily):
        _call(checked, "episodes, sample, warps or augment", lambda: check_episodes(checked))
    if closed_loop:
        _check_closed_loop(checked)
    words = f"family '{checked.name}' keeps the contract"
    if isinstance(checked, SymmetricFamily):
        words += f", group {checked.group().name}"
    return "\n".join([words, *(checked.symmetry_in_words() if isinstance(checked, DeclaredFamily) else ())])


def require_members(family: object) -> TaskFamily:
    """Return the same object, if it has every member of `TaskFamily`.

    Raises:
        FamilyError: Members are missing, which the message names; `sample` or `augment` cannot be called; or the object
            is a class.

    """
    if isinstance(family, type):
        raise FamilyError(f"{family!r} is a class, but an instance is wanted: call it, {family.__name__}()")
    missing = [member for member in _MEMBERS if not _has(family, member)]
    if missing:
        hint = "; without a symmetry, `augment` returns x and y as they are" if "augment" in missing else ""
        raise FamilyError(
            f"{_shown(family)} is not a TaskFamily: it lacks {', '.join(missing)}; add these members{hint}"
        )
    if not isinstance(family, TaskFamily):
        raise FamilyError(
            f"{_shown(family)} is not a TaskFamily: sample or augment cannot be called, but both must be methods"
        )
    return family


def _has(family: object, member: str) -> bool:
    try:
        getattr(family, member)
    except AttributeError as error:
        if inspect.getattr_static(family, member, None) is None:
            return False
        raise FamilyError.raised(family, member, error) from error  # it is there, and its own code fails
    except MsrError:
        raise
    except Exception as error:
        raise FamilyError.raised(family, member, error) from error
    return True


def _sizes(family: TaskFamily) -> list[tuple[int, int, int]]:
    if not isinstance(family, FiniteFamily):
        return list(_SIZES)
    examples: Any = family.examples
    if not isinstance(examples, int) or examples < 2:
        _fail(family, f"examples is {examples!r}, but it must be a whole number of at least 2: a sample and a query")
    return [(tasks, min(shots, examples - 1), queries) for tasks, shots, queries in _SIZES]


def _shown(family: object) -> str:
    """The object in an error: an object without a text of its own by its class, not by its address."""
    return f"a {type(family).__qualname__}" if type(family).__repr__ is object.__repr__ else repr(family)


def _check_attributes(family: TaskFamily) -> None:
    if not isinstance(family.name, str) or not family.name:
        raise FamilyError(f"a family's name is {family.name!r}, but it must be a text that is not empty; set `name`")
    if family.loss not in get_args(Loss):
        _fail(family, f"loss is {family.loss!r}, but it must be one of {', '.join(get_args(Loss))}")
    rate: Any = getattr(family, "rate_hz", None)
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        _fail(
            family,
            f"rate_hz is {rate!r}, but it must be a finite number above 0, the control rate in Hz; correct it, or "
            "leave it out",
        )
    sets: Any = family.query_sets
    if (
        not isinstance(sets, tuple)
        or not sets
        or len(set(sets)) < len(sets)
        or not all(isinstance(s, str) for s in sets)
    ):
        _fail(
            family, f"query_sets is {sets!r}, but it must be a tuple of one or more different names (a comma missing?)"
        )
    for side in ("inputs", "outputs"):
        fields: Any = getattr(family, side)
        if not isinstance(fields, tuple) or not fields or not all(isinstance(field, Field) for field in fields):
            _fail(family, f"{side} is {fields!r}, but it must be a tuple of one or more Field (a comma missing?)")
        names = [field.name for field in fields]
        for name in names:
            if names.count(name) > 1:
                _fail(
                    family,
                    f"{side} holds {names.count(name)} fields named '{name}', but a name must be unique on its side",
                )


def _check_batch(family: TaskFamily, batch: TaskBatch, sizes: tuple[int, int, int], split: Split) -> None:
    if not isinstance(batch, tuple) or getattr(batch, "_fields", None) != TaskBatch._fields:
        _fail(family, f"sample returned {type(batch).__name__}, but it must return a TaskBatch")
    tasks, shots, queries = sizes[0], sizes[1], sizes[2] * len(family.query_sets)
    labels = family.loss == "cross_entropy"
    for part, array in batch._asdict().items():
        call = f"sample(tasks={tasks}, shots={shots}, queries={queries}, split='{split}')"
        is_x = part.endswith("_x")
        lead = (tasks, (shots if part.startswith("support") else queries) * rows_per_sample(family))
        shape = sample_shape(family.inputs if is_x else family.outputs) if is_x or not labels else ()
        wanted = (*lead, *shape)
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            _fail(
                family,
                f"{call} gave {part} as a {type(array).__name__}, but a plain numpy array is wanted; end sample with "
                "np.asarray(...), and leave out samples of which a value is masked",
            )
        if array.shape != wanted:
            _fail(
                family,
                f"{call} gave {part} the shape {np.shape(array)}, but it must be {wanted}; the "
                "likely cause is an axis that is missing or in another place, or a field's shape that is not what "
                "the samples hold",
            )
        dtype = np.int64 if labels and not is_x else np.float32
        if array.dtype != dtype:
            _fail(
                family,
                f"{call} gave {part} the dtype {array.dtype}, but it must be {np.dtype(dtype)}; the likely cause is an "
                f"`.astype(np.{np.dtype(dtype)})` that is missing at the end of sample",
            )
        if not np.isfinite(array).all():
            _fail(
                family,
                f"{call} put {array[~np.isfinite(array)][0]} into {part}, but every value must be finite; the likely "
                "cause is a division by zero or a simulation that blew up",
            )
        if is_x or not labels:
            _check_bounds(family, family.inputs if is_x else family.outputs, array.reshape(*lead, -1), part)
        elif array.min() < 0 or array.max() >= width(family.outputs):
            _fail(
                family,
                f"{part} holds labels from {array.min()} to {array.max()}, but they must lie in 0 to "
                f"{width(family.outputs) - 1}: the outputs' width is the number of classes",
            )


def _check_bounds(family: TaskFamily, fields: Sequence[Field], array: NDArray, part: str) -> None:
    for field in fields:
        values = array[..., field_slices(fields)[field.name]]
        slack = SLACK * (field.high - field.low)  # infinite if a bound is infinite: any value then passes
        for value in (float(values.min()), float(values.max())):
            if value < field.low - slack or value > field.high + slack:
                _fail(
                    family,
                    f"{part} holds {value:.4g} {field.unit} in field '{field.name}', far outside its bounds "
                    f"{field.low:g} to {field.high:g}; the likely cause is another unit, fields in another order, or "
                    "bounds that are too narrow",
                )


def _check_randomness(family: TaskFamily) -> None:
    sizes = (3, 2, 2)
    first = _sample(family, 0, sizes, "train")
    if not _same(first, _sample(family, 0, sizes, "train")):
        _fail(
            family,
            "sample gave different batches for equal generators; the likely cause is a random number from elsewhere "
            "than `rng` (np.random, random, a generator kept in the family) or a state that one call leaves to the "
            "next",
        )
    if _same(first, _sample(family, 1, sizes, "train")):
        _fail(
            family,
            "sample gave the same batch for differently seeded generators; the likely cause is that `rng` is not used",
        )
    drawn: dict[bytes, Split] = {}
    for split in SPLITS:
        batch = _sample(family, 0, sizes, split)
        for task in range(sizes[0]):
            key = b"".join(array[task].tobytes() for array in batch)
            if drawn.setdefault(key, split) != split:
                _fail(
                    family,
                    f"splits '{drawn[key]}' and '{split}' share a task when the generators are equal, but splits must "
                    "be disjoint; the likely cause is a `split` that sample does not use: make it part of the seed "
                    "or of the ranges",
                )


def _check_augment(family: TaskFamily) -> None:
    batch = _sample(family, 0, (2, 1, 32), "train")
    given = (batch.query_x.copy(), batch.query_y.copy())
    first = _augment(family, *given)
    for side, before, kept, after in zip("xy", (batch.query_x, batch.query_y), given, first, strict=True):
        if not np.array_equal(before, kept):
            _fail(
                family, f"augment wrote into the {side} it was given, but must leave it alone: let it return new arrays"
            )
        if not isinstance(after, np.ndarray) or after.shape != before.shape or after.dtype != before.dtype:
            seen = f"{np.shape(after)} {getattr(after, 'dtype', type(after).__name__)}"
            _fail(
                family,
                f"augment turned {side} {before.shape} {before.dtype} into {seen}, but shape and dtype must be kept; "
                "the likely cause is a product with float64 matrices, or an axis that was summed over",
            )
        if not np.isfinite(after).all():
            _fail(family, f"augment put values into {side} that are not finite")
    _check_augmented_bounds(family, *first)
    if not all(np.array_equal(a, b) for a, b in zip(first, _augment(family, *given), strict=True)):
        _fail(
            family,
            "augment gave different results for equal generators; the likely cause is a random number from elsewhere "
            "than `rng` (np.random, random, a generator kept in the family)",
        )
    if isinstance(family, SymmetricFamily):
        group = _call(family, "group()", family.group)
        if not isinstance(group, Group):
            _fail(
                family,
                f"group returned {type(group).__name__}, but it must return a Group: inputs and outputs as "
                "matrices (order, width, width)",
            )
        check_group(family.name, group, width(family.inputs), width(family.outputs))
        if (said := contradiction(family, group)) is not None:
            warnings.warn(said, FamilyWarning, stacklevel=3)
        if not (isinstance(family, DeclaredFamily) and family.turns_freely):  # no element of the sample turns so
            check_action(family.name, group, _vectors(family, *given), _vectors(family, *first), tasks=2)
    moves = not all(map(np.array_equal, first, given))
    if moves and all(map(np.array_equal, first, _augment(family, *given, seed=1))):
        _fail(
            family,
            "augment gave the same result for differently seeded generators; the likely cause is that `rng` is not "
            "used",
        )


def _check_augmented_bounds(family: TaskFamily, x: NDArray, y: NDArray) -> None:
    sides = [(family.inputs, x)] + ([(family.outputs, y)] if family.loss != "cross_entropy" else [])
    for fields, array in sides:
        rows = array.reshape(-1, width(fields))
        for field in fields:
            reach = _FARTHEST * (field.high - field.low)
            values = rows[:, field_slices(fields)[field.name]]
            if values.min() < field.low - reach or values.max() > field.high + reach:
                _fail(
                    family,
                    f"augment gave values from {values.min():.4g} to {values.max():.4g} {field.unit} in field "
                    f"'{field.name}', far outside its bounds {field.low:g} to {field.high:g}; the likely cause is a "
                    "sign that the robot cannot have there, or bounds that are not as symmetric as the group",
                )


def _check_closed_loop(family: TaskFamily) -> None:
    if not isinstance(family, ClosedLoopFamily):
        _fail(family, "the closed loop was to be checked, but rate_hz or evaluate is missing")
    drive = lambda: family.evaluate(None, np.random.default_rng(0), 2, "validation")  # noqa: E731
    first, second = (_call(family, "evaluate(None, rng, 2, 'validation')", drive) for _ in range(2))
    if not isinstance(first, ClosedLoop):
        _fail(family, f"evaluate returned {type(first).__name__}, but it must return a ClosedLoop")
    if np.shape(first.values) != (2,) or not np.isfinite(first.values).all():
        _fail(
            family,
            f"evaluate gave values {first.values!r} for 2 tasks, but there must be one finite figure a task, shape "
            "(2,); the likely cause is a mean that is missing over the episodes, or that was taken over the tasks as "
            "well",
        )
    if not np.array_equal(first.values, second.values):
        _fail(
            family, "evaluate gave different values for equal generators, so controllers could not be compared in pairs"
        )


def _sample(family: TaskFamily, seed: int, sizes: tuple[int, int, int], split: Split) -> TaskBatch:
    tasks, shots, queries = sizes[0], sizes[1], sizes[2] * len(family.query_sets)
    return _call(
        family,
        f"sample(rng, {tasks}, {shots}, {queries}, '{split}')",
        lambda: family.sample(np.random.default_rng(seed), tasks, shots, queries, split),
    )


def _augment(family: TaskFamily, x: NDArray, y: NDArray, seed: int = 0) -> tuple[NDArray, NDArray]:
    pair: Any = _call(family, "augment(rng, x, y)", lambda: family.augment(np.random.default_rng(seed), x, y))
    if not isinstance(pair, tuple) or len(pair) != 2:
        _fail(family, f"augment returned {type(pair).__name__}, but it must return the pair (x, y)")
    return pair


def _call(family: TaskFamily, call: str, function: Callable[[], T]) -> T:
    """Call the family's own code, and name file and line if it fails."""
    try:
        return function()
    except MsrError:
        raise
    except Exception as error:
        raise FamilyError.raised(family, call, error) from error


def _vectors(family: TaskFamily, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    # A label stands for a vector with a one at its class and zeros elsewhere. The group permutes the classes.
    flat_y = np.eye(width(family.outputs))[y] if family.loss == "cross_entropy" else y
    return x.reshape(-1, width(family.inputs)), flat_y.reshape(-1, width(family.outputs))


def _same(a: TaskBatch, b: TaskBatch) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def _fail(family: TaskFamily, message: str) -> NoReturn:
    raise FamilyError(f"family '{family.name}': {message}")
