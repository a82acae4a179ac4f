"""Scale raw units to numbers near one, and back."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from msr_runtime.task import Array, Field, Figures, Shape, sample_shape

FARTHEST = 1e5
"""The largest center, in scales, with which a network is trained. float32 keeps 24 binary digits. At this distance from
zero, about 84 of its steps are left for one scale, so that a number is known to 1 % of its scale."""
FLOAT32_STEP = float(np.finfo(np.float32).eps)
"""The largest distance between two neighbors of float32, as a share of the number itself."""


class Normalization(BaseModel):
    """Center and scale of every input and output. A network computes on `(x - center) / scale`.

    A checkpoint stores it. In a bundle, the graphs hold it as constants, and the manifest repeats it for reading only.
    Never apply it to the inputs or outputs of a bundle: those are in raw units.

    An image has one center and one scale per channel. So the result is the same whether an image is first turned or
    shifted and then normalized, or the other way round.

    Example:
        >>> import numpy as np
        >>> from msr_runtime.normalization import Normalization
        >>> scaling = Normalization(input_center=(20.0,), input_scale=(5.0,), output_center=(0.0,), output_scale=(1.0,))
        >>> scaling.normalize_x(np.array([[25.0], [10.0]])).tolist()
        [[1.0], [-2.0]]
        >>> scaling.raw_x(np.array([[1.0]])).tolist()
        [[25.0]]
    """

    # JSON has no infinity and no NaN. They are written as strings, and read back as floats.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    input_center: Figures
    """Center of x, in raw units."""
    input_scale: Figures
    """Scale of x, in raw units, above 0."""
    output_center: Figures
    """Center of y, in raw units. For labels: one zero per class."""
    output_scale: Figures
    """Scale of y, in raw units, above 0. For labels: one per class, each 1."""

    @classmethod
    def identity(cls, inputs: Shape, outputs: Shape) -> "Normalization":
        """Return the normalization of x `(*x)` and y `(*y)` that changes nothing: center 0 and scale 1 everywhere."""

        def figures(value: float, shape: Shape) -> Any:
            return np.full((shape[0], *[1] * (len(shape) - 1)), value).tolist()  # of an image, one per channel

        return cls(
            input_center=figures(0.0, inputs),
            input_scale=figures(1.0, inputs),
            output_center=figures(0.0, outputs),
            output_scale=figures(1.0, outputs),
        )

    def normalize(self, x: NDArray, y: NDArray) -> tuple[Array, NDArray]:
        """Normalize samples in raw units, x `(..., *x)` and y `(..., *y)`, for a learner.

        The leading axes may be samples, or tasks and samples.
        """
        return self.normalize_x(x), self.normalize_y(y)

    def normalize_x(self, x: NDArray) -> Array:
        """Return raw x `(..., *x)` as float32 numbers near one."""
        return ((x - np.asarray(self.input_center)) / np.asarray(self.input_scale)).astype(np.float32)

    def normalize_y(self, y: NDArray) -> NDArray:
        """Return raw y `(..., *y)` as float32 numbers near one. Labels (integers) are returned unchanged."""
        if y.dtype.kind in "iu":
            return y
        return ((y - np.asarray(self.output_center)) / np.asarray(self.output_scale)).astype(np.float32)

    def raw_x(self, x: NDArray) -> Array:
        """Return normalized x `(..., *x)` in raw units, float32. This is the inverse of `normalize_x`."""
        return _raw(x, self.input_center, self.input_scale)

    def raw_y(self, y: NDArray) -> Array:
        """Return normalized y `(..., *y)` in raw units, float32. This is the inverse of `normalize_y`."""
        return _raw(y, self.output_center, self.output_scale)

    def compare_y(self, seen: NDArray, wanted: NDArray) -> tuple[float, float]:
        """Compare two predictions of y, `(..., *y)` in raw units, each number in its own scale.

        So pascals do not hide farads. Both sides are rounded to float32 at the center: two steps there are no
        difference.

        Returns:
            The largest absolute value of `wanted`, normalized, and the largest difference, in scales.
        """
        # float64: the difference of two large float32 numbers can overflow
        exact, center, scale = wanted.astype(np.float64), np.asarray(self.output_center), np.asarray(self.output_scale)
        apart = np.abs(seen - exact) - 2 * FLOAT32_STEP * np.abs(center)
        size = np.abs((exact - center) / scale).max(initial=0)
        return float(size), float((np.maximum(apart, 0.0) / scale).max(initial=0))

    def unfit(self, inputs: Shape, outputs: Shape) -> str | None:
        """Return why this is no normalization of x `(*x)` and y `(*y)`, or None if it is one.

        Args:
            inputs: The shape of one input.
            outputs: The shape of one output.
        """
        for name, figures in self:
            shape = inputs if name.startswith("input") else outputs
            if np.shape(figures) != (wanted := (shape[0], *[1] * (len(shape) - 1))):
                return f"its {name} has shape {np.shape(figures)}, but {wanted} is wanted"
            if not np.isfinite(figures).all() or (name.endswith("scale") and np.min(figures) <= 0):
                return f"its {name} holds a number that is not finite, or a scale that is not above 0"
        return None

    def far_from_zero(self, inputs: Sequence[Field], outputs: Sequence[Field]) -> str | None:
        """Return what is wrong with a number whose center is too far from zero, in its scale. None if all are near.

        Beyond `FARTHEST`, float32 keeps too few digits of what changes in the number.

        Args:
            inputs: The fields of x.
            outputs: The fields of y. For labels, which have no unit, they are never far.
        """
        sides = (
            ("x", inputs, self.input_center, self.input_scale),
            ("y", outputs, self.output_center, self.output_scale),
        )
        for side, fields, centers, scales in sides:
            ratios = np.abs(np.ravel(centers)) / np.ravel(scales)
            farthest = int(ratios.argmax())
            if ratios[farthest] > FARTHEST:
                name, unit = list(number_names(fields))[farthest]
                return _too_far(f"{name} of {side}", unit, np.ravel(centers)[farthest], np.ravel(scales)[farthest])
        return None


def number_names(fields: Sequence[Field]) -> Iterator[tuple[str, str]]:
    """Yield the name and the unit of every number of a sample that has a center of its own, for messages.

    For an image, these are its channels. The unit has a space before it, and is empty for pure numbers.
    """
    shape, units = sample_shape(fields), ["" if field.unit == "1" else f" {field.unit}" for field in fields]
    if len(shape) > 1:
        yield from ((f"field '{fields[0].name}' channel {channel}", units[0]) for channel in range(shape[0]))
        return
    for field, unit in zip(fields, units, strict=True):
        for number in range(field.size):
            yield f"field '{field.name}'" + (f" element {number}" if field.size > 1 else ""), unit


def split_center(center: ArrayLike, scale: ArrayLike) -> tuple[Array, Array | None]:
    """Split a center into two float32 parts, so that float32 arithmetic subtracts it without a loss.

    For x near the center, `x - first` is exact, and `- rest` then is a step of the scale's size. In one part, the
    rounding of the center itself would move every normalized number.

    Returns:
        The first part and the rest, each in the shape of `center`. The rest is None if it is too small to count.
    """
    exact = np.asarray(center, np.float64)
    first = exact.astype(np.float32)
    rest = (exact - first).astype(np.float32)
    return first, rest if np.any(np.abs(rest) > 1e-6 * np.asarray(scale)) else None


def _raw(normal: NDArray, center: Figures, scale: Figures) -> Array:
    with np.errstate(over="ignore"):  # what an adaptation that diverged predicts is infinite
        return (normal * np.asarray(scale) + np.asarray(center)).astype(np.float32)


def _too_far(name: str, unit: str, center: float, scale: float) -> str:
    return (
        f"{name} lies around {center:.6g}{unit} and varies by {scale:.2g}{unit} only: its center is "
        f"{abs(center) / scale:.1e} times its scale, at most {FARTHEST:.0e} is wanted, because float32 keeps steps of "
        f"{FLOAT32_STEP * abs(center):.1g}{unit} there; subtract an offset, such as {center:.6g}, from it before it "
        "becomes float32, in the training data and on the robot alike (for a position: take a local origin), or leave "
        "the number out if it only jitters"
    )
