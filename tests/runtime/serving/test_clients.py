"""Many clients of one server: they do not disturb each other, and the server stops in order."""

import asyncio
import contextlib
import math
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import msr_runtime.serving.server
from msr_runtime.errors import ServerError
from msr_runtime.serving.access import Limits
from msr_runtime.serving.server import PolicyServer
from msr_runtime.serving.wire import decode, encode
from msr_runtime.serving.workers import Workers

# openpi's client opens its connection in a way that newer versions of websockets deprecate.
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")


class Held:
    """Adaptations that stand before an inner step until the test lets them go on. So none is too fast for its test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        check = Workers._check

        def held(workers: Workers, *arguments: Any) -> None:
            self.reached.set()
            assert self.released.wait(600)
            check(workers, *arguments)

        monkeypatch.setattr(Workers, "_check", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Every adaptation stands until `held.released` is set."""
    held = Held(monkeypatch)
    yield held
    held.released.set()  # a test that failed does not leave the server waiting


class TestClientsApart:
    def test_a_long_request_blocks_nobody_else(
        self, held: Held, running: Any, adapting: Any, support: Any, observation: Any, eventually: Any
    ) -> None:
        """While clients adapt, more than there are threads, the server answers another client and the probes."""
        adapters, other = [running.openpi() for _ in range(15)], running.openpi()
        with ThreadPoolExecutor(15) as pool:
            adaptations = [pool.submit(adapter.infer, adapting(*support)) for adapter in adapters]
            assert held.reached.wait(120)
            assert other.infer(observation)["force"].shape == (1, 2)
            assert running.get("healthz") == (200, "OK\n")
            assert not any(adaptation.done() for adaptation in adaptations)
            held.released.set()
            assert all(adaptation.result()["accepted"] for adaptation in adaptations)

    def test_an_adaptation_lets_other_threads_run_before_each_step(self) -> None:
        """It hands over Python's interpreter lock by itself. Here nothing else would take the lock from it."""
        workers, begin, ran = Workers(Limits()), threading.Lock(), threading.Event()

        def wait() -> None:
            with begin:
                ran.set()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1000)  # s
        try:
            with begin:
                waiting = threading.Thread(target=wait)
                waiting.start()
            # The system decides which of two threads gets the lock, so this one may need several pauses.
            for _ in range(100_000):
                workers._check(lambda: True, math.inf)
                if ran.is_set():
                    break
            assert ran.is_set()
        finally:
            sys.setswitchinterval(interval)
            waiting.join()
            workers.end()

    def test_an_adaptation_ends_beside_observations_without_a_pause(
        self, serve: Callable[..., Any], adapting: Any, support: Any, observation: Any
    ) -> None:
        """However many observations come, an adaptation takes all its steps."""
        running, done = serve(limits=Limits(adapt_seconds=600)), threading.Event()
        adapter, others = running.openpi(), [running.openpi() for _ in range(4)]

        def ask(client: Any) -> int:
            count = 0
            while not done.is_set():
                count += client.infer(observation)["force"].shape == (1, 2)
            return count

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, other) for other in others]
            try:
                assert adapter.infer(adapting(*support) | {"steps": 200})["steps"] == 200
            finally:
                done.set()
            assert all(count.result() for count in asked)

    def test_an_adaptation_ends_when_its_client_leaves(
        self, held: Held, running: Any, adapting: Any, support: Any, eventually: Any
    ) -> None:
        """A client that left does not keep its thread; the request is counted as stopped."""
        client = running.raw()
        client.send(encode(adapting(*support)))
        assert held.reached.wait(120)
        client.close()
        held.released.set()
        name = 'msr_requests_total{kind="adapt",model="linear",outcome="stopped"}'
        assert eventually(lambda: running.figure(name) == 1)

    def test_an_adaptation_has_a_deadline(
        self, serve: Callable[..., Any], adapting: Any, support: Any, observation: Any, linear: Any, draw: Any
    ) -> None:
        """Beyond `adapt_seconds` it is stopped by name, and the earlier weights act."""
        client = serve(limits=Limits(adapt_seconds=1e-9)).openpi()
        with pytest.raises(RuntimeError, match=r"took more than 1e-09 s.*--limits.adapt-seconds"):
            client.infer(adapting(*support))
        assert not client.infer({"__msr__": "status"})["adapted"]
        wanted = linear.predict(linear.v0, draw(3, 3)[None])
        np.testing.assert_allclose(client.infer(observation)["force"], wanted, rtol=1e-5, atol=1e-6)

    def test_a_new_connection_acts_at_v0_and_the_log_says_so(
        self, running: Any, adapting: Any, support: Any, caplog: pytest.LogCaptureFixture, eventually: Any
    ) -> None:
        """The metadata says where an adaptation starts and ends; the log names the reason and what is lost."""
        caplog.set_level("INFO", "msr_runtime.serving")
        client = running.openpi()
        assert client.get_server_metadata()["adaptation"] == {"starts_at": "v0", "ends_with": "connection"}
        client.infer(adapting(*support))
        client._ws.close(4000, "cable")
        assert eventually(lambda: "its adaptation is lost, and it acts at v0 when it connects again" in caplog.text)
        assert "acts at v0" in caplog.text
        assert "4000 (private use) cable" in caplog.text
        assert not running.openpi().infer({"__msr__": "status"})["adapted"]

    def test_requests_of_one_client_are_answered_in_order(
        self, running: Any, linear: Any, draw: Any, named: Any, adapting: Any, support: Any
    ) -> None:
        """A client may send requests without waiting for replies; an observation after an adaptation uses it."""
        connection, x = running.raw(), draw(3, 4, 3)
        for request in (named(x), adapting(*support), named(x), {"__msr__": "reset"}, named(x)):
            connection.send(encode(request))
        replies = [decode(connection.recv(decode=False)) for _ in range(5)]
        for reply, v in zip(replies[::2], (linear.v0, linear.adapt(*support, 3), linear.v0), strict=True):
            np.testing.assert_allclose(reply["force"], linear.predict(v, x), rtol=1e-4, atol=1e-5)

    @pytest.fixture
    def deaf(self, serve: Callable[..., Any], draw: Any, named: Any) -> Iterator[Callable[..., Any]]:
        """A function that starts a server, and a client that sends requests and never reads a reply."""
        with contextlib.ExitStack() as stack:

            def started(**limits: float) -> Any:
                running = serve(limits=Limits(samples=2**16, **limits))  # pyright: ignore[reportArgumentType]
                client = stack.enter_context(socket.create_connection(("127.0.0.1", running.server.port)))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(_handshake("Sec-WebSocket-Version: 13"))
                request = _frame(encode(named(draw(0, 2**16, 3))))

                def send() -> None:
                    with contextlib.suppress(OSError):
                        while True:  # fills the buffers of both sides, then waits until the server ends the connection
                            client.sendall(request)

                sender = threading.Thread(target=send)
                sender.start()
                stack.callback(sender.join)
                stack.callback(running.stop)
                return running

            yield started

    def test_one_that_does_not_read_blocks_nobody(
        self, deaf: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, observation: Any, eventually: Any
    ) -> None:
        """A client that does not read delays neither other clients nor the end of the server."""
        monkeypatch.setattr(msr_runtime.serving.server, "_GRACE", 0.2)
        running = deaf(reply_seconds=1000)
        assert eventually(running.stuck)
        assert running.openpi().infer(observation)["force"].shape == (1, 2)
        running.stop()

    def test_one_that_does_not_read_is_cut_off(self, deaf: Callable[..., Any], eventually: Any) -> None:
        """After `reply_seconds` the connection is closed and the request is counted as unread."""
        running = deaf(reply_seconds=0.1)
        name = 'msr_requests_total{kind="infer",model="linear",outcome="unread"}'
        assert eventually(lambda: running.figure(name) == 1)
        assert eventually(lambda: running.figure("msr_connections") == 0)

    def test_several_models(self, serve: Callable[..., Any], bundle_path: Path, write: Callable[..., Path]) -> None:
        """The path chooses the model, `/` the first one; an unknown path gets 404 and the names of all models."""
        running = serve(bundles={"a": bundle_path, "b": write(rate_hz=7.0)})
        rates = {path: running.openpi(path).get_server_metadata()["rate_hz"] for path in ("", "a", "b", "b?x=1")}
        assert rates == {"": 100.0, "a": 100.0, "b": 7.0, "b?x=1": 7.0}
        with pytest.raises(InvalidStatus, match="404"):
            running.openpi("c")
        assert running.get("c") == (404, "no model is at this path; the models are /a, /b\n")


