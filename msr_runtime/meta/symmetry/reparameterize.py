"""Reparameterize a module: compute each layer's weight and bias as `W = reshape(U v)`. And back, with `fold`.

U, the symmetry matrix, says how weights are shared. The outer loop learns it. v, the filter parameters, says which
values the weights have. The inner loop moves v alone.

Every form of U (see `forms`) is an ordinary torch parametrization. A reparameterized layer therefore keeps its class,
its attributes `weight` and `bias`, and everything else: a convolution keeps its stride, padding, dilation and groups,
and so its translation symmetry.
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

from msr_runtime.meta.symmetry.equivariant import equivariant_dimension
from msr_runtime.meta.symmetry.forms import (
    EquivariantSymmetry,
    FullSymmetry,
    KroneckerSymmetry,
    PerInputSymmetry,
    SharingSymmetry,
    Symmetry,
)
from msr_runtime.meta.symmetry.grid import FilterAction, product, shared_entries
from msr_runtime.task import Group

Form = Literal["full", "per-input", "kronecker", "equivariant"]
"""The forms of a layer's symmetry matrix. The module `forms` describes them."""

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""The layers that can be reparameterized."""
_KEPT = 1e-4
"""Largest relative change of a tensor that counts as kept: the rounding of float32 in a wide layer."""


class LayerSpec(BaseModel):
    """How one layer is reparameterized."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = "full"
    """The form of the weight's U. The U of a bias is full, or equivariant if the weight's U is equivariant."""
    filters: PositiveInt = 32
    """k, the columns of U. A tensor with fewer entries gets fewer. The Kronecker form has no k."""
    terms: PositiveInt = 1
    """R, the number of terms of the Kronecker form."""


@dataclass(frozen=True)
class LayerReport:
    """The size of one reparameterized tensor."""

    name: str
    """The tensor's dotted name in the module, for example `layers.0.weight`."""
    form: str
    """The form of its U; `zero` for a bias that stays zero because its group allows no other value."""
    symmetry_parameters: int
    """Numbers learned in U, or in the factors of U."""
    filter_parameters: int
    """Numbers in v: those that adapt."""
    bytes: int
    """Bytes of U, or of its factors, and of the fixed basis of an equivariant U."""
    change: float
    """How far the new tensor starts from the one that it replaces, relative to the norm of that one. `full` and one
    Kronecker term keep it, up to rounding. Other forms cannot hold every tensor, and start at one of the same norm.
    """

    def __str__(self) -> str:
        return (
            f"{self.name:<24} {self.form:<11} U {self.symmetry_parameters:>9,}  "
            f"v {self.filter_parameters:>6,}  {self.bytes / 1024:>8,.0f} KiB  "
            + ("kept" if self.change <= _KEPT else f"changed by {self.change:.0%}")
        )


def reparameterize(
    module: nn.Module,
    *,
    filters: int = 32,
    form: Form = "full",
    terms: int = 1,
    layers: Mapping[str, LayerSpec | None] | None = None,
    actions: Mapping[str, Group | FilterAction] | None = None,
    keep: bool = False,
) -> tuple[LayerReport, ...]:
    """Replace the weight and bias of every Linear, Conv1d and Conv2d in `module`, in place, by `W = reshape(U v)`.

    Each new weight starts with the scale of the weight it replaces. If an error is raised, the module is unchanged.

    Args:
        module: Any module. Layers of other kinds, layers that are already parametrized, and frozen tensors
            (`requires_grad_(False)`) stay as they are.
        filters: As in `LayerSpec`, for the layers that no pattern matches.
        form: As in `LayerSpec`, for the layers that no pattern matches.
        terms: As in `LayerSpec`, for the layers that no pattern matches.
        layers: Pattern of dotted layer names, as in `fnmatch`, to the spec of these layers. None in place of a spec
            leaves a layer as it is. The first pattern that matches a layer decides.
        actions: Layer name to the group that acts on its input and output (see `equivariant.mlp_actions`). Needed for
            the layers of the equivariant form. A convolution takes a group of flips and quarter turns, which permutes
            its channels and taps (`grid.FilterAction`). The form `kronecker` starts at such a group, with one term for
            each element, and learns on from there.
        keep: Refuse forms that cannot start at the weights which the layers have. For a pretrained module.

    Returns:
        One report per tensor, in the module's order.

    Raises:
        ValueError: A spec is invalid; a pattern or an action names no layer; no layer is left to reparameterize; two
            layers share a tensor; a layer cannot have its form (see `EquivariantSymmetry`, which also needs an action);
            or, with `keep`, its form cannot hold its weight.

    Example:
        >>> import torch
        >>> from msr_runtime.meta import reparameterize
        >>> _ = torch.manual_seed(0)
        >>> network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
        >>> reports = reparameterize(network, filters=4)
        >>> [(report.name, report.symmetry_parameters, report.filter_parameters) for report in reports[:2]]
        [('0.weight', 192, 4), ('0.bias', 32, 4)]
        >>> network(torch.zeros(5, 6)).shape
        torch.Size([5, 2])

    """
    found = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, LAYERS) and not parametrize.is_parametrized(layer) and _free(layer)
    }
    default = LayerSpec(form=form, filters=filters, terms=terms)
    specs = _choose(module, list(found), default, layers or {})
    for name in actions or {}:
        if name not in found:
            raise ValueError(
                f"an action is given for '{name}', which is none of the layers {_listed(list(found))}; name one of "
                "these in `actions` (a layer that is already reparameterized takes no second action)"
            )
    # Everything is built before anything is installed: an error leaves the module unchanged.
    built = {
        (name, tensor): _build(name, found[name], tensor, spec, (actions or {}).get(name))
        for name, spec in specs.items()
        for tensor in _free(found[name])
    }
    _check_ties(module, {id(found[name].get_parameter(tensor)) for name, tensor in built})
    if keep:
        _check_kept(found, built)
    return tuple(_install(name, found[name], tensor, *chosen) for (name, tensor), chosen in built.items())


