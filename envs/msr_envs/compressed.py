"""Exact sufficient statistics for one convolution under the mean squared error: a few rows stand for a whole image.

The error of a convolution with weight W on one image is quadratic in W: with the image's patches as the rows of
P `(n, p)` and the wanted outputs Y `(n, q)` it is `|P W' - Y|² / (n q)`. For `P = Q R` with orthonormal columns in Q it
is `(|R W' - Q'Y|² + |Y - Q Q'Y|²) / (n q)`: p rows of R and Q'Y, and a constant. The constant is kept, by channel, as a
row whose patch is zero. So every loss, gradient and adaptation rule gives on the rows what it gives on the image, by a
plain linear layer from p to q, whose weight `(q, p)` is the convolution's, flattened.

It holds for nothing else: to a network with a nonlinearity, or with a bias that is no column of P, rows tell nothing.

Source: Golub, "Numerical Methods for Solving Linear Least Squares Problems", 1965.
"""

import math
from typing import NoReturn

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from msr_envs.synthetic_2d import CONV_C8, CONV_C8_HARD, CONV_D8, CONV_D8_HARD
from msr_runtime.errors import FamilyError
from msr_runtime.task import Field, Loss, Split, TaskBatch, TaskFamily

Sizes = int | tuple[int, ...]
"""One number for every axis of an image, or one an axis, as torch's convolutions take them."""


class Compressed:
    """A family of images, each of them as the `rows` rows that one convolution's mean squared error depends on.

    x `(tasks, samples * rows, p)` and y `(tasks, samples * rows, q)`: a sample is `rows` consecutive rows, and `shots`
    and `queries` count samples. p is the input channels times the kernel's taps, in C order, and one more, last, with
    a bias; q is the output channels. Mean squares are those of the patches and of the outputs, and each sample's rows
    sum to zero, so that normalisation finds the images' own scale, and nothing to centre.

    Train it with `depth=0` and `bias=False`, whatever the layer has, and with `augment=False`: an augmentation acts on
    images.

    Args:
        family: The images `(channels, *space)` and what the layer shall make of them, `(channels, *space)`. Its noise
            is part of the outputs, and so of the rows.
        kernel: The taps along each axis of space.
        stride: The layer's stride.
        padding: The zeros on both ends of each axis.
        dilation: The distance of neighbouring taps.
        bias: Give the layer a bias: a column of ones in the patches.
        at_once: How many tasks to draw from `family` at a time, since the images of all may not fit into memory. One
            that repeats no task within a call can repeat it in another.

    Raises:
        FamilyError: the loss is not the mean squared error, inputs or outputs are no single image, the layer gives
            another shape than the outputs have, or the rows would be no fewer than the image has positions.

    """

    loss: Loss = "mse"

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
        """Rows of a sample: one a column, one for what no weight explains, and one to let them sum to zero."""
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
        """Draw what `family.sample` draws, `at_once` tasks a call, and compress each image by itself."""
        parts = []
        for start in range(0, tasks, self.at_once):
            images = self.family.sample(rng, min(self.at_once, tasks - start), shots, queries, split)
            parts.append((*self._rows(images.support_x, images.support_y), *self._rows(images.query_x, images.query_y)))
        return TaskBatch(*map(np.concatenate, zip(*parts, strict=True)))

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: an augmentation acts on images."""
        return x, y

    def _rows(self, x: NDArray, y: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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
    """What each position of a convolution reads: images `(..., channels, *space)` to `(..., *space', channels * taps)`.

    The last axis is in C order, channels first, as a convolution's weight has it. All sizes are one an axis of space.
    """
    axes = tuple(range(-len(kernel), 0))
    pads = [(0, 0)] * (images.ndim - len(axes)) + [(p, p) for p in padding]
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    windows = sliding_window_view(np.pad(images, pads), spans, axes)
    # (..., channels, *space', *taps): every stride-th position, and every dilation-th of a window's pixels
    windows = windows[(..., *(slice(None, None, s) for s in (*stride, *dilation)))]
    windows = np.moveaxis(windows, -2 * len(axes) - 1, -len(axes) - 1)
    return windows.reshape(*windows.shape[: -len(axes) - 1], -1)


def compress(P: NDArray[np.float64], Y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Replace rows P `(..., n, p)` and Y `(..., n, q)` by p + 2 of the same mean squared error `P W - Y` for any W.

    The mean over all rows and columns, and over the rows of each column of Y, too. n must be p at least; P may lack
    full rank. The new rows sum to zero.

    Returns:
        P `(..., p + 2, p)` and Y `(..., p + 2, q)`.

    """
    n, p = P.shape[-2:]
    Q, R = np.linalg.qr(P)
    explained = Q.swapaxes(-1, -2) @ Y
    squares = np.einsum("...nq,...nq->...q", Y, Y) - np.einsum("...pq,...pq->...q", explained, explained)
    residual = np.sqrt(np.maximum(squares, 0.0))[..., None, :]  # below zero by rounding where the weight explains all
    x = np.concatenate([R, np.zeros_like(R[..., :2, :])], axis=-2)
    y = np.concatenate([explained, residual, np.zeros_like(residual)], axis=-2)
    # A reflection leaves all squares alone. This one carries the last row, zero, into the sum of all.
    normal = np.full((p + 2, 1), (p + 2) ** -0.5)
    normal[-1] -= 1
    turn = math.sqrt((p + 2) / n) * (np.eye(p + 2) - 2 * normal @ normal.T / np.square(normal).sum())
    return turn @ x, turn @ y


def _bounded(name: str, size: int, field: Field, rows: int) -> Field:
    # a column's squares, over all rows, have the mean of those it stands for
    most = math.sqrt(rows) * max(abs(field.low), abs(field.high))
    return Field(name=name, shape=(size,), unit=field.unit, low=-most, high=most)


def _fail(family: TaskFamily, message: str) -> NoReturn:
    raise FamilyError(f"family '{family.name}' cannot be compressed: {message}")


CONV_C8_COMPRESSED, CONV_D8_COMPRESSED = Compressed(CONV_C8, kernel=3), Compressed(CONV_D8, kernel=3)
CONV_C8_HARD_COMPRESSED = Compressed(CONV_C8_HARD, kernel=3)
CONV_D8_HARD_COMPRESSED = Compressed(CONV_D8_HARD, kernel=3)
