"""Exact sufficient statistics of an image for one convolution under the mean squared error.

A few rows of numbers replace a whole image, so that training is faster. It works as follows:

* The patches that the convolution reads are the rows of P `(n, p)`. The wanted outputs are Y `(n, q)`. The error of a
  convolution with weight W is then quadratic in W: `|P W' - Y|² / (n q)`.
* The decomposition `P = Q R`, where Q has orthonormal columns, turns this error into
  `(|R W' - Q'Y|² + |Y - Q Q'Y|²) / (n q)`. The first part needs only the p rows of R and Q'Y. The second part does not
  depend on W; it is kept, per channel, as one more row whose patch is zero.
* A linear layer from p to q numbers has the weight `(q, p)`: the convolution's weight, flattened. On the rows, every
  loss, gradient and adaptation rule of this layer equals that of the convolution on the image.

This is exact for one convolution only. For a network with a nonlinearity, or with a bias that is not a column of P, the
rows are useless.

Source: Golub, "Numerical Methods for Solving Linear Least Squares Problems", 1965.
"""

import math
from typing import NoReturn

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from msr_envs.synthetic.two_dimensions import CONV_C8, CONV_C8_HARD, CONV_D8, CONV_D8_HARD
from msr_runtime.errors import FamilyError
from msr_runtime.task import Field, Loss, Split, TaskBatch, TaskFamily

Sizes = int | tuple[int, ...]
"""One number for all axes of an image, or one number per axis, as torch's convolutions take them."""


