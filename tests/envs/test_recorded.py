"""Recorded data is read back as it was written. For a broken file, the error says what is wrong with it."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from msr_envs.checking.family import check_family
from msr_envs.recorded import Recorded
from msr_envs.registry import load_family
from msr_runtime.errors import FamilyError
from msr_runtime.representation import Vector
from msr_runtime.task import SPLITS, Split, SymmetricFamily

TASKS, EXAMPLES = 12, 40

# each example writes its files anew, so the examples may share the folder of a fixture
fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator for each use."""
    return np.random.default_rng(seed)


def recording(**changes: Any) -> dict[str, Any]:
    """Twelve tasks of forty examples; x has three numbers and y two. `changes` replaces arrays; None leaves one out."""
    rng = generator()
    sound = {
        "x": rng.uniform(-1, 1, (TASKS, EXAMPLES, 3)),
        "y": rng.uniform(-5, 5, (TASKS, EXAMPLES, 2)),
        "split": np.repeat(SPLITS, 4),
    }
    return {name: array for name, array in (sound | changes).items() if array is not None}


def written(folder: Path, **changes: Any) -> Path:
    """Write the file of a recording."""
    path = folder / "drive.npz"
    np.savez(path, **recording(**changes))
    return path


def rows(array: NDArray) -> list[bytes]:
    """Each example of an array `(examples, ...)`, as bytes."""
    return [np.ascontiguousarray(row).tobytes() for row in array]


LABELS = generator(1).integers(4, size=(TASKS, EXAMPLES))
LABELS[0, :4] = range(4)


