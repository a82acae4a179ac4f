"""The Gymnasium environment of Arm: joint commands bring the fingertip to one target after another."""

from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.actions import checked_action
from msr_envs.arm.body import JOINTS, MIDDLE, PERIOD, RANGE
from msr_envs.arm.course import PATH, REACHES, draw_course
from msr_envs.arm.simulator import simulator
from msr_envs.arm.task import ArmTask, draw_task
from msr_envs.rendering import make_renderer

MOVES = REACHES + PATH
"""Moves in one episode."""

_SPANS = np.array([np.pi, *[RANGE] * (len(JOINTS) - 1), 1.0])  # rad: what an action of 1 adds to the middle
_MIDDLE = np.append(MIDDLE, 0.0)
_LIMITS = np.concatenate([np.ones(7), np.full(3, 0.6), np.full(3, 1.2)]).astype(np.float32)
_FRAME = 480


class ArmEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
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

    def __init__(
        self,
        task: ArmTask | None = None,
        render_mode: str | None = None,
        draw: Callable[[np.random.Generator], ArmTask] = draw_task,
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(-_LIMITS, _LIMITS, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(_SPANS),), np.float32)
        self.render_mode = render_mode
        self._fixed_task, self._draw = task, draw
        self._renderer: mujoco.Renderer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the arm at the start of a new course, with the gripper closed.

        `options={"task": ...}` gives the arm. `info["task"]` is the arm's `ArmTask`.
        """
        super().reset(seed=seed)
        self.task = (options or {}).get("task", self._fixed_task) or self._draw(self.np_random)
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
        command = _MIDDLE + _SPANS * checked_action("Arm", action, len(_SPANS), 1.0)
        way = command[0] - self.held[0]
        command[0] = self.held[0] + np.arctan2(np.sin(way), np.cos(way))
        self.state, self.fingertip = self._advance(self.state[None], command)
        distance = float(np.linalg.norm(self._target() - self.fingertip))
        self._moves += 1
        return self._observe(), -distance, False, False, {"fingertip_error": distance}

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the scene from beside, `(480, 480, 3)` uint8, or None without `render_mode="rgb_array"`.

        Raises:
            DependencyNotInstalled: There is no OpenGL. The message names what to install and to set.
        """
        if self.render_mode is None:
            return None
        renderer = self._renderer = self._renderer or make_renderer("Arm", simulator().model, _FRAME)
        renderer.update_scene(simulator().show(self.task, self.state, self._target()), "beside")
        return renderer.render()

    def close(self) -> None:
        """Free the renderer and its OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

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
