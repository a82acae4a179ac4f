"""Recording: reads an MCAP file that a Recorder wrote."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, RootModel, ValidationError

from msr_runtime.errors import InputError
from msr_runtime.recording._mcap import (
    Channel,
    Chunk,
    EndOfFile,
    Footer,
    McapRecord,
    Message,
    RecordLengthLimitExceeded,
    StreamReader,
)
from msr_runtime.recording.messages import (
    METADATA,
    OBSERVATION,
    READ_VERSIONS,
    RECORDER,
    RECORDING_VERSION,
    Adaptation,
    Counts,
    Pair,
    Policy,
)
from msr_runtime.recording.unpack import unpack_chunk
from msr_runtime.recording.vectors import Values, Vectors

Parsed = TypeVar("Parsed", bound=BaseModel)


class Event(NamedTuple):
    """One message as stored in the file, not parsed yet."""

    topic: str
    stamp: int
    """Nanoseconds since 1970."""
    data: bytes
    """JSON."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """An opened recording. Opening reads the first message only; the other methods read the file when they are called.

    Example:
        >>> from msr_runtime import Bundle, Recorder, Recording
        >>> with Recorder(folder / "flight.mcap", Bundle.open(bundle)) as recorder:
        ...     stamp = recorder.observation([0.0] * 18)
        >>> recording = Recording.open(folder / "flight.mcap")
        >>> [recording.vector(event).shape for event in recording.events("/observation")]
        [(18,)]
    """

    path: Path
    policy: Policy
    """The bundle that was recorded."""
    vectors: Vectors
    """Converts its messages to arrays."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a recording.

        Args:
            path: The file that a Recorder wrote.

        Raises:
            InputError: If the file does not exist, is not a recording, or has none of the `READ_VERSIONS`.
        """
        path = Path(path)
        topics: set[str] = set()
        for event in _events(path):
            if event.topic == METADATA:
                policy = _parse(Policy, event, path)
                if (version := policy.recording_version) not in READ_VERSIONS:
                    age = "a newer" if version > RECORDING_VERSION else "an older"
                    raise InputError(
                        f"recording '{path}' has version {version}, but this runtime reads {READ_VERSIONS[0]} to "
                        f"{READ_VERSIONS[-1]}; it was written by {age} msr-runtime: read it with that version"
                    )
                manifest = policy.manifest
                return cls(path, policy, Vectors.of(manifest.inputs, manifest.outputs, manifest.loss))
            topics.add(event.topic)
        raise InputError(
            f"recording '{path}' holds no {METADATA}, but {', '.join(sorted(topics)) or 'no message'}; another program "
            "than msr_runtime.Recorder wrote it, or it was cut short before anything reached the disk"
        )

    def events(self, *topics: str) -> Iterator[Event]:
        """Yield the messages of `topics` in the order in which they were written.

        If the writing process was killed, the messages end with the last complete chunk of the file; `finished` is
        False then.

        Args:
            topics: Names of channels with their slash, as in `msr_runtime.recording.messages`.

        Raises:
            InputError: If the file is damaged.
        """
        return (event for event in _events(self.path) if event.topic in topics)

    def finished(self) -> bool:
        """Whether the recorder closed the file. False means that the file was cut short."""
        return any(isinstance(record, Footer) for record in _records(self.path, unpack=False))

    def dropped(self) -> dict[str, int]:
        """Count the messages that the recorder dropped, per topic. Topics without a dropped message are left out.

        Returns:
            Topic without its slash to number of messages, as of the last message of `/recorder`.

        Raises:
            InputError: If the file is damaged.
        """
        counts: dict[str, int] = {}
        for event in self.events(RECORDER):  # each message holds the totals so far, so the last one counts
            counts = _parse(Counts, event, self.path).dropped
        return {topic: count for topic, count in counts.items() if count}

    def vector(self, event: Event) -> NDArray[np.float32]:
        """Read an observation or an action, float32 `(size,)`.

        Raises:
            InputError: If the message is malformed or its fields differ from the manifest's.
        """
        side = self.vectors.x if event.topic == OBSERVATION else self.vectors.action
        return side.from_message(_parse(_Values, event, self.path).root, _where(event, self.path))

    def pair(self, event: Event) -> tuple[NDArray, NDArray]:
        """Read a sample: float32 x `(size,)` and y `(size,)`, or an int64 label y `(1,)`.

        Raises:
            InputError: If the message is malformed or its fields differ from the manifest's.
        """
        return self._pair(_parse(Pair, event, self.path), event)

    def adaptation(self, event: Event) -> Adaptation:
        """Read a message of `/adaptation`.

        Raises:
            InputError: If the message is malformed.
        """
        return _parse(Adaptation, event, self.path)

    def support(self, adaptation: Adaptation, event: Event) -> tuple[NDArray, NDArray]:
        """Read the support set of an adaptation: x `(shots, size)` and y `(shots, size)`, or labels y `(shots, 1)`.

        Args:
            adaptation: What `adaptation(event)` returned.
            event: The message, which errors name.

        Raises:
            InputError: If the support set is empty or its fields differ from the manifest's.
        """
        if not adaptation.support:
            raise InputError(
                f"{_where(event, self.path)} holds no support set, but at least one shot is wanted; another program "
                "wrote this message"
            )
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
            f"{_where(event, path)} is malformed at {place}: {first['msg']}; another program wrote this message"
        ) from error


def _events(path: Path) -> Iterator[Event]:
    topics: dict[int, str] = {}
    for record in _records(path):
        if isinstance(record, Channel):
            topics[record.id] = record.topic
        elif isinstance(record, Message):
            if record.channel_id not in topics:
                raise InputError(
                    f"recording '{path}' is damaged: a message belongs to channel {record.channel_id}, which the file "
                    "does not declare; copy the file from the robot again"
                )
            yield Event(topics[record.channel_id], record.log_time, record.data)


def _records(path: Path, unpack: bool = True) -> Iterator[McapRecord]:
    """Yield the records up to the end of the file, or up to the last complete one if the file was cut short.

    Without `unpack`, a chunk is one record.
    """
    try:
        with path.open("rb") as file:
            # A record that claims to be larger than the file was cut short. With this limit mcap says so, instead of
            # allocating the claimed size.
            size = path.stat().st_size
            stream = cast("BinaryIO", _WholeReads(file))
            for record in StreamReader(stream, emit_chunks=True, validate_crcs=True, record_size_limit=size).records:
                if unpack and isinstance(record, Chunk):
                    yield from unpack_chunk(record)
                else:
                    yield record
    except (EndOfFile, RecordLengthLimitExceeded):
        return
    except OSError as error:
        raise InputError(f"recording '{path}' cannot be read ({error})") from error
    except Exception as error:  # a damaged file makes mcap, its decompressor or struct raise errors of many types
        raise InputError(
            f"recording '{path}' cannot be read as an MCAP file ({type(error).__name__}: {error}); the file is damaged "
            "or is not an MCAP file"
        ) from error


class _WholeReads:
    """A file whose `read` returns all bytes that were asked for, or raises EndOfFile.

    mcap reports half a record as damage. At the end of a file that was cut short, half a record is normal.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EndOfFile
        return data
