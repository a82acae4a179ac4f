"""The Recorder: a file holds what was recorded, however the writing ended, and the control loop never waits."""

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from mcap.reader import make_reader
from mcap.records import Channel, Message, Schema
from numpy.typing import NDArray

from msr_runtime import AdaptiveModel, ControlLoop, InputError
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.store import Bundle
from msr_runtime.recording.messages import ACTION, ADAPTATION, LOOP, METADATA, OBSERVATION, RECORDER, SAMPLE
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.vectors import Vectors
from msr_runtime.task import Field

OBS, OUT = 3, 2
ROBOT = """
import sys, time
import numpy as np
from msr_runtime import AdaptiveModel
from msr_runtime.recording.recorder import Recorder

model = AdaptiveModel.load(sys.argv[1])
with Recorder(sys.argv[2], model) as recorder:
    while True:
        x = np.random.default_rng().normal(size=3)
        recorder.observation(x)
        recorder.action(model.predict(x))
        if written := recorder.report().written:
            print(written, flush=True)
        time.sleep(0.001)
"""


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(bundle_path: Path) -> AdaptiveModel:
    """A model of the reference bundle."""
    return AdaptiveModel.load(bundle_path)


def messages(path: Path) -> list[tuple[Schema, Channel, Message, Any]]:
    """All messages of a file, read with mcap as another program would read them; the JSON is parsed."""
    with path.open("rb") as file:
        read = list(make_reader(file, validate_crcs=True).iter_messages(log_time_order=False))
    return [(schema, channel, message, json.loads(message.data)) for schema, channel, message in read if schema]


def topic(path: Path, name: str) -> list[Any]:
    """The parsed messages of one topic."""
    return [data for _, channel, _, data in messages(path) if channel.topic == name]


