"""The table of few-shot images: accuracies by method and column, beside the paper's."""

import numpy as np

from tables.cells import MISSING, Lines, Rows, grouped

COLUMNS = {"5x1": "5 way 1 shot", "5x5": "5 way 5 shot", "20x1": "20 way 1 shot", "20x5": "20 way 5 shot"}
"""Name of a cell to its head."""


def few_shot(rows: Rows) -> Lines:
    """One line per data set and method: means over seeds, with the 95 % interval over episodes, in percent."""
    lines = []
    several = len({row["data"] for row in rows}) > 1
    for (data, method), ours in grouped(rows, "data", "method"):
        line = {"method": f"{data}: {method}" if several else method}
        for cell, head in COLUMNS.items():
            here = [row for row in ours if row["cell"] == cell]
            line[head] = _accuracy(here)
            line[f"{head}, paper"] = f"{here[0]['paper']:.1f}" if here and here[0]["paper"] is not None else MISSING
        line["steps"] = f"{max(row['steps'] for row in ours):,}"
        line["processor, s"] = f"{np.mean([row['seconds'] for row in ours]):,.0f}"
        line["learned numbers"] = f"{ours[0]['numbers']:,}"
        lines.append(line)
    return lines


def _accuracy(rows: Rows) -> str:
    if not rows:
        return MISSING
    half = np.mean([row["interval"] for row in rows])  # all seeds are scored on the same episodes
    return f"{100 * np.mean([row['accuracy'] for row in rows]):.1f} ± {100 * half:.1f}"
