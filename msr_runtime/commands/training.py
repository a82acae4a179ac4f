"""`msr train` and `msr export`."""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import tyro

from msr_envs.registry import load_family
from msr_runtime.bundle import Bundle
from msr_runtime.commands.output import BundlePath, print_rows
from msr_runtime.errors import MsrError
from msr_runtime.meta.checkpoint import LAST, load_checkpoint
from msr_runtime.meta.config import TrainConfig, TrainSettings
from msr_runtime.meta.distributed import LostProcessError, processes
from msr_runtime.meta.learner import LearnerConfig
from msr_runtime.meta.learners import LEARNERS, learner_class
from msr_runtime.meta.trainer import MetaTrainer, TrainResult

_DEFAULTS = ("msr", LearnerConfig(), TrainSettings())


def train(
    family: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FAMILY")],
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")],
    /,
    method: Annotated[str, tyro.conf.arg(help=f"One of {', '.join(LEARNERS)}.")] = _DEFAULTS[0],
    resume: tyro.conf.FlagCreatePairsOff[bool] = False,
    learner: LearnerConfig = _DEFAULTS[1],
    settings: TrainSettings = _DEFAULTS[2],
) -> int:
    """Meta-train a method on a task family. Ctrl-C leaves a checkpoint, from which --resume goes on.

    On several cores or machines: torchrun --nproc-per-node 2 -m msr_runtime.cli train FAMILY RUN_DIR.

    Args:
        family: A built-in name, package.module:attribute, path/to/file.py:attribute or recorded data, path/to/file.npz.
        run: The run's folder: configuration, checkpoints, metrics and TensorBoard events.
        method: The learner's name.
        resume: Go on from the run's last checkpoint, by default with the settings that it was begun with.
        learner: The network and its inner loop.
        settings: The outer loop.
    """
    torch.set_num_threads(1)  # the networks are small: more threads only wait for each other
    learner_class(method)
    loaded = load_family(family)
    with processes() as joined:
        try:
            if resume and (method, learner, settings) == _DEFAULTS:
                stored = joined.from_first(lambda: load_checkpoint(run / LAST).config)
                method, learner, settings = stored.method, stored.learner, stored.settings
            config = TrainConfig.of(loaded, method, learner, settings, source=family)
            progress = sys.stderr.isatty()
            trainer = MetaTrainer(loaded, config, run, resume=resume, progress=progress, processes=joined)
            result = trainer.train()
        except LostProcessError:
            raise
        except MsrError:
            if not joined.first:
                time.sleep(10)  # if the first failed as well, it has said so, and torchrun ends this one meanwhile
            raise
        if joined.first:
            _report(result, family, settings.steps)
    return 0 if result.finished else 130


def _report(result: TrainResult, family: str, steps: int) -> None:
    if result.finished:
        print(f"{result.step} steps in {result.seconds:.1f} s, best validation loss {result.best:.4g}, in {result.run}")
    else:
        again = shlex.join(["msr", "train", family, str(result.run), "--resume"])
        print(f"interrupted after step {result.step} of {steps}; go on with: {again}", file=sys.stderr)


def export(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|CHECKPOINT")], bundle: BundlePath, /
) -> int:
    """Freeze a learner into a bundle, proved equal to torch before it is written.

    Args:
        checkpoint: A run's folder, of which the best checkpoint is taken, or a .safetensors file of one.
        bundle: The bundle's folder; an older bundle there is replaced.
    """
    from msr_export import export_bundle  # the exporter takes seconds to import: `train` does without

    torch.set_num_threads(1)
    found = load_checkpoint(checkpoint)
    config = found.config
    path = export_bundle(
        found.learner,
        found.normalization,
        bundle,
        family=load_family(config.family),
        shots=config.settings.shots,
        seed=config.seed,
        config_digest=found.digest,
    )
    written = Bundle.open(path)
    parity = written.manifest.parity
    print_rows(
        {
            "bundle": path,
            "parity": f"{parity.max_relative_error:.1e} relative error at most, {parity.tolerance:.0e} allowed",
            **{name: f"{len(data)} bytes" for name, data in written.files.items()},
        }
    )
    return 0
