"""Make MuJoCo's renderer, or say what it lacks. Without OpenGL, MuJoCo itself ends the process at the second try."""

import os
import sys

import mujoco
from gymnasium.error import DependencyNotInstalled

_WANTED = (
    "MuJoCo draws with OpenGL. Without a display, set MUJOCO_GL before Python starts: MUJOCO_GL=egl (on Debian and "
    "Ubuntu the packages libegl1 and libgl1-mesa-dri, or the driver of the GPU), or MUJOCO_GL=osmesa (libosmesa6), "
    "which needs no GPU"
)
_failed: list[str] = []
"""Why the first renderer of this process could not be made. Then no other one is tried."""


def make_renderer(env: str, model: mujoco.MjModel, size: int) -> mujoco.Renderer:
    """Return a renderer of square pictures, `size` pixels wide. Errors name the environment `env`.

    Raises:
        DependencyNotInstalled: There is no OpenGL; the message names the variable and the packages.
    """
    if not _failed and _needs_display() and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        _failed.append(f"MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r}, which needs a display, and there is none")
    if not _failed:
        try:
            return mujoco.Renderer(model, size, size)
        except Exception as error:  # noqa: BLE001  each library of OpenGL raises errors of its own
            _failed.append(f"{type(error).__name__}: {error}")
    raise DependencyNotInstalled(f"{env} cannot be rendered here ({_failed[0]}). {_WANTED}")


def _needs_display() -> bool:
    """Whether MuJoCo opens its context through GLFW, on a system that has displays as Linux has them."""
    return sys.platform == "linux" and os.environ.get("MUJOCO_GL", "").lower().strip() not in ("egl", "osmesa")
