"""The description of one input or output of a network, and the checks of an array of samples against it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_runtime.arrays import all_finite, refuse_masked
from msr_runtime.errors import InputError
from msr_runtime.task import Field, field_slices


class SampleSpec(NamedTuple):
    """The shape, dtype and fields of the samples in one input or output of a network. The first axis counts samples."""

    name: str
    """The name of the input or output in error messages, for example `support_x`."""
    shape: tuple[int, ...]
    """The shape of one sample."""
    dtype: np.dtype
    """float32, or int64 for labels."""
    fields: tuple[Field, ...]
    """The fields that are flattened and joined into one sample. Empty for labels."""
    classes: int = 0
    """The number of classes. Labels are 0 to `classes - 1`. 0 if the samples are not labels."""

    def convert(self, value: ArrayLike) -> NDArray:
        """Return `value` as an array of this dtype.

        Raises:
            InputError: If the rows of `value` differ in length, it does not hold numbers of a fitting kind, it is
                masked, or it holds a camera's bytes where an image is from 0 to 1.
        """
        # A plain array of this dtype, as control loops hand over, needs no conversion. A masked one is of another type.
        if type(value) is np.ndarray and value.dtype == self.dtype:
            return value
        refuse_masked(self.name, value)
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(f"{self.name} is not an array ({error}); give rows of equal length") from error
        kinds = "fiub" if self.dtype.kind == "f" else "iu"
        if array.dtype.kind not in kinds:
            raise InputError(
                f"{self.name} has dtype {array.dtype}, but {self.dtype} is wanted, or "
                f"{'numbers' if self.dtype.kind == 'f' else 'integers'} that convert to it"
            )
        if array.dtype == np.uint8 and self._are_pixels(array):
            raise InputError(
                f"{self.name} holds pixels from 0 to 255, as cameras give them, but '{self.fields[0].name}' is from 0 "
                "to 1: divide them by 255"
            )
        with np.errstate(over="ignore"):  # a number too large becomes infinite, and `check_values` reports it
            return array.astype(self.dtype, copy=False)

    def _are_pixels(self, array: NDArray) -> bool:
        """Return whether bytes are pixels of an image whose field is from 0 to 1."""
        of_image = len(self.shape) == 3 and all((field.low, field.high) == (0, 1) for field in self.fields)
        return of_image and array.max(initial=0) > 1

    def convert_one(self, value: ArrayLike) -> NDArray:
        """Return the x or y of one sample as an array `shape` of this dtype.

        Raises:
            InputError: As `convert`, or if it has another shape.
        """
        array = self.convert(value)
        if array.shape != self.shape:
            raise InputError(
                f"one sample's {self.name[-1]} has shape {array.shape}, but {self.shape} is wanted, without a batch "
                "axis; for several samples call it once for each, in their order"
            )
        return array

    def is_batch(self, array: NDArray) -> bool:
        """Return whether `array` is `(samples, *shape)` with at least one sample."""
        shape = array.shape
        return len(shape) == 1 + len(self.shape) and shape[1:] == self.shape and shape[0] > 0

    def check_batch(self, array: NDArray) -> None:
        """Raise InputError unless `array` is `(samples, *shape)` with at least one sample."""
        if not self.is_batch(array):
            raise InputError(self.shape_error(array.shape))

    def shape_error(self, seen: tuple[int, ...]) -> str:
        """Return an error message with the shape seen, the shape wanted and the fields of one sample."""
        parts = " + ".join(f"{field.name} {field.shape}" for field in self.fields)
        wanted = f"({', '.join(['samples', *map(str, self.shape)])})"
        sample = f"{parts}, in this order" if parts else "one label per sample"
        last = len(self.shape) == 3 and seen[-3:] == (*self.shape[1:], self.shape[0])
        hint = "; its channels are last, so move them first: np.moveaxis(x, -1, -3)" if last else ""
        return f"{self.name} has shape {seen}, but {wanted} with at least one sample is wanted: {sample}{hint}"

    def check_values(self, array: NDArray) -> None:
        """Raise InputError if `array` `(samples, *shape)` holds a number that is not finite, or an unknown label."""
        if array.dtype.kind != "f":
            if not self.holds_classes(array):
                raise InputError(
                    f"{self.name} has labels {array.min()} to {array.max()}, but 0 to {self.classes - 1} are wanted, "
                    "one number per class of the bundle"
                )
            return
        if all_finite(array.reshape(-1)):
            return
        flat = array.reshape(len(array), -1)
        sample, column = (int(index) for index in np.argwhere(~np.isfinite(flat))[0])
        place = f"element {column}"
        for name, where in field_slices(self.fields).items():
            if where.start <= column < where.stop:
                place = f"field '{name}' element {column - where.start}"
        raise InputError(
            f"{self.name} sample {sample}, {place} (index {column}) is {flat[sample, column]}, but a finite float32 is "
            "wanted; likely a sensor gave no number, or the value is too large for float32"
        )

    def holds_classes(self, labels: NDArray) -> bool:
        """Return whether every label is a class, 0 to `classes - 1`."""
        return bool(((labels >= 0) & (labels < self.classes)).all())
