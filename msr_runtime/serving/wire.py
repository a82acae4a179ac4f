"""Messages as bytes: msgpack, with numpy arrays in openpi's encoding. No message can make the receiver run code.

An array is a map with the byte keys `__ndarray__`, `data` (C order), `dtype` (such as `<f4`) and `shape`. A numpy
scalar is a map with the byte keys `__npgeneric__`, `data` and `dtype`. Both hold booleans, integers and floats of at
most 64 bits. `encode` and `decode` refuse every other type.

The bytes may come from a stranger. Decoding returns a value or raises WireError, whatever the bytes are. The memory it
takes is proportional to the number of bytes, because the depth, the length and the total size of lists and maps are
limited.
"""

import math
import re
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import WireError
from msr_runtime.serving._packages import msgpack

MAX_DEPTH = 8
"""Largest depth of maps and lists inside each other. An observation needs two."""
MAX_LENGTH = 4096
"""Largest number of items in a list or map, and of bytes in a text. Longer data has to be an array."""
MAX_ITEMS = 2**16
"""Largest number of items in all lists and maps of a message together."""
MAX_AXES = 16
"""Largest number of axes of an array."""
_ARRAY, _SCALAR, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
_DTYPES = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")


def encode(value: Any) -> bytes:
    """Encode a message as bytes.

    Args:
        value: Arrays, numbers, text, bytes and None, in lists and in dicts whose keys are text.

    Raises:
        WireError: If `value` contains another type or dtype.

    Example:
        >>> import numpy as np
        >>> from msr_runtime.serving import decode, encode
        >>> data = encode({"position": np.zeros(2, np.float32)})
        >>> type(data), decode(data)["position"].shape
        (<class 'bytes'>, (2,))
    """
    try:
        return cast(bytes, msgpack.packb(value, default=_pack))
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(
            f"a message cannot be encoded ({error}); it may hold numeric arrays, numbers, text, bytes and None, in "
            "lists and dicts"
        ) from error


def decode(data: bytes) -> Any:
    """Decode one message. Its arrays are read-only, because they share memory with the parsed message.

    Args:
        data: One whole message, as `encode` or openpi's client makes it.

    Raises:
        WireError: If `data` is malformed, is not exactly one message or exceeds a limit of this module.

    Example:
        >>> from msr_runtime.serving import decode, encode
        >>> decode(encode({"__msr__": "status"}))
        {'__msr__': 'status'}
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
            max_ext_len=0,  # the encoding uses no extension types
        )
    except WireError:
        raise
    except Exception as error:  # msgpack raises errors of many types for malformed bytes
        reason = str(error) or type(error).__name__
        raise WireError(f"the message cannot be decoded as msgpack ({reason}); it is malformed or cut off") from error
    _check_depth(value, MAX_DEPTH)
    return value


class _Unpacking:
    """Hooks for msgpack: they turn encoded maps into arrays and count the items of one message.

    msgpack calls the hooks while it parses. So a message with too many items is refused before it is parsed to its end.
    """

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
            raise WireError("a map has a key that is not text, and it is not an encoded array or scalar")
        return values

    def _count(self, items: int) -> None:
        self.items += items
        if self.items > MAX_ITEMS:
            raise WireError(f"a message holds more than {MAX_ITEMS} items in lists and maps; send numbers as arrays")


def _pack(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{type(value).__name__} has no encoding")
    if not _DTYPES.fullmatch(value.dtype.str):
        raise TypeError(f"dtype {value.dtype} has no encoding")  # object arrays would need pickle, which can run code
    if isinstance(value, np.ndarray):
        return {_ARRAY: True, _DATA: value.tobytes(), _DTYPE: value.dtype.str, _SHAPE: value.shape}
    return {_SCALAR: True, _DATA: value.item(), _DTYPE: value.dtype.str}


def _unpack_array(values: dict) -> NDArray:
    _check_keys(values, {_ARRAY, _DATA, _DTYPE, _SHAPE})
    data, dtype, shape = values[_DATA], _dtype(values[_DTYPE]), values[_SHAPE]
    if type(data) is not bytes:
        raise WireError(f"an array's data is {type(data).__name__}, but bytes are wanted")
    if type(shape) is not list or len(shape) > MAX_AXES or any(type(axis) is not int or axis < 0 for axis in shape):
        raise WireError(f"an array's shape is not a list of at most {MAX_AXES} integers of at least 0")
    if (wanted := math.prod(shape) * dtype.itemsize) != len(data):
        raise WireError(f"an array of shape {tuple(shape)} and dtype {dtype} takes {wanted} bytes, not {len(data)}")
    try:
        return np.ndarray(shape, dtype, data)
    except ValueError as error:  # an axis of 0 beside one that is too large for numpy: the product above is 0
        raise WireError(f"numpy cannot make an array of shape {tuple(shape)} ({error})") from error


def _unpack_scalar(values: dict) -> np.generic:
    _check_keys(values, {_SCALAR, _DATA, _DTYPE})
    data, dtype = values[_DATA], _dtype(values[_DTYPE])
    wanted = {"b": (bool,), "f": (float, int)}.get(dtype.kind, (int,))
    if type(data) not in wanted:
        names = " or ".join(kind.__name__ for kind in wanted)
        raise WireError(f"a scalar of dtype {dtype} has data of type {type(data).__name__}, but {names} is wanted")
    try:
        with np.errstate(over="ignore"):  # a number too large for a small float becomes infinite
            return dtype.type(data)
    except OverflowError as error:
        raise WireError(f"a scalar of dtype {dtype} cannot hold its data ({error})") from error


def _check_keys(values: dict, wanted: set[bytes]) -> None:
    if values.keys() != wanted:
        names = ", ".join(sorted(key.decode() for key in wanted))
        raise WireError(
            f"an encoded array or scalar has {len(values)} keys, but exactly the byte keys {names} are wanted"
        )


def _dtype(text: Any) -> np.dtype:
    if type(text) is not str or not _DTYPES.fullmatch(text):
        raise WireError(
            f"an array has dtype {str(text)[:20]!r}, but a boolean, integer or float of at most 64 bits is wanted, "
            "such as '<f4'"
        )
    return np.dtype(text)


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, (dict, list)):
        if not left:
            raise WireError(
                f"a message has more than {MAX_DEPTH} maps and lists inside each other; send flat maps of arrays"
            )
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, left - 1)
