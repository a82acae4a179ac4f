"""The pages of the Python API: one per package's room, with every public name of it."""

import importlib
import inspect
import pkgutil
import textwrap
from types import ModuleType

from sphinx.pycode import ModuleAnalyzer
from sphinx.util.logging import getLogger

_LOG = getLogger(__name__)

PACKAGES = {
    "msr_runtime": "On the robot",
    "msr_runtime.meta": "Meta-training, offline",
    "msr_export": "Export",
    "msr_c": "Export to C",
    "msr_envs": "Simulators and task families",
}
_ELSEWHERE = {"cli", "meta"}  # the commands have pages of their own, and so has `msr_runtime.meta`
_TOOLS = {"arrays", "files"}  # helpers that the packages share, and no user calls


def pages() -> dict[str, str]:
    """Path below `docs/reference/` to the page's text."""
    written = {}
    for package in PACKAGES:
        written |= _package_pages(importlib.import_module(package))
    listed = "\n".join(f"{title} <{package}/index>" for package, title in PACKAGES.items())
    written["api/index.md"] = (
        f"# Python API\n\nEvery public name, with its docstring.\n\n```{{toctree}}\n:maxdepth: 2\n\n{listed}\n```\n"
    )
    return written


def _package_pages(package: ModuleType) -> dict[str, str]:
    """The package's own page, which lists its rooms, and one page per room."""
    folder = f"api/{package.__name__}"
    written, documented = {}, set()
    for room in _rooms(package):
        written[f"{folder}/{_last(room)}.md"] = _page(package, room)
        documented |= _public(room).keys()
    if missing := set(getattr(package, "__all__", ())) - documented:
        raise RuntimeError(f"{package.__name__} exports {sorted(missing)}, which no room of it lists in its __all__")
    rooms = "\n".join(_last(room) for room in _rooms(package))
    written[f"{folder}/index.md"] = (
        f"# {package.__name__}\n\n```{{eval-rst}}\n.. automodule:: {package.__name__}\n   :no-members:\n```\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{rooms}\n```\n"
    )
    return written


def _rooms(package: ModuleType) -> list[ModuleType]:
    """The package's public parts that have a public name."""
    found = (info.name for info in pkgutil.iter_modules(package.__path__))
    names = (name for name in found if not name.startswith("_") and name not in _ELSEWHERE | _TOOLS)
    rooms = (importlib.import_module(f"{package.__name__}.{name}") for name in names)
    return [room for room in rooms if _public(room)]


def _public(room: ModuleType) -> dict[str, object]:
    """Public name to object: what `__all__` lists, or else the classes and functions that the module defines."""
    if hasattr(room, "__all__"):
        return {name: getattr(room, name) for name in room.__all__}
    return {
        name: value
        for name, value in vars(room).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == room.__name__
    }


def _shortest(package: ModuleType, room: ModuleType, name: str) -> str:
    """The name to import it by: from the package where that has it, from the room where not."""
    return f"{(package if name in getattr(package, '__all__', ()) else room).__name__}.{name}"


def _page(package: ModuleType, room: ModuleType) -> str:
    """The room's docstring, then a directive per public name."""
    # `msr_export.freeze` is a function and a module: the function has the name in the index
    index = "" if inspect.ismodule(getattr(package, _last(room))) else "\n   :no-index:"
    module = f".. automodule:: {room.__name__}\n   :no-members:{index}"
    names = (_directive(room, value, _shortest(package, room, name)) for name, value in _public(room).items())
    directives = "\n\n".join([module, *names])
    return f"# {room.__name__}\n\n```{{eval-rst}}\n{directives}\n```\n"


def _directive(room: ModuleType, value: object, path: str) -> str:
    if inspect.isclass(value) and issubclass(value, BaseException):
        return f".. autoexception:: {path}\n   :show-inheritance:"
    if inspect.isclass(value):
        # the parts of a class that lie in files of their own, and that nobody uses alone
        parts = value.__mro__[1:-1]
        own = all(part.__module__.startswith(f"{room.__name__}.") for part in parts)
        hidden = own and any(part.__name__ not in _public(room) for part in parts)
        whole = "\n   :inherited-members: object" if hidden else ""
        return f".. autoclass:: {path}{whole}"
    if inspect.isroutine(value):
        return f".. autofunction:: {path}"
    # Sphinx finds the text under a constant only in the file that defines it, not where it is exported from.
    module, _, name = path.rpartition(".")
    return f".. py:data:: {name}\n   :module: {module}\n\n" + textwrap.indent(_text_under(room, name), "   ")


def _text_under(room: ModuleType, name: str) -> str:
    """The string that follows the constant `name` where the room defines it."""
    files = [room.__name__]
    files += (info.name for info in pkgutil.iter_modules(getattr(room, "__path__", ()), f"{room.__name__}."))
    for file in files:
        notes = ModuleAnalyzer.for_module(file).find_attr_docs()
        if ("", name) in notes:
            return "\n".join(notes["", name])
    _LOG.warning("%s.%s is public and has no text: write a string under it that says what it is", room.__name__, name)
    return ""


def _last(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
