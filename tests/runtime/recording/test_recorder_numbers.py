"""Every number reads back exactly, and what is no sample or no time is refused where it is given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from msr_runtime import AdaptiveModel, InputError
from msr_runtime.bundle.store import Bundle
from msr_runtime.recording.messages import METADATA, OBSERVATION, RECORDER
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.vectors import Vectors
from msr_runtime.task import Field

OBS, OUT = 3, 2


class TestNumbers:
    @given(
        x=arrays_of.arrays(np.float32, 7, elements=st.floats(width=32)),
        classes=st.integers(2, 2**31),
        data=st.data(),
    )
    @settings(max_examples=200, deadline=None)
    def test_every_float32_and_label_reads_back_exactly(self, x: NDArray, classes: int, data: st.DataObject) -> None:
        """Subnormal, negative zero, infinite and NaN too, through the same JSON bytes as in the file."""
        from pydantic_core import from_json, to_json

        label = data.draw(st.integers(0, classes - 1))
        fields = (
            Field(name="a", shape=(2, 2), unit="m", low=0, high=1),
            Field(name="b", shape=(3,), unit="1", low=0, high=1),
        )
        names = (Field(name="class", shape=(classes,), unit="1", low=0, high=1),)
        vectors = Vectors.of(fields, names, "cross_entropy")
        for side, row in ((vectors.x, vectors.x.copy(x)), (vectors.y, vectors.y.copy(label))):
            written = to_json(side.to_message(row), inf_nan_mode="strings")
            json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
            values = {name: list(map(float, numbers)) for name, numbers in from_json(written).items()}
            read = side.from_message(values, "it")
            assert read.dtype == row.dtype
            np.testing.assert_array_equal(read, row)
            np.testing.assert_array_equal(np.signbit(read)[read == 0], np.signbit(row)[row == 0])

    @given(rows=arrays_of.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(OBS)), elements=st.floats(width=32)))
    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_whole_file_reads_back_exactly(self, tmp_path: Path, bundle_path: Path, rows: NDArray) -> None:
        """Through queue, thread, compression and reader, values that are not finite included."""
        path = tmp_path / "a.mcap"
        path.unlink(missing_ok=True)
        with Recorder(path, Bundle.open(bundle_path)) as recorder:
            for row in rows:
                recorder.observation(row)
        recording = Recording.open(path)
        np.testing.assert_array_equal([recording.vector(event) for event in recording.events(OBSERVATION)], rows)

    def test_what_is_recorded_is_a_copy(self, tmp_path: Path, model: AdaptiveModel, topic: Any) -> None:
        """The caller may overwrite the array directly after the call."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            x = np.zeros(OBS, np.float32)
            for number in range(10):
                x[:] = number
                recorder.observation(x)
        assert [data["angle"] for data in topic(tmp_path / "a.mcap", OBSERVATION)] == [[n] for n in range(10)]

    @pytest.mark.parametrize(
        ("record", "words"),
        [
            (lambda r: r.observation(np.zeros(4)), r"the observation has shape \(4,\), but 3 numbers \(position 2 \+"),
            (lambda r: r.observation(np.zeros((2, 3))), r"the observation has shape \(2, 3\)"),
            (lambda r: r.observation(["a", "b", "c"]), "the observation has dtype <U1"),
            (lambda r: r.observation([[1], [2, 3]]), "the observation is not an array"),
            (lambda r: r.action(np.zeros(3)), r"the action has shape \(3,\), but 2 numbers"),
            (lambda r: r.sample(np.zeros(3), 1.0), r"y has shape \(\), but 2 numbers"),
            (lambda r: r.adaptation(np.zeros((5, 3)), np.zeros((4, 2)), None, []), "5 shots and support_y has 4"),
            (lambda r: r.adaptation(np.zeros((5, 4)), np.zeros((5, 2)), None, []), r"has shape \(5, 4\)"),
        ],
    )
    def test_what_is_no_sample_is_refused(
        self, tmp_path: Path, model: AdaptiveModel, record: Any, words: str, messages: Any
    ) -> None:
        """The error names the vector, its shape and the wanted size; the file holds no message of it."""
        with Recorder(tmp_path / "a.mcap", model) as recorder, pytest.raises(InputError, match=words):
            record(recorder)
        assert {channel.topic for _, channel, _, _ in messages(tmp_path / "a.mcap")} == {METADATA, RECORDER}

    def test_a_label_is_a_whole_number(self, tmp_path: Path) -> None:
        """A float where a label is wanted is refused and not rounded."""
        outputs = (Field(name="class", shape=(4,), unit="1", low=0, high=1),)
        with pytest.raises(InputError, match="y has dtype float64, but int64"):
            Vectors.of(outputs, outputs, "cross_entropy").y.copy(1.5)


@pytest.mark.parametrize(
    ("v", "says"), [("abc", "v is not an array of numbers"), (None, "v has shape"), ([1.0, 2.0], r"v has shape \(2,\)")]
)
def test_filter_parameters_that_are_none_are_refused_by_name(
    tmp_path: Path, model: AdaptiveModel, random: Any, v: Any, says: str
) -> None:
    """Where they are given. The recording goes on."""
    x, y = random(0, 5, OBS), random(1, 5, OUT)
    result = model.adapt(x, y)
    model.save_adaptation(tmp_path / "wing.safetensors")
    with Recorder(tmp_path / "a.mcap", model.bundle) as recorder:
        with pytest.raises(InputError, match=rf"{says}.*give `model\.v`"):
            recorder.adaptation(x, y, result, v)
        with pytest.raises(InputError, match=says):
            recorder.loaded(tmp_path / "wing.safetensors", v)
        recorder.adaptation(x, y, result, model.v)
    assert (recorder.report().error, recorder.report().written) == (None, 1)


class TestStamps:
    @pytest.mark.parametrize("stamp", [1.5, 1e18, -1, 2**64, "now", np.float64(3.0), None])
    def test_what_is_no_time_is_refused_where_it_is_given(
        self, tmp_path: Path, model: AdaptiveModel, random: Any, messages: Any, stamp: Any
    ) -> None:
        """By every method that takes a stamp. The recording goes on, and holds no message of it."""
        x, y = random(0, 5, OBS), random(1, 5, OUT)
        result = model.adapt(x, y)
        with Recorder(tmp_path / "a.mcap", model.bundle) as recorder:
            for record in (
                lambda: recorder.observation(x[0], stamp=stamp),
                lambda: recorder.action(y[0], stamp=stamp),
                lambda: recorder.sample(x[0], y[0], stamp=stamp),
                lambda: recorder.adaptation(x, y, result, model.v, stamp=stamp),
            ):
                if stamp is not None:  # None is the present time
                    with pytest.raises(InputError, match=r"stamp is .*, but a whole number of nanoseconds since 1970"):
                        record()
            assert recorder.observation(x[0], stamp=np.int64(5)) == 5
            assert recorder.observation(x[0], stamp=2**64 - 1) == 2**64 - 1
        assert recorder.report().error is None
        stamps = [m.log_time for _, c, m, _ in messages(tmp_path / "a.mcap") if c.topic == OBSERVATION]
        assert stamps == [5, 2**64 - 1]
