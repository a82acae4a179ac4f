"""A policy server that speaks openpi's websocket protocol, with adaptation as three further messages.

One frame with metadata on connecting; then each binary frame from the client is answered by one, in order. A request
that is refused is answered by a text frame with one sentence, which openpi's client raises, and the connection goes on.
Every connection has an adaptation of its own, which ends with it. `/healthz`, `/readyz` and `/metrics` answer plain
GETs.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple, Self

from msr_runtime._serving import CloseCode, ConnectionClosed, Request, Response, ServerConnection, serve
from msr_runtime.access import Limits, admits, check_address, check_names
from msr_runtime.errors import InputError, ServerError, WireError
from msr_runtime.metrics import CONTENT_TYPE, Metrics
from msr_runtime.model import AdaptiveModel
from msr_runtime.policy import Policy, check_servable, describe, kind_of
from msr_runtime.wire import decode, encode

_GRACE = 5.0  # seconds that requests in flight and clients that do not read have when the server stops
_STOPPING = "the server is stopping"
logger = logging.getLogger("msr_runtime.server")
_quiet = logging.getLogger("msr_runtime.server.websockets")  # it would log a traceback for every port scan
_quiet.setLevel(logging.CRITICAL)


class PolicyServer:
    """Serves bundles: `async with PolicyServer({"ring": "runs/ring/bundle"}) as server: await server.load()`.

    Inside the `async with` it listens, and answers `/healthz`; once `load` is done it takes clients. At the end it lets
    requests in flight finish and closes every connection with code 1001.
    """

    def __init__(
        self,
        bundles: Mapping[str, str | os.PathLike[str]],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        limits: Limits | None = None,
        trusted_keys: Sequence[str | os.PathLike[str]] | None = None,
    ) -> None:
        """Prepare a server.

        Args:
            bundles: Name to bundle; a client chooses by the path `/NAME`, and gets the first at `/`.
            host: The address to listen at; one that other machines reach needs a token.
            port: The port; 0 takes a free one.
            token: What clients must send as `Authorization: Bearer TOKEN` or `Api-Key TOKEN`; None lets everyone in.
            limits: What one client may take.
            trusted_keys: PEM files of Ed25519 public keys: only bundles that one of them signed are served.

        Raises:
            ServerError: If a name, the address or the token is not fit.
        """
        self._bundles, self._host, self._port = dict(bundles), host, port
        self._token, self._limits, self._trusted_keys = token, limits or Limits(), trusted_keys
        check_names(self._bundles)
        check_address(host, port, token)
        self._models: dict[str, AdaptiveModel] = {}
        self._clients: set[_Client] = set()
        self._metrics = Metrics(lambda: len(self._clients))
        self._pool = ThreadPoolExecutor(self._limits.connections, "msr-policy")
        self._ready = self._stopping = False

    async def __aenter__(self) -> Self:
        limits = self._limits
        try:
            self._server = await serve(
                self._handle,
                self._host,
                self._port,
                process_request=self._respond,
                origins=[None],  # a web page that the machine's user opens sends one, and must not drive the robot
                compression=None,
                server_header=None,
                open_timeout=limits.handshake_seconds,
                close_timeout=_GRACE,
                max_size=limits.message_bytes,
                max_queue=1,
                logger=_quiet,
            )
        except OSError as error:
            raise ServerError(
                f"cannot listen at {self._host} port {self._port} ({error.strerror or error}); another program has the "
                "port, or this machine has no such address"
            ) from error
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def load(self) -> None:
        """Load and self-test every model, then take clients.

        Raises:
            MsrError: If a model does not load, or has a field whose name the protocol needs.
        """
        loop = asyncio.get_running_loop()
        for name, path in self._bundles.items():
            load = partial(AdaptiveModel.load, path, trusted_keys=self._trusted_keys)
            model = await loop.run_in_executor(self._pool, load)
            check_servable(model)
            self._models[name] = model
            host = f"[{self._host}]" if ":" in self._host else self._host
            logger.info("'%s' is at ws://%s:%d/%s, bundle %s", name, host, self.port, name, model.bundle.digest)
        self._ready = True
        logger.info("ready")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        logger.info("stopping")
        dismissals = [asyncio.create_task(client.dismiss()) for client in self._clients]
        if dismissals:
            await asyncio.wait(dismissals, timeout=_GRACE)
        for client in self._clients:
            client.websocket.transport.abort()
        self._server.close(reason=_STOPPING)
        await self._server.wait_closed()
        await asyncio.gather(*dismissals)
        self._pool.shutdown()

    def _respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain GET, or refuse a client; None lets it in."""
        path = _path(request)
        if path == "healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if path == "readyz":
            return self._unready(connection) or connection.respond(HTTPStatus.OK, "OK\n")
        if not admits(self._token, request.headers.get_all("Authorization")):
            refused = connection.respond(HTTPStatus.UNAUTHORIZED, "a token is wanted, and none or a wrong one came\n")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        if path == "metrics":
            response = connection.respond(HTTPStatus.OK, self._metrics.text())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = CONTENT_TYPE
            return response
        if path and path not in self._bundles:
            models = ", ".join(f"/{name}" for name in self._bundles)
            return connection.respond(HTTPStatus.NOT_FOUND, f"there is no model at this path; there are {models}\n")
        return self._unready(connection)

    def _unready(self, connection: ServerConnection) -> Response | None:
        if self._ready and not self._stopping:
            return None
        return connection.respond(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{_STOPPING if self._stopping else 'models are being loaded'}\n"
        )

    async def _handle(self, websocket: ServerConnection) -> None:
        """Serve one client until one of the two leaves."""
        if len(self._clients) >= self._limits.connections:
            await websocket.close(CloseCode.TRY_AGAIN_LATER, "as many clients as allowed are connected")
            return
        name = _path(websocket.request) or next(iter(self._bundles))
        client = _Client(name, websocket, Policy(self._models[name], self._limits.samples), asyncio.Lock())
        self._clients.add(client)
        logger.info("client %s came to '%s'", websocket.remote_address, name)
        try:
            await websocket.send(encode(self._metadata(client)))
            await self._converse(client)
        except ConnectionClosed:
            pass
        except Exception:
            logger.exception("a connection to '%s' failed", name)
            await websocket.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._clients.discard(client)
            logger.info("client %s left '%s'", websocket.remote_address, name)

    async def _converse(self, client: "_Client") -> None:
        websocket, loop, idle = client.websocket, asyncio.get_running_loop(), self._limits.idle_seconds
        timing: dict[str, float] = {}
        while True:
            try:
                async with asyncio.timeout(idle):
                    message = await websocket.recv()
            except TimeoutError:
                await websocket.close(CloseCode.GOING_AWAY, f"no request came in {idle:g} s")
                return
            begin = perf_counter()
            async with client.lock:
                kind, outcome, reply = await loop.run_in_executor(self._pool, self._answer, client, message, timing)
                try:
                    async with asyncio.timeout(self._limits.reply_seconds):
                        await websocket.send(reply)
                except TimeoutError:
                    outcome = "unread"
                    websocket.transport.abort()  # a close would wait behind the reply
                seconds = perf_counter() - begin
                timing = {"prev_total_ms": 1e3 * seconds}
                self._metrics.request(client.name, kind, outcome, seconds)
                if outcome == "failed":
                    await websocket.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _answer(
        self, client: "_Client", message: bytes | str, timing: dict[str, float]
    ) -> tuple[str, str, bytes | str]:
        """What one message asked for, what came of it and the frame to reply with: text, if it is no reply."""
        kind = "unknown"
        try:
            if isinstance(message, str):
                raise WireError("a text frame came, but requests are binary frames of msgpack")
            request = decode(message)
            kind = kind_of(request)
            begin = perf_counter()
            reply = client.policy.answer(request)
            if kind == "adapt":
                self._metrics.adaptation(client.name, accepted=reply["accepted"])
            return kind, "ok", encode(reply | {"server_timing": {"infer_ms": 1e3 * (perf_counter() - begin)} | timing})
        except (WireError, InputError) as error:
            return kind, "refused", str(error)
        except Exception:
            logger.exception("a request '%s' to '%s' failed", kind, client.name)
            return kind, "failed", "the server failed to answer, by a fault of its own; its log says why"

    def _metadata(self, client: "_Client") -> dict[str, Any]:
        """What a client is told on connecting."""
        names = {"model": client.name, "models": list(self._bundles)}
        return names | describe(self._models[client.name]) | {"limits": asdict(self._limits)}


class _Client(NamedTuple):
    """One connection, the policy that is its own, and a lock that is held while a request is in flight."""

    name: str
    websocket: ServerConnection
    policy: Policy
    lock: asyncio.Lock

    async def dismiss(self) -> None:
        """Close the connection once the request in flight is answered."""
        async with self.lock:
            await self.websocket.close(CloseCode.GOING_AWAY, _STOPPING)


def _path(request: Request | None) -> str:
    """The path that was asked for, without its first slash and its query."""
    return request.path.partition("?")[0].removeprefix("/") if request else ""
