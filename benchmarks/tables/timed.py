"""The tables of time and memory."""

from collections.abc import Mapping

import numpy as np

from tables.cells import MISSING, Lines, Rows, error, grouped, median, number, significant

PEERS = ("native", "LiteRT", "IREE", "JAX jit", "torch eager", "torch.compile", "bare session", "copying U")
"""The contenders of the latency table, each over AdaptiveModel."""
RIVALS = PEERS[1:6]
"""Those that predict and adapt, too."""


def latency(rows: Rows) -> Lines:
    """One line per call: each contender's median over that of `AdaptiveModel` in the same run, and who beats native."""
    lines = []
    for what in dict.fromkeys(row["what"] for row in rows):
        times = {(row["who"], row["run"]): row["p50_seconds"] for row in rows if row["what"] == what}
        line = {"call": what}
        for peer in PEERS:
            ratios = [p50 / times["AdaptiveModel", run] for (who, run), p50 in times.items() if who == peer]
            line[peer] = median(ratios, ".2f")
        line["ahead of native"] = _faster(times, "native")
        ours = [p50 for (who, _), p50 in times.items() if who == "AdaptiveModel"]
        lines.append(line | {"AdaptiveModel, p50, µs": f"{1e6 * np.median(ours):,.1f}"})
    return lines


def _faster(times: Mapping[tuple[str, int], float], than: str) -> str:
    """Name the rivals whose median over the runs is below that of a contender, by times of who and run."""
    medians = {who: np.median([p50 for (each, _), p50 in times.items() if each == who]) for who, _ in times}
    if than not in medians:
        return MISSING
    return ", ".join(who for who in RIVALS if medians.get(who, np.inf) < medians[than]) or "nobody"


def gpu(rows: Rows) -> Lines:
    """One line per call: each contender's median over that of `AdaptiveModel` on the CPU."""
    lines = []
    for (what,), each in grouped([row for row in rows if "what" in row], "what"):
        times = {row["who"]: row["p50_seconds"] for row in each}
        ours = times.pop("AdaptiveModel")
        ratios = {who: f"{p50 / ours:.2f}" for who, p50 in times.items()}
        lines.append({"call": what} | ratios | {"AdaptiveModel, CPU, p50, µs": f"{1e6 * ours:,.1f}"})
    return lines


def gpu_training(rows: Rows) -> Lines:
    """One line per kind of training and number of tasks of an outer step."""
    return [
        {
            "tasks per step": f"{work}: {tasks:,}",
            "CPU, tasks per second": f"{speeds['cpu']:,.0f}",
            "GPU, tasks per second": f"{speeds['cuda']:,.0f}",
            "GPU over CPU": f"{speeds['cuda'] / speeds['cpu']:.2f}",
            "bfloat16 over float32, GPU": number(speeds.get("cuda, bfloat16"), 1 / speeds["cuda"], ".2f"),
        }
        for (work, tasks), each in grouped([row for row in rows if "tasks" in row], "work", "tasks")
        for speeds in [{row["device"]: row["tasks_per_second"] for row in each}]
    ]


_CALLS = {
    "predict": "predict",
    "predict, std": "predict(std=True)",
    "AdaptiveModel": "update",
    "predict, native": "predict, native",
    "predict, std, native": "predict(std=True), native",
}
"""What a contender of `updates.py` does, if it is not the update of a peer."""


def updates(rows: Rows) -> Lines:
    """One line per contender: its median over that of `predict` in the same run."""
    timed = [row for row in rows if "who" in row]
    plain = {row["run"]: row["p50_seconds"] for row in timed if row["who"] == "predict"}
    lines = []
    for who in dict.fromkeys(row["who"] for row in timed):
        ours = [row for row in timed if row["who"] == who]
        lines.append(
            {
                "call": _CALLS.get(who, f"update, {who}"),
                "over predict": median([row["p50_seconds"] / plain[row["run"]] for row in ours], ".1f"),
                "p50, µs": f"{1e6 * np.median([row['p50_seconds'] for row in ours]):,.1f}",
                "p99, µs": f"{1e6 * np.median([row['p99_seconds'] for row in ours]):,.1f}",
            }
        )
    return lines


def updates_endless(rows: Rows) -> Lines:
    """One line per number of updates of one model."""
    return [
        {
            "updates": f"{row['updates']:,}",
            "smallest variance": significant(row["smallest_variance"], 2),
            "largest variance": significant(row["largest_variance"], 2),
            "mean NIS": f"{row['mean_nis']:.2f}",
            "memory, MB": f"{row['memory'] / 1e6:.0f}",
        }
        for row in rows
        if "updates" in row
    ]


def filter_memory(rows: Rows) -> Lines:
    """One line per length of the memory."""
    return [
        {
            "samples in memory": f"{row['memory']}",
            **{f"error after {n}": error(value) for n, value in row["orbit"].items()},
            **{f"hold after {n}": f"{value:.0%}" for n, value in row["hold"].items()},
            "update over predict": f"{row['update_seconds'] / row['predict_seconds']:.1f}",
        }
        for row in rows
    ]


def shots(rows: Rows) -> Lines:
    """One line per number of samples: the times over those of ten samples."""
    ten = next(row for row in rows if row["shots"] == 10)
    return [
        {
            "samples": f"{row['shots']:,}",
            "median over ten samples'": f"{row['p50_seconds'] / ten['p50_seconds']:.1f}",
            "at most": number(row["most_times"], 1, ".0f"),
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
            "outer steps per second": median([r["steps_per_second"] for r in ours], ".1f"),
            "over a Python loop's": median([r["ratio"] for r in ours], ".1f"),
            "largest difference of the gradients": significant(max(r["difference"] for r in ours), 1),
        }
        for (problem, contender), ours in grouped(rows, "problem", "contender")
        if contender != "loop"
    ]


def processes(rows: Rows) -> Lines:
    """One line per number of tasks and of processes."""
    return [
        {
            "tasks per step, processes": f"{row['tasks']}, {row['processes']}",
            "tasks per second": number(row["tasks_per_second"], 1, ",.0f"),
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
            "time, again over kept": number(row["time_ratio"], 1, ".2f"),
        }
        for row in rows
        if "inner_steps" in row
    ]
