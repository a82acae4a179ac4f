"""Ctrl-C while a command still imports its packages."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

SLOW = '''
"""Stands before a package of the same name: its import waits, and takes Ctrl-C for a part that is missing."""

import sys
import time
from pathlib import Path

here = Path(__file__).parent
(here / "importing").touch()
ended = time.monotonic() + 60
try:
    while not (here / "go").exists() and time.monotonic() < ended:
        time.sleep(0.02)
except KeyboardInterrupt as error:
    raise ImportError("a part in C is missing") from error
sys.exit(7)
'''

LATE = """
import os, signal
from msr_runtime.cli import main

class Unloaded:
    def __init__(self):
        self.kill, self.pid, self.number = os.kill, os.getpid(), signal.SIGINT

    def __del__(self):
        self.kill(self.pid, self.number)

os.late = Unloaded()  # Python unloads this module after its handlers of signals are gone
main()
"""


@pytest.fixture
def importing(tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """A function that starts a command, and returns it when it is in the midst of the import of a package."""

    def start(package: str, *arguments: str) -> subprocess.Popen[str]:
        (tmp_path / f"{package}.py").write_text(SLOW)
        process = subprocess.Popen(
            [sys.executable, "-c", "from msr_runtime.cli import main; main()", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
        ended = time.monotonic() + 60
        while not (tmp_path / "importing").exists() and process.poll() is None and time.monotonic() < ended:
            time.sleep(0.02)
        return process

    return start


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("tyro", ["info", "bundle"]), ("numpy", ["info", "bundle"]), ("torch", ["train", "ring-nav", "run"])],
)
def test_while_it_imports(package, arguments, importing, tmp_path) -> None:
    """It ends in one line and with 130, whatever the package does with the exception."""
    with importing(package, *arguments) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (tmp_path / "importing").exists(), err
    assert (process.returncode, err) == (130, "msr: interrupted\n")


def test_in_a_background_job(importing, tmp_path) -> None:
    """Where the shell has switched Ctrl-C off, it stays off."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = importing("numpy", "info", "bundle")
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        process.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        process.communicate(timeout=60)
    assert process.returncode == 7


def test_after_the_imports(monkeypatch) -> None:
    """Ctrl-C is an exception again when the command runs, so that it can clean up; then it is one line as well."""
    import msr_runtime.cli.info as info
    from msr_runtime.cli import main

    def pressed() -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    monkeypatch.setattr(info, "info", pressed)
    with pytest.raises(SystemExit) as ended:
        main(["info"])
    assert ended.value.code == 130


def test_at_the_very_end(tmp_path) -> None:
    """When the command has ended, and Python unloads its packages, the exit code stands."""
    (tmp_path / "late.py").write_text(LATE)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for arguments, code in ((["--version"], 0), (["infos"], 2)):
        done = subprocess.run([sys.executable, "-m", "late", *arguments], env=environment, check=False, timeout=60)
        assert done.returncode == code
