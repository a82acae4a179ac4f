"""Replays: the bundle that was recorded does the same again, another one is caught, and damage is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import Writer
from numpy.typing import NDArray

from msr_runtime import AdaptiveModel, BundleError, ControlLoop, InputError
from msr_runtime.messages import ADAPTATION, OBSERVATION, SAMPLE
from msr_runtime.model import Start
from msr_runtime.online import OnlineAdapter
from msr_runtime.recorder import Recorder
from msr_runtime.recording import Recording
from msr_runtime.replay import ReplayReport, replay
from msr_runtime.task import Field

OBS, OUT = 3, 2
Act = Callable[[AdaptiveModel, NDArray], NDArray]


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(bundle_path: Path) -> AdaptiveModel:
    """The reference's model."""
    return AdaptiveModel.load(bundle_path)


def ticks(recorder: Recorder, model: AdaptiveModel, count: int, act: Act = AdaptiveModel.predict) -> list[int]:
    """Let the model act some times; return the stamps."""
    stamps = []
    for _ in range(count):
        stamps.append(recorder.observation(x := random(len(stamps), OBS)))
        recorder.action(act(model, x))
    return stamps


def adapt(recorder: Recorder, model: AdaptiveModel, seed: int, **how: Any) -> None:
    """Let the model adapt."""
    x, y = random(seed, 5, OBS), random(seed + 1, 5, OUT)
    result = model.adapt(x, y, **how)
    recorder.adaptation(x, y, result, model.v, start=how.get("start", "v0"))


def drive(path: Path, model: AdaptiveModel) -> None:
    """A run with everything in it that can change the weights."""
    adapt_before = random(8, 5, OBS), random(9, 5, OUT)
    model.adapt(*adapt_before)
    model.save_adaptation(path.with_suffix(".safetensors"))
    with Recorder(path, model) as recorder:
        ticks(recorder, model, 3)
        adapt(recorder, model, 0)
        ticks(recorder, model, 3)
        adapt(recorder, model, 2, steps=1, start="accepted")
        ticks(recorder, model, 3)
        x = 1e20 * random(0, 5, OBS)
        recorder.adaptation(x, x[:, :OUT], model.adapt(x, x[:, :OUT]), model.v)
        ticks(recorder, model, 3)
        model.reset()
        recorder.reset()
        ticks(recorder, model, 3)
        model.load_adaptation(path.with_suffix(".safetensors"))
        recorder.loaded(path.with_suffix(".safetensors"), model.v)
        ticks(recorder, model, 3)


def replayed(path: Path, model: AdaptiveModel, tolerance: float | None = None) -> ReplayReport:
    """The replay of a file."""
    return replay(Recording.open(path), model, tolerance)


