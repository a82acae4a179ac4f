"""Symmetry matrices: a layer's weight as `W = reshape(U v)`.

`U` (symmetry matrix) says how weights are shared and is learned by the outer loop; `v` (filter parameters) says what
they are and is all that the inner loop moves. Both forms are ordinary torch parametrizations, so the reparameterized
module keeps its class and its `weight` and `bias` attributes.

Source: Zhou, Knowles, Finn, "Meta-Learning Symmetries by Reparameterization", ICLR 2021, section 4 (U) and appendix
(Kronecker factorisation).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Form = Literal["full", "kronecker"]


class FullSymmetry(nn.Module):
    """`W = reshape(U v)` with a dense symmetry matrix U `(weight.numel(), k)` that starts with orthogonal columns.

    Their length is the geometric mean of two: columns of length 1, whose entries shrink as a layer widens until an
    outer step that suits the rest of the network tears U apart, and columns with which W has v's own variance, whose
    entries are so large that U hardly learns.

    A row-by-matrix product is used rather than `U @ v`: ONNX Runtime has no fast path for one-dimensional operands.
    """

    def __init__(self, weight: Tensor, filters: int) -> None:
        super().__init__()
        self.shape = weight.shape
        start = torch.empty(weight.numel(), min(filters, weight.numel()), dtype=weight.dtype, device=weight.device)
        self.U = nn.Parameter(nn.init.orthogonal_(start, gain=(start.shape[0] / start.shape[1]) ** 0.25))

    def forward(self, v: Tensor) -> Tensor:
        """Filter parameters v `(k,)` to the layer's weight."""
        return (v.unsqueeze(0) @ self.U.mT).reshape(self.shape)

    def gain(self) -> float:
        """The mean squared length of U's columns: how much further than v the weight moves in a gradient step on v."""
        return float(self.U.detach().square().sum() / self.U.shape[1])

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The v `(k,)` whose weight points as near to `weight` as U allows and has the same norm.

        The projection alone would shrink a layer by `sqrt(k / weight.numel())` and the network's signal with it.
        """
        with torch.no_grad():
            v = self.U.mT @ weight.reshape(-1)
            norm = torch.linalg.vector_norm(self.U @ v)
            return v * (torch.linalg.vector_norm(weight) / norm) if norm > 0 else v


class KroneckerSymmetry(nn.Module):
    """`W = sum over r of A_r V B_rᵀ`: U is the sum of R Kronecker products `A_r ⊗ B_r` and is never formed.

    W `(m, n)`, V `(m, n)`, A `(R, m, m)`, B `(R, n, n)`. One term starts as the identity; several start as random
    rotations, because equal terms would receive equal gradients and stay one.
    """

    def __init__(self, weight: Tensor, terms: int) -> None:
        super().__init__()
        self.A = nn.Parameter(self._factors(weight, terms, weight.shape[0]))
        self.B = nn.Parameter(self._factors(weight, terms, weight.shape[1]))

    @staticmethod
    def _factors(weight: Tensor, terms: int, size: int) -> Tensor:
        if terms == 1:
            return torch.eye(size, dtype=weight.dtype, device=weight.device).unsqueeze(0)
        # Independent terms add their variances, so each A and B together carry 1/R of it.
        starts = [nn.init.orthogonal_(weight.new_empty(size, size)) for _ in range(terms)]
        return torch.stack(starts) / terms**0.25

    def forward(self, V: Tensor) -> Tensor:
        """Filter parameters V `(m, n)` to the layer's weight `(m, n)`."""
        return (self.A @ V @ self.B.mT).sum(0)

    def gain(self) -> float:
        """The mean squared length of U's columns, as for the full form; a single term starts with 1."""
        a, b = (torch.einsum("rij,sij->rs", factors, factors) for factors in (self.A.detach(), self.B.detach()))
        return float((a * b).sum() / (self.A.shape[1] * self.B.shape[1]))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The start of V: the replaced weight itself, whose scale the factors keep."""
        return weight.detach().clone()


@dataclass(frozen=True)
class LayerReport:
    """What one reparameterized tensor costs."""

    name: str
    """The tensor's dotted name in the module, for example `layers.0.weight`."""
    form: str
    """`full` or `kronecker`."""
    symmetry_parameters: int
    """Numbers in U, or in its factors."""
    filter_parameters: int
    """Numbers in v: what adapts."""
    bytes: int
    """Size of U, or of its factors, in bytes."""

    def __str__(self) -> str:
        return (
            f"{self.name:<24} {self.form:<10} U {self.symmetry_parameters:>9,}  "
            f"v {self.filter_parameters:>6,}  {self.bytes / 1024:>8,.0f} KiB"
        )


