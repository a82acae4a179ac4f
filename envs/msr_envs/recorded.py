"""A family made from recorded data: a `.npz` file with the arrays `x` and `y`.

The first axis is the tasks, the second axis is the examples (samples) of a task:

    np.savez("drive.npz", x=x, y=y)  # x (tasks, examples, *x), y (tasks, examples, *y)

If `y` holds integers `(tasks, examples)`, they are labels from 0 on, and the loss is cross entropy. For any other `y`,
the loss is the mean squared error. The file may also hold:

* `split` `(tasks,)`: the split of each task, as `train`, `validation` and `test` or as 0, 1 and 2. Without it, the last
  tenth of the tasks is the test split and the tenth before it is the validation split, at least one task each.
* `x_names` `(fields,)`: the names of the fields in the vectors x. Without it, all of x is one field.
* `x_sizes` `(fields,)`: how many numbers each field takes. Without it, one each.
* `x_units` `(fields,)`: the unit of each field as text. Without it, `1`.
* `x_low` and `x_high` `(fields,)`: the bounds of each field, in its unit. Without them, the extremes of the data.
* `x_kinds` `(fields,)`: what each field is: `position`, `velocity`, `effort` or `other`. Without it, `other`.
* `x_wraps` `(fields,)`: one full turn of each field that is an angle, in its unit, and 0 for the others.
* `x_representations` `(fields,)`: how a symmetry group acts on each field, such as `vector` or `ring`, or a value of
  `msr_runtime.representation` as JSON. An empty text says nothing.
* `x_elements` `(numbers,)`: a name for each number of x, such as joints. Empty texts name nothing.
* `y_names`, `y_sizes` and so on: the same for y. Labels count as vectors
  with one number per class. The sizes of y may add up to more classes than occur in the file.
* `rate_hz`: one number, the control rate of the recorded robot in Hz. Bundles keep it.

Any other array is not read, and is named before training.

One call of `sample` repeats as little as possible: it draws a task twice only after it has drawn every task of the
split once, and a query twice only after it has drawn every example outside the support set once. Support and query sets
never share an example. The file is never unpickled. `msr dataset` makes such a file from a robot's recordings.
"""

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from msr_envs.npz import read_npz
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Field, Loss, Split, TaskBatch

_PARTS = ("names", "sizes", "units", "low", "high", "kinds", "wraps", "representations", "elements")
_ARRAYS = ("x", "y", "split", "rate_hz", *(f"{side}_{part}" for side in "xy" for part in _PARTS))


class Recorded:
    """The family of one file. It is read once and kept in memory as float32 (labels as int64).

    No symmetry of recorded data is known, so `augment` changes nothing. Train with `augment=False`. A class of
    your own that derives from `msr_envs.symmetry.DeclaredSymmetry` and from this one declares a group.

    Args:
        path: The `.npz` file. Its name without the ending is the family's name.

    Raises:
        FamilyError: The file is missing or damaged, or holds something other than this module describes.

    """

    query_sets: tuple[str, ...] = ("all",)

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name: str = self.path.stem
        arrays, ignored = _read(self.path)
        self.notes: tuple[str, ...] = ignored
        """What the file holds and nobody reads, as text for the user."""
        labels = arrays["y"].ndim == 2 and arrays["y"].dtype.kind in "iu"
        self.loss: Loss = "cross_entropy" if labels else "mse"
        self._x = _numbers(self.path, "x", arrays["x"])
        self._y = _labels(self.path, arrays["y"]) if labels else _numbers(self.path, "y", arrays["y"])
        if self._x.shape[:2] != self._y.shape[:2]:
            _fail(
                self.path,
                f"x has {' x '.join(map(str, self._x.shape[:2]))} tasks x examples and y "
                f"{' x '.join(map(str, self._y.shape[:2]))}, but they must be the same: tasks first, examples second",
            )
        self.examples: int = self._x.shape[1]
        self._tasks = _splits(self.path, len(self._x), arrays.get("split"))
        self.inputs: tuple[Field, ...] = _fields(self.path, "x", arrays, self._x.min((0, 1)), self._x.max((0, 1)))
        if labels:  # a label stands for a vector with a one at its class and zeros elsewhere
            classes = _classes(self._y, arrays.get("y_sizes"))
            low, high = np.zeros(classes), np.ones(classes)
        else:
            low, high = self._y.min((0, 1)), self._y.max((0, 1))
        self.outputs: tuple[Field, ...] = _fields(self.path, "y", arrays, low, high)
        self.rate_hz = _rate(self.path, arrays.get("rate_hz"))

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks of one split, and support and query examples of each task, with as few repeats as possible.

        Returns:
            x `(tasks, shots or queries, *x)` float32; y `(tasks, shots or queries, *y)` float32, or labels int64
            `(tasks, shots or queries)`.

        Raises:
            FamilyError: `split` is unknown or has no task, or a task has too few examples for `shots` and a query.

        """
        if split not in SPLITS:
            _fail(self.path, f"split '{split}' is unknown; use one of {', '.join(SPLITS)}")
        members, examples = self._tasks[split], self.examples
        if not len(members):
            _fail(self.path, f"the split '{split}' has no task; record more, or say in 'split' which belong to it")
        if shots + min(queries, 1) > examples:
            _fail(
                self.path,
                f"{shots} support and {queries} query examples were asked for, but each task has {examples}, and the "
                "two sets share no example; ask for fewer or record more",
            )
        rounds = -(-tasks // len(members))  # rounded up: each round draws every task once
        chosen = np.concatenate([rng.permutation(members) for _ in range(rounds)])[:tasks, None]
        drawn = rng.random((tasks, examples)).argsort(axis=1)
        support, others = drawn[:, :shots], drawn[:, shots:]
        query = others[:, np.arange(queries) % max(1, examples - shots)]
        x, y = self._x, self._y
        return TaskBatch(x[chosen, support], y[chosen, support], x[chosen, query], y[chosen, query])

    def count_tasks(self, split: Split) -> int:
        """Return how many tasks a split has."""
        return len(self._tasks[split])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: no symmetry of recorded data is known."""
        return x, y


