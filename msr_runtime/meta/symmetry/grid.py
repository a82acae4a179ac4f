"""Flips and turns of an image: how they permute pixels, filter taps, channels and feature maps.

An element g moves an image by `(g x)(p) = x(g⁻¹ p)`, with positions p counted from the middle of the grid. A flip or a
quarter turn maps a grid onto itself, so it only permutes pixels: nothing is interpolated, and all results are exact.

An eighth of a turn maps no grid onto itself. On a grid of 3 x 3, it moves each of the eight outer places to the next
one around the middle, as oriented response networks turn their filters. So such a turn is exact for the filters and for
a last map of this size, and near to a turn of the image.

A permutation is written as the places to read from: `moved = x[permutation]`. A representation by permutations is an
int64 array `(order, n)`, the identity first.

A filter bank `W (out, in, taps)` commutes with the group if moving outputs, inputs and taps together leaves W as it is.
Then entries of W that the group moves onto each other are equal: `shared_entries` numbers them, and a number is one
filter parameter v.

Sources: Cohen and Welling, "Group Equivariant Convolutional Networks", 2016. Eighths of a turn: Zhou, Ye, Qiu and Jiao,
"Oriented Response Networks", 2017.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Permutations = NDArray[np.int64]
"""One permutation per element: `(order, n)`, the identity first."""

GridName = Literal["D1", "C2", "D2", "C4", "D4", "C8", "D8"]
"""A left-right flip; a half turn; both flips; quarter turns; these and flips; eighths of a turn; these and flips."""

GRID_NAMES: tuple[GridName, ...] = get_args(GridName)

_TURN, _FLIP = np.array([[0.0, -1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -1.0]])
_EIGHTH = (np.eye(2) + _TURN) / np.sqrt(2)
_RING = 3
"""The only size of a grid on which eighths of a turn permute places: eight of them lie around the middle."""
_GENERATORS = {
    "D1": [_FLIP],
    "C2": [_TURN @ _TURN],
    "D2": [_FLIP, -_FLIP],
    "C4": [_TURN],
    "D4": [_TURN, _FLIP],
    "C8": [_EIGHTH],
    "D8": [_EIGHTH, _FLIP],
}


class GridGroup(NamedTuple):
    """A finite group of flips and turns by quarters or eighths."""

    name: str
    """Its usual name; `D2` is both flips and their product, the half turn."""
    matrices: NDArray[np.float64]
    """`(order, 2, 2)`: what each element does to a position (row, column) counted from the middle. Element 0 is the
    identity.
    """

    @classmethod
    def named(cls, name: GridName) -> "GridGroup":
        """Return the group of this name."""
        found = [np.eye(2)]
        for element in found:  # it grows while products are new
            for generator in _GENERATORS[name]:
                product = generator @ element
                if not any(_equal(product, each).all() for each in found):
                    found.append(product)
        return cls(name, np.stack(found))

    def subgroup(self, elements: NDArray[np.integer]) -> "GridGroup | None":
        """Return the group of these elements, by number; None if one is given twice or their products are others."""
        chosen = np.unique(elements)
        if len(chosen) != len(elements) or not np.isin(self.table[np.ix_(chosen, chosen)], chosen).all():
            return None
        for name in GRID_NAMES:
            group = GridGroup.named(name)
            if group.order == len(chosen) and all(
                _equal(group.matrices, m).all((1, 2)).any() for m in self.matrices[chosen]
            ):
                return group
        return GridGroup(f"order {len(chosen)}", self.matrices[chosen])

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.matrices)

    @property
    def table(self) -> NDArray[np.int64]:
        """`(order, order)`: the number of the element that is element i times element j."""
        products = self.matrices[:, None] @ self.matrices[None]
        return _equal(products[:, :, None], self.matrices).all((-1, -2)).argmax(-1)

    @property
    def inverses(self) -> NDArray[np.int64]:
        """`(order,)`: the number of each element's inverse."""
        return (self.table == 0).argmax(1)

    def on_grid(self, height: int, width: int) -> Permutations:
        """Permute the positions of a grid, row by row: `(order, height * width)`.

        Raises:
            ValueError: An element swaps rows and columns, and the grid is not square. Or it is an eighth of a turn, and
                the grid is not 3 x 3, nor a single position.

        """
        if height != width and not _equal(self.matrices[:, 0, 1], 0).all():
            raise ValueError(
                f"group '{self.name}' swaps rows and columns, but the grid is {height} x {width}, and a square one is "
                "wanted: crop the images to squares, or take group 'D2' or 'C2'"
            )
        # twice the distance from the middle is a whole number on even grids too
        rows, columns = np.divmod(np.arange(height * width), width)
        places = np.stack([2 * rows - height + 1, 2 * columns - width + 1])
        sources = self.matrices[self.inverses] @ places
        if not _equal(self.matrices, self.matrices.round()).all():
            if (height, width) not in ((1, 1), (_RING, _RING)):
                raise ValueError(
                    f"group '{self.name}' turns by eighths, but the grid of taps or of the last map is {height} x "
                    f"{width}, and 3 x 3 is wanted: take images of 17 pixels with depth 3, or of 33 with depth 4 "
                    "(--learner.depth), or group 'C4' or 'D4'"
                )
            # from the middle of an edge to a corner it is farther: only the direction counts
            sources = 2 * np.round(sources / np.maximum(np.linalg.norm(places, axis=0), 1))
        sources = np.round(sources).astype(np.int64)
        return ((sources[:, 0] + height - 1) // 2) * width + (sources[:, 1] + width - 1) // 2

    def on_channels(self, channels: int) -> Permutations:
        """Permute channels that hold one field of `order` numbers after the other, each by the regular representation.

        Raises:
            ValueError: The channels are no multiple of the order.

        """
        if channels % self.order:
            raise ValueError(
                f"{channels} channels cannot hold the regular representation of group '{self.name}': a multiple of its "
                f"order {self.order} is wanted, for example {self.order * max(1, round(channels / self.order))}; set "
                "`width` (--learner.width)"
            )
        within = self.table[self.inverses]
        fields = np.arange(channels // self.order)[:, None] * self.order
        return (fields + within[:, None, :]).reshape(self.order, channels)

    def fixed(self, channels: int) -> Permutations:
        """Leave channels as they are: `(order, channels)`. So it acts on the colors of an image."""
        return np.tile(np.arange(channels), (self.order, 1))

    def on_map(self, channels: int, height: int, width: int) -> Permutations:
        """Permute a flattened feature map `(channels, height, width)`: fields of channels, and positions, together."""
        return product(self.on_channels(channels), self.on_grid(height, width))


class FilterAction(NamedTuple):
    """How a group permutes the outputs, the inputs and the taps of a filter bank, or of a linear layer's matrix."""

    group: GridGroup
    """The group."""
    outputs: Permutations
    """`(order, out)`."""
    inputs: Permutations
    """`(order, in)`; of a linear layer, the flattened map that it reads."""
    taps: Permutations
    """`(order, taps)`; one tap for a linear layer."""


def product(*parts: Permutations) -> Permutations:
    """Permute all axes of an array together, flattened in C order: `(order, n1 * n2 * ...)`."""
    whole = parts[0]
    for part in parts[1:]:
        whole = (whole[:, :, None] * part.shape[1] + part[:, None, :]).reshape(len(whole), -1)
    return whole


def shared_entries(permutations: Permutations) -> NDArray[np.int64]:
    """Number the orbits: entries that the group moves onto each other get one number, counted from 0 without gaps.

    Args:
        permutations: How the group permutes the entries: `(order, n)`.

    Returns:
        The number of each entry's orbit, `(n,)`.

    """
    return np.unique(permutations.min(0), return_inverse=True)[1].astype(np.int64)


def _equal(a: NDArray[np.floating], b: NDArray[np.floating] | float) -> NDArray[np.bool_]:
    """Compare entries of matrices of flips and turns: products of eighths are rounded."""
    return np.isclose(a, b, atol=1e-6)
