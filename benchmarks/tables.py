"""Every published table: which stored results it is made of, its columns, their order and their formats.

A page names a table (`<!-- table: NAME -->`), and `render.py` writes it there. A sentence names one cell of a table
(`<!-- value: NAME | ROW | COLUMN -->`) or one of `VALUES`. The scripts print their own rows by the same functions.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

Rows = Sequence[Mapping[str, Any]]
"""The rows of one stored result, in the form that its script writes."""
Lines = list[dict[str, str]]
"""A table's lines; the keys are the columns' heads, and the first cell of a line is its name."""
MISSING = "–"
NEWTON = ", gauss-newton"
"""Follows a method's name where it adapts by Gauss-Newton steps and not by gradient steps."""


class Table(NamedTuple):
    """One table: `lines` is called with the rows of each of `sources`, stored results by name."""

    sources: tuple[str, ...]
    lines: Callable[..., Lines]


class Value(NamedTuple):
    """One number that no table holds: `text` is called with the rows of each of `sources`."""

    sources: tuple[str, ...]
    text: Callable[..., str]


def demo(rows: Rows) -> Lines:
    """One line per method; accuracy and times belong to the same network, adapting and acting on ONNX Runtime."""
    lines = [
        {
            "method": row["method"],
            "network": row["network"],
            "adapted numbers": f"{row['adapted_parameters']:,}",
            "sector": _error(row["error_sector"]),
            "orbit": _error(row["error_orbit"]),
            "wide": _error(row["error_wide"]),
            "equivariance error": f"{row['equivariance_error']:.2f}",
            "goals before": f"{row['closed_loop_before']:.0%}",
            "goals after": f"{row['closed_loop_after']:.0%}",
            "operator": f"{row['closed_loop_reference']:.0%}",
            "adapt, ms": _number(row["adapt_seconds"], 1e3, ".2f"),
            "predict, µs": _number(row["predict_seconds"], 1e6, ".1f"),
        }
        for row in rows
    ]
    return _bold_lowest(lines, "orbit", [row["error_orbit"] for row in rows])


def demo_short(rows: Rows) -> Lines:
    """The demo's columns that a first look needs."""
    kept = ("method", "adapted numbers", "orbit", "goals before", "goals after", "adapt, ms", "predict, µs")
    return [{head: line[head] for head in kept} for line in demo(rows)]


def families(rows: Rows) -> Lines:
    """One line per method: means over seeds, and the orbit error over that of the first method."""
    lines = [
        {
            "method": row["method"].removesuffix(NEWTON),
            "network, outer rate": f"{row['network']}, {row['outer_rate']:g}",
            "sector": _error(np.mean(row["error_sector"])),
            "orbit": _error(np.mean(row["error_orbit"])),
            "orbit, lowest and highest seed": _seeds(row["error_orbit"], _error),
            "wide": _error(np.mean(row["error_wide"])),
            "orbit / sector": f"{np.mean(row['error_orbit']) / np.mean(row['error_sector']):.2f}",
            "orbit / MSR's": _ratio(row["orbit_ratio"], row["orbit_ratio_interval"]),
            **_closed_loop(row),
        }
        for row in rows
    ]
    return _bold_lowest(lines, "orbit", [np.mean(row["error_orbit"]) for row in rows])


def orbit_errors(ring: Rows, ring_newton: Rows, hex_drive: Rows, hex_drive_newton: Rows) -> Lines:
    """One line per method and rule: the mean orbit error on both robots. Controls are left out."""
    on_ring, on_hex = (
        {row["method"]: np.mean(row["error_orbit"]) for row in rows if not _is_control(row["method"])}
        for rows in ([*ring, *ring_newton], [*hex_drive, *hex_drive_newton])
    )
    methods = sorted(on_ring, key=lambda method: on_ring[method])
    lines = [{"method": m, "ring-nav": _error(on_ring[m]), "hex-drive": _error(on_hex.get(m))} for m in methods]
    return _bold_lowest(lines, "ring-nav", [on_ring[m] for m in methods])


