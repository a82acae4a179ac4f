"""RecordingWriter: a queue of messages and the thread that writes them to an MCAP file."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import InputError
from msr_runtime.files import sync_folder
from msr_runtime.recording._mcap import Writer
from msr_runtime.recording.messages import (
    ADAPTATION,
    METADATA,
    RECORDER,
    RECORDING_VERSION,
    TOPICS,
    schemas,
)
from msr_runtime.recording.vectors import Vectors

_PAUSE = 0.02
"""Seconds between two looks into the queue. `put` does not wake the thread, because a woken thread takes the
interpreter lock just when a tick has released it to run its network. The tick would then wait to get it back."""
_FLUSH = 1.0
"""Seconds between two writes to the disk. If the process is killed or the power fails, the messages since the last
write are lost."""
_TURN = 4
"""Messages (about 0.1 ms of work) after which the thread offers the interpreter lock to a tick that waits for it. With
fewer, the thread falls behind when another thread is busy, because it gives up its turn too often."""
_LOGGER = logging.getLogger(__name__)


class _Channel:
    """The counters of one topic.

    No lock is needed, because each counter has one writing thread: the thread that records this topic changes `offered`
    and `dropped`, and the writer thread changes `taken` and `written`.
    """

    def __init__(self, topic: str, limit: int) -> None:
        self.topic, self.limit = topic, limit
        self.offered = self.dropped = self.taken = self.written = 0
        self.id = 0


class RecordingWriter:
    """Writes one recording. `put` hands over a message and returns at once; a thread makes JSON of it and writes it."""

    def __init__(self, path: Path, bundle: Bundle, vectors: Vectors, queue: int) -> None:
        """Create the file, write its first message and start the thread.

        Args:
            path: The file.
            bundle: The bundle that `/policy_metadata` describes.
            vectors: The converters whose schemas the file states.
            queue: Number of messages that may wait. While the queue is full, `put` drops messages; only messages of
                `/adaptation` may fill it to twice this number.

        Raises:
            InputError: If the file exists.
            OSError: If the file cannot be created or written.
        """
        self._channels = {topic: _Channel(topic, 2 * queue if topic == ADAPTATION else queue) for topic in TOPICS}
        # append and popleft of a deque are atomic, so the recording threads and the writer thread need no lock
        self._queue: deque[tuple[_Channel, int, int, int, Callable[[], Any]]] = deque()
        # time.time_ns can jump when the clock is set: read it once, and count on with the monotonic clock
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._closing = threading.Event()
        self._path, self._size = path, 0
        self.error: str | None = None
        """What ended the recording before `close`; None if nothing did."""
        try:
            self._file = path.open("xb")
        except FileExistsError as error:
            raise InputError(
                f"recording '{path}' exists, and a recorder never overwrites a file; give another path"
            ) from error
        self._writer = Writer(self._file)
        try:
            self._begin(bundle, vectors)
        except BaseException:  # a full disk, for example
            with contextlib.suppress(OSError):  # what is in its buffer cannot be written either
                self._file.close()
            path.unlink(missing_ok=True)  # else the next try would find that the file exists
            raise
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Return the present time in ns since 1970. It never jumps, even if the system's clock is set."""
        return self._epoch + time.monotonic_ns()

    def put(self, topic: str, stamp: int, message: Callable[[], Any]) -> None:
        """Put a message into the queue, or drop it if the queue is full or the recording has ended.

        Args:
            topic: The channel.
            stamp: Time of the message, in ns since 1970.
            message: Returns the content. The writer thread calls it, so that the conversion costs the caller nothing;
                it must hold copies of the caller's arrays.
        """
        channel = self._channels[topic]
        number = channel.offered
        channel.offered += 1
        if len(self._queue) >= channel.limit or self.error is not None or self._closing.is_set():
            channel.dropped += 1
        else:
            self._queue.append((channel, number, stamp, self.now(), message))

    def counts(self) -> tuple[int, int]:
        """Return how many messages are on the disk, and how many never will be."""
        channels = self._channels.values()
        # After the end nothing more is written, so every message that is not on the disk is lost. This includes
        # messages that were put into the queue after the thread emptied it for the last time.
        ended = self.error is not None or not self._thread.is_alive()
        dropped = sum(channel.offered - channel.written if ended else channel.dropped for channel in channels)
        return sum(channel.written for channel in channels), dropped

    def close(self) -> None:
        """Write the waiting messages and finish the file. Closing again does nothing."""
        self._closing.set()
        self._thread.join()

    def _begin(self, bundle: Bundle, vectors: Vectors) -> None:
        """Write the head of the file, its channels and `/policy_metadata`, and wait until they are on the disk."""
        self._writer.start()
        ids = {}
        for topic, schema in schemas(vectors).items():
            name = "msr." + topic.lstrip("/").title().replace("_", "")
            ids[topic] = self._writer.register_channel(
                topic, "json", self._writer.register_schema(name, "jsonschema", to_json({"title": name} | schema))
            )
        for topic, channel in self._channels.items():
            channel.id = ids[topic]
        self._counts_id = ids[RECORDER]
        manifest = bundle.manifest.model_dump(mode="json")
        policy = {"recording_version": RECORDING_VERSION, "bundle": bundle.digest, "manifest": manifest}
        self._add(ids[METADATA], 0, self.now(), self.now(), policy)
        self._flush()
        sync_folder(self._path.resolve().parent)  # a new file survives a power failure only if its folder is synced too

    def _run(self) -> None:
        try:
            with self._file:
                due, closing = time.monotonic() + _FLUSH, False
                while not closing:
                    # Read the flag before the queue is emptied: what was put before `close` is written.
                    closing = self._closing.wait(_PAUSE)
                    self._drain()
                    if closing or time.monotonic() >= due:
                        self._flush()
                        due = time.monotonic() + _FLUSH
                self._writer.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._require_whole()
        except Exception as error:  # noqa: BLE001 - a full disk, for example: `report` tells it, and the robot acts on
            self.error = f"{type(error).__name__}: {error}"
            _LOGGER.error(  # noqa: TRY400 - the sentence is enough; a traceback would not help on a robot
                "recording '%s' ended early: %s; the robot continues, and further messages are dropped",
                self._path,
                self.error,
            )

    def _require_whole(self) -> None:
        """Notice a file that was deleted or cut: what is written to it takes room on the disk and cannot be read."""
        status = os.fstat(self._file.fileno())
        if status.st_nlink and status.st_size >= self._size:
            return
        for channel in self._channels.values():
            channel.written = 0
        raise FileNotFoundError(f"'{self._path}' was {'cut' if status.st_nlink else 'deleted'} while it was written")

    def _drain(self) -> None:
        """Write all messages in the queue to the chunk in memory."""
        taken = 0
        while self._queue:
            channel, number, stamp, published, message = self._queue.popleft()
            self._add(channel.id, number, stamp, published, message())
            channel.taken += 1
            taken += 1
            if taken % _TURN == 0:
                time.sleep(0)  # releases the interpreter lock: a waiting tick runs now, not a switch interval later

    def _add(self, channel: int, number: int, stamp: int, published: int, message: Any) -> None:
        data = to_json(message, inf_nan_mode="strings")
        self._writer.add_message(channel, stamp, data, published, number)

    def _flush(self) -> None:
        """Compress the chunk, write it and wait for the disk."""
        taken = {channel.topic.lstrip("/"): channel.taken for channel in self._channels.values()}
        dropped = {channel.topic.lstrip("/"): channel.dropped for channel in self._channels.values()}
        now = self.now()
        self._add(self._counts_id, 0, now, now, {"written": taken, "dropped": dropped})
        self._require_whole()  # before the write too: it would fill the place of what was cut with zeros
        self._writer.flush()
        os.fsync(self._file.fileno())
        self._require_whole()
        self._size = self._file.tell()
        # only now: a message in a chunk that did not reach the disk does not count as written
        for channel in self._channels.values():
            channel.written = channel.taken
