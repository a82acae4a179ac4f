"""The examples in docstrings run, each in a namespace of its own with `bundle` and `folder`."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> Iterator[str]:
    """Every module of the three packages."""
    for name in ("msr_runtime", "msr_envs", "msr_export"):
        yield name
        found = pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}.")
        yield from (module.name for module in found if not module.name.endswith("__main__"))


def examples() -> Iterator[doctest.DocTest]:
    """Every docstring that has an example."""
    finder = doctest.DocTestFinder()
    for name in modules():
        found = finder.find(importlib.import_module(name), name, globs={})
        yield from (docstring for docstring in found if docstring.examples)


@pytest.mark.parametrize("example", [pytest.param(example, id=example.name) for example in examples()])
def test_example(example, bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    example.globs = {"bundle": str(bundle), "folder": tmp_path}
    printed: list[str] = []
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=printed.append).failed
    assert not failed, "".join(printed)
