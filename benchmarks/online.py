"""Learning at every tick: MSR under the recursive rule beside its peers under the same filter, on streams of samples.

Each method follows the same streams: it predicts each sample before it learns from it, and beside it samples over the
orbit. The settings of every method, such as noise and time constant, are chosen on validation streams, for each kind of
stream. All methods that are trained take the same number of outer steps.

* ring-nav and hex-drive: the task stays, jumps, or drifts. After 3, 10 and 40 samples it is counted how often the
  intervals over the orbit hold, with the noise as it was trained. It is measured how many broken robots are found.
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
from online_methods import BATCH, FILTERED, ONCE, PEERS, candidate, trainings
from online_outside import Measures, Samples, Usual, broken_robots, curve, found, learn, samples_of, surprise
from online_peers import Sure
from online_scores import LEVELS, certainty, choose, follow
from online_worlds import Logs, Simulated, World
from rich.console import Console
from store import EXPORT, RUNTIME, Output, begin, digest_of, keep, settled
from tables.online import online as online_lines
from tables.online import online_outside
from terminal import print_lines
from training import ROOTS, process_pool, train_all

from msr_envs.registry import load_family
from msr_runtime.files import write_atomically

MEASURED = (
    *ROOTS,
    *EXPORT,
    *RUNTIME,
    *(f"benchmarks/online{part}.py" for part in ("", "_deployed", "_learned", "_logs", "_methods", "_outside")),
    *(f"benchmarks/online_{part}.py" for part in ("peers", "restarts", "scores", "streams", "worlds")),
)
"""The code whose figures are stated."""
FRESH, BROKEN = 400, 200
"""Fresh robots that give the threshold, and as many that are tried; broken robots of each kind."""


@dataclass(frozen=True)
class Options(Output):
    """What to run."""

    robot: Literal["ring-nav", "hex-drive", "husky"] = "ring-nav"
    """The robot."""
    logs: Path | None = field(default=None, metadata={"place": True})
    """Folder with the logs of husky: one CSV file a drive, `TERRAIN_NUMBER.csv`."""
    terrains: tuple[str, ...] = TERRAINS
    """The terrains of husky that are left out of the training, one at a time."""
    methods: tuple[str, ...] = (*FILTERED, "recursive MSR" + ONCE, *BATCH, *PEERS)
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


STORED = {
    "online-ring-nav": Options(robot="ring-nav", steps=4000, streams=40),
    "online-hex-drive": Options(robot="hex-drive", steps=4000, shots=48, streams=40),
    "online-husky": Options(robot="husky", steps=600, shots=32),
}
"""The stored results, and what each of them measures."""


def main(options: Options) -> None:
    """Train, follow, score and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    worlds = list(worlds_of(options))
    begun = begin(options, MEASURED, range(options.seeds))
    say, seeds = Console().print, range(options.seeds)
    say("[bold]training[/]: Gauss-Newton steps, then the filters that begin where those end")
    learned = {"msr"} | {learner for method, learner in FILTERED.items() if method in options.methods}
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
    if options.robot != "husky":
        print_lines(online_outside(rows), f"{options.robot}: robots outside of the family")
    keep(options, begun, rows, pictures_of(rows))


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
    make, settings, as_trained = candidate(method, world, out, seed)
    figures: dict[str, Any] = {}
    for kind in world.kinds:
        chosen = choose(make, settings(kind), world.streams(kind, "validation"))
        followed = follow(make(**chosen), world.streams(kind, "test"))
        figures[kind] = {"settings": chosen, **world.figures(kind, followed)}
    row = {"world": world.name, "mirror": world.mirror, "method": method, "seed": seed, "streams": figures}
    if as_trained and isinstance(world, Simulated):
        trained = make(**as_trained)
        assert isinstance(trained, Sure)
        residuals = follow(trained, world.streams("stays", "test")).residuals
        row["certainty"] = {str(n): certainty(each) for n, each in residuals.items()}
        row["outside"] = outside(trained, world.name)
    return row


def outside(method: Sure, family: str) -> dict[str, Any]:
    """Return, by the kind of broken robot, false alarms, the share that is found, and the curve of both."""
    loaded = load_family(family)
    known, inside = (samples_of(loaded, split, FRESH) for split in ("validation", "test"))
    scale = known[0].reshape(-1, known[0].shape[-1]).std(0)
    fresh = learn(method, known, scale)
    usual = Usual.of(known, fresh)

    def measured(samples: Samples) -> Measures:
        return surprise(usual, samples, learn(method, samples, scale), loaded.inputs)

    limits, clean = surprise(usual, known, fresh, loaded.inputs), measured(inside)
    broken = {name: measured(samples) for name, samples in broken_robots(family, BROKEN)}
    return {
        name: {"alarms": alarms, "found": share, "curve": curve(clean, measures)}
        for name, measures in broken.items()
        for alarms, share in [found(limits, clean, measures)]
    }


def pictures_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the data of the pictures: reliability of all methods, and the first one's curves of alarms."""
    pictures: dict[str, Any] = {}
    sure = [row for row in rows if row["seed"] == 0 and "outside" in row]
    if sure:
        robot = sure[0]["world"]
        certain = {row["method"]: row["certainty"] for row in sure}
        holds = {method: {n: each["coverage"] for n, each in figures.items()} for method, figures in certain.items()}
        pictures[f"reliability-{robot}"] = {"levels": LEVELS, "methods": holds}
        pictures[f"outside-{robot}"] = {name: each["curve"] for name, each in sure[0]["outside"].items()}
    return pictures


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
