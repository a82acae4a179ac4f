"""The messages of a recording and their JSON schemas. The file is MCAP, so every MCAP tool can show them.

A file has these channels. `msr_runtime.recording.recorder` writes them and `msr_runtime.recording.reader` reads them:

* `/policy_metadata`, always the first message: the bundle's digest and manifest. No other file is needed to read the
  recording;
* `/observation` and `/action`: input and output of the network. The two messages of a tick carry the same stamp;
* `/sample`: an input and its target output, observed by the robot;
* `/adaptation`: a change of the weights: the filter parameters after it and the support set that caused it;
* `/online`: a report of the online adapter;
* `/loop`: a report of the control loop;
* `/recorder`: number of messages written and dropped so far, per channel.

A message holds one list of numbers per field, under the field's name and in C order. The schemas state shapes and
units. Each number is the shortest decimal that reads back as the same float64, so no float32 changes. NaN and infinite
values are the strings NaN, Infinity and -Infinity, because JSON has no such numbers. Stamps are in ns since 1970.
"""

import dataclasses
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict

from msr_runtime.adaptation.report import OnlineReport
from msr_runtime.control.report import LoopReport
from msr_runtime.recording.vectors import Values, Vectors, json_object
from msr_runtime.task import Field, Loss

RECORDING_VERSION = 3
"""Version of the messages. Version 2 added the kind `swap` and the entry `pending` to `/adaptation`; version 3 the
kinds `update`, `hold` and `release`, the entries `elapsed` and `inflate`, and the channel `/online`."""
READ_VERSIONS = (1, 2, 3)
"""The versions that `Recording.open` reads."""
METADATA, OBSERVATION, ACTION = "/policy_metadata", "/observation", "/action"
SAMPLE, ADAPTATION, LOOP, RECORDER = "/sample", "/adaptation", "/loop", "/recorder"
ONLINE = "/online"
TOPICS = (OBSERVATION, ACTION, SAMPLE, ADAPTATION, ONLINE, LOOP)
"""What a robot's program records: the topics whose messages are counted."""


class _Message(BaseModel):
    # pydantic ignores unknown keys by default, so fields that a newer runtime added do no harm
    model_config = ConfigDict(frozen=True)


class _ManifestPart(_Message):
    """The part of a manifest that is needed to read a recording.

    It is not `Manifest`, so that a recording stays readable when the format version of bundles changes.
    """

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    loss: Loss
    rate_hz: float | None = None


class Policy(_Message):
    """The message of `/policy_metadata`: which bundle was recorded."""

    recording_version: int
    bundle: str
    """The bundle's digest."""
    manifest: _ManifestPart


class Pair(_Message):
    """One sample: an input and its target output."""

    x: Values
    """The fields of the input."""
    y: Values
    """The fields of the output, or the one field `label` for a classifier."""


class Adaptation(_Message):
    """One message of `/adaptation`."""

    kind: Literal["adapt", "update", "swap", "reset", "load", "hold", "release"]
    """Cause of the change: a support set, one sample, a new task, or the file of an earlier adaptation. `hold`: v0 acts
    although the model goes on learning, because adapting hurts; `release`: what it has learned acts again. `swap` says
    that the weights of the message before it act by now."""
    v: list[float] = []
    """The filter parameters that act after this message, `(K,)`; empty for an update, whose replay gives them, and for
    a reset, after which v0 acts."""
    elapsed: float = 0.0
    """Of an update: the time since the one before, in s."""
    inflate: float | None = None
    """Of a reset: the factor by which the model is less sure of what it learned. None: v0 acts."""
    accepted: bool = True
    """Whether the adapted weights act. If not, the previous weights remain."""
    pending: bool = False
    """Whether the adapted weights do not act yet. They begin to act between this message and the next `swap`."""
    reason: str = ""
    """Why the adaptation was refused; empty if it was accepted."""
    start: Literal["v0", "accepted"] = "v0"
    """Filter parameters with which the inner loop began: v0, or those accepted last."""
    steps: int = 0
    """Inner steps."""
    loss_before: float = float("nan")
    """Support loss before the first inner step."""
    loss_after: float = float("nan")
    """Support loss after the last inner step."""
    seconds: float = float("nan")
    """Duration of the adaptation, in s."""
    support: list[Pair] = []
    """The support set, one pair per shot."""
    file: str = ""
    """Content of the loaded file in base64; empty unless `kind` is `load`."""


class Counts(_Message):
    """One message of `/recorder`: number of messages per topic. Topics are named without their slash."""

    written: dict[str, int]
    dropped: dict[str, int]


def schemas(vectors: Vectors) -> dict[str, dict[str, Any]]:
    """JSON schema of each topic's messages. No array contains arrays, because common viewers cannot show them."""
    number, integer, text, flag = ({"type": kind} for kind in ("number", "integer", "string", "boolean"))
    seconds = {"type": "number", "unit": "s"}
    pair = json_object({"x": vectors.x.schema(), "y": vectors.y.schema()})
    adaptation = {
        "kind": text,
        "v": {"type": "array", "items": number},
        "elapsed": seconds,
        "inflate": number,
        "accepted": flag,
        "pending": flag,
        "reason": text,
        "start": text,
        "steps": integer,
        "loss_before": number,
        "loss_after": number,
        "held_out": json_object({"before": number, "after": number, "worse": flag}),
        "seconds": seconds,
        "support": {"type": "array", "items": pair},
        "file": {"type": "string", "contentEncoding": "base64"},
    }
    counts = json_object({topic.lstrip("/"): integer for topic in TOPICS})
    return {
        METADATA: json_object({"recording_version": integer, "bundle": text, "manifest": json_object({})}),
        OBSERVATION: vectors.x.schema(),
        ACTION: vectors.action.schema(),
        SAMPLE: pair,
        ADAPTATION: json_object(adaptation),
        ONLINE: {"description": "times in s, errors on normalized outputs"} | _schema(OnlineReport),
        LOOP: {"description": "times in s, rates in Hz"} | _schema(LoopReport),
        RECORDER: json_object({"written": counts, "dropped": counts}),
    }


def to_plain(value: Any) -> Any:
    """A report as nested dicts. Reports are made of dataclasses, named tuples and plain values; None is left out."""
    if dataclasses.is_dataclass(value):
        parts = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_plain(part) for name, part in parts if part is not None}
    if names := getattr(value, "_fields", None):
        return {name: to_plain(part) for name, part in zip(names, value, strict=True)}
    return value


def _schema(kind: Any) -> dict[str, Any]:
    """JSON schema of `to_plain(value)` for a value of type `kind`."""
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"type": "string"}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _schema(get_args(kind)[1])}
    if get_origin(kind) is UnionType:  # of something and None, which is left out
        return _schema(get_args(kind)[0])
    return json_object({name: _schema(part) for name, part in get_type_hints(kind).items()})


_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}
