"""What a bundle says of images that are of none of the classes that were taught."""

from pydantic import Field, PositiveInt

from msr_runtime.bundle.frozen import Frozen


class Refused(Frozen):
    """How many images lie beyond a distance from the nearest class that was taught."""

    known: float = Field(ge=0, le=1)
    """Of the images of these classes, the share that lies beyond it."""
    unknown: float = Field(ge=0, le=1)
    """Of the images of other classes, the share that does."""
    distance: float = Field(allow_inf_nan=False)
    """The distance: the negative score of the nearest class."""


class Rejection(Frozen):
    """How far images are from prototypes, of classes that were taught and of others. See `AdaptiveModel.classify`.

    It was measured in torch on validation classes when the bundle was written, with as many classes and images of each
    as in meta-training. The images were augmented if those of meta-training were.
    """

    tasks: PositiveInt
    """The number of tasks."""
    points: tuple[Refused, ...] = Field(min_length=1)
    """The distances, by the share of images of taught classes that is refused, smallest share first."""
