"""Convolution and pooling as products with patches: slices of an image, which `vmap` takes for any number of samples.

torch's `vmap` folds the samples into the channels of its convolution kernels, and so fixes the number of samples. A
Jacobian is taken sample by sample with `vmap`. So a Jacobian is traced under `AnySamples`, with the functions of this
module.

Source: Chellapilla, Puri, Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Each = int | Sequence[int]
"""One number for all axes, or one per axis."""


def each(values: Each, axes: int) -> list[int]:
    """One number per axis."""
    values = [values] if isinstance(values, int) else [*values]
    return values * axes if len(values) == 1 else values


def pad(image: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the trailing axes with a value, before and after. Negative numbers cut off."""
    pairs = list(zip(before, after, strict=True))[::-1]
    return torch.constant_pad_nd(image, [*itertools.chain(*pairs)], value) if any(map(any, pairs)) else image


def patches(
    image: Tensor,
    taps: Sequence[int],
    sizes: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    value: float = 0.0,
) -> Tensor:
    """What each tap of a filter reads at each position: image `(n, channels, *)` to `(n, channels, taps, *sizes)`.

    Pixels outside the image have the value `value`. Pixels that no tap reads are left out.
    """
    axes = zip(sizes, stride, dilation, taps, strict=True)
    lengths = [size * step + apart * (tap - 1) for size, step, apart, tap in axes]
    ends = [length - before - size for length, before, size in zip(lengths, padding, image.shape[2:], strict=True)]
    padded, read = pad(image, padding, ends, value), []
    # Per tap: shift the image so that the tap's first pixel comes first, then keep every stride-th pixel.
    for tap in itertools.product(*map(range, taps)):
        first = [index * apart for index, apart in zip(tap, dilation, strict=True)]
        rest = zip(lengths, first, sizes, stride, strict=True)
        part = pad(padded, [-start for start in first], [start + size * step - end for end, start, size, step in rest])
        for axis, step in enumerate(stride, start=2):
            part = _every(part, axis, step)
        read.append(part)
    return torch.stack(read, 2)


def _every(image: Tensor, axis: int, step: int) -> Tensor:
    """Keep the first of every `step` numbers along an axis."""
    if step == 1:
        return image
    rest = [0] * (image.ndim - axis - 1)
    return pad(image.unflatten(axis, (-1, step)), [0, *rest], [1 - step, *rest]).flatten(axis, axis + 1)


