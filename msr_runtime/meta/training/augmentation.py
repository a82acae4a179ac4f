"""Augmented queries: Algorithm 2 of Zhou, Knowles and Finn, "Meta-Learning Symmetries by Reparameterization", 2021.

Augmented queries teach the outer loop what the group does to one single task. This is true only if the augmentation is
a symmetry of each task. Otherwise an augmented query belongs to another task and teaches something false, and the
training loss does not show it. Example: one leg of a robot is weak, and a turn moves the weakness to another leg.
`check_augmentation` tests for this before training.
"""

import numpy as np

from msr_runtime.task import TaskBatch, TaskFamily


def augment_queries(family: TaskFamily, rng: np.random.Generator, batch: TaskBatch) -> TaskBatch:
    """Move each query by a random group element of its own. The support set stays as it was drawn (Algorithm 2)."""
    query_x, query_y = family.augment(rng, batch.query_x, batch.query_y)
    return batch._replace(query_x=query_x, query_y=query_y)


def augments(family: TaskFamily) -> bool:
    """Tell whether `family.augment` changes anything.

    An augmentation that changes nothing is a symmetry of every task. It needs no test, which would be slow on images.
    """
    rng = np.random.default_rng(0)
    # 64 queries or more: a group may draw the identity for some of them by chance, but not for all
    batch = family.sample(rng, 2, 1, 32 * len(family.query_sets), "train")
    # copies: an `augment` that writes into its arguments must not change what its result is compared with
    x, y = family.augment(rng, batch.query_x.copy(), batch.query_y.copy())
    return not (np.array_equal(x, batch.query_x) and np.array_equal(y, batch.query_y))
