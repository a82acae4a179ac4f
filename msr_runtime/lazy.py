"""Packages whose names are imported at their first use, so that a program pays only for what it uses."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def at_first_use(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the function `__getattr__` of a package, which Python calls for a name that is not there (PEP 562).

    Args:
        package: The name of the package.
        names: Names by the module that defines them.
    """
    module_of = {name: module for module, each in names.items() for name in each}

    def get(name: str) -> Any:
        if name in module_of:
            return getattr(importlib.import_module(module_of[name]), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return get
