"""The Gymnasium environment of Arm: joint commands bring the fingertip to one target after another."""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.actions import checked_action
from msr_envs.arm.body import JOINTS, MIDDLE, PERIOD, RANGE
from msr_envs.arm.course import PATH, REACHES, draw_course
from msr_envs.arm.simulator import simulator
from msr_envs.arm.task import ArmTask, draw_task
from msr_envs.task_environment import TaskEnvironment

MOVES = REACHES + PATH
"""Moves in one episode."""

_SPANS = np.array([np.pi, *[RANGE] * (len(JOINTS) - 1), 1.0])  # rad: what an action of 1 adds to the middle
_MIDDLE = np.append(MIDDLE, 0.0)
_LIMITS = np.concatenate([np.ones(7), np.full(3, 0.6), np.full(3, 1.2)]).astype(np.float32)


class ArmEnv(TaskEnvironment[ArmTask]):
    """Reach 8 points, then follow a circle of 16 points, one move each. It is registered as `msr/Arm-v0`.

    Action `(6,)` float32, from -1 to 1: where the joints go, in shares of their working range, and the gripper. The
    range of the base is a whole turn. The base takes the shorter way round.

    Observation `(13,)` float32: the commands that the arm holds (cosine and sine of the base, then four joints and the
    gripper as in an action), the fingertip (3, m) and the vector from it to the next target (3, m).

    Reward: minus the distance of the fingertip from the target after the move, in m. An episode never ends early.

    Args:
        task: The arm. Without it, and without `options={"task": ...}`, every reset draws a new one.
        render_mode: `rgb_array`, or None for no pictures.
        draw: Draws the arm of a reset that is given none.

    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / PERIOD)}
    robot = "Arm"
    camera = "beside"

    def __init__(
        self,
        task: ArmTask | None = None,
        render_mode: str | None = None,
        draw: Callable[[np.random.Generator], ArmTask] = draw_task,
    ) -> None:
        super().__init__(_LIMITS, len(_SPANS), task, render_mode, draw)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the arm at the start of a new course, with the gripper closed.

        `options={"task": ...}` gives the arm. `info["task"]` is the arm's `ArmTask`.
        """
        super().reset(seed=seed)
        self.task = self._choose_task(options)
        self.course, self._moves = draw_course(self.np_random), 0
        self.held = np.append(self.course.start, 0.0)
        state = simulator().rest(self.task, self.held[None])
        self.state, self.fingertip = self._advance(state, self.held)
        return self._observe(), {"task": self.task}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move to the command `action` `(6,)` for one control period of 0.8 s.

        Raises:
            InputError: If the action has another shape, is not finite, or is outside the action space.
        """
        command = _MIDDLE + _SPANS * checked_action(self.robot, action, len(_SPANS), 1.0)
        way = command[0] - self.held[0]
        command[0] = self.held[0] + np.arctan2(np.sin(way), np.cos(way))
        self.state, self.fingertip = self._advance(self.state[None], command)
        distance = float(np.linalg.norm(self._target() - self.fingertip))
        self._moves += 1
        return self._observe(), -distance, False, False, {"fingertip_error": distance}

    def _model(self) -> mujoco.MjModel:
        return simulator().model

    def _scene(self) -> mujoco.MjData:
        return simulator().show(self.task, self.state, self._target())

    def _advance(self, state: NDArray, command: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        states, seen = simulator().advance(self.task, state, self.held[None], command[None])
        self.held = command
        return states[0], seen[0]

    def _target(self) -> NDArray[np.float64]:
        return self.course.targets[min(self._moves, MOVES - 1)]

    def _observe(self) -> NDArray[np.float32]:
        base = self.held[0]
        joints = ((self.held - _MIDDLE) / _SPANS)[1:]
        way = self._target() - self.fingertip
        observation = np.concatenate([[np.cos(base), np.sin(base)], joints, self.fingertip, way]).astype(np.float32)
        return np.clip(observation, -_LIMITS, _LIMITS)
