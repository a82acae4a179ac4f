"""Training in several processes, on one machine or on several. Each process computes its share of every task batch.

`torchrun` starts the processes:

    torchrun --nproc-per-node 2 -m msr_runtime.cli train ring-nav runs/ring

The processes average their gradients over gloo, or over NCCL if every process has its own GPU. One process uses a GPU
too, if there is one.
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
import torch.distributed.nn  # first imported later, its default arguments keep the process group, which aborts at exit
from torch import Tensor, nn

from msr_runtime.errors import MsrError, TrainingError
from msr_runtime.meta.rules.rule import Tensors

T = TypeVar("T")

TIMEOUT = 600.0
"""Seconds that a process waits for the others. The environment variable `MSR_TIMEOUT` replaces it. The others notice
at once when a process ends; the timeout is for a process that hangs. It must be longer than a validation, because the
others wait while the first process validates."""


class LostProcessError(TrainingError):
    """Raised when another process of the run has ended or does not answer."""


@dataclass(frozen=True)
class Processes:
    """One process, and the number of processes of its run. With one process, no method communicates."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    device: str = "cpu"
    """Torch device on which this process computes."""

    @property
    def first(self) -> bool:
        """Whether this process writes the files, validates and prints."""
        return self.rank == 0

    def share(self, tasks: int) -> slice:
        """Return which of `tasks` tasks this process computes. Shares differ by at most one task.

        Raises:
            TrainingError: There are more processes than tasks.

        """
        if tasks < self.size:
            raise TrainingError(
                f"tasks_per_step is {tasks}, but {self.size} processes share the tasks and each needs at least one; "
                f"start {tasks} processes or fewer (--nproc-per-node), or raise tasks_per_step "
                "(--settings.tasks-per-step)"
            )
        return slice(tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size)

    def average(self, loss: Tensor, gradients: Tensors, tasks: int) -> tuple[Tensor, Tensors]:
        """Average a loss and its gradient over all processes. Every process gets the same numbers.

        A value that is not finite in one process is not finite in any process afterwards.

        Args:
            loss: Mean loss over this process's share of the tasks, a scalar.
            gradients: Gradient of that loss, by parameter name; the same names in every process.
            tasks: Number of tasks of the whole batch.

        Returns:
            Mean loss over all tasks, and its gradient.

        Raises:
            LostProcessError: Another process has ended or does not answer.

        """
        if self.size == 1:
            return loss, gradients
        # One message per step: all tensors in one row, weighted by this process's share of the tasks. A sum carries NaN
        # and infinity to every process, so that all of them skip the same steps.
        share = self.share(tasks)
        parts = [loss, *gradients.values()]
        row = torch.cat([part.flatten() for part in parts]) * ((share.stop - share.start) / tasks)
        with self._together():
            dist.all_reduce(row)
        pieces = row.split([part.numel() for part in parts])
        mean, *rest = (piece.view_as(part) for piece, part in zip(pieces, parts, strict=True))
        return mean, dict(zip(gradients, rest, strict=True))

    def agree(self, flag: bool) -> bool:
        """Return True in every process if `flag` is True in at least one."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        with self._together():
            dist.all_reduce(votes)
            return bool(votes.item())

    def align(self, module: nn.Module) -> None:
        """Copy the first process's parameters and buffers into the module of every process."""
        if self.size > 1:
            with self._together():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, 0)

    def from_first(self, call: Callable[[], T]) -> T:
        """Call `call` in the first process only, and return its result in every process.

        If it raises an `MsrError`, every process raises that error. Every process waits here for the first one.
        """
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
                f"process {self.rank + 1} of {self.size} lost the others: one has ended, or did not answer for "
                f"{_timeout():g} s (MSR_TIMEOUT); resume from the last checkpoint (--resume). Cause: "
                f"{str(error).splitlines()[0]}"
            ) from error


ALONE = Processes()
"""A run with one process."""


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started. Yields this process's `Processes`.

    Without `torchrun`, this process is the only one. The block ends when every process has reached its end.

    A process computes on a GPU if the machine has one for each of its processes. Hide the GPUs from torch
    (`CUDA_VISIBLE_DEVICES=`) to compute on the CPU, where a resumed run repeats its numbers bit for bit.

    Raises:
        LostProcessError: The other processes do not join, or one ends before the block does.
        TrainingError: `MSR_TIMEOUT` is not a number of seconds.

    """
    started = dist.is_available() and dist.is_torchelastic_launched()
    size = int(os.environ["WORLD_SIZE"]) if started else 1
    if size == 1:
        yield Processes(device="cuda") if torch.cuda.is_available() else ALONE
        return
    gpus = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    device = f"cuda:{os.environ['LOCAL_RANK']}" if gpus else "cpu"
    if gpus:
        torch.cuda.set_device(device)
        # without this, NCCL aborts the whole process when another one is lost, and no error can be raised
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    joined = Processes(int(os.environ["RANK"]), size, device)
    timeout = timedelta(seconds=_timeout())
    with joined._together():
        dist.init_process_group("nccl" if gpus else "gloo", timeout=timeout)
    try:
        yield joined
        # A barrier: `torchrun` ends all processes as soon as one fails, so none may leave while another still writes.
        joined.agree(False)
    except LostProcessError:
        # `torchrun` now sends SIGTERM to this process too. Ignore it, so that the error is still printed.
        with suppress(ValueError):  # raised outside the main thread, which alone may set signal handlers
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
        raise TrainingError(
            f"MSR_TIMEOUT is '{written}', but must be a number of seconds above 0 and below 1e6, such as 600; correct "
            "the environment variable or unset it"
        )
    return seconds
