"""`msr serve` as a user runs it, in a process of its own: signals, tokens and refusals."""

import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from msr_runtime.bundle.signing import make_keys
from msr_runtime.cli import main
from msr_runtime.serving.wire import decode, encode

OBSERVATION = encode({"position": np.zeros(2), "angle": np.zeros(1)})
TOKEN = "correct-horse-battery"
Start = Callable[..., subprocess.Popen[str]]


class Served:
    """A running `msr serve` that is ready for clients. It cannot import the training packages."""

    def __init__(self, start: Start, *arguments: str | Path, **environment: str) -> None:
        """Start the server at a free port and wait until it is ready."""
        self.log = ""
        self.process = start("serve", *arguments, "--port", "0", **environment)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if line.endswith(" ready\n"):
                break
        found = re.search(r"ws://\S+", self.log)
        assert found, self.log
        self.url = found[0].rstrip(",")

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; return the exit code and everything that was written to stderr."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=120)
        return self.process.returncode, self.log + rest

    def close(self) -> None:
        """Kill the process if it still runs."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """A stack that is closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_stopped(
    number: int, code: int, bundle_path: Path, stack: ExitStack, start_without: Start
) -> None:
    """After a signal, clients get code 1001 and the process ends without a traceback."""
    served = Served(start_without, f"robot={bundle_path}")
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


def test_keys_that_are_ignored(bundle_path: Path, stack: ExitStack, start_without: Start) -> None:
    """With `--ignore`, programs for openpi may send their prompt; the metadata says so."""
    served = Served(start_without, bundle_path, "--ignore", "prompt", "observation/image")
    stack.callback(served.close)
    with connect(served.url, compression=None) as client:
        assert decode(client.recv(decode=False))["ignored"] == ["prompt", "observation/image"]
        client.send(encode({"position": np.zeros(2), "angle": np.zeros(1), "prompt": "go"}))
        assert decode(client.recv(decode=False))["force"].shape == (1, 2)


def test_ipv6(bundle_path: Path, stack: ExitStack, start_without: Start) -> None:
    """`--host ::1` listens on this machine alone, so it needs no token."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 ({error})")
    served = Served(start_without, bundle_path, "--host", "::1")
    stack.callback(served.close)
    assert served.url.startswith("ws://[::1]:")
    with connect(served.url, compression=None) as client:
        client.recv(decode=False)


def test_a_token_from_the_environment_or_a_file(
    bundle_path: Path, tmp_path: Path, stack: ExitStack, start_without: Start
) -> None:
    """The token of a file takes precedence over MSR_TOKEN, and the log never shows a token."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n", encoding="ascii")
    other = "another-one-that-is-long"
    for arguments, environment in (((), {"MSR_TOKEN": TOKEN}), (("--token-file", file), {"MSR_TOKEN": other})):
        served = Served(start_without, bundle_path, "--host", "0.0.0.0", *arguments, **environment)
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
        (["{bundle}", "--host", "0.0.0.0"], None, "host '0.0.0.0' can be reached from other machines"),
        (["{bundle}"], "short", "the token has 5 characters"),
        (["{bundle}"], "", "the token has 0 characters"),
        (["{bundle}", "--token-file", "{folder}/binary"], None, "does not hold ASCII text"),
        (["{bundle}", "--token-file", "{folder}/none"], TOKEN, "No such file"),
        (["{folder}/none", "--port", "0"], None, "is not a folder"),
        (["{bundle}", "bundle={bundle}"], None, "two bundles have the name 'bundle'"),
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
    """A refusal is one sentence on stderr and exit code 2."""
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


def test_a_missing_extra_is_named(bundle_path: Path, run_without: Callable[..., Any]) -> None:
    """Without websockets, `msr serve` says what to install."""
    done = run_without("serve", bundle_path, missing={"websockets"})
    assert done.returncode == 2
    assert 'pip install "msr-runtime[serve]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help lists the options with their defaults, the paths of the probes, and the exit codes."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert not ended.value.code
    out = capsys.readouterr().out
    for part in ("MSR_TOKEN", "--token-file", "8000", "127.0.0.1", "--limits.message-bytes", "/readyz", "130"):
        assert part in out
