"""`msr serve`: serves bundles over a websocket to clients of openpi's protocol."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.adaptation.backend import Engine
from msr_runtime.cli.output import TrustedKeys, option
from msr_runtime.errors import ServerError
from msr_runtime.serving.access import Limits
from msr_runtime.serving.server import PolicyServer

TOKEN = "MSR_TOKEN"
"""Name of the environment variable that holds the token."""
_LIMITS = Limits()


def serve(
    bundles: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[NAME=]BUNDLE ...", help_behavior_hint="(at least one)"),
    ],
    /,
    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, tyro.conf.arg(metavar="PORT")] = 8000,
    token_file: Annotated[Path | None, option("FILE", "the token is read from MSR_TOKEN")] = None,
    key: TrustedKeys = (),
    engine: Engine = "onnx",
    ignore: Annotated[tuple[str, ...], option("KEY ...", "none; unknown keys are refused")] = (),
    limits: Limits = _LIMITS,
) -> int:
    """Serve bundles to clients of openpi's websocket protocol, until SIGTERM or Ctrl-C.

    Each bundle is at ws://ADDRESS:PORT/NAME, and the first one also at /.

    Without NAME= the name of a bundle is the name of its folder.

    Each connection starts at v0. Its adaptation ends with the connection, also if it breaks.

    On the same port, three paths answer plain GET requests:
    - /healthz: the process runs
    - /readyz: all models are loaded and self-tested, and clients are accepted
    - /metrics: metrics for Prometheus

    Only /metrics needs the token: the other two say no more than OK or why not.

    Clients on other machines need --host 0.0.0.0 and a token of 16 or more characters.

    Give the token in the environment variable MSR_TOKEN or in a file.

    Clients send the header "Authorization: Bearer TOKEN"; openpi's client sends "Api-Key TOKEN".

    The traffic is not encrypted: in a network that you do not trust, use a TLS proxy or tunnel.

    When it is stopped, the server first answers the requests that it has received, for 5 s at most.

    Exit code: 0 after SIGTERM, 130 after Ctrl-C.

    Args:
        bundles: Folders of bundles, with or without a name.
        host: The address to listen on, IPv4 or IPv6. With 127.0.0.1 or ::1, only programs on this machine can connect.
        port: The port. With 0, any free port; the log tells which.
        token_file: A file that holds the token and nothing else.
        key: Public keys (Ed25519). Each bundle must be signed by one of them.
        engine: What computes: ONNX Runtime, or each bundle's native code (`msr compile`), a program to trust.
        ignore: Keys of an observation that are allowed beside the fields and not read, such as prompt.
        limits: Limits that keep one client from using up the server for all others.
    """
    token = _token(token_file)
    server = PolicyServer(
        _named(bundles),
        host=host,
        port=port,
        token=token,
        limits=limits,
        trusted_keys=key or None,
        ignore=ignore,
        engine=engine,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    return asyncio.run(_until_stopped(server))


async def _until_stopped(server: PolicyServer) -> int:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if not stopped.done():
            stopped.set_result(code)

    loop.add_signal_handler(signal.SIGTERM, stop, 0)
    loop.add_signal_handler(signal.SIGINT, stop, 130)
    async with server:
        loading = asyncio.create_task(server.load())
        await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()  # raises the error of a model that could not be loaded
        code = await stopped
        loop.remove_signal_handler(signal.SIGINT)  # so that a second Ctrl-C ends the process at once
    return code


def _named(bundles: tuple[str, ...]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for each in bundles:
        name, given, path = each.partition("=")
        folder = Path(path if given else each)
        name = name if given else folder.resolve().name
        if name in named:
            raise ServerError(f"two bundles have the name '{name}'; give one another name, as in NAME={folder}")
        named[name] = folder
    return named


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text(encoding="ascii").strip()
    except UnicodeDecodeError as error:
        raise ServerError(
            f"token file '{file}' does not hold ASCII text; give a file that holds only the token"
        ) from error
