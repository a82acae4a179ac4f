"""Find a family by its name.

A name is one of these:

* the name of a built-in family, such as `ring-nav`, or with options, such as `ring-nav:beams=8` or
  `omniglot:ways=20,turned=true`;
* `package.module:attribute` or `path/to/file.py:attribute`, for a family of your own;
* `path/to/file.npz`, for recorded data (see `msr_envs.recorded`);
* `path/to/file.yaml`, for logs that the file describes (see `msr_envs.logs`).
"""

import difflib
import inspect
import json
from pathlib import Path
from typing import Any

from msr_envs.checking.family import require_members
from msr_envs.logs import log_family
from msr_envs.named_code import in_users_line, load_attribute
from msr_envs.recorded import Recorded
from msr_runtime.errors import FamilyError, MsrError
from msr_runtime.task import TaskFamily

FAMILIES: dict[str, str] = {
    "ant": "msr_envs.ant:Ant",
    "arm": "msr_envs.arm:Arm",
    "hex-drive": "msr_envs.hex_drive:HexDrive",
    "hex-weak-thruster": "msr_envs.hex_drive:WeakThruster",
    "quadrotor": "msr_envs.quadrotor:Quadrotor",
    "ring-nav": "msr_envs.ring_nav:RingNav",
}
"""The built-in robots: name to `module:attribute`. A module is imported only when its family is loaded."""

SYNTHETIC: dict[str, str] = {
    "rank1": "msr_envs.synthetic.one_dimension:RANK1",
    "rank2": "msr_envs.synthetic.one_dimension:RANK2",
    "rank5": "msr_envs.synthetic.one_dimension:RANK5",
    "conv-c8": "msr_envs.synthetic.two_dimensions:CONV_C8",
    "conv-d8": "msr_envs.synthetic.two_dimensions:CONV_D8",
    "conv-c8-hard": "msr_envs.synthetic.two_dimensions:CONV_C8_HARD",
    "conv-d8-hard": "msr_envs.synthetic.two_dimensions:CONV_D8_HARD",
}
"""The synthetic problems of the paper: name to `module:attribute`."""

COMPRESSED: dict[str, str] = {
    "conv-c8-compressed": "msr_envs.synthetic.compressed:CONV_C8_COMPRESSED",
    "conv-d8-compressed": "msr_envs.synthetic.compressed:CONV_D8_COMPRESSED",
    "conv-c8-hard-compressed": "msr_envs.synthetic.compressed:CONV_C8_HARD_COMPRESSED",
    "conv-d8-hard-compressed": "msr_envs.synthetic.compressed:CONV_D8_HARD_COMPRESSED",
}
"""The two-dimensional synthetic problems as sufficient statistics, for a single layer: name to `module:attribute`."""

IMAGES: dict[str, str] = {
    "omniglot": "msr_envs.images:Omniglot",
    "images": "msr_envs.images:Images",
}
"""Few-shot images. Each reads a file that an option or an environment variable names: name to `module:attribute`."""

BUILT_IN: dict[str, str] = FAMILIES | SYNTHETIC | COMPRESSED | IMAGES
"""All built-in families: name to `module:attribute`."""


LOG_FILES = (".yaml", ".yml")
"""Endings of files that describe logs."""

_OTHER_FILES = (".csv", ".tsv", ".parquet", ".npy", ".h5", ".hdf5", ".mat", ".json", ".jsonl", ".pkl", ".pt", ".mcap")
"""Endings of files that hold data which `load_family` does not read."""


def is_built_in(name: str) -> bool:
    """Return whether the name is that of a built-in family, perhaps with options."""
    family, _, options = name.partition(":")
    return name in BUILT_IN or (family in BUILT_IN and "=" in options)


def load_family(name: str) -> TaskFamily:
    """Return the family of that name.

    If the attribute is a class or a function, it is called without arguments. A module may import what lies in the
    working folder, and a file may import what lies beside it.

    Args:
        name: The name; the module says what it may be.

    Raises:
        FamilyError: The name is unknown; the file, module or attribute is missing; the import fails; the object lacks
            members of `TaskFamily`; or recorded data is damaged.

    Example:
        >>> import numpy as np
        >>> from msr_envs import load_family
        >>> family = load_family("ring-nav")
        >>> batch = family.sample(np.random.default_rng(0), tasks=4, shots=10, queries=32, split="train")
        >>> batch.support_x.shape, batch.query_y.shape
        ((4, 10, 18), (4, 32, 2))

    """
    if is_built_in(name):
        return require_members(_built_in(name))
    base, colon, options = name.partition(":")
    if colon and "=" in options and not Path(base).exists():
        raise FamilyError(f"family '{name}': there is no built-in family '{base}'.{_closest(base)}")
    if name.endswith(".npz"):
        return Recorded(name)
    if name.endswith(LOG_FILES):
        return log_family(name)
    if name.endswith(".py"):
        raise FamilyError(f"family '{name}' names a file but not the family in it; name both, as in {name}:MyFamily")
    if Path(name).suffix.lower() in _OTHER_FILES or Path(name).is_file():
        raise FamilyError(
            f"family '{name}' is a file that is not read by itself. Logs (.csv, .tsv, .parquet, .mcap, LeRobot's data "
            f"sets) are described in a small file, {Path(name).stem}.yaml, that says which columns are x and which are "
            f"y: `files: {name}`, `inputs:` and `outputs:`. Other data goes into the arrays x (tasks, examples, "
            f"numbers) and y of a .npz file: numpy.savez('{Path(name).stem}.npz', x=x, y=y)"
        )
    source, colon, attribute = name.rpartition(":")
    if not (colon and source and attribute):
        raise FamilyError(
            f"family '{name}' is unknown.{_closest(name)} Name your own family as package.module:attribute or "
            "path/to/file.py:attribute, and recorded data as path/to/file.npz."
        )
    found = load_attribute(name)
    if isinstance(found, type) or (callable(found) and not isinstance(found, TaskFamily)):
        try:
            found = found()
        except Exception as error:
            raise FamilyError(
                f"family '{name}': calling {attribute}() without arguments failed with {type(error).__name__}: "
                f"{error}{in_users_line(error)}; correct it, or name a family that is already made (an instance)"
            ) from error
    return require_members(found)


def _closest(name: str) -> str:
    """What a name that is no built-in family may have meant."""
    close = difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} The built-in families are {', '.join(BUILT_IN)}."


def _built_in(name: str) -> object:
    family, _, given = name.partition(":")
    found = load_attribute(BUILT_IN[family])
    options = _options(name, given)
    if not isinstance(found, type):
        if options:
            raise FamilyError(f"family '{name}': {family} has no options; leave out '{given}'")
        return found
    known = list(inspect.signature(found).parameters)
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise FamilyError(
                f"family '{name}': {family} has no option '{option}'.{hint} Its options are "
                f"{', '.join(known) or 'none'}"
            )
    try:
        return found(**options)
    except MsrError:
        raise
    except (TypeError, ValueError) as error:
        raise FamilyError(f"family '{name}': its options are not accepted: {error}; correct them") from error


def _options(name: str, given: str) -> dict[str, Any]:
    """Return the options `a=1,b=text`. What is no number and not true, false or null is a text."""
    options: dict[str, Any] = {}
    for part in filter(None, given.split(",")):
        option, equals, text = part.partition("=")
        if not equals or not option or option in options:
            raise FamilyError(
                f"family '{name}': '{part}' is not an option; each is given once, as name=value, with commas between "
                "them, as in omniglot:ways=20,turned=true"
            )
        try:
            options[option] = json.loads(text)
        except json.JSONDecodeError:
            options[option] = text
    return options
