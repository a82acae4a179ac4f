"""The demo's pictures: paths before and after adaptation, the error over the orbit, and U as it was learned.

And of learning online: how sure methods are, and which robots they find broken. And of single drives of three robots.

`make pictures` draws the data that `demo.py`, `online.py` and `drives.py` stored, without training, as small SVG files
for light and for dark pages.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from store import RESULTS, ROOT, read_result

from msr_runtime.files import write_atomically

mpl.use("agg")
mpl.rcParams |= {"svg.hashsalt": "msr", "svg.fonttype": "none", "font.family": "sans-serif"}
ASSETS = ROOT / "docs" / "assets"
THEMES = {"light": "#1f2328", "dark": "#e6edf3"}
"""Colour of text and lines; the background stays transparent."""
COLOURED = ("text.color", "legend.labelcolor", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_DISC = Outline.unit_regular_polygon(16)  # a third of the bytes of a circle
TEXTS: dict[str, str] = {
    "paths": "The same worlds driven before adaptation, after ten samples, and by the operator",
    "orbit": "Each method's error against the angle from the sampled sector",
    "symmetry": "The learned symmetry matrix U of the output layer, as a heat map",
}
"""The pictures, and what each of them shows to someone who cannot see it."""
RESULT_OF: dict[str, str] = dict.fromkeys(("paths", "orbit", "symmetry"), "demo")
"""The stored result of each picture."""
for _robot in ("ring-nav", "hex-drive"):
    RESULT_OF |= dict.fromkeys((f"reliability-{_robot}", f"outside-{_robot}"), f"online-{_robot}")
    TEXTS[f"reliability-{_robot}"] = f"{_robot}: how often intervals of each level hold, after 3, 10 and 40 samples"
    TEXTS[f"outside-{_robot}"] = f"{_robot}: the share of broken robots that is found, over the share of false alarms"
DRIVES = {
    "quadrotor": "quadrotor: the figure eight in wind, seen from the side",
    "arm": "arm: the circle of the fingertip, seen from above",
    "ant": "ant: hip and ankle of the leg that swings most in a trot",
}
for _robot, _what in DRIVES.items():
    RESULT_OF[f"drive-{_robot}"] = f"drive-{_robot}"
    TEXTS[f"drive-{_robot}"] = f"{_what}, without adaptation and after ten samples"


def draw(pictures: Mapping[str, Any], folder: Path) -> None:
    """Draw every picture for light and for dark pages: `NAME-light.svg` and `NAME-dark.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        for theme, colour in THEMES.items():
            style = dict.fromkeys(
                ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), colour
            )
            with mpl.rc_context({**style, "legend.labelcolor": colour}):
                figure = DRAWN[name](data, colour)
                write_atomically(folder / f"{name}-{theme}.svg", _svg(figure, fingerprint(data)))


def fingerprint(data: object) -> str:
    """Return a digest of what a picture was drawn from; it stands in the picture's file."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def _svg(figure: Figure, digest: str) -> bytes:
    """The picture's file, with a tenth of a point as the finest number: a quarter of what matplotlib writes."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Description": f"data {digest}"})
    return re.sub(r"-?\d+\.\d\d+", lambda number: f"{float(number[0]):.1f}", file.getvalue()).encode()


def _draw_paths(data: Mapping[str, Any], colour: str) -> Figure:
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    for axes, (title, column) in zip(figure.subplots(1, 3, sharey=True), data["columns"].items(), strict=True):
        _draw_worlds(axes, data, column, colour)
        axes.set_title(f"{title}: {sum(column['reached'])} of {len(column['reached'])} goals reached")
    return figure


def _draw_worlds(axes: Axes, data: Mapping[str, Any], column: Mapping[str, Any], colour: str) -> None:
    colours = [f"C{episode}" for episode in range(len(column["positions"]))]
    x, y = np.transpose(data["goals"])
    axes.scatter(x, y, s=120, c=colours, marker="*", edgecolors=colour, linewidths=0.8, zorder=3)
    for episode, positions in enumerate(column["positions"]):
        shown = {"color": colours[episode], "alpha": 1 if column["reached"][episode] else 0.4}
        axes.plot(*np.transpose(positions), linewidth=2, **shown)
        discs = [_DISC.vertices * r + c for c, r in zip(data["centres"][episode], data["radii"][episode], strict=True)]
        outline = Outline.make_compound_path(*(Outline(disc, _DISC.codes) for disc in discs))
        axes.add_patch(PathPatch(outline, color=colours[episode], alpha=0.2, linewidth=0))
    axes.plot(0, 0, "o", color=colour, markersize=7)
    axes.set(aspect="equal", xlim=(-6, 6), ylim=(-6, 6), xticks=(-5, 0, 5), yticks=(-5, 0, 5), xlabel="x, m")


def _draw_orbit(data: Mapping[str, Any], colour: str) -> Figure:
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for method, values in data.items():
        angle = np.arange(len(values) + 1) * 360 / len(values)
        width = 3 if method.startswith("msr") else 1.5
        axes.plot(angle, [*values, values[0]], marker="o", markersize=3, label=method, linewidth=width)
    axes.set(
        xlabel="turned from the sector that was sampled, degrees",
        ylabel="relative squared error",
        yscale="log",
        xticks=range(0, 361, 45),
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.grid(color=colour, alpha=0.2)
    return figure


def _draw_symmetry(data: list[list[float]], colour: str) -> Figure:
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(data, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    axes.set(xlabel="filter parameter, column of U", ylabel="weight of the output layer, row of U")
    bar = figure.colorbar(image, label="entry over the largest", ticks=(-1, -0.5, 0, 0.5, 1))
    bar.outline.set_edgecolor(colour)  # pyright: ignore[reportCallIssue]
    return figure


def _draw_reliability(data: Mapping[str, Any], colour: str) -> Figure:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    samples = list(next(iter(data["methods"].values())))
    for axes, n in zip(figure.subplots(1, len(samples), sharey=True), samples, strict=True):
        axes.plot((0.5, 1), (0.5, 1), color=colour, linewidth=0.8, linestyle="--")
        for method, coverage in data["methods"].items():
            axes.plot(data["levels"], coverage[n], marker="o", markersize=3, label=method)
        axes.set(title=f"after {n} samples", xlabel="level of the interval", xlim=(0.5, 1), ylim=(0, 1))
        axes.grid(color=colour, alpha=0.2)
    axes.set_ylabel("")
    figure.axes[0].set_ylabel("share that holds")
    figure.axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _draw_outside(data: Mapping[str, Any], colour: str) -> Figure:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (alarms, found) in data.items():
        axes.plot(alarms, found, label=name, drawstyle="steps-post")
    axes.axvline(0.01, color=colour, linewidth=0.8, linestyle="--")
    axes.set(xlabel="share of false alarms", ylabel="share that is found", xlim=(-0.01, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.grid(color=colour, alpha=0.2)
    return figure


def _draw_drive(data: Mapping[str, Any], colour: str) -> Figure:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    both = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (title, column) in zip(both, data["columns"].items(), strict=True):
        axes.plot(*np.transpose(data["reference"]), color=colour, linewidth=1, linestyle="--", label="reference")
        axes.plot(*np.transpose(column["path"]), color="C0", linewidth=2, label="robot")
        axes.set(title=f"{title}: {column['error']}", xlabel=data["axes"][0])
        axes.set_aspect("equal")
        axes.grid(color=colour, alpha=0.2)
    figure.axes[0].set_ylabel(data["axes"][1])
    figure.axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


DRAWN = {
    "paths": _draw_paths,
    "orbit": _draw_orbit,
    "symmetry": _draw_symmetry,
    **dict.fromkeys(("reliability-ring-nav", "reliability-hex-drive"), _draw_reliability),
    **dict.fromkeys(("outside-ring-nav", "outside-hex-drive"), _draw_outside),
    **dict.fromkeys((f"drive-{robot}" for robot in DRIVES), _draw_drive),
}

if __name__ == "__main__":
    for stored in sorted(RESULTS.glob("*.json")):
        draw(read_result(stored)["pictures"], ASSETS)
