"""From the spaces of an environment to fields, and from its observations to rows of numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from msr_runtime.errors import FamilyError
from msr_runtime.task import Field, field_slices, width

Described = Mapping[str, int] | Sequence[Field]
"""What a user says of the numbers of a space: fields, or names and how many numbers each takes."""


class Side(NamedTuple):
    """The numbers of an observation or of an action, in order."""

    fields: tuple[Field, ...]
    low: NDArray[np.float64]
    """`(n,)`: the smallest value of each number, which may be infinite."""
    high: NDArray[np.float64]
    """`(n,)`: the largest one."""

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.low)

    def slices(self) -> dict[str, slice]:
        """Return the numbers of each field."""
        return field_slices(self.fields)


def describe_space(name: str, space: spaces.Space, said: Described | None) -> Side:
    """Return the numbers of a space, as its user describes them.

    Args:
        name: `observation` or `action`.
        space: The space of a single environment: a Box, or a Dict of boxes.
        said: The description. None: one field, or one for each part of a Dict.

    Raises:
        FamilyError: The space is of another kind, or the description does not fit it.

    """
    parts = _boxes(name, space)
    low, high = (
        np.concatenate([np.asarray(getattr(box, bound), np.float64).ravel() for box in parts.values()])
        for bound in ("low", "high")
    )
    if said is None:
        said = {part: math.prod(box.shape) for part, box in parts.items()}
        if len(parts) == 1 and len(shape := next(iter(parts.values())).shape) == 3:
            return Side((_field(next(iter(parts)), shape, low, high),), low, high)
    if not isinstance(said, Mapping):
        fields = tuple(said)
    else:
        ends = np.cumsum(list(said.values()))
        fields = tuple(
            _field(part, (size,), low[end - size : end], high[end - size : end])
            for (part, size), end in zip(said.items(), ends, strict=True)
            if size > 0 and end <= len(low)
        )
    if width(fields) != len(low) or len(fields) != len(said):
        told = said.items() if isinstance(said, Mapping) else [(field.name, field.size) for field in fields]
        raise FamilyError(
            f"the {name} of the environment has {len(low)} numbers ({_shown(parts)}), but `{name}` describes "
            f"{sum(size for _, size in told)}: {', '.join(f'{part} {size}' for part, size in told)}; name each number "
            "once, in the environment's order"
        )
    return Side(fields, low, high)


def rows(space: spaces.Space, values: Any, count: int) -> NDArray[np.float64]:
    """Return the observations of `count` environments as rows `(count, n)`."""
    parts = [values[key] for key in space.spaces] if isinstance(space, spaces.Dict) else [values]
    return np.concatenate([numbers(part).reshape(count, -1) for part in parts], 1)


def batch(space: spaces.Space, values: NDArray[np.float64]) -> Any:
    """Return rows of actions `(count, n)` in the shape and the dtype of the space of a single environment."""
    if isinstance(space, spaces.Dict):
        sizes = [math.prod(part.shape or ()) for part in space.spaces.values()]
        cut = np.split(values, np.cumsum(sizes)[:-1], axis=1)
        return {key: batch(space.spaces[key], part) for key, part in zip(space.spaces, cut, strict=True)}
    return values.reshape(len(values), *(space.shape or ())).astype(space.dtype)


def like(observation: Any, action: Any) -> Any:
    """Return an action as a tensor on the observation's device, if the observation is one. Else return it unchanged."""
    if isinstance(action, dict):
        return {key: like(observation, part) for key, part in action.items()}
    first = next(iter(observation.values())) if isinstance(observation, dict) else observation
    return first.new_tensor(action) if hasattr(first, "new_tensor") else action


def numbers(values: Any) -> NDArray[np.float64]:
    """Return an array in the memory of the CPU: simulators on a GPU may hand over tensors."""
    values = values.detach() if hasattr(values, "detach") else values
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values, np.float64)


def _boxes(name: str, space: spaces.Space) -> dict[str, spaces.Box]:
    found = dict(space.spaces) if isinstance(space, spaces.Dict) else {name: space}
    boxes = {part: box for part, box in found.items() if isinstance(box, spaces.Box)}
    if len(boxes) < len(found):
        wrong = next(part for part in found if part not in boxes)
        raise FamilyError(
            f"the {name} space holds {found[wrong]} in '{wrong}', but only a Box, or a Dict of boxes, is numbers of a "
            "robot; wrap the environment (gymnasium.wrappers.TransformObservation or TransformAction), for example to "
            "map a choice to a force"
        )
    return boxes


def _field(name: str, shape: tuple[int, ...], low: NDArray, high: NDArray) -> Field:
    least, most = float(low.min()), float(high.max())
    margin = 0.0 if least < most else max(1.0, abs(least))  # a number that never changes still needs bounds
    return Field(name=name, shape=shape or (1,), unit="1", low=least - margin, high=most + margin)


def _shown(parts: Mapping[str, spaces.Box]) -> str:
    return ", ".join(f"{part} {box.shape}" for part, box in parts.items())
