"""The simulator of quadrotor: a round body with four rotors in wind. It runs in MuJoCo.

* Body: a flat, round ellipsoid. MuJoCo's ellipsoid fluid model gives its drag and its lift, relative to the wind.
* Rotors: four motors that follow their commands with a lag of 30 ms. What moving air and the ground do to them is added
  as a force on the body (`msr_envs.quadrotor.vehicle`).
* State `(17,)`: position (3, m), attitude (quaternion, 4), velocity (3, m/s) in the world's frame, turning rates (3,
  rad/s) about the body's axes, thrusts of the rotors (4, N).
* Group: every turn about the vertical axis, and the mirror. Both are exact symmetries of each vehicle, because the body
  is round, the four rotors are alike, and all forces depend on the velocity relative to the air.

The integrator is `Euler`, which adds the fluid's forces as they are. `implicitfast` leaves out a part of their
derivatives, which breaks the symmetry.
"""

# A static checker cannot see the functions and types in mujoco's compiled part.
# pyright: reportAttributeAccessIssue=false

import threading
from functools import cache

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import NDArray

from msr_envs.quadrotor.autopilot import (
    ARM,
    AZIMUTHS,
    INERTIA,
    ROTOR_LIMIT,
    SPIN,
    YAW_PER_THRUST,
    rotor_thrusts,
    thrust_axis,
)
from msr_envs.quadrotor.vehicle import GRAVITY, LARGEST_THRUST, MASS, QuadTask, nominal_acceleration, rotor_force
from msr_runtime.errors import InputError

PERIOD = 0.02
"""Length of one control period, s."""
STATE = 17
"""Numbers in a state."""
_STEPS = 5  # steps of the integrator, and of the flight controller, in one control period
_STEP = PERIOD / _STEPS
_FASTEST = 100.0  # m/s and rad/s: far faster, and MuJoCo calls the simulation unstable
_BODY = 1  # its row in MjModel's and MjData's arrays; row 0 is the world
_DRAG, _LIFT, _ADDED_MASS = slice(1, 4), 4, slice(6, 12)  # in a row of MjModel.geom_fluid
_CONTROLS = mujoco.mjtState.mjSTATE_CTRL | mujoco.mjtState.mjSTATE_XFRC_APPLIED


def mjcf() -> str:
    """Return the model in MuJoCo's XML."""
    arms, motors = [], []
    for index in range(4):
        x, y = ARM * np.cos(AZIMUTHS[index]), ARM * np.sin(AZIMUTHS[index])
        color = "0.9 0.3 0.2 1" if x > 0 else "0.25 0.28 0.32 1"
        arms.append(
            f'<geom type="capsule" fromto="0 0 0 {x:.4f} {y:.4f} 0" size="0.012" rgba="0.2 0.2 0.2 1" mass="0"/>'
            f'<site name="rotor_{index}" type="cylinder" pos="{x:.4f} {y:.4f} 0.03" size="0.1 0.006" rgba="{color}"/>'
        )
        motors.append(
            f'<general site="rotor_{index}" dyntype="filterexact" dynprm="0.03" gear="0 0 1 0 0 1" '
            f'ctrlrange="0 {ROTOR_LIMIT}"/>'
        )
    line = "\n"
    return f"""
<mujoco model="quadrotor">
  <option timestep="{_STEP}" integrator="Euler" density="1.2" gravity="0 0 -{GRAVITY}">
    <flag contact="disable" constraint="disable"/>
  </option>
  <visual><global offwidth="1280" offheight="960"/><headlight ambient="0.4 0.4 0.4" diffuse="0.6 0.6 0.6"/></visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="0.75 0.86 0.95" rgb2="0.95 0.97 1" width="128" height="128"/>
    <texture name="ground" type="2d" builtin="checker" rgb1="0.62 0.74 0.58" rgb2="0.56 0.69 0.52"
             width="256" height="256"/>
    <material name="ground" texture="ground" texrepeat="8 8"/>
  </asset>
  <worldbody>
    <light pos="0 0 5" dir="0 0 -1" diffuse="0.3 0.3 0.3"/>
    <geom type="plane" size="5 5 0.1" material="ground"/>
    <camera name="behind" pos="-3 -2 2.3" xyaxes="0.5547 -0.8321 0 0.3179 0.2119 0.9241" fovy="45"/>
    <body name="quadrotor">
      <freejoint/>
      <inertial pos="0 0 0" mass="{MASS}" diaginertia="{" ".join(map(str, INERTIA))}"/>
      <geom type="ellipsoid" size="0.2 0.2 0.06" fluidshape="ellipsoid" fluidcoef="0.5 0.25 1.5 0 0"
            rgba="0.95 0.75 0.2 0.35"/>
      {line.join(arms)}
    </body>
  </worldbody>
  <actuator>
    {line.join(motors)}
  </actuator>
</mujoco>
"""


