"""The tables of what U needs on a robot."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tables.cells import MISSING, Lines, Rows, error, grouped, median, seeds, significant


def structure(rows: Rows) -> Lines:
    """One line per network and step of compression. Ratios are over its first step: the network as it was learned."""
    found = grouped([row for row in rows if "step" in row], "case")
    return [_line(row, steps[0]) for _, steps in found for row in steps]


def structure_left(rows: Rows) -> Lines:
    """One line per network."""
    return [
        {
            "network": row["case"],
            "zeros in a sparse basis": f"{row['zeros']:.0%}",
            "numbers of Kronecker factors": f"{row['factors']:.0%}",
        }
        for row in rows
        if "zeros" in row
    ]


def widths(rows: Rows) -> Lines:
    """One line per form of U and width. Ratios are over the first form at the same width, or at the first width."""
    full = {row["width"]: row for row in rows if row["form"] == rows[0]["form"]}
    return [
        {
            "form of U": row["form"],
            "width": f"{row['width']}",
            "outer rate": f"{row['outer_rate']:g}",
            "numbers of U": f"{row['symmetry_numbers']:,}",
            "numbers of v": f"{row['adapted_parameters']:,}",
            "an outer step": f"{row['step_seconds'] / rows[0]['step_seconds']:.2f}",
            "orbit": error(np.mean(row["error_orbit"])),
            "orbit, lowest and highest seed": seeds(row["error_orbit"], error),
            "over full": f"{np.mean(row['error_orbit']) / np.mean(full[row['width']]['error_orbit']):.2f}",
        }
        for row in rows
    ]


def _line(row: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, str]:
    return {
        "network: step": f"{row['case']}: {row['step']}",
        "stored as": row["stored_as"],
        "numbers of v": f"{row['filter_parameters']:,}",
        "multiplications": f"{row['multiply_adds']:,}",
        "different rows": _rows(row),
        "U, kB": f"{row['symmetry_bytes'] / 1e3:,.1f}",
        "bundle, kB": f"{row['bundle_bytes'] / 1e3:,.0f}",
        "adapt": _over(row, first, "adapt_seconds"),
        "adapt, native": _over(row, first, "native_seconds"),
        "native, µs": f"{1e6 * np.median(row['native_seconds']):,.0f}" if row["native_seconds"] else MISSING,
        "error": significant(row["error"], 3),
        "over as learned": f"{row['error'] / first['error']:.3f}",
        "64 samples": f"{row['many_error'] / first['many_error']:.3f}",
        "outside": MISSING if row["outside_error"] is None else f"{row['outside_error'] / first['outside_error']:.3f}",
    }


def _over(row: Mapping[str, Any], first: Mapping[str, Any], key: str) -> str:
    if not row[key] or not first[key]:
        return MISSING
    return median([ours / learned for ours, learned in zip(row[key], first[key], strict=True)], ".2f")


def _rows(row: Mapping[str, Any]) -> str:
    """How many rows are different, and whether they are those of a convolution."""
    if not row["different_rows"]:
        return MISSING
    exact = ", a convolution" if len(row["convolutions"]) == len(row["different_rows"]) else ""
    return f"{sum(row['different_rows'].values())}{exact}"
