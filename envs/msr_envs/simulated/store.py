"""Keep gathered data on disk, under a digest of all that decides it."""

import functools
import hashlib
import importlib
import inspect
import json
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.numpy import load, save

from msr_envs.simulated.spaces import numbers
from msr_runtime.errors import FamilyError
from msr_runtime.files import write_atomically
from msr_runtime.task import Array, Split

_PACKAGES = ("msr-runtime", "gymnasium", "mujoco", "numpy")
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_DEEPEST = 30


def digest(recipe: Any, tasks: Mapping[Split, int]) -> str:
    """Return a digest of a recipe: of its numbers, and of the files in which its functions stand.

    It is the same in every process. A change of such a file, or of the version of Gymnasium, MuJoCo or numpy, gives
    another one. A file that such a file imports does not count.
    """
    hashed = hashlib.sha256()
    for part in _parts((recipe, dict(tasks), [_version(name) for name in _PACKAGES]), 0):
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()[:16]


def read(path: Path, shape: tuple[int, int, int]) -> tuple[Array, Array] | None:
    """Return x `(tasks, phases, examples, x)` and y of a file. None if there is none.

    Args:
        path: The file.
        shape: Tasks, phases and examples.

    Raises:
        FamilyError: The file is damaged.

    """
    if not path.is_file():
        return None
    try:
        arrays = load(path.read_bytes())
        x, y = arrays["x"], arrays["y"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise FamilyError(
            f"gathered data '{path}' is damaged ({type(error).__name__}: {error}); delete it, and it is gathered anew"
        ) from error
    if x.shape[:3] != shape or y.shape[:3] != shape:
        raise FamilyError(
            f"gathered data '{path}' holds {x.shape[:3]} tasks, phases and examples, but {shape} is wanted; delete it"
        )
    return x, y


def write(path: Path, x: Array, y: Array) -> None:
    """Write x and y, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save({"x": np.ascontiguousarray(x), "y": np.ascontiguousarray(y)}))


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _parts(value: Any, depth: int) -> Iterator[bytes]:
    """Take a value apart into bytes that do not depend on the process."""
    if depth > _DEEPEST:
        raise FamilyError(
            f"the settings of an EnvFamily lead {_DEEPEST} objects deep to a {type(value).__name__}, so they have no "
            "digest to keep the data under; hand simpler objects to its functions, or leave out cache"
        )
    kind = type(value)
    yield kind.__qualname__.encode()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value).encode()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, BaseModel):
        yield value.model_dump_json().encode()
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _parts((name, each), depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _parts(each, depth + 1)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _code(kind)
        for each in fields(value):
            yield from _parts(_expanded(each.name, getattr(value, each.name)), depth + 1)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords), depth + 1)
    elif inspect.ismethod(value):
        yield from _parts((value.__func__, value.__self__), depth + 1)
    elif inspect.isfunction(value):
        yield from _code(value)
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        yield from _parts((value.__defaults__, value.__kwdefaults__, held), depth + 1)
    elif isinstance(value, type) or inspect.isbuiltin(value):
        yield from _code(value)
    elif isinstance(value, ModuleType):
        yield value.__name__.encode()
    elif isinstance(value, set | frozenset):
        yield from _parts(sorted(value, key=repr), depth + 1)
    elif hasattr(value, "__array__"):  # a tensor
        yield from _parts(numbers(value), depth + 1)
    else:
        yield from _parts(_taken_apart(value), depth + 1)


def _taken_apart(value: Any) -> list[Any]:
    """Return what `pickle` would keep of an object: its class and its state."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:
        raise FamilyError(
            f"an EnvFamily's settings hold a {type(value).__name__}, of which no digest can be made to keep the data "
            f"under ({type(error).__name__}: {error}); make it inside the functions, or leave out cache"
        ) from error
    if isinstance(reduced, str):
        return [reduced]
    function, arguments, *state = reduced
    return [function, arguments, *(part if index == 0 else list(part or ()) for index, part in enumerate(state[:3]))]


def _expanded(name: str, value: Any) -> Any:
    """Return the name of an environment together with its entry in Gymnasium's list and the code that this names."""
    if name != "env" or not isinstance(value, str):
        return value
    entry = gymnasium.spec(value)
    point = entry.entry_point
    if isinstance(point, str):
        module, _, attribute = point.partition(":")
        point = getattr(importlib.import_module(module), attribute)
    return value, point, json.dumps(entry.kwargs, default=repr, sort_keys=True), entry.max_episode_steps


def _code(value: Any) -> Iterator[bytes]:
    """Yield the name of a function or a class, and the file in which it stands if no package brought it."""
    yield value.__qualname__.encode()
    try:
        path = inspect.getsourcefile(value)
    except TypeError:  # built into Python
        path = None
    if path and not path.startswith(_INSTALLED) and Path(path).is_file():
        yield Path(path).read_bytes()
    elif inspect.isfunction(value):
        yield value.__code__.co_code
        yield repr([each for each in value.__code__.co_consts if not inspect.iscode(each)]).encode()
