"""A predictor with bound buffers computes what the network computes, from several threads too."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime.errors import InputError
from msr_runtime.inference.device import Device
from msr_runtime.inference.predictor import _MAX_ROWS, BoundPredictor, Predictors
from msr_runtime.inference.state import State


@pytest.mark.parametrize("shape", [(3,), (1, 3), (7, 3)])
def test_a_bound_predictor_computes_the_network(linear: Any, predictor: BoundPredictor, shape: tuple[int, ...]) -> None:
    """It uses the bound weights and not the graph's defaults, and a later call does not change an earlier result."""
    v, rng = np.ones((1, 4), np.float32), np.random.default_rng(0)
    x = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    y = [predictor(part) for part in x]
    for seen, part in zip(y, x, strict=True):
        assert (seen.dtype, seen.shape) == (np.float32, (*shape[:-1], 2))
        np.testing.assert_allclose(seen, linear.predict(v, part), rtol=1e-5, atol=1e-5)


def test_what_converts_is_converted(predictor: BoundPredictor) -> None:
    """Lists, float64, integers, other byte orders and strided views give the same result as float32."""
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    strided = np.zeros((4, 6), np.float32)[::2, ::2]
    strided[...] = x
    for same in (x.tolist(), x.astype(float), x.astype(np.int64), x.astype(">f4"), strided, np.asfortranarray(x)):
        np.testing.assert_array_equal(predictor(same), predictor(x))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(2),
        np.zeros((0, 3)),
        np.zeros((3, 2)),
        np.zeros((1, 1, 3)),
        np.float32(1),
        [[1, 2, 3], [1]],
        ["a", "b", "c"],
        np.zeros(3, complex),
        np.array([None] * 3),
    ],
)
def test_wrong_shapes_and_dtypes_are_input_errors(predictor: BoundPredictor, x: object) -> None:
    """No input is broadcast, parsed from text or cut to fit."""
    with pytest.raises(InputError, match="x "):
        predictor(x)  # pyright: ignore[reportArgumentType]


def test_a_shape_error_lists_the_fields(predictor: BoundPredictor) -> None:
    """The message lists the fields of the vector."""
    with pytest.raises(InputError, match=r"\(4,\).*position \(2,\) \+ angle \(1,\)"):
        predictor(np.zeros(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_named(predictor: BoundPredictor, bad: float) -> None:
    """The message names sample, field, element and index. Afterwards the predictor still works."""
    x = np.zeros((3, 3))
    x[1, 1] = bad
    with pytest.raises(InputError, match=r"sample 1, field 'position' element 1 \(index 1\)"):
        predictor(x)
    assert np.isfinite(predictor(np.zeros((3, 3)))).all()


def test_large_finite_values_are_no_error(predictor: BoundPredictor) -> None:
    """The quick check overflows on large finite values. The exact check then accepts them."""
    assert predictor(np.full(3, 1e30, np.float32)).shape == (2,)


def test_many_batch_sizes_do_not_pile_up(linear: Any, predictor: BoundPredictor) -> None:
    """Buffers are kept for at most 8 shapes. Other shapes are computed too."""
    for batch in range(1, 40):
        x = np.full((batch, 3), batch, np.float32)
        np.testing.assert_allclose(predictor(x), linear.predict(predictor.tensors["v"], x), rtol=1e-5)
    assert len(predictor._pools) <= 8


@pytest.mark.parametrize("batch", [_MAX_ROWS, _MAX_ROWS + 1, 2 * _MAX_ROWS, 3 * _MAX_ROWS + 7])
def test_large_batches_run_in_parts(linear: Any, predictor: BoundPredictor, batch: int) -> None:
    """A batch of any size gives what the network computes, and only buffers of the parts are kept."""
    x = np.random.default_rng(0).standard_normal((batch, 3)).astype(np.float32)
    np.testing.assert_allclose(predictor(x), linear.predict(predictor.tensors["v"], x), rtol=1e-4, atol=1e-5)
    assert predictor._pools.keys() == {(3,), (_MAX_ROWS, 3)}


def test_an_error_in_a_large_batch_counts_its_samples(predictor: BoundPredictor) -> None:
    x = np.zeros((5 * _MAX_ROWS, 3))
    x[4 * _MAX_ROWS + 5, 2] = np.nan
    with pytest.raises(InputError, match=f"sample {4 * _MAX_ROWS + 5}, field 'angle'"):
        predictor(x)


_MEASURED = """
import os, sys
import numpy as np
from msr_runtime import AdaptiveModel

def resident():  # in bytes
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

model = AdaptiveModel.load(sys.argv[1])
model.predict(np.ones((10_000, 3), np.float32))
before = resident()
x = np.ones((2_000_000, 3), np.float32)
assert model.predict(x).shape == (2_000_000, 2)
assert model.adapt(x[:6] + np.eye(6, 3), np.zeros((6, 2))).steps
del x
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_batch_leaves_no_memory_behind(bundle_path: Path) -> None:
    """Two million samples, whose input and output take 40 MB, leave less than 10 MB in the process."""
    command = [sys.executable, "-c", _MEASURED, bundle_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10e6


def test_threads_do_not_share_buffers(linear: Any, predictor: BoundPredictor) -> None:
    """Concurrent calls with one input shape each get the output for their own input."""

    def ask(seed: int) -> bool:
        x = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
        return all(np.allclose(predictor(x), linear.predict(predictor.tensors["v"], x), atol=1e-5) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(8)))


@pytest.mark.parametrize("shape", [(3,), (7, 3)])
def test_a_predictor_on_a_device_computes_the_network(
    linear: Any, predictors: Callable[..., Predictors], shape: tuple[int, ...]
) -> None:
    """Where values have their own memory, each call copies the input to the device and the output back."""
    v, rng = np.ones((1, 4), np.float32), np.random.default_rng(0)
    predictor = predictors(Device(copies=True)).make(State(linear.start(v)).block)
    for _ in range(3):
        x = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(predictor(x), linear.predict(v, x), rtol=1e-5, atol=1e-5)


def test_memory_is_used_again_only_when_nobody_holds_the_predictor(
    linear: Any, predictors: Callable[..., Predictors]
) -> None:
    """Predictors with a reference keep their weights. A predictor without one gives its buffers to the next one."""
    factory = predictors()
    points = [np.full((1, 4), number, np.float32) for number in range(6)]
    blocks, sample = [State(linear.start(v)).block for v in points], np.ones((5, 3), np.float32)

    held = [factory.make(block) for block in blocks]
    for predictor, v in zip(held, points, strict=True):
        np.testing.assert_allclose(predictor(sample), linear.predict(v, sample), rtol=1e-5, atol=1e-5)
    bound = held[2]._bound
    del predictor, held[2]
    again = factory.make(blocks[0], like=held[1])
    assert again._bound is bound
    assert again._pools.keys() == {(3,), (5, 3)}
    np.testing.assert_allclose(again(sample), linear.predict(points[0], sample), rtol=1e-5, atol=1e-5)
    for predictor, number in zip(held, (0, 1, 3, 4, 5), strict=True):
        np.testing.assert_allclose(predictor(sample), linear.predict(points[number], sample), rtol=1e-5, atol=1e-5)
