"""What a run shows on stderr while it prepares and trains: a moving bar on a terminal, else a line now and then."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from msr_runtime.meta.learners.config import NEWTON
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton

QUIET = 60.0
"""Seconds after which a line is written without a terminal, even without a validation."""

SLOW = 1.0
"""Seconds of an outer step from which on another rule is suggested."""

Show = Callable[[int, Mapping[str, float]], None]
"""A function of the outer steps taken and the figures of the last one: `loss`, and `validation_loss` if it has one."""


def working(what: str, *, shown: bool) -> AbstractContextManager[object]:
    """Show the text `what` until the block ends. The time that is left is not known."""
    if not shown:
        return nullcontext()
    console = Console(stderr=True)
    if console.is_terminal:
        return console.status(what)
    _print(what)
    return nullcontext()


def newton_hint(learner: Learner, shots: int) -> Callable[[float], None] | None:
    """Return a function that is told the seconds of an outer step, and says so if another rule may be quicker.

    None for rules that solve no linear system, and so have no quicker one.
    """
    if not isinstance(learner.rule, GaussNewton) or learner.config.rule != NEWTON:
        return None
    outputs = math.prod(learner.outputs)

    def hint(seconds: float) -> None:
        if seconds > SLOW:
            _print(
                f"note: an outer step takes {seconds:.1f} s, because each Gauss-Newton step solves for "
                f"{learner.adapted_size():,} numbers from {shots} samples of {outputs} outputs; gradient steps are "
                "quicker (--learner.rule gradient), and so are fewer filters, shots or adapted layers"
            )

    return hint


@contextmanager
def training_progress(steps: int, start: int, label: str, *, shown: bool) -> Iterator[Show]:
    """Show outer step, loss, speed and, on a terminal, the time left. Yields a `Show`, to call after each step.

    Without a terminal, as in a log file, each validation writes one line, and so do `QUIET` seconds without a line.
    """
    console = Console(stderr=True)
    if not shown:
        yield lambda step, figures: None  # noqa: ARG005
    elif not console.is_terminal:
        yield _lines(steps, start, label)
    else:
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:.0f} steps/s"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(label, total=steps, completed=start, loss=float("nan"), rate=0.0)

            def show(step: int, figures: Mapping[str, float]) -> None:
                progress.update(task, completed=step, loss=figures["loss"], rate=progress.tasks[task].speed or 0.0)

            yield show


def _lines(steps: int, start: int, label: str) -> Show:
    began = written = time.monotonic()

    def show(step: int, figures: Mapping[str, float]) -> None:
        nonlocal written
        now = time.monotonic()
        if "validation_loss" not in figures and now - written < QUIET:
            return
        written = now
        validated = f", validation loss {figures['validation_loss']:.4f}" if "validation_loss" in figures else ""
        rate = (step - start) / max(now - began, 1e-9)
        _print(f"{label}: step {step} of {steps}, loss {figures['loss']:.4f}{validated}, {rate:.1f} steps/s")

    return show


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
