"""A robot that acts and adapts for a million ticks: no deadline missed for it, no memory lost, every refusal counted.

Two loops take turns, block by block, on the same bundle and the same samples: one adapts all along, one never does. The
robot changes every few blocks (another task of the family), and its sensors fail now and then. A million ticks of each
loop at 1 kHz take 35 minutes.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import tyro
from numpy.typing import NDArray
from results import write_json
from rich.console import Console
from rich.table import Table

from msr_envs.registry import load_family
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, OnlineAdapter
from msr_runtime.task import TaskBatch

BLOCK = 1000  # ticks before the other loop's turn
BLOCKS_PER_TASK = 3
TASKS, SAMPLES = 20, 256
FAULTS = {997: np.float32("nan"), 1999: np.float32("inf"), 2999: np.float32(1e30)}
"""Every how many-th sample carries which value."""


@dataclass(frozen=True)
class Options:
    """How long, and how fast."""

    bundle: Path = Path("runs/demo/bundle")
    """A bundle of a built-in family."""
    ticks: int = 1_000_000
    """Ticks of each of the two loops."""
    hz: float = 1000.0
    """Of the control loops, in Hz."""
    adapt_hz: float = 100.0
    """Of the adaptations, in Hz."""
    realtime: bool = False
    """Run loops and adaptations under SCHED_FIFO with memory locked: right where other programs run beside."""
    json: Path | None = None
    """Where to write the rows."""


class Row(TypedDict):
    """What one loop did; times in s, memory in bytes."""

    loop: str
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
    memory: list[int] = field(default_factory=list)

    def run(self, block: int, batch: TaskBatch, ticks: int, options: Options) -> None:
        """Act, and observe what the task does, for one block of ticks."""
        task = block // BLOCKS_PER_TASK % TASKS
        xs, ys = batch.query_x[task], batch.query_y[task]
        executions, late = self.executions[self.done :], self.lateness[self.done :]
        warmup = 20
        loop = ControlLoop(options.hz, ticks=ticks + warmup, warmup=warmup, realtime=options.realtime)
        with loop:
            origin = time.monotonic()
            for index, number in enumerate(loop, start=-warmup):
                begin = time.monotonic()
                self.seen += 1
                x, y = xs[self.seen % SAMPLES], ys[self.seen % SAMPLES]
                self.guard(self.online.predict(x), begin)
                self.online.observe(*_with_fault(self.seen, x, y))
                if index >= 0:
                    executions[index] = time.monotonic() - begin
                    late[index] = begin - origin - number / options.hz
        late[:ticks] -= late[:ticks].min()
        report = loop.report()
        self.done, self.overruns = self.done + ticks, self.overruns + report.overruns
        self.skipped += report.skipped
        self.memory.append(_resident())

    def row(self) -> Row:
        """The figures of all blocks."""
        report, actions = self.online.report(), self.guard.report()
        execution, late = (
            np.percentile(each, [50, 99, 99.9, 100]).tolist() for each in (self.executions, self.lateness)
        )
        names = ("p50", "p99", "p999", "max")
        return Row(
            loop=self.name,
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
        guard = ActionGuard(model.manifest.outputs, options.hz, max_age=1 / options.hz, latch_after=options.ticks)
        samples = np.full(options.ticks, np.nan, np.float32), np.full(options.ticks, np.nan, np.float32)
        sides.append(Side(name, OnlineAdapter(own, hz=options.adapt_hz, realtime=options.realtime), guard, *samples))
    adapting, still = sides
    for block, done in enumerate(range(0, options.ticks, BLOCK)):
        ticks = min(BLOCK, options.ticks - done)
        with adapting.online:
            adapting.run(block, batch, ticks, options)
        still.run(block, batch, ticks, options)
    return [side.row() for side in sides]


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
    if not adapting["accepted"]:
        wrong.append("no adaptation was accepted")
    if (grown := adapting["memory_end"] - adapting["memory_start"]) > 8 * 2**20:
        wrong.append(f"memory grew by {grown / 2**20:.1f} MiB")
    return wrong


def main(options: Options) -> int:
    """Run, print and say what did not hold."""
    say = Console().print
    rows = soak(options)
    table = Table(title=f"{options.ticks:,} ticks of each loop at {options.hz:g} Hz, in turns; times in µs")
    table.add_column("")
    for row in rows:
        table.add_column(row["loop"], justify="right")
    for key in rows[0]:
        if key != "loop":
            table.add_row(key.replace("_", " "), *(_show(key, row[key]) for row in rows))
    say(table)
    if options.json:
        write_json(options.json, rows)
    for sentence in (wrong := failures(rows)):
        say(f"[red]{sentence}")
    return 1 if wrong else 0


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


def _show(key: str, value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {name}" for name, count in value.items()) or "none"
    if isinstance(value, float):
        return f"{1e6 * value:.1f}"
    return f"{value / 2**20:.1f} MiB" if key.startswith("memory") and isinstance(value, int) else f"{value:,}"


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
