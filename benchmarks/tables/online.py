"""The tables of methods that learn at every tick."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tables.cells import MISSING, Lines, Rows, bold_lowest, error, grouped, seeds, significant, span

AFTER = ("1", "3", "10", "20", "40")
"""Numbers of samples after which errors over the orbit are shown."""
CERTAIN = ("3", "10", "40")
"""The same for how sure a method is."""
LEVEL = 4
"""Where the 90 % intervals stand among those that are counted."""
SEEDS = ", lowest and highest seed"
"""What is added to the head of an error for the range over seeds."""
MIRROR = {None: "", True: ", mirror known", False: ", mirror unknown"}


def online(rows: Rows) -> Lines:
    """The tables of one result side by side, for the terminal."""
    if rows[0]["mirror"] is not None:
        return online_logs(rows)
    certain = {line["method"]: line for line in online_certainty(rows)}
    nothing = {f"{head} after {n}": MISSING for head in ("hold", "mean square") for n in CERTAIN}
    return [
        {**stays, **moves, **certain.get(stays["method"], nothing)}
        for stays, moves in zip(online_stays(rows), online_streams(rows), strict=True)
    ]


def online_stays(rows: Rows) -> Lines:
    """One line per method: the error over the orbit after so many samples of a task that stays."""
    return _lines(
        rows,
        {f"after {n}": _figure("stays", "after", n) for n in AFTER},
        lowest=[f"after {n}" for n in AFTER],
        ranges=["after 10", "after 40"],
    )


def online_streams(rows: Rows) -> Lines:
    """One line per method: errors along streams whose task jumps or drifts."""
    heads = {
        "jumps: next sample": _figure("jumps", "next"),
        "jumps: orbit": _figure("jumps", "orbit"),
        "at a jump": _figure("jumps", "at_jump"),
        "10 samples later": _figure("jumps", "soon_after"),
        "drifts: next sample": _figure("drifts", "next"),
        "drifts: orbit": _figure("drifts", "orbit"),
    }
    ranges = ["jumps: orbit", "drifts: orbit"]
    return _lines(rows, heads, lowest=[head for head in heads if head != "at a jump"], ranges=ranges)


def online_certainty(rows: Rows) -> Lines:
    """One line per method that says how sure it is: coverage and mean squares over the orbit."""
    lines = []
    for (method,), ours in grouped([row for row in rows if "certainty" in row], "method"):
        each = [row["certainty"] for row in ours]
        line = {"method": method}
        for n in CERTAIN:
            line[f"hold after {n}"] = seeds_of([one[n]["coverage"][LEVEL] for one in each], lambda x: f"{x:.0%}")
        for n in CERTAIN:
            line[f"mean square after {n}"] = seeds_of([one[n]["mean_square"] for one in each], lambda x: f"{x:.2f}")
        lines.append(line)
    return lines


def online_outside(rows: Rows) -> Lines:
    """One line per method that says how sure it is, and per kind of broken robot."""
    return [
        {
            "method: robot": f"{method}: {name}",
            "false alarms": seeds_of([row["outside"][name]["alarms"] for row in ours], lambda x: f"{x:.1%}"),
            "found": seeds_of([row["outside"][name]["found"] for row in ours], lambda x: f"{x:.0%}"),
        }
        for (method,), ours in grouped([row for row in rows if "outside" in row], "method")
        for name in ours[0]["outside"]
    ]


def online_logs(rows: Rows) -> Lines:
    """One line per method and per knowledge of the mirror: means over terrains, and the first samples on each."""
    lines = []
    for (mirror, method), ours in grouped(rows, "mirror", "method"):
        line = {"method": method + MIRROR[mirror]}
        for head, figure in (
            ("in order", _figure("in order", "next")),
            ("before a switch", _figure("switches", "before")),
            ("32 after it", _figure("switches", "early")),
            ("the next 32", _figure("switches", "late")),
        ):
            line[head] = error(np.mean([figure(row) for row in ours]))
        early = _figure("switches", "early")
        each = [float(np.mean([early(row) for row in same])) for _, same in grouped(ours, "seed")]
        line["32 after it" + SEEDS] = seeds(each, error)
        for (terrain,), there in grouped(ours, "world"):
            line[f"32 after it, {terrain}"] = error(np.mean([early(row) for row in there]))
        lines.append(line)
    return lines


def seeds_of(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The mean over seeds and, in brackets, the lowest and the highest if they differ."""
    differ = text(min(values)) != text(max(values))  # the mean of equal values may be rounded the other way
    return f"{text(float(np.mean(values)))} ({span(values, text)})" if differ else span(values, text)


def online_over(method: str, kind: str, *path: str) -> Callable[..., str]:
    """Return what tells how many times a figure of `method` the same figure of recursive MSR is."""

    def text(rows: Rows) -> str:
        means = {
            name: float(np.mean([_figure(kind, *path)(row) for row in ours]))
            for (name,), ours in grouped(rows, "method")
        }
        return significant(means["recursive MSR"] / means[method], 2)

    return text


def _figure(kind: str, *path: str) -> Callable[[Mapping[str, Any]], float]:
    def figure(row: Mapping[str, Any]) -> float:
        found = row["streams"][kind]
        for key in path:
            found = found[key]
        return found

    return figure


def _lines(
    rows: Rows,
    heads: Mapping[str, Callable[[Mapping[str, Any]], float]],
    lowest: Sequence[str],
    ranges: Sequence[str],
) -> Lines:
    """One line per method: the mean of each figure over seeds, in bold where it is the lowest, and ranges of some."""
    values = {
        method: {head: [figure(row) for row in ours] for head, figure in heads.items()}
        for (method,), ours in grouped(rows, "method")
    }
    lines = [
        {"method": method}
        | {head: error(np.mean(each)) for head, each in figures.items()}
        | {head + SEEDS: seeds(figures[head], error) for head in ranges}
        for method, figures in values.items()
    ]
    for head in lowest:
        lines = bold_lowest(lines, head, [np.mean(figures[head]) for figures in values.values()])
    return lines
