"""The Gymnasium environment of Quadrotor: tilt and thrust keep the vehicle on a moving reference point in wind."""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.actions import checked_action
from msr_envs.plane import turn
from msr_envs.quadrotor.autopilot import heading_of, thrust_axis
from msr_envs.quadrotor.flight import STEPS, draw_weather, figure_eight, on_the_ground, start_state
from msr_envs.quadrotor.simulator import PERIOD, simulator
from msr_envs.quadrotor.vehicle import LARGEST_THRUST, QuadTask, draw_task
from msr_envs.task_environment import TaskEnvironment

_LIMITS = np.repeat([10, 20, 10, 10, 20, 1, 10], [3, 3, 3, 3, 3, 2, 1]).astype(np.float32)
_TILT = 0.6  # largest horizontal part of the thrust's direction that an action asks for, on each axis
_LOST = 5.0  # m: each control period after a crash counts as so far from the reference


class QuadrotorEnv(TaskEnvironment[QuadTask]):
    """Follow a figure eight in gusty wind for 10 s. It is registered as `msr/Quadrotor-v0`.

    Observation `(18,)` float32, in the heading frame: the vector to the reference point (3, m), the velocity (3, m/s),
    the reference's velocity (3, m/s) and acceleration (3, m/s2), the velocity relative to the air (3, m/s), the tilt
    (2) and the height (1, m).

    Action `(3,)` float32, each from -1 to 1: the tilt to ahead and to the left (1 is 0.6, or 37 degrees), and the
    thrust (-1 is none and 1 is 22 m/s2). The flight controller on board follows it and keeps the heading.

    Reward: minus the distance to the reference point after the control period, in m. An episode ends early only if the
    vehicle hits the ground. Then each control period that is left counts as 5 m.

    Args:
        task: The vehicle. Without it, and without `options={"task": ...}`, every reset draws a new one.
        render_mode: `rgb_array`, or None for no pictures.
        draw: Draws the vehicle of a reset that is given none.

    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / PERIOD)}
    robot = "Quadrotor"
    camera = "behind"

    def __init__(
        self,
        task: QuadTask | None = None,
        render_mode: str | None = None,
        draw: Callable[[np.random.Generator], QuadTask] = draw_task,
    ) -> None:
        super().__init__(_LIMITS, 3, task, render_mode, draw)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the vehicle at the start of the figure eight, with the reference's velocity, a new heading and new wind.

        `options={"task": ...}` gives the vehicle. `info["task"]` is the vehicle's `QuadTask`.
        """
        super().reset(seed=seed)
        self.task = self._choose_task(options)
        self._weather = draw_weather(self.np_random)
        self.state, self._steps = start_state(self._weather.heading), 0
        return self._observe(), {"task": self.task}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hold the action `(3,)` for one control period of 0.02 s.

        Raises:
            InputError: If the action has another shape, is not finite, or is outside the action space.
        """
        ahead, left, thrust = checked_action(self.robot, action, 3, 1.0)
        tilt = turn(_TILT * np.array([ahead, left]), heading_of(self.state[3:7]))
        command = LARGEST_THRUST * (1 + thrust) / 2 * np.append(tilt, np.sqrt(1 - tilt @ tilt))
        wind = self._weather.wind[min(self._steps, STEPS - 1)]
        self.state = simulator().advance(self.task, self.state, command, self._weather.heading, wind)
        self._steps += 1
        distance = float(np.linalg.norm(figure_eight(self._steps)[0] - self.state[:3]))
        crashed = on_the_ground(self.state)
        lost = _LOST * max(STEPS - self._steps, 0) if crashed else 0.0
        return self._observe(), -distance - lost, crashed, False, {"path_error": distance}

    def _model(self) -> mujoco.MjModel:
        return simulator().model

    def _scene(self) -> mujoco.MjData:
        return simulator().show(self.state)

    def _observe(self) -> NDArray[np.float32]:
        position, velocity, acceleration = figure_eight(self._steps)
        wind = self._weather.wind[min(self._steps, STEPS - 1)]
        moving = self.state[7:10]
        heading = heading_of(self.state[3:7])
        vectors = np.stack([position - self.state[:3], moving, velocity, acceleration, moving - wind])
        vectors[:, :2] = turn(vectors[:, :2], -heading)
        tilt = turn(thrust_axis(self.state[3:7])[:2], -heading)
        observation = np.concatenate([vectors.ravel(), tilt, self.state[2:3]]).astype(np.float32)
        return np.clip(observation, -_LIMITS, _LIMITS)
