"""The Gymnasium environment of HexDrive: thruster commands keep the vehicle on a moving reference point."""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.actions import checked_action
from msr_envs.hex_drive.controller import figure_eight, start_state
from msr_envs.hex_drive.simulator import PERIOD, THRUSTERS, HexTask, body_twist, draw_task, simulator
from msr_envs.plane import turn
from msr_envs.task_environment import TaskEnvironment

_LIMITS = np.array([5, 5, 50, 10, 10, np.pi, 1, 1], np.float32)


class HexDriveEnv(TaskEnvironment[HexTask]):
    """Follow a figure eight with heading 0 for 12 s. It is registered as `msr/HexDrive-v0`.

    Observation `(8,)` float32, in the body's frame: the twist (m/s, m/s, rad/s), the vector to the reference point (m,
    m), the heading (rad) and the reference's velocity (m/s, m/s). Action `(6,)` float32, one command per thruster, from
    -1 to 1. Reward: minus the distance to the reference point after the control period, in m. An episode never ends
    early.

    Args:
        task: The vehicle. Without it, and without `options={"task": ...}`, every reset draws a new one.
        render_mode: `rgb_array`, or None for no pictures.
        thrusters: How many thrusters the vehicle has.
        draw: Draws the vehicle of a reset that is given none.

    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / PERIOD)}
    robot = "HexDrive"
    camera = "above"

    def __init__(
        self,
        task: HexTask | None = None,
        render_mode: str | None = None,
        thrusters: int = THRUSTERS,
        draw: Callable[[np.random.Generator], HexTask] = draw_task,
    ) -> None:
        super().__init__(_LIMITS, thrusters, task, render_mode, draw)
        self._thrusters = thrusters

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the vehicle at the start of the figure eight, with the reference's velocity.

        `options={"task": ...}` gives the vehicle. `info["task"]` is the vehicle's `HexTask`.
        """
        super().reset(seed=seed)
        self.task = self._choose_task(options)
        self.state, self._steps = start_state(), 0
        return self._observe(), {"task": self.task}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hold the commands `action` `(thrusters,)` for one control period of 0.1 s.

        Raises:
            InputError: If the action has another shape, is not finite, or is outside the action space.
        """
        commands = checked_action(self.robot, action, self._thrusters, 1.0)
        self.state = simulator(self._thrusters).advance(self.task, self.state[None], commands[None])[0]
        self._steps += 1
        reference, _ = figure_eight(self._steps)
        distance = float(np.linalg.norm(reference - self.state[:2]))
        return self._observe(), -distance, False, False, {"path_error": distance}

    def _model(self) -> mujoco.MjModel:
        return simulator(self._thrusters).model

    def _scene(self) -> mujoco.MjData:
        return simulator(self._thrusters).show(self.task, self.state)

    def _observe(self) -> NDArray[np.float32]:
        reference, velocity = figure_eight(self._steps)
        yaw = self.state[2]
        heading = np.arctan2(np.sin(yaw), np.cos(yaw))
        way, wanted = turn(reference - self.state[:2], -yaw), turn(velocity, -yaw)
        observation = np.concatenate([body_twist(self.state), way, [heading], wanted]).astype(np.float32)
        return np.clip(observation, -_LIMITS, _LIMITS)
