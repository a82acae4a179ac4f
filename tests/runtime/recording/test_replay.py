"""Replays: the recorded bundle acts the same again, another bundle is detected, and damaged files are reported."""

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
from msr_runtime.adaptation.online import OnlineAdapter
from msr_runtime.adaptation.start import Start
from msr_runtime.recording.messages import ADAPTATION, OBSERVATION, SAMPLE
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.replay import ReplayReport, replay
from msr_runtime.task import Field

OBS, OUT = 3, 2
Act = Callable[[AdaptiveModel, NDArray], NDArray]


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(bundle_path: Path) -> AdaptiveModel:
    """A model of the reference bundle."""
    return AdaptiveModel.load(bundle_path)


def ticks(recorder: Recorder, model: AdaptiveModel, count: int, act: Act = AdaptiveModel.predict) -> list[int]:
    """Record `count` ticks of the model; return their stamps."""
    stamps = []
    for _ in range(count):
        stamps.append(recorder.observation(x := random(len(stamps), OBS)))
        recorder.action(act(model, x))
    return stamps


def adapt(recorder: Recorder, model: AdaptiveModel, seed: int, **how: Any) -> None:
    """Adapt the model and record the adaptation."""
    x, y = random(seed, 5, OBS), random(seed + 1, 5, OUT)
    result = model.adapt(x, y, **how)
    recorder.adaptation(x, y, result, model.v, start=how.get("start", "v0"))


def drive(path: Path, model: AdaptiveModel) -> None:
    """Record a run with every kind of event that changes the weights."""
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
    """Replay a file."""
    return replay(Recording.open(path), model, tolerance)


