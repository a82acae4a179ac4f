"""Recorder: what a robot sees, does and learns, written to an MCAP file beside the control loop and never in it.

The methods copy a few numbers into a queue in memory, in some microseconds, and return. A thread of the recorder's own
makes messages of them (see `msr_runtime.messages`), compresses them and writes them. Where it cannot keep up, messages
are dropped and counted; a disk that fails ends the recording and not the loop.
"""

import base64
import dataclasses
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic_core import to_json

from msr_runtime._mcap import Writer
from msr_runtime.bundle import Bundle
from msr_runtime.errors import InputError
from msr_runtime.files import sync_folder
from msr_runtime.messages import (
    ACTION,
    ADAPTATION,
    LOOP,
    METADATA,
    OBSERVATION,
    RECORDER,
    RECORDING_VERSION,
    SAMPLE,
    Vectors,
    schemas,
    to_plain,
)
from msr_runtime.model import AdaptiveModel, AdaptResult, Start
from msr_runtime.timing import LoopReport

_PAUSE = 0.02
"""Seconds between two looks into the queue. Nobody is woken by a message: the thread would take the interpreter's lock
just when a tick has given it up for its network."""
_FLUSH = 1.0
"""Seconds between two writes to the disk: what a lost process or a lost supply can take with it."""
_TURN = 4
"""Messages between two moments at which a tick that is due may go first: some 0.1 ms. Fewer would cost the thread its
turn too often where another thread is busy."""
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RecorderReport:
    """What became of the messages that a recorder was given."""

    path: Path
    written: int
    """Messages that are on the disk."""
    dropped: int
    """Messages that never will be, because the queue was full or the recording had ended."""
    error: str | None
    """What ended the recording before it was closed; None if nothing did."""

    def __str__(self) -> str:
        ended = f"; ended early: {self.error}" if self.error else ""
        return f"{self.path}: {self.written} messages written, {self.dropped} dropped{ended}"


class _Channel:
    """One topic. `offered` and `dropped` are changed by the one thread that records it, the rest by the writer."""

    def __init__(self, topic: str, limit: int) -> None:
        self.topic, self.limit = topic, limit
        self.offered = self.dropped = self.taken = self.written = 0
        self.id = 0


