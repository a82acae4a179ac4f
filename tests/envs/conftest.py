"""What the tests of several simulated robots share."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def draw() -> Callable[[str], None]:
    """Run a program that draws, in a new process, since MuJoCo selects OpenGL when it is imported.

    The test is skipped where nothing can be drawn off screen.
    """

    def run(program: str) -> None:
        reasons = []
        for backend in ("egl", "osmesa"):
            command = [sys.executable, "-c", program]
            environment = {**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            assert "AssertionError" not in done.stderr, done.stderr
            reasons.append(f"{backend}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        pytest.skip(f"no off-screen GL here (Debian: libegl1 libgl1 or libosmesa6): {'; '.join(reasons)}")

    return run
