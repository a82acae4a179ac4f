"""Fixtures of the serving tests: a running server, and messages for the linear bundle."""

import asyncio
import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.sync.client import ClientConnection, connect

from msr_runtime.serving.server import PolicyServer


def _draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _named(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"position": x[..., :2], "angle": x[..., 2:]}


def _adapting(x: np.ndarray, y: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"__msr__": "adapt", "support_x": _named(x), "support_y": {"force": y}} | more


def _eventually(condition: Callable[[], object]) -> bool:
    for _ in range(12_000):  # far longer than any condition takes, so that a busy machine fails no test
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    """A function that draws standard normal float32 numbers: `draw(seed, *shape)`."""
    return _draw


@pytest.fixture(scope="session")
def named() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function that splits an observation `(..., 3)` of the linear bundle into its fields."""
    return _named


@pytest.fixture(scope="session")
def adapting() -> Callable[..., dict[str, Any]]:
    """A function that makes a request to adapt the linear bundle to x `(shots, 3)` and y `(shots, 2)`."""
    return _adapting


@pytest.fixture(scope="session")
def observation() -> dict[str, np.ndarray]:
    """One observation of the linear bundle: `named(draw(3, 3))`."""
    return _named(_draw(3, 3))


@pytest.fixture(scope="session")
def support() -> tuple[np.ndarray, np.ndarray]:
    """A support set of six shots for the linear bundle."""
    return _draw(1, 6, 3), _draw(2, 6, 2)


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object]], bool]:
    """A function that waits up to two minutes for a condition, and returns whether it became true."""
    return _eventually


class Running:
    """A server in a thread of its own. Its clients are closed with it."""

    def __init__(self, *, load: bool = True, **options: Any) -> None:
        """Start the server at a free port; without `load` it listens but has no model."""
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
        """Run a coroutine on the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def openpi(self, path: str = "", **options: Any) -> WebsocketClientPolicy:
        """Connect openpi's own client."""
        client = WebsocketClientPolicy(f"ws://{self.url}/{path}", **options)
        self._clients.callback(client._ws.close)
        return client

    def raw(self, **options: Any) -> ClientConnection:
        """Connect a plain websocket, which can send any bytes; its metadata frame is read."""
        connection = self._clients.enter_context(connect(f"ws://{self.url}", compression=None, **options))
        connection.recv()
        return connection

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Send a plain GET; return its status and text."""
        try:
            request = urllib.request.Request(f"http://{self.url}/{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def figure(self, name: str) -> float:
        """Read one metric from /metrics; 0 if it was not counted yet."""
        lines = [line.rpartition(" ") for line in self.get("metrics")[1].splitlines()]
        return next((float(value) for key, _, value in lines if key == name), 0.0)

    def busy(self) -> bool:
        """Whether a request is in flight."""
        return any(client.lock.locked() for client in list(self.server._clients))

    def stuck(self) -> bool:
        """Whether a reply waits for a client that does not read."""
        return any(client.websocket.paused for client in list(self.server._clients))

    def stop(self) -> None:
        """Stop the server; a second call does nothing."""
        if self._thread.is_alive():
            self.call(self.server.__aexit__(None, None, None))
            self._clients.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@pytest.fixture
def serve(bundle_path: Path) -> Iterator[Callable[..., Running]]:
    """A function that serves the reference bundle, or other bundles; the servers stop at the end of the test."""
    with contextlib.ExitStack() as stack:

        def started(**options: Any) -> Running:
            options.setdefault("bundles", {"linear": bundle_path})
            running = Running(**options)
            stack.callback(running.stop)
            return running

        yield started


@pytest.fixture
def running(serve: Callable[..., Running]) -> Running:
    """A server of the reference bundle."""
    return serve()
