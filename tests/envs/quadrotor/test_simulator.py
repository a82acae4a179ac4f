"""Quadrotor: the simulator's forces, their symmetry, and what it refuses."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.quadrotor import Quadrotor, QuadTask
from msr_envs.quadrotor.autopilot import attitude, heading_of, rotor_thrusts, thrust_axis
from msr_envs.quadrotor.flight import start_state
from msr_envs.quadrotor.simulator import PERIOD, QuadSimulator, simulator
from msr_envs.quadrotor.vehicle import GRAVITY, draw_task
from msr_runtime.errors import InputError

PLAIN = QuadTask(payload=0.0, efficiency=1.0, drag=0.0, lift=0.0, flapping=0.0, translation=0.0, inflow=0.0, ground=0.0)
ODD = QuadTask(
    payload=0.25, efficiency=0.85, drag=1.1, lift=0.5, flapping=0.025, translation=0.002, inflow=0.02, ground=1.8
)
UPRIGHT = np.array([0.0, 0.0, GRAVITY])
STILL = np.zeros(3)


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator for each use."""
    return np.random.default_rng(seed)


def inputs(count: int) -> NDArray[np.float64]:
    """Inputs `(count, 7)` from the whole wide region."""
    low, high = ([-7, -7, -2, -0.45, -0.45, 5, 0.25], [7, 7, 2, 0.45, 0.45, 20, 1.5])
    return generator(1).uniform(low, high, (count, 7))


@pytest.mark.parametrize("task", [PLAIN, ODD, draw_task(generator(4))])
def test_simulator_commutes_with_the_group(task: QuadTask) -> None:
    """Turns by any angle and the mirror are exact symmetries of every vehicle."""
    family, x = Quadrotor(), inputs(60)
    y = simulator().residual(task, x)
    for g, h in zip(family.group().inputs, family.group().outputs, strict=True):
        np.testing.assert_allclose(simulator().residual(task, x @ g.T), y @ h.T, atol=1e-9)
    turned_x, turned_y = family.augment(generator(), x, y)  # any angle
    assert np.abs(turned_x - x).max() > 1
    np.testing.assert_allclose(simulator().residual(task, turned_x), turned_y, atol=1e-9)


def test_the_whole_flight_turns_with_the_wind() -> None:
    """Wind, command, heading and state that are turned together give the turned state, the flight controller too.

    By 90 degrees, so that rotors stand again where rotors stood.
    """
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    command, wind = np.array([2.0, 1.0, 10.0]), np.array([4.0, -2.0, 0.5])
    straight, turned = start_state(0.3), start_state(0.3 + np.pi / 2)
    turned[:3], turned[7:10] = quarter @ straight[:3], quarter @ straight[7:10]
    for _ in range(20):
        straight = simulator().advance(ODD, straight, command, 0.3, wind)
        turned = simulator().advance(ODD, turned, quarter @ command, 0.3 + np.pi / 2, quarter @ wind)
    for part in (slice(0, 3), slice(7, 10)):
        np.testing.assert_allclose(turned[part], quarter @ straight[part], atol=1e-6)
    np.testing.assert_allclose(thrust_axis(turned[3:7]), quarter @ thrust_axis(straight[3:7]), atol=1e-6)
    assert heading_of(turned[3:7]) == pytest.approx(heading_of(straight[3:7]) + np.pi / 2, abs=1e-6)


def test_a_wind_that_x_does_not_hold_would_break_the_symmetry() -> None:
    """The same x gives another residual acceleration if a fixed wind blows beside the air velocity in it."""
    family, x, wind = Quadrotor(), inputs(40), [3.0, 0, 0, 0, 0, 0, 0]
    g, h = family.group().inputs[2], family.group().outputs[2]
    y = simulator().residual(ODD, x - wind)
    assert np.abs(simulator().residual(ODD, x @ g.T - wind) - y @ h.T).max() > 0.5


def test_the_nominal_vehicle_has_no_residual() -> None:
    """The nominal model is exact for a vehicle without payload, in air that does nothing."""
    np.testing.assert_allclose(simulator().residual(PLAIN, inputs(30)), 0, atol=1e-9)


def test_every_number_of_the_task_matters() -> None:
    """Each number changes the result. A task that was simulated before does not change it."""
    x = inputs(30)
    labels = simulator().residual(ODD, x)
    for name, value in PLAIN._asdict().items():
        assert np.abs(simulator().residual(ODD._replace(**{name: value}), x) - labels).max() > 0.05, name
    np.testing.assert_array_equal(simulator().residual(ODD, x), labels)


