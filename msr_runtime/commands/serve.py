"""`msr serve`: bundles behind a websocket, for clients of openpi's protocol."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.access import Limits
from msr_runtime.commands.output import TrustedKeys
from msr_runtime.errors import ServerError
from msr_runtime.server import PolicyServer

TOKEN = "MSR_TOKEN"
"""The environment variable that holds the token."""
_LIMITS = Limits()


def serve(
    bundles: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]BUNDLE ...")],
    /,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    key: TrustedKeys = (),
    limits: Limits = _LIMITS,
) -> int:
    """Serve bundles to clients of openpi's websocket protocol, until SIGTERM or Ctrl-C.

    The first bundle is at /, each at /NAME; without NAME= a bundle has its folder's name. On the same port GET /healthz
    (the process lives), /readyz (models are loaded, self-tested and taking clients) and /metrics (Prometheus).

    Clients of other machines need --host and a token: set MSR_TOKEN, or write it to a file. They send it as
    "Authorization: Bearer TOKEN", or "Api-Key TOKEN" as openpi's client does. The traffic is not encrypted: put a proxy
    with TLS, or a tunnel, between machines whose network you do not trust.

    When it is stopped, requests in flight are answered first; the exit code is 0 after SIGTERM and 130 after Ctrl-C.

    Args:
        bundles: Folders of bundles, each with NAME= in front or without.
        host: The address to listen at; by default only this machine's own programs reach it.
        port: The port; 0 takes a free one.
        token_file: A file that holds the token and nothing else; without it MSR_TOKEN is read.
        key: PEM files with Ed25519 public keys; one of them has to have signed each bundle.
        limits: What one client may take.
    """
    token = _token(token_file)
    server = PolicyServer(_named(bundles), host=host, port=port, token=token, limits=limits, trusted_keys=key or None)
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
            loading.result()  # raises what kept a model from loading
        code = await stopped
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C does not wait
    return code


def _named(bundles: tuple[str, ...]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for each in bundles:
        name, given, path = each.partition("=")
        folder = Path(path if given else each)
        name = name if given else folder.resolve().name
        if name in named:
            raise ServerError(f"two bundles are named '{name}'; give them names of their own, NAME={folder}")
        named[name] = folder
    return named


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text(encoding="ascii").strip()
    except UnicodeDecodeError as error:
        raise ServerError(f"token file '{file}' does not hold ASCII text") from error
