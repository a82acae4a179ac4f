"""The golden example of a bundle: one adaptation, as torch computed it."""

import math
from typing import NamedTuple

from numpy.typing import NDArray

from msr_runtime.arrays import relative_error
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.npz import Headers, check_shapes, encode_arrays, length_of, read_arrays, reading
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, output_shape, sample_shape


class Golden(NamedTuple):
    """The golden example: one adaptation with the results that torch computed.

    The self-test at load repeats it on the robot and compares the results.
    """

    support_x: Array
    """Inputs of the support set, `(shots, *x)`, in raw units."""
    support_y: Array
    """Outputs of the support set, `(shots, *y)`, in raw units. Labels are int64."""
    x: Array
    """Inputs to predict from, `(batch, *x)`, in raw units."""
    v: Array
    """Filter parameters after `steps` inner steps from `v0`, `(1, K)`."""
    y: Array
    """Prediction with `v`, `(batch, *y)`, in raw units."""
    y0: Array
    """Prediction with the meta-learned `v0`, `(batch, *y)`, in raw units."""
    losses: Array
    """Support loss at `v0` and at `v`, `(2,)`, computed on normalized outputs."""
    steps: int
    """The number of inner steps."""

    def to_bytes(self) -> bytes:
        """Return the example as the bytes of an .npz file."""
        return encode_arrays(self._asdict())

    def errors(
        self, normalization: Normalization, v: NDArray, losses: NDArray, y0: NDArray, y: NDArray
    ) -> dict[str, float]:
        """Return the relative error of each figure that was computed again, by its name. NaN counts as infinite.

        Predictions are compared in the scales of their numbers (see `Normalization.compare_y`).

        Args:
            normalization: The normalization of the bundle.
            v: As in the example, `(1, K)`.
            losses: As in the example, `(2,)`.
            y0: As in the example, `(batch, *y)`.
            y: As in the example, `(batch, *y)`.
        """
        # What comes first is named first where several are off: the rest is computed from it.
        errors = {"prediction at v0": error_y(normalization, y0, self.y0)}
        errors |= {"adapted v": relative_error(v, self.v), "support losses": relative_error(losses, self.losses)}
        return errors | {"adapted prediction": error_y(normalization, y, self.y)}


def error_y(normalization: Normalization, seen: NDArray, wanted: NDArray) -> float:
    """Return the relative error of predictions in the scales of their numbers. NaN counts as infinite."""
    size, apart = normalization.compare_y(seen, wanted)
    error = apart / (size or 1.0)
    return math.inf if math.isnan(error) else error


def read_golden(data: bytes, manifest: Manifest, where: str) -> Golden:
    """Read a golden example, and check it against the manifest before an array is unpacked.

    Args:
        data: The bytes of golden.npz.
        manifest: The manifest of its bundle. The example has the manifest's shapes, and at most its inner steps.
        where: The name of the file in error messages.

    Raises:
        BundleError: If the file is damaged, or if an array is missing, has another shape than the manifest says or is
            too large; or if the example has more inner steps than the manifest.
    """
    with reading(where, "a golden example"):
        *arrays, count = read_arrays(data, Golden._fields, lambda headers: _check_arrays(headers, manifest))
        steps = int(count)
        if not 1 <= steps <= manifest.inner_steps:
            raise ValueError(
                f"steps is {steps}, but 1 to {manifest.inner_steps} are wanted, the manifest's inner steps"
            )
        return Golden(*arrays, steps=steps)


def _check_arrays(headers: Headers, manifest: Manifest) -> None:
    shots, batch = (length_of(headers, name) for name in ("support_x", "x"))
    inputs, outputs = sample_shape(manifest.inputs), output_shape(manifest.outputs, manifest.loss)
    targets = () if manifest.loss == "cross_entropy" else sample_shape(manifest.outputs)
    wanted = {
        "support_x": (shots, *inputs),
        "support_y": (shots, *targets),
        "x": (batch, *inputs),
        "v": (1, manifest.filter_parameters),
        "y": (batch, *outputs),
        "y0": (batch, *outputs),
        "losses": (2,),
        "steps": (),
    }
    check_shapes(headers, wanted, shots, batch)