class Recorder:
    """Records one run of a robot: `with Recorder("flight.mcap", model) as recorder: ...`.

    Each method may be called from one thread at a time, and different ones from different threads. None of them waits
    for the disk or for another thread. Stamps are nanoseconds since 1970, by the clock at the start and the monotonic
    clock from there on, so that they never jump.
    """

    def __init__(self, path: str | os.PathLike[str], model: AdaptiveModel | Bundle, queue: int = 1024) -> None:
        """Begin a file that says what `model` is and, if it was adapted before, what acts in it.

        Args:
            path: The file, which must not exist yet; by custom it ends in `.mcap`.
            model: What acts. Of a bundle, `v0` acts.
            queue: How many messages may wait for the writer; as many adaptations again may wait beyond that, because
                without one of them no later action can be explained.

        Raises:
            InputError: If the file exists, or `queue` is not at least 1.
            OSError: If the file cannot be made.
        """
        if queue < 1:
            raise InputError(f"queue is {queue}, but room for at least one message is wanted")
        bundle = model if isinstance(model, Bundle) else model.bundle
        manifest = bundle.manifest
        self._vectors = Vectors.of(manifest.inputs, manifest.outputs, manifest.loss)
        self._channels = {
            topic: _Channel(topic, 2 * queue if topic == ADAPTATION else queue)
            for topic in (OBSERVATION, ACTION, SAMPLE, ADAPTATION, LOOP)
        }
        self._queue: deque[tuple[_Channel, int, int, int, Callable[[], Any]]] = deque()
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._stamp: int | None = None
        self._closing = threading.Event()
        self._error: str | None = None
        self._path = Path(path)
        try:
            self._file = self._path.open("xb")
        except FileExistsError as error:
            raise InputError(f"recording '{path}' exists, and none is overwritten; name another file") from error
        self._writer = Writer(self._file)
        try:
            self._begin(bundle)
            if isinstance(model, AdaptiveModel):
                self._record_start(model)
        except BaseException:
            self._file.close()
            raise
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def observation(self, x: ArrayLike, stamp: int | None = None) -> int:
        """Record what the network is about to be given, and begin a tick.

        Args:
            x: One sample, in raw units; it is copied.
            stamp: When it was measured, in ns since 1970; now, if left out.

        Returns:
            The tick's stamp, which `action` and `sample` take if they are given no other.

        Raises:
            InputError: If it has another size than the bundle's inputs.
        """
        row = self._vectors.x.copy(x)
        self._stamp = stamp = self._now() if stamp is None else stamp
        self._put(OBSERVATION, stamp, lambda: self._vectors.x.to_message(row))
        return stamp

    def action(self, action: ArrayLike, stamp: int | None = None) -> None:
        """Record what the network gave for the tick's observation, before any limit of the robot's own.

        Args:
            action: One output, in raw units; it is copied.
            stamp: That of its observation; the latest one's, if left out.

        Raises:
            InputError: If it has another size than the bundle's outputs.
        """
        row = self._vectors.action.copy(action)
        self._put(ACTION, self._tick(stamp), lambda: self._vectors.action.to_message(row))

    def sample(self, x: ArrayLike, y: ArrayLike, stamp: int | None = None) -> None:
        """Record what the robot learned about itself: an input with the output that it should have had.

        Args:
            x: One input, in raw units; it is copied.
            y: The output, in raw units, or a label; it is copied.
            stamp: When it was learned, in ns since 1970; the latest observation's, if left out.

        Raises:
            InputError: If either has another size than the bundle's inputs or outputs.
        """
        pair = self._vectors.x.copy(x), self._vectors.y.copy(y)
        self._put(SAMPLE, self._tick(stamp), lambda: self._pair(*pair))

    def adaptation(
        self,
        support_x: ArrayLike,
        support_y: ArrayLike,
        result: AdaptResult,
        v: ArrayLike,
        start: Start = "v0",
        stamp: int | None = None,
    ) -> None:
        """Record an adaptation, accepted or refused, right after it.

        Args:
            support_x: `(shots, obs)`, in raw units; copied.
            support_y: `(shots, out)`, in raw units, or labels; copied.
            result: What `adapt` returned.
            v: The filter parameters that act now: `model.v`.
            start: Where the inner loop began, as `adapt` was told.
            stamp: When they began to act, in ns since 1970; now, if left out.

        Raises:
            InputError: If the support set does not fit the bundle.
        """
        x, y = self._vectors.x.copy_batch(support_x), self._vectors.y.copy_batch(support_y)
        if len(x) != len(y) or not len(x):
            raise InputError(f"support_x has {len(x)} shots and support_y has {len(y)}, but pairs are wanted")
        acting = np.array(v, np.float32).reshape(-1)

        def message() -> dict[str, Any]:
            held_out = {"held_out": to_plain(result.held_out)} if result.held_out else {}
            return {
                "kind": "adapt",
                "v": acting.tolist(),
                "accepted": result.accepted,
                "reason": result.reason or "",
                "start": start,
                "steps": result.steps,
                "loss_before": result.loss_before,
                "loss_after": result.loss_after,
                **held_out,
                "seconds": result.seconds,
                "support": [self._pair(*pair) for pair in zip(x, y, strict=True)],
            }

        self._put(ADAPTATION, self._now() if stamp is None else stamp, message)

    def reset(self) -> None:
        """Record that the model was reset: `v0` acts, and another task begins."""
        self._put(ADAPTATION, self._now(), lambda: {"kind": "reset"})

    def loaded(self, adaptation: str | os.PathLike[str], v: ArrayLike) -> None:
        """Record that the model loaded the file of an earlier adaptation: another task begins.

        The file is read here: like the loading itself, that has no place in a tick.

        Raises:
            OSError: If the file cannot be read.
        """
        message = _loaded(Path(adaptation).read_bytes(), v)
        self._put(ADAPTATION, self._now(), lambda: message)

    def loop(self, report: LoopReport) -> None:
        """Record a control loop's figures. Making a report sorts many numbers: do so after the loop, or rarely."""
        self._put(LOOP, self._now(), lambda: to_plain(report))

    def report(self) -> RecorderReport:
        """What became of the messages so far."""
        channels = self._channels.values()
        ended = self._error is not None or not self._thread.is_alive()
        dropped = sum(channel.offered - channel.written if ended else channel.dropped for channel in channels)
        return RecorderReport(self._path, sum(channel.written for channel in channels), dropped, self._error)

    def close(self) -> None:
        """Write what is waiting and finish the file; messages from now on are dropped. Closing again does nothing."""
        self._closing.set()
        self._thread.join()

    def _now(self) -> int:
        return self._epoch + time.monotonic_ns()

    def _tick(self, stamp: int | None) -> int:
        if stamp is None:
            stamp = self._stamp
        return self._now() if stamp is None else stamp

    def _pair(self, x: NDArray, y: NDArray) -> dict[str, Any]:
        return {"x": self._vectors.x.to_message(x), "y": self._vectors.y.to_message(y)}

    def _put(self, topic: str, stamp: int, message: Callable[[], Any]) -> None:
        channel = self._channels[topic]
        number = channel.offered
        channel.offered += 1
        if len(self._queue) >= channel.limit or self._error is not None or self._closing.is_set():
            channel.dropped += 1
        else:
            self._queue.append((channel, number, stamp, self._now(), message))

    # The rest runs on the recorder's own thread, or before that begins.

    def _begin(self, bundle: Bundle) -> None:
        """Write the file's head, its channels and what was recorded, and see all of it on the disk."""
        writer = self._writer
        writer.start()
        ids = {}
        for topic, schema in schemas(self._vectors).items():
            name = "msr." + topic.lstrip("/").title().replace("_", "")
            ids[topic] = writer.register_channel(
                topic, "json", writer.register_schema(name, "jsonschema", to_json({"title": name} | schema))
            )
        for topic, channel in self._channels.items():
            channel.id = ids[topic]
        self._counts = ids[RECORDER]
        manifest = bundle.manifest.model_dump(mode="json")
        policy = {"recording_version": RECORDING_VERSION, "bundle": bundle.digest, "manifest": manifest}
        self._add(ids[METADATA], 0, self._now(), self._now(), policy)
        self._flush()
        sync_folder(self._path.resolve().parent)

    def _record_start(self, model: AdaptiveModel) -> None:
        """Record the adaptation that acts already, if one does."""
        try:
            data = model.dump_adaptation()
        except InputError:  # it acts at v0
            return
        message = _loaded(data, model.v)
        self._put(ADAPTATION, self._now(), lambda: message)

    def _run(self) -> None:
        try:
            with self._file:
                due, closing = time.monotonic() + _FLUSH, False
                while not closing:
                    closing = self._closing.wait(_PAUSE)  # asked before the queue is emptied: nothing is left in it
                    self._drain()
                    if closing or time.monotonic() >= due:
                        self._flush()
                        due = time.monotonic() + _FLUSH
                self._writer.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
        except Exception as error:  # noqa: BLE001 - the disk is full, say: told by `report`, and the robot acts on
            self._error = f"{type(error).__name__}: {error}"
            _LOGGER.error("recording '%s' ended: %s; the robot goes on unrecorded", self._path, self._error)  # noqa: TRY400

    def _drain(self) -> None:
        taken = 0
        while self._queue:
            channel, number, stamp, published, message = self._queue.popleft()
            self._add(channel.id, number, stamp, published, message())
            channel.taken += 1
            taken += 1
            if taken % _TURN == 0:
                time.sleep(0)  # gives up the interpreter's lock, for which a tick that is due may be waiting

    def _add(self, channel: int, number: int, stamp: int, published: int, message: Any) -> None:
        data = to_json(message, inf_nan_mode="strings")
        self._writer.add_message(channel, stamp, data, published, number)

    def _flush(self) -> None:
        """Write the chunk and wait for the disk."""
        taken = {channel.topic.lstrip("/"): channel.taken for channel in self._channels.values()}
        dropped = {channel.topic.lstrip("/"): channel.dropped for channel in self._channels.values()}
        now = self._now()
        self._add(self._counts, 0, now, now, {"written": taken, "dropped": dropped})
        self._writer.flush()
        os.fsync(self._file.fileno())
        for channel in self._channels.values():
            channel.written = channel.taken


def _loaded(adaptation: bytes, v: ArrayLike) -> dict[str, Any]:
    return {
        "kind": "load",
        "v": np.array(v, np.float32).reshape(-1).tolist(),
        "file": base64.b64encode(adaptation).decode(),
    }
