"""The start of the `msr` command: Ctrl-C ends it in one line, also while its packages are imported.

This module imports nothing but the standard library, so that it runs before everything that takes time.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in a shell: 128 and the number of SIGINT."""
_SENTENCE = "msr: interrupted\n"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code. `arguments` are by default those of the process."""
    atexit.register(_end_undisturbed)
    try:
        with interrupt_exits():
            from msr_runtime.cli.command import run
        sys.exit(run(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        sys.stderr.write(_SENTENCE)
        sys.exit(INTERRUPTED)


@contextmanager
def interrupt_exits() -> Iterator[None]:
    """While packages are imported, let Ctrl-C end the process without an exception.

    A package may catch the exception, or fail in another way because of it. Nothing is open yet that has to be closed.
    Where SIGINT is ignored or handled already, as in a background job, that stays.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _in_main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_undisturbed() -> None:
    """Let Ctrl-C change nothing any more: the program ends, and its exit code stands.

    Python takes its own handler away before it unloads packages, which takes a second with torch. From then on the
    signal itself would end the process, with another exit code.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _in_main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_main_thread() -> bool:
    """Only the main thread may change what a signal does."""
    return threading.current_thread() is threading.main_thread()


def _exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal's handler
    os.write(2, _SENTENCE.encode())  # `print` may be busy: the signal can come in the midst of it
    os._exit(INTERRUPTED)
