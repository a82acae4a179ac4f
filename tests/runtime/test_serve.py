"""`msr serve` as a user runs it: a process of its own, signals, tokens and refusals."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from msr_runtime.cli import main
from msr_runtime.signing import make_keys
from msr_runtime.wire import decode, encode

OBSERVATION = encode({"position": np.zeros(2), "angle": np.zeros(1)})
TOKEN = "correct-horse-battery"
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Missing())
from msr_runtime.cli import main
main()
"""
TRAINING = {"torch", "gymnasium", "mujoco", "onnx", "onnxscript", "rich", "tensorboard"}


class Served:
    """A running `msr serve`, ready for clients; it can import no training package."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        """Start it at a free port and wait until it is ready."""
        self.log = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", WITHOUT.format(missing=TRAINING), "serve", *map(str, arguments), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(**environment),
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if line.endswith(" ready\n"):
                break
        found = re.search(r"ws://\S+", self.log)
        assert found, self.log
        self.url = found[0].rstrip(",")

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; the exit code and what was written to stderr."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=30)
        return self.process.returncode, self.log + rest

    def close(self) -> None:
        """Leave nothing running."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is closed at the end of a test."""
    with ExitStack() as stack:
        yield stack


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MSR_TOKEN"}
    return kept | {"PYTHONPATH": os.pathsep.join(sys.path)} | more


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_stopped(number: int, code: int, bundle_path: Path, stack: ExitStack) -> None:
    """Clients see 1001; the process ends without a traceback."""
    served = Served(f"robot={bundle_path}")
    stack.callback(served.close)
    assert served.url.endswith("/robot")
    with connect(served.url, compression=None) as client:
        metadata = decode(client.recv(decode=False))
        assert metadata["model"] == "robot"
        client.send(OBSERVATION)
        assert decode(client.recv(decode=False))["force"].shape == (1, 2)
        ended, log = served.end(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert ended == code, log
    assert "Traceback" not in log


def test_a_token_from_the_environment_or_a_file(bundle_path: Path, tmp_path: Path, stack: ExitStack) -> None:
    """A file's goes before; the process shows neither in its log."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n", encoding="ascii")
    other = "another-one-that-is-long"
    for arguments, environment in (((), {"MSR_TOKEN": TOKEN}), (("--token-file", file), {"MSR_TOKEN": other})):
        served = Served(bundle_path, "--host", "0.0.0.0", *arguments, **environment)
        stack.callback(served.close)
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(InvalidStatus, match="401"), connect(url):
            pass
        with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            assert decode(client.recv(decode=False))["models"] == ["bundle"]
        assert TOKEN not in served.end(signal.SIGTERM)[1]


@pytest.mark.parametrize(
    ("arguments", "token", "sentence"),
    [
        (["{bundle}", "--host", "0.0.0.0"], None, "host '0.0.0.0' is reached from other machines"),
        (["{bundle}"], "short", "the token has 5 characters"),
        (["{bundle}"], "", "the token has 0 characters"),
        (["{bundle}", "--token-file", "{folder}/binary"], None, "does not hold ASCII text"),
        (["{bundle}", "--token-file", "{folder}/none"], TOKEN, "No such file"),
        (["{folder}/none", "--port", "0"], None, "is not a folder"),
        (["{bundle}", "bundle={bundle}"], None, "two bundles are named 'bundle'"),
        (["a/b={bundle}"], None, "'a/b' cannot be a model's name"),
        ([], None, "nothing to serve"),
        (["{bundle}", "--port", "65536"], None, "the port is 65536"),
        (["{bundle}", "--limits.connections", "0"], None, "connections is 0"),
        (["{bundle}", "--port", "{taken}"], None, "port {taken} (error while attempting to bind"),
        (["{bundle}", "--port", "0", "--key", "{folder}/key.pub.pem"], None, "is not signed"),
        (["{bundle}", "--host", "203.0.113.1"], TOKEN, "this machine has no such address"),
    ],
)
def test_refusals(
    arguments: list[str],
    token: str | None,
    sentence: str,
    bundle_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence on stderr and code 2."""
    make_keys(tmp_path / "key.pem", tmp_path / "key.pub.pem")
    (tmp_path / "binary").write_bytes(b"\xff" * 20)
    monkeypatch.delenv("MSR_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("MSR_TOKEN", token)
    with socket.create_server(("127.0.0.1", 0)) as other:
        names = {"bundle": bundle_path, "folder": tmp_path, "taken": other.getsockname()[1]}
        with pytest.raises(SystemExit) as ended:
            main(["serve", *(argument.format(**names) for argument in arguments)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("msr: ")
    assert sentence.format(**names) in line


def test_a_missing_extra_is_named(bundle_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing={"websockets"}), "serve", bundle_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 2
    assert 'pip install "msr-runtime[serve]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that a user can set, with its default."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert not ended.value.code
    out = capsys.readouterr().out
    for part in ("MSR_TOKEN", "--token-file", "8000", "127.0.0.1", "--limits.message-bytes", "/readyz", "130"):
        assert part in out
