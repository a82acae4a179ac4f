"""Environments check what they are told to do, and say what rendering needs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_envs.arm import ArmEnv
from msr_envs.hex_drive import HexDriveEnv
from msr_envs.hex_drive.simulator import draw_task, simulator
from msr_envs.quadrotor import QuadrotorEnv
from msr_envs.ring_nav import RingNavEnv
from msr_runtime.errors import InputError

ENVS = {"RingNav": (RingNavEnv, 2), "HexDrive": (HexDriveEnv, 6), "Arm": (ArmEnv, 6), "Quadrotor": (QuadrotorEnv, 3)}


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: np.append(a, 0), r"the action has shape \(\d,\) and dtype float"),
        (lambda a: a[None], r"shape \(1, \d\)"),
        (lambda a: a.astype(str), "dtype <U"),
        (lambda a: np.ma.masked_equal(a, 0), "masked, but"),
        (lambda a: a * np.nan, "every number must be finite; send .* through msr_runtime.ActionGuard"),
        (lambda a: a + np.inf, "every number must be finite"),
        (lambda a: a + 1.001, "between -1 and 1; clip it"),
        (lambda a: a - 50, "between -1 and 1; clip it"),
    ],
)
def test_an_action_that_no_robot_follows_is_refused(name: str, change: Any, message: str) -> None:
    """It raises by name, and the robot has not moved."""
    make, size = ENVS[name]
    env = make()
    before, _ = env.reset(seed=0)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        env.step(change(np.zeros(size, np.float32)))
    env_again = make()
    env_again.reset(seed=0)
    good = np.full(size, 0.5, np.float32)
    np.testing.assert_array_equal(env.step(good)[0], env_again.step(good)[0])
    assert before.dtype == np.float32


@pytest.mark.parametrize("name", ENVS)
def test_bounds_rounding_lists_and_other_numbers_are_actions(name: str) -> None:
    """What float32 rounds is on the bound, and lists and float64 move the robot alike."""
    make, size = ENVS[name]
    seen = []
    for action in (
        np.ones(size, np.float32),
        np.nextafter(np.ones(size, np.float32), 2),
        [1.0] * size,
        np.ones(size, int),
    ):
        env = make()
        env.reset(seed=0)
        seen.append(env.step(action)[0])
    np.testing.assert_allclose(seen, np.broadcast_to(seen[0], np.shape(seen)), rtol=1e-5, atol=1e-6)


def test_the_simulator_refuses_what_mujoco_would_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo turns such numbers into rest, and writes MUJOCO_LOG.TXT into the working folder."""
    monkeypatch.chdir(tmp_path)
    task, rest = draw_task(np.random.default_rng(0)), np.zeros((1, 6))
    with pytest.raises(InputError, match="HexDrive: the commands hold nan"):
        simulator().advance(task, rest, rest * np.nan)
    with pytest.raises(InputError, match="HexDrive: the states hold inf"):
        simulator().advance(task, rest + np.inf, rest)
    with pytest.raises(InputError, match=r"a rate of 1e\+05 m/s"):
        simulator().advance(task, rest + 1e5, rest)
    for spin in (-100.0, 100.0):
        assert np.isfinite(simulator().advance(task, rest + spin, rest + 1)).all()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="displays are named by variables on Linux only")
def test_rendering_without_a_display_says_what_it_needs(tmp_path: Path) -> None:
    """Each try raises; MuJoCo ends the process at the second one."""
    code = """
from gymnasium.error import DependencyNotInstalled
from msr_envs.hex_drive import HexDriveEnv
env = HexDriveEnv(render_mode="rgb_array")
env.reset(seed=0)
for _ in range(3):
    try:
        env.render()
    except DependencyNotInstalled as error:
        print(error)
env.close()
"""
    kept = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")}
    for variables in ({}, {"DISPLAY": ":987"}):  # none, and one that is not there
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=kept | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 3
        for line in lines:
            assert line.startswith("HexDrive cannot be rendered here (")
            assert "MUJOCO_GL=egl (on Debian and Ubuntu the packages libegl1 and libgl1-mesa-dri" in line
