"""The demo's pictures: paths before and after adaptation, and the error over the orbit."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from msr_envs.ring_nav import Paths, RingNav
from msr_envs.ring_nav_operator import RingTask
from msr_runtime.meta.evaluation import score_sample
from msr_runtime.task import Adapt, Predict

mpl.use("agg")
EPISODES = 8


def draw_paths(path: Path, family: RingNav, task: RingTask, before: Predict, after: Predict) -> None:
    """Draw the same eight worlds driven unadapted, adapted and by the operator."""
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    columns = {"before adaptation": before, "after ten samples": after, "the operator": None}
    for axes, (title, predict) in zip(figure.subplots(1, 3), columns.items(), strict=True):
        paths = family.drive(task, predict, np.random.default_rng(7), EPISODES)
        _draw_worlds(axes, paths)
        axes.set_title(f"{title}: {paths.reached.sum()} of {EPISODES} goals reached")
    figure.savefig(path, dpi=110)


def _draw_worlds(axes: Axes, paths: Paths) -> None:
    for episode in range(EPISODES):
        color = f"C{episode}"
        axes.plot(*paths.positions[episode].T, color=color, linewidth=2, alpha=1 if paths.reached[episode] else 0.45)
        for center, radius in zip(paths.world.centres[episode], paths.world.radii[episode], strict=True):
            axes.add_patch(Circle(tuple(center), radius, color=color, alpha=0.2, linewidth=0))
        axes.plot(*paths.world.goal[episode], "*", color=color, markersize=13, markeredgecolor="black")
    axes.plot(0, 0, "o", color="black", markersize=7)
    axes.set(aspect="equal", xlim=(-6, 6), ylim=(-6, 6), xlabel="x, m")


def orbit_errors(family: RingNav, adapt: Adapt, tasks: int = 30) -> np.ndarray:
    """Measure the relative error on sector queries turned by each group element in turn: `(order,)`."""
    batch = family.sample(np.random.default_rng(4), tasks, 10, 64, "test")
    x, y = batch.query_x[:, :32], batch.query_y[:, :32]
    group = family.group()
    errors = np.empty((group.order, tasks))
    for task in range(tasks):
        predict = adapt(batch.support_x[task], batch.support_y[task])
        for element in range(group.order):
            turned_x = (x[task] @ group.inputs[element].T).astype(np.float32)
            turned_y = (y[task] @ group.outputs[element].T).astype(np.float32)
            errors[element, task] = score_sample(family, predict(turned_x), turned_y)
    return errors.mean(1) / np.mean([score_sample(family, np.zeros_like(each), each) for each in y])


def draw_orbit(path: Path, errors: Mapping[str, np.ndarray]) -> None:
    """Draw each method's error against the angle between the support's sector and the query."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for method, values in errors.items():
        angle = np.arange(len(values) + 1) * 360 / len(values)
        axes.plot(
            angle,
            np.append(values, values[0]),
            marker="o",
            markersize=3,
            label=method,
            linewidth=3 if method.startswith("msr") else 1.5,
        )
    axes.set(
        xlabel="turned from the sector that was sampled, degrees",
        ylabel="relative squared error",
        yscale="log",
        xticks=range(0, 361, 45),
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
