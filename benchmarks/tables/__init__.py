"""Every published table: which stored results it is made of, its columns, their order and their formats.

A page names a table (`<!-- table: NAME -->`), and `render.py` writes it there. A sentence names one cell of a table
(`<!-- value: NAME | ROW | COLUMN -->`) or one of `VALUES`. The scripts print their own rows by the same functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tables.cells import Lines, Rows, significant
from tables.images import discovery, few_shot, few_shot_bundle, learned_group, new_parts
from tables.learned import NEWTON, demo, demo_short, families, families_by_both, orbit_errors, synthetic
from tables.online import online_certainty, online_logs, online_outside, online_over, online_stays, online_streams
from tables.running import faults, guard_drives, guard_faults, guard_updates, recording, serving, soak, soak_counts
from tables.structure import structure, structure_left, widths
from tables.timed import (
    filter_memory,
    gpu,
    gpu_training,
    latency,
    memory,
    processes,
    shots,
    throughput,
    updates,
    updates_endless,
)


class Table(NamedTuple):
    """One table: `lines` is called with the rows of each of `sources`, stored results by name."""

    sources: tuple[str, ...]
    lines: Callable[..., Lines]
    section: str = ""
    """What stands before the table, such as a heading: it comes and goes with its results, see `PENDING`."""


class Value(NamedTuple):
    """One number that no table holds: `text` is called with the rows of each of `sources`."""

    sources: tuple[str, ...]
    text: Callable[..., str]


_FAMILIES = ("families-ring-nav", "families-ring-nav-gauss-newton")
_HEX = ("families-hex-drive", "families-hex-drive-gauss-newton")
_SOAKS = ("soak-million", "soak-beside-training", "soak-realtime", "soak-ordinary", "soak-slower", "soak-by-sample")
_LATER = {
    "quadrotor": "A quadrotor in wind learns what its nominal model lacks, and flies a figure eight.",
    "arm": "A table-top arm learns where its fingertip comes to rest after motors were replaced, and follows a path.",
    "ant": "A robot on four legs learns its own dynamics, and trots.",
}
"""Robots that are trained for days: heading and words before their tables."""
PENDING = {f"{kind}-{robot}{rule}" for robot in _LATER for kind, rule in (("families", "-gauss-newton"), ("drive", ""))}
PENDING |= {"gpu", "widths", "few-shot-bundle", "few-shot-photographs", "few-shot-any-angle"}
"""Results that need not be stored yet. Their tables and pictures are then left out of the pages."""
_PHOTOGRAPHS = """## Photographs

Groceries, photographed with a phone in shops (Klasson, Zhang and Kjellström, 2019): 42 x 42 pixels in color, five
classes at a time. The queries are moved as above. Turned training classes are not added here:"""
_ANY_ANGLE = """## Turned by any angle

The photographs at 33 x 33 pixels, with queries that are turned by any angle and not flipped. Filters hold quarter turns
(C4) or turns by 45 degrees (C8). The latter are exact for the filters, but not for the pixels:"""
_BUNDLE = """## On the robot

The prototypes of the first table are exported, and run on the same episodes: by torch, by ONNX Runtime and in native
code. `named otherwise` is the share of images to which torch gives another name. The times are medians: to teach five
classes from one image each, and to name one image."""
_WIDTHS = """## Wider networks

A full U has as many rows as the weights have numbers, so it grows with the square of the width. Fewer columns make it
smaller, and Kronecker products much smaller. The table compares them on ring-nav, by gradient steps, with three hidden
layers. The time of an outer step is divided by that of the first line. `over full` is the error divided by that of the
full U of the same width:"""
_MEMORY = """### What a longer memory buys

The filter's covariance is made of the rows of a limited number of samples, its memory. The network was trained with a
memory of 64. The table has the errors over the orbit, how often 90 % intervals hold, and the time of an update once the
memory is full, over that of a prediction:"""
_UPDATES = """## An update by one sample

