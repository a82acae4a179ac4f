"""The policy server over real sockets: openpi's client unchanged, hostile clients, probes, and an orderly end."""

import ast
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import msr_runtime.server
from msr_runtime.access import Limits, admits, check_address, check_names
from msr_runtime.errors import BundleError, ServerError
from msr_runtime.policy import Policy
from msr_runtime.server import PolicyServer
from msr_runtime.wire import decode, encode

# openpi's client opens its connection in a way that newer websockets deprecate.
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")
TOKEN = "correct-horse-battery"


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def named(x: np.ndarray) -> dict[str, np.ndarray]:
    """The linear bundle's observation `(..., 3)` by the names of its fields."""
    return {"position": x[..., :2], "angle": x[..., 2:]}


def adapting(x: np.ndarray, y: np.ndarray, **more: Any) -> dict[str, Any]:
    """A request to adapt the linear bundle."""
    return {"__msr__": "adapt", "support_x": named(x), "support_y": {"force": y}} | more


OBSERVATION = named(draw(3, 3))
SUPPORT = draw(1, 6, 3), draw(2, 6, 2)


class Running:
    """A server in a thread of its own, and clients that are closed with it."""

    def __init__(self, *, load: bool = True, **options: Any) -> None:
        """Start it at a free port; without `load` it listens with no model."""
        self.server = PolicyServer(port=0, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._clients = contextlib.ExitStack()
        self.call(self.server.__aenter__())
        self.url = f"127.0.0.1:{self.server.port}"
        if load:
            self.call(self.server.load())

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def openpi(self, path: str = "", **options: Any) -> WebsocketClientPolicy:
        """The client that openpi's users have."""
        client = WebsocketClientPolicy(f"ws://{self.url}/{path}", **options)
        self._clients.callback(client._ws.close)
        return client

    def raw(self, **options: Any) -> ClientConnection:
        """A connection that sends what it likes, its metadata read."""
        connection = self._clients.enter_context(connect(f"ws://{self.url}", compression=None, **options))
        connection.recv()
        return connection

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text of a plain GET."""
        try:
            request = urllib.request.Request(f"http://{self.url}/{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def figure(self, name: str) -> float:
        """One figure of /metrics; 0 if it was not counted yet."""
        lines = [line.rpartition(" ") for line in self.get("metrics")[1].splitlines()]
        return next((float(value) for key, _, value in lines if key == name), 0.0)

    def stop(self) -> None:
        """Stop the server, once."""
        if self._thread.is_alive():
            self.call(self.server.__aexit__(None, None, None))
            self._clients.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


Serve = Callable[..., Running]


@pytest.fixture
def serve(bundle_path: Path) -> Iterator[Serve]:
    """A function that serves the reference's bundle, or others."""
    with contextlib.ExitStack() as stack:

        def started(**options: Any) -> Running:
            options.setdefault("bundles", {"linear": bundle_path})
            running = Running(**options)
            stack.callback(running.stop)
            return running

        yield started


@pytest.fixture
def running(serve: Serve) -> Running:
    """The reference's bundle served."""
    return serve()


def eventually(condition: Callable[[], object]) -> bool:
    """Whether a condition comes true in the end."""
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def busy(running: Running) -> bool:
    """Whether a request is in flight."""
    return any(client.lock.locked() for client in list(running.server._clients))


class TestOpenpisClient:
    def test_it_drives_the_server_unchanged(self, running: Running, linear: Any) -> None:
        """Metadata, a chunk of actions and the timings that it knows, `prev_total_ms` from the second call on."""
        client = running.openpi()
        metadata = client.get_server_metadata()
        assert [field["name"] for field in metadata["inputs"]] == ["position", "angle"]
        assert (metadata["model"], metadata["rate_hz"], metadata["inner_steps"]) == ("linear", 100.0, 3)
        first, second = client.infer(OBSERVATION), client.infer(OBSERVATION)
        wanted = linear.predict(linear.v0, draw(3, 3)[None])
        np.testing.assert_allclose(first["actions"], wanted, rtol=1e-5, atol=1e-6)
        assert first["server_timing"].keys() == {"infer_ms"}
        assert second["server_timing"].keys() == {"infer_ms", "prev_total_ms"}
        assert first["policy_timing"]["infer_ms"] <= first["server_timing"]["infer_ms"]
        assert first["actions"].dtype == np.float32

    def test_chunk_broker(self, running: Running, linear: Any) -> None:
        """The broker hands out each action of a chunk: one of an observation, as many as rows of a batch."""
        client, x = running.openpi(), draw(3, 4, 3)
        wanted = linear.predict(linear.v0, x)
        single = ActionChunkBroker(client, action_horizon=1)
        chunk = ActionChunkBroker(client, action_horizon=4)
        for row, action in zip(x, wanted, strict=True):
            for reply in (single.infer(named(row)), chunk.infer(named(x))):
                assert reply["actions"].shape == reply["force"].shape == (2,)
                np.testing.assert_allclose(reply["actions"], action, rtol=1e-4, atol=1e-5)
        single.reset()

    def test_adapt_reset_and_status(self, running: Running, linear: Any) -> None:
        """Its `infer` sends the further messages as well, and each acts on its own connection alone."""
        mine, other, x = running.openpi(), running.openpi(), draw(3, 4, 3)
        v = linear.adapt(*SUPPORT, 3)
        assert mine.infer(adapting(*SUPPORT))["accepted"]
        for client, acting in ((mine, v), (other, linear.v0), (running.openpi(), linear.v0)):
            np.testing.assert_allclose(client.infer(named(x))["force"], linear.predict(acting, x), rtol=1e-4, atol=1e-5)
        assert mine.infer({"__msr__": "status"})["adapted"]
        assert not other.infer({"__msr__": "status"})["adapted"]
        assert not mine.infer({"__msr__": "reset"})["adapted"]
        np.testing.assert_allclose(mine.infer(named(x))["force"], linear.predict(linear.v0, x), rtol=1e-4, atol=1e-5)

    def test_many_at_once(self, running: Running, linear: Any) -> None:
        """Connections that adapt and infer at the same time each see their own adaptation."""

        def drive(seed: int) -> None:
            client, x = running.openpi(), draw(seed, 4, 3)
            for turn in range(5):
                support = draw(10 * seed + turn, 6, 3), draw(10 * seed + turn + 1, 6, 2)
                assert client.infer(adapting(*support))["accepted"]
                wanted = linear.predict(linear.adapt(*support, 3), x)
                for _ in range(3):
                    np.testing.assert_allclose(client.infer(named(x))["force"], wanted, rtol=1e-3, atol=1e-4)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(drive, range(6)))


