"""Code that a user names: `package.module:attribute` or `path/to/file.py:attribute`.

To name it is to run it. So a name is taken from the user, and never from a file.
"""

import contextlib
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from msr_runtime.errors import FamilyError, MsrError, line_of_users_code


def load_attribute(name: str, what: str = "family", error: type[MsrError] = FamilyError) -> Any:
    """Return what a name leads to. A module may import what lies in the working folder, a file what lies beside it.

    Args:
        name: `package.module:attribute` or `path/to/file.py:attribute`.
        what: What it is, for the messages.
        error: The kind of error to raise.

    Raises:
        MsrError: Of the kind `error`: the name has no colon; the file, module or attribute is missing; or the import
            fails.

    """
    source, colon, attribute = name.rpartition(":")
    if not (colon and source and attribute):
        raise error(
            f"{what} '{name}' is unknown; name one of your own as package.module:attribute or path/to/file.py:attribute"
        )
    load = _import_file if source.endswith(".py") else _import_module
    try:
        module = load(source, what, error)
    except MsrError:
        raise
    except Exception as raised:
        raise error(
            f"{what} module '{source}' could not be imported: {type(raised).__name__}: {raised}{in_users_line(raised)}"
        ) from raised
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise error(f"{what} '{name}': '{source}' has no attribute '{attribute}'{hint}")
    return getattr(module, attribute)


def in_users_line(error: Exception) -> str:
    """Return in which line of the user's code an error arose, to end a sentence with. Empty if in none."""
    line = line_of_users_code(error)
    return f", in {line}" if line else ""


def _import_file(source: str, what: str, error: type[MsrError]) -> ModuleType:
    path = Path(source)
    if not path.is_file():
        raise error(
            f"{what} file '{path}' does not exist (looked for {path.resolve()}); correct the path, or give it from the "
            "working folder"
        )
    # The hash makes the module's name unique: two files with the same name can both be loaded.
    module_name = f"msr_{what}_{path.stem}_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise error(
            f"{what} file '{path}' cannot be imported as a Python module; check that it is a file of Python code"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # pydantic and dataclasses look up the module in which a class is defined
    try:
        with _import_from(path.resolve().parent):
            spec.loader.exec_module(module)
    except Exception:
        del sys.modules[module_name]
        raise
    return module


def _import_module(source: str, _what: str, _error: type[MsrError]) -> ModuleType:
    with _import_from(Path.cwd()):
        return importlib.import_module(source)


@contextlib.contextmanager
def _import_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the imported code may have removed the folder itself
            sys.path.remove(str(folder))
