"""Networks, rules and methods of the user's own, as options of the commands name them.

As with families, a file names them too, but none is run because a file names it: the user gives it again, or has
installed a package that registers it.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

from msr_envs.named_code import load_attribute
from msr_runtime.cli.output import option
from msr_runtime.errors import InputError, TrainingError
from msr_runtime.meta.learners.config import RULES, LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.networks.registry import NETWORKS
from msr_runtime.meta.programs import ANY, OPTIONS, Kind, registered
from msr_runtime.meta.training.checkpoint import Checkpoint, load_checkpoint

BUILT_IN: dict[Kind, Collection[str]] = {"network": NETWORKS, "rule": RULES, "method": LEARNERS}
"""Kind of a program to the names that are built in."""
_NEEDED = "the built-in or installed one that the checkpoint names"


class Programs(BaseModel):
    """What a checkpoint of a network or a rule of your own needs: the program itself."""

    model_config = ConfigDict(frozen=True)

    network: Annotated[str | None, option("FILE.py:NAME", _NEEDED)] = None
    """The network, as it was named in training: package.module:attribute or path/to/file.py:attribute."""
    rule: Annotated[str | None, option("FILE.py:NAME", _NEEDED)] = None
    """The rule, as it was named in training."""


MethodOfCheckpoint = Annotated[str | None, option("FILE.py:NAME", _NEEDED)]
"""The option of a method of your own, for a command that reads a checkpoint."""


@contextmanager
def training_programs(method: str, learner: LearnerConfig) -> Iterator[None]:
    """Let the configuration of a training name programs of the user's own, until the block ends.

    Raises:
        TrainingError: One is not found, or fails when it is imported.

    """
    named: dict[Kind, str | None] = {"network": learner.network, "rule": learner.rule, "method": method}
    own: list[tuple[Kind, str]] = [(kind, name) for kind, name in named.items() if name and _is_path(kind, name)]
    with registered({(kind, name): _load(kind, name) for kind, name in own}):
        yield


def load_own(path: Path, programs: Programs, method: str | None) -> Checkpoint:
    """Read a checkpoint, which may use the programs that the user gives, whatever it calls them.

    Raises:
        CheckpointError: As `load_checkpoint`: the user has to give a program, for example.
        InputError: The checkpoint names a built-in network, rule or method, and the user gives another one.
        TrainingError: A program is not found, or fails when it is imported.

    """
    given = _given(programs, method)
    with registered({(kind, ANY): _load(kind, name) for kind, name in given.items()}):
        checkpoint = load_checkpoint(path)
    learner, method = checkpoint.learner.config, checkpoint.config.method
    named: dict[Kind, str | None] = {"network": learner.network, "rule": learner.rule, "method": method}
    for kind, name in given.items():
        if named[kind] in BUILT_IN[kind]:
            raise InputError(
                f"{OPTIONS[kind]} is {name}, but {path} was trained with the built-in {kind} '{named[kind]}'; leave "
                "the option out"
            )
    return checkpoint


def _given(programs: Programs, method: str | None) -> dict[Kind, str]:
    named: dict[Kind, str | None] = {"network": programs.network, "rule": programs.rule, "method": method}
    return {kind: name for kind, name in named.items() if name is not None}


def _is_path(kind: Kind, name: str) -> bool:
    return ":" in name and name not in BUILT_IN[kind]


def _load(kind: Kind, name: str) -> Any:
    return load_attribute(name, kind, TrainingError)