def _read(path: Path) -> tuple[dict[str, NDArray], tuple[str, ...]]:
    """Return every array of the file that the module names, and a note for each other one, which is not read."""
    if not path.is_file():
        raise FamilyError(f"recorded data '{path}' does not exist (looked for {path.resolve()})")
    arrays, others = read_npz("recorded data", path, _ARRAYS)
    for name in "xy":
        if name not in arrays:
            _fail(path, f"the array '{name}' is missing; it holds {', '.join([*arrays, *others]) or 'nothing'}")
        if arrays[name].ndim < 2 or 0 in arrays[name].shape:
            _fail(
                path,
                f"{name} has the shape {arrays[name].shape}, but it must be (tasks, examples, ...) with no empty axis",
            )
    return arrays, tuple(map(_ignored, others))


def _ignored(name: str) -> str:
    close = difflib.get_close_matches(name, _ARRAYS, n=1)
    return f"array '{name}' is not read" + (f" (did you mean '{close[0]}'?)" if close else "")


def _numbers(path: Path, name: str, array: NDArray) -> NDArray[np.float32]:
    """Return the examples as float32. An example that is a single number becomes a vector of length 1."""
    if array.dtype.kind not in "fiu":
        _fail(path, f"{name} has the dtype {array.dtype}, but it must hold real numbers, such as float32")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    broken = ~np.isfinite(values)
    if broken.any():
        task, example = np.argwhere(broken)[0, :2]
        _fail(
            path,
            f"{name} holds {array[broken][0]} in task {task}, example {example}, and {broken.sum()} such values in "
            "all, but every value must be finite as float32; leave out the examples where a sensor gave none",
        )
    return values[..., None] if values.ndim == 2 else values


def _labels(path: Path, y: NDArray) -> NDArray[np.int64]:
    if y.min() < 0 or y.max() >= y.size:
        _fail(
            path,
            f"y holds integers from {y.min()} to {y.max()}, one an example, which makes them labels, but labels number "
            "the classes from 0 on; if these are measurements, store them as float32",
        )
    return y.astype(np.int64)


def _classes(y: NDArray, sizes: NDArray | None) -> int:
    """Return the number of classes: the largest label plus one, or the width of the file's fields of y if larger."""
    stated = int(sizes.sum()) if sizes is not None and sizes.dtype.kind in "iu" else 0
    return max(int(y.max()) + 1, stated if stated <= y.size else 0)


