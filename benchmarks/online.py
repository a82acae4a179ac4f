"""Learning at every tick: MSR under the recursive rule beside its peers under the same filter, on streams of samples.

Each method follows the same streams: it predicts each sample before it learns from it, and beside it samples over the
orbit. The settings of every method (noise, time constant, and what else it has) are chosen on validation streams, for
each kind of stream. All methods that are trained take as many outer steps.

* ring-nav and hex-drive: the task stays, jumps, or drifts. After 3, 10 and 40 samples it is counted how often the
  intervals over the orbit hold.
* husky: logs of a real robot, which the option `logs` names. One terrain at a time is left out of the training. The
  robot turns one way for a while, then the other way. The methods know its mirror, or do not.

Run again, it goes on where it was interrupted. Runs and figures of other code are made anew.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from online_logs import TERRAINS
from online_methods import BATCH, FILTERED, PEERS, candidate, trainings
from online_scores import certainty, choose, follow
from online_worlds import Logs, Simulated, World
from rich.console import Console
from store import EXPORT, RUNTIME, Output, begin, digest_of, keep, settled
from tables.online import online as online_lines
from terminal import print_lines
from training import ROOTS, process_pool, train_all

from msr_runtime.files import write_atomically

MEASURED = (
    *ROOTS,
    *EXPORT,
    *RUNTIME,
    *(f"benchmarks/online{part}.py" for part in ("", "_deployed", "_learned", "_logs", "_methods", "_peers")),
    *(f"benchmarks/online_{part}.py" for part in ("scores", "streams", "worlds")),
)
"""The code whose figures are stated."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    robot: Literal["ring-nav", "hex-drive", "husky"] = "ring-nav"
    """The robot."""
    logs: Path | None = field(default=None, metadata={"place": True})
    """Folder with the logs of husky: one CSV file a drive, `TERRAIN_NUMBER.csv`."""
    terrains: tuple[str, ...] = TERRAINS
    """The terrains of husky that are left out of the training, one at a time."""
    methods: tuple[str, ...] = (*FILTERED, *BATCH, *PEERS)
    """The methods; ratios are over the first of them."""
    steps: int = 2000
    """Outer steps of every method that is trained."""
    shots: int = 64
    """Most samples that a filter is trained on."""
    seeds: int = 3
    """Seeds of the methods that are trained."""
    streams: int = 60
    """Streams of fresh tasks, of each kind, to score on. The logs have as many as they have."""
    validation_streams: int = 20
    """The same, to choose settings on."""
    out: Path = Path("runs/online")
    """Folder of the runs; finished ones in it are kept."""


STORED = {f"online-{robot}": Options(robot=robot) for robot in ("ring-nav", "hex-drive", "husky")}
"""The stored results, and what each of them measures."""


def main(options: Options) -> None:
    """Train, follow, score and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    worlds = list(worlds_of(options))
    begun = begin(options, MEASURED, range(options.seeds))
    say, seeds = Console().print, range(options.seeds)
    say("[bold]training[/]: Gauss-Newton steps, then the filters that begin where those end")
    learned = {"msr"} | {FILTERED[method] for method in options.methods if method in FILTERED}
    jobs = [trainings(world, options.out, options.steps, options.shots, seed) for world in worlds for seed in seeds]
    for part in range(2):
        train_all([job for parts in jobs for job in parts[part] if job.method in learned])
    say("[bold]streams[/]: settings of every method on validation streams, then fresh streams")
    digest, rows = digest_of(MEASURED), []
    with process_pool() as pool:
        asked = [
            (world, method, seed)
            for world in worlds
            for method in options.methods
            for seed in (range(1) if method in PEERS else seeds)
        ]
        for (world, method, seed), future in zip(
            asked, [pool.submit(scored, *each, options, digest) for each in asked], strict=True
        ):
            rows.append(future.result())
            say(f"scored {world.name} {method} {seed}")
    print_lines(online_lines(rows), f"{options.robot}: means over {options.seeds} seeds")
    keep(options, begun, rows)


def worlds_of(options: Options) -> Iterator[World]:
    """Yield where the methods are compared: a simulated robot, or terrains with and without a known mirror."""
    if options.robot != "husky":
        yield Simulated(options.robot, options.streams, options.validation_streams)
        return
    if options.logs is None or not any(options.logs.glob("*.csv")):
        raise SystemExit(
            f"error: --logs is '{options.logs}', but a folder with the CSV files of husky's drives is wanted; the "
            "measurement of this robot needs real logs"
        )
    for terrain in options.terrains:
        for mirror in (True, False):
            yield Logs(options.logs, options.out, terrain, mirror)


def scored(world: World, method: str, seed: int, options: Options, digest: str) -> dict[str, Any]:
    """Return the row of one method, from its file if the same code and settings have written it."""
    torch.set_num_threads(1)
    path = options.out / "scored" / f"{world.name} {world.mirror} {method} {seed}.json"
    made_of = {"digest": digest, "world": repr(world), "steps": options.steps, "shots": options.shots}
    if path.exists() and (kept := json.loads(path.read_text()))["made_of"] == made_of:
        return kept["row"]
    row = score(world, method, seed, options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"made_of": made_of, "row": row}).encode())
    return row


def score(world: World, method: str, seed: int, out: Path) -> dict[str, Any]:
    """Choose a method's settings, let it follow fresh streams, and return its row."""
    make, settings = candidate(method, world, out, seed)
    figures: dict[str, Any] = {}
    for kind in world.kinds:
        chosen = choose(make, settings(kind), world.streams(kind, "validation"))
        followed = follow(make(**chosen), world.streams(kind, "test"))
        figures[kind] = {"settings": chosen, **world.figures(kind, followed)}
        if kind == "stays" and followed.residuals:
            figures[kind]["certainty"] = {str(n): certainty(each) for n, each in followed.residuals.items()}
    return {"world": world.name, "mirror": world.mirror, "method": method, "seed": seed, "streams": figures}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
