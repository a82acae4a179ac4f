"""Recording: an MCAP file that a Recorder wrote, opened for reading."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, RootModel, ValidationError

from msr_runtime._mcap import Channel, EndOfFile, Footer, McapRecord, Message, RecordLengthLimitExceeded, StreamReader
from msr_runtime.errors import InputError
from msr_runtime.messages import (
    METADATA,
    OBSERVATION,
    RECORDER,
    RECORDING_VERSION,
    Adaptation,
    Counts,
    Pair,
    Policy,
    Values,
    Vectors,
)

Parsed = TypeVar("Parsed", bound=BaseModel)


class Event(NamedTuple):
    """One message, as it lies in the file."""

    topic: str
    stamp: int
    """Nanoseconds since 1970."""
    data: bytes


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording that was opened: its first message was read, the others are read as they are asked for."""

    path: Path
    policy: Policy
    vectors: Vectors

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a recording.

        Raises:
            InputError: If there is none, or it is no recording of this version.
        """
        path = Path(path)
        topics: set[str] = set()
        for event in _events(path):
            if event.topic == METADATA:
                policy = _parse(Policy, event, path)
                if (version := policy.recording_version) != RECORDING_VERSION:
                    raise InputError(
                        f"recording '{path}' has version {version}, but this runtime reads {RECORDING_VERSION}; it was "
                        f"written by {'a newer' if version > RECORDING_VERSION else 'an older'} msr-runtime"
                    )
                manifest = policy.manifest
                return cls(path, policy, Vectors.of(manifest.inputs, manifest.outputs, manifest.loss))
            topics.add(event.topic)
        raise InputError(
            f"recording '{path}' holds no {METADATA}, but {', '.join(sorted(topics)) or 'no message'}; it was written "
            "by something else than msr_runtime.recorder, or cut short before anything reached the disk"
        )

    def events(self, *topics: str) -> Iterator[Event]:
        """The messages of `topics` in the order in which they were written, as far as the file goes.

        A file whose writer was killed ends with its last whole chunk; `finished` tells.

        Raises:
            InputError: If the file is damaged.
        """
        return (event for event in _events(self.path) if event.topic in topics)

    def finished(self) -> bool:
        """Whether the file was closed, rather than cut short."""
        return any(isinstance(record, Footer) for record in _records(self.path, emit_chunks=True))

    def dropped(self) -> dict[str, int]:
        """How many messages of each topic, without its slash, are known to be missing; only topics with some.

        Raises:
            InputError: If the file is damaged.
        """
        counts: dict[str, int] = {}
        for event in self.events(RECORDER):
            counts = _parse(Counts, event, self.path).dropped
        return {topic: count for topic, count in counts.items() if count}

    def vector(self, event: Event) -> NDArray[np.float32]:
        """The numbers of an observation or action, `(size,)`.

        Raises:
            InputError: If the message holds others than the manifest's fields.
        """
        side = self.vectors.x if event.topic == OBSERVATION else self.vectors.action
        return side.from_message(_parse(_Values, event, self.path).root, _where(event, self.path))

    def pair(self, event: Event) -> tuple[NDArray, NDArray]:
        """The x `(size,)` and y `(size,)` of a sample; y is `(1,)` for a label.

        Raises:
            InputError: If the message holds others than the manifest's fields.
        """
        return self._pair(_parse(Pair, event, self.path), event)

    def adaptation(self, event: Event) -> Adaptation:
        """What a message of `/adaptation` says.

        Raises:
            InputError: If it is none.
        """
        return _parse(Adaptation, event, self.path)

    def support(self, adaptation: Adaptation, event: Event) -> tuple[NDArray, NDArray]:
        """The support set of an adaptation: x `(shots, size)` and y `(shots, size)`, or labels `(shots, 1)`.

        Raises:
            InputError: If it is empty, or holds others than the manifest's fields.
        """
        if not adaptation.support:
            raise InputError(f"{_where(event, self.path)} holds no support set")
        x, y = zip(*(self._pair(pair, event) for pair in adaptation.support), strict=True)
        return np.stack(x), np.stack(y)

    def _pair(self, pair: Pair, event: Event) -> tuple[NDArray, NDArray]:
        where = _where(event, self.path)
        return self.vectors.x.from_message(pair.x, where), self.vectors.y.from_message(pair.y, where)


class _Values(RootModel[Values]):
    pass


def _where(event: Event, path: Path) -> str:
    return f"recording '{path}': the message of {event.topic} stamped {event.stamp}"


def _parse(kind: type[Parsed], event: Event, path: Path) -> Parsed:
    try:
        return kind.model_validate_json(event.data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole message"
        raise InputError(
            f"{_where(event, path)} is malformed at {place}: {first['msg']}; another program wrote this channel"
        ) from error


def _events(path: Path) -> Iterator[Event]:
    topics: dict[int, str] = {}
    for record in _records(path):
        if isinstance(record, Channel):
            topics[record.id] = record.topic
        elif isinstance(record, Message):
            if record.channel_id not in topics:
                raise InputError(
                    f"recording '{path}' is damaged: a message names channel {record.channel_id}, which it lacks"
                )
            yield Event(topics[record.channel_id], record.log_time, record.data)


def _records(path: Path, emit_chunks: bool = False) -> Iterator[McapRecord]:
    """Every record up to the end, or up to where a file that was cut short ends."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size  # a record that claims more than that was cut short too
            stream = cast("BinaryIO", _Whole(file))
            yield from StreamReader(stream, emit_chunks=emit_chunks, validate_crcs=True, record_size_limit=size).records
    except (EndOfFile, RecordLengthLimitExceeded):
        return
    except OSError as error:
        raise InputError(f"recording '{path}' cannot be read ({error})") from error
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise InputError(
            f"recording '{path}' cannot be read as an MCAP file ({type(error).__name__}: {error}); it is damaged or of "
            "another kind"
        ) from error


class _Whole:
    """A file that gives all that was asked for, or ends: the reader would take half a record for a damaged one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EndOfFile
        return data
