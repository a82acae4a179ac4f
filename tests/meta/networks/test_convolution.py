"""Networks of small filters: their shapes, what they compute, and which they refuse to build."""

import pytest
import torch
from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.networks.convolution import ConvNet, GridConvNet, LocallyConnected, LocalNet
from msr_runtime.meta.networks.mlp import MLP
from msr_runtime.meta.networks.registry import NETWORKS

SHAPES = {
    "image, smaller": ((2, 6, 5), (3, 4, 3), 0),
    "image, as large": ((2, 6, 5), (3, 6, 5), 0),
    "deep, smaller": ((2, 9, 8), (3, 3, 2), 2),
    "deep, as large": ((2, 4, 5), (3, 4, 5), 2),
    "signal": ((2, 9), (3, 7), 0),
    "vector": ((9,), (7,), 0),
    "vector, deep": ((9,), (9,), 1),
}


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("inputs", "outputs", "depth"), SHAPES.values(), ids=SHAPES)
def test_samples_keep_their_shapes(name, inputs: tuple[int, ...], outputs: tuple[int, ...], depth: int) -> None:
    """Every network maps x `(samples, *inputs)` to the outputs' shape, and each sample by itself."""
    if name == "local" and depth:
        return
    network = NETWORKS[name](inputs, outputs, [4] * depth).double()
    x = _normal(5, *inputs)
    y = network(x)
    assert y.shape == (5, *outputs)
    torch.testing.assert_close(network(x[2:3]), y[2:3])


@pytest.mark.parametrize(("inputs", "layers", "head"), [((1, 28, 28), 4, 2 * 2), ((3, 7, 5), 2, 2 * 2), ((2, 9), 3, 2)])
def test_blocks_of_stride_two_end_in_a_vector(inputs: tuple[int, ...], layers: int, head: int) -> None:
    """Like Conv-4 on Omniglot: four blocks lead from 28 x 28 to 2 x 2, and the linear layer reads all of it."""
    network = ConvNet(inputs, (5,), [8] * layers)
    assert network(torch.randn(3, *inputs)).shape == (3, 5)
    last = network.layers[-1]
    assert isinstance(last, nn.Linear)
    assert last.in_features == 8 * head
    assert all(p.shape[2:].numel() == 3 ** (len(inputs) - 1) for p in network.parameters() if p.ndim > 2)


def test_an_unpadded_convolution_is_torchs() -> None:
    """The cross-correlation of `conv2d`; for vectors that of `conv1d` with one channel."""
    image, vector = ConvNet((2, 6, 5), (3, 4, 3), ()).double(), ConvNet((9,), (7,), (), bias=False).double()
    x, signal = _normal(4, 2, 6, 5), _normal(4, 9)
    bank, filters = image.layers[0], vector.layers[0].weight
    torch.testing.assert_close(image(x), nn.functional.conv2d(x, bank.weight, bank.bias))  # type: ignore[arg-type]
    torch.testing.assert_close(vector(signal), signal.unfold(1, 3, 1) @ filters.flatten())  # type: ignore[union-attr]


@pytest.mark.parametrize("padding", [0, 1])
def test_a_local_layer_has_a_filter_of_its_own_at_each_position(padding: int) -> None:
    """Equal to patches from `unfold`, times one matrix per position."""
    size = (4 + 2 * padding, 3 + 2 * padding)
    layer = LocallyConnected(2, 5, size, padding=padding).double()
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.normal_()
    x = _normal(7, 2, 6, 5)
    patches = nn.functional.unfold(x, 3, padding=padding)  # (samples, in * taps, positions)
    matrices = layer.weight.flatten(1, 2)  # (out, in * taps, positions)
    wanted = torch.stack([patches[..., p] @ matrices[..., p].T for p in range(patches.shape[2])], -1)
    torch.testing.assert_close(layer(x), (wanted + layer.bias).reshape(7, 5, *size))


def test_equal_local_filters_are_a_convolution() -> None:
    """For signals, and for vectors, which are signals of one channel."""
    for inputs, outputs in (((2, 9), (3, 7)), ((9,), (7,))):
        convolution, local = (network(inputs, outputs, ()).double() for network in (ConvNet, LocalNet))
        bank, layer = convolution.layers[0].weight, local.layers[0]
        with torch.no_grad():
            layer.weight.copy_(bank.unsqueeze(-1).expand_as(layer.weight))  # type: ignore[union-attr, operator]
        x = _normal(4, *inputs)
        torch.testing.assert_close(local(x), convolution(x))


