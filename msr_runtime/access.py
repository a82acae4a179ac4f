"""Who may use a policy server, and how much one client may take of it."""

import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msr_runtime.errors import ServerError

MIN_TOKEN = 16
"""Characters of a token, at least."""
PROBES = ("healthz", "readyz", "metrics")
"""Paths that are no model's."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Limits:
    """What one client may take of a server that others share."""

    connections: int = 16
    """Connections open at once; each may keep one thread busy."""
    message_bytes: int = 2**24
    """Bytes of one message."""
    samples: int = 1024
    """Observations or support samples of one message."""
    handshake_seconds: float = 5.0
    """How long a client may take to say what it wants, in s."""
    reply_seconds: float = 10.0
    """How long a client may take to read a reply, in s."""
    idle_seconds: float = 3600.0
    """How long a connection may stay without a request, in s; a dead one is found by pings within 40 s."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ServerError(f"the limit {name} is {value}, but a positive number is wanted")


def check_names(names: Iterable[str]) -> None:
    """Raise ServerError unless there are names, each fit to be the path of an address."""
    if not (names := list(names)):
        raise ServerError("no bundle is named, so there is nothing to serve")
    for name in names:
        if not _NAME.fullmatch(name) or name in PROBES:
            raise ServerError(
                f"'{name}' cannot be a model's name: it is the last part of an address, so up to 64 letters, digits, "
                f"'.', '_' and '-' are wanted, and none of {', '.join(PROBES)}"
            )


def check_address(host: str, port: int, token: str | None) -> None:
    """Raise ServerError if the port is none, the token is weak, or other machines reach `host` without one."""
    if not 0 <= port < 2**16:
        raise ServerError(f"the port is {port}, but 1 to 65535 is wanted, or 0 for a free one")
    if token is not None and not re.fullmatch(rf"[!-~]{{{MIN_TOKEN},}}", token):
        raise ServerError(
            f"the token has {len(token)} characters, but {MIN_TOKEN} or more ASCII characters without spaces are "
            "wanted; draw one at random"
        )
    if token is None and not _is_loopback(host):
        raise ServerError(
            f"host '{host}' is reached from other machines, which could then drive the robot: set a token, or "
            "listen at 127.0.0.1"
        )


def admits(token: str | None, authorization: Sequence[str]) -> bool:
    """Whether the values of a request's Authorization headers hold `token`, in a time that tells nothing of it."""
    if token is None:
        return True
    scheme, _, sent = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    same = hmac.compare_digest(sent.strip().encode(errors="surrogateescape"), token.encode())
    return same and scheme.lower() in ("bearer", "api-key")  # openpi's client says Api-Key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
