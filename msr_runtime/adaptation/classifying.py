"""Name the class of an image, or say that it is none of those that were taught."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_runtime.bundle.manifest import Manifest
from msr_runtime.errors import InputError
from msr_runtime.task import Array, width

USUAL = 0.05
"""The share of images of taught classes that is called unknown, where none is named."""


class Classified(NamedTuple):
    """What a model says of some samples. Of a single sample, every array lacks the first axis."""

    label: NDArray[np.int64]
    """The nearest of the classes that were taught, `(batch,)`."""
    known: NDArray[np.bool_]
    """Whether the sample is near enough to be of that class, `(batch,)`. Else it is none of those that were taught."""
    distance: Array
    """How far the nearest class is, `(batch,)`: its score, negative."""
    scores: Array
    """The score of each class, `(batch, classes)`. Minus infinity for classes that were not taught."""


def require_prototypes(manifest: Manifest, where: str, asked: str) -> None:
    """Refuse a bundle whose v are not the prototypes of classes, or that says nothing of how far images may be.

    Raises:
        InputError: It names the bundle and what it is.
    """
    if manifest.rejection is not None:
        return
    cause = (
        "was exported by an older version, which did not measure how far images of other classes are: export it again"
        if manifest.rule == "class-means"
        else f"has the rule '{manifest.rule}': train on classes with --method orbit-prototypes or protonets"
    )
    raise InputError(f"{asked} needs a bundle of prototypes, but bundle '{where}' {cause}")


def taught_classes(manifest: Manifest, v: Array) -> NDArray[np.int64]:
    """Return the labels of the classes whose prototype in v `(1, K)` is not zero, in order."""
    return np.flatnonzero(v.reshape(width(manifest.outputs), -1).any(1))


def classified(manifest: Manifest, scores: Array, v: Array, refuse: float) -> Classified:
    """Read scores `(batch, classes)` or `(classes,)` of a network with such a v `(1, K)`.

    Args:
        manifest: The manifest of a bundle of prototypes.
        scores: What the network gave.
        v: The filter parameters with which it gave them.
        refuse: As in `AdaptiveModel.classify`.

    Raises:
        InputError: No class was taught, or nothing was measured for this share.
    """
    assert manifest.rejection is not None
    limits = {point.known: point.distance for point in manifest.rejection.points}
    if refuse not in limits:
        raise InputError(
            f"refuse is {refuse}, but the bundle was measured where {', '.join(f'{share:g}' for share in limits)} of "
            "the images of taught classes are refused; give one of these"
        )
    taught = taught_classes(manifest, v)
    if not len(taught):
        raise InputError("no class was taught, so no image can be named: call adapt() with an image of each class")
    other = np.ones(scores.shape[-1], bool)
    other[taught] = False
    scores = np.where(other, np.float32(-np.inf), scores)
    distance = -scores.max(-1)
    return Classified(scores.argmax(-1), distance <= np.float32(limits[refuse]), distance, scores)
