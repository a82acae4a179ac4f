"""A network as a flat graph of core operators, whose gradients can be traced for any number of samples.

Many of torch's functions read the number of samples as a plain number when they are differentiated, or batched by
`vmap`. The trace would then hold for this number alone. Core operators do not, or are easily written so that they do
not. So the network is traced to core operators first, and differentiated after that:

    network  -- trace -->  graph of core operators  -- grad, vmap, trace -->  graph of the step

There are two such graphs: for one sample, of which a Jacobian is taken, and for any number of them.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from msr_export.lowering import quiet
from msr_export.patches import concatenate, convolution, each, max_pool, pad, split
from msr_runtime.meta.rules.rule import Tensors

aten = torch.ops.aten


class FlatNetwork:
    """A network, called with its weights and x.

    Args:
        network: The network, in evaluation mode.
        x: An example, `(samples, *inputs)`, of more than one sample.

    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self._network = network
        samples = {0: torch.export.Dim("samples")}
        self._one, self._any = (self._flat(each, axes) for each, axes in ((x[:1], None), (x, samples)))

    def __call__(self, adapted: Tensors, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, *outputs)`."""
        one = isinstance(x.shape[0], int) and x.shape[0] == 1
        run = _Batchable(self._one) if one else fx.Interpreter(self._any)
        return run.run(*tree_leaves((self._values() | adapted, x)))[0]

    def _values(self) -> Tensors:
        return {**dict(self._network.named_parameters()), **dict(self._network.named_buffers())}

    def _flat(self, x: Tensor, axes: dict[int, Any] | None) -> fx.GraphModule:
        values = {name: value.detach() for name, value in self._values().items()}
        shapes = {"values": dict.fromkeys(values), "x": axes}
        with torch.no_grad(), quiet():
            program = torch.export.export(_Call(self._network), (values, x), dynamic_shapes=shapes, strict=False)
            return program.run_decompositions({**core_aten_decompositions(), **_DECOMPOSED}).graph_module


class _Call(nn.Module):
    """A network whose parameters and buffers are arguments."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = [network]  # in a list, so that its tensors are not this module's

    def forward(self, values: Tensors, x: Tensor) -> Tensor:
        return functional_call(self._network[0], values, (x,))


class _Batchable(fx.Interpreter):
    """Runs a graph of one sample in operators that `vmap` takes for any number of samples."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function that stands for an operator, or the operator itself if there is none."""
        written: Any = _BATCHABLE.get(target, target)
        return super().call_function(written, args, kwargs)


def _slice(x: Tensor, axis: int = 0, first: int | None = None, last: int | None = None, step: int = 1) -> Tensor:
    length = x.shape[axis]
    if step != 1:
        return aten.slice.Tensor(x, axis, first, last, step)
    start, stop, _ = slice(first, last).indices(length)
    rest = [0] * (x.ndim - axis % x.ndim - 1)
    return pad(x, [-start, *rest], [stop - length, *rest])


def _select(x: Tensor, axis: int, index: int) -> Tensor:
    index %= x.shape[axis]
    return _slice(x, axis, index, index + 1).squeeze(axis)


def _embedding(table: Tensor, index: Tensor, *_: Any) -> Tensor:
    chosen = (index.unsqueeze(-1) == torch.arange(table.shape[0])).to(table.dtype)
    return (chosen.reshape(-1, table.shape[0]) @ table).reshape(*index.shape, -1)


def _convolution(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    more: list[int],
    groups: int,
) -> Tensor:
    if not transposed:
        return convolution(image, weight, bias, stride, padding, dilation, groups)
    # The image with zeros between its pixels, under the filter turned round: a plain convolution.
    axes = weight.ndim - 2
    stride, padding, dilation, more = (each(values, axes) for values in (stride, padding, dilation, more))
    for axis, step in enumerate(stride, start=2):
        if step > 1:
            rest = [0] * (image.ndim - axis)
            image = pad(image.unsqueeze(axis + 1), [0, *rest[1:]], [step - 1, *rest[1:]])
            image = pad(image.flatten(axis, axis + 1), [0, *rest[1:]], [1 - step, *rest[1:]])
    taps = weight.shape[2:]
    reach = [apart * (tap - 1) for apart, tap in zip(dilation, taps, strict=True)]
    before = [far - cut for far, cut in zip(reach, padding, strict=True)]
    after = [first + extra for first, extra in zip(before, more, strict=True)]
    weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(*range(2, weight.ndim))
    return convolution(pad(image, before, after), weight, bias, 1, 0, dilation, groups)


_BATCHABLE: dict[Any, Callable[..., Any]] = {
    aten.cat.default: concatenate,
    aten.convolution.default: _convolution,
    aten.embedding.default: _embedding,
    aten.max_pool2d_with_indices.default: lambda *args: (max_pool(*args), None),
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split,
    aten.view.default: torch.reshape,  # what comes from a function above may lie in memory in another order
}
"""Operator to the function that computes it under `vmap`, for any number of samples."""


def _centered(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Give x a mean of 0 and a variance of 1 along some axes. Also return the mean and the factor."""
    mean = x.mean(axes, keepdim=True)
    moved = x - mean
    factor = (moved.square().mean(axes, keepdim=True) + eps).rsqrt()
    return moved * factor, mean, factor


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _of_channels(x: Tensor, *parts: Tensor | None) -> list[Tensor | None]:
    """Numbers of the channels, shaped so that they stand along axis 1 of x."""
    return [None if part is None else part.reshape(-1, *[1] * (x.ndim - 2)) for part in parts]


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    moved, mean, factor = _centered(x, list(range(-len(shape), 0)), eps)
    return _scaled(moved, weight, bias), mean, factor


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, _n: int, _c: int, _size: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    parts = x.reshape(x.shape[0], groups, -1)
    moved, mean, factor = _centered(parts, [2], eps)
    return _scaled(moved.reshape(x.shape), *_of_channels(x, weight, bias)), mean.squeeze(2), factor.squeeze(2)


def _norm_of_batch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, _training: bool, _momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Without running statistics, as instance normalization calls it."""
    moved, mean, factor = _centered(x, [0, *range(2, x.ndim)], eps)
    return _scaled(moved, *_of_channels(x, weight, bias)), mean.flatten(), factor.flatten()


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, _momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    factor = (variance + eps).rsqrt()
    moved = _scaled(x, *_of_channels(x, factor, -mean * factor))
    return _scaled(moved, *_of_channels(x, weight, bias)), x.new_zeros(0), x.new_zeros(0)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)).tanh())
    return 0.5 * x * (1 + (x * math.sqrt(0.5)).erf())


_DECOMPOSED: dict[Any, Callable[..., Any]] = {
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten._native_batch_norm_legit.no_stats: _norm_of_batch,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.gelu.default: _gelu,
}
"""Core operators that are written out all the same, because their gradients read the number of samples."""