class TestSame:
    def test_the_recorded_bundle_does_the_same_again_exactly(
        self, tmp_path: Path, model: AdaptiveModel, bundle_path: Path
    ) -> None:
        """Adapted cold and warm, refused, reset and loaded: with no tolerance at all; the model stays as it was."""
        drive(tmp_path / "a.mcap", model)
        fresh = AdaptiveModel.load(bundle_path)
        report = replayed(tmp_path / "a.mcap", fresh, tolerance=0.0)
        assert report.same
        assert (report.actions, report.adaptations, report.refused) == (18, 2, 1)
        assert [(f.name, f.unit, f.largest, f.differing) for f in report.fields] == [("force", "N", 0.0, 0)]
        assert (report.v_error, report.first, report.alone) == (0.0, None, 0)
        np.testing.assert_array_equal(fresh.v, fresh.bundle.start()["v"])

    def test_the_weights_of_a_tick_may_change_while_it_lasts(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """From another thread: before or after the action was computed, and recorded before or after it either way."""
        old = model.fork()
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 2)
            recorder.observation(x := random(7, OBS))
            adapt(recorder, model, 0)
            recorder.action(old.predict(x))  # the old weights, recorded after the new ones came
            ticks(recorder, model, 2)
            recorder.observation(x)
            ahead = model.fork()
            ahead.adapt(random(2, 5, OBS), random(3, 5, OUT))
            recorder.action(ahead.predict(x))  # the new weights, recorded before them
            adapt(recorder, model, 2)
            ticks(recorder, model, 2)
        report = replayed(tmp_path / "a.mcap", model)
        assert (report.same, report.actions) == (True, 8)

    def test_old_weights_are_not_excused_a_tick_later(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """A robot that goes on with weights that were replaced is caught."""
        old = model.fork()
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 2)
            adapt(recorder, model, 0)
            stamps = ticks(recorder, old, 2)
        report = replayed(tmp_path / "a.mcap", model)
        assert (report.differing, report.first) == (2, stamps[0])

    def test_actions_without_a_finite_observation_are_left_out(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """The network was not asked, so that it cannot have given them; they are counted."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            recorder.action(random(0, OUT), stamp=1)
            ticks(recorder, model, 2)
            recorder.action(random(0, OUT), stamp=2)
            recorder.observation([0, np.nan, 0])
            recorder.action(random(0, OUT))
            recorder.observation(random(0, OBS))
        report = replayed(tmp_path / "a.mcap", model)
        assert (report.same, report.actions, report.alone) == (True, 2, 3)

    @pytest.mark.parametrize("start", ["v0", "accepted"])
    def test_a_robot_that_adapts_beside_its_loop_replays_exactly(
        self, tmp_path: Path, bundle_path: Path, linear: Any, start: Start
    ) -> None:
        """Loop, adapter and recorder on three threads: the file alone gives every action again, to the last bit."""
        model, truth = AdaptiveModel.load(bundle_path), linear.v0 + np.float32(0.2)
        with (
            Recorder(tmp_path / "a.mcap", model) as recorder,
            OnlineAdapter(model, window=8, hz=50, start=start, recorder=recorder) as online,
            ControlLoop(hz=250, ticks=150) as loop,
        ):
            for tick in loop:
                recorder.observation(x := random(tick, OBS))
                recorder.action(online.predict(x))
                online.observe(x, linear.predict(truth, x))
        report = replayed(tmp_path / "a.mcap", AdaptiveModel.load(bundle_path), tolerance=0.0)
        assert recorder.report().dropped == 0
        assert (report.same, report.actions) == (True, 150)
        assert (report.adaptations, report.refused) == (online.report().accepted, sum(online.report().refused.values()))
        assert report.adaptations > 1
        samples = Recording.open(tmp_path / "a.mcap").events(SAMPLE)
        assert sum(1 for _ in samples) == online.report().observed == 150


class TestDifferent:
    def test_a_changed_action_is_found(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Which field, by how much, when first; below the tolerance it passes."""

        def nudged(model: AdaptiveModel, x: NDArray) -> NDArray:
            return model.predict(x) + np.array([0, 0.25], np.float32)

        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 4)
            stamps = ticks(recorder, model, 3, nudged)
        report = replayed(tmp_path / "a.mcap", model)
        (force,) = report.fields
        assert (report.same, report.actions, report.differing, report.first) == (False, 7, 3, stamps[0])
        assert (force.differing, force.first) == (3, stamps[0])
        assert force.largest == pytest.approx(0.25, rel=1e-4)
        # the second output's scale is 0.1
        assert not replayed(tmp_path / "a.mcap", model, tolerance=2.4).same
        assert replayed(tmp_path / "a.mcap", model, tolerance=2.6).same

    def test_an_action_that_is_no_number_differs(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """By an infinite amount, whatever the tolerance."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 1, lambda *_: np.array([np.nan, np.inf]))
        report = replayed(tmp_path / "a.mcap", model, tolerance=1e9)
        assert (report.same, report.fields[0].largest) == (False, np.inf)

    def test_other_filter_parameters_differ(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Even if no action followed that would show it."""
        x, y = random(0, 5, OBS), random(1, 5, OUT)
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 1)
            recorder.adaptation(x, y, model.adapt(x, y), 1.01 * model.v, stamp=77)
        report = replayed(tmp_path / "a.mcap", model)
        assert (report.same, report.differing, report.adaptations_differing, report.first) == (False, 0, 1, 77)
        assert report.v_error == pytest.approx(0.01, rel=0.02)

    def test_another_bundle_is_said_and_compared(
        self, tmp_path: Path, model: AdaptiveModel, linear: Any, write: Callable[..., Path]
    ) -> None:
        """By its actions: its filter parameters mean something else."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 2)
            adapt(recorder, model, 0)
            stamps = ticks(recorder, model, 2)
        same_numbers = AdaptiveModel.load(write(rate_hz=50.0))
        report = replayed(tmp_path / "a.mcap", same_numbers)
        assert (report.same_bundle, report.same, report.v_error) == (False, True, 0.0)

        slower = type(linear)(rate=0.01)
        report = replayed(tmp_path / "a.mcap", AdaptiveModel.load(write(slower.files())))
        assert (report.same_bundle, report.differing, report.first) == (False, 2, stamps[0])

    def test_another_bundle_cannot_take_an_adaptation_from_a_file(
        self, tmp_path: Path, model: AdaptiveModel, write: Callable[..., Path]
    ) -> None:
        """Its filter parameters would mean something else."""
        drive(tmp_path / "a.mcap", model)
        with pytest.raises(BundleError, match="loaded from a file was saved from bundle"):
            replayed(tmp_path / "a.mcap", AdaptiveModel.load(write(rate_hz=50.0)))

    def test_other_fields_are_refused(self, tmp_path: Path, model: AdaptiveModel, write: Callable[..., Path]) -> None:
        """Both lists are shown."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 1)
        outputs = (Field(name="torque", shape=(OUT,), unit="N m", low=-10, high=10),)
        other = AdaptiveModel.load(write(outputs=outputs))
        with pytest.raises(InputError, match=r"outputs force \(2,\) N, but the bundle has torque \(2,\) N m"):
            replayed(tmp_path / "a.mcap", other)

    def test_a_tolerance_is_a_number(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """NaN would call everything the same."""
        drive(tmp_path / "a.mcap", model)
        for tolerance in (-1.0, np.nan):
            with pytest.raises(InputError, match="0 or more is wanted"):
                replayed(tmp_path / "a.mcap", model, tolerance)


def foreign(path: Path, topic: str, data: bytes) -> None:
    """A file of another program."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel(topic, "json", writer.register_schema("", "", b""))
        writer.add_message(channel, 1, data, 1)
        writer.finish()


class TestBadFiles:
    @pytest.mark.parametrize("missing", ["/observation", "/action"])
    def test_a_missing_channel_is_named(self, tmp_path: Path, model: AdaptiveModel, missing: str) -> None:
        """There is nothing to compare without it."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            if missing == "/action":
                recorder.observation(random(0, OBS))
            else:
                recorder.action(random(0, OUT))
        with pytest.raises(InputError, match=f"holds no message of {missing}"):
            replayed(tmp_path / "a.mcap", model)

    def test_a_file_that_is_not_there_or_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        """With what was found instead."""
        for name, data, words in (
            ("absent", None, "No such file"),
            ("text", b"stamp,x,y\n1,2,3\n", "InvalidMagic"),
            ("empty", b"", "holds no /policy_metadata, but no message"),
        ):
            if data is not None:
                (tmp_path / name).write_bytes(data)
            with pytest.raises(InputError, match=f"{name}'.*{words}"):
                Recording.open(tmp_path / name)

    @pytest.mark.parametrize(
        ("topic", "data", "words"),
        [
            ("/tf", b"{}", "holds no /policy_metadata, but /tf; it was written by something else"),
            ("/policy_metadata", b"\x00\x01", "/policy_metadata stamped 1 is malformed at the whole message"),
            ("/policy_metadata", b'{"recording_version": 1}', "malformed at bundle: Field required"),
            (
                "/policy_metadata",
                b'{"recording_version": 2, "bundle": "", '
                b'"manifest": {"name": "", "inputs": [], "outputs": [], "loss": "mse"}}',
                "has version 2, but this runtime reads 1; it was written by a newer msr-runtime",
            ),
        ],
    )
    def test_another_programs_file_is_refused(self, tmp_path: Path, topic: str, data: bytes, words: str) -> None:
        """Well-formed MCAP, but not a recording."""
        foreign(tmp_path / "a.mcap", topic, data)
        with pytest.raises(InputError, match=words):
            Recording.open(tmp_path / "a.mcap")

    @pytest.mark.parametrize(
        ("topic", "data", "words"),
        [
            (OBSERVATION, b'{"position": [1, 2], "angle": []}', "fields {'position': 2, 'angle': 0} with their sizes"),
            (OBSERVATION, b'{"position": [1, 2]}', "fields {'position': 2} with"),
            (OBSERVATION, b'{"position": [1, null], "angle": [1]}', "malformed at position.1: Input should be a valid"),
            (ADAPTATION, b'{"kind": "grow"}', "malformed at kind"),
            (ADAPTATION, b'{"kind": "adapt", "steps": 3}', "holds no support set"),
            (ADAPTATION, b'{"kind": "load", "file": "?"}', "no base64"),
            (ADAPTATION, b'{"kind": "load", "file": ""}', "loaded from a file cannot be read"),
        ],
    )
    def test_wrong_fields_are_named(
        self, tmp_path: Path, model: AdaptiveModel, topic: str, data: bytes, words: str
    ) -> None:
        """A message that another program put into a channel of ours."""
        with (tmp_path / "a.mcap").open("wb") as file:
            writer = Writer(file)
            writer.start()
            policy = b'{"recording_version": 1, "bundle": "", "manifest": %s}' % model.manifest.to_bytes()
            for name, message in (("/policy_metadata", policy), (topic, data)):
                channel = writer.register_channel(name, "json", writer.register_schema("", "", b""))
                writer.add_message(channel, 5, message, 5)
            writer.finish()
        with pytest.raises((InputError, BundleError), match=words):
            replayed(tmp_path / "a.mcap", model)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, linear: Any, linear_files: dict[str, bytes]) -> tuple[bytes, Any]:
    """A recording's bytes and what a replay of it says."""
    from msr_runtime.bundle import write_bundle

    folder = tmp_path_factory.mktemp("sound")
    model = AdaptiveModel.load(write_bundle(folder / "bundle", linear.manifest(), linear_files))
    drive(folder / "a.mcap", model)
    return (folder / "a.mcap").read_bytes(), (model, replayed(folder / "a.mcap", model))


fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestDamagedFiles:
    @given(share=st.floats(0, 1, exclude_max=True))
    @fuzz
    def test_a_file_cut_short_gives_what_was_whole(self, tmp_path: Path, sound: Any, share: float) -> None:
        """At any length: the same run up to there, or nothing, if not even the first chunk is whole."""
        data, (model, whole) = sound
        path = tmp_path / "cut.mcap"
        path.write_bytes(data[: int(share * len(data))])
        report, refused = None, ""
        try:
            report = replay(Recording.open(path), model)
        except InputError as error:
            refused = str(error)
        if report is None:
            assert "cut short before anything reached the disk" in refused or "holds no message of" in refused
            return
        assert report.same
        assert report.actions <= whole.actions

    @given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
    @settings(fuzz, max_examples=200)
    def test_a_changed_byte_changes_no_number(self, tmp_path: Path, sound: Any, place: float, flip: int) -> None:
        """Checksums find it, or it was one that says nothing of the run; never another error, never another run."""
        data, (model, whole) = sound
        changed = bytearray(data)
        changed[int(place * len(data))] ^= flip
        path = tmp_path / "changed.mcap"
        path.write_bytes(changed)
        try:
            recording = Recording.open(path)
            report = replay(recording, model)
        except InputError:
            return
        assert report == whole or not recording.finished()
        assert report.same
