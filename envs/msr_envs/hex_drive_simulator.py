"""A planar vehicle with six thrusters in water, simulated by MuJoCo.

The hull is a disc-like ellipsoid on two slides and a hinge. MuJoCo's ellipsoid fluid model gives drag, lift and the
added mass's Coriolis terms. The hull is round and the thrusters are alike and set evenly, so a turn of the vehicle by
60 degrees with a cyclic shift of its commands is an exact symmetry, whatever the task.

Two properties of MuJoCo decide how this file is written. The integrator `implicitfast` drops part of the velocity
derivatives and breaks this symmetry by about 0.6 %, so `implicit` is used. And a site compiled without a turn of its
own is marked as sharing its body's rotation: a quaternion written later is ignored until `site_sameframe` is cleared.
"""

# The functions and types of mujoco's compiled part are invisible to a static checker.
# pyright: reportAttributeAccessIssue=false

import threading
from functools import cache
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import NDArray

THRUSTERS = 6
PERIOD = 0.1
"""Seconds in one control period."""
ARM = 0.25
"""Metres from the hull's middle to each thruster."""

_STEPS = 10
_DRAG = slice(1, 4)  # the blunt, slender and angular drag coefficients in a row of MjModel.geom_fluid
_AZIMUTHS = 2 * np.pi / THRUSTERS * np.arange(THRUSTERS)

_NAMES = [f"thruster_{index}" for index in range(THRUSTERS)]
_PODS = "\n".join(
    f'<site name="{name}" type="capsule" size="0.025 0.05" rgba="{rgba}"/>'
    for name, rgba in zip(_NAMES, ["0.9 0.3 0.2 1"] * 2 + ["0.25 0.28 0.32 1"] * 4, strict=True)
)
_MOTORS = "\n".join(f'<motor site="{name}" gear="0 0 1 0 0 0"/>' for name in _NAMES)
MJCF = f"""
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
      {_PODS}
    </body>
  </worldbody>
  <actuator>
    {_MOTORS}
  </actuator>
</mujoco>
"""


class HexTask(NamedTuple):
    """One vehicle. All thrusters share the first four numbers; `strengths` tells them apart."""

    gain: float
    """Thrust at full command without a dead band, N."""
    exponent: float
    """The power of the command that thrust follows."""
    dead_band: float
    """The command's magnitude below which a thruster gives nothing."""
    cant: float
    """Radians by which each thruster is turned from tangential (0) to radially outward (pi / 2)."""
    drag: float
    """Factor on the hull's drag coefficients."""
    mass: float
    """Factor on the hull's mass of 10 kg and its yaw inertia of 0.25 kg m2."""
    strengths: tuple[float, ...] = (1.0,) * THRUSTERS
    """Factor on each thruster's thrust, `(6,)`; all 1 on a sound vehicle."""


def draw_task(rng: np.random.Generator) -> HexTask:
    """A sound vehicle, each number uniform in its range."""
    return HexTask(
        gain=rng.uniform(15.0, 40.0),
        exponent=rng.uniform(1.0, 2.0),
        dead_band=rng.uniform(0.0, 0.15),
        cant=rng.uniform(-1.0, 1.0),
        drag=rng.uniform(0.3, 2.0),
        mass=rng.uniform(0.7, 1.6),
    )


def thrust(task: HexTask, commands: NDArray) -> NDArray[np.float64]:
    """Thrusts `(..., 6)` in N that commands `(..., 6)` give: `gain sign(u) max(|u| - dead_band, 0)^exponent`."""
    commands = np.clip(np.asarray(commands, np.float64), -1.0, 1.0)
    magnitude = np.maximum(np.abs(commands) - task.dead_band, 0.0) ** task.exponent
    return task.gain * np.asarray(task.strengths) * np.sign(commands) * magnitude


def turn(angle: NDArray, vector: NDArray) -> NDArray:
    """Plane vectors `(..., 2)` turned counter-clockwise by angles `(...)` in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * vector[..., 0] - sin * vector[..., 1], sin * vector[..., 0] + cos * vector[..., 1]], -1)


def body_twist(states: NDArray) -> NDArray:
    """The twist `(..., 3)` in the body's own frame (m/s, m/s, rad/s) of states `(..., 6)`."""
    return np.concatenate([turn(-states[..., 2], states[..., 3:5]), states[..., 5:]], -1)


class HexSimulator:
    """One MuJoCo model into which each call writes its task, so that tasks cost no compilation.

    A state is `(6,)`: world x, y in m, yaw in rad, and their rates. Calls are pure functions of their arguments.
    """

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(MJCF)
        self.data = mujoco.MjData(self.model)
        self._lock = threading.Lock()
        self._mass = self.model.body_mass.copy()
        self._inertia = self.model.body_inertia.copy()
        self._drag = self.model.geom_fluid[:, _DRAG].copy()
        # Positions are written in full precision: the decimals of a text would break the symmetry.
        self.model.site_pos[:] = ARM * np.stack([np.cos(_AZIMUTHS), np.sin(_AZIMUTHS), 0 * _AZIMUTHS], -1)
        self.model.site_sameframe[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE

    def advance(self, task: HexTask, states: NDArray, commands: NDArray) -> NDArray[np.float64]:
        """States `(batch, 6)` one control period after holding commands `(batch, 6)`."""
        full = np.zeros((len(states), 7))  # MuJoCo's full state begins with the time
        full[:, 1:] = states
        forces = np.repeat(thrust(task, commands)[:, None], _STEPS, 1)
        trajectory = np.empty((len(full), _STEPS, full.shape[1]))
        with self._lock:
            self._write(task)
            rollout.rollout(self.model, self.data, full, forces, state=trajectory)
        return trajectory[:, -1, 1:]

    def twist_change(self, task: HexTask, x: NDArray) -> NDArray[np.float64]:
        """The twist's change `(batch, 3)` over one control period after inputs `(batch, 9)` of twist and commands.

        Each twist is measured in the body's frame of its own time, as an on-board velocity sensor and a gyroscope do,
        so that `x[:, :3] + change` is the next period's twist.
        """
        x = np.asarray(x, np.float64)
        states = np.zeros((len(x), 6))
        states[:, 3:] = x[:, :3]  # at yaw 0 the world's axes are the body's
        return body_twist(self.advance(task, states, x[:, 3:])) - x[:, :3]

    def show(self, task: HexTask, state: NDArray) -> mujoco.MjData:
        """The data of the vehicle in `state` `(6,)`, ready to be drawn; valid until the next call."""
        with self._lock:
            self._write(task)
            self.data.qpos[:], self.data.qvel[:] = state[:3], state[3:]
            mujoco.mj_forward(self.model, self.data)
        return self.data

    def _write(self, task: HexTask) -> None:
        model = self.model
        model.body_mass[:], model.body_inertia[:] = task.mass * self._mass, task.mass * self._inertia
        model.geom_fluid[:, _DRAG] = task.drag * self._drag
        # A site's own z axis is its thrust: (1, 1, 1, 1) / 2 carries z to x and a turn about the world's z follows.
        half = (_AZIMUTHS + np.pi / 2 - task.cant) / 2
        cos, sin = np.cos(half), np.sin(half)
        model.site_quat[:] = np.stack([cos - sin, cos - sin, cos + sin, cos + sin], -1) / 2
        mujoco.mj_setConst(model, self.data)


@cache
def simulator() -> HexSimulator:
    """The process's one simulator."""
    return HexSimulator()
