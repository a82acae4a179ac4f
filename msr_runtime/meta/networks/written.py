"""Layers that torch computes by one kernel, written out in operators that can be differentiated twice and batched.

The outer loop differentiates the gradients of the inner loop, and `torch.func.vmap` runs all tasks at once. torch's
kernels for attention and for LSTM cells do not allow both. A network of your own runs under
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
    """Compute attention, recurrent cells and `prelu` by the functions of this module until the block ends.

    `torch.einsum` multiplies from left to right. The package opt_einsum, where it is installed, would choose an order
    for one number of samples.
    """
    fast, chosen = torch.backends.mha.get_fastpath_enabled(), torch.backends.opt_einsum.enabled
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel for a whole layer, in evaluation mode
    torch.backends.opt_einsum.enabled = False
    try:
        # torch's own way to write attention out. It also acts inside torch's layers that attend.
        with sdpa_kernel(SDPBackend.MATH), _Written():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.opt_einsum.enabled = chosen


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


class _Written(TorchFunctionMode):
    """A context in which some of torch's functions are computed by the functions of this module."""

    _written: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.prelu: prelu,
        torch.lstm_cell: lstm_cell,
        torch.gru_cell: gru_cell,
    }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function of this module in place of `func`, or `func` itself if there is none."""
        return self._written.get(func, func)(*args, **(kwargs or {}))