def synthetic(rows: Rows) -> Lines:
    """One line per problem and method: means over seeds. Rows of one problem and method follow each other."""
    lines = []
    for (family, method), group in groupby(rows, lambda row: (row["family"], row["method"])):
        ours = list(group)
        authors = ours[0]["authors"]
        lines.append(
            {
                "problem, method": f"{family}: {method}",
                "error": _significant(np.mean([row["error"] for row in ours]), 3),
                "± over tasks": _interval([row["interval"] for row in ours]),
                "lowest and highest seed": _seeds([row["error"] for row in ours], lambda x: _significant(x, 3)),
                "authors": MISSING if authors is None else f"{authors:.4g}",
                "recovery": _mean([row["recovery"] for row in ours]),
                "energy": _mean([row["energy"] for row in ours]),
            }
        )
    return lines


PEERS = ("bare session", "torch eager", "torch.compile", "JAX jit", "copying U")
"""The contenders of the latency table, each over AdaptiveModel."""


def latency(rows: Rows) -> Lines:
    """One line per call: each contender's median over that of `AdaptiveModel` in the same run."""
    lines = []
    for what in dict.fromkeys(row["what"] for row in rows):
        times = {(row["who"], row["run"]): row["p50_seconds"] for row in rows if row["what"] == what}
        line = {"call": what}
        for peer in PEERS:
            ratios = [p50 / times["AdaptiveModel", run] for (who, run), p50 in times.items() if who == peer]
            line[peer] = _median(ratios, ".2f")
        ours = [p50 for (who, _), p50 in times.items() if who == "AdaptiveModel"]
        lines.append(line | {"AdaptiveModel, p50, µs": f"{1e6 * np.median(ours):,.1f}"})
    return lines


def shots(rows: Rows) -> Lines:
    """One line per number of samples: the times over those of ten samples."""
    ten = next(row for row in rows if row["shots"] == 10)
    return [
        {
            "samples": f"{row['shots']:,}",
            "median over ten samples'": f"{row['p50_seconds'] / ten['p50_seconds']:.1f}",
            "at most": _number(row["most_times"], 1, ".0f"),
            "best over ten samples'": f"{row['best_seconds'] / ten['best_seconds']:.1f}",
            "p50, ms": f"{1e3 * row['p50_seconds']:.2f}",
            "memory more, MB": f"{row['more_bytes'] / 1e6:.0f}",
        }
        for row in sorted(rows, key=lambda row: row["shots"])
    ]


def throughput(rows: Rows) -> Lines:
    """One line per problem and contender; several rows of one contender are several runs."""
    return [
        {
            "problem": f"{problem}: {contender}",
            "outer steps per second": _median([r["steps_per_second"] for r in ours], ".1f"),
            "over a Python loop's": _median([r["ratio"] for r in ours], ".1f"),
            "largest difference of the gradients": _significant(max(r["difference"] for r in ours), 1),
        }
        for (problem, contender), ours in _grouped(rows, "problem", "contender")
        if contender != "loop"
    ]


def processes(rows: Rows) -> Lines:
    """One line per number of tasks and of processes."""
    return [
        {
            "tasks per step, processes": f"{row['tasks']}, {row['processes']}",
            "tasks per second": _number(row["tasks_per_second"], 1, ",.0f"),
            "over one process": f"{row['ratio']:.2f}",
        }
        for row in rows
        if "processes" in row
    ]


def memory(rows: Rows) -> Lines:
    """One line per number of inner steps."""
    return [
        {
            "inner steps": str(row["inner_steps"]),
            "kept, MB": f"{row['megabytes']:.0f}",
            "computed again, MB": f"{row['megabytes_recomputed']:.0f}",
            "time, again over kept": _number(row["time_ratio"], 1, ".2f"),
        }
        for row in rows
        if "inner_steps" in row
    ]


def soak(*runs: Rows) -> Lines:
    """One line per run: each cell says the figure with adaptation, then without."""
    return [
        {
            "run": _soak_name(adapting),
            "overruns": _both(adapting, still, "overruns", ",d"),
            "skipped": _both(adapting, still, "skipped", ",d"),
            "execution p99.9, ms": _both(adapting, still, "execution_p999", ".2f", 1e3),
            "lateness p99, ms": _both(adapting, still, "late_p99", ".2f", 1e3),
            "latch of the guard": " and ".join(dict.fromkeys((adapting["latch"], still["latch"]))),
        }
        for adapting, still in runs
    ]


