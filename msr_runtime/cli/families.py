"""Task families by name: which names a user may give, and which a file may.

A family is a program. The user's command may name it by any name that `load_family` takes. A bundle or a checkpoint
names its family too, but a stranger may have made the file. So a name in a file may lead only to a program that is
installed already, or to recorded data or a description of logs, which are numbers and words and no program.
"""

import warnings
from importlib.metadata import entry_points
from pathlib import Path

from msr_envs.checking import check_family
from msr_envs.registry import BUILT_IN, IMAGES, LOG_FILES, is_built_in, load_family
from msr_runtime.cli.output import refuse
from msr_runtime.errors import FamilyError, FamilyWarning
from msr_runtime.files import local_path
from msr_runtime.task import TaskFamily

_DATA = (".npz", *LOG_FILES)
"""Endings of files that hold or describe data. They are read, and nothing in them is run."""
ENTRY_POINTS = "msr.families"
"""The group of entry points in which an installed package registers its families: name to `module:attribute`."""


def named_family(name: str) -> TaskFamily:
    """Return the family that the user names: as `load_family` takes it, or as an installed package registered it.

    Raises:
        FamilyError: As `load_family`.
        InputError: The name is an address, such as `s3://bucket/logs.npz`.
    """
    local_path(name)
    if is_built_in(name):
        return load_family(name)
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        try:
            entry.load()  # now, so that a module of the same name in the working folder is not taken for it
        except Exception as error:
            raise FamilyError(
                f"family '{name}' is registered as {entry.value}, which could not be imported: "
                f"{type(error).__name__}: {error}; install its package again"
            ) from error
        return load_family(entry.value)
    return load_family(name)


def checked_family(family: TaskFamily) -> str:
    """Check a family as `check_family` does, print what it warns of, and return what it returns.

    Raises:
        FamilyError: As `check_family`.
    """
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always", FamilyWarning)
        said = check_family(family)
    for each in given:
        if issubclass(each.category, FamilyWarning):
            refuse(f"WARNING: {each.message}")
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return said


def family_of(path: Path, name: str | None, source: str) -> TaskFamily:
    """Return the family of a model: the one that the user names, or else the one that the model's file names.

    A file of recorded data that the model names is looked for in the working folder, and then in the folders that hold
    the model, the nearest first: training may have been started in any of them.

    Args:
        path: The bundle, run or checkpoint.
        name: The user's --family. None if there is none.
        source: What the file names as its family. It never leads to a program that is not installed.

    Raises:
        FamilyError: If the user has to name the family, or as `load_family`.
    """
    if name is not None:
        return named_family(name)
    # Options of images say what is read and drawn. Those of other families may name folders to write to.
    built_in = source in BUILT_IN or (is_built_in(source) and source.partition(":")[0] in IMAGES)
    if not built_in and is_built_in(source):
        raise FamilyError(
            f"'{path}' names the family '{source}', and options of a built-in family are not taken from a file: name "
            f"it with --family {source}, if you trust it"
        )
    if not (built_in or source.endswith(_DATA) or source in entry_points(group=ENTRY_POINTS).names):
        raise FamilyError(
            f"'{path}' names the family '{source}', which is neither built in nor registered by an installed package. "
            "A family is a program, and none is run because a file names it: name the family that you trust with "
            "--family, as package.module:attribute or path/to/file.py:attribute"
        )
    try:
        near = (folder / source for folder in (Path(), *path.absolute().parents))
        found = next((file for file in near if file.is_file()), None) if source.endswith(_DATA) else None
        return named_family(source if found is None else str(found))
    except (FamilyError, ValueError) as error:  # ValueError: a null character in the name of a file
        raise FamilyError(
            f"'{path}' names the family '{source}', which cannot be loaded: {error}. A path is looked up from the "
            f"working folder, {Path.cwd()}, and from the folders that hold the model: say with --family where it is"
        ) from error
