"""Access to a policy server: names, address, token, and the limits for one client."""

import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msr_runtime.errors import ServerError

MIN_TOKEN = 16
"""Smallest number of characters in a token."""
PROBES = ("healthz", "readyz", "metrics")
"""Paths that the server answers itself, so they cannot be names of models."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Limits:
    """Limits that keep one client from using up the server for all others."""

    connections: int = 16
    """Largest number of open connections, over all clients. Each connection can keep one thread busy."""
    message_bytes: int = 2**24
    """Largest size of one message, in bytes."""
    samples: int = 1024
    """Largest number of samples in one message: observations, shots or held-out samples."""
    adapt_cost: float = 1000.0
    """Largest estimated cost of one adaptation, as a multiple of the adaptation in meta-training. It is samples times
    steps; for `gauss-newton` and `ridge` also the linear system, whose cost grows with the third power of the samples.
    """
    adapt_seconds: float = 10.0
    """Time for one adaptation, in s, checked between inner steps. A longer one is stopped, and the earlier weights act.
    """
    pings: int = 100
    """Largest number of pings and pongs from one client per second. A client above it is disconnected."""
    handshakes: int = 64
    """Largest number of connections whose opening request is not finished. One more ends the oldest of them."""
    handshake_seconds: float = 5.0
    """Time for a client to finish its opening request, in s."""
    reply_seconds: float = 10.0
    """Time for a client to read a reply, in s. A client that reads more slowly is disconnected."""
    idle_seconds: float = 3600.0
    """Time after which a connection without requests is closed, in s. Pings find a dead connection within 40 s."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ServerError(f"the limit {name} is {value}, but a number above 0 is wanted")


def check_names(names: Iterable[str]) -> None:
    """Raise ServerError if there is no name, or a name cannot be the path of an address."""
    if not (names := list(names)):
        raise ServerError("no bundle is given, so there is nothing to serve; give at least one folder of a bundle")
    for name in names:
        if not _NAME.fullmatch(name) or name in PROBES:
            raise ServerError(
                f"'{name}' cannot be a model's name, because the name is the last part of an address: 1 to 64 letters, "
                f"digits, '.', '_' or '-' are wanted, a letter or digit first, and not {', '.join(PROBES)}; rename it "
                "with NAME=BUNDLE"
            )


def check_address(host: str, port: int, token: str | None) -> None:
    """Raise ServerError if the port is invalid, the token is weak, or other machines reach `host` without a token."""
    if not 0 <= port < 2**16:
        raise ServerError(f"the port is {port}, but 1 to 65535 is wanted, or 0 for any free port")
    if token is not None and not re.fullmatch(rf"[!-~]{{{MIN_TOKEN},}}", token):
        raise ServerError(
            f"the token has {len(token)} characters, but {MIN_TOKEN} or more ASCII characters without spaces are "
            "wanted; make a random one, for example with `openssl rand -hex 16`"
        )
    if token is None and not _is_loopback(host):
        raise ServerError(
            f"host '{host}' can be reached from other machines, and without a token they could drive the robot; set a "
            "token (MSR_TOKEN or --token-file), or listen at 127.0.0.1"
        )


def admits(token: str | None, authorization: Sequence[str]) -> bool:
    """Whether a request with these Authorization headers may use the server.

    Args:
        token: The server's token; None admits every request.
        authorization: The values of the request's Authorization headers. There must be exactly one.
    """
    if token is None:
        return True
    scheme, _, sent = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    # The duration of compare_digest does not depend on where the texts differ, so an attacker cannot guess the token
    # character by character. surrogateescape: a header may hold bytes that are not UTF-8.
    same = hmac.compare_digest(sent.strip().encode(errors="surrogateescape"), token.encode())
    return same and scheme.lower() in ("bearer", "api-key")  # openpi's client sends Api-Key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
