"""LeRobot's data sets of both versions are read as files on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from msr_envs.logs import LogDescription, LogFamily, log_family
from msr_runtime.errors import FamilyError

EPISODES, FRAMES, JOINTS = 4, 30, ["pan", "lift"]


def frames(episode: int, seed: int = 0) -> dict[str, Any]:
    """The columns of one episode. Another seed gives other numbers."""
    state = np.random.default_rng([seed, episode]).normal(size=(FRAMES, 2)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 2)
    return {
        "observation.state": vectors,
        "action": pa.array((state * (episode + 1)).tolist()),
        "timestamp": pa.array(np.arange(FRAMES, dtype=np.float32) / 20),
        "frame_index": pa.array(np.arange(FRAMES)),
        "episode_index": pa.array([episode] * FRAMES),
        "task_index": pa.array([0] * FRAMES),
    }


def write(folder: Path, version: str, names: Any = JOINTS, seed: int = 0) -> Path:
    """A data set, laid out as LeRobot does it."""
    motors = {"dtype": "float32", "shape": [2], "names": names}
    info = {"codebase_version": version, "fps": 20, "features": {"observation.state": motors, "action": motors}}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "data" / "chunk-000").mkdir(parents=True)
    tables = [pa.table(frames(episode, seed)) for episode in range(EPISODES)]
    if version == "v3.0":
        pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
        (folder / "meta/episodes/chunk-000").mkdir(parents=True)
        pq.write_table(
            pa.table({"episode_index": range(EPISODES)}), folder / "meta/episodes/chunk-000/file-000.parquet"
        )
    else:
        for episode, table in enumerate(tables):
            pq.write_table(table, folder / f"data/chunk-000/episode_{episode:06d}.parquet")
    return folder


def family(folder: Path, **changes: Any) -> LogFamily:
    """From what is seen to what is done."""
    said = {
        "files": folder.name,
        "inputs": [{"name": "state", "columns": "observation.state", "unit": "rad"}],
        "outputs": [{"name": "action", "unit": "rad"}],
    }
    return log_family(LogDescription.model_validate(said | changes), folder.parent)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_an_episode_is_a_drive(tmp_path: Path, version: str) -> None:
    read = family(write(tmp_path / "arm", version))
    assert read.task_names == ("0", "1", "2", "3")
    assert read.rate_hz == 20.0
    assert read.inputs[0].names == read.outputs[0].names == ("pan", "lift")
    assert read.examples == FRAMES
    for episode in range(EPISODES):
        assert_array_equal(read._y[episode], read._x[episode] * np.float32(episode + 1))
    assert "not read: frame_index, task_index" in read.notes[-1]


@pytest.mark.parametrize(
    ("names", "columns", "wanted"),
    [
        ({"motors": JOINTS}, "observation.state", ("pan", "lift")),
        (None, "observation.state", ("observation.state[0]", "observation.state[1]")),
        (["grip", "grip"], "observation.state", ("observation.state[0]", "observation.state[1]")),
        (JOINTS, ["observation.state.lift", "observation.state[0]"], ("lift", "pan")),
    ],
)
def test_joints_have_names(tmp_path: Path, names: Any, columns: Any, wanted: tuple[str, ...]) -> None:
    folder = write(tmp_path / "arm", "v3.0", names)
    read = family(folder, inputs=[{"name": "state", "columns": columns}])
    assert read.inputs[0].names == wanted


def test_two_data_sets_keep_their_episodes_apart(tmp_path: Path) -> None:
    write(tmp_path / "one", "v2.1")
    write(tmp_path / "two", "v3.0", seed=1)
    read = family(tmp_path / "one", files=["one", "two"])
    assert read.task_names[:5] == ("one:0", "one:1", "one:2", "one:3", "two:0")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "meta/info.json").write_text("{"), "meta/info.json cannot be read"),
        (lambda folder: (folder / "meta/info.json").write_text("[]"), "cannot be read.*codebase_version and features"),
        (
            lambda folder: (folder / "meta/info.json").write_text('{"codebase_version": "v1.6", "features": {}}'),
            "version v1.6, but v2.0 to v3 are read",
        ),
        (lambda folder: (folder / "data/chunk-000/file-000.parquet").unlink(), r"no data/\*\*/\*.parquet"),
        (
            lambda folder: (folder / "data/chunk-000/file-000.parquet").write_text("version https://git-lfs"),
            "file-000.parquet': cannot be read as Parquet",
        ),
    ],
)
def test_a_damaged_data_set_is_refused(tmp_path: Path, spoil: Any, words: str) -> None:
    folder = write(tmp_path / "arm", "v3.0")
    spoil(folder)
    with pytest.raises(FamilyError, match=words):
        family(folder)
