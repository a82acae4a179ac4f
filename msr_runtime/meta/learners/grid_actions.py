"""How flips and turns act on each layer of a convolutional network."""

from itertools import pairwise

from torch import nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.networks.convolution import ConvNet
from msr_runtime.meta.symmetry.grid import FilterAction, GridGroup


def grid_actions(network: nn.Module, group: GridGroup) -> dict[str, FilterAction]:
    """Let a group of flips and turns act on an image network, or on the one inside another module.

    It moves the pixels of the image and leaves the colors. Hidden channels are fields of the regular representation.
    The outputs of a last linear layer do not change.

    Args:
        network: A `ConvNet` that ends in a vector or in its map, or a module that holds one.
        group: The group.

    Returns:
        Name of a layer to the group's action on it.

    Raises:
        TrainingError: There is no such network for images; or the stride of a layer leaves pixels over at one end, so
            that a flip reads others.
        ValueError: The channels of a layer do not fit the group, or the image is not square where it must be.

    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, ConvNet)]
    if not found or not found[0][1].last_map or len(found[0][1].inputs) != 3:
        raise TrainingError(
            f"group '{group.name}' flips and turns images, but the network is a {type(network).__name__} without "
            "convolutions that lead from an image to a vector; take network 'conv-grid' (--learner.network)"
        )
    (prefix, net), *_ = found
    size, actions = net.inputs[1:], {}
    widths = [layer.out_channels for layer in net.layers if isinstance(layer, nn.Conv2d)]
    sides = [group.fixed(net.inputs[0]), *map(group.on_channels, widths)]
    for index, (layer, (inputs, outputs)) in enumerate(zip(net.layers, pairwise(sides), strict=False)):
        assert isinstance(layer, nn.Conv2d)
        name = f"{prefix}.layers.{index}".lstrip(".")
        taps, strides, paddings = layer.kernel_size, layer.stride, layer.padding
        assert not isinstance(paddings, str)
        left = [n + 2 * pad - t for n, t, pad in zip(size, taps, paddings, strict=True)]
        if any(rest % stride for rest, stride in zip(left, strides, strict=True)):
            raise TrainingError(
                f"layer '{name}' reads {size[0]} x {size[1]} positions by {taps[0]} x {taps[1]} taps with stride "
                f"{strides[0]}, which leaves pixels over at one end, so that a flip of the image would read others; "
                "take network 'conv-grid' (--learner.network)"
            )
        size = tuple(rest // stride + 1 for rest, stride in zip(left, strides, strict=True))
        actions[name] = FilterAction(group, outputs, inputs, group.on_grid(*taps))
    last = net.layers[-1]
    if isinstance(last, nn.Linear):
        inputs = sides[-1] if net.head == "mean" else group.on_map(*net.last_map)
        name = f"{prefix}.layers.{len(net.layers) - 1}".lstrip(".")
        actions[name] = FilterAction(group, group.fixed(last.out_features), inputs, group.fixed(1))
    return actions
