"""Streams of random numbers. Each use of random numbers in a run has its own stream.

Therefore a checkpoint needs no state of a generator: a resumed run makes the stream of its next outer step anew.
"""

import numpy as np

POOL, NORMALIZATION, VALIDATION, SYMMETRY = range(4)
"""Numbers of the streams of `prepare`: training tasks, normalization, validation tasks, test of the augmentation."""
FIRST_STEP = 4
"""Number of the stream of outer step 0. Outer step n has the stream `FIRST_STEP + n`."""


def stream(seed: int, number: int) -> np.random.Generator:
    """Return the generator of stream `number` in a run with this seed."""
    return np.random.default_rng([seed, number])


def disturbance_stream(seed: int, number: int) -> np.random.Generator:
    """Return the generator of what disturbs the support sets that stream `number` draws.

    It is a stream of its own, so that a run with noise sees the same tasks, samples and augmentations as one without.
    """
    return np.random.default_rng([seed, number, 1])


def tasks_stream(seed: int) -> np.random.Generator:
    """Return the generator of the test whether support sets tell tasks: it changes nothing in a run that passes it."""
    return np.random.default_rng([seed, 0, 3])


def layers_seed(seed: int, number: int, rank: int) -> int:
    """Return the seed for torch of what is random in a network, such as dropout, in one process of a run."""
    return int(np.random.default_rng([seed, number, 2, rank]).integers(2**63))