def soak_counts(*runs: Rows) -> Lines:
    """One line per run: what became of every update, sample and action of the adapting loop, and its memory."""
    return [
        {
            "run": _soak_name(row),
            "updates tried": _number(row["tried"], 1, ",d"),
            "accepted": _number(row["accepted"], 1, ",d"),
            "updates refused": _counts(row["refused"]),
            "samples observed": _number(row["observed"], 1, ",d"),
            "taken in": _number(row["entered"], 1, ",d"),
            "left out": _counts(row["left_out"]),
            "actions refused": _counts(row["actions_refused"]),
            "memory at start, middle, end, MiB": ", ".join(
                _number(row[f"memory_{when}"], 2**-20, ".1f") for when in ("start", "middle", "end")
            ),
        }
        for row, _ in runs
        if row["tried"] is not None
    ]


def faults(rows: Rows) -> Lines:
    """One line per kind of fault."""
    heads = {
        "tried": "tried",
        "refused": "refused by name",
        "harmless": "did no harm",
        "works_on": "old state works on",
    }
    return [{"fault": row["fault"], **{head: f"{row[key]:,}" for key, head in heads.items()}} for row in rows]


def guard_updates(rows: Rows) -> Lines:
    """One line per robot, rule and kind of samples. The robots of drives have no kind of samples."""
    return [
        {
            "robot, rule: samples": f"{row['robot']}, {row['rule']}: {row['samples']}",
            "error at v0": _error(row["error_v0"]),
            "not guarded": _error(row["error_plain"]),
            "guarded": _error(row["error_guarded"]),
            "worse than v0, not guarded": f"{row['worse_plain'] / row['tasks']:.1%}",
            "accepted": f"{row['accepted'] / row['tasks']:.1%}",
            "of these worse than v0": f"{row['worse_accepted']} of {row['accepted']}",
            "of these without some samples": f"{row['cleaned']} of {row['accepted']}",
        }
        for row in rows
        if "samples" in row
    ]


def guard_drives(rows: Rows) -> Lines:
    """One line per loop without a real fault, without hiccups and with them."""
    return [
        {
            "loop": f"{row['loop']}{', hiccups' if row['hiccups'] else ''}",
            "goals reached": f"{row['reached'] / row['drives']:.1%}",
            "drives": str(row["drives"]),
            "robots latched": f"{row['latched']} of {row['robots']}",
            "actions clipped": f"{row['clipped']:,}",
            "actions refused": _counts(row["refused"]),
        }
        for row in rows
        if "loop" in row
    ]


def guard_faults(rows: Rows) -> Lines:
    """One line per real fault and fallback."""
    return [
        {
            "fault, fallback": f"{row['fault']}, {row['fallback']}",
            "latched": f"{row['caught']} of {row['robots']}",
            "until the latch, at most, s": _number(row["seconds"], 1, ".1f"),
            "way until standstill, at most, m": f"{row['distance']:.2f}",
            "way after the latch, at most, m": _number(row["after_latch"], 1, ".2f"),
        }
        for row in rows
        if "fault" in row
    ]


def serving(rows: Rows) -> Lines:
    """One line per way to ask for an action."""
    return [
        {
            "who": row["who"],
            "clients": str(row["clients"]),
            "p50, µs": f"{1e6 * row['p50_seconds']:,.0f}",
            "p99, µs": f"{1e6 * row['p99_seconds']:,.0f}",
            "requests per second": _number(row["requests_per_second"], 1, ",.0f"),
        }
        for row in rows
    ]


def recording(rows: Rows) -> Lines:
    """One line per way to record."""
    return [
        {
            "recording": row["who"],
            "p50, µs": f"{1e6 * row['p50_seconds']:,.0f}",
            "p99, µs": f"{1e6 * row['p99_seconds']:,.0f}",
            "longest, ms": f"{1e3 * row['max_seconds']:.1f}",
            "p50 over none": f"{row['p50_over_none']:.2f}",
            "dropped": str(row["dropped"]),
            "bytes per tick": _number(row["bytes_per_tick"] or None, 1, ".0f"),
        }
        for row in rows
    ]


_FAMILIES = ("families-ring-nav", "families-ring-nav-gauss-newton")
_HEX = ("families-hex-drive", "families-hex-drive-gauss-newton")
_SOAKS = ("soak-million", "soak-beside-training", "soak-realtime", "soak-ordinary", "soak-slower")

