"""Layers that torch computes by one kernel, written out in operators that can be differentiated twice and batched.

The outer loop differentiates the gradients of the inner loop, and `torch.func.vmap` runs all tasks at once. torch's
kernels for attention, for LSTM cells and for recurrent sequences do not allow both. A network of your own runs under
`written_out`, which replaces them. The results are equal up to rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def written_out() -> Iterator[None]:
    """Compute attention, recurrent layers and `prelu` by the functions of this module until the block ends."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel for a whole layer, in evaluation mode
    try:
        # torch's own way to write attention out. It also acts inside torch's layers that attend.
        with sdpa_kernel(SDPBackend.MATH), _Written():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """`torch.prelu`: x where it is positive, else x times the weight of its channel, the axis after the samples."""
    slope = weight.reshape(-1, *[1] * (x.ndim - 2)) if weight.numel() > 1 else weight
    return x.clamp(min=0) + slope * x.clamp(max=0)


def lstm_cell(
    x: Tensor,
    state: Sequence[Tensor],
    by_input: Tensor,
    by_state: Tensor,
    input_bias: Tensor | None = None,
    state_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`torch.lstm_cell`, with the same arguments."""
    h, c = state
    gates = nn.functional.linear(x, by_input, input_bias) + nn.functional.linear(h, by_state, state_bias)
    enter, forget, new, leave = gates.chunk(4, -1)
    c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * c.tanh(), c


def gru_cell(
    x: Tensor,
    h: Tensor,
    by_input: Tensor,
    by_state: Tensor,
    input_bias: Tensor | None = None,
    state_bias: Tensor | None = None,
) -> Tensor:
    """`torch.gru_cell`, with the same arguments."""
    reset, update, new = nn.functional.linear(x, by_input, input_bias).chunk(3, -1)
    state_reset, state_update, state_new = nn.functional.linear(h, by_state, state_bias).chunk(3, -1)
    update = (update + state_update).sigmoid()
    new = (new + (reset + state_reset).sigmoid() * state_new).tanh()
    return new + update * (h - new)


def rnn_cell(x: Tensor, h: Tensor, by_input: Tensor, by_state: Tensor, *biases: Tensor) -> Tensor:
    """What an Elman cell gives to its activation."""
    input_bias, state_bias = biases or (None, None)
    return nn.functional.linear(x, by_input, input_bias) + nn.functional.linear(h, by_state, state_bias)


def rnn_tanh(x: Tensor, start: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`torch.rnn_tanh` on sequences of one length, with the same arguments."""
    moved, (last,) = _layers(lambda x, state, *weights: (rnn_cell(x, state[0], *weights).tanh(),), x, [start], *rest)
    return moved, last


def rnn_relu(x: Tensor, start: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`torch.rnn_relu` on sequences of one length, with the same arguments."""
    moved, (last,) = _layers(lambda x, state, *weights: (rnn_cell(x, state[0], *weights).relu(),), x, [start], *rest)
    return moved, last


def gru(x: Tensor, start: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`torch.gru` on sequences of one length, with the same arguments."""
    moved, (last,) = _layers(lambda x, state, *weights: (gru_cell(x, state[0], *weights),), x, [start], *rest)
    return moved, last


def lstm(x: Tensor, start: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.lstm` on sequences of one length, with the same arguments. Without projections."""
    moved, (h, c) = _layers(lstm_cell, x, start, *rest)
    return moved, h, c


def _layers(
    cell: Callable[..., Sequence[Tensor]],
    x: Tensor,
    start: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Run all layers of a recurrent network, each in one direction or in two. Returns outputs and last states."""
    steps, each = list(x.unbind(1 if batch_first else 0)), 4 if has_biases else 2
    directions, ends = 2 if bidirectional else 1, list[list[Tensor]]()
    for layer in range(layers):
        outputs: list[list[Tensor]] = []
        for direction in range(directions):
            index = layer * directions + direction
            own, order = weights[index * each : (index + 1) * each], []
            state = [part[index] for part in start]
            for step in reversed(steps) if direction else steps:
                state = list(cell(step, state, *own))
                order.append(state[0])
            outputs.append(order[::-1] if direction else order)
            ends.append(state)
        steps = [torch.cat(parts, -1) for parts in zip(*outputs, strict=True)]
        if dropout and train and layer < layers - 1:
            steps = [nn.functional.dropout(step, dropout) for step in steps]
    return torch.stack(steps, 1 if batch_first else 0), [torch.stack(parts) for parts in zip(*ends, strict=True)]


class _Written(TorchFunctionMode):
    """A context in which some of torch's functions are computed by the functions of this module."""

    _written: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.prelu: prelu,
        torch.lstm_cell: lstm_cell,
        torch.gru_cell: gru_cell,
        torch.rnn_tanh: rnn_tanh,
        torch.rnn_relu: rnn_relu,
        torch.gru: gru,
        torch.lstm: lstm,
    }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function of this module in place of `func`, or `func` itself if there is none."""
        return self._written.get(func, func)(*args, **(kwargs or {}))