def filter_parameter_names(module: nn.Module) -> tuple[str, ...]:
    """The dotted names of all filter parameters v in a reparameterized module: what the inner loop may move.

    Example:
        >>> import torch
        >>> from msr_runtime.meta import filter_parameter_names, reparameterize
        >>> _ = torch.manual_seed(0)
        >>> layer = torch.nn.Linear(6, 8)
        >>> _ = reparameterize(layer, filters=4)
        >>> filter_parameter_names(layer)
        ('parametrizations.weight.original', 'parametrizations.bias.original')

    """
    # torch names the input of a parametrization `original`: here v, from which U makes the weight.
    return tuple(name for name, _ in module.named_parameters() if name.endswith(".original"))


def fold(module: nn.Module, adapted: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Multiply U by v: the plain weights with which the module computes, under the names they would have without U.

    Args:
        module: A module, reparameterized or not.
        adapted: Values that replace parameters of the same name, for example adapted filter parameters.

    Returns:
        Name, for example `layers.0.weight`, to `W = reshape(U v)`. Parameters without U are returned as they are.

    Example:
        >>> import torch
        >>> from msr_runtime.meta import fold, reparameterize
        >>> _ = torch.manual_seed(0)
        >>> layer = torch.nn.Linear(6, 8)
        >>> _ = reparameterize(layer, filters=4)
        >>> {name: tuple(weight.shape) for name, weight in fold(layer).items()}
        {'weight': (8, 6), 'bias': (8,)}

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
    """Choose the spec of every layer. Layers whose spec is None are left out."""
    if not names:
        raise ValueError(
            f"{type(module).__name__} holds no Linear, Conv1d or Conv2d layer that is not yet reparameterized and not "
            "frozen, but at least one is wanted; pass a module with such layers, reparameterize it only once, and thaw "
            "what is to be learned with requires_grad_(True)"
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"the pattern '{pattern}' matches none of the layers {_listed(names)}; most likely it is misspelled in "
                "`layers`, where patterns are written as in fnmatch"
            )
    first = {name: next((p for p in patterns if fnmatchcase(name, p)), None) for name in names}
    specs = {name: default if pattern is None else patterns[pattern] for name, pattern in first.items()}
    chosen = {name: spec for name, spec in specs.items() if spec is not None}
    if not chosen:
        raise ValueError(
            f"all of the layers {_listed(names)} are to be left alone, so nothing could adapt; give at least one of "
            "them a LayerSpec in `layers`, or remove the pattern that maps them to None"
        )
    return chosen


def _free(layer: nn.Module) -> list[str]:
    """The names of a layer's tensors that are there and not frozen."""
    return [name for name in ("weight", "bias") if (t := getattr(layer, name)) is not None and t.requires_grad]


def _check_ties(module: nn.Module, chosen: set[int]) -> None:
    """Refuse tensors that have two names in the module. Each name would get a U and a v of its own."""
    names: dict[int, str] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        other = names.setdefault(id(tensor), name)
        if other != name and id(tensor) in chosen:
            raise ValueError(
                f"'{other}' and '{name}' are one tensor (tied weights), and reparameterizing would part them; leave "
                "their layers alone by a pattern to None in `layers`, or give each a tensor of its own"
            )


def _check_kept(found: Mapping[str, nn.Module], built: Mapping[tuple[str, str], tuple[str, Symmetry | None]]) -> None:
    """Refuse forms that do not start at the tensor which they replace."""
    for (name, tensor), (form, symmetry) in built.items():
        if (change := _change(found[name].get_parameter(tensor), symmetry)) > _KEPT:
            raise ValueError(
                f"form '{form}' would change '{f'{name}.{tensor}'.lstrip('.')}' by {change:.0%}, but it is to be kept: "
                "this form cannot hold every tensor; take form 'full' or one Kronecker term, or leave `keep` out"
            )


def _change(tensor: Tensor, symmetry: Symmetry | None) -> float:
    """How far the start of a symmetry matrix is from the tensor, relative to the tensor's norm."""
    with torch.no_grad():
        start = torch.zeros_like(tensor) if symmetry is None else symmetry(symmetry.right_inverse(tensor))
        norm = torch.linalg.vector_norm(tensor)
        return float(torch.linalg.vector_norm(start - tensor) / norm) if norm > 0 else 0.0


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _build(
    name: str, layer: nn.Module, tensor_name: str, spec: LayerSpec, action: Group | FilterAction | None
) -> tuple[str, Symmetry | None]:
    """The form and the symmetry matrix of one tensor. The matrix is None for a bias that must stay zero."""
    tensor = layer.get_parameter(tensor_name)
    if spec.form == "kronecker" and isinstance(action, FilterAction):
        shared = _shared(name, tensor, action)
        if tensor.ndim == 1:
            return "equivariant", shared
        sides = (action.outputs, action.inputs, action.taps)
        return spec.form, KroneckerSymmetry(tensor, action.group.order, sides[: 3 if tensor.ndim > 2 else 2])
    if spec.form != "equivariant":
        if tensor.ndim == 1 or spec.form == "full":
            return "full", FullSymmetry(tensor, spec.filters)
        if spec.form == "per-input":
            return spec.form, PerInputSymmetry(tensor, spec.filters)
        return spec.form, KroneckerSymmetry(tensor, spec.terms)
    if isinstance(action, FilterAction):
        return spec.form, _shared(name, tensor, action)
    if action is None or not isinstance(layer, nn.Linear):
        raise ValueError(
            f"layer '{name}', a {type(layer).__name__}, is to be equivariant, which takes a Linear layer and a group "
            f"in `actions`, or a convolution and a group of flips and turns, but its action is "
            f"{action and action.name}; add the group that acts on it to `actions`, or give the layer another form"
        )
    # A bias must not change under the group's output matrices. Some groups allow only the zero vector.
    if tensor_name == "bias" and not equivariant_dimension(action.outputs, np.ones((action.order, 1, 1))):
        return "zero", None
    try:
        return spec.form, EquivariantSymmetry(tensor, spec.filters, action)
    except ValueError as error:
        raise ValueError(f"layer '{name}' cannot be equivariant: {error}") from error


def _shared(name: str, tensor: Tensor, action: FilterAction) -> SharingSymmetry:
    """Share the entries of a tensor that a group of flips and turns moves onto each other."""
    parts = (action.outputs,) if tensor.ndim == 1 else (action.outputs, action.inputs, action.taps)
    entries = shared_entries(product(*parts))
    if len(entries) != tensor.numel():
        sizes = " x ".join(str(part.shape[1]) for part in parts)
        raise ValueError(
            f"layer '{name}' cannot be equivariant: group '{action.group.name}' acts on a tensor of {sizes}, but the "
            f"layer's has shape {tuple(tensor.shape)}; most likely this action belongs to another layer"
        )
    return SharingSymmetry(tensor, entries)


def _install(name: str, layer: nn.Module, tensor_name: str, form: str, symmetry: Symmetry | None) -> LayerReport:
    """Put the symmetry matrix, or a constant zero, in place of one tensor, and report its size."""
    filter_parameters, change = 0, _change(layer.get_parameter(tensor_name), symmetry)
    if symmetry is None:
        zero = torch.zeros_like(layer.get_parameter(tensor_name))
        layer.register_parameter(tensor_name, nn.Parameter(zero, requires_grad=False))
    else:
        # `unsafe` allows v to have another shape than the weight.
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
        change=change,
    )
