"""The folder of a run: its configuration, its metrics and its checkpoints.

The folder holds `config.json`, `metrics.jsonl`, TensorBoard events, `last.safetensors`, `best.safetensors` and `lock`.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from torch.utils.tensorboard.writer import SummaryWriter

from msr_runtime.errors import CheckpointError, InputError
from msr_runtime.files import local_path, write_atomically
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import learner_class
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.training.checkpoint import LAST, damaged, load_checkpoint, stored_digest
from msr_runtime.meta.training.checkpoint_fit import wrong_optimizer
from msr_runtime.meta.training.config import TrainConfig, first_fault
from msr_runtime.meta.training.lock import locked, require_free
from msr_runtime.normalization import Normalization

CONFIG, METRICS = "config.json", "metrics.jsonl"
"""Names of two files in a run's folder."""


class Saved(NamedTuple):
    """The state of a checkpoint from which a run resumes. It can be sent to other processes."""

    learner: Tensors
    """The learner's state, by name."""
    normalization: Normalization
    """Center and scale of the inputs and outputs."""
    step: int
    """Outer steps taken."""
    best: float
    """Lowest validation loss so far, in normalized units."""
    optimizer: Tensors
    """State of the outer optimizer, by `index.key`."""
    digest: str
    """The checkpoint's digest."""


class Run(NamedTuple):
    """The folder of a run, and the state from which the run resumes. `open_run` makes it."""

    path: Path
    """The folder."""
    config: TrainConfig
    """The configuration of the run. If the run resumes, the one that its checkpoint holds."""
    saved: Saved | None = None
    """State of the last checkpoint. None if the run starts anew."""

    def continued(self, config: TrainConfig) -> "Run":
        """Return the run, extended if a configuration has more outer steps and is the run's in all else.

        The outer rate then goes on along the schedule of a run with that many steps: it rises again.

        Raises:
            CheckpointError: It differs. The message names each setting that does.

        """
        own = self.config.extended(max(self.config.settings.steps, config.settings.steps))
        if differ := own.differences(config):
            raise CheckpointError(
                f"run {self.path} was trained with other settings than the ones given now: {differ}; give --resume "
                "alone, which takes the run's own settings, or choose another folder. Only more steps extend a run"
            )
        return self._replace(config=own)

    @contextmanager
    def claimed(self, last: str | None) -> Iterator[None]:
        """Make the folder, and keep other processes from training in it until the block ends.

        Args:
            last: Digest of the last checkpoint that the folder should hold. None if it should hold none.

        Raises:
            CheckpointError: Another process trains in the folder, or has done so since `open_run`.

        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            if stored_digest(self.path / LAST) != last:
                raise CheckpointError(
                    f"another process has trained in folder {self.path} since this one looked into it; resume what it "
                    "left there (--resume), or choose another folder"
                )
            yield

    def begin(self) -> None:
        """Write `config.json` and an empty `metrics.jsonl`.

        If the run resumes, the rows of `metrics.jsonl` up to the checkpoint's step are kept.
        """
        write_atomically(self.path / CONFIG, self.config.model_dump_json(indent=2).encode())
        if self.saved is not None:
            self._truncate_metrics(self.saved.step)
        else:
            write_atomically(self.path / METRICS, b"")

    @contextmanager
    def log(self) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Open the metrics. Yields `log(step, figures)`, which writes to `metrics.jsonl` and to TensorBoard."""
        start = self.saved.step if self.saved else 0
        with SummaryWriter(self.path, purge_step=start) as board, (self.path / METRICS).open("a") as metrics:

            def log(step: int, figures: dict[str, float]) -> None:
                json.dump({"step": step, **figures}, metrics)
                metrics.write("\n")
                metrics.flush()  # before the checkpoint is written: a run killed after that resumes with all its rows
                for name, value in figures.items():
                    board.add_scalar(name, value, step)

            yield log

    def _truncate_metrics(self, step: int) -> None:
        path = self.path / METRICS
        # a process that was killed may have written half of its last row: it has no closing brace
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())


def open_run(
    path: Path | str, config: TrainConfig | None, *, resume: bool = False, learner: type[Learner] | None = None
) -> Run:
    """Look into the folder of a run, before any long work. Nothing is written.

    Args:
        path: The folder. It need not exist: `MetaTrainer` makes it.
        config: The configuration of the run. None takes that of the run that resumes.
        resume: Continue from the folder's last checkpoint. More outer steps in `config`, or in the folder's
            `config.json`, extend the run.
        learner: The class of your own learner. Without it, the built-in learner named in the configuration.

    Returns:
        The run, for `MetaTrainer`. Give `Run.saved` to `prepare`.

    Raises:
        CheckpointError: `resume` is False and the folder already holds a run, or no configuration is given; `resume` is
            True and the folder holds no checkpoint, a damaged one, one of a run with another configuration, or a
            `config.json` that was edited; or another process trains in the folder.
        InputError: The folder cannot be made or written.

    Example:
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta import LearnerConfig, TrainConfig, TrainSettings, open_run
        >>> config = TrainConfig.of(load_family("ring-nav"), "msr", LearnerConfig(), TrainSettings())
        >>> run = open_run(folder / "ring", config)
        >>> print(run.saved, run.path.exists())  # a new run, and no file yet
        None False

    """
    path = local_path(path)
    _require_writable(path)
    require_free(path)
    if not resume:
        if (path / LAST).exists():
            raise CheckpointError(
                f"folder {path} holds a run already ({LAST}); resume that run (--resume), or choose another folder"
            )
        if config is None:
            raise CheckpointError(f"run {path} is to begin without a configuration; give one, or resume a run")
        return Run(path, config.settled(learner or learner_class(config.method)))
    if path.is_dir() and not (path / LAST).exists():
        raise CheckpointError(
            f"folder {path} holds no run to resume ({LAST}): none began there, or it was stopped before it took its "
            "first step; begin it without --resume"
        )
    checkpoint = load_checkpoint(path / LAST, learner)
    if (wrong := wrong_optimizer(checkpoint.learner, checkpoint.optimizer)) is not None:
        raise damaged(path / LAST, wrong)
    there = _with_steps_of(path / CONFIG, checkpoint.config)
    saved = Saved(
        checkpoint.learner.state_dict(),
        checkpoint.normalization,
        checkpoint.step,
        checkpoint.best,
        checkpoint.optimizer,
        checkpoint.digest,
    )
    run = Run(path, there, saved)
    return run if config is None else run.continued(config)


def _require_writable(path: Path) -> None:
    """Refuse a folder that cannot be made, or in which no file can be."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise InputError(f"run '{path}' cannot be a folder, because '{there}' is a file; name another folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"run '{path}' cannot be written: '{there}' takes no new file ({error.strerror}); name another folder"
        ) from error


def _with_steps_of(path: Path, config: TrainConfig) -> TrainConfig:
    """Return a checkpoint's configuration with the steps of `config.json`, if these are more: the run was extended.

    Refuse a `config.json` that says something else than the checkpoint in any other way: neither may be ignored.
    """
    try:
        stored = TrainConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return config  # it is written again
    except ValidationError as error:
        raise _edited(path, first_fault(error)) from error
    extended = config.extended(max(config.settings.steps, stored.settings.steps))
    if differ := extended.differences(stored):
        raise _edited(path, differ)
    return extended


def _edited(path: Path, differ: str) -> CheckpointError:
    return CheckpointError(
        f"{path} was edited after the run began, but a run keeps the settings that it began with: {differ}; undo "
        "the edit, or begin a run with these settings in another folder"
    )
