"""A robot that acts and adapts for a million ticks: no deadline missed for it, no memory lost, every refusal counted.

Two loops take turns, block by block, on the same bundle and the same samples: one adapts all along, one never does. The
robot changes every few blocks (another task of the family), and its sensors fail now and then. A million ticks of each
loop at 1 kHz take 35 minutes.

The observation dies at the end of each task: for the last ticks the newest one grows old. `ActionGuard` must latch
then, as on a robot. At the next block a person finds the sensor mended and calls `rearm`. So the guard can latch once
per block.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from store import RUNTIME, Output, begin, keep, settled
from tables import soak as soak_lines
from tables import soak_counts
from terminal import print_lines

from msr_envs.registry import load_family
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, OnlineAdapter
from msr_runtime.task import TaskBatch

BLOCK = 1000  # ticks before the other loop's turn
BLOCKS_PER_TASK = 3
TASKS, SAMPLES = 20, 256
DEAD = 100  # last ticks of a task, in which the observation is dead
FAULTS = {997: np.float32("nan"), 1999: np.float32("inf"), 2999: np.float32(1e30)}
"""Samples whose number is a multiple of a key carry its value."""


@dataclass(frozen=True)
class Options(Output):
    """How long, and how fast."""

    bundle: Path = Path("runs/demo/bundle")
    """A bundle of a built-in family. With the rule `recursive`, the loop that adapts learns from each sample."""
    ticks: int = 1_000_000
    """Ticks of each of the two loops."""
    hz: float = 1000.0
    """Of the control loops, in Hz."""
    adapt_hz: float = 100.0
    """Of the adaptations, in Hz. If it learns sample by sample: how often the thread looks for samples."""
    realtime: bool = False
    """Run loops and adaptations under SCHED_FIFO with memory locked: right where other programs run beside."""
    beside_training: bool = False
    """Let a meta-training run beside the loops all along, on one of the cores."""


_REALTIME = Options(realtime=True)
STORED = {
    "soak-million": _REALTIME,
    "soak-beside-training": replace(_REALTIME, beside_training=True),
    "soak-realtime": replace(_REALTIME, ticks=20_000),
    "soak-ordinary": Options(ticks=20_000),
    "soak-by-sample": replace(_REALTIME, bundle=Path("runs/by-sample/bundle"), ticks=20_000, adapt_hz=1000.0),
    "soak-slower": Options(ticks=8_000, hz=200.0, adapt_hz=50.0),
}
"""The stored results, and what each of them measures."""
ROOTS = (*RUNTIME, "msr_runtime/control", "benchmarks/soak.py")


class Row(TypedDict):
    """What one loop did; times in s, memory in bytes."""

    loop: str
    hz: float
    adapt_hz: float
    realtime: bool
    beside_training: bool
    by_sample: bool
    latched: int
    """Blocks at whose end the guard was latched."""
    dead: int
    """Blocks at whose end the observation was dead, so that the guard had to latch."""
    latch: str
    """The two figures as the table says them."""
    ticks: int
    overruns: int
    skipped: int
    execution_p50: float
    execution_p99: float
    execution_p999: float
    execution_max: float
    late_p50: float
    late_p99: float
    late_p999: float
    late_max: float
    tried: int
    accepted: int
    refused: dict[str, int]
    observed: int
    entered: int
    left_out: dict[str, int]
    dropped: int
    actions_passed: int
    actions_refused: dict[str, int]
    memory_start: int
    memory_middle: int
    memory_end: int


@dataclass
class Side:
    """One of the two loops and all that it measures."""

    name: str
    online: OnlineAdapter
    guard: ActionGuard
    executions: NDArray[np.float32]
    """`(ticks,)`, s: how long predict, guard and observe took together."""
    lateness: NDArray[np.float32]
    """`(ticks,)`, s: how long after its absolute time a tick began, less the best of its block."""
    seen: int = 0
    """Ticks, those of the warm-ups among them."""
    done: int = 0
    overruns: int = 0
    skipped: int = 0
    latched: int = 0
    """Blocks at whose end the guard was latched."""
    dead: int = 0
    """Blocks at whose end the observation was dead."""
    memory: list[int] = field(default_factory=list)

    def run(self, block: int, batch: TaskBatch, ticks: int, options: Options) -> None:
        """Act, and observe what the task does, for one block of ticks."""
        task = block // BLOCKS_PER_TASK % TASKS
        xs, ys = batch.query_x[task], batch.query_y[task]
        executions, late = self.executions[self.done :], self.lateness[self.done :]
        dies = block % BLOCKS_PER_TASK == BLOCKS_PER_TASK - 1 and ticks > DEAD
        observed = 0.0
        self.guard.rearm()
        warmup = 20
        loop = ControlLoop(options.hz, ticks=ticks + warmup, warmup=warmup, realtime=options.realtime)
        with loop:
            origin = time.monotonic()
            for index, number in enumerate(loop, start=-warmup):
                begin = time.monotonic()
                self.seen += 1
                x, y = xs[self.seen % SAMPLES], ys[self.seen % SAMPLES]
                if not dies or index < ticks - DEAD:
                    observed = begin
                self.guard(self.online.predict(x), observed)
                self.online.observe(*_with_fault(self.seen, x, y))
                if index >= 0:
                    executions[index] = time.monotonic() - begin
                    late[index] = begin - origin - number / options.hz
        late[:ticks] -= late[:ticks].min()
        report = loop.report()
        self.done, self.overruns = self.done + ticks, self.overruns + report.overruns
        self.skipped += report.skipped
        self.dead += dies
        self.latched += self.guard.report().latched
        self.memory.append(_resident())

    def row(self, options: Options) -> Row:
        """The figures of all blocks."""
        report, actions = self.online.report(), self.guard.report()
        execution, late = (
            np.percentile(each, [50, 99, 99.9, 100]).tolist() for each in (self.executions, self.lateness)
        )
        names = ("p50", "p99", "p999", "max")
        return Row(
            loop=self.name,
            hz=options.hz,
            adapt_hz=options.adapt_hz,
            realtime=options.realtime,
            beside_training=options.beside_training,
            by_sample=self.online.by_sample,
            latched=self.latched,
            dead=self.dead,
            latch=f"{self.latched} for {self.dead} faults",
            ticks=self.done,
            overruns=self.overruns,
            skipped=self.skipped,
            **{f"execution_{name}": value for name, value in zip(names, execution, strict=True)},
            **{f"late_{name}": value for name, value in zip(names, late, strict=True)},
            tried=report.tried,
            accepted=report.accepted,
            refused=report.refused,
            observed=report.observed + report.waiting,
            entered=report.entered,
            left_out=report.left_out,
            dropped=report.dropped,
            actions_passed=actions.passed,
            actions_refused=actions.refused,
            memory_start=self.memory[1 if len(self.memory) > 1 else 0],  # after the first turn has warmed up
            memory_middle=self.memory[len(self.memory) // 2],
            memory_end=self.memory[-1],
        )


def soak(options: Options) -> list[Row]:
    """Let the two loops take turns until each has done its ticks; the adapting one first."""
    model = AdaptiveModel.load(options.bundle)
    family = load_family(model.manifest.name)
    batch = family.sample(np.random.default_rng(0), TASKS, 1, SAMPLES, "test")
    sides = []
    for name in ("adapting", "not adapting"):
        own = model.fork()
        guard = ActionGuard(model.manifest.outputs, options.hz, max_age=1 / options.hz)
        samples = np.full(options.ticks, np.nan, np.float32), np.full(options.ticks, np.nan, np.float32)
        sides.append(Side(name, OnlineAdapter(own, hz=options.adapt_hz, realtime=options.realtime), guard, *samples))
    adapting, still = sides
    for block, done in enumerate(range(0, options.ticks, BLOCK)):
        ticks = min(BLOCK, options.ticks - done)
        with adapting.online:
            adapting.run(block, batch, ticks, options)
        still.run(block, batch, ticks, options)
    return [side.row(options) for side in sides]


def failures(rows: list[Row]) -> list[str]:
    """What was promised and did not hold: a sentence each. Times are for the reader to judge."""
    adapting, _ = rows
    wrong = []
    if adapting["tried"] != adapting["accepted"] + sum(adapting["refused"].values()):
        wrong.append(f"{adapting['tried']} adaptations were tried, but not as many accepted or refused")
    entered = adapting["entered"] + sum(adapting["left_out"].values()) + adapting["dropped"]
    if adapting["observed"] != entered:
        wrong.append(f"{adapting['observed']} samples were observed, but {entered} accounted for")
    for row in rows:
        sent = row["actions_passed"] + sum(row["actions_refused"].values())
        if sent < row["ticks"]:
            wrong.append(f"{row['loop']}: {row['ticks']} ticks, but {sent} actions sent")
        if row["latched"] < row["dead"]:
            wrong.append(
                f"{row['loop']}: {row['dead']} dead observations, but the guard latched {row['latched']} times"
            )
    if not adapting["accepted"]:
        wrong.append("no adaptation was accepted")
    if (grown := adapting["memory_end"] - adapting["memory_start"]) > 8 * 2**20:
        wrong.append(f"memory grew by {grown / 2**20:.1f} MiB")
    return wrong


def main(options: Options) -> int:
    """Run, print and say what did not hold."""
    options = settled(options, STORED)
    begun = begin(options, ROOTS, seeds=(0,))
    with training_beside() if options.beside_training else nullcontext():
        rows = soak(options)
    print_lines(soak_lines(rows), "two loops in turns: adapting, and not")
    print_lines(soak_counts(rows), "what became of updates, samples and actions")
    keep(options, begun, rows)
    say = Console().print
    for sentence in (wrong := failures(rows)):
        say(f"[red]{sentence}")
    return 1 if wrong else 0


@contextmanager
def training_beside() -> Iterator[None]:
    """Let `msr train` run in another process, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "msr_runtime.cli", "train", "ring-nav", f"{folder}/run"]
        training = subprocess.Popen([*command, "--settings.steps", "1000000"], stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            ended = training.poll()
            training.kill()
            training.wait()
    if ended is not None:
        raise SystemExit(f"error: the training beside the loops ended before them, with exit code {ended}")


def _with_fault(number: int, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    for every, value in FAULTS.items():
        if number % every == 0:
            x = x.copy()
            x[0] = value
    return x, y


def _resident() -> int:
    """The memory that the process uses, in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
