"""The pictures are drawn from data alone, small, once per theme, and carry the digest of their data."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pictures
import pytest
from drives import AFTER, BEFORE, ROBOTS
from picture_data import EPISODES, paths
from render import as_picture

from msr_envs.arm import NOMINAL, Arm
from msr_envs.ring_nav.family import RingNav
from msr_runtime.task import Predict


@pytest.fixture(scope="module")
def data() -> dict:
    family, rng = RingNav(), np.random.default_rng(0)
    task = family.draw_task(rng)
    reliability = {"levels": [0.5, 0.9], "methods": {"recursive MSR": {n: [0.4, 0.8] for n in ("3", "10", "40")}}}
    line = {"path": [[0.0, 0.1], [1.0, 0.2]], "error": "path error 1 cm"}
    drive = {"axes": ["x, m", "y, m"], "reference": [[0.0, 0.0], [1.0, 0.0]], "columns": {BEFORE: line, AFTER: line}}
    return {
        "paths": paths(family, task, *(lambda x, s=speed: np.full((len(x), 2), s, np.float32) for speed in (0, 1))),
        "orbit": {"msr": [0.1, 0.2, 0.1, 0.3], "maml": [0.1, 0.9, 1.2, 0.8]},
        "symmetry": [[0.0, 1.0], [-0.5, 0.25]],
        **{f"reliability-{robot}": reliability for robot in ("ring-nav", "hex-drive")},
        **{f"drive-{robot}": drive for robot in pictures.DRIVES},
        **{f"outside-{robot}": {"one beam blocked": ([0.0, 1.0], [0.5, 1.0])} for robot in ("ring-nav", "hex-drive")},
    }


def test_a_drive_is_driven_before_and_after() -> None:
    """By the same robot on the same way: here a model that is right drives after one that knows nothing."""
    known = Arm()
    task = known.draw_task(np.random.default_rng(11))

    def nothing(*_: object) -> Predict:
        return known.true_model(NOMINAL)

    driven = ROBOTS["arm"](nothing, lambda *_: known.true_model(task))
    data = driven.data()
    assert list(data["columns"]) == [BEFORE, AFTER]
    assert len(data["reference"]) == 17
    assert data["reference"][0] == data["reference"][-1]
    errors = [
        np.abs(np.array(column["path"]) - np.array(data["reference"][:-1])).mean()
        for column in data["columns"].values()
    ]
    assert errors[1] < 0.3 * errors[0]


def test_paths_are_small_and_say_what_was_reached(data: dict) -> None:
    columns = data["paths"]["columns"]
    assert list(columns) == ["before adaptation", "after ten samples", "the operator"]
    assert len(columns["the operator"]["reached"]) == EPISODES
    assert sum(columns["the operator"]["reached"]) > EPISODES / 2
    assert not any(columns["before adaptation"]["reached"])  # a robot that stands still


def test_each_picture_is_drawn_for_both_themes(data: dict, tmp_path: Path) -> None:
    pictures.draw(data, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}-{theme}.svg" for name in pictures.TEXTS for theme in ("light", "dark")
    }
    for path in tmp_path.iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.stat().st_size < 60_000
        assert f"data {pictures.fingerprint(data[path.stem.rpartition('-')[0]])}" in path.read_text()
    before = (tmp_path / "orbit-light.svg").read_bytes()
    pictures.draw({"orbit": data["orbit"]}, tmp_path)
    assert (tmp_path / "orbit-light.svg").read_bytes() == before


def test_a_page_shows_the_picture_of_the_readers_theme() -> None:
    assert "](../assets/paths-dark.svg){.only-dark}" in as_picture("paths", "docs/results/demo.md")
    assert '<source media="(prefers-color-scheme: dark)" srcset="docs/assets/paths-dark.svg">' in as_picture(
        "paths", "README.md"
    )
