"""Libraries are compiled and loaded as what they are."""

import shutil

import pytest

from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.native import NativeCode, compile_source, find_compiler

VERSION = 4
_SOURCE = """
const long long native_sizes[8] = {%d, 1, 8, %d, 1, 1, 1, 0};
void native_predict(void) {}
void native_loss(void) {}
void native_adapt(void) {}
"""


def _library(version: int, inputs: int) -> bytes:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    return compile_source((_SOURCE % (version, inputs)).encode(), find_compiler("cc"))


def test_each_library_is_itself() -> None:
    """The loader knows libraries by name, and a file in memory has the name of its number, which may come again."""
    data = [_library(VERSION, inputs) for inputs in (3, 5)]
    codes = [NativeCode(each, "native.so", labels=False, version=VERSION) for each in (*data, data[0])]
    assert [code.sizes.inputs for code in codes] == [3, 5, 3]


def test_another_version_is_refused() -> None:
    """The functions may take other arguments then, so none is called."""
    with pytest.raises(BundleError, match=f"version {VERSION + 1}, but this runtime calls {VERSION}"):
        NativeCode(_library(VERSION + 1, 1), "native.so", labels=False, version=VERSION)


def test_what_is_no_library_of_a_bundle_is_refused() -> None:
    """Its names are missing."""
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    with pytest.raises(BundleError, match="no native code of a bundle"):
        NativeCode(compile_source(b"int other;", find_compiler("cc")), "native.so", labels=False, version=VERSION)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_both_compilers_take_the_options(compiler: str) -> None:
    """Each of them refuses some that only the other one knows."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install {compiler}")
    source = (_SOURCE % (VERSION, 3)).encode()
    data = compile_source(source, find_compiler(compiler))
    assert NativeCode(data, "native.so", labels=False, version=VERSION).sizes.inputs == 3


@pytest.mark.parametrize(
    ("compiler", "wanted"),
    [("no-such-cc", "no compiler 'no-such-cc'"), ("false", "refuses"), ("true", "wrote no library")],
)
def test_a_compiler_that_is_missing_or_fails_is_named(compiler: str, wanted: str) -> None:
    """With what to do."""
    with pytest.raises(InputError, match=wanted):
        compile_source(b"int one;", find_compiler(compiler))
