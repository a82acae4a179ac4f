"""Networks, rules and methods of your own, by the names under which a configuration keeps them.

A configuration, and so a checkpoint, holds a name alone. A name is looked up here and never run, because a file may
come from a stranger. A program is found if this process was given it (`register`, or an option of the command), or if
an installed package registers it as an entry point.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Literal

from msr_runtime.errors import TrainingError

Kind = Literal["network", "rule", "method"]
"""What a program is."""
GROUPS: dict[Kind, str] = {"network": "msr.networks", "rule": "msr.rules", "method": "msr.methods"}
"""The groups of entry points in which an installed package registers its programs: name to `module:attribute`."""
OPTIONS: dict[Kind, str] = {"network": "--learner.network", "rule": "--learner.rule", "method": "--method"}
"""The options of the command that name a program."""
ANY = ""
"""In place of a name: the program stands for every name of its kind that is not built in."""

_given: dict[tuple[Kind, str], Any] = {}


def register(kind: Kind, name: str, program: Any) -> None:
    """Let configurations name a program of your own, in this process.

    Args:
        kind: What it is. A network is a function or class that is called as `MLP` is, `(inputs, outputs, widths,
            bias=...)`, and returns a torch module. A rule is a subclass of `Rule` that is called with the adapted
            tensors' names and starting rates, the number of steps, and `first_order=...`. A method is a subclass of
            `Learner`.
        name: The name, for example `nets.py:Net`.
        program: The program.

    Example:
        >>> import torch
        >>> from msr_runtime.meta import LEARNERS, LearnerConfig, register
        >>> def linear(inputs, outputs, widths, *, bias=True):
        ...     return torch.nn.Linear(inputs[0], outputs[0], bias=bias)
        >>> register("network", "linear", linear)
        >>> LEARNERS["maml"](LearnerConfig(network="linear"), (18,), (2,), "mse").adapted_names
        ('weight', 'bias')

    """
    _given[kind, name] = program


@contextmanager
def registered(programs: Mapping[tuple[Kind, str], Any]) -> Iterator[None]:
    """Register programs until the block ends: kind and name to the program."""
    before = dict(_given)
    _given.update(programs)
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


def find_program(kind: Kind, name: str, built_in: Collection[str]) -> Any:
    """Return the program of your own that a configuration names.

    Args:
        kind: What it is.
        name: Its name in the configuration.
        built_in: The names that are built in, for the message.

    Raises:
        TrainingError: There is no such program here. What is not built in, registered or installed is not looked for.

    """
    for known in (name, ANY):
        if (kind, known) in _given:
            return _given[kind, known]
    for entry in entry_points(group=GROUPS[kind], name=name):
        try:
            return entry.load()
        except Exception as error:
            raise TrainingError(
                f"{kind} '{name}' is registered as {entry.value}, which could not be imported: "
                f"{type(error).__name__}: {error}; install its package again"
            ) from error
    raise TrainingError(
        f"there is no {kind} '{name}'; the {kind}s are {', '.join(built_in)}. One of your own is a program, and none "
        f"is run because a file names it: give it with {OPTIONS[kind]}, as package.module:attribute or "
        "path/to/file.py:attribute, or call `msr_runtime.meta.register`"
    )
