"""The simulator of hex-drive: a vehicle with thrusters that moves in a plane, under water. It runs in MuJoCo.

* Robot: the hull is a flat, round ellipsoid that slides along two axes and turns about the vertical one. MuJoCo's
  ellipsoid fluid model gives drag, lift and the Coriolis terms of the added mass. Six equal thrusters, or another
  number, are set evenly around the hull, at 0.25 m from its middle.
* Task: thrust, dead band, thruster angle, drag and mass of one vehicle (`HexTask`).
* State: position (2, m) and yaw (rad) in the world's frame, and their rates (m/s, rad/s).
* Group: C6. A turn of the vehicle by 60 degrees with a cyclic shift of its commands is an exact symmetry of every task
  whose thrusters are equal, because the hull is round.

`msr_envs.hex_drive` describes x and y of the family.

Two properties of MuJoCo decide how this file is written. First, the integrator `implicitfast` leaves out a part of the
velocity derivatives, which breaks the symmetry by about 0.6 %; therefore `implicit` is used. Second, MuJoCo marks a
site that was compiled without a rotation as sharing the rotation of its body. It ignores a quaternion that is written
later, until `site_sameframe` is cleared.
"""

# A static checker cannot see the functions and types in mujoco's compiled part.
# pyright: reportAttributeAccessIssue=false

import threading
from functools import cache
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import NDArray

from msr_envs.plane import turn
from msr_runtime.errors import InputError

THRUSTERS = 6
"""Number of thrusters, if nobody asks for another one."""
PERIOD = 0.1
"""Length of one control period, s."""
ARM = 0.25
"""Distance from the middle of the hull to each thruster, m."""

_FASTEST = 100.0  # m/s and rad/s: far faster, and MuJoCo calls the simulation unstable
_STEPS = 10  # steps of the integrator in one control period
_DRAG = slice(1, 4)  # in a row of MjModel.geom_fluid: the drag coefficients blunt, slender and angular


def mjcf(thrusters: int) -> str:
    """Return the model in MuJoCo's XML."""
    names = [f"thruster_{index}" for index in range(thrusters)]
    colors = ["0.9 0.3 0.2 1"] * 2 + ["0.25 0.28 0.32 1"] * (thrusters - 2)
    pods = "\n".join(
        f'<site name="{name}" type="capsule" size="0.025 0.05" rgba="{rgba}"/>'
        for name, rgba in zip(names, colors, strict=True)
    )
    motors = "\n".join(f'<motor site="{name}" gear="0 0 1 0 0 0"/>' for name in names)
    return f"""
<mujoco model="hex_drive">
  <option timestep="{PERIOD / _STEPS}" integrator="implicit" density="1000" gravity="0 0 0">
    <flag contact="disable" constraint="disable"/>
  </option>
  <visual><global offwidth="1280" offheight="960"/><headlight ambient="0.4 0.4 0.4" diffuse="0.6 0.6 0.6"/></visual>
  <asset>
    <texture name="water" type="2d" builtin="checker" rgb1="0.62 0.78 0.86" rgb2="0.57 0.74 0.83"
             width="256" height="256"/>
    <material name="water" texture="water" texrepeat="8 8"/>
  </asset>
  <worldbody>
    <light pos="0 0 4" dir="0 0 -1" diffuse="0.3 0.3 0.3"/>
    <geom type="plane" size="4 4 0.1" pos="0 0 -0.2" material="water"/>
    <camera name="above" pos="0 0 3.2" fovy="50"/>
    <body name="hull">
      <inertial pos="0 0 0" mass="10" diaginertia="0.15 0.15 0.25"/>
      <joint type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 1 0"/>
      <joint type="hinge" axis="0 0 1"/>
      <geom name="hull" type="ellipsoid" size="0.2 0.2 0.06" fluidshape="ellipsoid" rgba="0.95 0.75 0.2 1"/>
      {pods}
    </body>
  </worldbody>
  <actuator>
    {motors}
  </actuator>
</mujoco>
"""


class HexTask(NamedTuple):
    """One vehicle. All thrusters share the first four numbers. Only `strengths` differs between thrusters."""

    gain: float
    """Thrust at full command without a dead band, N. 15 to 40."""
    exponent: float
    """Thrust is proportional to the command to this power. 1 to 2."""
    dead_band: float
    """Magnitude of the command below which a thruster gives no thrust. 0 to 0.15."""
    cant: float
    """Angle of each thruster, rad: 0 pushes along the edge of the hull, pi / 2 pushes away from the middle. -1 to 1."""
    drag: float
    """Factor on the hull's drag coefficients. 0.3 to 2."""
    mass: float
    """Factor on the hull's mass of 10 kg and on its yaw inertia of 0.25 kg m2. 0.7 to 1.6."""
    strengths: tuple[float, ...] = ()
    """Factor on the thrust of each thruster. Empty on a vehicle without a fault: all are 1."""


def draw_task(rng: np.random.Generator) -> HexTask:
    """Draw a vehicle without a fault. Each number is uniform in the range that `HexTask` states."""
    return HexTask(
        gain=rng.uniform(15.0, 40.0),
        exponent=rng.uniform(1.0, 2.0),
        dead_band=rng.uniform(0.0, 0.15),
        cant=rng.uniform(-1.0, 1.0),
        drag=rng.uniform(0.3, 2.0),
        mass=rng.uniform(0.7, 1.6),
    )


