"""What recording costs a control loop: ticks without it, with the Recorder, and with the same messages written inline.

The three take turns, block by block, in loops at one rate; a tick is an observation, predict and the action, both
recorded. Written inline means mcap's own writer on the loop's thread, a chunk to the disk once a second; the Recorder
does the same on a thread of its own.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded

import numpy as np
import tyro
from mcap.writer import Writer
from numpy.typing import NDArray
from pydantic_core import to_json
from store import RUNTIME, Output, begin, keep, settled
from tables import recording as recording_lines
from terminal import print_lines

from msr_runtime import AdaptiveModel, ControlLoop
from msr_runtime.recording.messages import ACTION, OBSERVATION, schemas
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.vectors import Vectors

Tick = Callable[[NDArray], Any]


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    bundle: Path = Path("runs/demo/bundle")
    """Whose network acts."""
    hz: float = 200.0
    """The loop's rate."""
    blocks: int = 30
    """Blocks of each kind."""
    ticks: int = 200
    """Ticks of a block."""


STORED = {"recording": Options()}
"""The stored result, and what it measures."""
ROOTS = (*RUNTIME, "msr_runtime/recording", "msr_runtime/control", "benchmarks/recording.py")


class Costs(TypedDict):
    """How long a tick took, in s."""

    who: str
    hz: float
    ticks: int
    p50_seconds: float
    p99_seconds: float
    max_seconds: float
    p50_over_none: float
    """Median over the blocks of a block's p50 over that of the block without recording beside it."""
    dropped: int
    bytes_per_tick: float


class Inline:
    """The Recorder's observations and actions, written by the thread that calls."""

    def __init__(self, path: Path, model: AdaptiveModel) -> None:
        manifest = model.manifest
        self._vectors = Vectors.of(manifest.inputs, manifest.outputs, manifest.loss)
        self._file = path.open("xb")
        self._writer = Writer(self._file)
        self._writer.start()
        self._channels = {}
        for topic, schema in schemas(self._vectors).items():
            number = self._writer.register_schema(topic, "jsonschema", to_json(schema))
            self._channels[topic] = self._writer.register_channel(topic, "json", number)
        self._due = time.monotonic() + 1

    def add(self, topic: str, message: dict[str, Any]) -> None:
        """Write one message."""
        now = time.time_ns()
        self._writer.add_message(self._channels[topic], now, to_json(message, inf_nan_mode="strings"), now)
        if time.monotonic() > self._due:
            self._writer.flush()
            os.fsync(self._file.fileno())
            self._due = time.monotonic() + 1

    def tick(self, predict: Tick, x: NDArray) -> None:
        """Act, and write both messages."""
        self.add(OBSERVATION, self._vectors.x.to_message(x))
        self.add(ACTION, self._vectors.action.to_message(predict(x)))

    def close(self) -> None:
        """Finish the file."""
        self._writer.finish()
        self._file.close()


def main(options: Options) -> None:
    options = settled(options, STORED)
    begun = begin(options, ROOTS, seeds=(0,))
    model = AdaptiveModel.load(options.bundle)
    normalization, rng = model.manifest.normalization, np.random.default_rng(0)
    center, scale = np.asarray(normalization.input_center), np.asarray(normalization.input_scale)

    with tempfile.TemporaryDirectory(dir=".") as folder:  # on a disk: /tmp may be memory
        inline = Inline(Path(folder, "inline.mcap"), model)
        recorder = Recorder(Path(folder, "recorder.mcap"), model)

        def recorded(row: NDArray) -> None:
            recorder.observation(row)
            recorder.action(model.predict(row))

        kinds: dict[str, Tick] = {
            "none": model.predict,
            "recorder": recorded,
            "inline": lambda row: inline.tick(model.predict, row),
        }
        seconds: dict[str, list[NDArray]] = {who: [] for who in kinds}
        for block in range(options.blocks + 1):
            x = (center + scale * rng.standard_normal((options.ticks, len(center)))).astype(np.float32)
            for who, tick in kinds.items():
                taken = _block(tick, x, options.hz)
                if block:  # the first one warms up
                    seconds[who].append(taken)
        recorder.close()
        inline.close()
        files = {"recorder": Path(folder, "recorder.mcap"), "inline": Path(folder, "inline.mcap")}
        written = (options.blocks + 1) * options.ticks
        sizes = {who: file.stat().st_size / written for who, file in files.items()}

    medians = {who: np.median(blocks, 1) for who, blocks in seconds.items()}
    rows = [
        Costs(
            who=who,
            hz=options.hz,
            ticks=np.size(blocks),
            p50_seconds=float(np.median(blocks)),
            p99_seconds=float(np.percentile(blocks, 99)),
            max_seconds=float(np.max(blocks)),
            p50_over_none=float(np.median(medians[who] / medians["none"])),
            dropped=recorder.report().dropped if who == "recorder" else 0,
            bytes_per_tick=sizes.get(who, 0.0),
        )
        for who, blocks in seconds.items()
    ]
    print_lines(recording_lines(rows), f"ticks at {options.hz:g} Hz, {rows[0]['ticks']:,} of each kind")
    keep(options, begun, rows)


def _block(tick: Tick, x: NDArray, hz: float) -> NDArray[np.float64]:
    """Seconds of each tick of one loop over the observations x `(ticks, obs)`."""
    seconds, clock = np.zeros(len(x)), time.perf_counter
    with ControlLoop(hz=hz, ticks=len(x)) as loop:
        for number, _ in enumerate(loop):
            row = x[number]
            begin = clock()
            tick(row)
            seconds[number] = clock() - begin
    return seconds


if __name__ == "__main__":
    main(tyro.cli(Options))
