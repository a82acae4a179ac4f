"""Rows of results: one form for every benchmark, printed as a table and written as JSON."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table

from msr_runtime.files import write_atomically


class Row(TypedDict):
    """One trained method on one family; errors are relative squared errors, means over fresh tasks."""

    family: str
    method: str
    seed: int
    adapted_parameters: int
    error_sector: float
    error_orbit: float
    error_wide: float
    equivariance_error: float
    closed_loop_metric: str
    closed_loop_before: float
    closed_loop_after: float
    closed_loop_reference: float
    adapt_seconds: float
    predict_seconds: float


def print_table(rows: Sequence[Row], title: str) -> None:
    """Print the rows to the terminal, one line a method and seed; times in milliseconds and microseconds."""
    table = Table(title=title, caption=f"closed loop: {rows[0]['closed_loop_metric']}")
    for head in ("method", "seed", "adapts", "sector", "orbit", "wide", "equivariance"):
        table.add_column(head, justify="left" if head == "method" else "right")
    for head in ("before", "after", "reference", "adapt ms", "predict µs"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            row["method"],
            str(row["seed"]),
            f"{row['adapted_parameters']:,}",
            *(f"{row[key]:.4f}" for key in ("error_sector", "error_orbit", "error_wide")),
            f"{row['equivariance_error']:.3f}",
            *(f"{row[key]:.3f}" for key in ("closed_loop_before", "closed_loop_after", "closed_loop_reference")),
            f"{row['adapt_seconds'] * 1e3:.2f}",
            f"{row['predict_seconds'] * 1e6:.1f}",
        )
    Console(width=None if os.isatty(1) else 140).print(table)


def write_json(path: Path, rows: Sequence[object]) -> None:
    """Write rows as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(rows, indent=2) + "\n").encode())