def thrust(task: HexTask, commands: NDArray) -> NDArray[np.float64]:
    """Return the thrusts `(..., thrusters)` in N for commands of the same shape, which are cut off at -1 and 1.

    The thrust of a command u is `strength gain sign(u) max(|u| - dead_band, 0)^exponent`.
    """
    commands = np.clip(np.asarray(commands, np.float64), -1.0, 1.0)
    magnitude = np.maximum(np.abs(commands) - task.dead_band, 0.0) ** task.exponent
    return task.gain * np.asarray(task.strengths or 1.0) * np.sign(commands) * magnitude


def body_twist(states: NDArray) -> NDArray:
    """Return the twist `(..., 3)` of states `(..., 6)`: velocity in the body's frame (m/s, m/s), yaw rate (rad/s)."""
    return np.concatenate([turn(states[..., 3:5], -states[..., 2]), states[..., 5:]], -1)


class HexSimulator:
    """One compiled MuJoCo model for all tasks. Each call writes its task into it, since compiling a model takes long.

    A state is `(6,)`: x and y in the world's frame in m, yaw in rad, and their rates. The result of a call depends on
    its arguments only.

    Args:
        thrusters: How many thrusters a vehicle has.
    """

    def __init__(self, thrusters: int = THRUSTERS) -> None:
        self.model = mujoco.MjModel.from_xml_string(mjcf(thrusters))
        self.data = mujoco.MjData(self.model)
        self._lock = threading.Lock()  # threads share the model: none may write its task while another one simulates
        self._mass = self.model.body_mass.copy()
        self._inertia = self.model.body_inertia.copy()
        self._drag = self.model.geom_fluid[:, _DRAG].copy()
        self._azimuths = 2 * np.pi / thrusters * np.arange(thrusters)
        # Written here in full precision. In the text of the model they would be rounded, which breaks the symmetry.
        self.model.site_pos[:] = ARM * np.stack(
            [np.cos(self._azimuths), np.sin(self._azimuths), 0 * self._azimuths], -1
        )
        self.model.site_sameframe[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE

    def advance(self, task: HexTask, states: NDArray, commands: NDArray) -> NDArray[np.float64]:
        """Hold commands `(batch, thrusters)` for one control period from states `(batch, 6)`. Returns such states.

        Raises:
            InputError: A number is not finite, or a rate is above 100 m/s or rad/s. MuJoCo would start again from rest,
                and leave a file MUJOCO_LOG.TXT.
        """
        _check_finite(states, commands)
        full = np.zeros((len(states), 7))  # the first number of MuJoCo's full state is the time
        full[:, 1:] = states
        forces = np.repeat(thrust(task, commands)[:, None], _STEPS, 1)
        trajectory = np.empty((len(full), _STEPS, full.shape[1]))
        with self._lock:
            self._write(task)
            rollout.rollout(self.model, self.data, full, forces, state=trajectory)
        return trajectory[:, -1, 1:]

    def twist_change(self, task: HexTask, x: NDArray) -> NDArray[np.float64]:
        """Return the change `(batch, 3)` of the twist over one control period.

        Each twist is in the body's frame of its own time, as an on-board velocity sensor and a gyroscope measure it.
        `x[:, :3] + change` is therefore the twist at the start of the next period.

        Args:
            task: The vehicle.
            x: `(batch, 3 + thrusters)`, the twist (m/s, m/s, rad/s) and the commands.

        """
        x = np.asarray(x, np.float64)
        states = np.zeros((len(x), 6))
        states[:, 3:] = x[:, :3]  # at yaw 0, the body's frame is the world's frame
        return body_twist(self.advance(task, states, x[:, 3:])) - x[:, :3]

    def show(self, task: HexTask, state: NDArray) -> mujoco.MjData:
        """Return MuJoCo's data of the vehicle in `state` `(6,)`, for a renderer. It is valid until the next call."""
        with self._lock:
            self._write(task)
            self.data.qpos[:], self.data.qvel[:] = state[:3], state[3:]
            mujoco.mj_forward(self.model, self.data)
        return self.data

    def _write(self, task: HexTask) -> None:
        model = self.model
        model.body_mass[:], model.body_inertia[:] = task.mass * self._mass, task.mass * self._inertia
        model.geom_fluid[:, _DRAG] = task.drag * self._drag
        # A motor pushes along the z axis of its site. The quaternion (1, 1, 1, 1) / 2 turns z to the world's x. A turn
        # about the world's z follows, to the azimuth of the thruster plus 90 degrees, minus the cant.
        half = (self._azimuths + np.pi / 2 - task.cant) / 2
        cos, sin = np.cos(half), np.sin(half)
        model.site_quat[:] = np.stack([cos - sin, cos - sin, cos + sin, cos + sin], -1) / 2
        mujoco.mj_setConst(model, self.data)  # MuJoCo derives further constants from mass and inertia


def _check_finite(states: NDArray, commands: NDArray) -> None:
    for name, values in (("states", states), ("commands", commands)):
        if not np.isfinite(values).all():
            raise InputError(f"HexDrive: the {name} hold {values[~np.isfinite(values)][0]}, but must be finite")
    if (fastest := np.abs(states[:, 3:]).max(initial=0.0)) > _FASTEST:
        raise InputError(
            f"HexDrive: a state has a rate of {fastest:.4g} m/s or rad/s, but at most {_FASTEST:g} can be simulated; a "
            "vehicle moves with a few: check the units"
        )


@cache
def simulator(thrusters: int = THRUSTERS) -> HexSimulator:
    """Return the one simulator of this process for vehicles with so many thrusters."""
    return HexSimulator(thrusters)