class TestFile:
    def test_it_begins_with_what_was_recorded(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """The first message holds the digest and the whole manifest of the bundle."""
        Recorder(tmp_path / "a.mcap", model).close()
        _, channel, _, data = messages(tmp_path / "a.mcap")[0]
        assert channel.topic == METADATA
        assert (data["recording_version"], data["bundle"]) == (1, model.bundle.digest)
        assert Manifest.model_validate(data["manifest"]) == model.manifest

    def test_observation_and_action_of_a_tick_carry_one_stamp(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Stamps increase, lie in the present and pair the messages of a tick; each field is found by its name."""
        before = time.time_ns()
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            given = []
            for tick in range(5):
                x, y = random(tick, OBS), random(10 + tick, OUT)
                given.append(recorder.observation(x))
                recorder.action(y)
                recorder.sample(x, y)
        stamps = {name: [] for name in (OBSERVATION, ACTION, SAMPLE)}
        for _, channel, message, data in messages(tmp_path / "a.mcap"):
            if channel.topic in stamps:
                stamps[channel.topic].append(message.log_time)
                assert message.publish_time >= message.log_time
                if channel.topic == OBSERVATION:
                    x = random(message.sequence, OBS).tolist()
                    assert data == {"position": x[:2], "angle": x[2:]}
        assert stamps[OBSERVATION] == stamps[ACTION] == stamps[SAMPLE] == given == sorted(set(given))
        assert before <= given[0] <= given[-1] <= time.time_ns()

    def test_a_stamp_of_ones_own_is_kept(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """The caller may give the stamp of a sensor, and an action may refer to an earlier observation."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            assert recorder.observation(random(0, OBS), stamp=123) == 123
            recorder.action(random(1, OUT))
            recorder.action(random(1, OUT), stamp=100)
        found = [
            (c.topic, m.log_time) for _, c, m, _ in messages(tmp_path / "a.mcap") if c.topic in (OBSERVATION, ACTION)
        ]
        assert found == [(OBSERVATION, 123), (ACTION, 123), (ACTION, 100)]

    def test_schemas_name_fields_shapes_and_units(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Every channel is JSON with a schema that viewers can show: no array of arrays, one type per value."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            recorder.observation(random(0, OBS))
            recorder.action(random(0, OUT))
        seen = {channel.topic: (schema, channel) for schema, channel, _, _ in messages(tmp_path / "a.mcap")}
        for schema, channel in seen.values():
            assert (channel.message_encoding, schema.encoding) == ("json", "jsonschema")
            assert json.loads(schema.data)["title"] == schema.name
        position = json.loads(seen[OBSERVATION][0].data)["properties"]["position"]
        assert (position["unit"], position["items"]) == ("m", {"type": "number"})
        assert "(2,)" in position["description"]

        with (tmp_path / "a.mcap").open("rb") as file:
            summary = make_reader(file).get_summary()
        assert summary is not None
        assert {c.topic for c in summary.channels.values()} == {
            *(METADATA, OBSERVATION, ACTION, SAMPLE, ADAPTATION, LOOP, RECORDER)
        }

        def flat(part: dict[str, Any]) -> None:
            assert isinstance(part["type"], str)
            if part["type"] == "array":
                assert part["items"]["type"] != "array"
                flat(part["items"])
            for inner in part.get("properties", {}).values():
                flat(inner)

        for schema in summary.schemas.values():
            flat(json.loads(schema.data))

    def test_adaptations_carry_support_result_and_v(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Accepted and refused adaptations carry their support set and the filter parameters that act after them."""
        x, y = random(0, 5, OBS), random(1, 5, OUT)
        with Recorder(tmp_path / "a.mcap", model.bundle) as recorder:
            done = model.adapt(x, y)
            recorder.adaptation(x, y, done, model.v)
            with np.errstate(over="ignore"):
                refused = model.adapt(x * np.float32(1e20), y)
            recorder.adaptation(x, y, refused, model.v, start="accepted")
            recorder.reset()
        recording = Recording.open(tmp_path / "a.mcap")
        events = list(recording.events(ADAPTATION))
        first, second, third = (recording.adaptation(event) for event in events)
        support_x, support_y = recording.support(first, events[0])
        np.testing.assert_array_equal(support_x, x)
        np.testing.assert_array_equal(support_y, y)
        assert (first.accepted, first.steps, first.loss_before, first.start) == (True, 3, done.loss_before, "v0")
        assert (first.v, second.v) == (model.v[0].tolist(), model.v[0].tolist())
        assert not second.accepted
        assert (second.reason, second.start) == (refused.reason, "accepted")
        assert (third.kind, third.support) == ("reset", [])

    def test_an_adaptation_that_acts_already_is_recorded_first(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """The recording holds the whole adaptation file, and it can be loaded from there."""
        model.adapt(random(0, 5, OBS), random(1, 5, OUT))
        model.save_adaptation(tmp_path / "wing.safetensors")
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            recorder.loaded(tmp_path / "wing.safetensors", model.v)
        start, loaded = topic(tmp_path / "a.mcap", ADAPTATION)
        assert b64decode(loaded["file"]) == (tmp_path / "wing.safetensors").read_bytes()
        (tmp_path / "start.safetensors").write_bytes(b64decode(start["file"]))
        fresh = model.fork()
        fresh.load_adaptation(tmp_path / "start.safetensors")
        np.testing.assert_array_equal(fresh.v, model.v)
        assert [(m["kind"], m["v"]) for m in (start, loaded)] == [("load", model.v[0].tolist())] * 2

    def test_loop_figures_are_recorded_whole(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Nested figures are included; a figure without data is the string NaN, because JSON has no such number."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            loop = ControlLoop(hz=1000, ticks=15)
            recorder.loop(loop.report())
            for _ in loop:
                pass
            report = loop.report()
            recorder.loop(report)
        empty, full = topic(tmp_path / "a.mcap", LOOP)
        assert (empty["ticks"], empty["execution_p50"]) == (0, "NaN")
        assert (full["hz"], full["ticks"], full["execution_p50"]) == (1000, report.ticks, report.execution_p50)
        assert full["rate"]["average"] == report.rate.average

    def test_an_older_file_is_never_overwritten(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """The error names the file, and its content stays."""
        (tmp_path / "a.mcap").write_bytes(b"flight")
        with pytest.raises(InputError, match=r"a\.mcap' exists"):
            Recorder(tmp_path / "a.mcap", model)
        assert (tmp_path / "a.mcap").read_bytes() == b"flight"


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

    def test_what_is_recorded_is_a_copy(self, tmp_path: Path, model: AdaptiveModel) -> None:
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
    def test_what_is_no_sample_is_refused(self, tmp_path: Path, model: AdaptiveModel, record: Any, words: str) -> None:
        """The error names the vector, its shape and the wanted size; the file holds no message of it."""
        with Recorder(tmp_path / "a.mcap", model) as recorder, pytest.raises(InputError, match=words):
            record(recorder)
        assert {channel.topic for _, channel, _, _ in messages(tmp_path / "a.mcap")} == {METADATA, RECORDER}

    def test_a_label_is_a_whole_number(self, tmp_path: Path) -> None:
        """A float where a label is wanted is refused and not rounded."""
        outputs = (Field(name="class", shape=(4,), unit="1", low=0, high=1),)
        with pytest.raises(InputError, match="y has dtype float64, but int64"):
            Vectors.of(outputs, outputs, "cross_entropy").y.copy(1.5)


class TestQueue:
    def test_a_full_queue_drops_and_counts(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """If messages come too fast, the file's counts and gaps in the sequence numbers show what is missing.

        The adaptation is not dropped, because adaptations have extra room in the queue.
        """
        x, y = random(0, 5, OBS), random(1, 5, OUT)
        result = model.adapt(x, y)
        with Recorder(tmp_path / "a.mcap", model.bundle, queue=8) as recorder:
            for number in range(20_000):
                recorder.observation(x[0])
                if number == 10_000:
                    recorder.adaptation(x, y, result, model.v)
        report = recorder.report()
        assert report.dropped > 0
        assert report.written + report.dropped == 20_001
        found = [m.sequence for _, c, m, _ in messages(tmp_path / "a.mcap") if c.topic == OBSERVATION]
        assert found == sorted(set(found))
        counts = topic(tmp_path / "a.mcap", RECORDER)[-1]
        assert counts["written"] == {"observation": len(found), "action": 0, "sample": 0, "adaptation": 1, "loop": 0}
        assert counts["dropped"]["observation"] == 20_000 - len(found) == report.dropped
        assert Recording.open(tmp_path / "a.mcap").dropped() == {"observation": report.dropped}
        assert str(report.dropped) in str(report)

    def test_threads_record_side_by_side(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Two topics from two threads: the file holds every message once, in order per topic."""
        with Recorder(tmp_path / "a.mcap", model, queue=100_000) as recorder:

            def learn() -> None:
                for number in range(2000):
                    recorder.sample(random(0, OBS), np.full(OUT, number))

            learner = threading.Thread(target=learn)
            learner.start()
            for number in range(2000):
                recorder.observation(np.full(OBS, number))
            learner.join()
        assert recorder.report().dropped == 0
        assert [data["angle"][0] for data in topic(tmp_path / "a.mcap", OBSERVATION)] == list(range(2000))
        assert [data["y"]["force"][0] for data in topic(tmp_path / "a.mcap", SAMPLE)] == list(range(2000))

    def test_a_closed_recorder_drops(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """A message after `close` is counted as dropped, and closing twice is allowed."""
        recorder = Recorder(tmp_path / "a.mcap", model)
        recorder.observation(random(0, OBS))
        recorder.close()
        recorder.close()
        recorder.observation(random(0, OBS))
        report = recorder.report()
        assert (report.written, report.dropped, report.error) == (1, 1, None)

    def test_a_queue_needs_room(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """A refused queue size creates no file."""
        with pytest.raises(InputError, match="queue is 0"):
            Recorder(tmp_path / "a.mcap", model, queue=0)
        assert not (tmp_path / "a.mcap").exists()


class TestEndings:
    @pytest.mark.parametrize(("end", "finished"), [(signal.SIGKILL, False), (signal.SIGINT, True)])
    def test_a_process_that_ends_leaves_a_file_to_read(
        self, tmp_path: Path, bundle_path: Path, end: signal.Signals, finished: bool
    ) -> None:
        """After SIGKILL, everything that was on the disk can be read; after SIGINT, the file is complete."""
        path = tmp_path / "a.mcap"
        robot = subprocess.Popen(
            [sys.executable, "-c", ROBOT, bundle_path, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert robot.stdout is not None
        written = int(robot.stdout.readline())
        robot.send_signal(end)
        robot.communicate()
        recording = Recording.open(path)
        counts = Counter(event.topic for event in recording.events(OBSERVATION, ACTION))
        assert counts.total() >= written > 0
        assert recording.finished() == finished
        assert [recording.vector(event).shape for event in recording.events(ACTION)] == [(OUT,)] * counts[ACTION]
        if finished:
            assert len(messages(path)) > written

    def test_a_full_disk_ends_the_recording_and_not_the_loop(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """If the file cannot grow, the loop continues, the loss is counted and the file is readable so far."""
        path = tmp_path / "a.mcap"
        recorder = Recorder(path, model)
        recorder.observation(random(0, OBS))
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        acted, rng = 0, np.random.default_rng(0)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limit[1]))
            while recorder.report().error is None:
                x = rng.standard_normal(OBS)
                recorder.observation(x)
                acted += len(model.predict(x)) > 0
                time.sleep(0.001)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        recorder.observation(random(0, OBS))
        recorder.close()
        report = recorder.report()
        assert report.written + report.dropped == acted + 2
        assert "too large" in str(report)
        recording = Recording.open(path)
        assert not recording.finished()
        assert sum(1 for _ in recording.events(OBSERVATION)) <= acted

    def test_an_error_on_the_recorders_thread_is_told(
        self, tmp_path: Path, model: AdaptiveModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Any error in the thread ends the recording: later calls still work, and what was on the disk can be read."""
        x, y = random(0, 5, OBS), random(1, 5, OUT)
        nothing: Any = SimpleNamespace(left_out=())  # not a result of `adapt`
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            recorder.adaptation(x, y, nothing, model.v)
            recorder.observation(x[0])
        report = recorder.report()
        assert (report.written, report.dropped) == (0, 2)
        assert "AttributeError" in str(report)
        assert "AttributeError" in caplog.text
        assert Recording.open(tmp_path / "a.mcap").policy.bundle == model.bundle.digest

    def test_an_error_in_the_loop_still_closes_the_file(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """The file holds the observation that caused the error, and the error reaches the caller."""
        x = np.array([0, np.nan, 0], np.float32)
        with pytest.raises(InputError, match="position"), Recorder(tmp_path / "a.mcap", model) as recorder:  # noqa: PT012
            recorder.observation(x)
            recorder.action(model.predict(x))
        assert Recording.open(tmp_path / "a.mcap").finished()
        assert topic(tmp_path / "a.mcap", OBSERVATION) == [{"position": [0, "NaN"], "angle": [0]}]