class TestRefusals:
    @pytest.mark.parametrize(
        ("frame", "sentence"),
        [
            (b"\xc1", "cannot be decoded"),
            (encode(OBSERVATION)[:-3], "cut off"),
            (b"\x91" * 5000, "cannot be decoded"),
            (b"\x91" * 500 + b"\xc0", "inside each other"),
            (encode(OBSERVATION).replace(b"<f4", b"|O8"), "dtype '|O8'"),
            (encode(OBSERVATION).replace(b"<f4", b"<c8"), "dtype '<c8'"),
            (b"", "cannot be decoded"),
            ("position", "a text frame"),
            (encode([1, 2]), "a map is wanted"),
            (encode({"position": [1, 2]}), "['position'], but ['position', 'angle'] are wanted"),
            (encode(named(draw(0, 4))), "angle (2,), but position (2,), angle (1,)"),
            (encode(named(np.full(3, np.nan))), "is nan"),
            (encode({"__msr__": "stop"}), "'stop'"),
            (encode(adapting(SUPPORT[0], SUPPORT[1][:2])), "must be pairs"),
        ],
    )
    def test_a_sentence_and_the_connection_goes_on(self, running: Running, frame: Any, sentence: str) -> None:
        """What is refused comes back as one line of text, and the next request is answered."""
        connection = running.raw()
        connection.send(frame)
        answer = connection.recv()
        assert isinstance(answer, str)
        assert sentence in answer
        assert "\n" not in answer
        assert "Traceback" not in answer
        connection.send(encode(OBSERVATION))
        assert decode(connection.recv(decode=False))["force"].shape == (1, 2)

    def test_openpis_client_raises_it(self, running: Running) -> None:
        """Its RuntimeError holds the sentence, and the same client goes on."""
        client = running.openpi()
        with pytest.raises(RuntimeError, match="has the fields"):
            client.infer({"state": np.zeros(3)})
        assert "prev_total_ms" in client.infer(OBSERVATION)["server_timing"]

    def test_a_message_beyond_the_limit_ends_its_connection(self, serve: Serve) -> None:
        """With code 1009; others do not notice."""
        running = serve(limits=Limits(message_bytes=1000))
        other, connection = running.openpi(), running.raw()
        connection.send(bytes(1001))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert other.infer(OBSERVATION)["force"].shape == (1, 2)

    def test_a_fault_of_its_own_tells_nothing_of_the_inside(
        self, running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A sentence, code 1011, and the traceback in the server's log alone."""

        def fail(self: Policy, message: dict) -> dict:
            raise KeyError("secret")

        client = running.openpi()
        monkeypatch.setattr(Policy, "answer", fail)
        with pytest.raises(RuntimeError) as refused:
            client.infer(OBSERVATION)
        assert "its log says why" in str(refused.value)
        assert "secret" not in str(refused.value)
        with pytest.raises(ConnectionClosed) as closed:
            client.infer(OBSERVATION)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert "KeyError: 'secret'" in caplog.text
        monkeypatch.undo()
        assert running.openpi().infer(OBSERVATION)["force"].shape == (1, 2)


class TestClientsApart:
    @pytest.fixture
    def slow(self, serve: Serve, write: Callable[..., Path]) -> Running:
        """A server of whose model an adaptation may take many steps on many samples: a second or so."""
        return serve(bundles={"linear": write(inner_steps=10_000)}, limits=Limits(samples=2**11))

    LONG = adapting(draw(1, 2**11, 3), draw(2, 2**11, 2))

    def test_a_long_request_blocks_nobody_else(self, slow: Running) -> None:
        """While one client adapts, another infers and the probes answer."""
        adapter, other = slow.openpi(), slow.openpi()
        with ThreadPoolExecutor(1) as pool:
            adaptation = pool.submit(adapter.infer, self.LONG)
            assert eventually(lambda: busy(slow))
            other.infer(OBSERVATION)
            assert slow.get("healthz") == (200, "OK\n")
            assert not adaptation.done()
            assert adaptation.result()["accepted"]

    def test_requests_of_one_client_are_answered_in_order(self, running: Running, linear: Any) -> None:
        """Also if it does not wait: what is sent after an adaptation sees it."""
        connection, x = running.raw(), draw(3, 4, 3)
        for request in (named(x), adapting(*SUPPORT), named(x), {"__msr__": "reset"}, named(x)):
            connection.send(encode(request))
        replies = [decode(connection.recv(decode=False)) for _ in range(5)]
        for reply, v in zip(replies[::2], (linear.v0, linear.adapt(*SUPPORT, 3), linear.v0), strict=True):
            np.testing.assert_allclose(reply["force"], linear.predict(v, x), rtol=1e-4, atol=1e-5)

    @pytest.fixture
    def deaf(self, serve: Serve) -> Iterator[Callable[..., Running]]:
        """A function that starts a server and a client that sends requests and reads no reply."""
        with contextlib.ExitStack() as stack:

            def started(**limits: float) -> Running:
                running = serve(limits=Limits(samples=2**16, **limits))  # pyright: ignore[reportArgumentType]
                client = stack.enter_context(socket.create_connection(("127.0.0.1", running.server.port)))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(_handshake("Sec-WebSocket-Version: 13"))
                client.settimeout(0.5)
                request = _frame(encode(named(draw(0, 2**16, 3))))
                with contextlib.suppress(TimeoutError, ConnectionError):
                    while True:  # until neither side's buffers hold more
                        client.sendall(request)
                return running

            yield started

    def test_one_that_does_not_read_blocks_nobody(
        self, deaf: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither other clients nor the end of the server."""
        monkeypatch.setattr(msr_runtime.server, "_GRACE", 0.2)
        running = deaf(reply_seconds=1000)
        assert busy(running)
        assert running.openpi().infer(OBSERVATION)["force"].shape == (1, 2)
        running.stop()

    def test_one_that_does_not_read_is_cut_off(self, deaf: Callable[..., Running]) -> None:
        running = deaf(reply_seconds=0.1)
        assert eventually(lambda: running.figure("msr_connections") == 0)
        assert running.figure('msr_requests_total{kind="infer",model="linear",outcome="unread"}') == 1

    def test_several_models(self, serve: Serve, bundle_path: Path, write: Callable[..., Path]) -> None:
        """The path chooses; none is the first; an unknown one is 404 and names those that are there."""
        running = serve(bundles={"a": bundle_path, "b": write(rate_hz=7.0)})
        rates = {path: running.openpi(path).get_server_metadata()["rate_hz"] for path in ("", "a", "b", "b?x=1")}
        assert rates == {"": 100.0, "a": 100.0, "b": 7.0, "b?x=1": 7.0}
        with pytest.raises(InvalidStatus, match="404"):
            running.openpi("c")
        assert running.get("c") == (404, "there is no model at this path; there are /a, /b\n")


class TestAccess:
    @pytest.mark.parametrize(
        "options", [{}, {"api_key": "wrong"}, {"api_key": TOKEN + "x"}, {"api_key": "\u00fc" * 20}]
    )
    def test_without_the_token_nobody_comes_in(self, serve: Serve, options: dict) -> None:
        running = serve(token=TOKEN)
        with pytest.raises((InvalidStatus, UnicodeError), match=r"401|ascii"):
            running.openpi(**options)
        assert running.get("metrics")[0] == running.get("linear")[0] == running.get("none")[0] == 401

    def test_with_the_token(self, serve: Serve) -> None:
        """As openpi's client sends it, or as a Bearer; probes need none."""
        running = serve(token=TOKEN)
        assert running.openpi(api_key=TOKEN).infer(OBSERVATION)["force"].shape == (1, 2)
        running.raw(additional_headers={"Authorization": f"Bearer {TOKEN}"})
        assert running.get("metrics", Authorization=f"bearer {TOKEN}")[0] == 200
        assert running.get("healthz")[0] == running.get("readyz")[0] == 200

    @pytest.mark.parametrize(
        ("sent", "admitted"),
        [
            ([f"Bearer {TOKEN}"], True),
            ([f"api-key  {TOKEN} "], True),
            ([f"Basic {TOKEN}"], False),
            ([TOKEN], False),
            (["Bearer"], False),
            ([], False),
            ([f"Bearer {TOKEN}"] * 2, False),
            (["Bearer \udcff"], False),
        ],
    )
    def test_headers(self, sent: list[str], admitted: bool) -> None:
        assert admits(TOKEN, sent) is admitted
        assert admits(None, sent)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "robot.local"])
    def test_other_machines_need_a_token(self, host: str) -> None:
        with pytest.raises(ServerError, match="reached from other machines"):
            check_address(host, 8000, None)
        check_address(host, 8000, TOKEN)

    def test_this_machine_needs_none(self) -> None:
        for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
            check_address(host, 0, None)

    @pytest.mark.parametrize("token", ["", "short", "with spaces in between", "tab\tsixteen-characters", "ü" * 20])
    def test_weak_tokens(self, token: str) -> None:
        with pytest.raises(ServerError, match="16 or more ASCII characters"):
            check_address("127.0.0.1", 8000, token)

    @pytest.mark.parametrize("names", [[], [""], ["a/b"], ["healthz"], ["metrics"], ["a b"], [".."], ["a" * 65]])
    def test_names(self, names: list[str]) -> None:
        with pytest.raises(ServerError):
            check_names(names)

    def test_limits_and_ports(self) -> None:
        with pytest.raises(ServerError, match="samples is 0"):
            Limits(samples=0)
        for port in (-1, 65536):
            with pytest.raises(ServerError, match="the port is"):
                check_address("127.0.0.1", port, None)

    def test_web_pages_are_refused(self, running: Running) -> None:
        """A browser names the page's origin; a page could otherwise drive the robot of whoever looks at it."""
        with pytest.raises(InvalidStatus, match="403"):
            running.raw(origin="http://localhost")

    def test_connections(self, serve: Serve) -> None:
        """One too many is told to try again; it may when another one has left."""
        running = serve(limits=Limits(connections=2))
        first, _ = running.openpi(), running.openpi()
        with pytest.raises(ConnectionClosed) as closed:
            running.openpi()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        assert running.get("healthz")[0] == 200
        first._ws.close()
        assert eventually(lambda: running.figure("msr_connections") == 1)
        running.openpi()

    def test_slow_handshakes(self, serve: Serve) -> None:
        """A client that does not say what it wants is cut off, and holds no place."""
        running = serve(limits=Limits(handshake_seconds=0.2, connections=1))
        with socket.create_connection(("127.0.0.1", running.server.port), timeout=30) as loris:
            loris.sendall(b"GET / HTTP/1.1\r\nHost:")
            running.openpi()
            while loris.recv(4096):
                pass

    @pytest.mark.parametrize(
        "request_line", [b"\x16\x03\x01\x02\x00\x01", b"POST / HTTP/1.1\r\n\r\n", b"GET /\r\n\r\n"]
    )
    def test_other_protocols(self, running: Running, request_line: bytes) -> None:
        with socket.create_connection(("127.0.0.1", running.server.port), timeout=30) as stranger:
            stranger.sendall(request_line + b"\r\n\r\n")
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
        assert running.get("readyz")[0] == 200

    def test_idle_connections(self, serve: Serve) -> None:
        """They are closed with 1001 and the reason."""
        client = serve(limits=Limits(idle_seconds=0.1)).raw()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "no request came in 0.1 s")


