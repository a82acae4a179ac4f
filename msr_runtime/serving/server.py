"""PolicyServer: openpi's websocket protocol, and three more messages to adapt, to reset and to ask for the status.

When a client connects, the server sends one frame with metadata. Then it answers each binary frame of the client with
one frame, in order. A refused request is answered with a text frame that holds one sentence; openpi's client raises it
as an error, and the connection stays open. Each connection has an adaptation of its own, which ends with the
connection. Plain GET requests to `/healthz`, `/readyz` and `/metrics` are answered on the same port.
"""

import asyncio
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple, Self

from msr_runtime.adaptation.backend import Engine
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.errors import ServerError
from msr_runtime.serving._packages import CloseCode, ConnectionClosed, Request, Response, ServerConnection, State, serve
from msr_runtime.serving.access import Limits, admits, check_address, check_names
from msr_runtime.serving.connection import Handshakes, LimitedConnection
from msr_runtime.serving.metrics import CONTENT_TYPE, Metrics
from msr_runtime.serving.policy import Policy, check_servable, describe
from msr_runtime.serving.wire import encode
from msr_runtime.serving.workers import Workers

_GRACE = 5.0
"""Seconds that the server waits, when it stops, for requests in flight and for clients that do not read."""
_ADAPTING = 0.8
"""Part of these seconds that adaptations get. The rest is for their replies."""
_STOPPING = "the server is stopping"
logger = logging.getLogger("msr_runtime.serving")
_quiet = logging.getLogger("msr_runtime.serving.websockets")
_quiet.setLevel(logging.CRITICAL)  # websockets would log a traceback for every port scan


