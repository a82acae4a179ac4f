"""By how much an error grew when the exporter made a learner smaller."""

import math


def growth(error: float, before: float) -> float:
    """Return by what share an error got larger. Below zero: smaller."""
    if not before:
        return math.inf if error else 0.0
    return error / before - 1


def percent(share: float) -> str:
    """Write a share as percent, with its sign."""
    return f"{round(100 * share, 3) + 0.0:+.3f} %"  # the sum makes zero of minus zero
