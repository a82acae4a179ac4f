"""`msr train`: meta-trains a network, and continues an interrupted run."""

import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
import tyro
from pydantic import BaseModel

from msr_envs.recorded import Recorded
from msr_envs.registry import is_built_in
from msr_runtime.cli.families import checked_family, named_family
from msr_runtime.cli.output import refuse, visible_lines
from msr_runtime.cli.programs import training_programs
from msr_runtime.errors import AugmentationWarning, MsrError
from msr_runtime.meta.learners.config import FOUND, LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS, learner_class
from msr_runtime.meta.learners.unused import refuse_unused
from msr_runtime.meta.symmetry.finding import known_group
from msr_runtime.meta.training.batch_test import check_batches
from msr_runtime.meta.training.checkpoint import LAST, build_learner
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.distributed import LostProcessError, processes
from msr_runtime.meta.training.preparation import Preparation, prepare
from msr_runtime.meta.training.run import Run, open_run
from msr_runtime.meta.training.split_test import check_splits
from msr_runtime.meta.training.streams import tasks_stream
from msr_runtime.meta.training.task_test import check_tasks
from msr_runtime.meta.training.trainer import MetaTrainer, TrainResult
from msr_runtime.task import TaskFamily

_METHOD, _LEARNER, _SETTINGS = "msr", LearnerConfig(), TrainSettings()
_METHODS = (
    f"The learning method. One of {', '.join(LEARNERS)}; or one of your own, a subclass of Learner, named as "
    "package.module:attribute or path/to/file.py:attribute."
)

Resume = Literal["no", "yes", "auto"]
Settings = TypeVar("Settings", bound=BaseModel)
Given = tuple[str | None, LearnerConfig, TrainSettings]
"""The method, None if it is not given, and the settings of the command line."""


def train(
    family: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FAMILY")],
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")],
    /,
    method: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME", help=_METHODS, help_behavior_hint=f"(default: {_METHOD}, or that of the run)"),
    ] = None,
    resume: Annotated[Resume, tyro.conf.arg(metavar="[auto]", help_behavior_hint="(default: begin a new run)")] = "no",
    learner: LearnerConfig = _LEARNER,
    settings: TrainSettings = _SETTINGS,
) -> int:
    """Meta-train a network on a task family.

    A mean squared error is measured on normalized outputs: 1 is the loss of always giving the mean.

    The loss of a filter is a negative log likelihood, which may be below zero.

    A family that is not built in is checked first, as `check_family` and `check_tasks` do.

    A network, rule or method of your own is tried first: an outer step, and the export.

    Ctrl-C ends the run after it has written a checkpoint; --resume continues the run.

    To use several cores or machines, start it with torchrun:

    torchrun --nproc-per-node 2 -m msr_runtime.cli train FAMILY RUN_DIR

    Args:
        family: The task family, in one of five forms:
            - a built-in name, such as ring-nav, or with options, such as omniglot:ways=20,file=omniglot.npz
            - package.module:attribute
            - path/to/file.py:attribute
            - path/to/file.npz, recorded data from `msr dataset`
            - path/to/file.yaml, a description of logs: CSV, Parquet, MCAP or a LeRobot data set
        run: The folder of the run: configuration, checkpoints, metrics and TensorBoard events.
        method: The learning method.
        resume: Continue the run from its last checkpoint, with the settings of the run.
            With auto, begin it if there is none yet: one command that can be given again.
            More --settings.steps extend the run.
        learner: The network and its inner loop.
        settings: The outer loop and its data.
    """
    torch.set_num_threads(1)  # the networks are small: with more threads, each would mostly wait for the others
    with training_programs(method or _METHOD, learner):
        return _train(family, run, (method, learner, settings), resume)


