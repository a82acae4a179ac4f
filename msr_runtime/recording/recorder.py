"""Recorder: writes what a robot sees, does and learns to an MCAP file, without making the control loop wait.

The methods copy a few numbers into a queue in memory and return after some microseconds. A second thread converts the
messages (see `msr_runtime.recording.messages`), compresses them and writes them. If this thread falls behind, messages
are dropped and counted. If the disk fails, the recording ends and the control loop continues.
"""

import base64
import dataclasses
import operator
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.report import OnlineReport
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.start import Start
from msr_runtime.bundle.store import Bundle
from msr_runtime.control.report import LoopReport
from msr_runtime.errors import InputError
from msr_runtime.recording.messages import ACTION, ADAPTATION, LOOP, OBSERVATION, ONLINE, SAMPLE, to_plain
from msr_runtime.recording.vectors import Vectors
from msr_runtime.recording.writer import RecordingWriter


@dataclasses.dataclass(frozen=True)
class RecorderReport:
    """How many messages of a recorder were written and dropped so far."""

    path: Path
    written: int
    """Messages that are on the disk."""
    dropped: int
    """Messages that will never be on the disk: the queue was full, or the recording had ended."""
    error: str | None
    """What ended the recording before `close`; None if nothing did."""

    def __str__(self) -> str:
        ended = f"; ended early: {self.error}" if self.error else ""
        return f"{self.path}: {self.written} messages written, {self.dropped} dropped{ended}"


