"""What the file of a Recorder holds: messages, stamps, schemas, adaptations."""

import json
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader

from msr_runtime import AdaptiveModel, ControlLoop, InputError
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.recording.messages import ACTION, ADAPTATION, LOOP, METADATA, OBSERVATION, RECORDER, SAMPLE, TOPICS
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder

OBS, OUT = 3, 2


class TestFile:
    def test_it_begins_with_what_was_recorded(self, tmp_path: Path, model: AdaptiveModel, messages: Any) -> None:
        """The first message holds the digest and the whole manifest of the bundle."""
        Recorder(tmp_path / "a.mcap", model).close()
        _, channel, _, data = messages(tmp_path / "a.mcap")[0]
        assert channel.topic == METADATA
        assert (data["recording_version"], data["bundle"]) == (3, model.bundle.digest)
        assert Manifest.model_validate(data["manifest"]) == model.manifest

    def test_observation_and_action_of_a_tick_carry_one_stamp(
        self, tmp_path: Path, model: AdaptiveModel, random: Any, messages: Any
    ) -> None:
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

    def test_a_stamp_of_ones_own_is_kept(
        self, tmp_path: Path, model: AdaptiveModel, random: Any, messages: Any
    ) -> None:
        """The caller may give the stamp of a sensor, and an action may refer to an earlier observation."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            assert recorder.observation(random(0, OBS), stamp=123) == 123
            recorder.action(random(1, OUT))
            recorder.action(random(1, OUT), stamp=100)
        found = [
            (c.topic, m.log_time) for _, c, m, _ in messages(tmp_path / "a.mcap") if c.topic in (OBSERVATION, ACTION)
        ]
        assert found == [(OBSERVATION, 123), (ACTION, 123), (ACTION, 100)]

    def test_schemas_name_fields_shapes_and_units(
        self, tmp_path: Path, model: AdaptiveModel, random: Any, messages: Any
    ) -> None:
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
        assert {c.topic for c in summary.channels.values()} == {*(METADATA, *TOPICS, RECORDER)}

        def flat(part: dict[str, Any]) -> None:
            assert isinstance(part["type"], str)
            if part["type"] == "array":
                assert part["items"]["type"] != "array"
                flat(part["items"])
            for inner in part.get("properties", {}).values():
                flat(inner)

        for schema in summary.schemas.values():
            flat(json.loads(schema.data))

    def test_adaptations_carry_support_result_and_v(self, tmp_path: Path, model: AdaptiveModel, random: Any) -> None:
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

    def test_an_adaptation_that_acts_already_is_recorded_first(
        self, tmp_path: Path, model: AdaptiveModel, random: Any, topic: Any
    ) -> None:
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

    def test_loop_figures_are_recorded_whole(self, tmp_path: Path, model: AdaptiveModel, topic: Any) -> None:
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
