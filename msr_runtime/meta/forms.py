"""The forms of a symmetry matrix U, as torch parametrizations: `W = reshape(U v)`.

All are linear maps from filter parameters v, which the inner loop moves, to a weight or bias W, and hold what they
learn of U as parameters.

Source: Zhou, Knowles, Finn, "Meta-Learning Symmetries by Reparameterization", ICLR 2021, section 4 (U; convolutions)
and appendix (Kronecker factorisation).
"""

import math
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from msr_runtime.meta.equivariant import equivariant_basis, multiplication_table, runs
from msr_runtime.task import Group


class Symmetry(nn.Module):
    """A symmetry matrix: what every form has in common."""

    filter_shape: tuple[int, ...]
    """The shape of v."""

    def forward(self, v: Tensor) -> Tensor:
        """Filter parameters v to the layer's weight or bias W."""
        raise NotImplementedError

    def gain(self) -> float:
        """The mean squared length of U's columns: how much further than v the weight moves in a gradient step on v."""
        raise NotImplementedError

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The v that lies along `Uᵀ weight` and whose W has the norm of `weight`.

        If U's columns are orthogonal and of one length, no W points nearer to `weight`. Without the norm, a layer
        would shrink by `sqrt(v.numel() / weight.numel())` and the network's signal with it.
        """
        with torch.no_grad():
            v = torch.func.vjp(self, weight.new_zeros(self.filter_shape))[1](weight)[0]
            norm = torch.linalg.vector_norm(self(v))
            return v * (torch.linalg.vector_norm(weight) / norm) if norm > 0 else v


class FullSymmetry(Symmetry):
    """`W = reshape(U v)` with a dense U `(weight.numel(), k)` that starts with orthogonal columns; v `(k,)`.

    Their length is the geometric mean of two: columns of length 1, whose entries shrink as a layer widens until an
    outer step that suits the rest of the network tears U apart, and columns with which W has v's own variance, whose
    entries are so large that U hardly learns. The first points along the replaced weight, so that v starts as one
    number and zeros: an outer step moves all entries of U as far, and W at the start of an adaptation by as much as v's
    entries add up to, several times further than U if they were spread.

    A row-by-matrix product is used rather than `U @ v`: ONNX Runtime has no fast path for one-dimensional operands.
    """

    def __init__(self, weight: Tensor, filters: int) -> None:
        super().__init__()
        self.shape = weight.shape
        start = torch.empty(weight.numel(), min(filters, weight.numel()), dtype=weight.dtype, device=weight.device)
        self.U = nn.Parameter(nn.init.orthogonal_(start, gain=(start.shape[0] / start.shape[1]) ** 0.25))
        self.filter_shape = (start.shape[1],)
        self._start_along(weight.flatten())

    def _start_along(self, target: Tensor) -> None:
        """Reflect U's columns, as one, so that the first is along `target`; of zero, it stays on its own line."""
        with torch.no_grad():
            first, wanted = nn.functional.normalize(self.U[:, 0], dim=0), nn.functional.normalize(target, dim=0)
            mirror = first + wanted if first @ wanted >= 0 else first - wanted  # of two, the one that cannot vanish
            self.U -= torch.outer(mirror, mirror @ self.U) * (2 / mirror.square().sum())

    def forward(self, v: Tensor) -> Tensor:
        """Filter parameters v `(k,)` to the layer's weight."""
        return (v.unsqueeze(0) @ self.U.mT).reshape(self.shape)

    def gain(self) -> float:
        """The mean squared length of U's columns."""
        return float(self.U.detach().square().sum() / self.U.shape[1])


class PerInputSymmetry(FullSymmetry):
    """One full U for every input channel: `W[:, i] = reshape(U v[:, i])` for W `(out, in, *taps)` and v `(k, in)`.

    U `(out * prod(taps), k)` says how a filter is turned and repeated over the output channels, whatever it reads.
    """

    def __init__(self, weight: Tensor, filters: int) -> None:
        super().__init__(weight[:, 0], filters)
        self.filter_shape = (self.U.shape[1], weight.shape[1])

    def forward(self, v: Tensor) -> Tensor:
        """Filter parameters v `(k, in)` to the layer's weight `(out, in, *taps)`."""
        return (v.mT @ self.U.mT).reshape(-1, *self.shape).transpose(0, 1)


class KroneckerSymmetry(Symmetry):
    """U as a sum of R Kronecker products, `A_r ⊗ B_r` or `A_r ⊗ B_r ⊗ C_r`, that is never formed.

    Of a matrix, `W = sum over r of A_r V B_rᵀ`, with V and W `(m, n)`, A `(R, m, m)` and B `(R, n, n)`. Of a filter
    bank, V and W `(out, in, *taps)`: A mixes output channels, B input channels and C `(R, t, t)` the `t = prod(taps)`
    taps. One term starts as the identity, and being invertible can weigh filters but share none; several can hold a
    group. They start as random rotations, because equal terms would receive equal gradients and stay one.
    """

    A: Tensor
    B: Tensor
    C: Tensor

    def __init__(self, weight: Tensor, terms: int) -> None:
        super().__init__()
        self.filter_shape = weight.shape
        sizes = weight.flatten(2).shape if weight.ndim > 2 else weight.shape
        # Independent terms add their variances, so the factors of each together carry 1/R of it.
        scale = terms ** (-0.5 / len(sizes))
        for name, size in zip("ABC", sizes, strict=False):
            if terms == 1:
                start = torch.eye(size, dtype=weight.dtype, device=weight.device).unsqueeze(0)
            else:
                rotations = [nn.init.orthogonal_(weight.new_empty(size, size)) for _ in range(terms)]
                start = torch.stack(rotations) * scale
            self.register_parameter(name, nn.Parameter(start))

    def forward(self, V: Tensor) -> Tensor:
        """Filter parameters V to the layer's weight, both of the same shape."""
        if V.ndim == 2 and len(self.A) == 1:  # as plain products: a robot would pay for a stack of one and its sum
            return self.A[0] @ V @ self.B[0].mT
        if V.ndim == 2:
            return (self.A @ V @ self.B.mT).sum(0)
        taps = V.flatten(2) @ self.C.unsqueeze(1).mT  # (R, out, in, t)
        return (self.A @ (self.B.unsqueeze(1) @ taps).flatten(2)).sum(0).reshape(V.shape)

    def gain(self) -> float:
        """The mean squared length of U's columns, as for the full form; a single term starts with 1."""
        # The inner product of two Kronecker products is the product of those of their factors.
        products = [torch.einsum("rij,sij->rs", f, f) / f.shape[1] for f in map(torch.detach, self.parameters())]
        return float(torch.stack(products).prod(0).sum())


class _Cell(NamedTuple):
    """The blocks of W between a run of equal blocks of the output and one of the input (see `equivariant.runs`)."""

    copies: tuple[int, int]
    shape: tuple[int, int]
    basis: str
    """The buffer that holds the basis `(dimension, rows * columns)`, or nothing where only zero is equivariant."""


class EquivariantSymmetry(FullSymmetry):
    """`W = reshape(Q U v)`: Q, fixed, spans the maps that commute with a known group, and U `(d, k)` is learned.

    W is equivariant, to rounding, whatever U and v are. Q's columns are orthonormal. It is kept by the blocks of both
    representations, so that a hidden layer of many regular representations needs only the basis of one of them.
    A bias is a map from the trivial representation.

    Args:
        weight: The weight `(m, n)` or bias `(m,)` to replace.
        filters: k; no more than d, the dimension of the space.
        action: The group on the layer's output, m numbers, and input, n numbers.

    Raises:
        ValueError: the matrices are no representation (see `multiplication_table`) or of another size than the layer,
            or the space holds nothing but zero.

    """

    def __init__(self, weight: Tensor, filters: int, action: Group) -> None:
        multiplication_table(action)
        inputs = action.inputs if weight.ndim == 2 else np.ones((action.order, 1, 1))
        wanted = (action.outputs.shape[1], inputs.shape[1])[: weight.ndim]
        if weight.shape != wanted:
            raise ValueError(
                f"group '{action.name}' acts on a tensor of shape {wanted}, but the layer's has shape "
                f"{tuple(weight.shape)}; most likely the group belongs to another layer"
            )
        cells, bases = [], {}
        for row in runs(action.outputs):
            cells.append([])
            for column in runs(inputs):
                basis = equivariant_basis(row.block, column.block)
                name = f"Q{len(bases)}" if len(basis) else ""
                cells[-1].append(_Cell((row.copies, column.copies), (basis.shape[1], basis.shape[2]), name))
                if name:
                    bases[name] = basis.reshape(len(basis), -1)
        sizes = [math.prod(cell.copies) * len(bases[cell.basis]) for cell in chain(*cells) if cell.basis]
        if not sizes:
            raise ValueError(
                f"no tensor of shape {tuple(weight.shape)} but zero commutes with group '{action.name}', so that the "
                "layer could learn nothing; most likely input and output are of kinds that the group keeps apart"
            )
        super().__init__(weight.new_zeros(sum(sizes)), filters)
        self.weight_shape, self.cells, self.sizes = weight.shape, cells, sizes
        for name, basis in bases.items():
            self.register_buffer(name, torch.tensor(basis, dtype=weight.dtype, device=weight.device))
        self._start_along(torch.func.vjp(self._place, weight.new_zeros(sum(sizes)))[1](weight.detach())[0])

    def forward(self, v: Tensor) -> Tensor:
        """Filter parameters v `(k,)` to the layer's weight or bias."""
        return self._place(super().forward(v))

    def _place(self, flat: Tensor) -> Tensor:
        """Multiply coordinates `(d,)` by Q: to the layer's weight or bias."""
        coordinates = iter(flat.split(self.sizes))
        rows = []
        for cells in self.cells:
            row = []
            for (a, b), (m, n), basis in cells:
                if basis:
                    Q = self.get_buffer(basis)
                    blocks = (next(coordinates).reshape(a * b, len(Q)) @ Q).reshape(a, b, m, n)
                    row.append(blocks.transpose(1, 2).reshape(a * m, b * n))
                else:
                    row.append(flat.new_zeros(a * m, b * n))
            rows.append(torch.cat(row, 1))
        return torch.cat(rows).reshape(self.weight_shape)
