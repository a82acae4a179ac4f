"""Check the actions that an environment gets: an action that no robot could follow must not become a motion."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_runtime.errors import InputError

_ROUNDING = 1e-6  # share of a bound: float32 rounds 0.1 up


def checked_action(env: str, action: ArrayLike, size: int, largest: float) -> NDArray[np.float64]:
    """Return the action `(size,)` as float64.

    Args:
        env: The environment's name in errors.
        action: The action.
        size: How many numbers it has.
        largest: The bound of every number, on both sides.

    Raises:
        InputError: It is masked or not numeric, has another shape, is not finite, or is outside the bounds.
    """
    given = np.asarray(action)
    if given.shape != (size,) or given.dtype.kind not in "fiub" or isinstance(action, np.ma.MaskedArray):
        masked = ", masked" if isinstance(action, np.ma.MaskedArray) else ""
        raise InputError(
            f"{env}: the action has shape {given.shape} and dtype {given.dtype}{masked}, but {(size,)} plain "
            "numbers are wanted; give one action per step, without a batch axis"
        )
    values = given.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            f"{env}: the action is {values.tolist()}, but every number must be finite; send the network's actions "
            "through msr_runtime.ActionGuard, which holds the last good one"
        )
    if np.abs(values).max() > largest * (1 + _ROUNDING):
        raise InputError(
            f"{env}: the action is {values.tolist()}, but every number must be between {-largest:g} and {largest:g}; "
            "clip it (np.clip), or send the network's actions through msr_runtime.ActionGuard, which clips them"
        )
    return values