def reparameterize(
    module: nn.Module, *, filters: int = 32, form: Form = "full", terms: int = 1
) -> tuple[LayerReport, ...]:
    """Turn every `nn.Linear` inside `module`, in place, into `W = reshape(U v)`, weights and biases both.

    Args:
        module: Any module; layers that are not Linear are left alone.
        filters: k, the filter parameters of each tensor; a tensor of fewer numbers gets as many as it has.
        form: `full`, one dense U a tensor, or `kronecker` for the weights (biases, being vectors, keep a full U).
        terms: R, the number of Kronecker terms.

    Returns:
        One report a tensor, in the module's order.

    Raises:
        ValueError: `filters` or `terms` is below 1, or `module` holds no Linear layer that is not yet reparameterized.

    """
    if filters < 1 or terms < 1:
        raise ValueError(f"filters is {filters} and terms is {terms}, but both must be at least 1")
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not parametrize.is_parametrized(layer)
    ]
    if not layers:
        raise ValueError(f"{type(module).__name__} holds no Linear layer that is not yet reparameterized")
    reports = []
    for layer_name, layer in layers:
        for tensor_name in ("weight", "bias"):
            tensor = getattr(layer, tensor_name)
            if tensor is None:
                continue
            chosen: Form = form if tensor.ndim == 2 else "full"
            symmetry = KroneckerSymmetry(tensor, terms) if chosen == "kronecker" else FullSymmetry(tensor, filters)
            parametrize.register_parametrization(layer, tensor_name, symmetry, unsafe=True)
            parameters = sum(p.numel() for p in symmetry.parameters())
            reports.append(
                LayerReport(
                    name=f"{layer_name}.{tensor_name}".lstrip("."),
                    form=chosen,
                    symmetry_parameters=parameters,
                    filter_parameters=math.prod(layer.parametrizations[tensor_name].original.shape),  # type: ignore[union-attr]
                    bytes=parameters * tensor.element_size(),
                )
            )
    return tuple(reports)


def filter_parameter_names(module: nn.Module) -> tuple[str, ...]:
    """The dotted names of all filter parameters v in a reparameterized module: what the inner loop may move."""
    return tuple(name for name, _ in module.named_parameters() if name.endswith(".original"))


def fold(module: nn.Module, adapted: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Multiply U out: the plain weights that the module computes with, by the names they would have without U.

    Args:
        module: A module, reparameterized or not.
        adapted: Values that replace parameters of the same name, for example adapted filter parameters.

    Returns:
        `layers.0.weight` and so on to `W = reshape(U v)`; parameters that are not reparameterized pass as they are.

    """
    values = dict(module.named_parameters()) | (adapted or {})
    folded = {}
    for name, parameter in values.items():
        if name.endswith(".original"):
            prefix = name.removesuffix(".original")
            layer_name, _, tensor_name = prefix.rpartition("parametrizations.")
            symmetry = module.get_submodule(f"{prefix}.0")
            factors = {key: values[f"{prefix}.0.{key}"] for key, _ in symmetry.named_parameters()}
            folded[f"{layer_name}{tensor_name}"] = torch.func.functional_call(symmetry, factors, (parameter,))
        elif ".parametrizations." not in f".{name}":
            folded[name] = parameter
    return folded