def convolution(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Each = 1,
    padding: Each | str = 0,
    dilation: Each = 1,
    groups: int = 1,
) -> Tensor:
    """`conv1d` and `conv2d` of `torch.nn.functional`, with the same arguments.

    The image is `(n, in, *)` and the weight `(out, in / groups, *taps)`.
    """
    axes, taps = weight.ndim - 2, weight.shape[2:]
    strides, apart = each(stride, axes), each(dilation, axes)
    if isinstance(padding, str):
        total = [0 if padding == "valid" else a * (tap - 1) for a, tap in zip(apart, taps, strict=True)]
        before = [count // 2 for count in total]
        image = pad(image, before, [count - first for count, first in zip(total, before, strict=True)])
        padding = 0
    around = each(padding, axes)
    sizes = _sizes(image, taps, strides, around, apart)
    read = patches(image, taps, sizes, strides, around, apart)
    n, L = image.shape[0], math.prod(sizes)
    rows = read.reshape(n, groups, -1, L).permute(1, 0, 3, 2).reshape(groups, n * L, -1)
    filters = weight.reshape(groups, weight.shape[0] // groups, -1).mT
    y = rows[0] @ filters[0] if groups == 1 else (rows @ filters).transpose(0, 1).reshape(n * L, -1)
    y = y if bias is None else y + bias
    return y.reshape(n, L, -1).mT.reshape(n, -1, *sizes)


def max_pool(
    image: Tensor,
    kernel_size: Each,
    stride: Each | None = None,
    padding: Each = 0,
    dilation: Each = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,  # noqa: ARG001  # torch calls other functions if they are wanted
) -> Tensor:
    """`max_pool1d` and `max_pool2d` of `torch.nn.functional`. Of equal maxima the first one counts, as in torch."""
    axes = image.ndim - 2
    taps, around, apart = (each(values, axes) for values in (kernel_size, padding, dilation))
    strides = each(stride, axes) if stride else taps
    sizes = _sizes(image, taps, strides, around, apart, ceil_mode)
    first, *others = patches(image, taps, sizes, strides, around, apart, -math.inf).unbind(2)
    for other in others:
        first = torch.where(other > first, other, first)
    return first


def avg_pool(
    image: Tensor,
    kernel_size: Each,
    stride: Each | None = None,
    padding: Each = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`avg_pool1d` and `avg_pool2d` of `torch.nn.functional`, with the same arguments."""
    axes = image.ndim - 2
    taps, around = each(kernel_size, axes), each(padding, axes)
    strides = each(stride, axes) if stride else taps
    sizes = _sizes(image, taps, strides, around, [1] * axes, ceil_mode)
    total = patches(image, taps, sizes, strides, around, [1] * axes).sum(2)
    if divisor_override is not None:
        return total / divisor_override
    return total / counts(sizes, taps, strides, around, image.shape[2:], count_include_pad).to(image.dtype)


def counts(
    sizes: Sequence[int],
    taps: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    lengths: Sequence[int],
    count_include_pad: bool,
) -> Tensor:
    """The divisor of each window of an average, `sizes`. The last window may stick out and then divides by less."""
    whole = torch.ones([1] * len(sizes), dtype=torch.int64)
    for axis, (size, tap, step, pad, length) in enumerate(zip(sizes, taps, stride, padding, lengths, strict=True)):
        first = torch.arange(size) * step - pad
        last = (first + tap).clamp(max=length + pad)
        along = last - first if count_include_pad else last.clamp(max=length) - first.clamp(min=0)
        whole = whole * along.reshape([-1 if other == axis else 1 for other in range(len(sizes))])
    return whole


def _sizes(
    image: Tensor,
    taps: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> list[int]:
    """The size of the output.

    With `ceil_mode` it is rounded up, but the last window must still begin inside the image or in the padding before
    it.
    """
    sizes = []
    for length, tap, step, pad, apart in zip(image.shape[2:], taps, stride, padding, dilation, strict=True):
        room = length + 2 * pad - apart * (tap - 1) - 1
        size = (room + (step - 1 if ceil_mode else 0)) // step + 1
        sizes.append(size - 1 if ceil_mode and (size - 1) * step >= length + pad else size)
    return sizes


def concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat`, as a sum of zero-padded tensors: `torch.cat`, too, fixes the number of samples under `vmap`."""
    axis, start = dim % tensors[0].ndim, 0
    whole, rest = sum(tensor.shape[axis] for tensor in tensors), [0] * (tensors[0].ndim - axis - 1)
    parts = []
    for tensor in tensors:
        length = tensor.shape[axis]
        parts.append(pad(tensor, [start, *rest], [whole - start - length, *rest]))
        start += length
    return functools.reduce(torch.add, parts)


def split(tensor: Tensor, split_size: Sequence[int] | int, dim: int = 0) -> Sequence[Tensor]:
    """`Tensor.split`, as negative padding: its gradient is a concatenation, see `concatenate`."""
    axis = dim % tensor.ndim
    length, rest = tensor.shape[axis], [0] * (tensor.ndim - axis - 1)
    if isinstance(split_size, int):
        split_size = [min(split_size, length - start) for start in range(0, length, split_size)]
    ends = itertools.accumulate(split_size)
    return [pad(tensor, [size - end, *rest], [end - length, *rest]) for size, end in zip(split_size, ends, strict=True)]


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`group_norm` of `torch.nn.functional`, with the same arguments: torch's reads how many samples there are."""
    parts = x.reshape(x.shape[0], num_groups, -1)
    moved = parts - parts.mean(2, keepdim=True)
    y = (moved * (moved.square().mean(2, keepdim=True) + eps).rsqrt()).reshape(x.shape)
    for part, act in ((weight, torch.mul), (bias, torch.add)):
        y = y if part is None else act(y, part.reshape(-1, *[1] * (x.ndim - 2)))
    return y


class AnySamples(TorchFunctionMode):
    """A context in which torch's convolutions, poolings, norms, concatenations and splits are computed by the functions
    of this module.
    """

    _written: dict[Callable[..., Any], Callable[..., Tensor | Sequence[Tensor]]] = {
        nn.functional.conv1d: convolution,
        nn.functional.conv2d: convolution,
        nn.functional.max_pool1d: max_pool,
        nn.functional.max_pool2d: max_pool,
        nn.functional.avg_pool1d: avg_pool,
        nn.functional.avg_pool2d: avg_pool,
        nn.functional.group_norm: group_norm,
        torch.cat: concatenate,
        Tensor.split: split,
    }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function of this module in place of `func`, or `func` itself if there is none."""
        return self._written.get(func, func)(*args, **(kwargs or {}))
