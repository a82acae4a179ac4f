"""The outer loop: meta-learns what a learner's inner loop starts from, vectorised over tasks.

Source: Zhou, Knowles, Finn, "Meta-Learning Symmetries by Reparameterization", 2021, algorithms 1 and 2.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from msr_runtime.errors import CheckpointError, TrainingError
from msr_runtime.files import write_atomically
from msr_runtime.meta.augment import augment_queries, augments, require_symmetry
from msr_runtime.meta.checkpoint import BEST, LAST, build_learner, load_checkpoint, save_checkpoint
from msr_runtime.meta.config import TrainConfig
from msr_runtime.meta.distributed import ALONE, Processes
from msr_runtime.meta.inner import Tensors
from msr_runtime.meta.learner import Learner
from msr_runtime.meta.normalization import Normalization, measure_normalization
from msr_runtime.meta.outer import (
    Batch,
    Gradient,
    OuterLoss,
    outer_gradient,
    require_inner_steps,
    step_weights,
    traced_gradient,
)
from msr_runtime.meta.pool import TaskPool
from msr_runtime.meta.preflight import require_linear, require_pool, require_samples
from msr_runtime.meta.progress import training_progress, working
from msr_runtime.task import SymmetricFamily, TaskBatch, TaskFamily

LOG_EVERY = 10
TRACE_FROM = 400
"""Outer steps of a run from which on tracing its gradient pays; the numbers are the same either way."""
PATIENCE = 50
"""Outer steps in a row without a finite gradient after which a run is given up; the inner rates are then 1/200 of
what they were."""
BETAS = (0.9, 0.95)
"""Adam's. Its usual 0.999 remembers small gradients for hundreds of steps, and the first large one after them, when an
inner loop comes near its limit of stability, is then followed by outer steps that throw the learner over it."""
POOL, NORMALIZATION, VALIDATION, SYMMETRY = range(4)
"""Streams of random numbers; every outer step has one of its own behind them, so that resuming needs no state."""


class TrainResult(NamedTuple):
    """How a run ended."""

    run: Path
    """The run's folder."""
    step: int
    """Outer steps taken."""
    best: float
    """The lowest validation loss, normalised units."""
    finished: bool
    """False if it was interrupted; it resumes."""
    seconds: float
    """Wall time of this call."""