@pytest.mark.parametrize(
    ("network", "reads"),
    [
        (MLP((30,), (400,), ()), 30),
        (ConvNet((9, 6, 6), (50, 4, 4), ()), 81),
        (LocalNet((9, 6, 6), (50, 4, 4), ()), 81),
    ],
)
def test_weights_start_with_hes_variance(network: nn.Module, reads: int) -> None:
    """2 divided by how many numbers an output reads; the same for filters that no positions share."""
    assert float(network.get_parameter("layers.0.weight").detach().var()) == pytest.approx(2 / reads, rel=0.1)
    assert not network.get_parameter("layers.0.bias").any()


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "depth", "says"),
    [
        ("conv", (1, 8, 8), (3, 5, 5), 0, r"1 layers.*size \(8, 8\).*or of size \(6, 6\).*shape is \(3, 5, 5\)"),
        ("conv", (8,), (3,), 1, r"2 layers.*size \(8,\).*\(4,\) without padding.*\(3,\); take another depth"),
        ("conv", (1, 8, 8), (5,), 0, r"depth 0 makes no outputs of shape \(5,\)"),
        ("conv", (8,), (1, 8, 8), 0, r"makes no outputs of shape \(1, 8, 8\) from inputs of shape \(8,\)"),
        ("conv", (1, 4, 8, 8), (1, 4, 8, 8), 0, r"sample has shape \(1, 4, 8, 8\); take network 'mlp'"),
        ("local", (1, 8, 8), (1, 8, 8), 1, "its depth is 1.*set depth to 0, or take network 'conv'"),
        ("conv-grid", (1, 8, 8), (5,), 0, r"'conv-grid' of depth 0 makes no outputs of shape \(5,\)"),
        (
            "local",
            (1, 8, 8),
            (5,),
            0,
            r"as many axes.*shape \(5,\) from inputs of shape \(1, 8, 8\); take network 'conv'",
        ),
        ("local", (1, 8, 8), (1, 7, 8), 0, r"'local' with 1 layers.*\(1, 7, 8\)"),
    ],
)
def test_networks_that_there_are_not(name, inputs, outputs, depth: int, says: str) -> None:
    """The message names both shapes and what to take instead."""
    with pytest.raises(TrainingError, match=says):
        NETWORKS[name](inputs, outputs, [4] * depth)


@pytest.mark.parametrize(("size", "sizes"), [(28, [13, 7, 4, 4]), (25, [13, 7, 4, 4]), (42, [21, 11, 6, 3])])
def test_grids_of_every_size_are_read_from_both_ends_alike(size: int, sizes: list[int]) -> None:
    """The sizes of the maps; without a head, the flattened last map is the output, and no activation follows."""
    network = GridConvNet((3, size, size), (5,), [8] * 4, head="map")
    seen = [size]
    for _ in range(4):
        window = network.window(seen[-1])
        assert (seen[-1] + 2 * window.padding - window.taps) % window.stride == 0
        seen.append(window.size(seen[-1]))
    assert seen[1:] == sizes
    y = network(torch.randn(2, 3, size, size))
    assert network.last_map == (8, sizes[-1], sizes[-1])
    assert y.shape == (2, *network.outputs) == (2, 8 * sizes[-1] ** 2)
    assert (y < -0.3).any()  # SiLU is never below -0.28


@pytest.mark.parametrize("kind", [ConvNet, GridConvNet])
def test_norms_and_heads_of_image_networks(kind: type[ConvNet]) -> None:
    """A norm makes hidden maps independent of the image's contrast; the mean head reads one number per channel."""
    x = _normal(2, 1, 12, 12)
    normed = kind((1, 12, 12), (5,), [8] * 2, bias=False, norm="layer").double()
    torch.testing.assert_close(normed(x), normed(3 * x), rtol=1e-4, atol=1e-4)
    mean = kind((1, 12, 12), (5,), [8] * 2, head="mean").double()
    assert mean.layers[-1].in_features == 8
    assert mean(x).shape == (2, 5)
