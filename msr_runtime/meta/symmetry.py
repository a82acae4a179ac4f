"""Reparameterize a module: each layer's weight and bias as `W = reshape(U v)`, and back.

`U` (symmetry matrix) says how weights are shared and is learned by the outer loop; `v` (filter parameters) says what
they are and is all that the inner loop moves. Every form of U (see `forms`) is an ordinary torch parametrization, so a
reparameterized layer keeps its class, its `weight` and `bias` and all else: a convolution its stride, padding, dilation
and groups, and so its translation symmetry.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn.utils import parametrize

from msr_runtime.meta.equivariant import equivariant_dimension
from msr_runtime.meta.forms import EquivariantSymmetry, FullSymmetry, KroneckerSymmetry, PerInputSymmetry, Symmetry
from msr_runtime.task import Group

Form = Literal["full", "per-input", "kronecker", "equivariant"]
"""The forms of a layer's symmetry matrix; their classes in `forms` describe them."""

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""The layers that can be reparameterized."""


class LayerSpec(BaseModel):
    """How one layer is reparameterized."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = "full"
    """The form of the weight's U. A bias, being a vector, has a full U, or an equivariant one beside such a weight."""
    filters: PositiveInt = 32
    """k, the columns of U; a tensor that needs fewer gets fewer. The Kronecker form has no k."""
    terms: PositiveInt = 1
    """R, the terms of the Kronecker form."""


@dataclass(frozen=True)
class LayerReport:
    """What one reparameterized tensor costs."""

    name: str
    """The tensor's dotted name in the module, for example `layers.0.weight`."""
    form: str
    """The form of its U; `zero` for a bias that is held there because its group allows no other."""
    symmetry_parameters: int
    """Numbers learned in U, or in its factors."""
    filter_parameters: int
    """Numbers in v: what adapts."""
    bytes: int
    """Size of U, or of its factors, and of the fixed basis of an equivariant one."""

    def __str__(self) -> str:
        return (
            f"{self.name:<24} {self.form:<11} U {self.symmetry_parameters:>9,}  "
            f"v {self.filter_parameters:>6,}  {self.bytes / 1024:>8,.0f} KiB"
        )


def reparameterize(
    module: nn.Module,
    *,
    filters: int = 32,
    form: Form = "full",
    terms: int = 1,
    layers: Mapping[str, LayerSpec | None] | None = None,
    actions: Mapping[str, Group] | None = None,
) -> tuple[LayerReport, ...]:
    """Turn every Linear, Conv1d and Conv2d inside `module`, in place, into `W = reshape(U v)`, weights and biases both.

    Each starts with the scale of the layer that it replaces. Nothing is changed if anything is refused.

    Args:
        module: Any module; layers of other kinds, and those that are parametrized already, are left alone.
        filters: As in `LayerSpec`, for the layers that no pattern matches.
        form: As in `LayerSpec`, for the same layers.
        terms: As in `LayerSpec`, for the same layers.
        layers: Pattern of dotted layer names, as in `fnmatch`, to the layer's own spec, or to None to leave it alone.
            The first pattern that matches a layer decides.
        actions: Layer name to the group that acts on its input and output (see `equivariant.mlp_actions`), for the
            layers of the equivariant form, which must be Linear.

    Returns:
        One report a tensor, in the module's order.

    Raises:
        ValueError: a spec is invalid; a pattern or an action names no layer; no layer is left to reparameterize; or a
            layer cannot have its form: see `EquivariantSymmetry`, which also needs an action.

    """
    found = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, LAYERS) and not parametrize.is_parametrized(layer)
    }
    default = LayerSpec(form=form, filters=filters, terms=terms)
    specs = _choose(module, list(found), default, layers or {})
    for name in actions or {}:
        if name not in found:
            raise ValueError(f"an action is given for '{name}', which is none of the layers {_listed(list(found))}")
    built = {
        (name, tensor): _build(name, found[name], tensor, spec, (actions or {}).get(name))
        for name, spec in specs.items()
        for tensor in ("weight", "bias")
        if getattr(found[name], tensor) is not None
    }
    return tuple(_install(name, found[name], tensor, *chosen) for (name, tensor), chosen in built.items())


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


def _choose(
    module: nn.Module, names: list[str], default: LayerSpec, patterns: Mapping[str, LayerSpec | None]
) -> dict[str, LayerSpec]:
    """The spec of every layer that is not to be left alone."""
    if not names:
        raise ValueError(
            f"{type(module).__name__} holds no Linear, Conv1d or Conv2d layer that is not yet reparameterized"
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"the pattern '{pattern}' matches none of the layers {_listed(names)}")
    first = {name: next((p for p in patterns if fnmatchcase(name, p)), None) for name in names}
    specs = {name: default if pattern is None else patterns[pattern] for name, pattern in first.items()}
    chosen = {name: spec for name, spec in specs.items() if spec is not None}
    if not chosen:
        raise ValueError(f"all of the layers {_listed(names)} are to be left alone, so that nothing could adapt")
    return chosen


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _build(
    name: str, layer: nn.Module, tensor_name: str, spec: LayerSpec, action: Group | None
) -> tuple[str, Symmetry | None]:
    """The form and the symmetry of one tensor; None for a bias that has to be zero."""
    tensor = layer.get_parameter(tensor_name)
    if spec.form != "equivariant":
        if tensor.ndim == 1 or spec.form == "full":
            return "full", FullSymmetry(tensor, spec.filters)
        if spec.form == "per-input":
            return spec.form, PerInputSymmetry(tensor, spec.filters)
        return spec.form, KroneckerSymmetry(tensor, spec.terms)
    if action is None or not isinstance(layer, nn.Linear):
        raise ValueError(
            f"layer '{name}', a {type(layer).__name__}, is to be equivariant, which takes a Linear layer and, in "
            f"`actions`, the group that acts on it; its action is {action and action.name}"
        )
    if tensor_name == "bias" and not equivariant_dimension(action.outputs, np.ones((action.order, 1, 1))):
        return "zero", None
    try:
        return spec.form, EquivariantSymmetry(tensor, spec.filters, action)
    except ValueError as error:
        raise ValueError(f"layer '{name}' cannot be equivariant: {error}") from error


def _install(name: str, layer: nn.Module, tensor_name: str, form: str, symmetry: Symmetry | None) -> LayerReport:
    filter_parameters = 0
    if symmetry is None:
        zero = torch.zeros_like(layer.get_parameter(tensor_name))
        layer.register_parameter(tensor_name, nn.Parameter(zero, requires_grad=False))
    else:
        parametrize.register_parametrization(layer, tensor_name, symmetry, unsafe=True)
        filter_parameters = math.prod(symmetry.filter_shape)
    factors = list(symmetry.parameters()) if symmetry else []
    bases = list(symmetry.buffers()) if symmetry else []
    return LayerReport(
        name=f"{name}.{tensor_name}".lstrip("."),
        form=form,
        symmetry_parameters=sum(factor.numel() for factor in factors),
        filter_parameters=filter_parameters,
        bytes=sum(part.nbytes for part in factors + bases),
    )