class QuadSimulator:
    """One compiled MuJoCo model for all tasks. A task is written into it when another one was simulated before.

    The result of a call depends on its arguments only.
    """

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(mjcf())
        self.data = mujoco.MjData(self.model)
        self._lock = threading.Lock()  # threads share the model: none may write its task while another one simulates
        self._task: QuadTask | None = None
        self._round = int(np.flatnonzero(self.model.geom_fluid[:, 0])[0])  # the geom that the air acts on
        self._drag = self.model.geom_fluid[self._round, _DRAG].copy()
        # Written here in full precision. In the text of the model they would be rounded, which breaks the symmetry.
        self.model.site_pos[:, :2] = ARM * np.stack([np.cos(AZIMUTHS), np.sin(AZIMUTHS)], -1)

    def residual(self, task: QuadTask, x: NDArray) -> NDArray[np.float64]:
        """Return the acceleration `(batch, 3)` beyond the nominal model's, in the heading frame, m/s2.

        The vehicle does not turn, and its rotors give what they are asked for.

        Args:
            task: The vehicle.
            x: `(batch, 7)`: velocity relative to the air (3, m/s), tilt (2), thrust (m/s2), height (m). See
                `msr_envs.quadrotor`.

        Raises:
            InputError: A number is not finite, a speed is above 100 m/s, or a tilt is not that of a direction.
        """
        x = np.asarray(x, np.float64)
        _check("x", x, x[:, :3])
        if (largest := np.square(x[:, 3:5]).sum(-1).max(initial=0.0)) > 1:
            raise InputError(
                f"Quadrotor: a tilt has the length {np.sqrt(largest):.4g}, but at most 1 is possible: it is the "
                "horizontal part of a direction of length 1, not an angle in degrees"
            )
        count = len(x)
        axis = np.concatenate([x[:, 3:5], np.sqrt(1 - np.square(x[:, 3:5]).sum(-1, keepdims=True))], -1)
        thrust = MASS * x[:, 5]
        full = np.zeros((count, 1 + STATE))  # the first number of MuJoCo's full state is the time
        full[:, 3] = x[:, 6]
        full[:, 4] = w = np.sqrt((1 + axis[:, 2]) / 2)  # at heading 0; only the tilt remains
        full[:, 5], full[:, 6] = -axis[:, 1] / (2 * w), axis[:, 0] / (2 * w)
        full[:, 8:11] = x[:, :3]  # in still air, this is the velocity relative to the air
        full[:, 14:] = thrust[:, None] / 4
        controls = np.zeros((count, 1, 4 + 6 * self.model.nbody))
        controls[:, 0, :4] = thrust[:, None] / 4
        start = 4 + 6 * _BODY
        controls[:, 0, start : start + 3] = rotor_force(task, x[:, :3], axis, task.efficiency * thrust, x[:, 6])
        after = np.empty((count, 1, 1 + STATE))
        with self._lock:
            self._write(task, np.zeros(3))
            rollout.rollout(self.model, self.data, full, controls, control_spec=_CONTROLS, state=after)
        return (after[:, 0, 8:11] - full[:, 8:11]) / _STEP - nominal_acceleration(axis, x[:, 5])

    def advance(
        self, task: QuadTask, state: NDArray, command: NDArray, heading: float, wind: NDArray
    ) -> NDArray[np.float64]:
        """Hold a command for one control period, and return the state `(17,)` after it.

        Args:
            task: The vehicle.
            state: `(17,)`.
            command: `(3,)`, the wanted thrust in the world's frame, as an acceleration of the nominal mass, m/s2.
            heading: Wanted heading, rad.
            wind: `(3,)`, the velocity of the air in the world's frame, m/s.

        Raises:
            InputError: A number is not finite, or a speed or a rate is above 100 m/s or rad/s.
        """
        _check("the state", state, state[7:13])
        _check("the command or the wind", np.concatenate([command, wind]), wind)
        thrust = float(np.linalg.norm(command))
        wanted = command / thrust if thrust else np.array([0.0, 0.0, 1.0])
        data = self.data
        with self._lock:
            self._write(task, wind)
            self._place(state)
            for _ in range(_STEPS):
                attitude = data.qpos[3:]
                data.ctrl[:] = rotor_thrusts(attitude, data.qvel[3:], wanted, min(thrust, LARGEST_THRUST), heading)
                data.xfrc_applied[_BODY, :3] = rotor_force(
                    task, data.qvel[:3] - wind, thrust_axis(attitude), task.efficiency * data.act.sum(), data.qpos[2]
                )
                mujoco.mj_step(self.model, data)
            data.xfrc_applied[_BODY] = 0.0
            return np.concatenate([data.qpos, data.qvel, data.act])

    def show(self, state: NDArray) -> mujoco.MjData:
        """Return MuJoCo's data of a vehicle in `state` `(17,)`, for a renderer. It is valid until the next call."""
        with self._lock:
            self._place(state)
            mujoco.mj_forward(self.model, self.data)
        return self.data

    def _place(self, state: NDArray) -> None:
        self.data.qpos[:], self.data.qvel[:], self.data.act[:] = state[:7], state[7:13], state[13:]

    def _write(self, task: QuadTask, wind: NDArray) -> None:
        self.model.opt.wind[:] = wind
        if task == self._task:
            return
        model = self.model
        model.body_mass[_BODY] = MASS + task.payload
        model.actuator_gear[:, 2] = task.efficiency
        model.actuator_gear[:, 5] = task.efficiency * YAW_PER_THRUST * SPIN
        mujoco.mj_setConst(model, self.data)  # MuJoCo derives further constants from the mass
        fluid = model.geom_fluid[self._round]
        fluid[_DRAG], fluid[_LIFT] = task.drag * self._drag, task.lift
        # An open frame has not the added mass of a closed disc, nor the moment that turns a disc across the wind.
        fluid[_ADDED_MASS] = 0.0  # here, because mj_setConst computes it again
        self._task = task


def _check(name: str, values: NDArray, rates: NDArray) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"Quadrotor: {name} holds {values[~np.isfinite(values)][0]}, but must be finite")
    if (fastest := np.abs(rates).max(initial=0.0)) > _FASTEST:
        raise InputError(
            f"Quadrotor: {name} holds a rate of {fastest:.4g} m/s or rad/s, but at most {_FASTEST:g} can be "
            "simulated; a vehicle moves with a few: check the units"
        )


@cache
def simulator() -> QuadSimulator:
    """Return the one simulator of this process."""
    return QuadSimulator()
