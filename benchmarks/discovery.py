"""Find the group in augmentations that are given as samples alone: images with their moved copies, vectors of robots.

What an augmentation draws is known here, and is compared with what was found. Flips and quarter turns are found in
coarse images and, once snapped to permutations, are exact. Turns by any angle are infinitely many: eight maps then
stand for the turns by 45 degrees, to a distance that is stated. Robots' vectors are asked number by number.

The images are files of the user: `--omniglot PATH`, `--images PATH`.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import tyro
from store import Output, begin, keep, settled
from tables.images import discovery as discovery_lines
from terminal import print_lines
from turns import find_turns

from msr_envs.images.family import ImageEpisodes
from msr_envs.registry import load_family
from msr_runtime.meta.symmetry.discovery import find_group
from msr_runtime.meta.symmetry.grid_discovery import find_grid_group
from msr_runtime.task import SymmetricFamily

ROOTS = (
    "msr_runtime/meta/symmetry/discovery.py",
    "msr_runtime/meta/symmetry/grid.py",
    "msr_runtime/meta/symmetry/grid_discovery.py",
    "envs/msr_envs/images",
    "benchmarks/discovery.py",
    "benchmarks/turns.py",
)


class Augmentation(NamedTuple):
    """What a family of images draws."""

    options: str
    group: str
    """What is to be found."""


IMAGES = {"characters": "omniglot:size=28", "photographs": "images:size=42"}
"""Name in the table to the family."""
AUGMENTATIONS = {
    "flips, turns within 30°, crops": Augmentation("angle=30,flips=both,crop=0.8", "D2"),
    "quarter turns": Augmentation("angle=quarter,flips=none,crop=1", "C4"),
    "quarter turns, flips": Augmentation("angle=quarter,flips=both,crop=1", "D4"),
    "turns by any angle": Augmentation("angle=any,flips=none,crop=1", "C4"),
    "crops": Augmentation("angle=0,flips=none,crop=0.8", "none"),
    "turns within 30°, crops": Augmentation("angle=30,flips=none,crop=0.8", "none"),
}
TURNS = 8
"""Maps that are to stand for turns by any angle, in a second search."""
ROBOTS = ("hex-drive", "ring-nav", "ant")


@dataclass(frozen=True)
class Options(Output):
    """What to measure."""

    seeds: int = 3
    """Seeds of each search."""
    omniglot: Path | None = field(default=None, metadata={"place": True})
    """The file of Omniglot. None: the environment variable MSR_OMNIGLOT."""
    images: Path | None = field(default=None, metadata={"place": True})
    """The file of photographs. None: the environment variable MSR_IMAGES."""


STORED = {"discovery": Options()}
"""The stored result, and what it measures."""


class Row(TypedDict):
    """One search."""

    samples: str
    """Of which samples."""
    augmentation: str
    drawn: str
    """The group that is drawn, as it should be found."""
    found: str
    seed: int
    distance: float | None
    """The largest distance of a map to its element, 0 to 1. None where nothing was found."""
    costs: dict[str, float]
    """Number of maps to the mean squared error that they leave, relative to the augmented images."""
    seconds: float
    """Processor time."""


def main(options: Options) -> None:
    """Search and print."""
    torch.set_num_threads(1)
    options = settled(options, STORED)
    begun = begin(options, ROOTS, range(options.seeds))
    for path, variable in ((options.omniglot, "MSR_OMNIGLOT"), (options.images, "MSR_IMAGES")):
        if path is not None:
            os.environ[variable] = str(path.resolve())
    rows = []
    for row in (*search_images(options.seeds), *map(search_robot, ROBOTS)):
        print(f"{row['samples']}, {row['augmentation']}, seed {row['seed']}: {row['found']}", flush=True)
        rows.append(row)
    print_lines(discovery_lines(rows), "groups that were found in augmentations")
    keep(options, begun, rows)


def search_images(seeds: int) -> Iterable[Row]:
    """Search every augmentation of images for flips and quarter turns, and that by any angle for more turns."""
    for (samples, name), (words, augmentation), seed in product(IMAGES.items(), AUGMENTATIONS.items(), range(seeds)):
        family = load_family(f"{name},{augmentation.options}")
        began = time.process_time()
        finding = find_grid_group(family, np.random.default_rng(seed))
        yield Row(
            samples=samples,
            augmentation=words,
            drawn=augmentation.group,
            found=finding.group.name if finding.group else "none",
            seed=seed,
            distance=finding.distance if finding.group else None,
            costs={str(count): cost for count, cost in finding.costs.items()},
            seconds=time.process_time() - began,
        )
        if "angle=any" in augmentation.options:
            assert isinstance(family, ImageEpisodes)
            began = time.process_time()
            turns = find_turns(family, TURNS, np.random.default_rng(seed))
            yield Row(
                samples=samples,
                augmentation=f"{words}, by {TURNS} maps",
                drawn=f"C{TURNS}",
                found=f"C{TURNS}" if turns.closes else "none",
                seed=seed,
                distance=turns.distance if turns.closes else None,
                costs={str(TURNS): turns.cost},
                seconds=time.process_time() - began,
            )


def search_robot(name: str) -> Row:
    """Search a robot's augmentation, and compare the matrices with those that its fields declare."""
    family, began = load_family(name), time.process_time()
    found = find_group(family)
    seconds = time.process_time() - began
    assert isinstance(family, SymmetricFamily)
    declared = family.group()
    distance = None
    if found is not None:
        sides = zip(declared.inputs, declared.outputs, strict=True)
        away = [np.abs(found.inputs - x).max((1, 2)) + np.abs(found.outputs - y).max((1, 2)) for x, y in sides]
        distance = float(np.max([each.min() for each in away]))
    return Row(
        samples=f"{name}: vectors",
        augmentation="its own",
        drawn=declared.name,
        found=found.name if found else "none",
        seed=0,
        distance=distance,
        costs={},
        seconds=seconds,
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