class PolicyServer:
    """Serves bundles to clients of openpi's protocol.

    Inside the `async with` the server listens and answers `/healthz`. After `load` it accepts clients. At the end of
    the `async with` it finishes the requests in flight and closes every connection with code 1001.

    Example:
        >>> import asyncio
        >>> from msr_runtime import PolicyServer
        >>> async def serve():
        ...     async with PolicyServer({"ring": bundle}, port=0) as server:  # port 0: any free port
        ...         await server.load()
        ...         return server.port > 0  # a real program waits here until it is told to stop
        >>> asyncio.run(serve())
        True
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
        ignore: Collection[str] = (),
        engine: Engine = "onnx",
    ) -> None:
        """Prepare a server.

        Args:
            bundles: Name to folder of a bundle. A client chooses a bundle by the path `/NAME`; at `/` it gets the first
                bundle.
            host: The address to listen at. An address that other machines can reach needs a token.
            port: The port. 0 takes any free port; the attribute `port` tells which.
            token: Clients must send it as the header `Authorization: Bearer TOKEN` or `Authorization: Api-Key TOKEN`.
                None admits every client.
            limits: Limits for one client. Default: `Limits()`.
            trusted_keys: PEM files of Ed25519 public keys. Only bundles signed by one of these keys are served. None
                serves unsigned bundles too.
            ignore: Keys that may stand beside the fields of an observation, and are not read: for example `prompt`,
                which programs for openpi send. Other unknown keys are refused.
            engine: As in `AdaptiveModel.load`, for all bundles.

        Raises:
            ServerError: If a name, the address, the port or the token is not valid.
        """
        self._bundles, self._host, self._port = dict(bundles), host, port
        self._token, self._limits, self._trusted_keys = token, limits or Limits(), trusted_keys
        check_names(self._bundles)
        check_address(host, port, token)
        self._models: dict[str, AdaptiveModel] = {}
        self._clients: set[_Client] = set()
        self._ignored = tuple(ignore)
        self._engine: Engine = engine
        self._metrics = Metrics(lambda: len(self._clients))
        self._handshakes = Handshakes(self._limits.handshakes, self._metrics.handshake_dropped)
        # Models run in threads, so that the event loop answers the probes and other clients meanwhile.
        self._workers = Workers(self._limits)
        self._ready = self._stopping = False

    async def __aenter__(self) -> Self:
        limits = self._limits
        try:
            self._server = await serve(
                self._handle,
                self._host,
                self._port,
                process_request=self._respond,
                # Browsers always send an origin. Refuse them: otherwise any web page that somebody opens on this
                # machine could drive the robot.
                origins=[None],
                compression=None,
                server_header=None,
                open_timeout=limits.handshake_seconds,
                close_timeout=_GRACE,
                max_size=limits.message_bytes,
                max_queue=1,  # frames that wait in memory; while one waits, the socket is not read
                logger=_quiet,
                # any callable will do, not only a class
                create_connection=partial(  # pyright: ignore[reportArgumentType]
                    LimitedConnection, handshakes=self._handshakes, pings=limits.pings
                ),
            )
        except OSError as error:
            raise ServerError(
                f"cannot listen at {self._host} port {self._port} ({error.strerror or error}); another program uses "
                "the port, or this machine has no such address; choose another port or host"
            ) from error
        self.port: int = self._server.sockets[0].getsockname()[1]  # differs from the argument if that was 0
        return self

    async def load(self) -> None:
        """Load and self-test every model, then accept clients.

        Raises:
            MsrError: If a model cannot be loaded, or a field has the same name as a key of the protocol.
        """
        for name, path in self._bundles.items():
            load = partial(AdaptiveModel.load, path, trusted_keys=self._trusted_keys, engine=self._engine)
            model = await self._workers.run(load)
            check_servable(model, self._ignored)
            self._models[name] = model
            host = f"[{self._host}]" if ":" in self._host else self._host
            logger.info("'%s' is at ws://%s:%d/%s, bundle %s", name, host, self.port, name, model.bundle.digest)
        self._ready = True
        logger.info("ready")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        if error is None:
            logger.info("stopping")
        self._workers.stop(_ADAPTING * _GRACE)
        dismissals = [asyncio.create_task(client.dismiss()) for client in self._clients]
        if dismissals:  # asyncio.wait refuses an empty list
            await asyncio.wait(dismissals, timeout=_GRACE)
        # Clients still connected do not read, or their request takes too long: a polite close would wait for them.
        for client in self._clients:
            client.websocket.transport.abort()
        self._server.close(reason=_STOPPING)
        await self._server.wait_closed()
        await asyncio.gather(*dismissals)
        self._workers.end()

    def _respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain GET, or refuse a client. None admits the client."""
        path = _path(request)
        # before the token is checked: orchestrators probe without one, and the answer gives nothing away
        if path == "healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if path == "readyz":
            return self._unready(connection) or connection.respond(HTTPStatus.OK, "OK\n")
        if not admits(self._token, request.headers.get_all("Authorization")):
            refused = connection.respond(
                HTTPStatus.UNAUTHORIZED,
                "the token is missing or wrong; send the header Authorization: Bearer TOKEN\n",
            )
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        if path == "metrics":
            response = connection.respond(HTTPStatus.OK, self._metrics.text())
            del response.headers["Content-Type"]  # websockets' headers collect values: setting alone would add a second
            response.headers["Content-Type"] = CONTENT_TYPE
            return response
        if path and path not in self._bundles:
            models = ", ".join(f"/{name}" for name in self._bundles)
            return connection.respond(HTTPStatus.NOT_FOUND, f"no model is at this path; the models are {models}\n")
        return self._unready(connection)

    def _unready(self, connection: ServerConnection) -> Response | None:
        if self._ready and not self._stopping:
            return None
        return connection.respond(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{_STOPPING if self._stopping else 'the models are being loaded'}\n"
        )

    async def _handle(self, websocket: ServerConnection) -> None:
        """Serve one client until it leaves or the server closes the connection."""
        if len(self._clients) >= self._limits.connections:
            await websocket.close(CloseCode.TRY_AGAIN_LATER, "all allowed connections are in use; try again later")
            return
        name = _path(websocket.request) or next(iter(self._bundles))
        counting = partial(self._metrics.outside, name), partial(self._metrics.errors, name)
        policy = Policy(self._models[name], self._limits, self._ignored, *counting)
        client = _Client(name, websocket, policy, asyncio.Lock())
        self._clients.add(client)
        self._handshakes.end(websocket)
        logger.info("client %s connected to '%s' and acts at v0", websocket.remote_address, name)
        end = "an error"
        try:
            await websocket.send(encode(self._metadata(client)))
            await self._converse(client)
            end = "idle"
        except ConnectionClosed as closed:  # the usual end: the client left
            end = str(closed)
        except Exception:
            logger.exception("a connection to '%s' failed", name)
            await websocket.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._clients.discard(client)
            lost = "; its adaptation is lost, and it acts at v0 when it connects again" if policy.adapted else ""
            logger.info("client %s disconnected from '%s' (%s)%s", websocket.remote_address, name, end, lost)

    async def _converse(self, client: "_Client") -> None:
        """Receive requests and send replies, one after the other, until the client is idle for too long."""
        websocket, idle = client.websocket, self._limits.idle_seconds
        timing: dict[str, float] = {}
        while True:
            try:
                async with asyncio.timeout(idle):
                    message = await websocket.recv()
            except TimeoutError:
                await websocket.close(CloseCode.GOING_AWAY, f"no request came in {idle:g} s")
                return
            begin = perf_counter()
            async with client.lock:  # when the server stops, `dismiss` waits for this lock
                answer = await self._workers.answer(client.policy, message, timing, client.present)
                if answer.accepted is not None:
                    self._metrics.adaptation(client.name, accepted=answer.accepted, inside=answer.inside)
                outcome = answer.outcome
                try:
                    async with asyncio.timeout(self._limits.reply_seconds):
                        await websocket.send(answer.frame)
                except TimeoutError:
                    outcome = "unread"
                    websocket.transport.abort()  # a close frame would wait behind the unread reply
                finally:
                    seconds = perf_counter() - begin
                    self._metrics.request(client.name, answer.kind, outcome, seconds)
                timing = {"prev_total_ms": 1e3 * seconds}
                if outcome == "failed":
                    await websocket.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _metadata(self, client: "_Client") -> dict[str, Any]:
        """The first frame that a client gets."""
        names = {"model": client.name, "models": list(self._bundles)}
        return names | describe(self._models[client.name], self._ignored) | {"limits": asdict(self._limits)}


class _Client(NamedTuple):
    """One connection with its own policy. The lock is held while a request is in flight."""

    name: str
    websocket: ServerConnection
    policy: Policy
    lock: asyncio.Lock

    def present(self) -> bool:
        """Whether the connection is open."""
        return self.websocket.state is State.OPEN

    async def dismiss(self) -> None:
        """Close the connection after the request in flight is answered."""
        async with self.lock:
            await self.websocket.close(CloseCode.GOING_AWAY, _STOPPING)


def _path(request: Request | None) -> str:
    """The path of the request, without its first slash and its query string."""
    return request.path.partition("?")[0].removeprefix("/") if request else ""
