"""The benchmark of new parts: what is looked at, trained and shown."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from new_parts import METHODS, Row
from tables.images import new_parts as lines

ROOT = Path(__file__).parents[2]
_SEE = """
import sys
sys.path.append("benchmarks")
import numpy as np
from new_parts import OTHERS, TAUGHT, see

once, views, part = see(np.random.default_rng([0, 3]), False, 2)
again, *_ = see(np.random.default_rng([0, 3]), False, 2)
alike, *_ = see(np.random.default_rng([0, 3]), True, 2)
parts = TAUGHT + OTHERS
assert once.shape == (parts, 3, 28, 28) and views.shape == (2 * parts, 3, 28, 28)
assert part.tolist() == [*range(parts)] * 2
assert np.array_equal(once, again)
apart = [np.ptp(each.mean((1, 2, 3))) for each in (once, alike)]
assert apart[1] < apart[0], apart  # parts with one base cover about as much of the table
"""


def _run(*words: str | Path) -> None:
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if "DependencyNotInstalled" in done.stderr:
        pytest.skip("no off-screen GL here (Debian: libegl1 libgl1-mesa-dri)")
    assert done.returncode == 0, done.stderr


def test_scenes_are_the_same_for_every_method() -> None:
    """Their parts and poses come from the number of the scene alone; parts may share their base."""
    _run("-c", _SEE)


def test_a_row_is_shown_in_percent() -> None:
    row = Row(
        method="protonets", kind="one base", right=0.95, interval=0.01, known=0.05, unknown=0.8, six=0.9, refused=0.02,
        seconds=100.4, bytes=281_000,
    )  # fmt: skip
    (line,) = lines([row])
    assert line["method"] == "protonets: one base"
    assert line["right names"] == "95.0 ± 1.0"
    assert (line["taught, called unknown"], line["others, called unknown"]) == ("5.0", "80.0")
    assert line["graphs, kB"] == "281"


def test_the_two_methods_have_equal_width() -> None:
    """They differ in the group, and in what its absence needs."""
    (_, orbit), (_, plain) = METHODS.values()
    assert (orbit.network, orbit.width, orbit.depth) == (plain.network, plain.width, plain.depth)
    assert orbit.grid_group == "C4"
    assert plain.grid_group is None


@pytest.mark.slow
def test_it_trains_exports_and_looks(tmp_path: Path) -> None:
    """The whole chain, with hardly any training."""
    out = tmp_path / "result.json"
    small = ("--steps", "4", "--scenes", "1", "--looks", "1", "--parts", "20", "18", "18", "--out", tmp_path)
    _run("benchmarks/new_parts.py", *small, "--json", out)
    assert out.read_text().count('"right"') == 2 * len(METHODS)
