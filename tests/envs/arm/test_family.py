"""Arm: samples, symmetry, closed loop, and that ten samples can give back what replaced motors took away."""

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs import check_family
from msr_envs.arm import NOMINAL, Arm, ArmTask, recovered_share
from msr_envs.arm.body import MIDDLE, MOVE
from msr_envs.arm.controller import choose_command, drive, model_inputs
from msr_envs.arm.course import PATH, REACHES, draw_course
from msr_runtime.errors import FamilyError, InputError
from msr_runtime.task import SPLITS, ClosedLoopFamily, Predict


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator for each use."""
    return np.random.default_rng(seed)


def test_family_contract() -> None:
    """The checker finds nothing and says in words what turns."""
    assert isinstance(Arm(), ClosedLoopFamily)
    words = check_family(Arm())
    assert words.startswith("family 'arm' keeps the contract, group C8\nturn by any angle")
    assert "base turns, joints stay, move stays; of the outputs: fingertip turns" in words


def test_samples_stay_in_their_region() -> None:
    """Sector samples end ahead of the base, wide queries anywhere. Splits differ, and odd counts are refused."""
    batch = Arm().sample(generator(), 4, 10, 40, "train")
    assert [part.shape for part in batch] == [(4, 10, 11), (4, 10, 3), (4, 40, 11), (4, 40, 3)]
    assert all(part.dtype == np.float32 for part in batch)
    for x in (batch.support_x, batch.query_x[:, :20]):
        assert np.abs(np.arctan2(x[..., 1], x[..., 0])).max() <= 0.3 + 1e-6
    wide = batch.query_x[:, 20:]
    assert (np.abs(wide[..., :2].mean((0, 1))) < 0.3).all()
    np.testing.assert_allclose(np.linalg.norm(batch.query_x[..., :2], axis=-1), 1, atol=1e-6)
    draws = [Arm().sample(generator(3), 1, 2, 2, split).support_x for split in SPLITS]
    assert not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    with pytest.raises(FamilyError, match="queries is 5"):
        Arm().sample(generator(), 1, 2, 5, "train")


def test_augmented_samples_are_the_simulators_own() -> None:
    """For an input that was turned by any angle, the simulator gives the turned output."""
    family = Arm()
    task = family.draw_task(generator())
    x = family.sample(generator(), 1, 2, 40, "train").query_x[0]
    turned_x, turned_y = family.augment(generator(), x, family.true_model(task)(x))
    assert np.abs(turned_x - x).max() > 0.5
    np.testing.assert_allclose(family.true_model(task)(turned_x), turned_y, atol=1e-6)


def test_courses_lie_in_any_direction() -> None:
    """A turned course is the same course. It has points to reach, then a level circle."""
    courses = [draw_course(generator(seed)) for seed in range(20)]
    bearings = [np.arctan2(*course.targets[:, 1::-1].mean(0)) for course in courses]
    assert np.ptp(bearings) > 4
    for course in courses:
        circle = course.targets[REACHES:]
        assert len(circle) == PATH
        assert np.ptp(circle[:, 2]) < 1e-12
        np.testing.assert_allclose(np.linalg.norm(circle - circle.mean(0), axis=-1), 0.04)


def test_a_command_stays_within_a_move_and_the_working_range() -> None:
    """The longest move holds even where the target is far out of reach."""
    held = draw_course(generator()).start
    command = choose_command(Arm().true_model(NOMINAL), held, np.array([0.0, 0.0, 3.0]))
    assert np.abs(command - held).max() <= 0.6 + 1e-9
    assert np.abs(command[1:] - held[1:]).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_useless_networks_leave_a_finite_error(value: float) -> None:
    """A network that gives NaN, infinity or zero moves the arm badly, without a warning."""
    driven = Arm().drive(NOMINAL, lambda x: np.full((len(x), 3), value, np.float32), generator())
    assert 0.02 < driven.errors.mean() < 1


def test_evaluate_compares_in_pairs() -> None:
    """Equal generators give equal supports, courses and results. The reference is close to its targets."""
    family, seen = Arm(), []

    def adapt(x: NDArray, y: NDArray) -> Predict:
        seen.append((x, y))
        return lambda query: np.zeros((len(query), 3), np.float32)

    reference = family.evaluate(None, generator(5), 1, "test")
    assert (reference.metric, reference.unit, reference.higher_is_better) == ("fingertip error", "m", False)
    useless = family.evaluate(adapt, generator(5), 1, "test")
    assert reference.values[0] < 0.005 < 0.02 < useless.values[0]
    np.testing.assert_array_equal(useless.values, family.evaluate(adapt, generator(5), 1, "test").values)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][1], seen[1][1])
    assert seen[0][0].shape == (10, 11)


def test_ten_samples_hold_what_recalibration_needs() -> None:
    """A fit of the task's numbers to ten samples gives back more than 90 % of what the new motors took away."""
    family = Arm()
    rng = generator(7)
    errors = []
    for _ in range(2):
        task, course = family.draw_task(rng), draw_course(rng)
        course = course._replace(targets=course.targets[:5])
        commands = MIDDLE + rng.uniform(-0.3, 0.3, (10, 5))
        x = model_inputs(commands, rng.uniform(-MOVE, MOVE, (10, 5)))
        fitted = fit(family, x, family.true_model(task)(x))
        models = (task, NOMINAL, fitted)
        errors.append([drive(task, family.true_model(model), course).errors.mean() for model in models])
    reference, nominal, adapted = np.transpose(errors)
    assert recovered_share(reference, nominal, adapted) > 0.9


def fit(family: Arm, x: NDArray[np.float32], y: NDArray[np.float32]) -> ArmTask:
    """The arm that explains the samples best, by four Gauss-Newton steps from the middle of what arms there are."""

    def arm(numbers: NDArray) -> ArmTask:
        stiffness, payload, friction, backlash = np.maximum([30, 0.13, 0.07, 0.015] * (1 + 0.5 * numbers[5:]), 1e-3)
        return ArmTask(tuple(0.15 * numbers[:5]), (stiffness,) * 5, payload, friction, 2.0, backlash)

    def residual(numbers: NDArray) -> NDArray:
        # errors in mm, and how unlikely such an arm is
        return np.append(1e3 * (family.true_model(arm(numbers))(x) - y).ravel(), numbers)

    numbers = np.zeros(9)
    for _ in range(4):
        error = residual(numbers)
        slope = np.stack([(residual(numbers + step) - error) / 0.1 for step in 0.1 * np.eye(9)], -1)
        numbers = numbers - np.linalg.lstsq(slope, error, rcond=None)[0]
    return arm(numbers)


def test_the_recovered_share() -> None:
    """All, nothing and half of what was lost. Nothing lost is refused."""
    known, before = np.array([0.0, 2.0]), np.array([5.0, 7.0])
    assert recovered_share(known, before, known) == 1
    assert recovered_share(known, before, before) == 0
    assert recovered_share(known, before, np.array([3.5, 3.5])) == pytest.approx(0.5)
    with pytest.raises(InputError, match="nothing to recover"):
        recovered_share(before, known, known)
