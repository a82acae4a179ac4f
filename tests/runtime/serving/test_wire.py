"""Messages as bytes, compared with openpi's own encoding; hostile bytes are refused."""

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from openpi_client import msgpack_numpy

from msr_runtime.errors import WireError
from msr_runtime.serving.wire import MAX_DEPTH, MAX_ITEMS, MAX_LENGTH, decode, encode

DTYPES = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
)
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
SCALARS = DTYPES.flatmap(npst.from_dtype)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20))
VALUES = st.recursive(
    st.one_of(ARRAYS, SCALARS, PLAIN, st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Whether two messages are equal, dtypes included. numpy's float64 scalar is a float after decoding."""
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return type(b) is list and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.float64):
        return type(b) is float and np.array_equal(a, b, equal_nan=True)
    if isinstance(a, (np.ndarray, np.generic)):
        alike = type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        return alike and np.array_equal(a, b, equal_nan=True)
    return type(a) is type(b) and (a == b or (a != a and b != b))


@given(VALUES)
def test_what_is_encoded_comes_back(value: Any) -> None:
    """Encode and decode agree with each other and with openpi's functions in both directions."""
    assert same(value, decode(encode(value)))
    assert encode(value) == msgpack_numpy.packb(value)
    assert same(value, msgpack_numpy.unpackb(encode(value)))


@pytest.mark.parametrize(
    "value",
    [
        np.array([None]),
        np.zeros(2, "c8"),
        np.zeros(2, "V4"),
        np.zeros(2, [("a", "f4")]),
        np.array(["text"]),
        np.zeros(1, "M8[s]"),
        np.complex64(1),
        {1, 2},
        object(),
        2**64,
        {"a": [np.array([{}])]},
    ],
)
def test_what_has_no_encoding_is_refused(value: Any) -> None:
    """Arrays of objects, records, complex numbers, text or dates are refused, and types that msgpack lacks."""
    with pytest.raises(WireError, match="cannot be encoded"):
        encode(value)


def array(**changes: Any) -> Any:
    """An encoded array of two float32 with some keys changed; None leaves a key out."""
    keys = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({key.encode(): value for key, value in keys.items() if value is not None})


def scalar(dtype: str, data: Any) -> Any:
    """An encoded scalar."""
    return msgpack.packb({b"__npgeneric__": True, b"data": data, b"dtype": dtype})


@pytest.mark.parametrize("dtype", ["|O", "|V4", "<c8", "<U2", "|S8", "<M8[s]", "<f16", "f4,f4", "", 4, ["<f4"]])
def test_dtypes_that_are_no_numbers_are_refused(dtype: Any) -> None:
    with pytest.raises(WireError, match="dtype"):
        decode(array(dtype=dtype))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3]},
        {"shape": [1]},
        {"shape": [-2]},
        {"shape": [-1, -2]},
        {"shape": [2.0]},
        {"shape": [True, 2]},
        {"shape": 2},
        {"shape": [2**64 - 1, 2**64 - 1]},
        {"shape": [1] * 40 + [2]},
        {"shape": [0, 2**63], "data": b""},
        {"shape": None},
        {"data": None},
        {"data": "12345678"},
        {"data": [0] * 8},
        {"order": "F"},
        {"__npgeneric__": True},
    ],
)
def test_arrays_whose_parts_disagree_are_refused(changes: dict[str, Any]) -> None:
    """An encoded array whose shape, length, dtype and keys do not agree is refused before memory is allocated."""
    with pytest.raises(WireError, match="array"):
        decode(array(**changes))


@pytest.mark.parametrize(
    ("dtype", "data"),
    [("|i1", 1000), ("|u1", -1), ("<i4", 1.5), ("<f4", "1"), ("|b1", 1), ("<i4", True), ("<f8", None)],
)
def test_scalars_that_do_not_hold_their_data_are_refused(dtype: str, data: Any) -> None:
    with pytest.raises(WireError, match="scalar"):
        decode(scalar(dtype, data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode({"a": 1})[:-1],
        encode({"a": 1}) + b"\xc0",
        b"\xd6\xff\0\0\0\1",  # a timestamp
        b"\xc7\x03\x05abc",  # an extension
        b"\xa2\xff\xff",  # text that is not UTF-8
        b"\x81\x01\x02",  # a number as a key
        b"\x81\x91\x01\x02",  # a list as a key
        msgpack.packb({b"a": 1}),
        b"\x91" * 2000 + b"\xc0",
        b"\x91" * MAX_DEPTH + b"\x91\xc0",
        b"\x81\xa1a" * 1000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff" * 1000,
        b"\xdf\xff\xff\xff\xff" * 1000,
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb([0] * (MAX_LENGTH + 1)),
        msgpack.packb("a" * (MAX_LENGTH + 1)),
        msgpack.packb([[0] * MAX_LENGTH] * (MAX_ITEMS // MAX_LENGTH + 1)),
    ],
)
def test_malformed_and_oversized_messages_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


def test_the_deepest_and_the_longest_message() -> None:
    """Messages exactly at the limits are decoded."""
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert decode(encode(deep)) == deep
    assert decode(encode([0] * MAX_LENGTH)) == [0] * MAX_LENGTH


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=200), VALUES.map(encode).flatmap(lambda data: _damaged(data))))
def test_any_bytes_end_in_a_value_or_a_wire_error(data: bytes) -> None:
    """Random bytes and damaged messages give a WireError or a value that can be encoded again."""
    refusal = ""
    try:
        value = decode(data)
    except WireError as error:
        refusal = str(error)
    else:
        encode(value)
    assert "\n" not in refusal
    assert len(refusal) < 1000


def _damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with one byte replaced, or cut off."""
    replaced = st.tuples(st.integers(0, max(len(data) - 1, 0)), st.integers(0, 255)).map(
        lambda change: data[: change[0]] + bytes([change[1]]) + data[change[0] + 1 :]
    )
    return replaced | st.integers(0, len(data)).map(lambda end: data[:end])


@pytest.mark.parametrize(
    "data",
    [
        b"\xdc\x10\x00" * (2**20 // 3),  # lists of 4096, each the first item of the one before
        b"\xdc\x10\x00" + b"\x80" * 2**20,  # empty maps
        (b"\xdc\x10\x00" + b"\xa2ab" * 4096) * 85,  # short texts
        b"\xdd\xff\xff\xff\xff" * 2**17,
        array(shape=[2**31, 2**31]),
    ],
)
def test_a_message_takes_memory_of_the_order_of_its_bytes(data: bytes) -> None:
    """One megabyte of bytes that expand most is refused before it takes 64 MiB of memory."""
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
