"""Conversion between the arrays of a network and the messages of a recording."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_runtime.arrays import refuse_masked
from msr_runtime.errors import InputError
from msr_runtime.task import Field, Loss, width

Values = dict[str, list[float]]
"""Field name to the field's numbers in C order."""


class Vector:
    """Converts one kind of vector (observation, action or label) between a flat array and a message."""

    def __init__(self, name: str, fields: tuple[Field, ...], dtype: type = np.float32) -> None:
        """Describe the vector.

        Args:
            name: Its name in error messages.
            fields: Its fields, in the order of the flat array.
            dtype: float32, or int64 for labels.
        """
        self.name, self.fields, self.dtype, self.size = name, fields, dtype, width(fields)
        self._parts = [(field.name, field.size) for field in fields]

    def copy(self, values: ArrayLike) -> NDArray:
        """Copy one sample into a flat array `(size,)`.

        Raises:
            InputError: If the sample is not numeric or does not have `size` numbers.
        """
        array = self._numbers(values).reshape(-1)
        if array.size != self.size:
            raise InputError(
                f"{self.name} has shape {np.shape(values)}, but {self._wanted()} are wanted; give one sample, with its "
                "fields in the manifest's order"
            )
        return array

    def copy_batch(self, values: ArrayLike) -> NDArray:
        """Copy several samples into an array `(samples, size)`.

        Raises:
            InputError: If the samples are not numeric or do not have `size` numbers each.
        """
        array = self._numbers(values)
        if array.ndim < 1 or array.size != len(array) * self.size:
            raise InputError(
                f"{self.name} has shape {array.shape}, but {self._wanted()} are wanted per sample; the first axis "
                "counts the samples"
            )
        return array.reshape(-1, self.size)

    def to_message(self, row: NDArray) -> Values:
        """Split a flat sample `(size,)` into its fields."""
        numbers, message, begin = row.tolist(), {}, 0
        for name, size in self._parts:
            message[name] = numbers[begin : begin + size]
            begin += size
        return message

    def from_message(self, values: Mapping[str, list[float]], where: str) -> NDArray:
        """Join the fields of a message into a flat sample `(size,)`; `where` names the message in errors.

        Raises:
            InputError: If names or sizes of the fields differ from the manifest's.
        """
        if (seen := {name: len(numbers) for name, numbers in values.items()}) != dict(self._parts):
            raise InputError(
                f"{where} has the fields and sizes {seen}, but {dict(self._parts)} are wanted; another program wrote "
                "this message"
            )
        # Numbers that do not fit the dtype can only come from another program. They become infinite or wrong values,
        # which the caller sees and compares; a numpy warning would add nothing.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array([number for name, _ in self._parts for number in values[name]]).astype(self.dtype)

    def schema(self) -> dict[str, Any]:
        """JSON schema of the messages."""
        return json_object(
            {
                field.name: {
                    "type": "array",
                    "items": {"type": "number"},
                    "description": f"{field.shape} in C order, {field.low:g} to {field.high:g} {field.unit}",
                    "unit": field.unit,
                }
                for field in self.fields
            }
        )

    def _numbers(self, values: ArrayLike) -> NDArray:
        if type(values) is np.ndarray and values.dtype == self.dtype:  # the usual case in a control loop, made fast
            return values.copy()
        refuse_masked(self.name, values)
        try:
            array = np.array(values)
        except ValueError as error:
            raise InputError(
                f"{self.name} is not an array ({error}); give an array, or lists of equal length"
            ) from error
        if array.dtype.kind not in ("iu" if self.dtype is np.int64 else "fiub"):
            cause = "a label is the index of a class" if self.dtype is np.int64 else "give numbers or booleans"
            raise InputError(f"{self.name} has dtype {array.dtype}, but {self.dtype.__name__} is wanted; {cause}")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite here, as it does in the network
            return array.astype(self.dtype, copy=False)

    def _wanted(self) -> str:
        return f"{self.size} numbers ({' + '.join(f'{name} {size}' for name, size in self._parts)})"


class Vectors(NamedTuple):
    """The converters for all vectors of a network."""

    x: Vector
    action: Vector
    y: Vector
    """The target output of a sample: fields like those of an action, or one label."""

    @classmethod
    def of(cls, inputs: tuple[Field, ...], outputs: tuple[Field, ...], loss: Loss) -> Self:
        """Make the converters from a manifest's fields and loss."""
        action = Vector("the action", outputs)
        label = Field(name="label", shape=(1,), unit="1", low=0, high=action.size)
        y = Vector("y", (label,), np.int64) if loss == "cross_entropy" else Vector("y", outputs)
        return cls(Vector("the observation", inputs), action, y)


def json_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of an object with these properties: name to the schema of the value."""
    return {"type": "object", "properties": dict(properties)}
