"""Messages as bytes: msgpack with numpy arrays in openpi's encoding, and nothing that could run code.

An array is a map with the byte keys `__ndarray__`, `data` (C order), `dtype` (as `<f4`) and `shape`; a numpy scalar is
one with `__npgeneric__`, `data` and `dtype`. They hold booleans, integers and floats of at most 64 bits; everything
else is refused in both directions. Whatever the bytes are, decoding ends in a value or a WireError, and takes memory of
the order of the bytes: how deep lists and maps may be nested, how long each is and how much all hold is limited.
"""

import math
import re
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from msr_runtime._serving import msgpack
from msr_runtime.errors import WireError

MAX_DEPTH = 8
"""Maps and lists inside each other, at most; an observation needs two."""
MAX_LENGTH = 4096
"""Items of one list or map, and characters of a text, at most: what is longer is an array."""
MAX_ITEMS = 2**16
"""Items of all lists and maps of a message, at most."""
MAX_AXES = 16
"""Axes of one array, at most."""
_ARRAY, _SCALAR, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
_DTYPES = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")


def encode(value: Any) -> bytes:
    """A message as bytes.

    Args:
        value: Arrays, numbers, text, bytes and None, in lists and in dicts whose keys are text.

    Raises:
        WireError: If anything in it has no encoding.
    """
    try:
        return cast(bytes, msgpack.packb(value, default=_pack))
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a message cannot be encoded ({error})") from error


def decode(data: bytes) -> Any:
    """The message in `data`; its arrays are read-only and share memory with what was read.

    Raises:
        WireError: If `data` is not one whole message, or exceeds a limit.
    """
    unpacking = _Unpacking()
    try:
        value = msgpack.unpackb(
            data,
            object_hook=unpacking.map,
            list_hook=unpacking.list,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
            max_str_len=MAX_LENGTH,
            max_bin_len=len(data),
            max_ext_len=0,
        )
    except WireError:
        raise
    except Exception as error:  # the parser raises whatever a malformed message makes it meet first
        reason = str(error) or type(error).__name__
        raise WireError(f"the message cannot be decoded as msgpack ({reason}); it is malformed or cut off") from error
    _check_depth(value, MAX_DEPTH)
    return value


class _Unpacking:
    """Turns maps into arrays, and counts what one message holds."""

    def __init__(self) -> None:
        self.items = 0

    def list(self, values: list) -> list:
        self._count(len(values))
        return values

    def map(self, values: dict) -> Any:
        self._count(len(values))
        if _ARRAY in values:
            return _unpack_array(values)
        if _SCALAR in values:
            return _unpack_scalar(values)
        if not all(type(key) is str for key in values):
            raise WireError("a map has a key that is not text, and it is no encoded array or scalar either")
        return values

    def _count(self, items: int) -> None:
        self.items += items
        if self.items > MAX_ITEMS:
            raise WireError(f"a message holds more than {MAX_ITEMS} items in lists and maps; send arrays instead")


def _pack(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{type(value).__name__} has no encoding")
    if not _DTYPES.fullmatch(value.dtype.str):
        raise TypeError(f"dtype {value.dtype} has no encoding")
    if isinstance(value, np.ndarray):
        return {_ARRAY: True, _DATA: value.tobytes(), _DTYPE: value.dtype.str, _SHAPE: value.shape}
    return {_SCALAR: True, _DATA: value.item(), _DTYPE: value.dtype.str}


def _unpack_array(values: dict) -> NDArray:
    _check_keys(values, {_ARRAY, _DATA, _DTYPE, _SHAPE})
    data, dtype, shape = values[_DATA], _dtype(values[_DTYPE]), values[_SHAPE]
    if type(data) is not bytes:
        raise WireError(f"an array's data is {type(data).__name__}, but bytes are wanted")
    if type(shape) is not list or len(shape) > MAX_AXES or any(type(axis) is not int or axis < 0 for axis in shape):
        raise WireError(f"an array's shape is not a list of at most {MAX_AXES} whole numbers from 0 up")
    if (wanted := math.prod(shape) * dtype.itemsize) != len(data):
        raise WireError(f"an array of shape {tuple(shape)} and dtype {dtype} takes {wanted} bytes, not {len(data)}")
    try:
        return np.ndarray(shape, dtype, data)
    except ValueError as error:  # an empty array whose other axes overflow
        raise WireError(f"an array's shape is not one that numpy has ({error})") from error


def _unpack_scalar(values: dict) -> np.generic:
    _check_keys(values, {_SCALAR, _DATA, _DTYPE})
    data, dtype = values[_DATA], _dtype(values[_DTYPE])
    wanted = {"b": (bool,), "f": (float, int)}.get(dtype.kind, (int,))
    if type(data) not in wanted:
        raise WireError(f"a scalar of dtype {dtype} has data of type {type(data).__name__}")
    try:
        with np.errstate(over="ignore"):  # too large for a float of this size: infinite
            return dtype.type(data)
    except OverflowError as error:
        raise WireError(f"a scalar of dtype {dtype} cannot hold its data ({error})") from error


def _check_keys(values: dict, wanted: set[bytes]) -> None:
    if values.keys() != wanted:
        names = ", ".join(sorted(key.decode() for key in wanted))
        raise WireError(f"an encoded array or scalar has {len(values)} keys, but exactly {names} are wanted, as bytes")


def _dtype(text: Any) -> np.dtype:
    if type(text) is not str or not _DTYPES.fullmatch(text):
        raise WireError(
            f"an array has dtype {str(text)[:20]!r}, but booleans, integers and floats of at most 64 bits are wanted, "
            "written as '<f4'"
        )
    return np.dtype(text)


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, (dict, list)):
        if not left:
            raise WireError(f"a message has more than {MAX_DEPTH} maps and lists inside each other")
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, left - 1)