class TestProbes:
    def test_ready_once_models_are_loaded(self, serve: Serve) -> None:
        """Until then it lives, and takes no client."""
        running = serve(load=False)
        assert running.get("healthz") == (200, "OK\n")
        assert running.get("readyz") == (503, "models are being loaded\n")
        with pytest.raises(InvalidStatus, match="503"):
            running.openpi()
        running.call(running.server.load())
        assert running.get("readyz") == (200, "OK\n")

    def test_a_model_that_does_not_load(self, serve: Serve, bundle_path: Path) -> None:
        """It is never ready with some of its models."""
        running = serve(load=False, bundles={"a": bundle_path, "b": bundle_path / "none"})
        with pytest.raises(BundleError):
            running.call(running.server.load())
        assert running.get("readyz")[0] == 503

    def test_metrics(self, running: Running) -> None:
        """Requests by kind and outcome, how long they took, connections, adaptations."""
        client = running.openpi()
        client.infer(OBSERVATION)
        client.infer(adapting(*SUPPORT))
        client.infer(adapting(SUPPORT[0] * np.float32(1e18), SUPPORT[1]))
        with pytest.raises(RuntimeError):
            client.infer({"x": 1})
        with pytest.raises(RuntimeError):
            client.infer([])  # pyright: ignore[reportArgumentType]
        wanted = {
            'msr_requests_total{kind="infer",model="linear",outcome="ok"}': 1,
            'msr_requests_total{kind="infer",model="linear",outcome="refused"}': 1,
            'msr_requests_total{kind="adapt",model="linear",outcome="ok"}': 2,
            'msr_requests_total{kind="unknown",model="linear",outcome="refused"}': 1,
            'msr_adaptations_total{model="linear",outcome="accepted"}': 1,
            'msr_adaptations_total{model="linear",outcome="refused"}': 1,
            'msr_request_seconds_count{kind="infer",model="linear"}': 2,
            "msr_connections": 1,
        }
        for name, value in wanted.items():
            assert eventually(lambda name=name, value=value: running.figure(name) == value), name


