"""Arm: body, tasks and symmetry of the simulator."""

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.arm.body import MIDDLE, MOVE, RANGE
from msr_envs.arm.simulator import simulator
from msr_envs.arm.task import NOMINAL, ArmTask, draw_task
from msr_runtime.errors import InputError

ODD = ArmTask((0.2, -0.15, 0.01, 0.1, -0.25), (18.0, 40.0, 25.0, 15.0, 30.0), 0.2, 0.1, 1.6, 0.025)


def moves(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Commands and moves `(count, 5)` from the whole wide region."""
    rng = np.random.default_rng(1)
    commands = MIDDLE + rng.uniform(-RANGE, RANGE, (count, 5))
    commands[:, 0] = rng.uniform(-np.pi, np.pi, count)
    return commands, rng.uniform(-MOVE, MOVE, (count, 5))


def about_vertical(angle: float) -> NDArray[np.float64]:
    """The turn `(3, 3)` about the vertical axis by `angle` in rad."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


@pytest.mark.parametrize("task", [NOMINAL, ODD, draw_task(np.random.default_rng(0))])
@pytest.mark.parametrize("angle", [0.3, np.pi / 2, 2.9])
def test_every_turn_is_a_symmetry(task: ArmTask, angle: float) -> None:
    """A turn of the base's command turns the fingertip by the same angle, in every task."""
    commands, way = moves(20)
    seen = simulator().fingertip(task, commands, way)
    turned = simulator().fingertip(task, commands + np.array([angle, 0, 0, 0, 0]), way)
    np.testing.assert_allclose(turned, seen @ about_vertical(angle).T, atol=1e-9)


def test_an_offset_of_the_base_is_a_turn() -> None:
    """So it leaves the symmetry as it is."""
    commands, way = moves(20)
    seen = simulator().fingertip(NOMINAL, commands, way)
    off = simulator().fingertip(NOMINAL._replace(offsets=(0.2, 0, 0, 0, 0)), commands, way)
    np.testing.assert_allclose(off, seen @ about_vertical(0.2).T, atol=1e-9)


def test_a_mirror_is_a_symmetry_of_the_nominal_arm_alone() -> None:
    """Offsets of the base or of the roll break it: the family must not declare it."""
    commands, way = moves(20)
    flip = np.array([-1, 1, 1, 1, -1])

    def asymmetry(task: ArmTask) -> float:
        seen = simulator().fingertip(task, commands, way) * [1, -1, 1]
        return float(np.abs(simulator().fingertip(task, commands * flip, way * flip) - seen).max())

    assert asymmetry(NOMINAL) < 1e-9
    assert asymmetry(NOMINAL._replace(offsets=(0, 0.2, 0.2, 0.2, 0))) < 1e-9
    assert asymmetry(NOMINAL._replace(offsets=(0.2, 0, 0, 0, 0))) > 0.01
    assert asymmetry(NOMINAL._replace(offsets=(0, 0, 0, 0, 0.2))) > 0.002


def test_the_body_has_the_stated_lengths() -> None:
    """Upright, a stiff arm's fingertip stands above the base by the sum of the lengths."""
    stiff = NOMINAL._replace(stiffness=(200.0,) * 5)
    tip = simulator().fingertip(stiff, np.zeros((1, 5)), np.zeros((1, 5)))[0]
    np.testing.assert_allclose(tip, [0.03 + 0.02, 0, 0.06 + 0.05 + 0.116 + 0.135 + 0.16], atol=2e-3)


def test_every_number_of_the_task_matters() -> None:
    """Each number moves the fingertip. A task that was simulated before does not."""
    commands, way = moves(10)
    seen = simulator().fingertip(ODD, commands, way)
    changes = {"payload": 0.05, "friction": 0.02, "damping": 2.9, "backlash": 0.0}
    for name, value in changes.items():
        changed = simulator().fingertip(ODD._replace(**{name: value}), commands, way)
        assert np.abs(changed - seen).max() > 5e-4, name
    for joint in range(5):
        for name, change in (("offsets", 0.1), ("stiffness", 15.0)):
            numbers = list(getattr(ODD, name))
            numbers[joint] += change
            changed = simulator().fingertip(ODD._replace(**{name: tuple(numbers)}), commands, way)
            # the fingertip is near the axis of the roll, whose gain moves it little
            assert np.abs(changed - seen).max() > (1e-5 if (name, joint) == ("stiffness", 4) else 1e-3), (name, joint)
    np.testing.assert_array_equal(simulator().fingertip(ODD, commands, way), seen)


def test_a_joint_with_play_stops_on_the_side_from_which_it_comes() -> None:
    """From both sides, the base stops apart by the backlash, and with dry friction further apart."""
    command = np.repeat(MIDDLE[None], 2, 0)
    way = np.array([[0.5, 0, 0, 0, 0], [-0.5, 0, 0, 0, 0]])

    def gap(task: ArmTask) -> float:
        ahead, behind = simulator().fingertip(task, command, way)
        return float(np.arctan2(behind[1], behind[0]) - np.arctan2(ahead[1], ahead[0]))

    smooth = NOMINAL._replace(friction=0.001, damping=3.0)
    assert abs(gap(smooth)) < 2e-3
    assert gap(smooth._replace(backlash=0.03)) == pytest.approx(0.03, abs=2e-3)
    assert gap(smooth._replace(friction=0.3)) > 0.01


def test_a_weaker_motor_sags_further() -> None:
    """The sag of a loaded shoulder is its torque over the stiffness: each halving adds twice as much as the last."""
    command, rest = MIDDLE[None] + [0, 0.3, -0.3, 0, 0], np.zeros((1, 5))

    def height(shoulder: float) -> float:
        task = NOMINAL._replace(payload=0.1, friction=0.001, stiffness=(30.0, shoulder, 30.0, 30.0, 30.0))
        return float(simulator().fingertip(task, command, rest)[0, 2])

    first, second = -np.diff([height(stiffness) for stiffness in (80.0, 40.0, 20.0)])
    assert first > 0.003
    assert second / first == pytest.approx(2.0, abs=0.15)


def test_drawn_arms_have_replaced_motors() -> None:
    """One to three joints are off by 0.1 to 0.25 rad, and every joint may be one of them."""
    rng = np.random.default_rng(0)
    offsets = np.abs([draw_task(rng).offsets for _ in range(200)])
    replaced = offsets > 0.02
    assert set(replaced.sum(-1)) == {1, 2, 3}
    assert replaced.any(0).all()
    assert (offsets[replaced] >= 0.1).all()
    assert (offsets <= 0.25).all()


@pytest.mark.parametrize(("value", "words"), [(np.nan, "hold nan, but must be finite"), (500.0, "hold 500, but at")])
def test_the_simulator_refuses_what_mujoco_would_reset(value: float, words: str) -> None:
    """The message says which array, and the next move is not affected."""
    commands, way = moves(2)
    before = simulator().fingertip(ODD, commands, way)
    with pytest.raises(InputError, match=f"Arm: the states {words}"):
        simulator().advance(ODD, np.full((2, 12), value), np.zeros((2, 6)), np.zeros((2, 6)))
    np.testing.assert_array_equal(simulator().fingertip(ODD, commands, way), before)
