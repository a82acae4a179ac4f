"""How exactly a bundle's constants are stored, and what their rounding costs."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from msr_runtime.bundle.cost import growth, percent
from msr_runtime.bundle.frozen import Frozen, Size
from msr_runtime.task import Array

Precision = Literal["float32", "float16", "int8"]
"""In what U is stored: `int8` has a scale for each row of U. Layers that do not adapt are then float16."""
LARGEST = 127
"""The largest integer of `int8`, in size."""
MOST_COST = 0.001
"""The exporter rounds of its own accord if the error after adapting grows by no more than this share."""


class Rounding(Frozen):
    """How U and the layers that do not adapt are stored in the graphs, and what the rounding costs.

    They are rounded before anything is traced, measured or compared with torch. So the graphs compute with the rounded
    numbers in float32, and so does the torch that they are compared with. What adapts stays float32.

    The errors were measured in torch when the bundle was written, on the same validation tasks: over the orbit, after
    adapting with the shots of meta-training. An error is the mean squared error over the mean square of y, as in `msr
    evaluate`; for a classifier it is the cross entropy, because rounding changes too few labels to be counted.
    """

    precision: Precision
    """In what they are stored. `float32`: the rounding that was tried costs too much."""
    tried: Precision
    """The rounding whose error was measured."""
    kept: tuple[str, ...] = ()
    """Parameters whose numbers are too large or too small for the rounding. They stay float32."""
    tasks: PositiveInt
    """The number of validation tasks."""
    error: Size
    """The mean error after the rounding that was tried."""
    float32_error: Size
    """The mean error without it."""

    @property
    def cost(self) -> float:
        """By what share the rounding makes the error larger. Below zero: smaller."""
        return growth(self.error, self.float32_error)

    def describe(self) -> str:
        """Say in one line what was measured and what became of it."""
        sides = f"error {self.error:.5g}, in float32 {self.float32_error:.5g}, on {self.tasks} validation tasks"
        found = f"{self.tried}: {sides}: {percent(self.cost)}"
        if self.precision == "float32":
            found = f"float32, because {100 * MOST_COST:g} % more error at most is wanted of {found}"
        return f"{found}; float32 stays {', '.join(self.kept)}" if self.kept else found


def as_rows(values: Array, length: int) -> tuple[NDArray[np.int8], Array] | None:
    """Find q `(rows, length)` and scales `(rows, 1)` with `q * scales == values`, to the last bit. None without any."""
    rows = values.reshape(-1, length)
    scales = np.abs(rows).max(1, keepdims=True) / np.float32(LARGEST)
    if not np.isfinite(scales).all():
        return None
    q = multiples(rows, scales)
    return (q.astype(np.int8), scales) if np.array_equal(q * scales, rows) else None


def multiples(values: Array, scales: Array) -> Array:
    """The nearest multiples of the scales. A row of zeros has the scale 0."""
    return np.rint(np.divide(values, scales, out=np.zeros_like(values), where=scales > 0))
