"""What the MuJoCo environments share: the choice of a task at each reset, and pictures of the scene."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.rendering import make_renderer

_Task = TypeVar("_Task")
_FRAME = 480  # pixels


class TaskEnvironment(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]], Generic[_Task]):
    """An environment with one task per episode. All numbers of an action are from -1 to 1.

    Args:
        limits: Bounds of the observation `(n,)`, on both sides.
        actions: How many numbers an action has.
        task: The task. Without it, and without `options={"task": ...}`, every reset draws a new one.
        render_mode: `rgb_array`, or None for no pictures.
        draw: Draws the task of a reset that is given none.

    """

    robot: ClassVar[str]
    """The robot's name in errors."""
    camera: ClassVar[str]
    """The camera of MuJoCo's model that sees the scene."""
    task: _Task
    """The task of this episode."""

    def __init__(
        self,
        limits: NDArray[np.float32],
        actions: int,
        task: _Task | None,
        render_mode: str | None,
        draw: Callable[[np.random.Generator], _Task],
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(-limits, limits, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
        self.render_mode = render_mode
        self._fixed_task, self._draw = task, draw
        self._renderer: mujoco.Renderer | None = None

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the scene, `(480, 480, 3)` uint8, or None without `render_mode="rgb_array"`.

        Raises:
            DependencyNotInstalled: There is no OpenGL. The message names what to install and to set.
        """
        if self.render_mode is None:
            return None
        renderer = self._renderer = self._renderer or make_renderer(self.robot, self._model(), _FRAME)
        renderer.update_scene(self._scene(), self.camera)
        return renderer.render()

    def close(self) -> None:
        """Free the renderer and its OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _choose_task(self, options: dict[str, Any] | None) -> _Task:
        """Return the task of the next episode: that of the options, the fixed one, or a new one."""
        chosen = (options or {}).get("task", self._fixed_task)
        return self._draw(self.np_random) if chosen is None else chosen

    @abstractmethod
    def _model(self) -> mujoco.MjModel:
        """Return MuJoCo's model of the robot."""

    @abstractmethod
    def _scene(self) -> mujoco.MjData:
        """Return MuJoCo's data of the scene as it is now."""
