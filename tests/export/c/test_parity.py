"""The C code of a bundle computes what ONNX Runtime computes, with every rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from msr_runtime.arrays import relative_error

NAMES = ("gradient", "steps apart", "classes", "gauss-newton", "ridge", "cavia", "kronecker", "anil")


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


@pytest.mark.parametrize("store", ["float16", "int8"])
@pytest.mark.parametrize("name", ["gradient", "gauss-newton", "recursive"])
def test_a_rounded_U_is_that_of_the_golden_example(
    code: Callable[..., Any], replayed: Callable[..., str], name: str, store: str
) -> None:
    """ONNX Runtime computed it with the same numbers; they differ from those in float32, but little."""
    here, plain = code(name, store=store), code(name)
    assert replayed(here.written).endswith("passed\n")
    starts = [each.memory("network") for each in (here, plain)]
    for each, network in zip((here, plain), starts, strict=True):
        each.call("init", network)
    x = np.ones((1, 4), np.float32)
    apart = relative_error(*(each.predict(network, x) for each, network in zip((here, plain), starts, strict=True)))
    assert 1e-6 < apart < 2e-2
