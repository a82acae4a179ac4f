"""Which number of x is at fault: named on a robot that is broken, and on no sound one."""

import math
from pathlib import Path

import numpy as np
import pytest

from msr_envs.ring_nav import RingNav
from msr_runtime import AdaptiveModel, Bundle, Field, OnlineAdapter
from msr_runtime.adaptation.input_faults import FaultCheck, element_names
from msr_runtime.bundle.familiarity import Familiarity, FaultTail, ShotTail, Tail, UsualInnovation
from msr_runtime.bundle.input_faults import Fit
from msr_runtime.bundle.store import write_bundle
from msr_runtime.recording.messages import ONLINE
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder

FIELDS = (
    Field(name="commands", shape=(3,), unit="1", low=-1.0, high=1.0, names=("left", "right", "top")),
    Field(name="rate", shape=(1,), unit="rad/s", low=-1.0, high=1.0),
)
USUAL = Tail(usual=20.0, slope=0.0)
KNOWN = Familiarity(
    tasks=100,
    samples=600,
    window=16,
    largest=USUAL,
    by_shots=(ShotTail(shots=10, surprise=USUAL),),
    faults=(
        FaultTail(samples=5, gain=Tail(usual=40.0, slope=0.0), offset=USUAL),
        FaultTail(samples=10, gain=USUAL, offset=USUAL),
        FaultTail(samples=20, gain=USUAL, offset=USUAL),
    ),
)


def robot(
    samples: int, gain: tuple[float, ...] = (1, 1, 1, 1), offset: float = 0.0, seed: int = 0, noise: float = 0.1
) -> FaultCheck:
    """Watch a linear robot with two numbers in y. The network knows how it is built, and no fault.

    It expects a noise of 0.1.
    """
    check, rng = FaultCheck(KNOWN, FIELDS, 0.1, 0.01), np.random.default_rng(seed)
    drive(check, rng, rng.normal(size=(4, 2)), samples, gain, offset, noise)
    return check


def drive(
    check: FaultCheck,
    rng: np.random.Generator,
    matrix: np.ndarray,
    samples: int,
    gain: tuple[float, ...] = (1, 1, 1, 1),
    offset: float = 0.0,
    noise: float = 0.1,
) -> None:
    """Let a robot drive on."""
    for _ in range(samples):
        x = rng.uniform(-1, 1, 4)
        true = x * gain + offset * np.eye(4)[3]
        check.add(x, (true - x) @ matrix + noise * rng.normal(size=2), np.full(2, 0.01), matrix)


def test_names_are_those_of_the_fields() -> None:
    """And numbers where nobody has named the elements."""
    unnamed = FIELDS[0].model_copy(update={"names": ()})
    assert element_names(FIELDS) == ["commands[left]", "commands[right]", "commands[top]", "rate"]
    assert element_names((unnamed,)) == ["commands[0]", "commands[1]", "commands[2]"]


def test_a_sound_robot_raises_no_alarm() -> None:
    """However long it goes on; before the fewest samples that were measured, nothing is said."""
    assert math.isnan(robot(4).now.evidence)
    assert str(robot(4).now) == "not known yet"
    for samples in (5, 19, 20, 21, 200):
        check = robot(samples)
        assert (check.now.found, check.now.alarms) == (False, 0), samples
        assert str(check.now).startswith("none seems to be at fault: evidence")


@pytest.mark.parametrize(
    ("gain", "offset", "name", "seems"),
    [
        ((1, 0.2, 1, 1), 0.0, "commands[right]", "acts more weakly"),
        ((1, 1, 1.8, 1), 0.0, "commands[top]", "acts more strongly"),
        ((1, 1, 1, 1), 0.3, "rate", "is higher"),
        ((1, 1, 1, 1), -0.3, "rate", "is lower"),
    ],
)
def test_the_number_at_fault_is_named(gain: tuple[float, ...], offset: float, name: str, seems: str) -> None:
    """And in which direction it is off. It is one alarm, until a new task begins."""
    check = robot(150, gain, offset)
    assert (check.now.input, check.now.seems, check.now.found, check.now.alarms) == (name, seems, True, 1)
    assert str(check.now).startswith(f"{name} {seems} than its value says: evidence")
    check.begin_task()
    assert (check.now.found, check.now.alarms, math.isnan(check.now.evidence)) == (False, 1, True)


def test_between_two_counts_the_wider_limit_holds() -> None:
    """That of the next one measured, or of the one before. After the last one, its own."""
    limits = [robot(samples, (1, 0.5, 1, 1)).now.limit for samples in (5, 6, 10, 15, 20, 100)]
    assert limits == [40, 40, 20, 20, 20, 20]


def test_the_samples_of_long_ago_no_longer_count() -> None:
    """A thruster that was mended is not called weak for ever."""
    check = robot(40, (1, 0.5, 1, 1))
    assert check.now.found
    rng = np.random.default_rng(1)
    for _ in range(20):
        check.add(rng.uniform(-1, 1, 4), 0.1 * rng.normal(size=2), np.full(2, 0.01), rng.normal(size=(4, 2)))
    assert not check.now.found


def test_noise_is_no_fault() -> None:
    """Sensors five times as noisy as in meta-training raise no alarm; a fault is found in spite of twice the noise."""
    for seed in range(20):
        assert not robot(200, seed=seed, noise=0.5).now.alarms, seed
    found = robot(40, offset=-0.3, noise=0.2).now
    assert (found.input, found.seems, found.found) == ("rate", "is lower", True)


def test_what_is_usual_after_as_many_samples_is_divided_out() -> None:
    """A filter that expects three times the noise in the beginning of a task is corrected, in every task anew."""
    usual = (UsualInnovation(samples=5, nis=1 / 9), UsualInnovation(samples=6, nis=1.0))
    corrected = FaultCheck(KNOWN.model_copy(update={"usual": usual}), FIELDS, 0.1, 0.01)
    plain, rng = FaultCheck(KNOWN, FIELDS, 0.1, 0.01), np.random.default_rng(0)
    for _ in range(2):
        for sample in range(12):
            x, errors, slopes = rng.uniform(-1, 1, 4), 0.1 * rng.normal(size=2), rng.normal(size=(4, 2))
            plain.add(x, errors, np.full(2, 0.01), slopes)
            corrected.add(x, errors, np.full(2, 0.09 if sample < 5 else 0.01), slopes)
        assert corrected.now.evidence == pytest.approx(plain.now.evidence)
        for check in (plain, corrected):
            check.begin_task()


def test_one_fault_is_one_alarm() -> None:
    """Though its evidence falls each time that older samples no longer count. It is two if it was gone for a while."""
    check, found = FaultCheck(KNOWN, FIELDS, 0.1, 0.01), list[bool]()

    def add(samples: int, pull: float) -> None:
        for _ in range(samples):
            pulls = pull * np.array([[0, 0, 0, 0], [0, 0, 0, 1]])
            check.add_fit(Fit(pulls, np.full((2, 4), 100.0), np.full((1, 1), 2.0)), 2)
            found.append(check.now.found)

    add(60, 12.0)
    assert found[10:].count(False) > 10  # each time that half of the samples are left
    assert check.now.alarms == 1
    add(20, 0.0)
    add(20, 12.0)
    assert check.now.alarms == 2


def test_numbers_that_are_not_finite_say_nothing() -> None:
    """A network that has diverged has no slopes, and no variance is no error. The check stays as it was, silently."""
    check = robot(20)
    before = check.now
    check.add(np.ones(4), np.ones(2), np.full(2, 0.01), np.full((4, 2), np.inf))
    check.add(np.ones(4), np.array([np.nan, 0.0]), np.full(2, 0.01), np.ones((4, 2)))
    for variance in (0.0, -1.0):
        check.add(np.ones(4), np.ones(2), np.full(2, variance), np.ones((4, 2)))
    assert check.now is before


def test_a_sensor_with_an_offset_is_found_on_board(recursive_bundle: Path, tmp_path: Path) -> None:
    """On a robot that is just what the network at v0 says, but for the offset. Report and recording name the sensor.

    The network is hardly trained, so clean tasks give it much evidence: half of it is taken as usual here.
    """
    bundle = Bundle.open(recursive_bundle)
    known = bundle.manifest.familiarity
    assert known
    faults = tuple(
        FaultTail(samples=each.samples, gain=each.gain.times(0.5), offset=each.offset.times(0.5))
        for each in known.faults
    )
    manifest = bundle.manifest.model_copy(update={"familiarity": known.model_copy(update={"faults": faults})})
    model = AdaptiveModel(write_bundle(tmp_path / "bundle", manifest, bundle.files))
    x = RingNav().sample(np.random.default_rng(9), 1, 1, 240, "test").query_x[0, 120:]
    offset = 5 * model.manifest.normalization.input_scale[17] * (np.arange(18) == 17)
    reports = []
    for name, true in (("sound", x), ("broken", (x + offset).astype(np.float32))):
        y, robot = model.predict(true), model.fork()
        with Recorder(tmp_path / f"{name}.mcap", robot) as recorder:
            with OnlineAdapter(robot, recorder=recorder, detect_changes=False, false_alarms=0.1) as online:
                for tick, pair in enumerate(zip(x, y, strict=True)):
                    online.observe(*pair, at=tick / 10)
            reports.append(online.report())
    sound, broken = (report.fault for report in reports)
    assert sound
    assert broken
    assert (sound.found, sound.alarms) == (False, 0)
    assert (broken.input, broken.seems) == ("goal[1]", "is higher")
    assert broken.alarms
    assert f"\ninputs    {broken}" in str(reports[1])
    *_, told = Recording.open(tmp_path / "broken.mcap").events(ONLINE)
    assert b'"fault":{"input":"' in told.data.replace(b" ", b"")
