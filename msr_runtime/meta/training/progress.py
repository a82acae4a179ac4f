"""What a run shows on the terminal while it prepares and trains."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def working(what: str, *, shown: bool) -> AbstractContextManager[object]:
    """Show a moving sign beside the text `what` until the block ends. The time that is left is not known."""
    return Console().status(what) if shown else nullcontext()


@contextmanager
def training_progress(steps: int, start: int, label: str, *, shown: bool) -> Iterator[Callable[[int, float], None]]:
    """Show outer step, loss, steps per second and the time left. Yields `show(step, loss)`, to call after each step."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[rate]:.0f} steps/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown) as progress:
        task = progress.add_task(label, total=steps, completed=start, loss=float("nan"), rate=0.0)

        def show(step: int, loss: float) -> None:
            progress.update(task, completed=step, loss=loss, rate=progress.tasks[task].speed or 0.0)

        yield show