class TestSoundFiles:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"y": LABELS},
            {"x": generator().normal(size=(TASKS, EXAMPLES, 1, 6, 6)).astype(np.float32)},
            {"x": generator().normal(size=(TASKS, EXAMPLES)), "y": generator().normal(size=(TASKS, EXAMPLES))},
            {"x": np.arange(TASKS * EXAMPLES * 3).reshape(TASKS, EXAMPLES, 3)},
            {"x_names": ["push", "load"], "x_sizes": [2, 1], "x_units": ["N", "kg"], "y_names": ["u", "v"]},
        ],
        ids=["vectors", "labels", "images", "single numbers", "integers", "fields"],
    )
    def test_keep_the_contract(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        """For any shape of the examples, the family passes every check and has no group."""
        family = load_family(str(written(tmp_path, **changes)))
        check_family(family)
        assert family.name == "drive"
        assert not isinstance(family, SymmetricFamily)

    def test_fields_come_from_the_data(self, tmp_path: Path) -> None:
        """Each side is one field with the extremes of the data. A field that never changes gets different bounds."""
        family = Recorded(written(tmp_path, y=np.full((TASKS, EXAMPLES, 2), 7)))
        (x,), (y,) = family.inputs, family.outputs
        values = recording()["x"].astype(np.float32)
        assert (x.name, x.shape, x.unit, x.low, x.high) == ("x", (3,), "1", values.min(), values.max())
        assert (y.name, y.shape, y.low, y.high) == ("y", (2,), 0.0, 14.0)
        assert family.loss == "mse"

    def test_fields_come_from_the_file(self, tmp_path: Path) -> None:
        """Names, sizes, units and bounds come from the file. Missing bounds come from the data, per field."""
        family = Recorded(
            written(tmp_path, x_names=["push", "load"], x_sizes=[1, 2], x_units=["N", "kg"], x_low=[-2, -3])
        )
        highs = recording()["x"].astype(np.float32).max((0, 1))
        assert [(f.name, f.shape, f.unit, f.low) for f in family.inputs] == [
            ("push", (1,), "N", -2.0),
            ("load", (2,), "kg", -3.0),
        ]
        assert [f.high for f in family.inputs] == [highs[0], highs[1:].max()]
        kinds = {"x_kinds": ["velocity", "other"], "x_wraps": [0, 0.5]}
        named = Recorded(written(tmp_path, x_names=["push", "load"], x_sizes=[1, 2], x_low=[-2, -3], **kinds))
        assert [(f.kind, f.wraps) for f in named.inputs] == [("velocity", None), ("other", 0.5)]
        turning = {"x_representations": ["", '{"kind": "vector", "axes": "yx"}'], "x_elements": ["", "left", "ahead"]}
        turns = Recorded(written(tmp_path, x_names=["push", "load"], x_sizes=[1, 2], **turning))
        assert [(f.names, f.representation) for f in turns.inputs] == [
            ((), None),
            (("left", "ahead"), Vector(axes="yx")),
        ]
        assert Recorded(written(tmp_path, y_representations=["vector"])).outputs[0].representation == Vector()

    def test_labels_are_trained_with_cross_entropy(self, tmp_path: Path) -> None:
        """One integer per example is a label. The outputs have one number per class, and can have names."""
        family = Recorded(written(tmp_path, y=LABELS.astype(np.uint8)))
        assert family.loss == "cross_entropy"
        assert [(f.name, f.shape, f.low, f.high) for f in family.outputs] == [("y", (4,), 0.0, 1.0)]
        assert family.sample(generator(), 2, 1, 1, "test").query_y.dtype == np.int64
        named = Recorded(written(tmp_path, y=LABELS, y_names=["a", "b", "c", "d"]))
        assert [(f.name, f.shape, f.low, f.high) for f in named.outputs][3] == ("d", (1,), 0.0, 1.0)

    @pytest.mark.parametrize("split", [np.repeat(SPLITS, 4), np.repeat([0, 1, 2], 4), np.repeat(["0", "1", "2"], 4)])
    def test_the_split_is_the_files(self, tmp_path: Path, split: NDArray) -> None:
        """Text and numbers mean the same. Every task of a split is drawn, and no other task."""
        path = written(tmp_path, split=split)
        assert [drawn_tasks(path, split) for split in SPLITS] == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]

    @pytest.mark.parametrize(("tasks", "sizes"), [(3, [1, 1, 1]), (12, [10, 1, 1]), (20, [16, 2, 2])])
    def test_without_a_split_the_last_tasks_are_held_out(self, tmp_path: Path, tasks: int, sizes: list[int]) -> None:
        """The split is eight, one and one tenth, in order. With three tasks, each split has one."""
        x = generator().normal(size=(tasks, 4, 1))
        path = written(tmp_path, x=x, y=x, split=None)
        assert [len(Recorded(path)._tasks[split]) for split in SPLITS] == sizes
        assert sorted(i for split in SPLITS for i in Recorded(path)._tasks[split]) == list(range(tasks))

    @given(
        values=arrays_of.arrays(
            arrays_of.floating_dtypes(sizes=(32, 64), endianness="="),
            arrays_of.array_shapes(min_dims=2, max_dims=4, max_side=5),
            elements=st.floats(-1e6, 1e6, width=32),
        ),
        shots=st.integers(0, 3),
        seed=st.integers(0, 9),
    )
    @fuzz
    def test_every_example_drawn_was_written_and_none_twice(
        self, tmp_path: Path, values: NDArray, shots: int, seed: int
    ) -> None:
        """Support and query sets together hold all examples of the task, each x with its own y."""
        tasks, examples = values.shape[:2]
        number = np.arange(tasks * examples, dtype=np.float32).reshape(tasks, examples, 1)
        family = Recorded(written(tmp_path, x=values, y=number, split=["train"] * tasks))
        shots = min(shots, examples)
        batch = family.sample(generator(seed), tasks, shots, examples - shots, "train")
        x = np.concatenate([batch.support_x, batch.query_x], 1)
        index = np.concatenate([batch.support_y, batch.query_y], 1)[..., 0].astype(int)
        assert sorted(index.ravel()) == list(range(tasks * examples))
        assert (index // examples == index[:, :1] // examples).all()
        flat = values.astype(np.float32).reshape(tasks * examples, -1)
        np.testing.assert_array_equal(x.reshape(flat.shape), flat[index.ravel()])


def drawn_tasks(path: Path, split: Split) -> set[int]:
    """The numbers of the tasks that are drawn from a split, found by their examples."""
    family = Recorded(path)
    batch = family.sample(generator(), 4, 1, 1, split)
    owner = {row: task for task in range(TASKS) for row in rows(recording()["x"][task].astype(np.float32))}
    return {owner[row] for row in rows(batch.support_x[:, 0])}


def _with(array: NDArray, value: float) -> NDArray:
    """A copy in which example 5 of task 2 has this value."""
    changed = array.copy()
    changed[2, 5] = value
    return changed


SOUND = recording()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate_hz": np.array(0.0)}, "rate_hz is 0.0, but one number above 0"),
        ({"rate_hz": np.array([50.0])}, r"rate_hz is \[50.0\], but one number"),
        ({"x": None}, "the array 'x' is missing; it holds y, split"),
        ({"y": None}, "the array 'y' is missing; it holds x, split"),
        ({"y": SOUND["y"][:-1]}, "x has 12 x 40 tasks x examples and y 11 x 40.*the same"),
        ({"y": SOUND["y"][:, 1:]}, "x has 12 x 40 tasks x examples and y 12 x 39"),
        ({"x": np.zeros(TASKS)}, r"x has the shape \(12,\).*\(tasks, examples, ...\)"),
        ({"x": np.zeros((TASKS, 0, 3))}, r"x has the shape \(12, 0, 3\).*no empty axis"),
        ({"x": _with(SOUND["x"], np.nan)}, "x holds nan in task 2, example 5, and 3 such values in all"),
        ({"y": _with(SOUND["y"], -np.inf)}, "y holds -inf in task 2, example 5"),
        ({"x": _with(SOUND["x"], 1e300)}, "x holds 1e.300 in task 2.*finite as float32"),
        ({"x": SOUND["x"].astype(complex)}, "x has the dtype complex128.*real numbers"),
        ({"y": SOUND["y"].astype(str)}, "y has the dtype <U32.*real numbers"),
        ({"y": SOUND["y"] > 0}, "y has the dtype bool.*real numbers"),
        ({"y": LABELS - 1}, "y holds integers from -1 to 2.*float32"),
        ({"y": LABELS + 10**12}, "y holds integers from 10{12} to .*number the classes from 0"),
        ({"x": np.array([[1], [2, 3]], object)}, "cannot be read.*ValueError: Object arrays.*different length"),
        ({"split": ["train"] * 11}, r"split has the shape \(11,\).*12 tasks.*\(12,\)"),
        ({"split": ["train"] * 11 + ["dev"]}, "split holds 'dev'.*train, validation, test, or 0, 1 or 2"),
        ({"split": [0] * 11 + [3]}, "split holds '3'"),
        ({"split": np.zeros(12)}, "split holds '0.0'"),
        ({"x_names": ["a", "b"]}, r"the fields of x take 1 \+ 1 numbers.*the 3 that an example has"),
        ({"x_names": ["a", "b"], "x_sizes": [4, -1]}, r"take 4 \+ -1 numbers"),
        ({"x_names": ["a", "b", "a"]}, "x_names holds a, b, a, but a name must be unique"),
        ({"x_names": []}, r"x_names has the shape \(0,\)"),
        ({"x_names": [1, 2, 3]}, r"x_names .* dtype int64, but it must be \(fields,\) text"),
        ({"x_names": ["a", "b"], "x": np.zeros((TASKS, EXAMPLES, 2, 1))}, r"names 2 fields.*example is \(2, 1\)"),
        ({"y_names": ["a", "b"], "y_units": ["m"]}, r"y_units has the shape \(1,\).*\(2,\) text"),
        ({"y_low": ["low"]}, r"y_low .*dtype <U3, but it must be \(1,\) numbers"),
        ({"y_low": [5.0], "y_high": [-5.0]}, "its y does not describe fields.*low is 5.0 and high is -5.0"),
        ({"y_high": [np.nan]}, "its y does not describe fields.*high is nan"),
        ({"y_kinds": ["speed"]}, "its y does not describe fields.*'velocity'"),
        ({"y_wraps": [1e9]}, "its y does not describe fields.*one turn apart.*y_kinds, y_wraps, y_representations"),
        ({"y_representations": ["vectors"]}, "its y does not describe fields.*'vector'"),
        ({"y_representations": ["{"]}, "its y does not describe fields.*Expecting property name"),
        ({"y_elements": ["a"]}, r"y_elements .* must be \(2,\) text, one a number"),
        ({"y_elements": ["a", ""]}, "names are a, but each of its 2 elements needs one"),
    ],
)
def test_a_broken_file_is_told_what_is_wrong(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """The message names the file, what was seen and what is wanted. Each rule has its own message."""
    path = written(tmp_path, **changes)
    with pytest.raises(FamilyError, match=f"(?s)drive.npz': .*{words}"):
        load_family(str(path))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((4, 40, 1, "train"), "40 support and 1 query examples were asked for, but each task has 40"),
        ((4, 41, 0, "train"), "41 support and 0 query examples were asked for, but each task has 40"),
        ((1, 1, 1, "dev"), "split 'dev' is unknown; use one of train, validation, test"),
    ],
)
def test_more_than_was_recorded_is_refused(tmp_path: Path, asked: Any, words: str) -> None:
    """Support and query sets share no example, so a task must have enough for both."""
    family = Recorded(written(tmp_path))
    with pytest.raises(FamilyError, match=f"drive.npz': {words}"):
        family.sample(generator(), *asked)


