"""A family made of recorded data: a `.npz` file with the arrays `x` and `y`, tasks first and examples second.

    np.savez("drive.npz", x=x, y=y)  # x (tasks, examples, *x), y (tasks, examples, *y)

`y` of integers `(tasks, examples)` holds labels from 0 on and is trained with cross entropy; any other `y` is trained
with the mean squared error. The file may further hold:

* `split` `(tasks,)`: each task's split, as `train`, `validation` and `test` or as 0, 1 and 2. Without it the last tenth
  of the tasks is for testing and the tenth before it for validation, one task each at least.
* `x_names` `(fields,)`: the names of the fields that the vectors x consist of, and likewise `x_sizes` (how many numbers
  each takes, 1 without it), `x_units` (`1` without it), `x_low` and `x_high` (the data's extremes without them).
  Without names all of x is one field. The same for `y`, where labels stand for vectors of one number a class; its sizes
  may then add up to more classes than the file has examples of.
* `rate_hz`: one number, the control rate of the robot that was recorded, which bundles keep.

In one call of `sample` no task is drawn twice before all of its split have been drawn once, and no query twice before
all examples beside the support have been; support and query never share an example. Nothing in it is ever unpickled.
`msr dataset` makes such a file of a robot's recordings.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Field, Loss, Split, TaskBatch

_PARTS = ("names", "sizes", "units", "low", "high")
_ARRAYS = ("x", "y", "split", "rate_hz", *(f"{side}_{part}" for side in "xy" for part in _PARTS))


class Recorded:
    """The family of one file, read once and held in memory as float32 (labels int64).

    No symmetry of the data is known, so there is no augmentation: train with `augment=False`.

    Raises:
        FamilyError: if the file is missing, damaged, or holds anything else than the module says.
    """

    query_sets: tuple[str, ...] = ("all",)

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name: str = self.path.stem
        arrays = _read(self.path)
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
        self._tasks = _splits(self.path, len(self._x), arrays.get("split"))
        self.inputs: tuple[Field, ...] = _fields(self.path, "x", arrays, self._x.min((0, 1)), self._x.max((0, 1)))
        if labels:  # they stand for vectors of zeros and a one, as long as there are classes
            classes = _classes(self._y, arrays.get("y_sizes"))
            low, high = np.zeros(classes), np.ones(classes)
        else:
            low, high = self._y.min((0, 1)), self._y.max((0, 1))
        self.outputs: tuple[Field, ...] = _fields(self.path, "y", arrays, low, high)
        self.rate_hz = _rate(self.path, arrays.get("rate_hz"))

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks of one split, and of each task support and query examples, with as few repeats as there can be.

        Raises:
            FamilyError: if the split has no task, a task not one example more than `shots`, or `split` is unknown.
        """
        if split not in SPLITS:
            _fail(self.path, f"split '{split}' is unknown; use one of {', '.join(SPLITS)}")
        members, examples = self._tasks[split], self._x.shape[1]
        if not len(members):
            _fail(self.path, f"the split '{split}' has no task; record more, or say in 'split' which belong to it")
        if shots + min(queries, 1) > examples:
            _fail(
                self.path,
                f"{shots} support and {queries} query examples were asked for, but each task has {examples}, and the "
                "two share none; ask for fewer or record more",
            )
        rounds = -(-tasks // len(members))
        chosen = np.concatenate([rng.permutation(members) for _ in range(rounds)])[:tasks, None]
        drawn = rng.random((tasks, examples)).argsort(axis=1)
        support, others = drawn[:, :shots], drawn[:, shots:]
        query = others[:, np.arange(queries) % max(1, examples - shots)]
        x, y = self._x, self._y
        return TaskBatch(x[chosen, support], y[chosen, support], x[chosen, query], y[chosen, query])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: no symmetry of recorded data is known."""
        return x, y


def _read(path: Path) -> dict[str, NDArray]:
    """Every array of the file, each known to be one that the module names."""
    if not path.is_file():
        raise FamilyError(f"recorded data '{path}' does not exist (looked for {path.resolve()})")
    try:
        with zipfile.ZipFile(path) as archive:
            # numpy reads no further than an array's own header says, and misses a checksum behind that
            damaged = archive.testzip()
            # numpy writes no comments: one that is there is the next part's entry, swallowed by a wrong length
            damaged = damaged or next((part.filename for part in archive.infolist() if part.comment), None)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files} if damaged is None else {}
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise FamilyError(
            f"recorded data '{path}': cannot be read as a .npz file of plain arrays: {type(error).__name__}: {error}; "
            "the likely cause is a copy that was cut short, a file of another kind, or arrays of Python objects, such "
            "as rows of different length"
        ) from error
    if damaged is not None:
        _fail(path, f"its part '{damaged}' is damaged; copy or write the file again")
    for name, array in arrays.items():
        if name not in _ARRAYS or not isinstance(array, np.ndarray):
            _fail(path, f"it holds '{name}', but only these arrays are known: {', '.join(_ARRAYS)}")
    for name in "xy":
        if name not in arrays:
            _fail(path, f"the array '{name}' is missing; it holds {', '.join(arrays) or 'nothing'}")
        if arrays[name].ndim < 2 or 0 in arrays[name].shape:
            _fail(
                path,
                f"{name} has the shape {arrays[name].shape}, but it must be (tasks, examples, ...) with no empty axis",
            )
    return arrays


def _numbers(path: Path, name: str, array: NDArray) -> NDArray[np.float32]:
    """Examples as float32, single numbers as vectors of one."""
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
    """As many classes as there are labels, or as the file's fields of y are wide, if that is more."""
    stated = int(sizes.sum()) if sizes is not None and sizes.dtype.kind in "iu" else 0
    return max(int(y.max()) + 1, stated if stated <= y.size else 0)


def _splits(path: Path, tasks: int, split: NDArray | None) -> dict[Split, NDArray[np.int64]]:
    """Which tasks belong to each split."""
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
    """The fields of one side, as the file describes them; `low` and `high` are the extremes over all examples."""
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
    # a field that never changes still needs bounds that differ
    margin = np.where(smallest < largest, 0.0, np.maximum(1.0, np.abs(largest)))
    lows, highs = lows or (smallest - margin).tolist(), highs or (largest + margin).tolist()
    shapes = [shape] if count == 1 else [(size,) for size in sizes]
    try:
        return tuple(
            Field(name=name, shape=part, unit=unit, low=least, high=most)
            for name, part, unit, least, most in zip(names, shapes, units, lows, highs, strict=True)
        )
    except ValueError as error:
        raise FamilyError(f"recorded data '{path}': its {side} does not describe fields: {error}") from error


def _described(path: Path, arrays: Mapping[str, NDArray], name: str, kinds: str, count: int | None) -> list[Any] | None:
    """The values of an optional array, one a field; None where the file has none."""
    array = arrays.get(name)
    if array is None:
        return None
    if array.ndim != 1 or len(array) != (count or len(array) or 1) or array.dtype.kind not in kinds:
        _fail(
            path,
            f"{name} has the shape {array.shape} and the dtype {array.dtype}, but it must be "
            f"({'fields' if count is None else count},) {'text' if kinds == 'U' else 'numbers'}, one a field",
        )
    return array.tolist()


def _fail(path: Path, message: str) -> NoReturn:
    raise FamilyError(f"recorded data '{path}': {message}")