def test_forces_have_the_sign_of_their_names() -> None:
    """Payload pulls down, drag and flapping push against the flow, and the ground and cross flow push up."""
    hover = np.array([[6.0, 0, 0, 0, 0, GRAVITY, 1.5]])
    low = np.array([[6.0, 0, 0, 0, 0, GRAVITY, 0.25]])
    rising = np.array([[0.0, 0, 2.0, 0, 0, GRAVITY, 1.5]])

    def residual(x: NDArray, **task: float) -> NDArray[np.float64]:
        return simulator().residual(PLAIN._replace(**task), x)[0]

    np.testing.assert_allclose(residual(hover, payload=0.25), [0, 0, -GRAVITY / 5], atol=1e-9)
    np.testing.assert_allclose(residual(hover, efficiency=0.8), [0, 0, -GRAVITY / 5], atol=1e-9)
    np.testing.assert_allclose(residual(hover, flapping=0.02), [-6 * 0.02 * GRAVITY, 0, 0], atol=1e-9)
    np.testing.assert_allclose(residual(hover, translation=0.002), [0, 0, 0.072 * GRAVITY], atol=1e-9)
    np.testing.assert_allclose(residual(rising, inflow=0.02), [0, 0, -0.04 * GRAVITY], atol=1e-9)
    assert residual(hover, drag=1.0)[0] < -0.5
    assert 4 * residual(hover, drag=1.0)[0] == pytest.approx(residual(hover * [2, 1, 1, 1, 1, 1, 1], drag=1.0)[0])
    assert residual(low, ground=1.0)[2] > 5 * residual(hover, ground=1.0)[2] > 0


def test_residual_is_the_acceleration_of_a_flight() -> None:
    """In a steady tilt, the flown acceleration is the nominal one plus the residual at the measured x."""
    state, wind = start_state(0.0), np.array([-5.0, 1.0, 0.0])
    state[2], state[7:10] = 1.4, 0.0
    command = np.array([1.5, -0.5, 10.5])
    for _ in range(60):
        before, state = state, simulator().advance(ODD, state, command, 0.0, wind)
    middle = (before + state) / 2
    axis, thrust = thrust_axis(middle[3:7]), np.linalg.norm(command)
    x = np.array([*(middle[7:10] - wind), *axis[:2], thrust, middle[2]])
    expected = simulator().residual(ODD, x[None])[0] + thrust * axis - [0, 0, GRAVITY]
    np.testing.assert_allclose((state[7:10] - before[7:10]) / PERIOD, expected, atol=0.02)


@pytest.mark.parametrize("heading", [-3.0, 0.0, 2.0])
def test_attitude_is_a_heading_and_then_a_tilt(heading: float) -> None:
    """Both are read back from the quaternion, and such an attitude asks for no torque."""
    axis = np.array([0.3, -0.4, np.sqrt(0.75)])
    quaternion = attitude(axis, heading)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0)
    np.testing.assert_allclose(thrust_axis(quaternion), axis, atol=1e-12)
    assert heading_of(quaternion) == pytest.approx(heading)
    np.testing.assert_allclose(rotor_thrusts(quaternion, STILL, axis, 12.0, heading), 3.0)


def test_flight_controller_follows_tilt_and_heading() -> None:
    """After half a second, the plain vehicle has the wanted direction of thrust and nearly the wanted heading."""
    state, command = start_state(0.0), np.array([3.0, 2.0, 9.0])
    for _ in range(40):
        state = simulator().advance(PLAIN, state, command, 0.5, STILL)
    np.testing.assert_allclose(thrust_axis(state[3:7]), command / np.linalg.norm(command), atol=0.01)
    assert heading_of(state[3:7]) == pytest.approx(0.5, abs=0.15)


def test_added_mass_is_left_out_for_every_task() -> None:
    """MuJoCo computes it again when the mass changes; it would turn the vehicle across the wind."""
    simulation = QuadSimulator()
    for task in (PLAIN, ODD):
        simulation.residual(task, inputs(1))
        assert not simulation.model.geom_fluid[:, 6:].any()
    assert simulation.model.opt.integrator == getattr(mujoco, "mjtIntegrator").mjINT_EULER  # noqa: B009


def test_the_simulator_refuses_what_mujoco_would_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo turns such numbers into rest, and writes MUJOCO_LOG.TXT into the working folder."""
    monkeypatch.chdir(tmp_path)
    state, x = start_state(0.0), inputs(2)
    with pytest.raises(InputError, match="Quadrotor: the state holds nan"):
        simulator().advance(PLAIN, state * np.nan, UPRIGHT, 0.0, STILL)
    with pytest.raises(InputError, match="command or the wind holds inf"):
        simulator().advance(PLAIN, state, UPRIGHT + np.inf, 0.0, STILL)
    with pytest.raises(InputError, match=r"the state holds a rate of 1e\+05"):
        simulator().advance(PLAIN, np.where(np.arange(17) == 8, 1e5, state), UPRIGHT, 0.0, STILL)
    with pytest.raises(InputError, match="x holds nan"):
        simulator().residual(PLAIN, x * np.nan)
    with pytest.raises(InputError, match=r"a tilt has the length 28\.28, .* not an angle in degrees"):
        simulator().residual(PLAIN, x * 0 + [0, 0, 0, 20, 20, 9, 1])
    assert list(tmp_path.iterdir()) == []