def test_a_split_without_tasks_is_refused(tmp_path: Path) -> None:
    """Of two tasks, both are held out, and none is left to train on."""
    family = Recorded(written(tmp_path, x=SOUND["x"][:2], y=SOUND["y"][:2], split=None))
    with pytest.raises(FamilyError, match="the split 'train' has no task"):
        family.sample(generator(), 1, 1, 1, "train")


def test_repeats_are_as_few_as_can_be(tmp_path: Path) -> None:
    """Ten draws from four tasks: each two or three times. Seven queries from four examples: each once or twice."""
    batch = Recorded(written(tmp_path)).sample(generator(), 10, 36, 7, "train")
    owners = [rows(recording()["x"][task].astype(np.float32)) for task in range(4)]
    drawn = [next(i for i, owner in enumerate(owners) if rows(batch.support_x[task])[0] in owner) for task in range(10)]
    assert sorted(np.bincount(drawn)) == [2, 2, 3, 3]
    for support, query in zip(batch.support_x, batch.query_x, strict=True):
        assert len(set(rows(support))) == 36
        assert sorted(Counter(rows(query)).values()) == [1, 2, 2, 2]
        assert not set(rows(support)) & set(rows(query))


def test_labels_may_leave_classes_out(tmp_path: Path) -> None:
    """The sizes of y state the number of classes, if some classes have no label in the file."""
    family = Recorded(written(tmp_path, y=LABELS, y_names=["class"], y_sizes=[6]))
    assert [(f.name, f.shape) for f in family.outputs] == [("class", (6,))]