class Recorder:
    """Records one run of a robot.

    No method waits for the disk or for another thread. `observation` and `action` come from the thread that acts.
    `sample` may come from another thread, but always from the same one; so may `OnlineAdapter.observe`, which calls it.
    What tells of the weights, `adaptation`, `swapped`, `reset` and `loaded`, comes from one thread at a time: leave the
    `with` of an `OnlineAdapter` before you reset its model or load into it. `OnlineAdapter.task_changed` may be called
    inside.

    Stamps are nanoseconds since 1970. They start at the system's clock and continue with
    the monotonic clock, so they never jump.

    Example:
        >>> from msr_runtime import AdaptiveModel, Recorder
        >>> model = AdaptiveModel.load(bundle)
        >>> with Recorder(folder / "flight.mcap", model) as recorder:
        ...     stamp = recorder.observation([0.5] * 18)  # at each tick
        ...     recorder.action(model.predict([0.5] * 18))
        >>> report = recorder.report()
        >>> report.written, report.dropped
        (2, 0)
    """

    def __init__(self, path: str | os.PathLike[str], model: AdaptiveModel | Bundle, queue: int = 1024) -> None:
        """Create the file and record which bundle acts. If the model is adapted already, record this adaptation too.

        Args:
            path: The file. It must not exist; its name usually ends in `.mcap`.
            model: The model that acts. A bundle stands for its model at `v0`.
            queue: Number of messages that may wait for the writer thread. Adaptations may use as many places again:
                without one of them, no later action can be explained.

        Raises:
            InputError: If the file exists, or `queue` is less than 1.
            OSError: If the file cannot be created.
        """
        if queue < 1:
            raise InputError(f"queue is {queue}, but at least one message has to fit; leave it out for 1024")
        bundle = model if isinstance(model, Bundle) else model.bundle
        manifest = bundle.manifest
        self._vectors = Vectors.of(manifest.inputs, manifest.outputs, manifest.loss)
        start = _acting(model) if isinstance(model, AdaptiveModel) else None
        self._path = Path(path)
        self._writer = RecordingWriter(self._path, bundle, self._vectors, queue)
        self._put, self._now = self._writer.put, self._writer.now
        self._v_size = manifest.filter_parameters
        self._stamp: int | None = None
        if start is not None:
            self._put(ADAPTATION, self._now(), lambda: start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def observation(self, x: ArrayLike, stamp: SupportsIndex | None = None) -> int:
        """Begin a tick: record the input that the network is about to get.

        Args:
            x: One sample `(*x)`, in raw units; it is copied.
            stamp: Time of the measurement, in ns since 1970. Default: now.

        Returns:
            The stamp of the tick. `action` and `sample` use it unless they are given another one.

        Raises:
            InputError: If `x` is not numeric or does not fit the bundle's inputs, or the stamp is no time.
        """
        row = self._vectors.x.copy(x)
        self._stamp = when = self._now() if stamp is None else _checked(stamp)
        self._put(OBSERVATION, when, lambda: self._vectors.x.to_message(row))
        return when

    def action(self, action: ArrayLike, stamp: SupportsIndex | None = None) -> None:
        """Record the network's output for the observation of this tick, before an action guard or the robot limits it.

        Args:
            action: One output, in raw units; it is copied.
            stamp: Stamp of the observation, in ns since 1970. Default: the latest observation's.

        Raises:
            InputError: If `action` is not numeric or does not fit the bundle's outputs, or the stamp is no time.
        """
        row, when = self._vectors.action.copy(action), self._tick(stamp)
        self._put(ACTION, when, lambda: self._vectors.action.to_message(row))

    def sample(self, x: ArrayLike, y: ArrayLike, stamp: SupportsIndex | None = None) -> None:
        """Record one sample that the robot learns from: an input and its target output.

        Args:
            x: One input, in raw units; it is copied.
            y: The target output, in raw units, or a label; it is copied.
            stamp: Time of the sample, in ns since 1970. Default: the latest observation's stamp.

        Raises:
            InputError: If `x` or `y` is not numeric or does not fit the bundle's inputs or outputs, or the stamp is no
                time.
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
        stamp: SupportsIndex | None = None,
        *,
        pending: bool = False,
    ) -> None:
        """Record an adaptation, whether it was accepted or refused.

        `AdaptiveModel.adapt(recorder=...)` and `OnlineAdapter` call it. In a program of one thread, you may instead
        call it directly after `adapt`. Samples that the adaptation left out are not recorded with it.

        Args:
            support_x: The inputs of the support set `(shots, *x)`, in raw units; copied.
            support_y: The target outputs `(shots, *y)`, in raw units, or labels `(shots,)`; copied.
            result: What `adapt` returned.
            v: The filter parameters that act now: `model.v`.
            start: The `start` that `adapt` was given.
            stamp: Time since which `v` acts, in ns since 1970. Default: now.
            pending: The new weights do not act yet. They do when `swapped` is called.

        Raises:
            InputError: If the support set is empty or does not fit the bundle, `v` is not the bundle's filter
                parameters, or the stamp is no time.
        """
        x, y = self._vectors.x.copy_batch(support_x), self._vectors.y.copy_batch(support_y)
        if len(x) != len(y) or not len(x):
            raise InputError(
                f"support_x has {len(x)} shots and support_y has {len(y)}, but both need the same number, at least 1; "
                "give the support set that `adapt` was given"
            )
        left_out = list(result.left_out)
        x, y = np.delete(x, left_out, 0), np.delete(y, left_out, 0)
        acting = self._filter_parameters(v)
        when = self._now() if stamp is None else _checked(stamp)

        def message() -> dict[str, Any]:
            held_out = {"held_out": to_plain(result.held_out)} if result.held_out else {}
            return {
                "kind": "adapt",
                "v": acting.tolist(),
                "accepted": result.accepted,
                "pending": pending,
                "reason": result.reason or "",
                "start": start,
                "steps": result.steps,
                "loss_before": result.loss_before,
                "loss_after": result.loss_after,
                **held_out,
                "seconds": result.seconds,
                "support": [self._pair(*pair) for pair in zip(x, y, strict=True)],
            }

        self._put(ADAPTATION, when, message)

    def _filter_parameters(self, v: ArrayLike) -> NDArray:
        """Copy v, `(K,)`."""
        try:
            acting = np.array(v, np.float32).reshape(-1)
        except (ValueError, TypeError) as error:
            raise InputError(f"v is not an array of numbers ({error}); give `model.v`") from error
        if acting.size != self._v_size:
            raise InputError(
                f"v has shape {np.shape(v)}, but the bundle's {self._v_size} filter parameters are wanted; give "
                "`model.v` of the model that adapted"
            )
        return acting

    def swapped(self) -> None:
        """Record that the weights of the latest change, which was `pending`, act by now."""
        self._put(ADAPTATION, self._now(), lambda: {"kind": "swap"})

    def update(self, x: ArrayLike, y: ArrayLike, elapsed: float) -> None:
        """Record that the model is about to learn from one sample, see `AdaptiveModel.update`.

        `OnlineAdapter` calls it. Call `swapped` after the update.

        Args:
            x: The input, in raw units; it is copied.
            y: The target output, in raw units; it is copied.
            elapsed: The `seconds` that `update` is given.

        Raises:
            InputError: If `x` or `y` does not fit the bundle's inputs or outputs.
        """
        pair = self._vectors.x.copy(x), self._vectors.y.copy(y)

        def message() -> dict[str, Any]:
            return {"kind": "update", "pending": True, "elapsed": elapsed, "support": [self._pair(*pair)]}

        self._put(ADAPTATION, self._now(), message)

    def reset(self, *, inflate: float | None = None, pending: bool = False) -> None:
        """Record that a new task begins.

        Args:
            inflate: The factor by which the model is less sure of what it learned (`AdaptiveModel.inflate`). None: the
                model was reset, and `v0` acts.
            pending: The model has not changed yet. It has when `swapped` is called.
        """
        factor = {} if inflate is None else {"inflate": inflate}
        self._put(ADAPTATION, self._now(), lambda: {"kind": "reset", "pending": pending} | factor)

    def held(self, *, held: bool) -> None:
        """Record that `v0` is about to act while the model goes on learning, or that the learned weights are, again.

        `OnlineAdapter` calls it, see `UpdateGuard.hold_v0`. The weights change before `swapped` is called.
        """
        self._put(ADAPTATION, self._now(), lambda: {"kind": "hold" if held else "release", "pending": True})

    def online(self, report: OnlineReport) -> None:
        """Record a report of an `OnlineAdapter`, which calls this once a second."""
        self._put(ONLINE, self._now(), lambda: to_plain(report))

    def loaded(self, adaptation: str | os.PathLike[str], v: ArrayLike) -> None:
        """Record that the model loaded the file of an earlier adaptation: a new task begins.

        This method reads the file, so do not call it inside a tick. `AdaptiveModel.load_adaptation` is too slow for a
        tick as well.

        Args:
            adaptation: The file that was loaded.
            v: The filter parameters that act now: `model.v`.

        Raises:
            InputError: If `v` is not the bundle's filter parameters.
            OSError: If the file cannot be read.
        """
        message = _loaded(Path(adaptation).read_bytes(), self._filter_parameters(v))
        self._put(ADAPTATION, self._now(), lambda: message)

    def loop(self, report: LoopReport) -> None:
        """Record a report of the control loop.

        `ControlLoop.report` sorts many numbers, so call it after the loop, or rarely.
        """
        self._put(LOOP, self._now(), lambda: to_plain(report))

    def report(self) -> RecorderReport:
        """Return how many messages were written and dropped so far."""
        written, dropped = self._writer.counts()
        return RecorderReport(self._path, written, dropped, self._writer.error)

    def close(self) -> None:
        """Write the waiting messages and finish the file. Later messages are dropped. Closing again does nothing."""
        self._writer.close()

    def _tick(self, stamp: SupportsIndex | None) -> int:
        """The given stamp, or else the latest observation's, or else the present time."""
        if stamp is not None:
            return _checked(stamp)
        return self._now() if self._stamp is None else self._stamp

    def _pair(self, x: NDArray, y: NDArray) -> dict[str, Any]:
        return {"x": self._vectors.x.to_message(x), "y": self._vectors.y.to_message(y)}


def _checked(stamp: SupportsIndex) -> int:
    """Return a stamp that the file can hold: an unsigned number of 64 bits."""
    try:
        number = operator.index(stamp)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise InputError(
            f"stamp is {stamp!r}, but a whole number of nanoseconds since 1970, from 0 to 2**64 - 1, is wanted; take "
            "time.time_ns(), or round(seconds * 1e9) for a time in seconds"
        )
    return number


def _acting(model: AdaptiveModel) -> dict[str, Any] | None:
    """The message for the adaptation that acts in `model`; None if `v0` acts."""
    try:
        data = model.dump_adaptation()
    except InputError:  # v0 acts, so there is nothing to dump
        return None
    return _loaded(data, model.v[0])


def _loaded(adaptation: bytes, v: NDArray) -> dict[str, Any]:
    return {
        "kind": "load",
        "v": v.tolist(),
        "file": base64.b64encode(adaptation).decode(),
    }
