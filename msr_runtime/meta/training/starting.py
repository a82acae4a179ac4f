"""A run that begins with the weights of a trained one: another rule on the same network, or the same rule again.

A filter, for example, is trained in few outer steps from a network that Gauss-Newton steps have trained.
"""

from pathlib import Path
from typing import NamedTuple

from msr_runtime.errors import CheckpointError
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.meta.rules.rule import Rule, Tensors
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainConfig
from msr_runtime.normalization import Normalization
from msr_runtime.task import fields_agree


class Start(NamedTuple):
    """What a run takes from a trained one. It can be sent to other processes."""

    path: str
    """The run or checkpoint."""
    network: Tensors
    """The tensors of its network, by name."""
    rule: Rule | None
    """Its rule."""
    shots: int
    """The support samples with which it was trained."""
    normalization: Normalization
    """Center and scale of x and y, which its weights depend on."""


def read_start(config: TrainConfig, learner: type[Learner] | None = None) -> Start:
    """Read the run or checkpoint that the setting `start` names.

    Args:
        config: The configuration of the new run.
        learner: The class of your own learner, if the trained run has it too.

    Raises:
        CheckpointError: There is none, it cannot be read, or its fields of x or y are not those of the new run.

    """
    path = config.settings.start
    assert path is not None
    found = load_checkpoint(Path(path), learner)
    for side in ("inputs", "outputs"):
        seen, wanted = getattr(found.config, side), getattr(config, side)
        if not fields_agree(wanted, seen):
            raise CheckpointError(
                f"start {path} was trained with other {side} ({', '.join(f.name for f in seen)}) than family "
                f"'{config.family}' has ({', '.join(f.name for f in wanted)}); name a run of this family "
                "(--settings.start), or leave it out"
            )
    network = dict(found.learner.network.state_dict())
    return Start(path, network, found.learner.rule, found.config.settings.shots, found.normalization)


def begin_from(start: Start, learner: Learner, config: TrainConfig) -> None:
    """Give a new learner the weights of a trained one, and what its rule can use of the trained rule.

    Raises:
        CheckpointError: The networks differ. The message names the first tensor that does.

    """
    state = learner.network.state_dict()
    for name in sorted(state.keys() | start.network.keys()):
        seen, wanted = (tuple(each[name].shape) if name in each else None for each in (start.network, state))
        if seen != wanted:
            raise CheckpointError(
                f"start {start.path} has another network than method '{config.method}' with these options: its tensor "
                f"'{name}' {_shaped(seen)}, but here it {_shaped(wanted)}; give the network's options of that run "
                "(--method, --learner.width, --learner.filters and so on), or leave --settings.start out"
            )
    learner.network.load_state_dict(start.network)
    if isinstance(learner.rule, Recursive) and start.rule is not None:
        learner.rule.begin_as(start.rule, start.shots)


def _shaped(shape: tuple[int, ...] | None) -> str:
    return "does not exist" if shape is None else f"has shape {shape}"