class _Saved(NamedTuple):
    """What of a checkpoint a run goes on from, in a form that can be sent to other processes."""

    learner: Tensors
    normalization: Normalization
    step: int
    best: float
    optimizer: Tensors


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Return the outer rate at `step`: a cosine up to `peak` over the first 30 %, then a cosine down to nearly zero.

    Source: Smith and Topin, "Super-convergence", 2018.
    """
    rise, position = 0.3, step / max(1, steps)
    if position < rise:
        return peak * (0.04 + 0.96 * (1 - math.cos(math.pi * position / rise)) / 2)
    return peak * max(1e-4, (1 + math.cos(math.pi * (position - rise) / (1 - rise))) / 2)


class MetaTrainer:
    """Trains a learner on a family into a run's folder; `resume=True` goes on from the folder's last checkpoint.

    The folder holds `config.json`, `metrics.jsonl`, TensorBoard events, `last.safetensors` and `best.safetensors`. On
    the CPU a resumed run computes the same numbers, bit for bit, as one that never stopped.

    Several `processes` share the tasks of each outer step and compute what one does, to rounding. Each of them makes
    the same trainer and calls `train`; the first alone reads and writes the folder, validates and shows progress.

    Raises:
        AugmentationError: the family's augmentation is no symmetry of its tasks and the settings do not insist.
        CheckpointError: the folder holds another run, or nothing to resume.
        TrainingError: an outer step would need more tasks or samples than are simulated, or has fewer tasks than there
            are processes, or the family's samples are of other shapes than its fields, or too many for the memory.

    """

    def __init__(
        self,
        family: TaskFamily,
        config: TrainConfig,
        run: Path,
        *,
        learner: type[Learner] | None = None,
        resume: bool = False,
        progress: bool = True,
        processes: Processes = ALONE,
    ) -> None:
        self.family, self.config, self.run = family, config, Path(run)
        self.settings, self.processes = config.settings, processes
        self.progress = progress and processes.first
        self.step, self.best, self.bad_steps = 0, math.inf, 0
        self._stop = False
        require_pool(family, self.settings)
        require_samples(family, self.settings)
        self.share = processes.share(self.settings.tasks_per_step)
        self.group = family.group() if isinstance(family, SymmetricFamily) else None
        self.learner = build_learner(config, learner, self.group)
        require_linear(family, self.learner)
        if self.settings.multi_step or self.settings.recompute:
            require_inner_steps(self.learner)
        saved = processes.from_first(partial(self._open_folder, learner, resume=resume))
        if saved is not None:
            self.learner.load_state_dict(saved.learner)
            self.normalization, self.step, self.best = saved.normalization, saved.step, saved.best
        else:
            if self.settings.augment and not self.settings.insist_on_augmentation and augments(family):
                with working("testing the augmentation on held-out tasks", shown=self.progress):
                    require_symmetry(family, self._rng(SYMMETRY))
            self.normalization = self._measure_normalization()
        self.learner.to(processes.device)
        processes.align(self.learner)
        with working(f"simulating {self.settings.training_tasks} tasks", shown=self.progress):
            self.pool = TaskPool(family, self._rng(POOL), self.settings.training_tasks, self.settings.samples_per_task)
        self.validation = self._draw_validation()
        self.outer_loss = OuterLoss(self.learner, recompute=self.settings.recompute).train()
        self._gradients: dict[bool, Gradient] = {}
        self.trained = [p for p in self.learner.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, betas=BETAS)
        if saved is not None:
            self._restore_optimizer(saved.optimizer)
        if not processes.first:
            return
        if saved is not None:
            self._truncate_metrics()
        else:
            self.run.mkdir(parents=True, exist_ok=True)
            write_atomically(self.run / "config.json", config.model_dump_json(indent=2).encode())
            write_atomically(self.run / "metrics.jsonl", b"")

    def train(self) -> TrainResult:
        """Take the remaining outer steps. Ctrl-C or SIGTERM ends after the step in hand and leaves a checkpoint.

        Raises:
            LostProcessError: another process was ended or does not answer; the last checkpoint resumes.
            TrainingError: no outer gradient is finite any more.

        """
        began = time.perf_counter()
        with (
            self._catch_signals(),
            self._log() as log,
            training_progress(self.settings.steps, self.step, self.config.method, shown=self.progress) as show,
        ):
            while self.step < self.settings.steps and not self.processes.agree(self._stop):
                figures = self._outer_step()
                self.step += 1
                if self.processes.first:
                    self._record(figures, log)
                show(self.step, figures["loss"])
        finished = self.step == self.settings.steps
        if not finished and self.processes.first:
            self._save(LAST)
        best = self.processes.from_first(lambda: self.best)  # and so none goes on before the checkpoint is written
        return TrainResult(self.run, self.step, best, finished, time.perf_counter() - began)

    def _record(self, figures: dict[str, float], log: Callable[[dict[str, float]], None]) -> None:
        validates = self.step % self.settings.validation_every == 0 or self.step == self.settings.steps
        if validates:
            figures["validation_loss"] = self._validate()
        if self.step % LOG_EVERY == 0 or validates:
            log(figures)
        if validates:
            self._save(LAST)

    @contextmanager
    def _log(self) -> Iterator[Callable[[dict[str, float]], None]]:
        """Yield what writes a step's figures to the metrics and to TensorBoard, in the first process."""
        if not self.processes.first:
            yield lambda _: None
            return
        with SummaryWriter(self.run, purge_step=self.step) as board, (self.run / "metrics.jsonl").open("a") as metrics:

            def log(figures: dict[str, float]) -> None:
                json.dump({"step": self.step, **figures}, metrics)
                metrics.write("\n")
                metrics.flush()  # before the checkpoint, so that a run killed after it resumes with all its rows
                for name, value in figures.items():
                    board.add_scalar(name, value, self.step)

            yield log

    def _outer_step(self) -> dict[str, float]:
        rng = self._rng(len((POOL, NORMALIZATION, VALIDATION, SYMMETRY)) + self.step)
        settings = self.settings
        batch = self.pool.draw(rng, settings.tasks_per_step, settings.shots, settings.queries)
        if settings.augment:
            batch = augment_queries(self.family, rng, batch)
        mine = TaskBatch(*(array[self.share] for array in batch))
        loss, gradients = self._differentiate(self._tensors(mine))
        loss, gradients = self.processes.average(loss, gradients, settings.tasks_per_step)
        for name, parameter in self.outer_loss.named_parameters():
            parameter.grad = gradients.get(name)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, settings.clip))
        rate = one_cycle(self.step, settings.steps, settings.outer_rate)
        if math.isfinite(norm):
            self.bad_steps = 0
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
        else:
            # The inner loop diverged on some task. Skipping alone would leave the next step where this one failed.
            if self.learner.rule:
                self.learner.rule.shrink()
            self._count_bad_step()
        return {"loss": float(loss), "gradient_norm": norm, "outer_rate": rate}

    def _differentiate(self, batch: Batch) -> tuple[Tensor, Tensors]:
        rule = self.learner.rule
        weights = step_weights(self.step, self.settings.multi_step, rule.steps if rule else 0)
        weights = None if weights is None else weights.to(self.processes.device)
        plain = weights is None  # another graph, which has the loss after the last inner step alone
        if plain not in self._gradients:
            traces, loss = self.settings.steps >= TRACE_FROM, self.outer_loss
            self._gradients[plain] = traced_gradient(loss, batch, weights) if traces else outer_gradient(loss)
        return self._gradients[plain](batch, weights)

    def _validate(self) -> float:
        self.outer_loss.eval()
        with torch.no_grad():
            losses = self.outer_loss(*self.validation)
        self.outer_loss.train()
        loss = float(losses.mean())
        if loss < self.best or not (self.run / BEST).exists():
            self.best = loss if math.isfinite(loss) else math.inf  # nothing would ever be below NaN
            self._save(BEST)
        return loss

    def _count_bad_step(self) -> None:
        self.bad_steps += 1
        if self.bad_steps >= PATIENCE:
            raise TrainingError(
                f"{PATIENCE} outer steps in a row had no finite gradient (now at step {self.step}): the inner loop "
                f"diverges; lower the inner rate (started at {self.config.learner.inner_rate}), the outer rate "
                f"({self.settings.outer_rate}) or the inner steps ({self.config.learner.inner_steps})"
            )

    def _open_folder(self, learner: type[Learner] | None, *, resume: bool) -> _Saved | None:
        """Return what a resumed run goes on from; None for a new one, whose folder holds no other."""
        if not resume:
            if (self.run / LAST).exists():
                raise CheckpointError(f"folder {self.run} holds a run already; resume it or choose another folder")
            return None
        checkpoint = load_checkpoint(self.run / LAST, learner)
        if checkpoint.config != self.config:
            raise CheckpointError(
                f"run {self.run} was trained with other settings than asked for; resume it with its own "
                "(they are in its config.json) or choose another folder"
            )
        state = checkpoint.learner.state_dict()
        return _Saved(state, checkpoint.normalization, checkpoint.step, checkpoint.best, checkpoint.optimizer)

    def _save(self, name: str) -> None:
        save_checkpoint(
            self.run / name,
            config=self.config,
            learner=self.learner,
            normalization=self.normalization,
            step=self.step,
            best=self.best,
            optimizer=self._optimizer_state() if name == LAST else None,
        )

    def _optimizer_state(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _truncate_metrics(self) -> None:
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def _measure_normalization(self) -> Normalization:
        return measure_normalization(self.family, self._rng(NORMALIZATION), self.group)

    def _draw_validation(self) -> Batch:
        rng, settings = self._rng(VALIDATION), self.settings
        queries = 32 * len(self.family.query_sets)
        batch = self.family.sample(rng, settings.validation_tasks, settings.shots, queries, "validation")
        return self._tensors(augment_queries(self.family, rng, batch) if settings.augment else batch)

    def _tensors(self, batch: TaskBatch) -> Batch:
        support = self.normalization.normalize(batch.support_x, batch.support_y)
        query = self.normalization.normalize(batch.query_x, batch.query_y)
        return [torch.from_numpy(array).to(self.processes.device) for array in (*support, *query)]

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, stream])

    @contextmanager
    def _catch_signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C into a flag, so that no step is cut in half; a second one ends at once."""

        def stop(*_: object) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        self._stop = False
        try:
            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever started it handles signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
