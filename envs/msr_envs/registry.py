"""Families by name: built in, your own as `package.module:attribute` or `path/to/file.py:attribute`, or recorded data.

Recorded data is named by its file, `path/to/file.npz` (see `msr_envs.recorded`).
"""

import contextlib
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from msr_envs.check import require_members
from msr_envs.recorded import Recorded
from msr_runtime.errors import FamilyError
from msr_runtime.task import TaskFamily

FAMILIES: dict[str, str] = {
    "hex-drive": "msr_envs.hex_drive:HexDrive",
    "hex-weak-thruster": "msr_envs.hex_drive:WeakThruster",
    "ring-nav": "msr_envs.ring_nav:RingNav",
}
"""Name of each built-in robot to where it lives; nothing is imported before it is asked for."""

SYNTHETIC: dict[str, str] = {
    "rank1": "msr_envs.synthetic_1d:RANK1",
    "rank2": "msr_envs.synthetic_1d:RANK2",
    "rank5": "msr_envs.synthetic_1d:RANK5",
    "conv-c8": "msr_envs.synthetic_2d:CONV_C8",
    "conv-d8": "msr_envs.synthetic_2d:CONV_D8",
    "conv-c8-hard": "msr_envs.synthetic_2d:CONV_C8_HARD",
    "conv-d8-hard": "msr_envs.synthetic_2d:CONV_D8_HARD",
}
"""The same of the paper's synthetic problems."""

COMPRESSED: dict[str, str] = {
    "conv-c8-compressed": "msr_envs.compressed:CONV_C8_COMPRESSED",
    "conv-d8-compressed": "msr_envs.compressed:CONV_D8_COMPRESSED",
    "conv-c8-hard-compressed": "msr_envs.compressed:CONV_C8_HARD_COMPRESSED",
    "conv-d8-hard-compressed": "msr_envs.compressed:CONV_D8_HARD_COMPRESSED",
}
"""The 2-D ones of them by their sufficient statistics, for a single layer."""

_BUILT_IN = FAMILIES | SYNTHETIC | COMPRESSED


def load_family(name: str) -> TaskFamily:
    """The family of that name; an attribute that is a class or a function is called without arguments.

    Modules and files are imported as a script in the working folder, or in the file's folder, would import them.

    Raises:
        FamilyError: if the name is unknown, the file, module or attribute is missing, the import fails, what is found
            does not meet the TaskFamily Protocol, or recorded data is damaged.
    """
    if name.endswith(".npz"):
        return Recorded(name)
    source, colon, attribute = _BUILT_IN.get(name, name).rpartition(":")
    if not (colon and source and attribute):
        close = difflib.get_close_matches(name, _BUILT_IN, n=1, cutoff=0.5)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise FamilyError(
            f"family '{name}' is unknown.{hint} Built in are {', '.join(_BUILT_IN)}; your own is written "
            "package.module:attribute or path/to/file.py:attribute, and recorded data path/to/file.npz."
        )
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise FamilyError(f"family '{name}': '{source}' has no attribute '{attribute}'{hint}")
    found = getattr(module, attribute)
    if isinstance(found, type) or (callable(found) and not isinstance(found, TaskFamily)):
        try:
            found = found()
        except Exception as error:
            raise FamilyError(
                f"family '{name}': calling {attribute}() without arguments failed with {type(error).__name__}: {error}"
            ) from error
    return require_members(found)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FamilyError(f"family file '{path}' does not exist (looked for {path.resolve()})")
    # a name that no other module has, so that two files of one name can both be loaded
    module_name = f"msr_family_{path.stem}_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise FamilyError(f"family file '{path}' cannot be imported as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # pydantic and dataclasses look their own module up
    try:
        with _import_from(path.resolve().parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise _import_failed(str(path), error) from error
    return module


def _import_module(source: str) -> ModuleType:
    try:
        with _import_from(Path.cwd()):
            return importlib.import_module(source)
    except Exception as error:
        raise _import_failed(source, error) from error


@contextlib.contextmanager
def _import_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _import_failed(source: str, error: Exception) -> FamilyError:
    return FamilyError(f"family module '{source}' could not be imported: {type(error).__name__}: {error}")
