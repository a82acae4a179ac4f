"""Flips and quarter turns: groups, what they permute, and filter banks that commute with them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msr_runtime.meta.symmetry.grid import FilterAction, GridGroup, GridName, product, shared_entries
from msr_runtime.meta.symmetry.reparameterize import reparameterize

ORDERS: dict[GridName, int] = {"C2": 2, "D2": 4, "C4": 4, "D4": 8}
EIGHTHS: dict[GridName, int] = {"C8": 8, "D8": 16}


@pytest.mark.parametrize(("name", "order"), [*ORDERS.items(), *EIGHTHS.items()])
def test_groups_are_closed(name: GridName, order: int) -> None:
    """The table holds every element once in each row and column, and the identity is element 0."""
    group = GridGroup.named(name)
    assert group.order == order
    assert np.array_equal(np.sort(group.table, 0), np.tile(np.arange(order)[:, None], (1, order)))
    assert np.array_equal(np.sort(group.table, 1), np.tile(np.arange(order), (order, 1)))
    assert np.array_equal(group.table[0], np.arange(order))


@pytest.mark.parametrize("size", [4, 5])
def test_the_square_is_turned_and_flipped(size: int) -> None:
    """The eight elements of D4 are the eight images that numpy makes by turns and a flip, on odd and even grids."""
    image = np.arange(size * size).reshape(size, size)
    moved = {tuple(image.ravel()[p]) for p in GridGroup.named("D4").on_grid(size, size)}
    assert moved == {tuple(np.rot90(x, k).ravel()) for x in (image, image[::-1]) for k in range(4)}


@pytest.mark.parametrize("name", [*ORDERS, *EIGHTHS])
def test_permutations_multiply_as_the_group_does(name: GridName) -> None:
    """First j, then i, is the product, on positions, channels and maps."""
    group = GridGroup.named(name)
    size = 3 if name in EIGHTHS else 4
    for on in (group.on_grid(3, 3), group.on_channels(2 * group.order), group.on_map(group.order, size, size)):
        for i, j in np.ndindex(group.order, group.order):
            assert np.array_equal(on[j][on[i]], on[group.table[i, j]])


def test_a_wide_grid_takes_no_quarter_turn() -> None:
    """Both flips fit; rows and columns cannot be swapped."""
    moved = GridGroup.named("D2").on_grid(2, 3).tolist()
    assert sorted(moved[1:]) == [[2, 1, 0, 5, 4, 3], [3, 4, 5, 0, 1, 2], [5, 4, 3, 2, 1, 0]]
    with pytest.raises(ValueError, match="'C4' swaps rows and columns, but the grid is 2 x 3"):
        GridGroup.named("C4").on_grid(2, 3)


def test_eighths_of_a_turn_move_the_ring_around_the_middle() -> None:
    """Two of them are a quarter turn; other grids are refused, with sizes that do."""
    group, turns = GridGroup.named("C8"), GridGroup.named("C4").on_grid(3, 3)
    eighth = group.on_grid(3, 3)[1]
    assert eighth.reshape(3, 3).tolist() in ([[1, 2, 5], [0, 4, 8], [3, 6, 7]], [[3, 0, 1], [6, 4, 2], [7, 8, 5]])
    assert eighth[eighth].tolist() in turns.tolist()
    assert GridGroup.named("D4").on_grid(3, 3)[1].tolist() in GridGroup.named("D8").on_grid(3, 3).tolist()
    for size in (2, 4, 5):
        with pytest.raises(ValueError, match=rf"'C8' turns by eighths.*is {size} x {size}, and 3 x 3 is wanted.*33"):
            group.on_grid(size, size)


@pytest.mark.parametrize("name", EIGHTHS)
def test_filters_hold_eighths_of_a_turn(name: GridName) -> None:
    """Move the 3 x 3 pixels that a filter reads around its middle, and the channels move, exactly."""
    group = GridGroup.named(name)
    layer, x = nn.Conv2d(2, 2 * group.order, 3).double(), _normal(5, 2, 3, 3)
    sides = group.on_channels(2 * group.order), group.fixed(2), group.on_grid(3, 3)
    reparameterize(layer, form="equivariant", actions={"": FilterAction(group, *sides)})
    nn.init.normal_(layer.get_parameter("parametrizations.weight.original"))
    y = layer(x).flatten(1)
    for channels, places in zip(sides[0], sides[2], strict=True):
        moved = x.flatten(2)[:, :, places].unflatten(2, (3, 3))
        torch.testing.assert_close(layer(moved).flatten(1), y[:, channels], rtol=1e-12, atol=1e-12)


def test_orbits_are_numbered_without_gaps() -> None:
    """Of the nine taps of a filter, D4 leaves the middle, the corners and the edges."""
    assert shared_entries(GridGroup.named("D4").on_grid(3, 3)).tolist() == [0, 1, 0, 1, 2, 1, 0, 1, 0]


def _bank(group: GridGroup) -> nn.Sequential:
    """Two convolutions and a linear layer that answers alike for all that the group makes of an image."""
    n, size = group.order, 4
    layers = nn.Sequential(
        nn.Conv2d(2, 2 * n, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(2 * n, n, 4, padding=2), nn.Flatten(),
        nn.Linear(n * (size + 1) ** 2, 3),
    ).double()  # fmt: skip
    taps = group.on_grid(3, 3), group.on_grid(4, 4), group.fixed(1)
    sides = group.fixed(2), group.on_channels(2 * n), group.on_channels(n)
    actions = {
        "0": FilterAction(group, sides[1], sides[0], taps[0]),
        "2": FilterAction(group, sides[2], sides[1], taps[1]),
        "4": FilterAction(group, group.fixed(3), group.on_map(n, size + 1, size + 1), taps[2]),
    }
    reparameterize(layers, form="equivariant", actions=actions)
    return layers


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", ORDERS)
def test_banks_commute_with_the_group(name: GridName) -> None:
    """Move the image, and the map moves, exactly, whatever the filters are; the answers stay."""
    group = GridGroup.named(name)
    layers, x = _bank(group), _normal(5, 2, 7, 7)
    for parameter in layers.parameters():
        nn.init.normal_(parameter)
    y, maps = layers(x), layers[:4](x)
    on_map, on_image = group.on_map(group.order, 5, 5), product(group.fixed(2), group.on_grid(7, 7))
    for moves_map, moves_image in zip(on_map, on_image, strict=True):
        moved = x.flatten(1)[:, moves_image].unflatten(1, x.shape[1:])
        torch.testing.assert_close(layers[:4](moved), maps[:, moves_map], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layers(moved), y, rtol=1e-12, atol=1e-12)


def test_filters_are_shared_and_nothing_is_learned_in_u() -> None:
    """A regular bank has one number where the plain one has as many as the group has elements; gradients are right."""
    group = GridGroup.named("D2")
    layers = _bank(group)
    convolution = layers[2]
    assert isinstance(convolution, nn.Conv2d)
    v = convolution.get_parameter("parametrizations.weight.original")
    assert v.numel() * 4 == convolution.weight.numel()
    assert convolution.weight.permute(0, 2, 3, 1).is_contiguous()  # channels last
    symmetry = convolution.get_submodule("parametrizations.weight.0")
    assert not list(symmetry.parameters())
    assert symmetry.gain() == 4.0  # type: ignore[operator]
    assert torch.autograd.gradcheck(symmetry, _normal(v.numel()).requires_grad_())


def test_the_start_keeps_the_norm() -> None:
    """Each weight starts as large as the one that it replaces."""
    plain = nn.Conv2d(8, 8, 3)
    norm, group = plain.weight.norm().item(), GridGroup.named("C4")
    sides = group.on_channels(8), group.on_channels(8), group.on_grid(3, 3)
    reports = reparameterize(plain, form="equivariant", actions={"": FilterAction(group, *sides)})
    assert plain.weight.norm().item() == pytest.approx(norm, rel=1e-5)
    assert [(report.symmetry_parameters, report.filter_parameters) for report in reports] == [(0, 144), (0, 2)]


def test_an_action_must_fit_its_layer() -> None:
    """The message names both shapes; channels that hold no whole field are refused with a width that does."""
    group = GridGroup.named("D2")
    action = FilterAction(group, group.on_channels(8), group.fixed(2), group.on_grid(3, 3))
    with pytest.raises(ValueError, match=r"'D2' acts on a tensor of 8 x 2 x 9, but the layer's has shape \(8, 1"):
        reparameterize(nn.Conv2d(1, 8, 3), form="equivariant", actions={"": action})
    with pytest.raises(ValueError, match=r"10 channels cannot hold.*order 4 is wanted, for example 8"):
        group.on_channels(10)


def test_a_chain_of_elements_ends_where_the_group_says() -> None:
    """Turning four times is no turn: powers of an element on an image follow the table."""
    group = GridGroup.named("C4")
    image, turn = np.arange(25), group.on_grid(5, 5)[1]
    powers = [image]
    for _ in range(4):
        powers.append(powers[-1][turn])
    assert np.array_equal(powers[4], image)
    assert all(not np.array_equal(a, b) for a, b in pairwise(powers))
