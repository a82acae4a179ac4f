"""What a policy server costs: round trips through openpi's client over loopback, beside predict in the same process.

`msr serve` and a server that only sends back a prepared reply of the same size run in processes of their own. They
and predict take turns. Then eight clients, each a process, ask at once: at a robot's pace, and as fast as they can.
Finally, one client asks while fifteen others adapt without a pause.
"""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypedDict

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded

import numpy as np
import tyro
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from store import RUNTIME, Output, begin, keep, settled
from tables import serving as serving_lines
from terminal import print_lines
from websockets.asyncio.server import ServerConnection, serve

from msr_runtime import AdaptiveModel
from msr_runtime.serving.wire import encode
from msr_runtime.task import Field, field_slices

CLIENTS = 8
ADAPTING = 15
HZ = 50.0
_SPAWN = get_context("spawn")


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    bundle: Path = Path("runs/demo/bundle")
    """The bundle that is served."""
    rounds: int = 2000
    """Requests of a client; a client at a robot's pace sends a tenth."""


STORED = {"serving": Options()}
"""The stored result, and what it measures."""


class Trips(TypedDict):
    """How long one observation took to become an action."""

    who: str
    clients: int
    p50_seconds: float
    p99_seconds: float
    requests_per_second: float
    """Of all clients together."""