The rule `recursive` on ring-nav's network, with a full memory of 64 samples. `native` is the runtime's other engine.
The peers compute the same update in torch and in JAX. All are compared with `predict` on ONNX Runtime:"""
_ENDLESS = """One model learns from sample after sample. Each number of v has a variance, here divided by what it was
before the first sample. So it lies between 0 and 1. The table has the smallest and the largest. NIS is the squared
error of the prediction over the variance that was expected, per output:"""
TABLES = {
    "demo": Table(("demo",), demo),
    "demo/short": Table(("demo",), demo_short),
    "families/ring-nav": Table(_FAMILIES[:1], families),
    "families/ring-nav-gauss-newton": Table(_FAMILIES[1:], families),
    "families/hex-drive": Table(_HEX[:1], families),
    "families/hex-drive-gauss-newton": Table(_HEX[1:], families),
    "families/hex-drive-long": Table(("families-hex-drive-long",), families),
    **{
        f"families/{robot}-gauss-newton": Table(
            (f"families-{robot}-gauss-newton",), families_by_both, f"## {robot}\n\n{words}"
        )
        for robot, words in _LATER.items()
    },
    "families/orbit-errors": Table(_FAMILIES + _HEX, orbit_errors),
    "synthetic/signals": Table(("synthetic-signals",), synthetic),
    "synthetic/images-e2cnn": Table(("synthetic-images-e2cnn",), synthetic),
    "synthetic/images": Table(("synthetic-images",), synthetic),
    "synthetic/images-hard": Table(("synthetic-images-hard",), synthetic),
    "few-shot/quick": Table(("few-shot-quick", "few-shot-found-quick"), few_shot),
    "few-shot/night-prototypes": Table(("few-shot-night-prototypes",), few_shot, "## Half an hour of one core"),
    "few-shot/photographs": Table(("few-shot-photographs",), few_shot, _PHOTOGRAPHS),
    "few-shot/any-angle": Table(("few-shot-any-angle",), few_shot, _ANY_ANGLE),
    "few-shot/bundle": Table(("few-shot-bundle",), few_shot_bundle, _BUNDLE),
    "few-shot/discovery": Table(("discovery",), discovery),
    "few-shot/learned-group": Table(("learned-group", "learned-group-control"), learned_group),
    "new-parts": Table(("new-parts",), new_parts),
    "latency": Table(("latency",), latency),
    "latency/cached": Table(("latency-cached",), latency),
    "gpu": Table(("gpu",), gpu),
    "gpu/training": Table(("gpu",), gpu_training, "Outer steps of meta-training, on all cores and on the GPU:"),
    "shots": Table(("shots",), shots),
    "structure": Table(("structure",), structure),
    "structure/left": Table(("structure",), structure_left),
    "widths": Table(("widths",), widths, _WIDTHS),
    "throughput": Table(("throughput",), throughput),
    "scaling/processes": Table(("scaling",), processes),
    "scaling/memory": Table(("scaling",), memory),
    "soak": Table(_SOAKS, soak),
    "soak/counts": Table(_SOAKS, soak_counts),
    "faults": Table(("faults",), faults),
    "guard/updates": Table(("guard",), guard_updates),
    "guard/drives": Table(("guard",), guard_drives),
    "guard/faults": Table(("guard",), guard_faults),
    "serving": Table(("serving",), serving),
    "recording": Table(("recording",), recording),
    "online/ring-nav/stays": Table(("online-ring-nav",), online_stays),
    "online/ring-nav/streams": Table(("online-ring-nav",), online_streams),
    "online/ring-nav/certainty": Table(("online-ring-nav",), online_certainty),
    "online/ring-nav/outside": Table(("online-ring-nav",), online_outside),
    "online/hex-drive/stays": Table(("online-hex-drive",), online_stays, "### A task that stays, hex-drive"),
    "online/hex-drive/streams": Table(("online-hex-drive",), online_streams, "### Jumps and drifts, hex-drive"),
    "online/hex-drive/certainty": Table(("online-hex-drive",), online_certainty, "### How sure it is, hex-drive"),
    "online/hex-drive/outside": Table(("online-hex-drive",), online_outside, "### Is the robot broken, hex-drive"),
    "filter-memory": Table(("filter-memory",), filter_memory, _MEMORY),
    "updates": Table(("updates",), updates, _UPDATES),
    "updates/endless": Table(("updates",), updates_endless, _ENDLESS),
    "online/husky": Table(("online-husky",), online_logs),
}


def _over(method: str, other: str) -> Callable[..., str]:
    """How many times the orbit error of `other` that of `method` is; both are looked up in all the rows."""

    def text(*results: Rows) -> str:
        orbit = {row["method"]: np.mean(row["error_orbit"]) for rows in results for row in rows}
        return significant(orbit[method] / orbit[other], 2)

    return text


VALUES = {
    **{
        f"online/ring-nav/{name}": Value(("online-ring-nav",), online_over(other, *figure))
        for name, other, *figure in (
            ("ten-over-batch", "windowed Gauss-Newton", "stays", "after", "10"),
            ("forty-over-batch", "windowed Gauss-Newton", "stays", "after", "40"),
            ("jumps-over-cavia", "recursive CAVIA", "jumps", "orbit"),
            ("drifts-over-cavia", "recursive CAVIA", "drifts", "orbit"),
        )
    },
    "faults/tried": Value(("faults",), lambda rows: f"{sum(row['tried'] for row in rows):,}"),
    **{
        f"families/{family}/{name}": Value(sources, _over(method, other))
        for family, sources in {"ring-nav": _FAMILIES, "hex-drive": _HEX}.items()
        for name, method, other in (
            ("gauss-newton-over-gradient", "msr" + NEWTON, "msr"),
            ("cavia-over-gauss-newton", "cavia", "msr" + NEWTON),
            ("maml-over-gauss-newton", "maml", "msr" + NEWTON),
            ("cavia-over-msr", "cavia", "msr"),
            ("maml-over-msr", "maml", "msr"),
            ("random-directions-over-msr", "msr, W0 free, U random", "msr"),
        )
    },
}
