"""The packages of the extra `data`, imported when a file needs them."""

import importlib
from types import ModuleType

from msr_runtime.errors import FamilyError


def require_package(module: str, what: str) -> ModuleType:
    """Import a module of the extra.

    Args:
        module: Its name, such as `pyarrow.csv`.
        what: What needs it, for the message.

    Raises:
        FamilyError: It cannot be imported. The message names the extra.

    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FamilyError(
            f"{what} needs the package {module.partition('.')[0]}, which cannot be imported ({error}): "
            'pip install "msr-runtime[data]"'
        ) from error
