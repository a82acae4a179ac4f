"""The golden stream of a bundle with the rule `recursive`: many updates in a row, as torch computed them."""

import math
from typing import NamedTuple

import numpy as np

from msr_runtime.arrays import relative_error
from msr_runtime.bundle.golden import error_y
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.npz import Headers, check_shapes, encode_arrays, length_of, read_arrays, reading
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, sample_shape

_TIMES = 5.0
"""So many times what float32 misses in torch, it may miss in ONNX Runtime: it adds up in another order."""
LARGEST_ROUNDING = 1e-3
"""The largest `Stream.rounding` of a stream that says something about the graphs."""


class Stream(NamedTuple):
    """The golden stream: samples that follow each other, with the results that torch computed. All in raw units.

    Torch computed them in float64. Rounding errors of many updates add up, the more so the surer a filter becomes. So
    it is known what torch itself misses in float32, and a robot may miss a little more.

    The self-test at load repeats it on the robot, beside the golden example.
    """

    x: Array
    """Inputs of the samples, `(samples, *x)`."""
    y: Array
    """Outputs of the samples, `(samples, *y)`."""
    keep: Array
    """What time leaves of the mean before each sample, `(samples,)`: 1 is no time."""
    innovation: Array
    """y minus the prediction before each update, `(samples, *y)`."""
    variance: Array
    """The variance that was expected of each innovation, `(samples, *y)`."""
    nis: Array
    """The normalized innovation squared of each sample, `(samples,)`."""
    v: Array
    """Filter parameters after the last update, `(1, K)`."""
    query_x: Array
    """Inputs to predict from after the last update, `(batch, *x)`."""
    query_y: Array
    """The predictions, `(batch, *y)`."""
    epistemic: Array
    """Their standard deviations because of v, `(batch, *y)`."""
    total: Array
    """Their standard deviations because of v and noise, `(batch, *y)`."""
    rounding: float
    """The largest relative error of torch's float32 in these results."""

    def allowed(self, tolerance: float) -> float:
        """Return the relative error that ONNX Runtime may have: `tolerance`, or more where float32 is not as good."""
        return max(tolerance, _TIMES * self.rounding)

    def to_bytes(self) -> bytes:
        """Return the stream as the bytes of an .npz file."""
        return encode_arrays(self._asdict())

    def errors(self, normalization: Normalization, seen: "Stream") -> dict[str, float]:
        """Return the relative error of each figure that was computed again, by its name. NaN counts as infinite.

        Numbers in the units of y are compared in the scales of y, as predictions are.

        Args:
            normalization: The normalization of the bundle.
            seen: The same samples, with what was computed again.
        """
        scale = np.asarray(normalization.output_scale, np.float32)
        # What comes first is named first where several are off: the rest is computed from it.
        errors = {
            "innovations of a stream": relative_error(seen.innovation / scale, self.innovation / scale),
            "variances of a stream": relative_error(seen.variance / scale**2, self.variance / scale**2),
            "normalized innovations of a stream": relative_error(seen.nis, self.nis),
            "v after a stream": relative_error(seen.v, self.v),
            "predictions after a stream": error_y(normalization, seen.query_y, self.query_y),
        }
        errors |= {
            name: relative_error(getattr(seen, part) / scale, getattr(self, part) / scale)
            for name, part in (
                ("epistemic deviations after a stream", "epistemic"),
                ("total deviations after a stream", "total"),
            )
        }
        return {name: math.inf if math.isnan(error) else error for name, error in errors.items()}


def read_stream(data: bytes, manifest: Manifest, where: str) -> Stream:
    """Read a golden stream, and check it against the manifest before an array is unpacked.

    Args:
        data: The bytes of stream.npz.
        manifest: The manifest of its bundle.
        where: The name of the file in error messages.

    Raises:
        BundleError: If the file is damaged, or if an array is missing, has another shape than the manifest says or is
            too large.
    """
    with reading(where, "a golden stream"):
        *arrays, number = read_arrays(data, Stream._fields, lambda headers: _check_arrays(headers, manifest))
        rounding = float(number)
        if not 0 <= rounding <= LARGEST_ROUNDING:
            raise ValueError(f"rounding is {rounding:g}, but 0 to {LARGEST_ROUNDING:g} is wanted")
        stream = Stream(*arrays, rounding=rounding)
        if not ((stream.keep >= 0) & (stream.keep <= 1)).all():
            raise ValueError(f"keep lies between {stream.keep.min():g} and {stream.keep.max():g}, but 0 to 1 is wanted")
        return stream


def _check_arrays(headers: Headers, manifest: Manifest) -> None:
    samples, batch = (length_of(headers, name) for name in ("x", "query_x"))
    x, y = sample_shape(manifest.inputs), sample_shape(manifest.outputs)
    wanted = {
        "x": (samples, *x),
        "y": (samples, *y),
        "keep": (samples,),
        "innovation": (samples, *y),
        "variance": (samples, *y),
        "nis": (samples,),
        "v": (1, manifest.filter_parameters),
        "query_x": (batch, *x),
        "query_y": (batch, *y),
        "epistemic": (batch, *y),
        "total": (batch, *y),
        "rounding": (),
    }
    check_shapes(headers, wanted, samples, batch)
