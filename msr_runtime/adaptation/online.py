"""OnlineAdapter: adapts a model in a background thread while the robot acts with it."""

import math
import threading
import time
from types import TracebackType
from typing import Self

from numpy.typing import ArrayLike

from msr_runtime.adaptation.family import FALSE_ALARMS
from msr_runtime.adaptation.inbox import Inbox
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.report import OnlineReport
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.sample_learning import SampleLearning
from msr_runtime.adaptation.sample_recorder import SampleRecorder
from msr_runtime.adaptation.sample_window import SampleWindow
from msr_runtime.adaptation.start import Start, check_start
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.adaptation.window_learning import WindowLearning
from msr_runtime.control.realtime import ADAPTATION_PRIORITY, schedule
from msr_runtime.errors import InputError
from msr_runtime.task import Array

_TELL = 1.0
"""Time between two reports to the recorder, in s."""


class OnlineAdapter:
    """Adapts a model repeatedly on the latest observed samples while the robot acts with it.

    Inside the `with`, a background thread collects the samples, adapts v and lets the guard judge the update. It builds
    the new weights completely. Then it swaps the one reference to the acting weights. `predict` and `observe` take no
    lock and never wait for the thread; any thread may call them.

    An error in the thread stops the adapting, not the robot: the weights accepted last keep acting. `report` shows the
    error; `check` and the end of the `with` raise it.

    Without the `with` there is no thread: `step` does its work in the calling thread. So the same log always gives the
    same weights.

    Example:
        >>> import numpy as np
        >>> from msr_runtime import AdaptiveModel, OnlineAdapter
        >>> with OnlineAdapter(AdaptiveModel.load(bundle), window=10) as online:
        ...     for x in np.random.default_rng(0).uniform(0, 1, (20, 18)):
        ...         action = online.predict(x)
        ...         seen = online.observe(x, 0.1 * x[:2])  # the right action for x
        >>> online.report().observed
        20
    """

    def __init__(
        self,
        model: AdaptiveModel,
        window: int = 64,
        hz: float | None = None,
        stride: int = 1,
        novelty: float | None = None,
        held_out: int = 4,
        start: Start = "v0",
        guard: UpdateGuard | None = None,
        realtime: bool = False,
        recorder: SampleRecorder | None = None,
        compare: float | None = 64.0,
        by_sample: bool | None = None,
        false_alarms: float = FALSE_ALARMS,
        detect_changes: bool = True,
    ) -> None:
        """Prepare to adapt `model`. The thread starts at the `with`.

        The first adaptation waits for as many samples as meta-training had shots, or for `window` samples if that is
        fewer. Each later one waits until a new sample has entered the window. While every sample in the window has the
        same y and nearly the same x, the robot rests. Then nothing is adapted: one state would replace all others.

        A bundle with the rule `recursive` learns sample by sample instead, from the first one on: see `by_sample`.

        Args:
            model: The model to adapt.
            window: Size of the support set: the latest samples that the inner loop learns from. By sample, only
                `novelty` looks at them. Four times as many (times `stride`) may wait for the thread or for their y.
            hz: Largest number of adaptations per second, in Hz. None is 10. By sample, it says how often the thread
                looks for new samples; None is twice the bundle's rate, or 100.
            stride: Use every `stride`-th observed sample; neighboring samples of a fast loop are nearly equal.
            novelty: Smallest distance of a new sample from all samples in the window; a nearer sample is left out. The
                distance is the root mean square over the values of x and y, in the scales of the normalization. For a
                classifier it is taken over x alone, among the samples with the same label. None lets all samples in.
            held_out: Hold out every `held_out`-th sample that enters: it judges updates and is not learned from. 0
                holds out none. By sample, none is.
            start: Where each adaptation begins: at the meta-learned `v0`, or at the `accepted` v, which acts now. From
                `accepted`, old samples keep an influence after they have left the window. The trust region still
                limits the distance from `v0`. By sample, it goes on from where it is.
            guard: What may refuse an update; None takes `UpdateGuard()`, with the limits that were measured at the
                export.
            realtime: Run the thread under SCHED_FIFO, with a priority one below `ControlLoop(realtime=True)`. Use it
                together with the loop's when other programs share the processor. The two threads share one interpreter
                lock: another program could preempt an ordinary adaptation thread while it holds the lock, and the loop
                would wait for both.
            recorder: Stores every observed sample and every adaptation. Close it after the end of this `with`. With a
                `Recorder`, all calls of `observe` come from one thread, which need not be the one that acts.
            compare: Compare the adapted network with `v0`, the running mean and the last value, on each sample before
                it is learned from: see `OnlineReport.helping`. Over so many samples, the weight of a sample in this
                comparison falls by the factor e. None compares nothing.
            by_sample: Whether to learn sample by sample, with `AdaptiveModel.update`, and not from a window. None does
                so if the bundle can.
            false_alarms: Share of clean tasks that `OnlineReport.family` may call strange within a minute, above 0 and
                at most 0.1. The fewer, the later a strange task is found.
            detect_changes: Forget the earlier task when samples show another one. From a window, this takes some
                samples that one network explains, but not the network that acts; and no network explains them together
                with the earlier samples: see `AdaptiveModel.adapt`, `in_order`. By sample, two very surprising samples
                after a calm time are enough.

        Raises:
            InputError: If a number is out of its range; if the guard has a trust region of its own and the model's
                `v0` is zero; if the guard is to hold `v0` and nothing is compared; or if the model is to learn sample
                by sample and cannot.
        """
        for name, value, least in (("window", window, 1), ("stride", stride, 1), ("held_out", held_out, 0)):
            if not value >= least:
                raise InputError(f"{name} is {value}, but at least {least} is wanted")
        if held_out == 1:
            raise InputError(
                "held_out is 1, so every sample would be held out and none would be learned from; give 2 or more, or 0 "
                "to hold out none"
            )
        if hz is not None and not 0 < hz < math.inf:
            raise InputError(f"hz is {hz}, but a positive, finite number of adaptations per second is wanted")
        if novelty is not None and not 0 <= novelty < math.inf:
            raise InputError(f"novelty is {novelty}, but a finite distance is wanted, or None to let all samples in")
        if compare is not None and not 1 <= compare < math.inf:
            raise InputError(f"compare is {compare}, but 1 or more samples are wanted, or None to compare nothing")
        check_start(start)
        manifest = model.manifest
        recursive = manifest.recursion is not None
        if by_sample and not recursive:
            raise InputError(
                f"by_sample is set, but bundle '{model.bundle.path}' has the rule '{manifest.rule}', of batches; train "
                "with --learner.rule recursive, or leave by_sample out"
            )
        self.by_sample = recursive if by_sample is None else by_sample
        """Whether the model learns sample by sample."""
        self.model = model
        """The model that acts."""
        self.period = 1 / (hz or ((2 * manifest.rate_hz if manifest.rate_hz else 100.0) if self.by_sample else 10.0))
        """Time from one adaptation to the next, at least; in s."""
        self._specs = model.sample_specs
        self._samples = SampleWindow(
            self._specs,
            manifest.normalization,
            model.bounds.y,
            window,
            stride,
            novelty,
            0 if self.by_sample else held_out,
        )
        common = model, self._samples, guard or UpdateGuard(), compare, recorder
        if self.by_sample:
            self._learning = SampleLearning(*common, false_alarms, detect_changes)
        else:
            self._learning = WindowLearning(*common, start, min(window, manifest.shots), detect_changes)
        # It holds at least twice what the window can, so that nothing is dropped during a slow adaptation.
        self._inbox = Inbox(4 * window * stride)
        self._realtime, self._stop, self._error = realtime, threading.Event(), None
        self._thread: threading.Thread | None = None
        self._recorder = recorder

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

    def observe(self, x: ArrayLike, y: ArrayLike | None = None, at: float | None = None) -> float:
        """Hand over a copy of one sample, x `(obs,)` and y `(out,)` in raw units.

        A value that is not finite or far outside its bounds is a sensor fault: the sample is left out and counted.
        Several threads may call it; with a `Recorder`, only one.

        Args:
            x: The input.
            y: The output that it should have had. None if it is not known yet: `label` gives it later. Then x waits,
                among the latest `4 * window * stride` ones; the y of an older one never came, which is counted.
            at: The time of x, in s on any clock that all samples of a task share. None takes `time.monotonic()`.

        Returns:
            The time of x, by which `label` finds it.

        Raises:
            InputError: If a shape or dtype is wrong: that is a mistake in the program, and later samples would have it
                too. Or if `at` is not finite, or another x of the same time waits for its y.

        Example:
            >>> import numpy as np
            >>> from msr_runtime import AdaptiveModel, OnlineAdapter
            >>> online = OnlineAdapter(AdaptiveModel.load(bundle))
            >>> seen = online.observe(np.zeros(18))
            >>> online.label(seen, np.zeros(2))  # some ticks later
            True
        """
        when = time.monotonic() if at is None else float(at)
        if not math.isfinite(when):
            raise InputError(f"at is {at}, but a finite time in s is wanted; leave it out for the present time")
        copied = self._specs[0].convert_one(x).copy()
        if y is None:
            self._inbox.wait(when, copied)
            return when
        target = self._specs[1].convert_one(y).copy()
        self._inbox.put(when, copied, target)
        if self._recorder:
            self._recorder.sample(copied, target)
        return when

    def label(self, at: float, y: ArrayLike) -> bool:
        """Hand over a copy of the y of an x that was observed without one.

        Args:
            at: What `observe` returned.
            y: The output that this x should have had, `(out,)` in raw units.

        Returns:
            Whether this x still waited. If not, the y is of no use and is counted.

        Raises:
            InputError: If a shape or dtype is wrong.
        """
        target = self._specs[1].convert_one(y).copy()
        x = self._inbox.complete(at, target)
        if x is not None and self._recorder:
            self._recorder.sample(x, target)
        return x is not None

    def step(self) -> None:
        """Learn from what was observed, once, in the calling thread. It replaces the thread, for logs and tests.

        Raises:
            InputError: If the thread runs, inside the `with`.

        Example:
            >>> import numpy as np
            >>> from msr_runtime import AdaptiveModel, OnlineAdapter
            >>> online = OnlineAdapter(AdaptiveModel.load(bundle), window=10, held_out=0)
            >>> for tick, x in enumerate(np.random.default_rng(0).uniform(0, 1, (20, 18))):
            ...     seen = online.observe(x, 0.1 * x[:2], at=0.1 * tick)
            ...     online.step()
            >>> online.report().tried
            11
        """
        if self._thread:
            raise InputError("step() is called inside the `with`, whose thread learns already; leave out one of them")
        self._step()

    def task_changed(self, inflate: float | None = None) -> None:
        """Say that the robot does another task from now on, for example with another load.

        Samples whose x was observed before are left out and counted, even if their y comes later. Inside the `with`,
        the thread does it before its next adaptation.

        Args:
            inflate: None begins at `v0` again, with an empty window. A factor of at least 1 is for a task that
                resembles the one before: what was learned is kept, and is less sure. See `AdaptiveModel.inflate`.

        Raises:
            InputError: If the factor is below 1, or the model does not learn sample by sample.
        """
        if inflate is not None:
            if not self.by_sample:
                raise InputError(
                    f"inflate is {inflate}, but only a model that learns sample by sample knows how sure it is; leave "
                    "it out to begin at v0"
                )
            if not inflate >= 1:
                raise InputError(f"inflate is {inflate}, but a factor of 1 or more is wanted")
        self._inbox.change_task(inflate)

    def freeze(self) -> None:
        """Learn nothing from now on: the weights stay as they are. Samples are left out and counted.

        Inside the `with`, an adaptation that is computed at this moment may still act.
        """
        self._learning.frozen = True

    def unfreeze(self) -> None:
        """Learn again, after `freeze`."""
        self._learning.frozen = False

    @property
    def latest(self) -> AdaptResult | None:
        """The result of the latest adaptation to the window; None before the first, and if it learns by sample."""
        return self._learning.result if isinstance(self._learning, WindowLearning) else None

    def check(self) -> None:
        """Raise the error that ended the adaptation thread, if there was one."""
        if self._error is not None:
            raise self._error

    def report(self) -> OnlineReport:
        """The counts so far. Any thread may call it."""
        learning, tally, inbox = self._learning, self._learning.tally, self._inbox
        p50, p95 = tally.seconds()
        error, waiting = self._error, len(inbox)
        return OnlineReport(
            tried=tally.tried,
            accepted=tally.accepted,
            cleaned=tally.cleaned,
            refused=tally.refused,
            rested=tally.rested,
            seconds_p50=p50,
            seconds_p95=p95,
            weights_age=tally.weights_age,
            observed=inbox.observed,
            entered=self._samples.entered,
            left_out={str(name): count for name, count in self._samples.left_out.copy().items()},
            dropped=inbox.observed - inbox.taken,
            waiting=waiting,
            outside=learning.outside.total(),
            predicted_outside=self.model.outside,
            error=None if error is None else f"{type(error).__name__}: {error}",
            open=inbox.open,
            late=learning.late,
            tasks=learning.task + 1,
            restarts=learning.restarts,
            frozen=learning.frozen,
            helping=learning.comparison.now if learning.comparison else None,
            holds_v0=learning.holding is not None and learning.holding.held,
            family=learning.family.now if isinstance(learning, SampleLearning) and learning.family else None,
            fault=learning.faults.now if isinstance(learning, SampleLearning) and learning.faults else None,
        )

    def _run(self) -> None:
        try:
            due = told = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self._step()
                now = time.monotonic()
                due = max(due + self.period, now)  # after a slow adaptation: now, never catch up
                if self._recorder and now - told >= _TELL:
                    self._recorder.online(self.report())
                    told = now
            self._collect()  # count the samples of the last moment too
            if self._recorder:
                self._recorder.online(self.report())
        except Exception as error:  # noqa: BLE001 - kept for `check`; the robot goes on with the acting weights
            self._error = error

    def _step(self) -> None:
        self._collect()
        self._learning.learn()

    def _collect(self) -> None:
        # first: what was observed before a change is of no use any more
        for change in self._inbox.changes():
            self._learning.begin_task(change)
        for sample in self._inbox.take():
            if sample.task > self._learning.task:  # the task changed just now
                for change in self._inbox.changes():
                    self._learning.begin_task(change)
            self._learning.offer(sample)
