"""`msr train`: meta-trains a network, and continues an interrupted run."""

import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import tyro

from msr_runtime.cli.families import named_family
from msr_runtime.cli.output import visible_lines
from msr_runtime.errors import CheckpointError, InputError, MsrError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS, learner_class
from msr_runtime.meta.training.checkpoint import LAST, load_checkpoint
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.distributed import LostProcessError, processes
from msr_runtime.meta.training.preparation import prepare
from msr_runtime.meta.training.run import open_run
from msr_runtime.meta.training.trainer import MetaTrainer, TrainResult

_DEFAULTS = ("msr", LearnerConfig(), TrainSettings())


def train(
    family: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FAMILY")],
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")],
    /,
    method: Annotated[
        str, tyro.conf.arg(metavar="NAME", help=f"The learning method. One of {', '.join(LEARNERS)}.")
    ] = _DEFAULTS[0],
    resume: Annotated[
        tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="(default: begin a new run)")
    ] = False,
    learner: LearnerConfig = _DEFAULTS[1],
    settings: TrainSettings = _DEFAULTS[2],
) -> int:
    """Meta-train a network on a task family.

    A mean squared error is measured on normalized outputs: 1 is the loss of always giving the mean.

    Ctrl-C ends the run after it has written a checkpoint; --resume continues the run.

    To use several cores or machines, start it with torchrun:

    torchrun --nproc-per-node 2 -m msr_runtime.cli train FAMILY RUN_DIR

    Args:
        family: The task family, in one of four forms:
            - a built-in name, such as ring-nav
            - package.module:attribute
            - path/to/file.py:attribute
            - path/to/file.npz, recorded data from `msr dataset`
        run: The folder of the run: configuration, checkpoints, metrics and TensorBoard events.
        method: The learning method.
        resume: Continue the run from its last checkpoint, with the settings of the run.
        learner: The network and its inner loop.
        settings: The outer loop and its data.
    """
    torch.set_num_threads(1)  # the networks are small: with more threads, each would mostly wait for the others
    learner_class(method)
    loaded = named_family(family)
    with processes() as joined:
        try:
            _check_folder(run)
            if resume:
                stored = joined.from_first(lambda: load_checkpoint(run / LAST).config)
                if (method, learner, settings) == _DEFAULTS:
                    method, learner, settings = stored.method, stored.learner, stored.settings
            config = TrainConfig.of(loaded, method, learner, settings, source=family)
            if resume:
                _check_settings(run, stored, config)
            progress = sys.stderr.isatty()
            opened = joined.from_first(lambda: open_run(run, config, resume=resume))
            if opened.saved is not None and opened.saved.step >= settings.steps:
                if joined.first:
                    print(f"{run} is complete: it has taken all its {settings.steps} steps; nothing is left to do")
                return 0
            prepared = prepare(loaded, config, saved=opened.saved, progress=progress, processes=joined)
            if joined.first:
                print(*visible_lines(prepared), sep="\n", flush=True)
            result = MetaTrainer(prepared, opened, progress=progress, processes=joined).train()
        except LostProcessError:
            raise
        except MsrError:
            if not joined.first:
                # The first process usually fails with the same error and prints it. In the meantime torchrun ends this
                # one, so the sentence is printed once. If only this process failed, it prints the sentence itself.
                time.sleep(10)
            raise
        if joined.first:
            _report(result, family, settings.steps)
    return 0 if result.finished else 130


def _check_folder(run: Path) -> None:
    """Refuse a run's folder that cannot be made, before any long work."""
    there = next(each for each in (run, *run.absolute().parents) if each.exists())
    if not there.is_dir():
        raise InputError(f"run '{run}' cannot be a folder, because '{there}' is a file; name another folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"run '{run}' cannot be written: '{there}' takes no new file ({error.strerror}); name another folder"
        ) from error


def _check_settings(run: Path, stored: TrainConfig, given: TrainConfig) -> None:
    """Refuse to resume a run with other settings, and name those that differ."""
    sides = [
        {"method": config.method}
        | {f"learner.{name}": value for name, value in config.learner}
        | {f"settings.{name}": value for name, value in config.settings}
        for config in (stored, given)
    ]
    differ = [
        f"--{name.replace('_', '-')} {sides[1][name]} (the run has {value})"
        for name, value in sides[0].items()
        if sides[1][name] != value
    ]
    if differ:
        raise CheckpointError(
            f"run {run} was trained with other settings than the ones given now: {', '.join(differ)}; give "
            "--resume alone, which takes the run's own settings, or choose another folder"
        )


def _report(result: TrainResult, family: str, steps: int) -> None:
    if result.finished:
        print(f"{result.step} steps in {result.seconds:.1f} s, best validation loss {result.best:.4g}, in {result.run}")
    else:
        again = shlex.join(["msr", "train", family, str(result.run), "--resume"])
        print(f"interrupted after step {result.step} of {steps}; continue with: {again}", file=sys.stderr)
