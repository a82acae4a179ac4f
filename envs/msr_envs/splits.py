"""Disjoint tasks per split: one generator of random numbers per split, whatever the family."""

import numpy as np

from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Split


def require_split(family: str, split: str) -> None:
    """Raise FamilyError, which names the family, unless `split` is one of the three."""
    if split not in SPLITS:
        raise FamilyError(f"{family}: split '{split}' is unknown; use one of {', '.join(SPLITS)}")


def split_generator(family: str, rng: np.random.Generator, split: Split) -> np.random.Generator:
    """Return a generator for the split, so that equal states of `rng` give different tasks in different splits.

    Args:
        family: The family's name, for the error.
        rng: It is advanced by one draw.
        split: `train`, `validation` or `test`.

    Raises:
        FamilyError: `split` is unknown. The message names the family.

    """
    require_split(family, split)
    return np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])
