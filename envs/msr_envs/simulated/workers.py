"""Gather units in several processes. Their number changes nothing in the data.

Each process is a fresh Python. So it can be started from anywhere, a notebook or a script without a main guard too, and
it shares no threads and no graphics context with its parent.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import ModuleType

import cloudpickle

from msr_envs.simulated.gather import Gatherer, Recipe, Unit
from msr_runtime.errors import FamilyError, MsrError
from msr_runtime.task import Array

_PATIENCE = 5.0  # seconds in which a process closes its environment before it is ended
_PROGRAM = "import sys; from multiprocessing.connection import Connection as C; c = C(int(sys.argv[1])); " + (
    "sys.path[:] = c.recv(); from msr_envs.simulated.workers import serve; serve(c)"
)

Found = tuple[int, Array, Array]
"""The number of a unit, and its x and y."""


def gather_all(recipe: Recipe, units: Sequence[Unit], workers: int) -> Iterator[Found]:
    """Yield the data of every unit, in the order in which they are done.

    The environments are closed at the end, after an error, and after Ctrl-C.

    Raises:
        FamilyError: The user's code fails in a process, or a process dies.

    """
    if workers == 1:
        gatherer = Gatherer(recipe)
        try:
            for index, unit in enumerate(units):
                yield index, *gatherer.gather(unit)
        finally:
            gatherer.close()
        return
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(_process(recipe)) for _ in range(min(workers, len(units)))]
        left, running = iter(enumerate(units)), {}
        for connection, process in open_ones:
            if (task := next(left, None)) is not None:
                connection.send(task)
                running[connection] = process
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                yield _received(recipe, connection, running[connection])
                if (task := next(left, None)) is None:
                    del running[connection]
                else:
                    connection.send(task)


@contextlib.contextmanager
def _process(recipe: Recipe) -> Iterator[tuple[Connection, subprocess.Popen]]:
    ours, theirs = Pipe()
    with ours, theirs:
        # Threads of the numeric libraries would fight for the processors that the other processes use.
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | os.environ
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment
        )
        theirs.close()
        try:
            ours.send(sys.path)
            ours.send_bytes(_pickled(recipe))
            yield ours, process
        finally:
            ours.close()
            process.terminate()  # it closes its environment, in the middle of an episode too
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _pickled(recipe: Recipe) -> bytes:
    by_value = [module for module in list(sys.modules.values()) if _has_no_path(module)]
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(recipe)
    except Exception as error:
        raise FamilyError(
            f"family '{recipe.name}': its functions cannot be handed to another process: {type(error).__name__}: "
            f"{error}; the likely cause is an open environment, file or lock that one of them holds: make it inside, "
            "or gather in one process (workers=1)"
        ) from error
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _has_no_path(module: ModuleType) -> bool:
    """Return whether another process cannot import a module by its name, as a family's file that was loaded alone."""
    full = getattr(module, "__name__", "")
    # Some extension modules call themselves by another name than the one they are imported by.
    if sys.modules.get(full) is not module or full == "__main__" or getattr(module, "__file__", None) is None:
        return False
    name = full.partition(".")[0]
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return not any(finder.find_spec(name, None) for finder in finders)


def _received(recipe: Recipe, connection: Connection, process: subprocess.Popen) -> Found:
    try:
        answer = connection.recv()
    except EOFError:
        raise FamilyError(
            f"family '{recipe.name}': a process that gathers data died with exit code {process.wait()}; the likely "
            "cause is a simulator that crashed or memory that ran out; gather in one process to see more (workers=1)"
        ) from None
    if isinstance(answer, str):
        raise FamilyError(answer)
    return answer


def serve(connection: Connection) -> None:
    """Gather what the parent asks for, until it closes the connection."""
    gatherer: Gatherer | None = None
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # noqa: ARG005
    with contextlib.suppress(EOFError, KeyboardInterrupt, ConnectionError):
        try:
            gatherer = Gatherer(cloudpickle.loads(connection.recv_bytes()))
            while True:
                index, unit = connection.recv()
                try:
                    answer = (index, *gatherer.gather(unit))
                except MsrError as error:
                    answer = str(error)
                connection.send(answer)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing interrupts the closing
            if gatherer is not None:
                gatherer.close()
