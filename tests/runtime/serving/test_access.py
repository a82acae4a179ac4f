"""Access to the server: names, addresses, tokens, web pages and the limits for one client."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from msr_runtime.errors import ServerError
from msr_runtime.serving.access import Limits, admits, check_address, check_names
from msr_runtime.serving.wire import decode, encode

# openpi's client opens its connection in a way that newer versions of websockets deprecate.
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")


TOKEN = "correct-horse-battery"


class TestToken:
    @pytest.mark.parametrize(
        "options", [{}, {"api_key": "wrong"}, {"api_key": TOKEN + "x"}, {"api_key": "\u00fc" * 20}]
    )
    def test_without_the_token_nobody_comes_in(self, serve: Callable[..., Any], options: dict) -> None:
        """A wrong token or none is refused at every path that is not a probe."""
        running = serve(token=TOKEN)
        with pytest.raises((InvalidStatus, UnicodeError), match=r"401|ascii"):
            running.openpi(**options)
        assert running.get("metrics")[0] == running.get("linear")[0] == running.get("none")[0] == 401

    def test_with_the_token(self, serve: Callable[..., Any], observation: Any) -> None:
        """The token may be sent as openpi's client does, or as Bearer; probes need no token."""
        running = serve(token=TOKEN)
        assert running.openpi(api_key=TOKEN).infer(observation)["force"].shape == (1, 2)
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
        """Exactly one header with a known scheme and the right token is admitted."""
        assert admits(TOKEN, sent) is admitted
        assert admits(None, sent)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "robot.local"])
    def test_other_machines_need_a_token(self, host: str) -> None:
        """A host that other machines can reach is refused without a token."""
        with pytest.raises(ServerError, match="reached from other machines"):
            check_address(host, 8000, None)
        check_address(host, 8000, TOKEN)

    def test_this_machine_needs_none(self) -> None:
        """A loopback address needs no token."""
        for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
            check_address(host, 0, None)

    @pytest.mark.parametrize("token", ["", "short", "with spaces in between", "tab\tsixteen-characters", "ü" * 20])
    def test_weak_tokens(self, token: str) -> None:
        """A short token, or one with spaces or characters outside ASCII, is refused."""
        with pytest.raises(ServerError, match="16 or more ASCII characters"):
            check_address("127.0.0.1", 8000, token)


class TestNamesAndLimits:
    @pytest.mark.parametrize("names", [[], [""], ["a/b"], ["healthz"], ["metrics"], ["a b"], [".."], ["a" * 65]])
    def test_names(self, names: list[str]) -> None:
        """A name that cannot be a path, or that is the path of a probe, is refused."""
        with pytest.raises(ServerError):
            check_names(names)

    def test_limits_and_ports(self) -> None:
        """A limit of 0 and a port outside the range are refused."""
        with pytest.raises(ServerError, match="samples is 0"):
            Limits(samples=0)
        for port in (-1, 65536):
            with pytest.raises(ServerError, match="the port is"):
                check_address("127.0.0.1", port, None)


class TestClients:
    def test_web_pages_are_refused(self, running: Any) -> None:
        """A browser sends the origin of the page, so no web page can drive the robot of its visitor."""
        with pytest.raises(InvalidStatus, match="403"):
            running.raw(origin="http://localhost")

    def test_connections(self, serve: Callable[..., Any], eventually: Any) -> None:
        """A client above the limit gets code 1013; after another client has left, it can connect."""
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

    def test_slow_handshakes(self, serve: Callable[..., Any]) -> None:
        """A client that never finishes its opening request is cut off."""
        running = serve(limits=Limits(handshake_seconds=0.2))
        with _loris(running) as loris:
            while loris.recv(4096):
                pass

    def test_many_slow_handshakes(self, serve: Callable[..., Any], eventually: Any) -> None:
        """Of too many unfinished opening requests the oldest is ended, and a client is still admitted."""
        running = serve(limits=Limits(handshake_seconds=1000, handshakes=8, connections=1))
        with contextlib.ExitStack() as stack:
            lorises = [stack.enter_context(_loris(running)) for _ in range(30)]
            running.openpi()
            assert eventually(lambda: running.figure("msr_handshakes_dropped_total") >= 22)
            with contextlib.suppress(ConnectionResetError):  # or the end, if the server had read all that came
                assert lorises[0].recv(4096) == b""
            assert len(running.server._handshakes._waiting) <= 8

    def test_a_flood_of_pings(self, serve: Callable[..., Any], observation: Any) -> None:
        """A client with too many pings is closed with code 1008 and the reason; a neighbour is not affected."""
        running = serve(limits=Limits(pings=10))
        client, neighbour = running.raw(), running.openpi()
        client.ping()
        client.send(encode(observation))
        assert decode(client.recv(decode=False))["force"].shape == (1, 2)
        with contextlib.suppress(OSError):  # the server may be gone before all pings are sent
            client.socket.sendall((b"\x89\x80" + bytes(4)) * 50_000)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=120)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert closed.value.rcvd.reason == "more than 10 pings or pongs came within a second"
        assert neighbour.infer(observation)["force"].shape == (1, 2)

    @pytest.mark.parametrize(
        "request_line", [b"\x16\x03\x01\x02\x00\x01", b"POST / HTTP/1.1\r\n\r\n", b"GET /\r\n\r\n"]
    )
    def test_other_protocols(self, running: Any, request_line: bytes) -> None:
        """Bytes of another protocol do not harm the server."""
        with socket.create_connection(("127.0.0.1", running.server.port), timeout=120) as stranger:
            stranger.sendall(request_line + b"\r\n\r\n")
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
        assert running.get("readyz")[0] == 200

    def test_idle_connections(self, serve: Callable[..., Any]) -> None:
        """A connection without requests is closed with code 1001 and the reason."""
        client = serve(limits=Limits(idle_seconds=0.1)).raw()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=120)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "no request came in 0.1 s")


def _loris(running: Any) -> socket.socket:
    """A client that begins its opening request and does not end it."""
    loris = socket.create_connection(("127.0.0.1", running.server.port), timeout=120)
    loris.sendall(b"GET / HTTP/1.1\r\nHost:")
    return loris