def main(options: Options) -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore", r"connect\(\) must be used", DeprecationWarning)  # openpi's client does
    options = settled(options, STORED)
    begun = begin(options, (*RUNTIME, "msr_runtime/serving", "benchmarks/serving.py"), seeds=())
    model = AdaptiveModel.load(options.bundle)
    x = model.bundle.golden().x[0]
    observation = _named(model.manifest.inputs, x)
    with _served(options.bundle) as url, _echo(_reply(url, observation)) as echo:
        client, floor = _connect(url), _connect(echo)
        if not np.array_equal(client.infer(observation)["actions"], model.predict(x)[None]):
            raise SystemExit("error: the server's action is not that of predict")
        calls: dict[str, Callable[[], object]] = {
            "predict, same process": lambda: model.predict(x),
            "a server that computes nothing": lambda: floor.infer(observation),
            "msr serve": lambda: client.infer(observation),
        }
        seconds = np.empty((options.rounds, len(calls)))
        for turn in range(-options.rounds // 10, options.rounds):  # the negative rounds warm up
            for column, call in enumerate(calls.values()):
                began = time.perf_counter()
                call()
                seconds[max(turn, 0), column] = time.perf_counter() - began
        rows = [_trips(who, column[None], column.sum()) for who, column in zip(calls, seconds.T, strict=True)]
        rows.append(_crowd(f"msr serve, {HZ:g} Hz each", url, observation, options.rounds // 10, HZ))
        rows.append(_crowd("msr serve, without a pause", url, observation, options.rounds, None))
        rows.append(_beside_adapting(url, model, client, observation, options.rounds))
    print_lines(serving_lines(rows), f"{model.manifest.name}: from an observation to its action")
    keep(options, begun, rows)


def _named(fields: tuple[Field, ...], x: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of one sample, or of several `(samples, ...)`."""
    lead, slices = x.shape[:-1], field_slices(fields)
    return {field.name: x[..., slices[field.name]].reshape(*lead, *field.shape) for field in fields}


def _connect(url: str) -> WebsocketClientPolicy:
    return WebsocketClientPolicy(url)


def _reply(url: str, observation: dict[str, np.ndarray]) -> bytes:
    client = _connect(url)
    client.infer(observation)
    reply = encode(client.infer(observation))  # the second holds all timings
    client._ws.close()
    return reply


@contextmanager
def _served(bundle: Path) -> Iterator[str]:
    """`msr serve` in a process of its own, and its address."""
    command = [sys.executable, "-m", "msr_runtime.cli", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        log = ""
        for line in process.stderr:
            log += line
            if line.endswith(" ready\n"):
                break
        if (found := re.search(r"ws://[^,\s]+", log)) is None:
            raise SystemExit(f"error: msr serve did not start: {log}")
        yield found[0]
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def _echo(reply: bytes) -> Iterator[str]:
    """The floor: the same server library, framing and sizes, and nothing behind them."""
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve_echo, args=(there, reply), daemon=True)
    process.start()
    try:
        yield f"ws://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve_echo(pipe: Connection, reply: bytes) -> None:
    async def answer(websocket: ServerConnection) -> None:
        await websocket.send(encode({}))
        async for _ in websocket:
            await websocket.send(reply)

    async def run() -> None:
        async with serve(answer, "127.0.0.1", 0, compression=None) as server:
            pipe.send(server.sockets[0].getsockname()[1])
            await server.wait_closed()

    asyncio.run(run())


def _crowd(who: str, url: str, observation: dict[str, np.ndarray], requests: int, hz: float | None) -> Trips:
    """Eight processes that begin together."""
    start = _SPAWN.Barrier(CLIENTS)
    results: Any = _SPAWN.SimpleQueue()
    arguments = (start, results, url, observation, requests, hz)
    processes = [_SPAWN.Process(target=_ask, args=arguments, daemon=True) for _ in range(CLIENTS)]
    for process in processes:
        process.start()
    trips = np.array([results.get() for _ in processes])
    for process in processes:
        process.join()
    return _trips(who, trips[:, 1:], trips[:, 0].max())


def _ask(
    start: Any, results: Any, url: str, observation: dict[str, np.ndarray], requests: int, hz: float | None
) -> None:
    """One client: how long all took, then each request."""
    warnings.filterwarnings("ignore", r"connect\(\) must be used", DeprecationWarning)
    client, seconds = _connect(url), np.empty(1 + requests)
    client.infer(observation)
    start.wait()
    begin = time.perf_counter() + (np.random.default_rng().uniform(0, 1 / hz) if hz else 0)  # robots keep no step
    for request in range(requests):
        if hz:
            time.sleep(max(0, begin + request / hz - time.perf_counter()))
        began = time.perf_counter()
        client.infer(observation)
        seconds[1 + request] = time.perf_counter() - began
    seconds[0] = time.perf_counter() - begin
    client._ws.close()
    results.put(seconds)


def _beside_adapting(
    url: str, model: AdaptiveModel, client: WebsocketClientPolicy, observation: dict[str, np.ndarray], requests: int
) -> Trips:
    """One client without a pause, while fifteen in another process adapt to the bundle's golden example."""
    golden, manifest = model.bundle.golden(), model.manifest
    support = {
        "__msr__": "adapt",
        "support_x": _named(manifest.inputs, golden.support_x),
        "support_y": _named(manifest.outputs, golden.support_y),
    }
    ready, stop = _SPAWN.Event(), _SPAWN.Event()
    others = _SPAWN.Process(target=_adapt, args=(ready, stop, url, support), daemon=True)
    others.start()
    ready.wait()
    seconds = np.empty(requests)
    begin = time.perf_counter()
    for request in range(requests):
        began = time.perf_counter()
        client.infer(observation)
        seconds[request] = time.perf_counter() - began
    whole = time.perf_counter() - begin
    stop.set()
    others.join()
    return _trips(f"msr serve, beside {ADAPTING} that adapt", seconds[None], whole)


def _adapt(ready: Any, stop: Any, url: str, support: dict[str, Any]) -> None:
    """Fifteen clients, each a thread that waits for the server nearly all the time."""
    warnings.filterwarnings("ignore", r"connect\(\) must be used", DeprecationWarning)

    def adapt(policy: WebsocketClientPolicy) -> None:
        while not stop.is_set():
            policy.infer(support)
        policy._ws.close()

    policies = [_connect(url) for _ in range(ADAPTING)]
    for policy in policies:
        policy.infer(support)
    threads = [threading.Thread(target=adapt, args=(policy,)) for policy in policies]
    for thread in threads:
        thread.start()
    ready.set()
    for thread in threads:
        thread.join()


def _trips(who: str, seconds: np.ndarray, whole: float) -> Trips:
    """The figures of `(clients, requests)`, done in `whole` seconds."""
    p50, p99 = np.percentile(seconds, [50, 99]).tolist()
    rate = float(seconds.size / whole)
    return Trips(who=who, clients=len(seconds), p50_seconds=p50, p99_seconds=p99, requests_per_second=rate)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
