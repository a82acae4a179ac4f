"""The tables of what runs: loops, guards, faults, the server and the recorder."""

from collections.abc import Mapping
from typing import Any

from tables.cells import Lines, Rows, counts, error, number


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
            "updates tried": number(row["tried"], 1, ",d"),
            "accepted": number(row["accepted"], 1, ",d"),
            "updates refused": counts(row["refused"]),
            "samples observed": number(row["observed"], 1, ",d"),
            "taken in": number(row["entered"], 1, ",d"),
            "left out": counts(row["left_out"]),
            "actions refused": counts(row["actions_refused"]),
            "memory at start, middle, end, MiB": ", ".join(
                number(row[f"memory_{when}"], 2**-20, ".1f") for when in ("start", "middle", "end")
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
            "error at v0": error(row["error_v0"]),
            "not guarded": error(row["error_plain"]),
            "guarded": error(row["error_guarded"]),
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
            "actions refused": counts(row["refused"]),
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
            "until the latch, at most, s": number(row["seconds"], 1, ".1f"),
            "way until standstill, at most, m": f"{row['distance']:.2f}",
            "way after the latch, at most, m": number(row["after_latch"], 1, ".2f"),
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
            "requests per second": number(row["requests_per_second"], 1, ",.0f"),
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
            "bytes per tick": number(row["bytes_per_tick"] or None, 1, ".0f"),
        }
        for row in rows
    ]


def _soak_name(row: Mapping[str, Any]) -> str:
    scheduling = "real time" if row["realtime"] else "ordinary scheduling"
    beside = ", beside a training" if row["beside_training"] else ""
    learning = "learning sample by sample" if row.get("by_sample") else f"adapting at {row['adapt_hz']:g} Hz"
    return f"{row['hz']:,g} Hz, {learning}, {scheduling}, {row['ticks']:,} ticks{beside}"


def _both(adapting: Mapping[str, Any], still: Mapping[str, Any], key: str, form: str, factor: float = 1) -> str:
    return " and ".join(number(row[key], factor, form) for row in (adapting, still))
