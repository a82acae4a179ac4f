"""How sure a mean is."""

from numpy.typing import NDArray


def half_interval(values: NDArray) -> float:
    """Return half of the 95 % interval of the mean of values `(n,)`, for a normal distribution."""
    return float(1.96 * values.std() / len(values) ** 0.5)
