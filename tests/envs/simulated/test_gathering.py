"""Data is gathered in processes and kept on disk: the same data, once."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from msr_envs import load_family
from msr_envs.simulated import Change, EnvFamily, Phase, Policy, SmoothActions
from msr_envs.simulated.progress import shown
from msr_runtime.errors import FamilyError

FAMILY = """
    import gymnasium
    import numpy as np
    from pathlib import Path
    from msr_envs.simulated import Change, EnvFamily

    class Point(gymnasium.Env):
        def __init__(self, mass):
            self.observation_space = gymnasium.spaces.Box(-9.0, 9.0, (1,), np.float64)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
            self.mass = mass

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.speed = self.np_random.normal(size=1)
            return self.speed, {}

        def step(self, action):
            HOOK
            self.speed = self.speed + action / self.mass
            return self.speed, 0.0, False, False, {}

        def close(self):
            with Path(__file__).with_name("closed").open("a") as file:
                file.write("closed\\n")

    def family():
        return EnvFamily(Point, lambda rng: {"mass": rng.uniform(1, 2)}, tasks=(8, 2, 2), examples=10, workers=WORKERS,
                         cache=Path(__file__).with_name("data"))
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """A function that writes the family's file, and returns its name for `load_family`."""

    def write(workers: int = 2, hook: str = "pass") -> str:
        text = textwrap.dedent(FAMILY).replace("HOOK", hook).replace("WORKERS", str(workers))
        (tmp_path / "mine.py").write_text(text)
        return f"{tmp_path / 'mine.py'}:family"

    return write


def gathered(name: str) -> tuple[EnvFamily, np.ndarray]:
    family = load_family(name)
    assert isinstance(family, EnvFamily)
    return family, np.concatenate(family.gathered("train"), -1)


@pytest.fixture(autouse=True)
def _misnamed_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension module that is imported by one name and calls itself by another, as some do."""
    module = ModuleType("misnamed")
    module.__file__ = "misnamed.so"
    monkeypatch.setitem(sys.modules, "package.misnamed", module)


def test_the_number_of_processes_changes_nothing_and_the_data_is_kept(write, tmp_path: Path) -> None:
    """A family in a file of its own, which no other process can import by its name."""
    _, alone = gathered(write(workers=1))
    (first,) = (tmp_path / "data").iterdir()
    _, together = gathered(write(workers=2))
    assert_array_equal(alone, together)
    assert len(list((tmp_path / "data").iterdir())) == 2  # the file of the functions has changed
    _, again = gathered(write(workers=2, hook="pass"))
    assert_array_equal(together, again)
    assert len(list((tmp_path / "data").iterdir())) == 2
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(FamilyError, match=r"gathered data '.*safetensors' is damaged.*delete it"):
        gathered(write(workers=1))


def test_an_error_in_a_process_names_file_and_line(write) -> None:
    """As in the process itself, and the others end."""
    with pytest.raises(FamilyError, match=r"gathering train task \d.*ZeroDivisionError.*in .*mine.py, line 19"):
        gathered(write(workers=2, hook="1 / 0"))


def test_a_process_that_dies_is_named(write) -> None:
    """A simulator can crash without an exception."""
    with pytest.raises(FamilyError, match=r"a process that gathers data died with exit code 7.*workers=1"):
        gathered(write(workers=2, hook="import os; os._exit(7)"))


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_closes_the_environments_and_keeps_nothing(write, tmp_path: Path, workers: int) -> None:
    """In the parent alone, as `kill -INT` does it."""
    stepping = f"open(f'{tmp_path}/stepping-{{os.getpid()}}', 'w').close()"
    name = write(workers=workers, hook=f"import os, time; {stepping}; time.sleep(30)")
    program = f"from msr_envs import load_family; load_family({name!r}).gathered('train')"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    closed, deadline = tmp_path / "closed", time.monotonic() + 60
    while len(list(tmp_path.glob("stepping-*"))) < workers and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in said
    assert closed.read_text().count("closed") == 1 + workers
    assert not (tmp_path / "data").exists()


class Gain:
    """A policy that is an object with a state, as a network is."""

    def __init__(self) -> None:
        self.gain, self.names = torch.ones(2), {"left", "right", "middle"}

    def __call__(self, observation: np.ndarray, task: object) -> np.ndarray:
        return observation[:, :1] * 0


def test_the_digest_is_of_what_decides_the_data(tmp_path: Path) -> None:
    """Every setting of the data is part of it, and what decides nothing is not."""

    def path(**changes: object) -> Path:
        settings = {"env": "Pendulum-v1", "task": lambda rng: {"g": rng.uniform(low, 10)}, "cache": tmp_path}
        found = EnvFamily(**settings | changes)._path("train")  # pyright: ignore[reportArgumentType]
        assert found is not None
        return found

    low = 5.0
    plain = path()
    assert path(workers=3, rate_hz=20.0) == plain == path()
    changed = [
        path(seed=1), path(examples=99), path(tasks=(301, 64, 100)), path(y=Change(nominal=lambda o, a: o)),
        path(observation={"direction": 2, "rate": 1}), path(x=("observation",)),
        path(phases={"all": Phase(SmoothActions())}), path(phases={"all": Phase(options={"x_init": 1.0})}),
    ]  # fmt: skip
    policy = Gain()
    acting = path(phases={"all": Phase(Policy(policy))})
    assert path(phases={"all": Phase(Policy(Gain()))}) == acting
    policy.gain = policy.gain + 1
    changed += [acting, path(phases={"all": Phase(Policy(policy))})]
    low = 6.0
    changed.append(path())  # a value that the function only refers to
    assert len({plain, *changed}) == len(changed) + 1


def test_settings_without_a_digest_are_refused(tmp_path: Path) -> None:
    """An open file decides the data, and nobody can say how."""
    with (tmp_path / "file").open("w") as file:
        y = Change(nominal=lambda o, a: o if file else a)
        family = EnvFamily("Pendulum-v1", lambda rng: {}, y=y, cache=tmp_path)
        with pytest.raises(FamilyError, match=r"hold a TextIOWrapper, of which no digest.*leave out cache"):
            family.gathered("test")


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line at the beginning, one a minute, and one at the end; none of a short gathering."""
    clock = iter(range(0, 9999, 25))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(shown(range(8), 8, "points")) == list(range(8))
    assert capsys.readouterr().err.splitlines() == [
        "points: 1 of 8, 25 s", "points: 4 of 8, 100 s", "points: 7 of 8, 175 s", "points: 8 of 8, 200 s",
    ]  # fmt: skip
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    list(shown(range(8), 8, "points"))
    assert not capsys.readouterr().err
