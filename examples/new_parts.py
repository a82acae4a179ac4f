"""A camera above a table sees five new parts once each, and names them however they lie.

Try it, with MUJOCO_GL=egl where there is no display: python examples/new_parts.py runs/parts/bundle new-parts.png
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from msr_envs.table import PLACES, Table, as_inputs, draw_part
from msr_runtime import AdaptiveModel, UpdateGuard

NAMES = ("A", "B", "C", "D", "E", "F")
SIDE = int(PLACES**0.5)


def main(bundle: str, picture: str) -> None:
    """Show five parts of seven once, turn all of them, and teach a sixth."""
    model, rng = AdaptiveModel.load(bundle), np.random.default_rng(2)
    ways, panels = model.manifest.outputs[0].size, []
    with Table([draw_part(rng) for _ in range(7)]) as table:
        places = table.lay(rng, turn=5)
        once = as_inputs(table.views(rng, places))
        # a person names the parts, and two of them may look more alike than any in training
        result = model.adapt(once[:5], np.arange(5), guard=UpdateGuard(loss=np.inf))
        if not result.accepted:
            sys.exit(f"error: the five parts were refused: {result.reason}")
        print(f"learned five parts from one view each in {1e3 * result.seconds:.2f} ms")
        panels.append(("shown once", table.picture(), places, [*NAMES[:5], "", ""]))

        turned = table.lay(rng, turn=180)
        views = as_inputs(table.views(rng, turned))
        panels.append(("turned", table.picture(), turned, names(model, views)))

        before = model.v
        model.adapt(once[5:6], np.array([5]), start="accepted", guard=UpdateGuard(loss=np.inf))
        kept = np.array_equal(model.v.reshape(ways, -1)[:5], before.reshape(ways, -1)[:5])
        print(f"learned a sixth part; what is known of the others is {'as it was' if kept else 'changed'}")
        panels.append(("a sixth part learned", table.picture(), turned, names(model, views)))
    for title, _, _, said in panels:
        print(f"{title}: {' '.join(name or '-' for name in said)}")
    draw(panels, picture)


def names(model: AdaptiveModel, views: NDArray[np.float32]) -> list[str]:
    """The name of the part in each view, or a question mark if it is none of those that were taught."""
    found = model.classify(views)
    return [NAMES[label] if known else "?" for label, known in zip(found.label, found.known, strict=True)]


def draw(panels: list[tuple[str, NDArray[np.uint8], NDArray[np.int64], list[str]]], path: str) -> None:
    """Draw what the camera saw, with the names beside the parts."""
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    for axes, (title, picture, places, said) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.imshow(picture)
        axes.set(title=title, xticks=(), yticks=())
        cell = len(picture) / SIDE
        for place, name in zip(places.tolist(), said, strict=True):
            row, column = divmod(place, SIDE)
            axes.text((column + 0.08) * cell, (row + 0.2) * cell, name, fontsize=13, weight="bold")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: new_parts.py BUNDLE PICTURE.png")
    main(*sys.argv[1:])
