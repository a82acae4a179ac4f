"""Numbers and arrays as C writes them."""

import re
import textwrap
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile("@([A-Za-z_]+)@")
_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        "auto break case char const continue default do double else enum extern float for goto if inline int long "
        "register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
        "class delete new operator private protected public template this throw try using virtual",
    )
)
"""Words that C keeps for itself, and those of C++ that a header must not use."""
_TYPES = {"f4": "float", "f8": "double", "u2": "uint16_t", "i1": "int8_t"}


def literal(value: float, dtype: str) -> str:
    """Return a number as C writes it, exact to the last bit."""
    if dtype == "int":
        return str(int(value))
    if not np.isfinite(value):
        return (
            "NAN" if np.isnan(value) else f"({'-' if value < 0 else ''}{'(float)' if dtype == 'float' else ''}INFINITY)"
        )
    text = repr(float(np.float32(value))) if dtype == "float" else repr(float(value))
    if dtype == "float":
        text = np.format_float_positional(np.float32(value), unique=True) if 1e-5 < abs(value) < 1e7 else text
        text = text if any(sign in text for sign in ".en") else f"{text}."
        text = f"{text}0" if text.endswith(".") else text
        return f"{text}f" if value >= 0 else f"({text}f)"
    return text if value >= 0 else f"({text})"


def numbers(values: NDArray) -> str:
    """Return the initializer of an array."""
    dtype = _type(values)
    if dtype in ("float", "double"):
        words = [literal(value, dtype) for value in values.ravel().tolist()]
    else:
        words = [str(int(value)) for value in values.ravel().tolist()]
    lines = textwrap.wrap(", ".join(words), 116, break_long_words=False, break_on_hyphens=False)
    return "{\n" + "\n".join(f"    {line}" for line in lines) + "\n}"


def array(name: str, values: NDArray) -> str:
    """Return the definition of a constant array."""
    return f"static const {_type(values)} {name}[{max(values.size, 1)}] = {numbers(values)};\n"


def identifier(name: str) -> str:
    """Return a name as C allows it."""
    text = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
    text = f"_{text}" if text[:1].isdigit() or not text else text
    return f"{text}_" if text in _KEYWORDS else text


def plain(words: str) -> str:
    """Return words of a bundle as they may stand in a comment: without what ends it, a line, or fills a template."""
    words = "".join(letter if letter.isprintable() and letter not in "@\\" else "?" for letter in words)
    return words.replace("/*", "/ *").replace("*/", "* /")


def comment(words: str) -> str:
    """Return a comment of one line."""
    return f"/* {plain(words)} */"


def filled(template: str, words: Mapping[str, object]) -> str:
    """Return a template with each `@word@` replaced, those within a replacement too."""
    while (text := _WORD.sub(lambda found: str(words[found[1]]), template)) != template:
        template = text
    return text


def _type(values: NDArray) -> str:
    dtype = np.dtype(values.dtype)
    return _TYPES.get(f"{dtype.kind}{dtype.itemsize}", "int")