def test_arrays_that_nobody_reads_are_listed(tmp_path: Path) -> None:
    """They change nothing, even if they hold Python objects. A name that is nearly right is pointed out."""
    path = written(tmp_path, w=np.array([None]), splits=np.zeros(TASKS))
    family = Recorded(path)
    assert family.notes == ("array 'w' is not read", "array 'splits' is not read (did you mean 'split'?)")
    plain = Recorded(written(tmp_path))
    assert plain.notes == ()
    batches = [each.sample(generator(), 4, 3, 5, "train") for each in (family, plain)]
    assert all(np.array_equal(*parts) for parts in zip(*batches, strict=True))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message says where the file was expected. A folder does not count as a file."""
    (tmp_path / "folder.npz").mkdir()
    for name in ("absent.npz", "folder.npz"):
        with pytest.raises(FamilyError, match=rf"'{name}' does not exist \(looked for /"):
            load_family(name)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """A file whose arrays would run code when unpickled is refused. The code does not run."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path = written(tmp_path, x=np.array([[Trap()]], object))
    with pytest.raises(FamilyError, match="allow_pickle=False"):
        load_family(str(path))
    assert not (tmp_path / "sprung").exists()


def stored(compress: bool) -> bytes:
    """The bytes of a small correct file with arrays of every kind."""
    buffer, rng = io.BytesIO(), generator()
    (np.savez_compressed if compress else np.savez)(
        buffer,
        x=rng.normal(size=(3, 2, 2)),
        y=rng.normal(size=(3, 2, 1)),
        split=np.arange(3),
        x_names=["a", "b"],
        x_low=[-9.0, -9.0],
    )
    return buffer.getvalue()