class Compressed:
    """A family of images, with each image replaced by the rows on which one convolution's mean squared error depends.

    x is `(tasks, samples * rows, p)` and y is `(tasks, samples * rows, q)`. A sample is `rows` consecutive rows, and
    `shots` and `queries` count samples. p is the number of input channels times the taps of the kernel, in C order,
    plus one with a bias (the last column). q is the number of output channels. The mean squares of the rows are those
    of the patches and of the outputs, and the rows of each sample sum to zero. The measured normalization thus has the
    images' own scale, and a center of zero.

    Train with `depth=0` and with `bias=False`, even if the convolution has a bias, and with `augment=False`: an
    augmentation acts on images.

    Args:
        family: The family of images: x `(channels, *space)`, and the wanted outputs y `(channels, *space)`. Noise of
            the outputs becomes part of the rows.
        kernel: Taps along each axis of space.
        stride: Stride of the convolution.
        padding: Zeros added at both ends of each axis.
        dilation: Distance between neighboring taps.
        bias: The convolution has a bias. The patches get a column of ones.
        at_once: How many tasks are drawn from `family` in one call, because the images of all tasks may not fit into
            memory. A family that repeats no task within one call may repeat a task in another call.

    Raises:
        FamilyError: The loss is not the mean squared error; inputs or outputs are not a single image; the convolution
            gives another shape than the outputs have; or there would be at least as many rows as positions in an image.

    """

    loss: Loss = "mse"
    shared_scale = True

    def __init__(
        self,
        family: TaskFamily,
        *,
        kernel: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        bias: bool = False,
        at_once: int = 16,
    ) -> None:
        layer = (kernel, stride, padding, dilation)
        self.family, self.bias, self.at_once = family, bias, at_once
        self.name: str = f"{family.name}-compressed"
        self.query_sets: tuple[str, ...] = family.query_sets
        if family.loss != "mse":
            _fail(family, f"its loss is {family.loss}, but only the mean squared error is quadratic in the weight")
        if len(family.inputs) != 1 or len(family.outputs) != 1:
            _fail(family, "it has several input or output fields, but a convolution maps one image to one image")
        image, response = family.inputs[0], family.outputs[0]
        axes = len(image.shape) - 1
        if axes < 1:
            _fail(family, f"its inputs have the shape {image.shape}, but an image is (channels, *space)")
        self._layer = tuple(size if isinstance(size, tuple) else (size,) * axes for size in layer)
        if any(len(size) != axes for size in self._layer):
            _fail(family, f"its images have {axes} axes of space, but kernel, stride, padding, dilation are {layer}")
        *space, taps = patches(np.zeros(image.shape, np.float32), *self._layer).shape
        positions, columns = math.prod(space), taps + bias
        if response.shape[1:] != tuple(space):
            _fail(
                family,
                f"the layer maps {image.shape} to (channels, {', '.join(map(str, space))}), but the outputs have the "
                f"shape {response.shape}; most likely kernel, stride, padding or dilation is another",
            )
        self.rows: int = columns + 2
        """Rows per sample: one per column of P, one for the error that no weight removes, and one so that the sum can
        be zero."""
        if self.rows >= positions:
            _fail(
                family,
                f"an image has {positions} positions and would become {self.rows} rows; use the family as it is",
            )
        patch = _bounded("patch", taps, image, self.rows)
        one = Field(name="one", shape=(1,), unit="1", low=-math.sqrt(self.rows), high=math.sqrt(self.rows))
        self.inputs: tuple[Field, ...] = (patch, one) if bias else (patch,)
        self.outputs: tuple[Field, ...] = (_bounded(response.name, response.shape[0], response, self.rows),)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw what `family.sample` draws, `at_once` tasks per call, and replace each image by its rows.

        Returns:
            x `(tasks, samples * rows, p)` and y `(tasks, samples * rows, q)`, float32.

        """
        parts = []
        for start in range(0, tasks, self.at_once):
            images = self.family.sample(rng, min(self.at_once, tasks - start), shots, queries, split)
            parts.append((*self._rows(images.support_x, images.support_y), *self._rows(images.query_x, images.query_y)))
        return TaskBatch(*map(np.concatenate, zip(*parts, strict=True)))

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: an augmentation acts on images, not on rows."""
        return x, y

    def _rows(self, x: NDArray, y: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        # float64 until the end: products of float32 patches would lose the digits that small errors are made of
        tasks, samples, channels = y.shape[:3]
        P = patches(x.astype(np.float64), *self._layer)
        P = P.reshape(tasks, samples, -1, P.shape[-1])
        if self.bias:
            P = np.concatenate([P, np.ones_like(P[..., :1])], axis=-1)
        Y = y.reshape(tasks, samples, channels, -1).astype(np.float64).swapaxes(2, 3)
        rows_x, rows_y = (part.reshape(tasks, samples * self.rows, -1) for part in compress(P, Y))
        return rows_x.astype(np.float32), rows_y.astype(np.float32)


def patches(
    images: NDArray,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> NDArray:
    """Return what a convolution reads at each position of images `(..., channels, *space)`.

    All sizes hold one number per axis of space.

    Returns:
        `(..., *positions, channels * taps)`. The last axis is in C order, channels first, as in a convolution's weight.

    """
    axes = tuple(range(-len(kernel), 0))
    pads = [(0, 0)] * (images.ndim - len(axes)) + [(p, p) for p in padding]
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    windows = sliding_window_view(np.pad(images, pads), spans, axes)
    # (..., channels, *positions, *taps): keep every `stride`-th position, and every `dilation`-th pixel of a window
    windows = windows[(..., *(slice(None, None, s) for s in (*stride, *dilation)))]
    windows = np.moveaxis(windows, -2 * len(axes) - 1, -len(axes) - 1)
    return windows.reshape(*windows.shape[: -len(axes) - 1], -1)


def compress(P: NDArray[np.float64], Y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Replace the n rows of P `(..., n, p)` and Y `(..., n, q)` by p + 2 rows with the same error for any weight.

    The mean square of `P W - Y` stays the same for every W, over all columns and for each column of Y by itself. n must
    be at least p. P need not have full rank. The new rows sum to zero.

    Returns:
        P `(..., p + 2, p)` and Y `(..., p + 2, q)`.

    """
    n, p = P.shape[-2:]
    Q, R = np.linalg.qr(P)
    explained = Q.swapaxes(-1, -2) @ Y
    squares = np.einsum("...nq,...nq->...q", Y, Y) - np.einsum("...pq,...pq->...q", explained, explained)
    residual = np.sqrt(np.maximum(squares, 0.0))[..., None, :]  # rounding can make an exact fit slightly negative
    x = np.concatenate([R, np.zeros_like(R[..., :2, :])], axis=-2)
    y = np.concatenate([explained, residual, np.zeros_like(residual)], axis=-2)
    # An orthogonal matrix on the rows keeps every mean square. This reflection exchanges the direction that sums all
    # rows with that of the last row, which is zero, so that the rows sum to zero. The factor is for the fewer rows.
    normal = np.full((p + 2, 1), (p + 2) ** -0.5)
    normal[-1] -= 1
    turn = math.sqrt((p + 2) / n) * (np.eye(p + 2) - 2 * normal @ normal.T / np.square(normal).sum())
    return turn @ x, turn @ y


def _bounded(name: str, size: int, field: Field, rows: int) -> Field:
    # The mean square of a column is that of the numbers it replaces. In the worst case, one row holds all of it.
    most = math.sqrt(rows) * max(abs(field.low), abs(field.high))
    return Field(name=name, shape=(size,), unit=field.unit, low=-most, high=most)


def _fail(family: TaskFamily, message: str) -> NoReturn:
    raise FamilyError(f"family '{family.name}' cannot be compressed: {message}")


CONV_C8_COMPRESSED, CONV_D8_COMPRESSED = Compressed(CONV_C8, kernel=3), Compressed(CONV_D8, kernel=3)
CONV_C8_HARD_COMPRESSED = Compressed(CONV_C8_HARD, kernel=3)
CONV_D8_HARD_COMPRESSED = Compressed(CONV_D8_HARD, kernel=3)
