"""The outer loop: learns the symmetry matrices, the start of the inner loop and its rates, for many tasks at once.

Source: Zhou, Knowles, Finn, "Meta-Learning Symmetries by Reparameterization", 2021, algorithms 1 and 2.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.training.augmentation import augment_queries
from msr_runtime.meta.training.checkpoint import BEST, LAST, save_checkpoint
from msr_runtime.meta.training.config import TrainConfig
from msr_runtime.meta.training.distributed import ALONE, Processes
from msr_runtime.meta.training.disturbance import draw_disturbance, draw_noise, draw_shots, shot_counts, switch_tasks
from msr_runtime.meta.training.episodes import EpisodePool
from msr_runtime.meta.training.memory import keep_freed_memory
from msr_runtime.meta.training.outer import Batch, Gradient, OuterLoss, outer_gradient, step_weights, traced_gradient
from msr_runtime.meta.training.preparation import Preparation, prepare
from msr_runtime.meta.training.progress import newton_hint, training_progress
from msr_runtime.meta.training.run import Run, open_run
from msr_runtime.meta.training.streams import FIRST_STEP, VALIDATION, disturbance_stream, layers_seed, stream
from msr_runtime.task import TaskBatch, TaskFamily

LOG_EVERY = 10
"""Outer steps between two rows of the metrics."""
TRACE_FROM = 400
"""Runs of at least this many outer steps per number of shots trace their gradient, because only then tracing saves
time. The numbers are the same with and without it."""
HINT_AFTER = 3
"""Outer steps of a call after which the time of one is looked at."""
PATIENCE = 50
"""Outer steps in a row without a finite gradient after which training gives up. The inner rates are then 1/200 of what
they were before these steps."""
BETAS = (0.9, 0.95)
"""Betas of Adam. The usual second beta, 0.999, remembers small gradients for hundreds of outer steps. When an inner
loop comes close to its limit of stability, a large gradient follows these small ones. Adam then takes too long steps,
and the inner loop diverges."""


class TrainResult(NamedTuple):
    """How a run ended."""

    run: Path
    """The run's folder."""
    step: int
    """Outer steps taken."""
    best: float
    """Lowest validation loss, in normalized units."""
    finished: bool
    """False if the run was interrupted. It can be resumed."""
    seconds: float
    """Wall time of this call, in seconds."""


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Return the outer rate at outer step `step` of `steps`.

    Over the first 30 % of the steps, the rate follows a cosine from 4 % of `peak` up to `peak`. Then it follows a
    cosine down to nearly zero. Source: Smith and Topin, "Super-convergence", 2018.
    """
    rise, position = 0.3, step / max(1, steps)
    if position < rise:
        return peak * (0.04 + 0.96 * (1 - math.cos(math.pi * position / rise)) / 2)
    return peak * max(1e-4, (1 + math.cos(math.pi * (position - rise) / (1 - rise))) / 2)


class MetaTrainer:
    """Trains a prepared learner, and does nothing else. `prepare` checks and simulates; `open_run` looks at the folder.

    On the CPU, a resumed run computes the same numbers as a run that never stopped, bit for bit.

    Several processes share the tasks of each outer step. Their numbers equal those of one process up to rounding. Each
    process makes the same trainer and calls `train`. Only the first one writes files, validates and shows progress.

    Args:
        prepared: What `prepare` returned.
        run: What `open_run` returned. `train` makes its folder and writes `config.json`.
        progress: Show progress on stderr: a bar on a terminal, else one line per validation.
        processes: The processes that share the run.

    """

    def __init__(self, prepared: Preparation, run: Run, *, progress: bool = True, processes: Processes = ALONE) -> None:
        # a group that was to be found has a name by now, and only then can the learner be built from its configuration
        self.family, self.config, self.run = prepared.family, prepared.config, run._replace(config=prepared.config)
        self.settings, self.processes = prepared.config.settings, processes
        self.learner, self.normalization, self.pool = prepared.learner, prepared.normalization, prepared.pool
        self.few = isinstance(self.learner.rule, Recursive)
        self.progress = progress and processes.first
        self.step, self.best, self.bad_steps = 0, math.inf, 0
        self._stop = False
        self.share = processes.share(self.settings.tasks_per_step)
        self.learner.to(processes.device)
        processes.align(self.learner)  # machines may differ in rounding when they draw the initial weights
        disturbing = disturbance_stream(self.settings.seed, VALIDATION)
        self.validation = self._tensors(prepared.validation, disturbing, slice(None))
        self.outer_loss = OuterLoss(
            self.learner, recompute=self.settings.recompute, precision=self.settings.precision
        ).train()
        self._gradients: dict[tuple[bool, int], Gradient] = {}
        self.trained = [p for p in self.learner.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, betas=BETAS)
        if run.saved is not None:
            self.step, self.best = run.saved.step, run.saved.best
            self._restore_optimizer(run.saved.optimizer)
        self._began = False
        self._last = run.saved.digest if run.saved else None  # digest of the last checkpoint in the folder

    def train(self) -> TrainResult:
        """Take the remaining outer steps. A checkpoint is written before the first one.

        Ctrl-C or SIGTERM lets the present outer step end, writes a checkpoint and returns.

        Returns:
            How the run ended.

        Raises:
            CheckpointError: Another process trains in the run's folder, or has done so since `open_run`.
            LostProcessError: Another process has ended or does not answer. The run resumes from its last checkpoint.
            TrainingError: 50 outer steps in a row had no finite gradient.

        """
        keep_freed_memory()
        began, first = time.perf_counter(), self.step
        hint = newton_hint(self.learner, self.settings.shots) if self.progress else None
        with (
            self._catch_signals(),
            self._claimed_folder(),
            self.run.log() if self.processes.first else nullcontext() as log,
            training_progress(self.settings.steps, self.step, self.config.method, shown=self.progress) as show,
        ):
            # A signal reaches one process. All must agree to stop after the same step, or the others wait for ever.
            while self.step < self.settings.steps and not self.processes.agree(self._stop):
                started = time.perf_counter()
                figures = self._outer_step()
                self.step += 1
                # the first steps of a call trace graphs and fill caches
                if hint is not None and self.step == first + HINT_AFTER:
                    hint(time.perf_counter() - started)
                if log:
                    self._record(figures, log)
                show(self.step, figures)
        finished = self.step == self.settings.steps
        if not finished and self.processes.first:
            self._save(LAST)
        # Only the first process knows the best loss. The others also wait here until it has written the checkpoint.
        best = self.processes.from_first(lambda: self.best)
        return TrainResult(self.run.path, self.step, best, finished, time.perf_counter() - began)

    @contextmanager
    def _claimed_folder(self) -> Iterator[None]:
        """Keep other processes from training in the folder, and make a new run one that can be resumed."""
        with ExitStack() as stack:

            def begin() -> None:
                stack.enter_context(self.run.claimed(self._last))
                if not self._began:
                    self.run.begin()
                if self._last is None:
                    self._save(LAST)

            self.processes.from_first(begin)  # what is refused in the first process ends all of them
            self._began = True
            yield

    def _record(self, figures: dict[str, float], log: Callable[[int, dict[str, float]], None]) -> None:
        validates = self.step % self.settings.validation_every == 0 or self.step == self.settings.steps
        if validates:
            figures["validation_loss"] = self._validate()
        if self.step % LOG_EVERY == 0 or validates:
            log(self.step, figures)
        if validates:
            self._save(LAST)

    def _outer_step(self) -> dict[str, float]:
        settings, number = self.settings, FIRST_STEP + self.step
        rng, disturbing = stream(settings.seed, number), disturbance_stream(settings.seed, number)
        shots = draw_shots(disturbing, settings, few=self.few)
        batch = self._draw(rng, disturbing, shots)
        if self.learner.random:
            torch.manual_seed(layers_seed(settings.seed, number, self.processes.rank))
        loss, gradients = self._differentiate(batch)
        loss, gradients = self.processes.average(loss, gradients, settings.tasks_per_step)
        # Adam leaves out a parameter whose gradient is None, and keeps its state
        for name, parameter in self.outer_loss.named_parameters():
            parameter.grad = gradients.get(name)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, settings.clip))
        rate = one_cycle(self.step, settings.steps, settings.outer_rate)
        if math.isfinite(norm):
            self.bad_steps = 0
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
        else:
            # The inner loop diverged on some task. Smaller inner rates help; only skipping this step would let the next
            # one fail in the same way.
            if self.learner.rule:
                self.learner.rule.shrink()
            self._count_bad_step()
        return {"loss": float(loss), "gradient_norm": norm, "outer_rate": rate}

    def _draw(self, rng: np.random.Generator, disturbing: np.random.Generator, shots: int) -> Batch:
        """Draw the tasks of an outer step, with augmented queries, and return those of this process."""
        settings = self.settings
        tasks, queries = settings.tasks_per_step, settings.queries
        if isinstance(self.pool, EpisodePool):
            return self.pool.draw(rng, tasks, shots, queries, augment=settings.augment, share=self.share)
        batch = self.pool.draw(rng, tasks, shots, queries)
        if settings.augment:
            batch = augment_queries(self.family, rng, batch)
        return self._tensors(batch, disturbing, self.share)

    def _differentiate(self, batch: Batch) -> tuple[Tensor, Tensors]:
        rule = self.learner.rule
        weights = step_weights(self.step, self.settings.multi_step, rule.steps if rule else 0)
        weights = None if weights is None else weights.to(self.processes.device)
        # With and without weights are two graphs: without, only the last loss is computed. Each number of shots has its
        # own, because a graph holds shapes.
        kind = weights is None, batch[0].shape[1]
        if kind not in self._gradients:
            counts, loss = shot_counts(self.settings, few=self.few), self.outer_loss
            # A filter's graph grows with the samples: tracing it for 64 of them takes a minute, and saves nothing,
            # because nearly all of its time is spent in large products.
            traces = not self.few and self.settings.steps >= TRACE_FROM * len(counts)
            self._gradients[kind] = traced_gradient(loss, batch, weights) if traces else outer_gradient(loss)
        return self._gradients[kind](batch, weights)

    def _validate(self) -> float:
        self.outer_loss.eval()
        support_x, support_y, *queries = self.validation
        # A filter must be right after every number of samples. The last ones count: the first may be another task's.
        counts = shot_counts(self.settings, few=True) if self.few else [self.settings.shots]
        rows = support_x.shape[1] // self.settings.shots
        with torch.no_grad():
            losses = [
                self.outer_loss(support_x[:, -count * rows :], support_y[:, -count * rows :], *queries).mean()
                for count in counts
            ]
        self.outer_loss.train()
        loss = float(torch.stack(losses).mean())
        if loss < self.best or not (self.run.path / BEST).exists():
            self.best = loss if math.isfinite(loss) else math.inf  # no later loss compares as lower than NaN
            self._save(BEST)
        return loss

    def _count_bad_step(self) -> None:
        self.bad_steps += 1
        if self.bad_steps >= PATIENCE:
            own = self.config.learner
            shorter = f"lower the inner rate (--learner.inner-rate, now {own.inner_rate})"
            if isinstance(self.learner.rule, GaussNewton):
                shorter = "raise the damping (--learner.damping)"
            raise TrainingError(
                f"{PATIENCE} outer steps in a row had no finite gradient (now at step {self.step}): the inner loop "
                f"diverges; {shorter}, or lower the outer rate (--settings.outer-rate, now {self.settings.outer_rate}) "
                f"or the inner steps (--learner.inner-steps, now {own.steps})"
            )

    def _save(self, name: str) -> None:
        digest = save_checkpoint(
            self.run.path / name,
            config=self.config,
            learner=self.learner,
            normalization=self.normalization,
            step=self.step,
            best=self.best,
            optimizer=self._optimizer_state() if name == LAST else None,
        )
        if name == LAST:
            self._last = digest

    def _optimizer_state(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        # the settings of the optimizer are in the code and the schedule; only its moments come from the checkpoint
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _tensors(self, batch: TaskBatch, disturbing: np.random.Generator, share: slice) -> Batch:
        """Disturb the support sets, and normalize the tasks of this process, `batch[share]`."""
        # Drawn for all tasks: the numbers must not depend on how many processes share them.
        disturbance = draw_disturbance(disturbing, batch.support_y.shape, self.settings)
        batch = switch_tasks(disturbing, batch, self.settings)
        mine = TaskBatch(*(array[share] for array in batch))
        support_x, support_y = self.normalization.normalize(mine.support_x, mine.support_y)
        if disturbance is not None:
            support_y = support_y + disturbance[share]
        query_x, query_y = self.normalization.normalize(mine.query_x, mine.query_y)
        if self.settings.noise and self.learner.likelihood:
            # The filter's noise is that of every y that is observed, and the queries count as observed too.
            noise = draw_noise(disturbing, batch.query_y.shape, self.settings)
            query_y = query_y + noise[share].astype(np.float32)
        arrays = support_x, support_y, query_x, query_y
        return [torch.from_numpy(array).to(self.processes.device) for array in arrays]

    @contextmanager
    def _catch_signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C or SIGTERM into a flag, so that the present step ends. A second one ends at once."""

        def stop(*_: object) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        self._stop = False
        try:
            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # raised outside the main thread: the program that started this thread handles signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train(
    family: TaskFamily,
    config: TrainConfig,
    path: Path | str,
    *,
    resume: bool = False,
    learner: type[Learner] | None = None,
    progress: bool = True,
    processes: Processes = ALONE,
) -> TrainResult:
    """Train a learner on a family: `open_run`, `prepare` and `MetaTrainer.train` in one call.

    Args:
        family: The tasks.
        config: The configuration of the run.
        path: The folder of the run.
        resume: Continue from the folder's last checkpoint.
        learner: The class of your own learner. Without it, the built-in learner named in the configuration.
        progress: Show progress on stderr.
        processes: The processes that share the run.

    Returns:
        How the run ended.

    Raises:
        CheckpointError: See `open_run`.
        AugmentationError: See `prepare`.
        TrainingError: See `prepare` and `MetaTrainer.train`.

    Example:
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta import LearnerConfig, TrainConfig, TrainSettings, train
        >>> family = load_family("ring-nav")
        >>> settings = TrainSettings(steps=4, training_tasks=20, insist_on_augmentation=True)  # a real run takes more
        >>> config = TrainConfig.of(family, "msr", LearnerConfig(width=8, filters=4), settings)
        >>> result = train(family, config, folder / "ring", progress=False)
        >>> print(result.step, result.finished, (result.run / "best.safetensors").exists())
        4 True True

    """
    # Only the first process reads the folder: it may write there later, and other machines may not have the folder.
    run = processes.from_first(lambda: open_run(path, config, resume=resume, learner=learner))
    prepared = prepare(family, run.config, learner=learner, saved=run.saved, progress=progress, processes=processes)
    return MetaTrainer(prepared, run, progress=progress, processes=processes).train()
