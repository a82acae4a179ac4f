"""examples/new_parts.py: parts that are seen once are named however they lie, and drawn."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from msr_envs.images import Images
from msr_export import export_bundle
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.normalization import Normalization

EXAMPLE = Path(__file__).parents[2] / "examples" / "new_parts.py"
WAYS = 6
_WRITE = "from msr_envs.table import write_parts; write_parts({path!r}, (6, 6, 6), views=2)"


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process that draws off screen, since MuJoCo selects OpenGL when it is imported."""
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if "DependencyNotInstalled" in done.stderr:
        pytest.skip("no off-screen GL here (Debian: libegl1 libgl1-mesa-dri)")
    return done


@pytest.fixture(scope="module")
def bundle(once: Callable[..., Path]) -> Path:
    """Prototypes in an embedding that holds quarter turns by construction, and has learned nothing."""

    def fill(folder: Path) -> None:
        written = _run("-c", _WRITE.format(path=str(folder / "parts.npz")))
        assert written.returncode == 0, written.stderr
        torch.manual_seed(0)
        config = LearnerConfig(network="conv-grid", width=8, depth=3, grid_group="C4")
        learner = LEARNERS["orbit-prototypes"](config, (3, 28, 28), (WAYS,), "cross_entropy").eval()
        unit = Normalization(
            input_center=(((0.7,),),) * 3,
            input_scale=(((0.1,),),) * 3,
            output_center=(0.0,) * WAYS,
            output_scale=(1.0,) * WAYS,
        )
        family = Images(folder / "parts.npz", ways=WAYS, angle="any", flips="none", crop=1)
        export_bundle(
            learner,
            unit,
            folder / "bundle",
            family=family,
            shots=1,
            seed=0,
            config_digest="0" * 64,
            validation_tasks=30,
        )

    return once("new-parts", fill) / "bundle"


def test_parts_are_named_and_drawn(bundle: Path, tmp_path: Path) -> None:
    """Five names, and what the others are; the sixth part changes nothing of what is known of the five."""
    done = _run(EXAMPLE, bundle, tmp_path / "parts.png")
    assert done.returncode == 0, done.stderr
    learned, sixth, shown, turned, six = done.stdout.splitlines()
    assert learned.startswith("learned five parts from one view each in ")
    assert sixth.endswith("the others is as it was")
    assert shown == "shown once: A B C D E - -"
    for line, known in ((turned, "ABCDE?"), (six, "ABCDEF?")):
        said = line.partition(": ")[2].split()
        assert len(said) == 7
        assert set(said) <= set(known)
    assert (tmp_path / "parts.png").read_bytes().startswith(b"\x89PNG")


def test_example_without_a_bundle_says_how_it_is_used() -> None:
    """Without arguments it prints its usage on stderr and exits with 1."""
    done = _run(EXAMPLE)
    assert done.returncode == 1
    assert "Usage" in done.stderr
