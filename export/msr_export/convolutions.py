"""Gradients of convolutions and pooling in operators that ONNX has. torch would call special kernels of its own for
them.

* The gradient by a filter bank is a product of matrices: patches of the image times the gradient that flows back. It
  holds for any number of groups.
* The gradient by an image is the transposed convolution.
* The gradient of a pooling goes to the pixels that the pooling read.

Source: Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016 (sizes, and transposed convolution
as the gradient).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from msr_export.patches import counts, each, pad, patches

aten = torch.ops.aten


def convolution_backward(
    gradient: Tensor,
    image: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,  # noqa: ARG001
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],  # noqa: ARG001
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients by image, weight and bias, from the gradient `(n, out, *size)` by a convolution's output.

    The arguments are those of torch's operator `convolution_backward`. The image is `(n, in, *size)`. The weight is
    `(out, in / groups, *taps)`, or `(in, out / groups, *taps)` if transposed.

    Returns:
        One gradient each for image, weight and bias; None for those that `wanted` leaves out.

    """
    axes = image.ndim - 2
    stride, padding, dilation = (each(values, axes) for values in (stride, padding, dilation))
    by_image = by_weight = by_bias = None
    if wanted[0] and transposed:
        by_image = aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0] * axes, groups)
        # With an output padding of a stride or more, the convolution reads past the image's end: cut that off.
        for axis, size in enumerate(image.shape[2:], start=2):
            by_image = by_image.narrow(axis, 0, size)
    elif wanted[0]:
        # A stride may leave the last pixels of the image unread. Their number is the output padding of the transposed
        # convolution.
        reached = [
            (size - 1) * step - 2 * pad + spread * (taps - 1) + 1
            for size, step, pad, spread, taps in zip(
                gradient.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        ]
        unread = [size - last for size, last in zip(image.shape[2:], reached, strict=True)]
        by_image = aten.convolution(gradient, weight, None, stride, padding, dilation, True, unread, groups)
    if wanted[1]:
        large, small = (gradient, image) if transposed else (image, gradient)
        by_weight = _correlate(large, small, weight.shape, stride, padding, dilation, groups)
    if wanted[2]:
        by_bias = gradient.sum([0, *range(2, gradient.ndim)])
    return by_image, by_weight, by_bias


def _correlate(
    large: Tensor,
    small: Tensor,
    shape: torch.Size,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient `shape` `(b, a / groups, *taps)` by the weight.

    The weight reads `large` `(n, a, *)` at every position of `small` `(n, b, *)`.
    """
    read = patches(large, shape[2:], small.shape[2:], stride, padding, dilation)
    n, L = large.shape[0], math.prod(small.shape[2:])
    rows, columns = (part.reshape(n, groups, -1, L).permute(1, 2, 0, 3) for part in (small, read))
    rows, columns = rows.reshape(groups, -1, n * L), columns.reshape(groups, -1, n * L)
    # Without groups this is a product of two matrices, which is faster than a product of two stacks.
    return (rows[0] @ columns[0].mT if groups == 1 else rows @ columns.mT).reshape(shape)


def max_pool2d_backward(
    gradient: Tensor,
    image: Tensor,
    kernel: Sequence[int],  # noqa: ARG001
    stride: Sequence[int],  # noqa: ARG001
    padding: Sequence[int],  # noqa: ARG001
    dilation: Sequence[int],  # noqa: ARG001
    ceil_mode: bool,  # noqa: ARG001
    indices: Tensor,
) -> Tensor:
    """The gradient by the image, from the gradient by the maxima at `indices` of the flattened `(height, width)`.

    The arguments are those of torch's operator.
    """
    zeros = torch.zeros_like(image).flatten(-2)
    return zeros.scatter_add(-1, indices.flatten(-2), gradient.flatten(-2)).reshape(image.shape)


def avg_pool2d_backward(
    gradient: Tensor,
    image: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,  # noqa: ARG001
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """The gradient by the image, from the gradient `(n, channels, *size)` by the means.

    The arguments are those of torch's operator.
    """
    kernel, padding = each(kernel, 2), each(padding, 2)
    stride = each(stride, 2) if stride else kernel
    sizes, lengths = gradient.shape[-2:], image.shape[-2:]
    divided = divisor or counts(sizes, kernel, stride, padding, lengths, count_include_pad).to(gradient.dtype)
    # Every pixel of a window gets an equal share. A transposed convolution with ones adds up the overlapping windows.
    alone = (gradient / divided).reshape(-1, 1, *sizes)
    ones = torch.ones(1, 1, *kernel, dtype=gradient.dtype)
    spread = aten.convolution(alone, ones, None, stride, [0, 0], [1, 1], True, [0, 0], 1)
    ends = [length + pad - size for length, pad, size in zip(lengths, padding, spread.shape[-2:], strict=True)]
    return pad(spread, [-before for before in padding], ends).reshape(image.shape)


def constant_pad(image: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes with a value: two numbers per axis, last axis first. Negative numbers cut off; ONNX gets a
    slice for them.
    """
    if min(pads) >= 0:
        # Tells torch to keep the operator as it is.
        return NotImplemented
    for index, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), start=1):
        if before < 0 or after < 0:
            axis = image.ndim - index
            image = aten.slice.Tensor(image, axis, max(-before, 0), image.shape[axis] + min(after, 0))
    positive = [max(count, 0) for count in pads]
    return aten.constant_pad_nd(image, positive, value) if any(positive) else image


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool2d_backward,
    aten.avg_pool2d_backward.default: avg_pool2d_backward,
    aten.constant_pad_nd.default: constant_pad,
}
"""Operator to its decomposition, for `make_fx`."""
