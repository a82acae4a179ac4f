"""The tables of images: accuracies by method and column, beside the paper's; groups that were found."""

import numpy as np

from tables.cells import MISSING, Lines, Rows, grouped, number

COLUMNS = {"5x1": "5 way 1 shot", "5x5": "5 way 5 shot", "20x1": "20 way 1 shot", "20x5": "20 way 5 shot"}
"""Name of a cell to its head."""

PAPER = {
    "msr": (95.3, 97.7, 84.3, 92.6),
    "protonets": (92.9, 97.4, 85.1, 94.3),
    "maml-big": (89.3, 94.8, 69.6, 83.2),
    "maml": (87.3, 93.6, 67.0, 79.9),
    "anil": (86.4, 93.2, 67.5, 79.8),
}
"""Table 3 of Zhou, Knowles and Finn (2021) on Aug-Omniglot, in percent, in the order of `COLUMNS`."""


def few_shot(*results: Rows) -> Lines:
    """One line per data set and method: means over seeds, with the 95 % interval over episodes, in percent.

    Below the lines of Omniglot stand those of the paper. Without them, a column that nobody measured is left out.
    """
    rows, lines = [row for each in results for row in each], []
    several = len({row["data"] for row in rows}) > 1
    beside_paper = any("omniglot" in row["data"] for row in rows)
    measured = {row["cell"] for row in rows}
    columns = {cell: head for cell, head in COLUMNS.items() if beside_paper or cell in measured}
    for (data, method), ours in grouped(rows, "data", "method"):
        line = {"method": f"{data}: {method}" if several else method}
        for cell, head in columns.items():
            line[head] = _accuracy([row for row in ours if row["cell"] == cell])
        line["steps"] = f"{max(row['steps'] for row in ours):,}"
        line["processor, s"] = f"{np.mean([row['seconds'] for row in ours]):,.0f}"
        line["learned numbers"] = f"{ours[0]['numbers']:,}"
        lines.append(line)
    if beside_paper:
        for method, stated in PAPER.items():
            figures = {head: f"{figure:.1f}" for head, figure in zip(COLUMNS.values(), stated, strict=True)}
            lines.append({"method": f"paper: {method}", **dict.fromkeys(list(lines[0])[1:], MISSING), **figures})
    return lines


def few_shot_bundle(rows: Rows) -> Lines:
    """One line per method and engine: accuracies in percent, the images that torch names otherwise, and times."""
    lines = []
    for (method, who), ours in grouped(rows, "method", "who"):
        by_cell = {row["cell"]: row for row in ours}
        accuracies = {
            head: f"{100 * by_cell[cell]['accuracy']:.2f}" if cell in by_cell else MISSING
            for cell, head in COLUMNS.items()
        }
        lines.append(
            {
                "method, by": f"{method}, {who}",
                **accuracies,
                "named otherwise": f"{np.mean([row['other'] for row in ours]):.3%}",
                "bundle, kB": MISSING if who == "torch" else f"{ours[0]['bundle_bytes'] / 1e3:,.0f}",
                "teach five, ms": number(ours[0]["adapt_seconds"], 1e3, ".2f"),
                "name one, ms": number(ours[0]["predict_seconds"], 1e3, ".2f"),
            }
        )
    return lines


def discovery(rows: Rows) -> Lines:
    """One line per augmentation: how many searches found its group, and how near the maps were to it."""
    lines = []
    for (samples, augmentation), ours in grouped(rows, "samples", "augmentation"):
        right = sum(row["found"] == row["drawn"] for row in ours)
        away = [row["distance"] for row in ours if row["distance"] is not None]
        costs = {count: np.mean([row["costs"][count] for row in ours]) for count in ours[0]["costs"]}
        lines.append(
            {
                "samples": samples,
                "augmentation": augmentation,
                "found": f"{ours[0]['drawn']}, {right} of {len(ours)}",
                "distance": f"{max(away):.2g}" if away else MISSING,
                **{f"cost of {count}": f"{costs[count]:.3f}" if count in costs else MISSING for count in "1248"},
                "processor, s": f"{np.mean([row['seconds'] for row in ours]):.1f}",
            }
        )
    return lines


def new_parts(rows: Rows) -> Lines:
    """One line per method and kind of scenes: shares in percent."""
    return [
        {
            "method": f"{row['method']}: {row['kind']}",
            "right names": f"{100 * row['right']:.1f} ± {100 * row['interval']:.1f}",
            "of six": f"{100 * row['six']:.1f}",
            "taught, called unknown": f"{100 * row['known']:.1f}",
            "others, called unknown": f"{100 * row['unknown']:.1f}",
            "scenes refused": f"{100 * row['refused']:.0f}",
            "training, s": f"{row['seconds']:,.0f}",
            "graphs, kB": f"{row['bytes'] / 1000:,.0f}",
        }
        for row in rows
    ]


def learned_group(*results: Rows) -> Lines:
    """One line per form of U: how much of the group it holds, and how well the network tells classes apart."""
    return [
        {
            "U": form if ours[0].get("augmented", True) else f"{form}, queries not moved",
            **{
                f"held by {name}": f"{np.mean([row[f'held_{key}'] for row in ours]):.2f}"
                for name, key in (("the identity", "by_identity"), ("U at first", "before"), ("U", "after"))
            },
            "5 way 1 shot": _accuracy(ours),
            "processor, s": f"{np.mean([row['seconds'] for row in ours]):,.0f}",
        }
        for rows in results
        for (form,), ours in grouped(rows, "form")
    ]


def _accuracy(rows: Rows) -> str:
    if not rows:
        return MISSING
    half = np.mean([row["interval"] for row in rows])  # all seeds are scored on the same episodes
    return f"{100 * np.mean([row['accuracy'] for row in rows]):.1f} ± {100 * half:.1f}"
