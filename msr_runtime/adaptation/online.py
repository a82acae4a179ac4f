"""OnlineAdapter: adapts a model in a background thread while the robot acts with it."""

import itertools
import math
import threading
import time
from collections import Counter, deque
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_runtime.adaptation.measured import Measured
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.repeats import at_rest
from msr_runtime.adaptation.report import OnlineReport
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import LeftOut, SampleWindow
from msr_runtime.adaptation.start import Start, check_start
from msr_runtime.adaptation.update_guard import Refusal, UpdateGuard
from msr_runtime.arrays import norm
from msr_runtime.control.realtime import ADAPTATION_PRIORITY, schedule
from msr_runtime.errors import InputError
from msr_runtime.inference.input_bounds import OutsideCounter
from msr_runtime.task import Array

_KEPT = 1024  # latest adaptations whose times are kept for the percentiles


class OnlineAdapter:
    """Adapts a model repeatedly on the latest observed samples while the robot acts with it.

    Inside the `with`, a background thread collects the samples, adapts v and lets the guard judge the update. It builds
    the new weights completely. Then it swaps the one reference to the acting weights. `predict` and `observe` take no
    lock and never wait for the thread; any thread may call them.

    An error in the thread stops the adapting, not the robot: the weights accepted last keep acting. `report` shows the
    error; `check` and the end of the `with` raise it.

    Example:
        >>> import numpy as np
        >>> from msr_runtime import AdaptiveModel, OnlineAdapter
        >>> with OnlineAdapter(AdaptiveModel.load(bundle), window=10) as online:
        ...     for x in np.random.default_rng(0).uniform(0, 1, (20, 18)):
        ...         action = online.predict(x)
        ...         online.observe(x, 0.1 * x[:2])  # the right action for x
        >>> online.report().observed
        20
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: int = 64,
        hz: float = 10.0,
        stride: int = 1,
        novelty: float | None = None,
        held_out: int = 4,
        start: Start = "v0",
        guard: UpdateGuard | None = None,
        realtime: bool = False,
        recorder: SampleRecorder | None = None,
    ) -> None:
        """Prepare to adapt `model`. The thread starts at the `with`.

        The first adaptation waits for as many samples as meta-training had shots, or for `window` samples if that is
        fewer. Each later one waits until a new sample has entered the window. While every sample in the window has the
        same y and nearly the same x, the robot rests. Then nothing is adapted: one state would replace all others.

        Args:
            model: The model to adapt.
            window: Size of the support set: the latest samples that the inner loop learns from.
            hz: Largest number of adaptations per second, in Hz.
            stride: Use every `stride`-th observed sample; neighboring samples of a fast loop are nearly equal.
            novelty: Smallest distance of a new sample from all samples in the window; a nearer sample is left out. The
                distance is the root mean square over the values of x and y, in the scales of the normalization. For a
                classifier it is taken over x alone, among the samples with the same label. None lets all samples in.
            held_out: Hold out every `held_out`-th sample that enters: it judges updates and is not learned from. 0
                holds out none.
            start: Where each adaptation begins: at the meta-learned `v0`, or at the `accepted` v, which acts now. From
                `accepted`, old samples keep an influence after they have left the window. The trust region still
                limits the distance from `v0`.
            guard: What may refuse an update; None takes `UpdateGuard()`, with the limits that were measured at the
                export.
            realtime: Run the thread under SCHED_FIFO, with a priority one below `ControlLoop(realtime=True)`. Use it
                together with the loop's when other programs share the processor. The two threads share one interpreter
                lock: another program could preempt an ordinary adaptation thread while it holds the lock, and the loop
                would wait for both.
            recorder: Stores every observed sample and every adaptation. Close it after the end of this `with`. With a
                `Recorder`, all calls of `observe` come from one thread, which need not be the one that acts.

        Raises:
            InputError: If a number is out of its range, or if the guard has a trust region of its own and the model's
                `v0` is zero.
        """
        for name, value, least in (("window", window, 1), ("stride", stride, 1), ("held_out", held_out, 0)):
            if not value >= least:
                raise InputError(f"{name} is {value}, but at least {least} is wanted")
        if held_out == 1:
            raise InputError(
                "held_out is 1, so every sample would be held out and none would be learned from; give 2 or more, or 0 "
                "to hold out none"
            )
        if not 0 < hz < math.inf:
            raise InputError(f"hz is {hz}, but a positive, finite number of adaptations per second is wanted")
        if novelty is not None and not 0 <= novelty < math.inf:
            raise InputError(f"novelty is {novelty}, but a finite distance is wanted, or None to let all samples in")
        check_start(start)
        self.model = model
        self._guard, self._period = guard or UpdateGuard(), 1 / hz
        self._start: Start = start
        # raise an error of the guard here, in the caller, not in the thread
        v0, measured = norm(model.bundle.start()["v"]), Measured(model.manifest)
        self._guard.limits(measured, model.manifest.inner_steps, start, v0)
        self._scale = measured.scale
        self._specs, normalization = model.sample_specs, model.manifest.normalization
        self._samples = SampleWindow(self._specs, normalization, model.bounds.y, window, stride, novelty, held_out)
        self._needed = min(window, model.manifest.shots)
        # Appending to a deque and popping from it are atomic, so no lock is needed. A full deque drops its oldest
        # entry. It holds at least twice what the window can, so that nothing is dropped during a slow adaptation.
        self._inbox: deque[tuple[int, Array, Array]] = deque(maxlen=4 * window * stride)
        self._numbers = itertools.count()
        self._observed = self._taken = self._tried = self._accepted = self._cleaned = 0
        self._learned_from = self._rested = 0
        self._refused: Counter[Refusal] = Counter()
        self._seconds, self._accepted_at = np.full(_KEPT, np.nan), math.nan
        self._realtime, self._stop, self._error = realtime, threading.Event(), None
        self._outside = OutsideCounter()
        self._thread: threading.Thread | None = None
        self._recorder = recorder
        self.latest: AdaptResult | None = None
        """Result of the latest adaptation; None before the first."""

    def __enter__(self) -> Self:
        """Start the thread.

        Raises:
            InputError: If the adapter is entered already.
            RealTimeError: If `realtime` is set and the system refuses real-time scheduling.
        """
        if self._thread:
            raise InputError(
                "this OnlineAdapter is entered already, and the end of the inner `with` would stop the outer one; use "
                "the adapter of the outer `with`, or make another one for a model of its own (`model.fork()`)"
            )
        self._stop.clear()
        # a daemon: a program that ends without leaving the `with` must not hang
        self._thread = threading.Thread(target=self._run, name="msr-online", daemon=True)
        try:
            self._thread.start()
            if self._realtime:
                schedule(self._thread.native_id or 0, ADAPTATION_PRIORITY)
        except BaseException:  # Ctrl-C too: no thread may go on adapting a model whose `with` was never entered
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        if error is None:  # an error inside the `with` comes first: do not replace it by one of the thread
            self.check()

    def _end(self) -> None:
        self._stop.set()
        if self._thread and self._thread.ident:  # without an identity it was never started
            self._thread.join()
        self._thread = None

    def predict(self, x: ArrayLike) -> Array:
        """Predict with the acting weights, as `AdaptiveModel.predict` does: `(obs,)` to `(out,)`, float32, raw units.

        Raises:
            InputError: If `x` has another shape or dtype, or is not finite.
        """
        return self.model.predict(x)

    def observe(self, x: ArrayLike, y: ArrayLike) -> None:
        """Hand over a copy of one sample, x `(obs,)` and y `(out,)` in raw units.

        A value that is not finite or far outside its bounds is a sensor fault: the sample is left out and counted.
        Several threads may call it; with a `Recorder`, only one.

        Raises:
            InputError: If a shape or dtype is wrong. That is a mistake in the program: later samples would have it too.
        """
        pair = []
        for side, value in zip(self._specs, (x, y), strict=True):
            array = side.convert(value)
            if array.shape != side.shape:
                raise InputError(
                    f"one sample's {side.name[-1]} has shape {array.shape}, but {side.shape} is wanted; observe() "
                    "takes one sample per call, without a batch axis"
                )
            pair.append(array.copy())
        self._inbox.append((next(self._numbers), *pair))  # numbered, so that dropped samples can be counted
        if self._recorder:
            self._recorder.sample(*pair)

    def check(self) -> None:
        """Raise the error that ended the adaptation thread, if there was one."""
        if self._error is not None:
            raise self._error

    def report(self) -> OnlineReport:
        """The counts so far. Any thread may call it."""
        seconds = self._seconds[: self._tried] if self._tried else np.array([np.nan])
        p50, p95 = np.percentile(seconds, [50, 95]).tolist()
        error, waiting = self._error, len(self._inbox)
        return OnlineReport(
            tried=self._tried,
            accepted=self._accepted,
            cleaned=self._cleaned,
            # copied in one step, because the thread may add a reason during the iteration
            refused={str(name): count for name, count in self._refused.copy().items()},
            rested=self._rested,
            seconds_p50=p50,
            seconds_p95=p95,
            weights_age=time.monotonic() - self._accepted_at,
            observed=self._observed,
            entered=self._samples.entered,
            left_out={str(name): count for name, count in self._samples.left_out.copy().items()},
            dropped=self._observed - self._taken,
            waiting=waiting,
            outside=self._outside.total(),
            predicted_outside=self.model.outside,
            error=None if error is None else f"{type(error).__name__}: {error}",
        )

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self._collect()
                self._adapt()
                due = max(due + self._period, time.monotonic())  # after a slow adaptation: now, never catch up
            self._collect()  # count the samples of the last moment too
        except Exception as error:  # noqa: BLE001 - kept for `check`; the robot goes on with the acting weights
            self._error = error

    def _collect(self) -> None:
        for _ in range(len(self._inbox)):  # not until it is empty: a fast source would never let this loop end
            number, x, y = self._inbox.popleft()
            self._offer(x, y)
            # the largest number, because two observing threads may append out of order
            self._observed, self._taken = max(self._observed, number + 1), self._taken + 1

    def _offer(self, x: NDArray, y: NDArray) -> None:
        inside = self.model.bounds.hold(x, y)
        # Only finite values are some distance away from their bounds. The window counts the others.
        if not inside and np.isfinite(x).all() and np.isfinite(y).all():
            try:
                self.model.bounds.count(self._specs, x[None], y[None], self._outside.add)
            except InputError:
                self._samples.leave_out(LeftOut.ABSURD)
                return
        self._samples.offer(x, y, inside)

    def _adapt(self) -> None:
        support = self._samples.support
        if len(support.x) < self._needed or self._learned_from == self._samples.entered:
            return
        if self._specs[1].fields and at_rest(self._scale, *support):  # labels have no fields, and may be the same
            self._rested, self._learned_from = self._rested + 1, self._samples.entered
            return
        result = self.model.adapt(
            *support,
            start=self._start,
            held_out=self._samples.held_out,
            guard=self._guard,
            recorder=self._recorder,
        )
        self._seconds[self._tried % _KEPT] = result.seconds
        if result.refusal is None:
            self._accepted += 1
            self._cleaned += bool(result.left_out)
            self._accepted_at = time.monotonic()
        else:
            self._refused[result.refusal] += 1
        self._tried += 1
        self.latest, self._learned_from = result, self._samples.entered
