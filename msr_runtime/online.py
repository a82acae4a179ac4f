"""OnlineAdapter: the robot acts, and learns beside it on a thread of its own."""

import itertools
import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from msr_runtime.errors import InputError, RealTimeError
from msr_runtime.guard import Refusal, UpdateGuard
from msr_runtime.model import AdaptiveModel, AdaptResult, Start, check_start
from msr_runtime.realtime import ADAPTATION_PRIORITY, schedule
from msr_runtime.samples import SampleWindow
from msr_runtime.task import Array

if TYPE_CHECKING:  # mcap is an extra
    from msr_runtime.recorder import Recorder

_KEPT = 1024  # latest adaptations kept for the percentiles


@dataclass(frozen=True)
class OnlineReport:
    """What an OnlineAdapter did so far. Figures without data are NaN."""

    tried: int
    """Adaptations computed: accepted, or refused for one of the reasons."""
    accepted: int
    refused: dict[str, int]
    """By reason, see `Refusal`."""
    seconds_p50: float
    """Median time of the latest adaptations, in s."""
    seconds_p95: float
    weights_age: float
    """Time since an update was accepted, in s."""
    observed: int
    """Samples that the adaptation thread has met: entered, left out for one of the reasons, or dropped."""
    entered: int
    left_out: dict[str, int]
    """By reason, see `Left`."""
    dropped: int
    """Samples that newer ones pushed out before the adaptation thread came to them."""
    waiting: int
    """Samples that it has not met yet."""
    error: str | None
    """What ended the adaptation thread; None while all is well."""

    def __str__(self) -> str:
        error = f"\nadapting ended: {self.error}" if self.error else ""
        return (
            f"updates   {self.tried} tried, {self.accepted} accepted, refused: {_list(self.refused)}; "
            f"p50 {1e3 * self.seconds_p50:.3f} ms, p95 {1e3 * self.seconds_p95:.3f} ms, "
            f"weights {self.weights_age:.2f} s old\n"
            f"samples   {self.observed} observed, {self.entered} entered, left out: {_list(self.left_out)}, "
            f"{self.dropped} dropped, {self.waiting} waiting{error}"
        )