def _splits(path: Path, tasks: int, split: NDArray | None) -> dict[Split, NDArray[np.int64]]:
    """Return the numbers of the tasks of each split."""
    if split is None:
        tenth = max(1, tasks // 10)
        parts = np.split(np.arange(tasks), [max(0, tasks - 2 * tenth), max(0, tasks - tenth)])
        return dict(zip(SPLITS, parts, strict=True))
    if split.shape != (tasks,):
        _fail(path, f"split has the shape {split.shape}, but x and y hold {tasks} tasks, so it must be ({tasks},)")
    codes = {text: name for i, name in enumerate(SPLITS) for text in (name, str(i))}
    given = [str(value) for value in split.tolist()]
    unknown = [text for text in given if text not in codes]
    if unknown:
        _fail(path, f"split holds '{unknown[0]}', but each must be one of {', '.join(SPLITS)}, or 0, 1 or 2")
    return {name: np.flatnonzero([codes[text] == name for text in given]) for name in SPLITS}


def _rate(path: Path, rate: NDArray | None) -> float | None:
    if rate is None:
        return None
    if rate.ndim or rate.dtype.kind not in "fiu" or not 0 < rate < math.inf:
        _fail(path, f"rate_hz is {rate.tolist()!r}, but one number above 0 is wanted, in Hz")
    return float(rate)


def _fields(path: Path, side: str, arrays: Mapping[str, NDArray], low: NDArray, high: NDArray) -> tuple[Field, ...]:
    """Return the fields of one side, as the file describes them.

    `low` and `high` are the extremes of the data over all examples, in the shape of one example.
    """
    shape = low.shape
    names = _described(path, arrays, f"{side}_names", "U", None) or [side]
    count, total = len(names), math.prod(shape)
    if len(set(names)) < count:
        _fail(path, f"{side}_names holds {', '.join(names)}, but a name must be unique on its side")
    if count > 1 and len(shape) > 1:
        _fail(path, f"{side}_names names {count} fields, but only vectors have several, and an example is {shape}")
    sizes = _described(path, arrays, f"{side}_sizes", "iu", count) or ([total] if count == 1 else [1] * count)
    if min(sizes) < 1 or sum(sizes) != total:
        _fail(
            path,
            f"the fields of {side} take {' + '.join(map(str, sizes))} numbers, but each must take 1 or more and all of "
            f"them the {total} that an example has; {side}_names and {side}_sizes say how many",
        )
    units = _described(path, arrays, f"{side}_units", "U", count) or ["1"] * count
    starts = np.cumsum([0, *sizes[:-1]])
    lows = _described(path, arrays, f"{side}_low", "fiu", count)
    highs = _described(path, arrays, f"{side}_high", "fiu", count)
    smallest, largest = np.minimum.reduceat(low.ravel(), starts), np.maximum.reduceat(high.ravel(), starts)
    # a field that never changes still needs bounds that differ, as `Field` refuses equal ones
    margin = np.where(smallest < largest, 0.0, np.maximum(1.0, np.abs(largest)))
    lows, highs = lows or (smallest - margin).tolist(), highs or (largest + margin).tolist()
    kinds = _described(path, arrays, f"{side}_kinds", "U", count) or ["other"] * count
    turns = _described(path, arrays, f"{side}_wraps", "fiu", count) or [0.0] * count
    kinds_of_turning = _described(path, arrays, f"{side}_representations", "U", count) or [""] * count
    elements = _described(path, arrays, f"{side}_elements", "U", total) or [""] * total
    shapes = [shape] if count == 1 else [(size,) for size in sizes]
    try:
        return tuple(
            Field(
                name=name,
                shape=part,
                unit=unit,
                low=least,
                high=most,
                kind=kind,
                wraps=turn or None,
                names=tuple(filter(None, elements[start : start + size])),
                representation=_representation(turning),
            )
            for name, part, unit, least, most, kind, turn, start, size, turning in zip(
                names, shapes, units, lows, highs, kinds, turns, starts, sizes, kinds_of_turning, strict=True
            )
        )
    except ValueError as error:
        raise FamilyError(
            f"recorded data '{path}': its {side} does not describe fields: {error}; correct {side}_low, {side}_high, "
            f"{side}_kinds, {side}_wraps, {side}_representations or {side}_elements"
        ) from error


def _representation(text: str) -> Any:
    """Return what `Field` makes a representation of: the name of a kind, or its members. None if nothing is said."""
    return json.loads(text) if text.startswith("{") else text or None


def _described(path: Path, arrays: Mapping[str, NDArray], name: str, kinds: str, count: int | None) -> list[Any] | None:
    """Return the values of an optional array, one per field, or None if the file does not have the array."""
    array = arrays.get(name)
    if array is None:
        return None
    if array.ndim != 1 or len(array) != (count or len(array) or 1) or array.dtype.kind not in kinds:
        _fail(
            path,
            f"{name} has the shape {array.shape} and the dtype {array.dtype}, but it must be "
            f"({'fields' if count is None else count},) {'text' if kinds == 'U' else 'numbers'}, one a "
            + ("number" if name.endswith("elements") else "field"),
        )
    return array.tolist()


def _fail(path: Path, message: str) -> NoReturn:
    raise FamilyError(f"recorded data '{path}': {message}")
