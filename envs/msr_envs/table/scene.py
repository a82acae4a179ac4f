"""A table of nine places below a camera: what it sees of parts that lie there in any pose."""

from collections.abc import Sequence
from typing import Self

import mujoco
import numpy as np
from numpy.typing import NDArray

from msr_envs.images.archive import Pixels, shrink
from msr_envs.rendering import make_renderer
from msr_envs.table.parts import Part

VIEW = 28
"""Height and width of the view of one place, pixels."""
_SIDE = 3
PLACES = _SIDE**2
"""Places on the table, in a square."""
_WIDTH = 0.1
"""Height and width of a place, m."""
_HEIGHT = 1.0
"""Height of the camera above the table, m."""
_FINER = 2
"""The camera has so many pixels for each pixel of a view, along each axis. A view is their mean."""
_NOISE = 2.0
"""Standard deviation of the camera's noise, of 255."""
_SLIP = 0.005
"""How far a part lies from the middle of its place along each axis, at most, m."""
_FIELD = 2 * np.degrees(np.arctan(_SIDE * _WIDTH / 2 / _HEIGHT))
_SCENE = """<mujoco>
  <visual>
    <global offwidth="{pixels}" offheight="{pixels}"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
  </visual>
  <worldbody>
    <light directional="true" castshadow="false" pos="0 0 1" dir="-0.6 -0.35 -1" diffuse="0.6 0.6 0.57"/>
    <camera name="above" pos="0 0 {height}" fovy="{field:.6f}"/>
    <geom type="plane" size="1 1 0.1" rgba="0.72 0.7 0.66 1"/>
    {parts}
  </worldbody>
</mujoco>"""


def as_inputs(views: Pixels) -> NDArray[np.float32]:
    """Return views `(n, 28, 28, 3)` as a network of the family `images` takes them: `(n, 3, 28, 28)`, from 0 to 1."""
    return np.moveaxis(views, -1, 1).astype(np.float32) / np.float32(255)


class Table:
    """Some parts on a table, up to one for each place, and a camera that looks down on them.

    The light comes from one side, so that a part that is turned has other bright faces: its picture is not the turned
    picture. A part away from the middle shows the camera its side. Use it in a `with` statement, or `close` it.

    Args:
        parts: The parts.

    Raises:
        DependencyNotInstalled: As `make_renderer`.

    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        bodies = "\n    ".join(part.mjcf(f"part {i}") for i, part in enumerate(self.parts))
        text = _SCENE.format(pixels=_SIDE * VIEW * 8, height=_HEIGHT, field=_FIELD, parts=bodies)
        self.model = mujoco.MjModel.from_xml_string(text)
        self._data = mujoco.MjData(self.model)
        self._renderer = make_renderer("the table", self.model, _SIDE * VIEW * _FINER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory of the pictures back."""
        self._renderer.close()

    def lay(self, rng: np.random.Generator, turn: float, places: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Lay every part down.

        Args:
            rng: The source of all randomness.
            turn: How far each part is turned at most, to either side, in degrees; 180 is any angle.
            places: The place of each part. None: each lies anywhere, no two at the same place.

        Returns:
            The places of the parts: row by row as the camera sees them, from 0.

        """
        count = len(self.parts)
        chosen = rng.permutation(PLACES)[:count] if places is None else np.asarray(places)
        row, column = np.divmod(chosen, _SIDE)
        middle = (_SIDE - 1) / 2
        at = np.stack([(column - middle) * _WIDTH, (middle - row) * _WIDTH], 1) + rng.uniform(-_SLIP, _SLIP, (count, 2))
        half = np.radians(rng.uniform(-turn, turn, count)) / 2
        zeros = np.zeros(count)
        self._data.mocap_pos[:] = np.column_stack([at, zeros])
        self._data.mocap_quat[:] = np.column_stack([np.cos(half), zeros, zeros, np.sin(half)])
        return chosen

    def picture(self) -> Pixels:
        """Render what the camera sees, `(168, 168, 3)`, without noise."""
        mujoco.mj_forward(self.model, self._data)
        self._renderer.update_scene(self._data, "above")
        return self._renderer.render()

    def views(self, rng: np.random.Generator, places: NDArray[np.int64]) -> Pixels:
        """Return what the camera sees of some places, with its noise: `(places, 28, 28, 3)`.

        Args:
            rng: The source of the noise.
            places: Which places.

        """
        whole = shrink(np.moveaxis(self.picture(), -1, 0), _SIDE * VIEW)
        noisy = np.clip(np.rint(whole + rng.normal(0, _NOISE, whole.shape)), 0, 255).astype(np.uint8)
        cells = noisy.reshape(3, _SIDE, VIEW, _SIDE, VIEW)  # color, row, height, column, width
        return cells.transpose(1, 3, 2, 4, 0).reshape(PLACES, VIEW, VIEW, 3)[places]
