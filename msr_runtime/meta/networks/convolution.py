"""Networks of small filters: convolutions, and a locally connected layer that shares no filter between positions.

A sample is an image `(channels, height, width)`, a signal `(channels, n)`, or a vector `(n,)`. A vector is treated as a
signal of one channel. Filters are 3 wide along each axis; those of `GridConvNet` also 4.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.networks.activations import ACTIVATIONS, Activation
from msr_runtime.task import Shape

Norm = Literal["none", "layer"]
"""What normalizes the channels of a hidden layer: nothing, or the mean and deviation of one sample's whole map."""

Head = Literal["linear", "mean", "map"]
"""What follows the last map: a linear layer on all of it, a linear layer on its means over positions, or nothing."""

_TAPS = 3
_EVEN_TAPS = 4
_SMALLEST = 4
"""The size from which `GridConvNet` does not halve an axis any more."""
_CONVOLUTIONS = {2: nn.Conv1d, 3: nn.Conv2d}
"""Number of axes of a sample, including its channels, to the layer for it."""


class Window(NamedTuple):
    """How a layer of filters reads one axis."""

    taps: int
    stride: int
    padding: int

    def size(self, size: int) -> int:
        """Return how many positions are read on an axis of this size."""
        return (size + 2 * self.padding - self.taps) // self.stride + 1


