"""The constraints that `make lowest` installs."""

import importlib.util
from importlib import metadata
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("lower_bounds", Path(__file__).with_name("lower_bounds.py"))
assert _SPEC
assert _SPEC.loader
lower_bounds = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lower_bounds)


def test_every_package_has_one_lower_bound() -> None:
    """Each bound is a version at or below the installed one, and no package has two bounds."""
    bounds = dict(line.split("==") for line in lower_bounds.constraints())
    assert len(bounds) == len(list(lower_bounds.constraints()))
    assert {"numpy", "onnxruntime", "websockets", "torch"} <= bounds.keys()
    for name in ("numpy", "onnxruntime", "websockets", "msgpack", "prometheus-client"):
        installed = metadata.version(name).split(".")
        assert [int(part) for part in bounds[name].split(".")] <= [int(part) for part in installed]