class TestSame:
    def test_the_recorded_bundle_does_the_same_again_exactly(
        self, tmp_path: Path, model: AdaptiveModel, bundle_path: Path
    ) -> None:
        """Every kind of change of the weights replays equal at tolerance 0; the given model is not changed."""
        drive(tmp_path / "a.mcap", model)
        fresh = AdaptiveModel.load(bundle_path)
        report = replayed(tmp_path / "a.mcap", fresh, tolerance=0.0)
        assert report.same
        assert (report.actions, report.adaptations, report.refused) == (18, 2, 1)
        assert [(f.name, f.unit, f.largest, f.differing) for f in report.fields] == [("force", "N", 0.0, 0)]
        assert (report.v_error, report.first, report.alone) == (0.0, None, 0)
        np.testing.assert_array_equal(fresh.v, fresh.bundle.start()["v"])

    def test_the_weights_of_a_tick_may_change_while_it_lasts(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Another thread may adapt before or after the action, and may be recorded before or after it."""
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
        """An action from replaced weights is a difference in every later tick."""
        old = model.fork()
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 2)
            adapt(recorder, model, 0)
            stamps = ticks(recorder, old, 2)
        report = replayed(tmp_path / "a.mcap", model)
        assert (report.differing, report.first) == (2, stamps[0])

    def test_actions_without_a_finite_observation_are_left_out(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Actions whose observation is missing or not finite are counted and not compared."""
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
        """Loop, adapter and recorder on three threads: the replay reproduces every action to the last bit."""
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
        """The report gives the field, the difference and the first stamp; a larger tolerance accepts the difference."""

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
        """A recorded NaN counts as an infinite difference, whatever the tolerance is."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 1, lambda *_: np.array([np.nan, np.inf]))
        report = replayed(tmp_path / "a.mcap", model, tolerance=1e9)
        assert (report.same, report.fields[0].largest) == (False, np.inf)

    def test_other_filter_parameters_differ(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Different filter parameters are found even without a later action."""
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
        """Only the actions of another bundle are compared, because its filter parameters mean something else."""
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
        """A recorded adaptation file of another bundle is refused."""
        drive(tmp_path / "a.mcap", model)
        with pytest.raises(BundleError, match="loaded from a file was saved from bundle"):
            replayed(tmp_path / "a.mcap", AdaptiveModel.load(write(rate_hz=50.0)))

    def test_other_fields_are_refused(self, tmp_path: Path, model: AdaptiveModel, write: Callable[..., Path]) -> None:
        """The error shows both lists of fields."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            ticks(recorder, model, 1)
        outputs = (Field(name="torque", shape=(OUT,), unit="N m", low=-10, high=10),)
        other = AdaptiveModel.load(write(outputs=outputs))
        with pytest.raises(InputError, match=r"outputs force \(2,\) N, but the bundle has torque \(2,\) N m"):
            replayed(tmp_path / "a.mcap", other)

    def test_a_tolerance_is_a_number(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """A negative tolerance or NaN is refused; with NaN, every comparison would pass."""
        drive(tmp_path / "a.mcap", model)
        for tolerance in (-1.0, np.nan):
            with pytest.raises(InputError, match="0 or more is wanted"):
                replayed(tmp_path / "a.mcap", model, tolerance)


def foreign(path: Path, topic: str, data: bytes) -> None:
    """Write a file as another program would."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel(topic, "json", writer.register_schema("", "", b""))
        writer.add_message(channel, 1, data, 1)
        writer.finish()


class TestBadFiles:
    @pytest.mark.parametrize("missing", ["/observation", "/action"])
    def test_a_missing_channel_is_named(self, tmp_path: Path, model: AdaptiveModel, missing: str) -> None:
        """A recording without observations or without actions is refused."""
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            if missing == "/action":
                recorder.observation(random(0, OBS))
            else:
                recorder.action(random(0, OUT))
        with pytest.raises(InputError, match=f"holds no message of {missing}"):
            replayed(tmp_path / "a.mcap", model)

    def test_a_file_that_is_not_there_or_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        """The error says what was found instead."""
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
            ("/tf", b"{}", "holds no /policy_metadata, but /tf; another program than"),
            ("/policy_metadata", b"\x00\x01", "/policy_metadata stamped 1 is malformed at the whole message"),
            ("/policy_metadata", b'{"recording_version": 1}', "malformed at bundle: Field required"),
            (
                "/policy_metadata",
                b'{"recording_version": 4, "bundle": "", '
                b'"manifest": {"name": "", "inputs": [], "outputs": [], "loss": "mse"}}',
                "has version 4, but this runtime reads 1 to 3; it was written by a newer msr-runtime: read it",
            ),
        ],
    )
    def test_another_programs_file_is_refused(self, tmp_path: Path, topic: str, data: bytes, words: str) -> None:
        """A valid MCAP file that is not a recording is refused."""
        foreign(tmp_path / "a.mcap", topic, data)
        with pytest.raises(InputError, match=words):
            Recording.open(tmp_path / "a.mcap")

    @pytest.mark.parametrize(
        ("topic", "data", "words"),
        [
            (OBSERVATION, b'{"position": [1, 2], "angle": []}', "fields and sizes {'position': 2, 'angle': 0}, but"),
            (OBSERVATION, b'{"position": [1, 2]}', "fields and sizes {'position': 2}, but"),
            (OBSERVATION, b'{"position": [1, null], "angle": [1]}', "malformed at position.1: Input should be a valid"),
            (ADAPTATION, b'{"kind": "grow"}', "malformed at kind"),
            (ADAPTATION, b'{"kind": "adapt", "steps": 3}', "holds no support set"),
            (ADAPTATION, b'{"kind": "load", "file": "?"}', "not base64"),
            (ADAPTATION, b'{"kind": "load", "file": ""}', "loaded from a file cannot be read"),
        ],
    )
    def test_wrong_fields_are_named(
        self, tmp_path: Path, model: AdaptiveModel, topic: str, data: bytes, words: str
    ) -> None:
        """A wrong message in one of the recording's channels is refused with its topic, stamp and place."""
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
    """The bytes of a recording, its model and the report of its replay."""
    from msr_runtime.bundle.store import write_bundle

    folder = tmp_path_factory.mktemp("sound")
    model = AdaptiveModel.load(write_bundle(folder / "bundle", linear.manifest(), linear_files))
    drive(folder / "a.mcap", model)
    return (folder / "a.mcap").read_bytes(), (model, replayed(folder / "a.mcap", model))


fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestDamagedFiles:
    @given(share=st.floats(0, 1, exclude_max=True))
    @fuzz
    def test_a_file_cut_short_gives_what_was_whole(self, tmp_path: Path, sound: Any, share: float) -> None:
        """A file cut at any length replays the same run up to that point, or is refused without a complete chunk."""
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
        """A changed byte is found by a checksum, or it has no influence on the run; no other error, no other result."""
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