class TestTheEnd:
    def test_requests_in_flight_are_answered(self, serve: Serve, write: Callable[..., Path]) -> None:
        """Then every connection is closed with 1001; meanwhile the server is not ready and takes no client."""
        running = serve(bundles={"linear": write(inner_steps=10_000)}, limits=Limits(samples=2**11))
        worker, idle = running.openpi(), running.openpi()
        with ThreadPoolExecutor(2) as pool:
            adaptation = pool.submit(worker.infer, TestClientsApart.LONG)
            assert eventually(lambda: busy(running))
            end = pool.submit(running.stop)
            assert eventually(lambda: running.server._stopping)
            assert running.get("readyz") == (503, "the server is stopping\n")
            with pytest.raises(InvalidStatus, match="503"):
                running.openpi()
            assert not adaptation.done()
            assert adaptation.result()["accepted"]
            end.result()
        for client in (worker, idle):
            with pytest.raises(ConnectionClosed) as closed:
                client._ws.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server is stopping")

    def test_a_port_in_use(self, running: Running, bundle_path: Path) -> None:
        async def start() -> None:
            async with PolicyServer({"linear": bundle_path}, port=running.server.port):
                pass

        with pytest.raises(ServerError, match="another program has the port"):
            asyncio.run(start())


def _handshake(*headers: str) -> bytes:
    lines = ("GET / HTTP/1.1", "Host: robot", "Upgrade: websocket", "Connection: Upgrade", *headers)
    return "\r\n".join([*lines, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]).encode()


def _frame(payload: bytes) -> bytes:
    """A binary frame with a mask of zeros."""
    return b"\x82\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


SERVING = ("_serving", "access", "metrics", "policy", "server", "wire", "commands.serve")


def test_serving_imports_no_training_package() -> None:
    """Nor does anything that it imports."""
    training = {"torch", "onnx", "onnxscript", "gymnasium", "mujoco", "tensorboard"}
    imports = "; ".join(f"import msr_runtime.{name}" for name in SERVING)
    code = f"import json, sys; {imports}; print(json.dumps([*sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not training & {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("name", SERVING)
def test_serving_knows_no_pickle(name: str) -> None:
    """None of its modules imports what could run code out of bytes."""
    source = Path(msr_runtime.server.__file__).parent / f"{name.replace('.', '/')}.py"
    imported = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {node.module} | {alias.name for alias in node.names}
    assert imported
    assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "msgpack_numpy"}
