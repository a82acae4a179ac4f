"""The simulator of ant: Gymnasium's own MuJoCo Ant, seen from its body, with physics of its own in each task.

* Robot: Ant-v5. A ball on four equal legs, each with a hip and an ankle. Legs are numbered counter-clockwise from the
  front left one. An ankle's angle, rate and command count as positive where they bend the foot down, on every leg.
* Task: factors on what Gymnasium's model says (`RANGES`).
* Group: C4. A turn of the body by 90 degrees moves each leg to the place of the next one.

The model differs from Gymnasium's in two options of MuJoCo. Friction cones are elliptic: friction is the same in every
direction, which a pyramid only approximates. The integrator is `implicit`, which asks for the forces once a step where
`RK4` asks four times.
"""

# A static checker cannot see the functions and types in mujoco's compiled part.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from mujoco import rollout
from numpy.typing import NDArray

from msr_runtime.errors import InputError

PERIOD = 0.05
"""Length of one control period, s."""
LEGS = 4
RANGES: dict[str, tuple[float, float]] = {
    "gear": (0.3, 1.5),
    "torso": (0.5, 6.0),
    "friction": (0.2, 1.5),
    "damping": (0.3, 4.0),
    "armature": (0.4, 2.0),
}
"""The factors of a task: on the torque of the motors, the mass of the torso, the friction of the ground, the damping of
the joints and their armature (the inertia of the motors)."""
PARTS: dict[str, int] = {
    "height": 1,
    "up": 3,
    "velocity": 3,
    "angular_velocity": 3,
    "hips": LEGS,
    "ankles": LEGS,
    "hip_rates": LEGS,
    "ankle_rates": LEGS,
}
"""The parts of an observation, in order, and how many numbers each takes. Vectors are in the body's frame."""
OBSERVATION = sum(PARTS.values())
ACTION = 2 * LEGS
JOINTS = slice(10, 18)
"""Where the angles of hips and ankles stand in an observation."""
RATES = slice(18, 26)
"""Where their rates stand."""
MOVING = [*range(4, 10), *range(18, 26)]
"""Where all velocities stand."""

_STEPS = 5  # steps of the integrator in one control period
_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])  # of the ankles of the model, whose axes point to different sides
_FLIPS = np.append(np.ones(LEGS), _SIGNS)
_HIPS, _ANKLES = np.arange(7, 15, 2), np.arange(8, 16, 2)  # in qpos; one less in qvel, which has no quaternion
_MOTORS = np.array([2, 4, 6, 0, 3, 5, 7, 1])  # of hips 1 to 4 and ankles 1 to 4, in ctrl
_FREE = 6  # numbers of qvel that belong to the free body
_ABOVE = (-0.01, 0.05)  # m: height of the lowest foot over the ground at the start
_SPEED, _TILT, _RATE = 1.0, 0.15, 2.0  # m/s, rad, rad/s: at the start, the largest speed and deviations of the others
_STANDING, _STANDING_HEIGHT = 1.0, 0.556  # rad, of the ankles; m
_HIP, _ANKLE = np.pi / 6, (np.pi / 6, 7 * np.pi / 18)  # rad: ranges of the joints


class AntEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """The ant, seen from its body. Every episode starts somewhere else and never ends by itself.

    Observation `(26,)`, see `PARTS`: m, the unit vector that points up, m/s, rad/s, rad, rad/s. Action `(8,)`: commands
    of the hips and of the ankles, from -1 to 1. Options of `reset` are the factors of `RANGES`, and these:

    * `sector`: the largest angle between the first velocity and straight ahead, rad.
    * `state` `(26,)` and `heading`: the observation to start from, and where to look in the world, rad.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        self.ant = gymnasium.make("Ant-v5", disable_env_checker=True, render_mode=render_mode)
        base: Any = self.ant.unwrapped
        self.model, self.data = base.model, base.data
        self._scratch = mujoco.MjData(self.model)  # `advance` leaves the running episode alone
        self.render_mode, self.metadata = render_mode, base.metadata
        self.model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        self.model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICIT
        model = self.model
        self._plain = {
            name: getattr(model, name).copy()
            for name in ("actuator_gear", "body_mass", "body_inertia", "geom_friction", "dof_damping", "dof_armature")
        }
        self._feet = [geom for geom in range(model.ngeom) if model.geom(geom).name.endswith("_ankle_geom")]
        self.observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode, see the class."""
        super().reset(seed=seed)
        options = options or {}
        mujoco.mj_resetData(self.model, self.data)
        self.set_task(options)
        state = options.get("state")
        if state is None:
            self._start(options.get("sector", np.pi))
        else:
            self.data.qpos[:], self.data.qvel[:] = joints(state, options.get("heading", 0.0))
        mujoco.mj_forward(self.model, self.data)
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Hold the commands `action` `(8,)` for one control period of 0.05 s."""
        commands = np.asarray(action, np.float64)
        if commands.shape != (ACTION,) or not np.isfinite(commands).all():
            raise InputError(f"ant: the action is {commands.tolist()}, but {ACTION} finite numbers are wanted")
        self.data.ctrl[_MOTORS] = np.clip(commands, -1, 1) * _FLIPS
        mujoco.mj_step(self.model, self.data, _STEPS)
        return self._observe(), 0.0, False, False, {}

    def render(self) -> Any:
        """Return the scene as Gymnasium's ant draws it."""
        return self.ant.unwrapped.render()

    def close(self) -> None:
        """Close Gymnasium's ant."""
        self.ant.close()

    def stand(self) -> NDArray[np.float64]:
        """Put the ant on its feet, at rest. Returns the observation."""
        mujoco.mj_resetData(self.model, self.data)  # else the solver starts from the last episode's accelerations
        rest = np.zeros(OBSERVATION)
        rest[0], rest[3], rest[14:18] = _STANDING_HEIGHT, 1.0, _STANDING
        self.data.qpos[:], self.data.qvel[:] = joints(rest)
        mujoco.mj_forward(self.model, self.data)
        return self._observe()

    def set_task(self, factors: Mapping[str, Any]) -> None:
        """Give the ant the physics of a task. Factors that are not named are 1."""
        factor = {name: float(factors.get(name, 1.0)) for name in RANGES}
        model, plain = self.model, self._plain
        model.actuator_gear[:] = plain["actuator_gear"] * factor["gear"]
        model.geom_friction[:] = plain["geom_friction"]
        model.geom_friction[:, 0] *= factor["friction"]
        for name in ("damping", "armature"):
            rows = getattr(model, f"dof_{name}")
            rows[_FREE:] = plain[f"dof_{name}"][_FREE:] * factor[name]
        for name in ("body_mass", "body_inertia"):
            rows = getattr(model, name)
            rows[1] = plain[name][1] * factor["torso"]  # body 0 is the world
        mujoco.mj_setConst(model, self.data)  # MuJoCo derives further constants from mass and inertia

    def advance(self, observations: NDArray, actions: NDArray) -> NDArray[np.float64]:
        """Return the observations `(n, 26)` one control period after others, with actions `(n, 8)`."""
        initial = np.zeros((len(observations), mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        for row, observation in zip(initial, observations, strict=True):
            row[1 : 1 + self.model.nq + self.model.nv] = np.concatenate(joints(observation))  # after the time
        control = np.zeros((len(observations), _STEPS, self.model.nu))
        control[..., _MOTORS] = (np.clip(actions, -1, 1) * _FLIPS)[:, None]
        states, _ = rollout.rollout(self.model, self._scratch, initial, control)
        ends = np.split(states[:, -1, 1:], [self.model.nq, self.model.nq + self.model.nv], axis=1)
        return np.array([observed(qpos, qvel) for qpos, qvel in zip(ends[0], ends[1], strict=True)])

    def _observe(self) -> NDArray[np.float64]:
        return observed(self.data.qpos, self.data.qvel)

    def _start(self, sector: float) -> None:
        """Put the ant on its feet, in a random state that moves within the sector."""
        rng = self.np_random
        tilt, speed, heading = rng.normal(0, _TILT, 2), rng.uniform(0, _SPEED), rng.uniform(-sector, sector)
        up = np.append(tilt, 1.0) / np.sqrt(1 + tilt @ tilt)
        state = np.concatenate(
            [
                [0.0],
                up,
                [speed * np.cos(heading), speed * np.sin(heading), rng.normal(0, 0.3)],
                rng.normal(0, 0.5, 3),
                rng.uniform(-_HIP, _HIP, LEGS),
                rng.uniform(*_ANKLE, LEGS),
                rng.normal(0, _RATE, 2 * LEGS),
            ]
        )
        self.data.qpos[:], self.data.qvel[:] = joints(state)
        mujoco.mj_kinematics(self.model, self.data)
        length, radius = self.model.geom_size[self._feet, 1], self.model.geom_size[self._feet, 0]
        along = self.data.geom_xmat[self._feet].reshape(-1, 3, 3)[:, 2, 2]  # z of a capsule's axis
        lowest = self.data.geom_xpos[self._feet, 2] - np.abs(along) * length - radius
        self.data.qpos[2] = rng.uniform(*_ABOVE) - lowest.min()


def observed(qpos: NDArray, qvel: NDArray) -> NDArray[np.float64]:
    """Return the observation `(26,)` of a state of MuJoCo, qpos `(15,)` and qvel `(14,)`."""
    turned = np.empty(9)
    mujoco.mju_quat2Mat(turned, qpos[3:7])
    rotation = turned.reshape(3, 3)  # from the body's frame to the world's
    return np.concatenate(
        [
            qpos[2:3],
            rotation[2],
            qvel[:3] @ rotation,
            qvel[3:6],  # MuJoCo gives it in the body's frame
            qpos[_HIPS],
            _SIGNS * qpos[_ANKLES],
            qvel[_HIPS - 1],
            _SIGNS * qvel[_ANKLES - 1],
        ]
    )


def joints(observation: NDArray, heading: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a state of MuJoCo with this observation `(26,)`: qpos `(15,)` and qvel `(14,)`.

    Position and heading are not observed. The body stands at the origin. It is turned by the smallest angle that tilts
    it so, and then by `heading` about the vertical axis, rad.
    """
    height, up, velocity, turning, hips, ankles, hip_rates, ankle_rates = np.split(
        np.asarray(observation, np.float64), np.cumsum(list(PARTS.values()))[:-1]
    )
    up = up / np.linalg.norm(up)
    # the turn by the smallest angle that takes `up` to the world's z, as a quaternion
    half = np.append(1 + up[2], np.cross(up, [0.0, 0.0, 1.0]))
    quaternion = half / np.linalg.norm(half) if np.linalg.norm(half) > 1e-9 else np.array([0.0, 1.0, 0.0, 0.0])
    turned = np.zeros(4)
    mujoco.mju_mulQuat(turned, np.array([np.cos(heading / 2), 0.0, 0.0, np.sin(heading / 2)]), quaternion)
    quaternion = turned
    qpos, qvel, world = np.zeros(15), np.zeros(14), np.zeros(3)
    mujoco.mju_rotVecQuat(world, velocity, quaternion)
    qpos[2:3], qpos[3:7], qpos[_HIPS], qpos[_ANKLES] = height, quaternion, hips, _SIGNS * ankles
    qvel[:3], qvel[3:6], qvel[_HIPS - 1], qvel[_ANKLES - 1] = world, turning, hip_rates, _SIGNS * ankle_rates
    return qpos, qvel
