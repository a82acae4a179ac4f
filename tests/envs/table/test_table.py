"""Parts on a table: none like another, whole within their places, and seen as they lie."""

import xml.etree.ElementTree as ET

import mujoco
import numpy as np

from msr_envs.table import draw_part

_PROGRAM = """
import numpy as np
from pathlib import Path
from tempfile import TemporaryDirectory
from msr_envs.images import Images
from msr_envs.table import PLACES, VIEW, Table, draw_part, write_parts

rng = np.random.default_rng(0)
with Table([draw_part(rng) for _ in range(2)]) as table:
    places = table.lay(rng, 5, (0, 5))
    assert places.tolist() == [0, 5]
    picture = table.picture()
    views = table.views(rng, np.arange(PLACES))
    again = table.views(rng, table.lay(rng, 5, (0, 5)))
    turned = table.views(rng, table.lay(rng, 180, (0, 5)))
assert picture.shape == (6 * VIEW, 6 * VIEW, 3) and picture.dtype == np.uint8
assert views.shape == (PLACES, VIEW, VIEW, 3) and views.dtype == np.uint8
spread = views.astype(float).std((1, 2)).mean(-1)
assert set(np.flatnonzero(spread > 8)) == {0, 5}, spread  # the other places are empty, but for noise and light
apart = [np.abs(other.astype(float) - views[[0, 5]]).mean() for other in (again, turned)]
assert 0 < apart[0] < apart[1], apart  # where it lies upright, a part looks more as it did

with TemporaryDirectory() as folder:
    file = Path(folder) / "parts.npz"
    write_parts(file, parts=(5, 3, 3), views=2, seed=1)
    data = np.load(file)
    assert data["images"].shape == (11, 2, VIEW, VIEW, 3)
    assert data["split"].tolist() == ["train"] * 5 + ["validation"] * 3 + ["test"] * 3
    batch = Images(file, ways=3, angle="any").sample(np.random.default_rng(0), 2, 1, 1, "test")
    assert batch.support_x.shape == (2, 3, 3, VIEW, VIEW)
    write_parts(Path(folder) / "again.npz", parts=(5, 3, 3), views=2, seed=1)
    assert np.array_equal(data["images"], np.load(Path(folder) / "again.npz")["images"])
"""


def test_a_table_is_seen_from_above(draw) -> None:
    """Parts lie where they are put; a file of their views is one of the family `images`, the same for a seed."""
    draw(_PROGRAM)


def test_parts_are_whole_and_unlike_each_other() -> None:
    """All of a part is within 50 mm of its middle, and nothing of it reaches far below the table."""
    rng = np.random.default_rng(0)
    parts = [draw_part(rng) for _ in range(200)]
    assert len({part.mjcf("part") for part in parts}) == 200
    assert all(4 <= len(part.shapes) <= 5 for part in parts)
    for part in parts:
        assert ET.fromstring(part.mjcf("part")).get("mocap") == "true"
        model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{part.mjcf('part')}</worldbody></mujoco>")
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        for geom in range(model.ngeom):
            middle, half = model.geom_aabb[geom].reshape(2, 3)
            corners = middle + half * np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3)
            at = data.geom_xpos[geom] + corners @ data.geom_xmat[geom].reshape(3, 3).T
            assert np.hypot(at[:, 0], at[:, 1]).max() < 0.05
            assert -0.01 < at[:, 2].min() < at[:, 2].max() < 0.04


def test_a_rod_lies_along_its_yaw() -> None:
    """The quaternion of a lying shape turns its axis, z, into the plane of the table."""
    rng = np.random.default_rng(1)
    rods = [shape for _ in range(30) for shape in draw_part(rng).shapes if shape.lies]
    assert len(rods) > 5
    for rod in rods:
        model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{rod.mjcf()}</worldbody></mujoco>")
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        axis = data.geom_xmat[0].reshape(3, 3)[:, 2]
        np.testing.assert_allclose(axis, [np.cos(rod.yaw), np.sin(rod.yaw), 0], atol=1e-4)
