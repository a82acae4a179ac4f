"""The outer loop over processes and machines: each takes its share of every task batch; `torchrun` starts them.

    torchrun --nproc-per-node 2 -m msr_runtime.cli train ring-nav runs/ring

Gradients are averaged over gloo, or over NCCL where every process has a GPU of its own.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # later, its defaults would hold the group, whose threads then abort at exit
from torch import Tensor, nn

from msr_runtime.errors import MsrError, TrainingError
from msr_runtime.meta.inner import Tensors

T = TypeVar("T")

TIMEOUT = 600.0
"""Seconds that a process waits for the others; the environment's `MSR_TIMEOUT` goes before it. One that is ended is
noticed at once: this is for one that hangs, and longer than a validation, during which the others wait."""


class LostProcessError(TrainingError):
    """Raised when another process of the run was ended or does not answer."""


@dataclass(frozen=True)
class Processes:
    """One process and how many there are of a run; alone, every method gives back what it is given."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, validates and speaks."""
        return self.rank == 0

    def share(self, tasks: int) -> slice:
        """Return which of `tasks` tasks are this process's; shares differ by one task at most.

        Raises:
            TrainingError: there are more processes than tasks.

        """
        if tasks < self.size:
            raise TrainingError(
                f"tasks_per_step is {tasks}, but {self.size} processes share them: each needs one task; start fewer"
            )
        return slice(tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size)

    def average(self, loss: Tensor, gradients: Tensors, tasks: int) -> tuple[Tensor, Tensors]:
        """Turn means over this process's share of `tasks` tasks into means over all of them, alike in every process.

        What is not finite in one process is not finite in any after it.
        """
        if self.size == 1:
            return loss, gradients
        share = self.share(tasks)
        parts = [loss, *gradients.values()]
        row = torch.cat([part.flatten() for part in parts]) * ((share.stop - share.start) / tasks)
        with self._together():
            dist.all_reduce(row)
        pieces = row.split([part.numel() for part in parts])
        mean, *rest = (piece.view_as(part) for piece, part in zip(pieces, parts, strict=True))
        return mean, dict(zip(gradients, rest, strict=True))

    def agree(self, flag: bool) -> bool:
        """Return whether any process says yes."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        with self._together():
            dist.all_reduce(votes)
            return bool(votes.item())

    def align(self, module: nn.Module) -> None:
        """Give the module the first process's parameters and buffers."""
        if self.size > 1:
            with self._together():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, 0)

    def from_first(self, call: Callable[[], T]) -> T:
        """Return what `call` returns in the first process, where alone it is called, or raise its `MsrError`."""
        if self.size == 1:
            return call()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = call()
            except MsrError as error:
                outcome[1] = error
        with self._together():
            dist.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostProcessError(
                f"process {self.rank + 1} of {self.size} lost the others: one was ended, or did not answer for "
                f"{_timeout():g} s (MSR_TIMEOUT); the last checkpoint resumes ({str(error).splitlines()[0]})"
            ) from error


ALONE = Processes()


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started, or be alone if it did not; leave when all have come to the end.

    Raises:
        LostProcessError: the others do not come, or one is lost before the end.
        TrainingError: `MSR_TIMEOUT` is not a number of seconds.

    """
    started = dist.is_available() and dist.is_torchelastic_launched()
    size = int(os.environ["WORLD_SIZE"]) if started else 1
    if size == 1:
        yield ALONE
        return
    gpus = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    device = f"cuda:{os.environ['LOCAL_RANK']}" if gpus else "cpu"
    if gpus:
        torch.cuda.set_device(device)
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # or a lost process aborts the others without a word
    joined = Processes(int(os.environ["RANK"]), size, device)
    timeout = timedelta(seconds=_timeout())
    with joined._together():
        dist.init_process_group("nccl" if gpus else "gloo", timeout=timeout)
    try:
        yield joined
        joined.agree(False)  # torchrun ends the others as soon as one fails: none leaves while another still writes
    except LostProcessError:
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends this process too: it first says why
        raise
    finally:
        dist.destroy_process_group()


def _timeout() -> float:
    written = os.environ.get("MSR_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(written)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise TrainingError(f"MSR_TIMEOUT is '{written}', but has to be a number of seconds above 0 and below 1e6")
    return seconds