class OnlineAdapter:
    """Adapts a model again and again on what the robot observes, while it acts.

    `with OnlineAdapter(model) as online:` runs a thread that takes up the samples, adapts, has the guard judge the
    update and, if it is accepted, rebinds the model's one reference to the new weights, built whole before. Neither
    `predict` nor `observe` takes a lock or waits for it, and both may be called from several threads. An error in that
    thread ends the adapting and not the robot: the weights accepted last act on, `report` shows the error, and `check`
    and the end of the `with` raise it.
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
        recorder: "Recorder | None" = None,
    ) -> None:
        """Prepare to adapt `model`.

        It begins when there are as many samples as in meta-training, or `window` if that is fewer, and adapts only
        when a sample has entered since the last time.

        Args:
            model: Whose weights are adapted.
            window: The latest samples that the inner loop sees.
            hz: Adaptations a second at most, in Hz.
            stride: Every how many-th observed sample is taken up; consecutive ones of a fast loop are much alike.
            novelty: A sample enters only if it is farther than this from all that are held: root mean square over
                the numbers of x and y (of x, among those with its label, for a classifier), in the normalisation's
                scales. None lets all in.
            held_out: Every how many-th sample that enters judges the updates, and is not learned from; 0 for none.
            start: From the meta-learned `v0` each time, or from the `accepted` v, which forgets more slowly than the
                window does and stays within the guard's trust region.
            guard: What may refuse an update; `UpdateGuard()` by default.
            realtime: Run the thread under SCHED_FIFO, one below `ControlLoop(realtime=True)`. The two share one
                interpreter: where other programs want the processor too, they would push the adaptation off it while
                it holds the interpreter, and the loop would wait for them all.
            recorder: Where every sample observed and every adaptation is recorded; it is closed by whoever made it,
                after this.

        Raises:
            InputError: If a number is out of its range, or the guard has a trust region and the model's `v0` is zero.
        """
        for name, value, least in (("window", window, 1), ("stride", stride, 1), ("held_out", held_out, 0)):
            if not value >= least:
                raise InputError(f"{name} is {value}, but at least {least} is wanted")
        if held_out == 1:
            raise InputError("held_out is 1, so that every sample would judge and none teach; give 2 or more, or 0")
        if not 0 < hz < math.inf:
            raise InputError(f"hz is {hz}, but a positive, finite number is wanted")
        if novelty is not None and not 0 <= novelty < math.inf:
            raise InputError(f"novelty is {novelty}, but a finite distance is wanted, or None to let all samples in")
        check_start(start)
        self.model = model
        self._guard, self._period = guard or UpdateGuard(), 1 / hz
        self._start: Start = start
        v0 = model.bundle.start()["v"]
        self._guard.judge(v0, v0, (0.0, 0.0))  # a guard that cannot judge this model says so now, not in the thread
        self._sides, normalisation = model.sample, model.manifest.normalisation
        self._samples = SampleWindow(self._sides, normalisation, window, stride, novelty, held_out)
        self._needed = min(window, model.manifest.shots)
        # appending and taking are atomic; twice what the windows can hold, so that an adaptation may take a while
        self._inbox: deque[tuple[int, Array, Array]] = deque(maxlen=4 * window * stride)
        self._numbers = itertools.count()
        self._observed = self._taken = self._tried = self._accepted = 0
        self._learned_from = 0
        self._refused: Counter[Refusal] = Counter()
        self._seconds, self._accepted_at = np.full(_KEPT, np.nan), math.nan
        self._realtime, self._stop, self._error = realtime, threading.Event(), None
        self._recorder = recorder
        self.latest: AdaptResult | None = None
        """What the latest adaptation did."""

    def __enter__(self) -> Self:
        """Start the thread.

        Raises:
            RealTimeError: If real-time scheduling was asked for and the system refuses it.
        """
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="msr-online", daemon=True)
        self._thread.start()
        if self._realtime:
            try:
                schedule(self._thread.native_id or 0, ADAPTATION_PRIORITY)
            except RealTimeError:
                self._stop.set()
                self._thread.join()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self.check()

    def predict(self, x: ArrayLike) -> Array:
        """`AdaptiveModel.predict` with the weights that act.

        Raises:
            InputError: If `x` has another shape or dtype, or is not finite.
        """
        return self.model.predict(x)

    def observe(self, x: ArrayLike, y: ArrayLike) -> None:
        """Hand over one sample, x `(obs,)` and y `(out,)` in raw units; it is copied.

        A value that is not finite or absurd is a fault of a sensor: the sample is left out and counted.

        Raises:
            InputError: If a shape or dtype is wrong: that is a mistake in the program, which no later sample mends.
        """
        pair = []
        for side, value in zip(self._sides, (x, y), strict=True):
            array = side.convert(value)
            if array.shape != side.shape:
                raise InputError(f"one sample's {side.name[-1]} has shape {array.shape}, but {side.shape} is wanted")
            pair.append(array.copy())
        self._inbox.append((next(self._numbers), *pair))
        if self._recorder:
            self._recorder.sample(*pair)

    def check(self) -> None:
        """Raise what ended the adaptation thread, if anything did."""
        if self._error is not None:
            raise self._error

    def report(self) -> OnlineReport:
        """The counts so far; from any thread."""
        seconds = self._seconds[: self._tried] if self._tried else np.array([np.nan])
        p50, p95 = np.percentile(seconds, [50, 95]).tolist()
        error, waiting = self._error, len(self._inbox)
        return OnlineReport(
            tried=self._tried,
            accepted=self._accepted,
            refused={str(name): count for name, count in self._refused.copy().items()},
            seconds_p50=p50,
            seconds_p95=p95,
            weights_age=time.monotonic() - self._accepted_at,
            observed=self._observed,
            entered=self._samples.entered,
            left_out={str(name): count for name, count in self._samples.left.copy().items()},
            dropped=self._observed - self._taken,
            waiting=waiting,
            error=None if error is None else f"{type(error).__name__}: {error}",
        )

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self._take_up()
                self._adapt()
                due = max(due + self._period, time.monotonic())
            self._take_up()  # so that what was observed to the end is accounted for
        except Exception as error:  # noqa: BLE001 - kept for `check`; the robot acts on
            self._error = error

    def _take_up(self) -> None:
        for _ in range(len(self._inbox)):  # not what comes meanwhile: a fast source would keep it here
            number, x, y = self._inbox.popleft()
            self._samples.offer(x, y)
            self._observed, self._taken = max(self._observed, number + 1), self._taken + 1

    def _adapt(self) -> None:
        teachers = self._samples.teachers
        if len(teachers.x) < self._needed or self._learned_from == self._samples.entered:
            return
        result = self.model.adapt(*teachers, start=self._start, held_out=self._samples.judges, guard=self._guard)
        if self._recorder:
            self._recorder.adaptation(*teachers, result, self.model.v, self._start)
        self._seconds[self._tried % _KEPT] = result.seconds
        if result.refusal is None:
            self._accepted += 1
            self._accepted_at = time.monotonic()
        else:
            self._refused[result.refusal] += 1
        self._tried += 1
        self.latest, self._learned_from = result, self._samples.entered


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
