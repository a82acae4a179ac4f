"""The messages of a recording: what a robot saw, did and learned, as JSON in an MCAP file that any MCAP tool can show.

Every file has these channels; `msr_runtime.recorder` writes them, `msr_runtime.recording` reads them:

* `/policy_metadata`, first: the bundle's digest and manifest, so that the file explains itself;
* `/observation` and `/action`: what went into the network and what came out. Of one tick both carry the same stamp;
* `/sample`: an input with the output that it should have had, as the robot learned it;
* `/adaptation`: what the weights became, and the support set that they were adapted to;
* `/loop`: the control loop's figures;
* `/recorder`: how many messages were written and how many were dropped so far.

A message holds each field by its name, as a list of its numbers in C order; the schemas give shapes and units. The
numbers are written as the shortest decimals that read back as the same float64, so that no float32 changes. One that is
not finite is the string NaN, Infinity or -Infinity, because JSON has no such number. Stamps are in ns since 1970.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from msr_runtime.errors import InputError
from msr_runtime.task import Field, Loss, width
from msr_runtime.timing import LoopReport

RECORDING_VERSION = 1
METADATA, OBSERVATION, ACTION = "/policy_metadata", "/observation", "/action"
SAMPLE, ADAPTATION, LOOP, RECORDER = "/sample", "/adaptation", "/loop", "/recorder"
Values = dict[str, list[float]]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)  # what a newer version added is passed over


class _Described(_Read):
    """The part of a manifest that a recording cannot be read without; a manifest of another version has it too."""

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    loss: Loss
    rate_hz: float | None = None


class Policy(_Read):
    """What `/policy_metadata` says of the bundle that was recorded."""

    recording_version: int
    bundle: str
    """Its digest."""
    manifest: _Described


class Pair(_Read):
    """One sample: fields of the input, and fields of the output or `label`."""

    x: Values
    y: Values


class Adaptation(_Read):
    """One message of `/adaptation`."""

    kind: Literal["adapt", "reset", "load"]
    """What changed the weights: samples, a return to v0, or the file of an earlier adaptation."""
    v: list[float] = []
    """The filter parameters that act from here on, `(K,)`; left out of a reset."""
    accepted: bool = True
    """Whether the adapted weights act; if not, the weights from before act on."""
    reason: str = ""
    """Why they do not."""
    start: Literal["v0", "accepted"] = "v0"
    """Where the inner loop began."""
    steps: int = 0
    loss_before: float = float("nan")
    loss_after: float = float("nan")
    seconds: float = float("nan")
    support: list[Pair] = []
    file: str = ""
    """The adaptation's file, base64, where it was loaded."""


class Counts(_Read):
    """One message of `/recorder`: messages by topic, without its slash."""

    written: dict[str, int]
    dropped: dict[str, int]