FILES = {compress: stored(compress) for compress in (False, True)}


def content(folder: Path, data: bytes) -> list[Any] | None:
    """Everything that a file gives, or None if it is refused. Any other error is raised."""
    path = folder / "fuzzed.npz"
    path.write_bytes(data)
    try:
        family = Recorded(path)
    except FamilyError:
        return None
    batches = [family.sample(generator(), 1, 1, 1, split) for split in SPLITS]
    return [family.inputs, family.outputs, family.loss, *(part.tobytes() for batch in batches for part in batch)]


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[Any] | None]:
    """What the files give as they are."""
    return {compress: content(tmp_path_factory.mktemp("unchanged"), data) for compress, data in FILES.items()}


class TestDamagedFiles:
    @given(compress=st.booleans(), share=st.floats(0, 1, exclude_max=True))
    @fuzz
    def test_a_file_that_was_cut_short_is_refused(self, tmp_path: Path, compress: bool, share: float) -> None:
        """It may be cut at any length."""
        data = FILES[compress]
        assert content(tmp_path, data[: int(share * len(data))]) is None

    @given(compress=st.booleans(), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
    @settings(fuzz, max_examples=300)
    def test_a_changed_byte_changes_no_number(
        self, tmp_path: Path, unchanged: dict[bool, list[Any] | None], compress: bool, place: float, flip: int
    ) -> None:
        """Either the file is refused, or the byte has no meaning, such as a byte of a date."""
        data = bytearray(FILES[compress])
        data[int(place * len(data))] ^= flip
        assert content(tmp_path, bytes(data)) in (None, unchanged[compress])

    @given(data=st.binary(max_size=300))
    @fuzz
    def test_bytes_of_no_kind_are_refused(self, tmp_path: Path, data: bytes) -> None:
        """Random bytes raise FamilyError and nothing else."""
        assert content(tmp_path, data) is None

    @given(
        values=st.dictionaries(
            st.sampled_from(["x", "y", "split", "x_names", "x_sizes", "y_low", "other"]),
            arrays_of.arrays(
                st.one_of(arrays_of.scalar_dtypes(), arrays_of.unicode_string_dtypes(max_len=3)),
                arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
            ),
        )
    )
    @fuzz
    def test_arrays_of_any_kind_are_taken_or_refused(self, tmp_path: Path, values: dict[str, NDArray]) -> None:
        """A correct file whose arrays do not fit together gives a family or a FamilyError, and no other error."""
        path = tmp_path / "fuzzed.npz"
        np.savez(path, **values)  # pyright: ignore[reportArgumentType]
        try:
            family = Recorded(path)
        except FamilyError:
            return
        assert family.inputs[0].low < family.inputs[0].high


def test_an_array_of_another_file_kind_is_refused(tmp_path: Path) -> None:
    """A `.npy` file with the name of a `.npz` file is refused."""
    path = tmp_path / "drive.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 2, 2)))
    with pytest.raises(FamilyError, match=r"cannot be read as a \.npz file.*BadZipFile.*another kind"):
        load_family(str(path))
