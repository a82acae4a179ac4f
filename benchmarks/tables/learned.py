"""The tables of what was learned: errors, goals and what U recovers."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np

from tables.cells import (
    MISSING,
    Lines,
    Rows,
    bold_lowest,
    error,
    interval,
    mean,
    number,
    ratio,
    seeds,
    significant,
    span,
)

NEWTON = ", gauss-newton"
"""Follows a method's name where it adapts by Gauss-Newton steps and not by gradient steps."""


def demo(rows: Rows) -> Lines:
    """One line per method; accuracy and times belong to the same network, adapting and acting on ONNX Runtime."""
    lines = [
        {
            "method": row["method"],
            "network": row["network"],
            "adapted numbers": f"{row['adapted_parameters']:,}",
            "sector": error(row["error_sector"]),
            "orbit": error(row["error_orbit"]),
            "wide": error(row["error_wide"]),
            "equivariance error": f"{row['equivariance_error']:.2f}",
            "goals before": f"{row['closed_loop_before']:.0%}",
            "goals after": f"{row['closed_loop_after']:.0%}",
            "operator": f"{row['closed_loop_reference']:.0%}",
            "adapt, ms": number(row["adapt_seconds"], 1e3, ".2f"),
            "predict, µs": number(row["predict_seconds"], 1e6, ".1f"),
        }
        for row in rows
    ]
    return bold_lowest(lines, "orbit", [row["error_orbit"] for row in rows])


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
            "sector": error(np.mean(row["error_sector"])),
            "orbit": error(np.mean(row["error_orbit"])),
            "orbit, lowest and highest seed": seeds(row["error_orbit"], error),
            "wide": error(np.mean(row["error_wide"])),
            "orbit / sector": f"{np.mean(row['error_orbit']) / np.mean(row['error_sector']):.2f}",
            "orbit / MSR's": ratio(row["orbit_ratio"], row["orbit_ratio_interval"]),
            **_closed_loop(row),
        }
        for row in rows
    ]
    return bold_lowest(lines, "orbit", [np.mean(row["error_orbit"]) for row in rows])


def families_by_both(rows: Rows) -> Lines:
    """The same where methods by different rules stand in one table: each is called by its rule."""
    return [line | {"method": row["method"]} for row, line in zip(rows, families(rows), strict=True)]


def orbit_errors(ring: Rows, ring_newton: Rows, hex_drive: Rows, hex_drive_newton: Rows) -> Lines:
    """One line per method and rule: the mean orbit error on both robots. Controls are left out."""
    on_ring, on_hex = (
        {row["method"]: np.mean(row["error_orbit"]) for row in rows if not _is_control(row["method"])}
        for rows in ([*ring, *ring_newton], [*hex_drive, *hex_drive_newton])
    )
    methods = sorted(on_ring, key=lambda method: on_ring[method])
    lines = [{"method": m, "ring-nav": error(on_ring[m]), "hex-drive": error(on_hex.get(m))} for m in methods]
    return bold_lowest(lines, "ring-nav", [on_ring[m] for m in methods])


def synthetic(rows: Rows) -> Lines:
    """One line per problem and method: means over seeds. Rows of one problem and method follow each other."""
    lines = []
    for (family, method), group in groupby(rows, lambda row: (row["family"], row["method"])):
        ours = list(group)
        authors = ours[0]["authors"]
        lines.append(
            {
                "problem, method": f"{family}: {method}",
                "error": significant(np.mean([row["error"] for row in ours]), 3),
                "± over tasks": interval([row["interval"] for row in ours]),
                "lowest and highest seed": seeds([row["error"] for row in ours], lambda x: significant(x, 3)),
                "authors": MISSING if authors is None else f"{authors:.4g}",
                "recovery": mean([row["recovery"] for row in ours]),
                "energy": mean([row["energy"] for row in ours]),
            }
        )
    return lines


def _closed_loop(row: Mapping[str, Any]) -> dict[str, str]:
    """The columns of what a robot did: shares of goals, or an error."""
    before, after, reference = (row[f"closed_loop_{when}"] for when in ("before", "after", "reference"))
    if row["closed_loop_metric"].endswith("share"):
        return {
            "goals before": span(before, lambda x: f"{x:.0%}"),
            "goals after": f"{np.mean(after):.1%}",
            "operator": f"{reference:.1%}",
        }
    metric, unit = row["closed_loop_metric"].split(", ")
    unit, factor = ("cm", 100) if unit == "m" else (unit, 1)
    return {
        f"{metric} before, {unit}": f"{factor * np.mean(before):.3f}" if before else MISSING,
        f"{metric}, {unit}": f"{factor * np.mean(after):.3f}",
        f"true model, {unit}": f"{factor * reference:.3f}",
    }


def _is_control(method: str) -> bool:
    return "U random" in method or "U permuted" in method