class Vector:
    """One side of a network, or a label, as arrays and as messages hold it."""

    def __init__(self, name: str, fields: tuple[Field, ...], dtype: type = np.float32) -> None:
        """Name the side in errors, and say which fields it consists of."""
        self.name, self.fields, self.dtype, self.size = name, fields, dtype, width(fields)
        self._parts = [(field.name, field.size) for field in fields]

    def copy(self, values: ArrayLike) -> NDArray:
        """A flat copy `(size,)` of one sample.

        Raises:
            InputError: If it holds another number of values.
        """
        array = self._numbers(values).reshape(-1)
        if array.size != self.size:
            raise InputError(
                f"{self.name} has shape {np.shape(values)}, but {self._wanted()} are wanted, of one sample"
            )
        return array

    def copy_batch(self, values: ArrayLike) -> NDArray:
        """A copy `(samples, size)` of several samples.

        Raises:
            InputError: If a sample holds another number of values.
        """
        array = self._numbers(values)
        if array.ndim < 1 or array.size != len(array) * self.size:
            raise InputError(f"{self.name} has shape {array.shape}, but {self._wanted()} are wanted of each sample")
        return array.reshape(-1, self.size)

    def to_message(self, row: NDArray) -> Values:
        """A flat sample `(size,)` by fields."""
        numbers, message, begin = row.tolist(), {}, 0
        for name, size in self._parts:
            message[name] = numbers[begin : begin + size]
            begin += size
        return message

    def from_message(self, values: Mapping[str, list[float]], where: str) -> NDArray:
        """The flat sample `(size,)` that a message holds; `where` names the message in errors.

        Raises:
            InputError: If its fields are others, or have other sizes.
        """
        if (seen := {name: len(numbers) for name, numbers in values.items()}) != dict(self._parts):
            raise InputError(f"{where} has the fields {seen} with their sizes, but {dict(self._parts)} are wanted")
        with np.errstate(over="ignore", invalid="ignore"):  # what no float32 or label was is told by its value
            return np.array([number for name, _ in self._parts for number in values[name]]).astype(self.dtype)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of its messages."""
        return _object(
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
        if type(values) is np.ndarray and values.dtype == self.dtype:  # a control loop's own: nothing to find out
            return values.copy()
        try:
            array = np.array(values)
        except ValueError as error:
            raise InputError(f"{self.name} is not an array ({error})") from error
        if array.dtype.kind not in ("iu" if self.dtype is np.int64 else "fiub"):
            raise InputError(f"{self.name} has dtype {array.dtype}, but {self.dtype.__name__} is wanted")
        with np.errstate(over="ignore"):  # what does not fit is recorded as the infinity that the network would see
            return array.astype(self.dtype, copy=False)

    def _wanted(self) -> str:
        return f"{self.size} numbers ({' + '.join(f'{name} {size}' for name, size in self._parts)})"


class Vectors(NamedTuple):
    """Everything of a network that messages hold."""

    x: Vector
    action: Vector
    y: Vector
    """What a sample should have given: like an action, or a label."""

    @classmethod
    def of(cls, inputs: tuple[Field, ...], outputs: tuple[Field, ...], loss: Loss) -> Self:
        """From a manifest's fields and loss."""
        action = Vector("the action", outputs)
        label = Field(name="label", shape=(1,), unit="1", low=0, high=action.size)
        y = Vector("y", (label,), np.int64) if loss == "cross_entropy" else Vector("y", outputs)
        return cls(Vector("the observation", inputs), action, y)


def schemas(vectors: Vectors) -> dict[str, dict[str, Any]]:
    """Topic to the JSON schema of its messages. No array holds arrays: viewers do not show those."""
    number, integer, text, flag = ({"type": kind} for kind in ("number", "integer", "string", "boolean"))
    seconds = {"type": "number", "unit": "s"}
    pair = _object({"x": vectors.x.schema(), "y": vectors.y.schema()})
    adaptation = {
        "kind": text,
        "v": {"type": "array", "items": number},
        "accepted": flag,
        "reason": text,
        "start": text,
        "steps": integer,
        "loss_before": number,
        "loss_after": number,
        "held_out": _object({"before": number, "after": number}),
        "seconds": seconds,
        "support": {"type": "array", "items": pair},
        "file": {"type": "string", "contentEncoding": "base64"},
    }
    counts = _object({topic.lstrip("/"): integer for topic in (OBSERVATION, ACTION, SAMPLE, ADAPTATION, LOOP)})
    return {
        METADATA: _object({"recording_version": integer, "bundle": text, "manifest": _object({})}),
        OBSERVATION: vectors.x.schema(),
        ACTION: vectors.action.schema(),
        SAMPLE: pair,
        ADAPTATION: _object(adaptation),
        LOOP: {"description": "times in s, rates in Hz"} | _schema(LoopReport),
        RECORDER: _object({"written": counts, "dropped": counts}),
    }


def to_plain(value: Any) -> Any:
    """A report, made of dataclasses and named tuples, as dicts."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if names := getattr(value, "_fields", None):
        return {name: to_plain(part) for name, part in zip(names, value, strict=True)}
    return value


def _schema(kind: type) -> dict[str, Any]:
    """The schema of what `to_plain` makes of a `kind`."""
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    return _object({name: _schema(part) for name, part in get_type_hints(kind).items()})


_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties)}