TABLES = {
    "demo": Table(("demo",), demo),
    "demo/short": Table(("demo",), demo_short),
    "families/ring-nav": Table(_FAMILIES[:1], families),
    "families/ring-nav-gauss-newton": Table(_FAMILIES[1:], families),
    "families/hex-drive": Table(_HEX[:1], families),
    "families/hex-drive-gauss-newton": Table(_HEX[1:], families),
    "families/hex-drive-long": Table(("families-hex-drive-long",), families),
    "families/orbit-errors": Table(_FAMILIES + _HEX, orbit_errors),
    "synthetic/signals": Table(("synthetic-signals",), synthetic),
    "synthetic/images-e2cnn": Table(("synthetic-images-e2cnn",), synthetic),
    "synthetic/images": Table(("synthetic-images",), synthetic),
    "synthetic/images-hard": Table(("synthetic-images-hard",), synthetic),
    "latency": Table(("latency",), latency),
    "latency/cached": Table(("latency-cached",), latency),
    "shots": Table(("shots",), shots),
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
}


def _over(method: str, other: str) -> Callable[..., str]:
    """How many times the orbit error of `other` that of `method` is; both are looked up in all the rows."""

    def text(*results: Rows) -> str:
        orbit = {row["method"]: np.mean(row["error_orbit"]) for rows in results for row in rows}
        return _significant(orbit[method] / orbit[other], 2)

    return text


VALUES = {
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


def _closed_loop(row: Mapping[str, Any]) -> dict[str, str]:
    """The columns of what a robot did: shares of goals, or an error."""
    before, after, reference = (row[f"closed_loop_{when}"] for when in ("before", "after", "reference"))
    if row["closed_loop_metric"].endswith("share"):
        return {
            "goals before": _range(before, lambda x: f"{x:.0%}"),
            "goals after": f"{np.mean(after):.1%}",
            "operator": f"{reference:.1%}",
        }
    return {"path error, cm": f"{100 * np.mean(after):.3f}", "true model, cm": f"{100 * reference:.3f}"}


def _is_control(method: str) -> bool:
    return "U random" in method or "U permuted" in method


def _soak_name(row: Mapping[str, Any]) -> str:
    scheduling = "real time" if row["realtime"] else "ordinary scheduling"
    beside = ", beside a training" if row["beside_training"] else ""
    return f"{row['hz']:,g} Hz, adapting at {row['adapt_hz']:g} Hz, {scheduling}, {row['ticks']:,} ticks{beside}"


def _both(adapting: Mapping[str, Any], still: Mapping[str, Any], key: str, form: str, factor: float = 1) -> str:
    return " and ".join(_number(row[key], factor, form) for row in (adapting, still))


def _counts(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return MISSING
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _grouped(rows: Rows, *keys: str) -> list[tuple[tuple[Any, ...], list[Mapping[str, Any]]]]:
    """Rows with the same keys together, in the order of their first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.items())


def _bold_lowest(lines: Lines, column: str, values: Sequence[Any]) -> Lines:
    line = lines[int(np.argmin(values))]
    line[column] = f"**{line[column]}**"
    return lines


def _number(value: float | None, factor: float, form: str) -> str:
    """A number times a factor, or a dash where it was not measured."""
    return MISSING if value is None else f"{factor * value:{form}}"


def _error(value: Any) -> str:
    """An error with four decimals, or with five if it is small."""
    return MISSING if value is None else f"{value:.4f}" if value >= 0.001 else f"{value:.5f}"


def _significant(value: Any, digits: int) -> str:
    """A number with so many digits that count; exponents without zeros in front."""
    return f"{value:#.{digits}g}".replace(".e", "e").replace("e-0", "e-").rstrip(".")


def _range(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The lowest and the highest of several values, or the one that there is."""
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def _seeds(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The range over seeds; nothing where the result holds only their mean."""
    return _range(values, text) if len(values) > 1 else MISSING


def _median(values: Sequence[float | None], form: str) -> str:
    """The median of several runs, and their range."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    median, low, high = (f"{value:{form}}" for value in (np.median(known), min(known), max(known)))
    return median if low == high else f"{median} ({low} to {high})"


def _mean(figures: Sequence[float | None]) -> str:
    known = [figure for figure in figures if figure is not None]
    return f"{np.mean(known):.4f}" if known else MISSING


def _interval(halves: Sequence[float | None]) -> str:
    known = [half for half in halves if half is not None]
    return _significant(np.mean(known), 2) if known else MISSING


def _ratio(ratio: float | None, interval: Sequence[float] | None) -> str:
    if ratio is None or interval is None:
        return MISSING
    if ratio == 1:
        return "1"
    return f"{_significant(ratio, 3)} ({' to '.join(_significant(end, 3) for end in interval)})"