class TestEnd:
    def test_requests_in_flight_are_answered(
        self,
        held: Held,
        running: Any,
        adapting: Any,
        support: Any,
        eventually: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A stopping server refuses new clients, finishes its requests and closes the connections with 1001."""
        monkeypatch.setattr(msr_runtime.serving.server, "_GRACE", 1000)  # however slow the machine is
        worker, idle = running.openpi(), running.openpi()
        with _stopping(running, worker, adapting(*support), held) as (adaptation, end):
            assert eventually(lambda: running.server._stopping)
            assert running.get("readyz") == (503, "the server is stopping\n")
            with pytest.raises(InvalidStatus, match="503"):
                running.openpi()
            assert not adaptation.done()
            held.released.set()
            assert adaptation.result()["accepted"]
            end.result()
        for client in (worker, idle):
            with pytest.raises(ConnectionClosed) as closed:
                client._ws.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server is stopping")

    def test_an_adaptation_does_not_delay_the_end(
        self,
        held: Held,
        running: Any,
        adapting: Any,
        support: Any,
        eventually: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """When its share of the grace is over, an adaptation is stopped by name before its next step."""
        monkeypatch.setattr(msr_runtime.serving.server, "_GRACE", 1000)  # however slow the machine is
        monkeypatch.setattr(msr_runtime.serving.server, "_ADAPTING", 0)
        client = running.openpi()
        with _stopping(running, client, adapting(*support), held) as (adaptation, end):
            assert eventually(lambda: math.isfinite(running.server._workers._stop_at))
            held.released.set()
            with pytest.raises(RuntimeError, match="the server is stopping, so the adaptation was stopped"):
                adaptation.result()
            end.result()

    def test_a_port_in_use(self, running: Any, bundle_path: Path) -> None:
        """A second server at the same port is refused with the likely cause."""

        async def start() -> None:
            async with PolicyServer({"linear": bundle_path}, port=running.server.port):
                pass

        with pytest.raises(ServerError, match="another program uses the port"):
            asyncio.run(start())


@contextlib.contextmanager
def _stopping(running: Any, client: Any, request: Any, held: Held) -> Iterator[tuple[Future, Future]]:
    """Stop the server while it holds an adaptation between two steps: the adaptation, and the end of the server."""
    with ThreadPoolExecutor(2) as pool:
        adaptation = pool.submit(client.infer, request)
        assert held.reached.wait(120)
        yield adaptation, pool.submit(running.stop)


def _handshake(*headers: str) -> bytes:
    """The opening request of a websocket."""
    lines = ("GET / HTTP/1.1", "Host: robot", "Upgrade: websocket", "Connection: Upgrade", *headers)
    return "\r\n".join([*lines, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]).encode()


def _frame(payload: bytes) -> bytes:
    """A binary websocket frame with a mask of zeros."""
    return b"\x82\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload
