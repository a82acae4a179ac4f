"""The forms of a symmetry matrix U, as torch parametrizations: `W = reshape(U v)`.

Every form is a linear map from the filter parameters v to a weight or bias W. The inner loop moves v. The outer loop
learns U, or the factors that U is made of. The docstring of the package `msr_runtime.meta.symmetry` draws U and v and
lists what each form can share.

Source: Zhou, Knowles, Finn, "Meta-Learning Symmetries by Reparameterization", ICLR 2021, section 4 (U; convolutions)
and appendix (Kronecker factorization).
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msr_runtime.meta.symmetry.equivariant import block_runs, equivariant_basis, multiplication_table
from msr_runtime.task import Group


class Symmetry(nn.Module):
    """A symmetry matrix: what every form has in common."""

    filter_shape: tuple[int, ...]
    """The shape of v."""

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v to the layer's weight or bias W."""
        raise NotImplementedError

    def gain(self) -> float:
        """The mean squared length of U's columns.

        A gradient step on v at rate r moves W about as far as a gradient step on W itself at rate `gain() * r`.
        """
        raise NotImplementedError

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The v at which the layer starts: it lies along `Uᵀ weight`, and its W has the norm of `weight`.

        If U's columns are orthogonal and of equal length, no other W of this norm is nearer to `weight`. Without the
        norm, a layer would shrink by `sqrt(v.numel() / weight.numel())`, and the network's signal with it.
        """
        with torch.no_grad():
            # The map is linear, so its vjp at any point is the product with Uᵀ. No form has to write Uᵀ itself.
            v = torch.func.vjp(self, weight.new_zeros(self.filter_shape))[1](weight)[0]
            norm = torch.linalg.vector_norm(self(v))
            return v * (torch.linalg.vector_norm(weight) / norm) if norm > 0 else v


class FullSymmetry(Symmetry):
    """`W = reshape(U v)` with a dense U `(weight.numel(), k)`; v `(k,)`. It can share any entry of W with any other.

    U starts with orthogonal columns. Their length is the geometric mean of two extremes:

    * With columns of length 1, U's entries shrink as a layer widens. An outer step that suits the rest of the network
      is then too large for U and destroys it.
    * With columns so long that W has the variance of v, U's entries are so large that U hardly learns.

    The first column points along the replaced weight, so v starts as one number followed by zeros. The reason: an outer
    step moves all entries of U by about the same amount, and so moves W by that amount times the sum of v's entries. If
    v were spread over its k entries, W would move several times further at the start of an adaptation.

    A row-by-matrix product is used rather than `U @ v`: ONNX Runtime has no fast path for one-dimensional operands.

    Args:
        weight: The weight or bias to replace, of any shape.
        filters: k, the columns of U; no more than `weight.numel()` are made.

    """

    def __init__(self, weight: Tensor, filters: int) -> None:
        super().__init__()
        self.shape = weight.shape
        start = torch.empty(weight.numel(), min(filters, weight.numel()), dtype=weight.dtype, device=weight.device)
        self.U = nn.Parameter(nn.init.orthogonal_(start, gain=(start.shape[0] / start.shape[1]) ** 0.25))
        self.filter_shape = (start.shape[1],)
        self._start_along(weight.flatten())

    def _start_along(self, target: Tensor) -> None:
        """Reflect all columns of U together so that the first one points along `target`, or against it.

        If `target` is zero, the first column stays on its own line.
        """
        with torch.no_grad():
            first, wanted = nn.functional.normalize(self.U[:, 0], dim=0), nn.functional.normalize(target, dim=0)
            # A reflection keeps the columns orthogonal. Of the two possible mirrors, this one cannot be zero.
            mirror = first + wanted if first @ wanted >= 0 else first - wanted
            self.U -= torch.outer(mirror, mirror @ self.U) * (2 / mirror.square().sum())

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v `(k,)` to the layer's weight."""
        return (v.unsqueeze(0) @ self.U.mT).reshape(self.shape)

    def gain(self) -> float:
        """The mean squared length of U's columns."""
        return float(self.U.detach().square().sum() / self.U.shape[1])


class PerInputSymmetry(FullSymmetry):
    """The same full U for every input channel: `W[:, i] = reshape(U v[:, i])` for W `(out, in, *taps)` and v `(k, in)`.

    U `(out * prod(taps), k)` says how a filter is turned and repeated over the output channels. It does so in the same
    way for each input channel.

    Args:
        weight: The weight to replace, `(out, in, *taps)`.
        filters: k, the columns of U; no more than `out * prod(taps)` are made.

    """

    def __init__(self, weight: Tensor, filters: int) -> None:
        super().__init__(weight[:, 0], filters)
        self.filter_shape = (self.U.shape[1], weight.shape[1])

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v `(k, in)` to the layer's weight `(out, in, *taps)`."""
        return (v.mT @ self.U.mT).reshape(-1, *self.shape).transpose(0, 1)


class KroneckerSymmetry(Symmetry):
    """U as a sum of R Kronecker products, `A_r ⊗ B_r` or `A_r ⊗ B_r ⊗ C_r`. U itself is never formed.

    For a matrix, `W = sum over r of A_r V B_rᵀ`, with V and W `(m, n)`, A `(R, m, m)` and B `(R, n, n)`. For a filter
    bank, V and W are `(out, in, *taps)`: A mixes output channels, B mixes input channels, and C `(R, t, t)` mixes the
    `t = prod(taps)` taps.

    A single term starts as the identity. It is invertible, so it can weight filters but cannot share any. Several terms
    can hold a group. They start as random rotations: equal terms would receive equal gradients and stay equal.

    Or they start as a group that permutes the sides of W, one term for each element: W is then equivariant for every V,
    as long as the outer loop leaves the factors as they are.

    Args:
        weight: The weight to replace, `(m, n)` or `(out, in, *taps)`; V has the same shape.
        terms: R, the number of Kronecker products.
        group: How each term starts by permuting each side (see `grid`): `(R, m)`, `(R, n)`, and `(R, t)` for a filter
            bank.

    """

    A: Tensor
    """`(R, m, m)`, or `(R, out, out)` for a filter bank."""
    B: Tensor
    """`(R, n, n)`, or `(R, in, in)` for a filter bank."""
    C: Tensor
    """`(R, t, t)`, for a filter bank alone."""

    def __init__(self, weight: Tensor, terms: int, group: Sequence[NDArray[np.int64]] = ()) -> None:
        super().__init__()
        self.filter_shape = weight.shape
        sizes = weight.flatten(2).shape if weight.ndim > 2 else weight.shape
        moves = [torch.from_numpy(np.eye(part.shape[1])[part]).to(weight) for part in group]
        # The variances of independent terms add up. So the factors of each term together carry 1/R of the variance.
        scale = terms ** (-0.5 / len(sizes))
        for index, (name, size) in enumerate(zip("ABC", sizes, strict=False)):
            if moves:
                start = moves[index] * scale
            elif terms == 1:
                start = torch.eye(size, dtype=weight.dtype, device=weight.device).unsqueeze(0)
            else:
                rotations = [nn.init.orthogonal_(weight.new_empty(size, size)) for _ in range(terms)]
                start = torch.stack(rotations) * scale
            self.register_parameter(name, nn.Parameter(start))

    def forward(self, V: Tensor) -> Tensor:
        """Map filter parameters V to the layer's weight. Both have the same shape."""
        if V.ndim == 2 and len(self.A) == 1:
            # Two plain products. A stack of one matrix and its sum would cost the robot extra nodes at every step.
            return self.A[0] @ V @ self.B[0].mT
        if V.ndim == 2:
            return (self.A @ V @ self.B.mT).sum(0)
        taps = V.flatten(2) @ self.C.unsqueeze(1).mT  # (R, out, in, t)
        return (self.A @ (self.B.unsqueeze(1) @ taps).flatten(2)).sum(0).reshape(V.shape)

    def gain(self) -> float:
        """The mean squared length of U's columns, as for the full form. A single term starts with 1."""
        # The inner product of two Kronecker products is the product of the inner products of their factors.
        products = [torch.einsum("rij,sij->rs", f, f) / f.shape[1] for f in map(torch.detach, self.parameters())]
        return float(torch.stack(products).prod(0).sum())


class SharingSymmetry(Symmetry):
    """`W = v[entries]`: U has a single one in each row, and is never formed. Entries with one number are always equal.

    It has nothing to learn: a group that permutes the entries of a weight says which are one number. See `grid`.

    A filter bank `(out, in, *taps)` is made with its input channels last in memory, in which order torch's convolutions
    on the CPU are fastest.

    Args:
        weight: The weight or bias to replace, of any shape.
        entries: The number of each entry's filter parameter, in C order: `(weight.numel(),)`, from 0 without gaps.

    """

    entries: Tensor

    def __init__(self, weight: Tensor, entries: NDArray[np.int64]) -> None:
        super().__init__()
        self.shape, self.filter_shape = weight.shape, (int(entries.max()) + 1,)
        order = torch.from_numpy(entries).reshape(weight.shape)
        self.last = weight.ndim > 2
        order = order.movedim(1, -1) if self.last else order
        # it follows from the network and the group, so no checkpoint has to hold it
        self.register_buffer("entries", order.flatten().to(weight.device), persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v `(k,)` to the layer's weight."""
        flat = v.index_select(0, self.entries)
        if not self.last:
            return flat.reshape(self.shape)
        out, channels, *taps = self.shape
        return flat.reshape(out, *taps, channels).movedim(-1, 1)

    def gain(self) -> float:
        """The mean squared length of U's columns: how many entries share one filter parameter."""
        return len(self.entries) / self.filter_shape[0]


class _Cell(NamedTuple):
    """The blocks of W between one run of equal blocks on the output and one on the input (see `block_runs`)."""

    copies: tuple[int, int]
    """Blocks in the output's run and in the input's run."""
    shape: tuple[int, int]
    """Rows and columns of one block of W."""
    basis: str
    """The buffer that holds the basis `(dimension, rows * columns)`; empty where only a zero block is equivariant."""


class EquivariantSymmetry(FullSymmetry):
    """`W = reshape(Q U v)`: the fixed Q spans all maps that commute with a known group, and U `(d, k)` is learned.

    W is equivariant, up to rounding, for every U and v. Q's columns are orthonormal. Q is stored per pair of blocks of
    the two representations: a hidden layer of many regular representations needs the basis of only one of them.

    A bias is a map from the trivial representation, in which every element is the number 1.

    Args:
        weight: The weight `(m, n)` or bias `(m,)` to replace.
        filters: k, the columns of U; no more than d, the dimension of the space, are made.
        action: The group on the layer's output, m numbers, and on its input, n numbers.

    Raises:
        ValueError: The matrices are not a representation (see `multiplication_table`); they have another size than the
            layer; or only the zero tensor is equivariant.

    """

    def __init__(self, weight: Tensor, filters: int, action: Group) -> None:
        multiplication_table(action)
        inputs = action.inputs if weight.ndim == 2 else np.ones((action.order, 1, 1))
        wanted = (action.outputs.shape[1], inputs.shape[1])[: weight.ndim]
        if weight.shape != wanted:
            raise ValueError(
                f"group '{action.name}' acts on a tensor of shape {wanted}, but the layer's has shape "
                f"{tuple(weight.shape)}; most likely this action belongs to another layer"
            )
        cells, bases = [], {}
        for row in block_runs(action.outputs):
            cells.append([])
            for column in block_runs(inputs):
                basis = equivariant_basis(row.block, column.block)
                name = f"Q{len(bases)}" if len(basis) else ""
                cells[-1].append(_Cell((row.copies, column.copies), (basis.shape[1], basis.shape[2]), name))
                if name:
                    bases[name] = basis.reshape(len(basis), -1)
        sizes = [math.prod(cell.copies) * len(bases[cell.basis]) for cell in chain(*cells) if cell.basis]
        if not sizes:
            raise ValueError(
                f"no tensor of shape {tuple(weight.shape)} but zero commutes with group '{action.name}', so the layer "
                "could learn nothing; most likely the group acts on the layer's input and output in unrelated ways, "
                "as with a vector in and a scalar out: widen the layer, or give it another form"
            )
        super().__init__(weight.new_zeros(sum(sizes)), filters)
        self.weight_shape, self.cells, self.sizes = weight.shape, cells, sizes
        for name, basis in bases.items():
            self.register_buffer(name, torch.tensor(basis, dtype=weight.dtype, device=weight.device))
        # The vjp of the linear `_place` is the product with Qᵀ: the replaced weight in Q's coordinates.
        self._start_along(torch.func.vjp(self._place, weight.new_zeros(sum(sizes)))[1](weight.detach())[0])

    def forward(self, v: Tensor) -> Tensor:
        """Map filter parameters v `(k,)` to the layer's weight or bias."""
        return self._place(super().forward(v))

    def _place(self, flat: Tensor) -> Tensor:
        """Multiply coordinates `(d,)` by Q. Returns the layer's weight or bias."""
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
