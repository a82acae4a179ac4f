"""Limits below the messages: how many clients may be at their opening request, and how many pings one client may send.

websockets answers a ping by itself, before any code of the server runs. So these limits belong to the connection.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any

from msr_runtime.serving._packages import CloseCode, Opcode, ServerConnection

_SLICE = 1024
"""Bytes that are parsed at once. One read of the socket may bring 40,000 pings; they are counted after each slice."""
_CLOSING = 1.0
"""Seconds that a client has to close its side, after it sent too many pings."""


class Handshakes:
    """The connections that are not admitted yet. Each one holds a file descriptor before its token is known.

    If there are more than `limit`, the oldest one is ended: an honest client needs milliseconds to be admitted.
    """

    def __init__(self, limit: int, dropped: Callable[[], None]) -> None:
        """Start with no connection; `dropped` is called for each connection that is ended."""
        self._limit, self._dropped = limit, dropped
        self._waiting: dict[ServerConnection, None] = {}  # a dict keeps their order

    def begin(self, connection: ServerConnection) -> None:
        """Count a new connection."""
        self._waiting[connection] = None
        if len(self._waiting) > self._limit:
            oldest = next(iter(self._waiting))
            self.end(oldest)
            oldest.transport.abort()
            self._dropped()

    def end(self, connection: ServerConnection) -> None:
        """Stop counting a connection that was admitted, or that is gone."""
        self._waiting.pop(connection, None)


class LimitedConnection(ServerConnection):
    """A connection that counts as a handshake until it is admitted, and whose pings and pongs are limited."""

    def __init__(self, *arguments: Any, handshakes: Handshakes, pings: int, **options: Any) -> None:
        """Make a connection that `handshakes` counts, with at most `pings` pings and pongs per second."""
        super().__init__(*arguments, **options)
        self._handshakes, self._limit = handshakes, pings
        self._pings, self._second = 0, monotonic()

    def connection_made(self, transport: Any) -> None:
        """Count the connection as a handshake."""
        super().connection_made(transport)
        self._handshakes.begin(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._handshakes.end(self)
        super().connection_lost(exc)

    def process_event(self, event: Any) -> None:
        """Count pings and pongs."""
        super().process_event(event)
        if getattr(event, "opcode", None) in (Opcode.PING, Opcode.PONG):  # the opening request has no opcode
            self._pings += 1

    def data_received(self, data: bytes) -> None:
        """Read what came, and close the connection with code 1008 if it holds too many pings."""
        for begin in range(0, len(data), _SLICE):
            if self.protocol.eof_sent:  # the connection has failed, so nothing more is read from it
                return
            super().data_received(data[begin : begin + _SLICE])
            if self._pings > self._limit:
                self._check_pings()

    def _check_pings(self) -> None:
        now = monotonic()
        if now - self._second >= 1:
            self._second, self._pings = now, 0
            return
        self.protocol.fail(CloseCode.POLICY_VIOLATION, f"more than {self._limit} pings or pongs came within a second")
        self.send_data()
        # The client may hold its side open, so that the connection would keep its place.
        self.loop.call_later(_CLOSING, self.transport.abort)
