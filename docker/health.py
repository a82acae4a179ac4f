#!/usr/bin/env python3
"""The image's health: a server is healthy when it takes clients, any other command as long as its process lives."""

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""A server on every interface is asked on the loopback one."""


def health_url(command: Sequence[str]) -> str | None:
    """Where the server that `command` starts says whether it takes clients; None if it starts no server."""
    words = [Path(word).name for word in command]
    arguments = command[words.index("msr") + 1 :] if "msr" in words else []
    if not arguments or arguments[0] != "serve":
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="8000")
    asked, _ = parser.parse_known_args(arguments)
    host = str(ANY.get(asked.host, asked.host))
    return f"http://{f'[{host}]' if ':' in host else host}:{asked.port}/readyz"


def main() -> int:
    """Ask the server that this container's first process is, past any proxy; 0 if it is ready, or is no server."""
    command = Path("/proc/1/cmdline").read_text(encoding="utf-8").rstrip("\0").split("\0")
    url = health_url(command)
    if url is None:
        return 0
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=3):
            return 0
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"{url}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
