"""The C code of a bundle computes what ONNX Runtime computes, with every rule."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from msr_runtime.arrays import relative_error
from msr_runtime.bundle.store import ADAPT

NAMES = (
    *("gradient", "steps apart", "classes", "gauss-newton", "fewer filters", "ridge"),
    *("cavia", "kronecker", "kronecker steps", "anil", "prototypes"),
)


@pytest.mark.parametrize("name", [*NAMES, "recursive"])
def test_the_golden_example_comes_back(code: Callable[[str], Any], replayed: Callable[..., str], name: str) -> None:
    """In the program that is written beside the code."""
    said = replayed(code(name).written)
    assert said.count("allowed") == 4
    assert said.endswith("passed\n")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shots", "steps"), [(1, 1), (4, 3), (9, 2)])
def test_it_adapts_as_onnx_runtime(
    code: Callable[[str], Any], draw: Callable[..., Any], name: str, shots: int, steps: int
) -> None:
    """To random samples, fewer than the code takes at most, in several steps."""
    here = code(name)
    x, y = draw(name, shots)
    wanted = here.model._sessions.adapt(x, y, steps, here.model._sessions.start)
    network, losses = here.memory("network"), np.full(2, np.nan, np.float32)
    here.call("init", network)
    ends, given = (losses[:1], losses[1:]), y.astype(np.int32) if y.dtype.kind == "i" else y
    assert here.call("adapt", network, here.memory("workspace"), x, given, shots, steps, *ends) == 0
    assert relative_error(here.v(network)[None], wanted.predictor.tensors["v"]) < 1e-5
    np.testing.assert_allclose(losses, [wanted.loss_before, wanted.loss_after], rtol=1e-4, atol=1e-6)
    assert relative_error(here.predict(network, x), wanted.predictor(x)) < 1e-5


def test_more_numbers_than_filter_parameters_solve_the_smaller_system(code: Callable[[str], Any]) -> None:
    """The parity of `fewer filters` is that of both systems: of few samples, and of many."""
    here = code("fewer filters")
    assert 2 * 4 < here.model.manifest.filter_parameters < 2 * 9
    assert "\n    damped_double(2 * n, " in here.written.source.read_text()


def test_it_learns_by_sample_as_onnx_runtime(code: Callable[[str], Any], draw: Callable[..., Any]) -> None:
    """More samples than it keeps, with pauses, and the first ones linearized again."""
    here = code("recursive")
    tick = here.model.manifest.recursion.tick
    x, y = draw("recursive", 30)
    model, filtered, work = here.model.fork(), here.memory("filter"), here.memory("workspace")
    here.call("filter_init", filtered)
    innovation = np.zeros(5, np.float32)  # error and variance of two outputs, and their sum
    for index, seconds in enumerate(np.resize([tick, 40 * tick, tick, 700 * tick], 30)):
        wanted = model.update(x[index], y[index], seconds=float(seconds))
        status = here.update(filtered, work, x[index], y[index], float(seconds), innovation)
        assert status == (0 if wanted.accepted else 2)
        if not wanted.accepted:
            continue
        np.testing.assert_allclose(innovation[:2], wanted.innovation, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(innovation[4], wanted.nis, rtol=1e-2)
    assert relative_error(here.v(filtered)[None], model.v) < 1e-4
    y0, epistemic, total = np.zeros((3, 2), np.float32)
    assert here.call("deviation", filtered, work, x[0], y0, epistemic, total) == 0
    wanted = model.predict(x[0], std=True)
    np.testing.assert_allclose(epistemic, wanted.epistemic, rtol=1e-3)
    np.testing.assert_allclose(total, wanted.total, rtol=1e-3)


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("name", ["gradient", "gauss-newton", "recursive"])
def test_a_rounded_bundle_computes_the_same_in_c(
    code: Callable[..., Any], replayed: Callable[..., str], name: str, precision: str
) -> None:
    """The golden example is the bundle's own, with this processor's vectors and without. The numbers differ from those
    in float32, but little.
    """
    here, plain = code(name, precision), code(name)
    assert replayed(here.written).endswith("passed\n")
    assert replayed(here.written, "-march=native").endswith("passed\n")
    starts = [each.memory("network") for each in (here, plain)]
    for each, network in zip((here, plain), starts, strict=True):
        each.call("init", network)
    x = np.ones((1, 4), np.float32)
    apart = relative_error(*(each.predict(network, x) for each, network in zip((here, plain), starts, strict=True)))
    assert 1e-6 < apart < 2e-2


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", ["gradient", "gauss-newton"])
def test_c_stores_the_bits_of_the_bundle(code: Callable[..., Any], name: str, precision: str) -> None:
    """In the same type, and in another order: each number, and each scale, is there as often."""
    here = code(name, precision)
    graph = onnx.load_from_string(here.model.bundle.files[ADAPT]).graph
    wanted, ending = {"float32": ("float", ""), "float16": ("uint16_t", "_half"), "int8": ("int8_t", "_q")}[precision]
    known = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    large = [value for key, value in known.items() if key.endswith(ending) and value.size == LARGE]
    assert large
    source = here.written.source.read_text()
    stored = [
        _numbers(each, wanted)
        for each in re.findall(rf"static const {wanted} U_\w+\[{LARGE}\] = {{(.*?)}}", source, re.S)
    ]
    for value in large:
        assert any(np.array_equal(np.sort(each), _sorted(value)) for each in stored)
    scales = [value for key, value in known.items() if key.endswith("_s")]
    if precision == "int8":
        of_C = re.findall(r"static const float U_\w+_scales\[\d+\] = {(.*?)}", source, re.S)
        for value in scales:
            assert any(np.array_equal(np.sort(_numbers(each, "float")), _sorted(value)) for each in of_C)


LARGE = 12 * 12 * 5
"""The numbers of the U between the two hidden layers."""


def _numbers(text: str, dtype: str) -> Any:
    """The numbers of an array in C, as they are stored."""
    words = text.replace("f", "").replace("(", "").replace(")", "").split(",")
    return np.array(words, {"float": np.float32, "uint16_t": np.uint16, "int8_t": np.int8}[dtype])


def _sorted(value: Any) -> Any:
    return np.sort(value.ravel().view(np.uint16) if value.dtype == np.float16 else value.ravel())
