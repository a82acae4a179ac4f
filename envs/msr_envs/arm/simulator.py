"""The simulator of the arm: position servos move it from one command to the next. It runs in MuJoCo.

* State: the angles of the six joints (rad) and their rates (rad/s).
* Command: five joint angles in rad, as the motors' own zeros have them, and the opening of the gripper in rad.
* Move: the command goes over smoothly from the previous one, and then rests until the control period ends. Where the
  fingertip comes to rest depends on the way there: gears with play and dry friction stop a joint short of its command.
* Group: all turns about the vertical axis. They add a constant to the base's command. This is an exact symmetry of
  every task, an offset of the base included. A left-right mirror is none: offsets of the base and the roll break it.
"""

# A static checker cannot see the functions and types in mujoco's compiled part.
# pyright: reportAttributeAccessIssue=false

import threading
from functools import cache

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import NDArray

from msr_envs.arm.body import JOINTS, RAMP, STEPS, mjcf
from msr_envs.arm.task import ArmTask
from msr_runtime.errors import InputError

_SIZE = len(JOINTS)
_LARGEST = 100.0  # rad and rad/s: far more, and MuJoCo calls the simulation unstable


class ArmSimulator:
    """One compiled MuJoCo model for all tasks. Each call writes its task into it, since compiling a model takes long.

    The result of a call depends on its arguments only.
    """

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(mjcf())
        self.data = mujoco.MjData(self.model)
        self._lock = threading.Lock()  # threads share the model: none may write its task while another one simulates
        self._payload = self.model.body("payload").id
        self._inertia = self.model.body_inertia[self._payload].copy()  # of 1 kg
        self._target = self.model.site("target").id
        # How far each step of the integrator is on the way from the previous command to the new one.
        self._way = (1 - np.cos(np.pi * np.clip(np.arange(1, STEPS + 1) / RAMP, 0, 1))) / 2

    def advance(
        self, task: ArmTask, states: NDArray, previous: NDArray, commands: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move for one control period.

        Args:
            task: The arm.
            states: `(batch, 12)` at the start: angles (rad), then rates (rad/s).
            previous: The commands `(batch, 6)` that were held before, rad.
            commands: The new commands `(batch, 6)`, rad.

        Returns:
            The states `(batch, 12)` at the end, and where the fingertip is then, relative to the base, `(batch, 3)`, m.

        Raises:
            InputError: A number is not finite, or far larger than an arm can have. MuJoCo would start again from zero,
                and leave a file MUJOCO_LOG.TXT.
        """
        _check(states=states, previous=previous, commands=commands)
        full = np.zeros((len(states), 1 + states.shape[1]))  # the first number of MuJoCo's full state is the time
        full[:, 1:] = states
        previous, commands = np.asarray(previous, np.float64), np.asarray(commands, np.float64)
        asked = previous[:, None] + self._way[:, None] * (commands - previous)[:, None]
        asked[..., :_SIZE] += task.offsets
        control = np.concatenate([asked, asked[..., :_SIZE]], -1)
        trajectory = np.empty((len(full), STEPS, full.shape[1]))
        seen = np.empty((len(full), STEPS, 3))
        with self._lock:
            self._write(task)
            rollout.rollout(self.model, self.data, full, control, state=trajectory, sensordata=seen)
        return trajectory[:, -1, 1:], seen[:, -1]

    def rest(self, task: ArmTask, commands: NDArray) -> NDArray[np.float64]:
        """Return states `(batch, 12)` at rest where commands `(batch, 6)` put the joints, as if nothing weighed."""
        states = np.zeros((len(commands), 2 * (_SIZE + 1)))
        states[:, : _SIZE + 1] = commands
        states[:, :_SIZE] += task.offsets
        return states

    def fingertip(self, task: ArmTask, commands: NDArray, moves: NDArray) -> NDArray[np.float64]:
        """Return where the fingertip comes to rest after single moves, `(batch, 3)`, m, relative to the base.

        Args:
            task: The arm.
            commands: Commands `(batch, 5)` to the joints without the gripper, which is closed, rad.
            moves: `(batch, 5)`: these commands minus those from which the arm comes, rad.

        """
        closed = np.zeros((len(commands), 1))
        new = np.concatenate([commands, closed], -1)
        old = np.concatenate([np.asarray(commands) - moves, closed], -1)
        return self.advance(task, self.rest(task, old), old, new)[1]

    def show(self, task: ArmTask, state: NDArray, target: NDArray) -> mujoco.MjData:
        """Return MuJoCo's data of the arm in `state` `(12,)`, for a renderer, with a ball at the target `(3,)`.

        It is valid until the next call.
        """
        with self._lock:
            self._write(task)
            self.model.site_pos[self._target], self.model.site_rgba[self._target, 3] = target, 1.0
            self.data.qpos[:], self.data.qvel[:] = np.split(state, 2)
            mujoco.mj_forward(self.model, self.data)
        return self.data

    def _write(self, task: ArmTask) -> None:
        model, stiffness = self.model, np.array(task.stiffness)
        model.body_mass[self._payload] = task.payload
        model.body_inertia[self._payload] = task.payload * self._inertia
        model.dof_frictionloss[:_SIZE], model.dof_damping[:_SIZE] = task.friction, task.damping
        gear = slice(_SIZE + 1, None)  # behind the servos of the joints and the gripper
        model.actuator_gainprm[:_SIZE, 0], model.actuator_biasprm[:_SIZE, 1] = stiffness, -stiffness
        model.actuator_gainprm[gear, 0], model.actuator_biasprm[gear, 1] = -stiffness, stiffness
        model.actuator_forcerange[gear] = task.backlash / 2 * stiffness[:, None] * [-1.0, 1.0]
        mujoco.mj_setConst(model, self.data)  # MuJoCo derives further constants from mass and inertia


def _check(**arrays: NDArray) -> None:
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise InputError(f"Arm: the {name} hold {values[~np.isfinite(values)][0]}, but must be finite")
        if (largest := np.abs(values).max(initial=0.0)) > _LARGEST:
            raise InputError(
                f"Arm: the {name} hold {largest:.4g}, but at most {_LARGEST:g} rad or rad/s can be simulated; an arm "
                "turns by a few: check the units"
            )


@cache
def simulator() -> ArmSimulator:
    """Return the one simulator of this process."""
    return ArmSimulator()