class ConvNet(nn.Module):
    """Convolutions, by default with SiLU between them: x `(samples, *inputs)` to `(samples, *outputs)`.

    If the outputs have as many axes as the inputs, every layer is a convolution of stride 1. Outputs as large as the
    inputs are made with zero padding. Outputs that are smaller by 2 per layer are made without padding.

    If the outputs are a vector, each hidden layer has stride 2 and padding 1, so it halves the image, and the last
    layer is linear. This is the Conv-4 of few-shot learning (Vinyals et al., "Matching Networks", 2016; with strides as
    in Finn et al., 2017), but without its batch normalization. With batch normalization, the robot's action would
    depend on the other samples of a batch.

    Weights start with He's variance and biases at zero (He et al., 2015).

    Args:
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.
        widths: Channels of each hidden layer.
        bias: Give the layers biases.
        activation: What stands between the layers.
        norm: What normalizes the hidden layers, before the activation.
        head: What makes a vector of the last map. Without a head, the flattened map is the output and takes the place
            of `outputs`; no activation follows the last layer then.

    Raises:
        TrainingError: No such network leads from `inputs` to `outputs`.

    """

    name: ClassVar[str] = "conv"
    """What a configuration calls it."""
    last_map: Shape = ()
    """The last map, `(channels, height, width)`; empty if the outputs are no vector."""

    def __init__(
        self,
        inputs: Shape,
        outputs: Shape,
        widths: Sequence[int],
        *,
        bias: bool = True,
        activation: Activation = "silu",
        norm: Norm = "none",
        head: Head = "linear",
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.activation, self.norm, self.head = ACTIVATIONS[activation], norm, head
        depth = len(widths)
        image = _image("conv", inputs)
        convolution = _CONVOLUTIONS[len(image)]
        self.dense = len(outputs) == len(inputs)
        if self.dense:
            answer = _image("conv", outputs)
            padding = _padding("conv", inputs, outputs, depth + 1)
            channels = [image[0], *widths, answer[0]]
            layers = [convolution(a, b, _TAPS, padding=padding, bias=bias) for a, b in pairwise(channels)]
        elif len(outputs) == 1 and depth > 0:
            channels = [image[0], *widths]
            layers, size = [], image[1:]
            for a, b in pairwise(channels):
                windows = [self.window(length) for length in size]
                taps, strides, paddings = zip(*windows, strict=True)
                layers.append(convolution(a, b, taps, stride=strides, padding=paddings, bias=bias))
                size = tuple(window.size(length) for window, length in zip(windows, size, strict=True))
            self.last_map = (widths[-1], *size)
            read = widths[-1] if head == "mean" else math.prod(self.last_map)
            if head == "map":
                self.outputs = (read,)
            else:
                layers.append(nn.Linear(read, outputs[0], bias=bias))
        else:
            raise TrainingError(
                f"network '{self.name}' of depth {depth} makes no outputs of shape {outputs} from inputs of shape "
                f"{inputs}: outputs must have as many axes as the inputs, or be a vector, which takes a depth of at "
                "least 1; increase depth, or take network 'mlp'"
            )
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def window(self, size: int) -> Window:  # noqa: ARG002  # the same for every size
        """Return how a hidden layer reads an axis of this size, if the outputs are a vector."""
        return Window(_TAPS, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, *outputs)`."""
        if len(self.inputs) == 1:
            x = x.unsqueeze(1)
        for layer in self.layers[:-1]:
            x = layer(x)
            if self.norm == "layer":
                # `vmap` has no group norm of maps with their channels last, which come from such filters
                x = nn.functional.group_norm(x.contiguous(), 1)
            x = self.activation(x)
        if self.head == "mean" and not self.dense:
            x = x.flatten(2).mean(2)
        y = self.layers[-1](x if self.dense or self.head == "map" else x.flatten(1))
        if not self.dense:
            return y.flatten(1) if self.head == "map" else y
        return y.squeeze(1) if len(self.outputs) == 1 else y


class GridConvNet(ConvNet):
    """A `ConvNet` whose grids every flip and quarter turn maps onto itself, so that its maps can move as images do.

    A stride of 2 with 3 taps reads an even axis from one end: a flip then reads other pixels. Here an even axis is read
    by 4 taps, with so much padding that the next axis is odd if it can be, and an odd axis by 3 taps with padding 1.
    So 28 pixels become 13, 7 and 4. Axes of 4 or fewer keep their size: 3 taps with stride 1.

    Weights lie in memory with the input channels last, in which order torch's convolutions on the CPU are fastest.
    """

    name = "conv-grid"

    def __init__(self, inputs: Shape, outputs: Shape, widths: Sequence[int], **options: Any) -> None:
        super().__init__(inputs, outputs, widths, **options)
        if len(_image("conv-grid", inputs)) == 3:
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    def window(self, size: int) -> Window:
        """Return how a hidden layer reads an axis of this size, if the outputs are a vector."""
        if size <= _SMALLEST:
            return Window(_TAPS, 1, 1)
        if size % 2:
            return Window(_TAPS, 2, 1)
        return Window(_EVEN_TAPS, 2, 1 if (size // 2) % 2 else 0)


class LocallyConnected(nn.Module):
    """A convolution with its own filter at every position. It shares nothing, so all sharing is left to learn.

    The weight is `(out, in, taps, positions)`, with taps and positions in C order.

    Args:
        inputs: Channels of x.
        outputs: Channels of y.
        size: The size of y: one or two axes.
        padding: Zeros around x, 0 or 1.
        bias: Add one number per channel and position.

    """

    def __init__(self, inputs: int, outputs: int, size: Shape, *, padding: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.size, self.padding = size, padding
        taps, positions = _TAPS ** len(size), math.prod(size)
        start = torch.randn(outputs, inputs, taps, positions) * math.sqrt(2 / (inputs * taps))
        self.weight = nn.Parameter(start)
        self.bias = nn.Parameter(torch.zeros(outputs, positions)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, in, *size)` to `(samples, out, *size)`. Without padding, x must be larger than y by 2 per
        axis.
        """
        x = nn.functional.pad(x, [self.padding] * 2 * len(self.size))
        # Tap t of every position together is the image shifted by t: one einsum replaces a loop over positions.
        shifted = [self._shifted(x, offsets) for offsets in product(range(_TAPS), repeat=len(self.size))]
        y = torch.einsum("nitp,oitp->nop", torch.stack(shifted, 2), self.weight)
        return (y if self.bias is None else y + self.bias).unflatten(2, self.size)

    def _shifted(self, x: Tensor, offsets: tuple[int, ...]) -> Tensor:
        """The pixels that the tap at `offsets` reads, one per position: `(samples, in, positions)`."""
        for axis, (offset, size) in enumerate(zip(offsets, self.size, strict=True), 2):
            x = x.narrow(axis, offset, size)
        return x.flatten(2)


class LocalNet(nn.Module):
    """One locally connected layer: x `(samples, *inputs)` to `(samples, *outputs)`, with as many axes.

    Padding is as in `ConvNet`. The weight starts with He's variance, the bias at zero.

    Args:
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.
        widths: Must be empty: there is no hidden layer.
        bias: Give the layer a bias.
        activation: Not used: it would stand between layers.

    Raises:
        TrainingError: No such network leads from `inputs` to `outputs`, or there are hidden layers.

    """

    def __init__(
        self,
        inputs: Shape,
        outputs: Shape,
        widths: Sequence[int],
        *,
        bias: bool = True,
        activation: Activation = "silu",  # noqa: ARG002  # between layers, and there is one
    ) -> None:
        super().__init__()
        if widths or len(outputs) != len(inputs):
            raise TrainingError(
                f"network 'local' is one layer between samples with as many axes, but its depth is {len(widths)} and "
                f"it is to make outputs of shape {outputs} from inputs of shape {inputs}; "
                f"{'set depth to 0, or ' if len(outputs) == len(inputs) else ''}take network 'conv'"
            )
        self.inputs = inputs
        (channels, *_), (made, *size) = _image("local", inputs), _image("local", outputs)
        padding = _padding("local", inputs, outputs, 1)
        self.layers = nn.ModuleList([LocallyConnected(channels, made, tuple(size), padding=padding, bias=bias)])

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(samples, *inputs)` to `(samples, *outputs)`."""
        layer = self.layers[0]
        return layer(x.unsqueeze(1)).squeeze(1) if len(self.inputs) == 1 else layer(x)


def _image(name: str, shape: Shape) -> Shape:
    """Add a channel axis to the shape of a vector. Return other shapes unchanged."""
    if not 1 <= len(shape) <= 3:
        raise TrainingError(
            f"network '{name}' takes images (channels, height, width), signals (channels, n) and vectors (n,), but a "
            f"sample has shape {shape}; take network 'mlp', which flattens samples"
        )
    return (1, *shape) if len(shape) == 1 else shape


def _padding(name: str, inputs: Shape, outputs: Shape, layers: int) -> int:
    """The padding, 0 or 1, with which `layers` layers lead from one size to the other."""
    size, wanted = _image(name, inputs)[1:], _image(name, outputs)[1:]
    smaller = tuple(n - (_TAPS - 1) * layers for n in size)
    if wanted not in (size, smaller):
        raise TrainingError(
            f"network '{name}' with {layers} layers of filters maps inputs of size {size} to outputs of size {size}, "
            f"or of size {smaller} without padding, but the outputs' shape is {outputs}; take another depth, or "
            "network 'mlp'"
        )
    return 1 if wanted == size else 0