def _train(family: str, run: Path, given: Given, resume: Resume) -> int:
    method, learner, _ = given
    chosen = learner_class(method or _METHOD)
    loaded = named_family(family)
    if resume != "yes":
        unused = chosen.unused(chosen.settled(learner, loaded.loss))
        refuse_unused(method or _METHOD, learner, unused, LearnerConfig.model_fields)
    with processes() as joined:
        try:
            opened, config = joined.from_first(lambda: _opened(run, loaded, family, given, resume))
            if opened.saved is not None and opened.saved.step >= config.settings.steps:
                if joined.first:
                    print(f"{run} is complete: it has taken all its {opened.saved.step} steps; nothing is left to do")
                return 0
            try:
                fresh = opened.saved is None and joined.first
                if fresh and config.learner.grid_group != FOUND:
                    _require_exportable(config, loaded)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AugmentationWarning)  # it is printed below
                    prepared = prepare(loaded, config, saved=opened.saved, processes=joined)
            except KeyboardInterrupt:
                refuse(f"interrupted before the first step: {run} is as it was; give the same command again")
                return 130
            if fresh and config.learner.grid_group == FOUND:
                _require_exportable(prepared.config, loaded)
            if joined.first:
                _show(prepared)
            result = MetaTrainer(prepared, opened, processes=joined).train()
        except LostProcessError:
            raise
        except MsrError:
            if not joined.first:
                # The first process usually fails with the same error and prints it. In the meantime torchrun ends this
                # one, so the sentence is printed once. If only this process failed, it prints the sentence itself.
                time.sleep(10)
            raise
        if joined.first:
            _report(result, family, config)
    return 0 if result.finished else 130


def _opened(path: Path, family: TaskFamily, source: str, given: Given, resume: Resume) -> tuple[Run, TrainConfig]:
    """Check the family and look into the run's folder.

    Returns:
        The run and its configuration, of which a resumed run takes what is not given from its checkpoint.
    """
    if not is_built_in(source) and type(family) is not Recorded:
        checked_family(family)
    method, learner, settings = given
    if resume == "no" or (resume == "auto" and not (path / LAST).exists()):
        run = open_run(path, TrainConfig.of(family, method or _METHOD, learner, settings, source=source))
        if not is_built_in(source):
            _doubt_tasks(family, settings.seed)
        return run, run.config
    run = open_run(path, None, resume=True)
    own = run.config
    asked = (
        method or own.method,
        _changed(own.learner, learner),
        _changed(own.settings, settings),
    )
    run = run.continued(TrainConfig.of(family, *asked, source=source))
    return run, run.config


def _doubt_tasks(family: TaskFamily, seed: int) -> None:
    """Warn if the support set of a task does not tell the task, if samples depend on how many are asked for, or if
    splits share tasks.
    """
    rng = tasks_stream(seed)
    report = check_tasks(family, rng)
    if report is not None and report.verdict != "tells":
        refuse(f"WARNING: {report.doubt()}")
    splits = check_splits(family, rng)
    if splits is not None and splits.shared:
        refuse(f"WARNING: {splits.doubt()}")
    batches = check_batches(family, rng)
    if batches is not None and batches.depends:
        refuse(f"WARNING: {batches.doubt()}")


def _require_exportable(config: TrainConfig, family: TaskFamily) -> None:
    """Refuse a network, rule or method of the user's own that no bundle can hold. The built-in ones all can."""
    group = known_group(family) if config.learner.form == "equivariant" else None
    learner = build_learner(config, group=group)
    if not learner.own or not learner.adapted_size():
        return
    try:
        from msr_export import check_exportable  # takes seconds to import, and may be left out of an installation
    except ModuleNotFoundError as error:
        refuse(f"note: {config.learner.network} was not tried in ONNX before training, because {error}")
        return
    check_exportable(learner)


def _changed(own: Settings, given: Settings) -> Settings:
    """The settings of a run, with those that the command line gives in place of its own."""
    return own.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})


def _show(prepared: Preparation) -> None:
    print(*visible_lines(prepared), sep="\n", flush=True)
    if prepared.symmetry is not None and prepared.symmetry.verdict == "in doubt":
        refuse(f"WARNING: {prepared.symmetry.doubt()}")


def _report(result: TrainResult, family: str, config: TrainConfig) -> None:
    if result.finished:
        unit = "nats" if config.loss == "cross_entropy" else "on normalized y"
        if config.learner.rule == "recursive" and config.learner.objective == "likelihood":
            unit = "nats per number of y"
        loss = f"best validation loss {result.best:.4g} {unit}"
        print(f"{result.step} steps in {result.seconds:.1f} s, {loss}, in {result.run}")
    else:
        again = shlex.join(["msr", "train", family, str(result.run), "--resume"])
        print(
            f"interrupted after step {result.step} of {config.settings.steps}; continue with: {again}", file=sys.stderr
        )
