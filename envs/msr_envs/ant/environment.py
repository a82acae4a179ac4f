"""The Gymnasium environment of Ant: commands of the motors keep the joints on the angles of a trot."""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.actions import checked_action
from msr_envs.ant.controller import STEPS, Trot, gait
from msr_envs.ant.simulator import ACTION, JOINTS, PERIOD, RANGES, AntEnv
from msr_envs.task_environment import TaskEnvironment

_LIMITS = np.repeat([3, 1, 20, 50, 2, 3, 60, 2, 10], [1, 3, 3, 3, 4, 4, 8, 8, 8]).astype(np.float32)

AntTask = dict[str, float]
"""The factors of `RANGES`. Those that are not named are 1."""


def draw_task(rng: np.random.Generator) -> AntTask:
    """Draw the physics of one ant, each factor evenly in its range."""
    return {name: rng.uniform(*bounds) for name, bounds in RANGES.items()}


class AntTrotEnv(TaskEnvironment[AntTask]):
    """Trot from standing for 2 s, in a random direction of the body. It is registered as `msr/Ant-v0`.

    Observation `(42,)` float32: that of `AntEnv` (26: m, the unit vector that points up, m/s, rad/s, rad, rad/s), and
    where hips and ankles should be after the next control period: angles (8, rad) and rates (8, rad/s).

    Action `(8,)` float32, each from -1 to 1: the commands of the hips and of the ankles.

    Reward: minus the root mean square of the joints' errors after the control period, in rad. An episode never ends
    early.

    Args:
        task: The ant, as factors. Without it, and without `options={"task": ...}`, every reset draws a new one.
        render_mode: `rgb_array`, or None for no pictures.
        draw: Draws the ant of a reset that is given none.

    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / PERIOD)}
    robot = "Ant"
    camera = "track"

    def __init__(
        self,
        task: AntTask | None = None,
        render_mode: str | None = None,
        draw: Callable[[np.random.Generator], AntTask] = draw_task,
    ) -> None:
        super().__init__(_LIMITS, ACTION, task, render_mode, draw)
        self.ant = AntEnv()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the ant on its feet, at rest, and draw the direction of the trot.

        `options={"task": ...}` gives the ant. `info["task"]` is the ant's task.
        """
        super().reset(seed=seed)
        self.task = self._choose_task(options)
        self.ant.set_task(self.task)
        self.direction = float(self.np_random.uniform(-np.pi, np.pi))
        self.state, self._steps = self.ant.stand(), 0
        return self._observe(), {"task": self.task}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hold the commands `action` `(8,)` for one control period of 0.05 s.

        Raises:
            InputError: If the action has another shape, is not finite, or is outside the action space.
        """
        commands = checked_action(self.robot, action, ACTION, 1.0)
        self.state = self.ant.step(commands.astype(np.float32))[0]
        self._steps += 1
        wanted, _ = gait(np.array([self._steps]), self.direction)
        error = Trot(self.state[JOINTS][None], wanted).error
        return self._observe(), -error, False, False, {"joint_error": error}

    def close(self) -> None:
        """Close the simulated ant and the renderer."""
        super().close()
        self.ant.close()

    def _model(self) -> mujoco.MjModel:
        return self.ant.model

    def _scene(self) -> mujoco.MjData:
        return self.ant.data

    def _observe(self) -> NDArray[np.float32]:
        angles, rates = gait(np.array([min(self._steps + 1, STEPS)]), self.direction)
        observation = np.concatenate([self.state, angles[0], rates[0]]).astype(np.float32)
        return np.clip(observation, -_LIMITS, _LIMITS)
