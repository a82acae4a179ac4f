"""The Gymnasium environment of HexDrive: six thruster commands keep the vehicle on a moving reference."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.hex_drive_control import figure_eight, start_state
from msr_envs.hex_drive_simulator import PERIOD, THRUSTERS, HexTask, body_twist, draw_task, simulator, turn

_LIMITS = np.array([5, 5, 50, 10, 10, np.pi, 1, 1], np.float32)
_FRAME = 480


class HexDriveEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Follow a figure eight with heading 0 for 12 s.

    `task` fixes the vehicle; without it, and without `options={"task": ...}`, every reset draws a fresh one.

    Observation `(8,)`, in the body's frame: the twist (m/s, m/s, rad/s), the way to the reference point (m, m), the
    heading (rad) and the reference's velocity (m/s, m/s). Action `(6,)`: thruster commands. Reward: minus the distance
    to the reference after the period, m.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / PERIOD)}

    def __init__(self, task: HexTask | None = None, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-_LIMITS, _LIMITS, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (THRUSTERS,), np.float32)
        self.render_mode = render_mode
        self._fixed_task = task
        self._renderer: mujoco.Renderer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the vehicle on the figure eight at the reference's velocity; `info["task"]` is the vehicle's HexTask."""
        super().reset(seed=seed)
        self.task = (options or {}).get("task", self._fixed_task) or draw_task(self.np_random)
        self.state, self._steps = start_state(), 0
        return self._observe(), {"task": self.task}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hold `action` `(6,)` for one control period."""
        self.state = simulator().advance(self.task, self.state[None], np.asarray(action)[None])[0]
        self._steps += 1
        reference, _ = figure_eight(self._steps)
        distance = float(np.linalg.norm(reference - self.state[:2]))
        return self._observe(), -distance, False, False, {"path_error": distance}

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The scene from above, `(480, 480, 3)`; None without `render_mode="rgb_array"`. It needs EGL or OSMesa."""
        if self.render_mode is None:
            return None
        renderer = self._renderer = self._renderer or mujoco.Renderer(simulator().model, _FRAME, _FRAME)
        renderer.update_scene(simulator().show(self.task, self.state), "above")
        return renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observe(self) -> NDArray[np.float32]:
        reference, velocity = figure_eight(self._steps)
        yaw = self.state[2]
        heading = np.arctan2(np.sin(yaw), np.cos(yaw))
        way, wanted = turn(-yaw, reference - self.state[:2]), turn(-yaw, velocity)
        observation = np.concatenate([body_twist(self.state), way, [heading], wanted]).astype(np.float32)
        return np.clip(observation, -_LIMITS, _LIMITS)
