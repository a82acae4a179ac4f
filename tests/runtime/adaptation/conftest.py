"""A model, another one with limits, clean samples that keep them, and a model that learns by sample."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="session")
def loaded(linear_bundle: Path) -> AdaptiveModel:
    """The reference's bundle, loaded. Fork it."""
    return AdaptiveModel.load(linear_bundle)


@pytest.fixture(scope="session")
def loaded_native(compiled: Callable[..., Path], linear_bundle: Path) -> AdaptiveModel:
    """The same by native code."""
    return AdaptiveModel.load(compiled("linear", linear_bundle), engine="native")


@pytest.fixture
def model(request: pytest.FixtureRequest, loaded: AdaptiveModel) -> AdaptiveModel:
    """The reference's bundle, loaded, at v0: in ONNX Runtime, or by the engine that a test asks for."""
    native = getattr(request, "param", "onnx") == "native"
    return (request.getfixturevalue("loaded_native") if native else loaded).fork()


@pytest.fixture
def clean(linear: Any) -> tuple[np.ndarray, np.ndarray]:
    """Twenty clean samples of a robot whose v is v0 plus 0.3."""
    x = draw(1, 200, 3)
    y = linear.predict(linear.v0 + np.float32(0.3), x)
    inside = np.flatnonzero((np.abs(y) < 10).all(1))[:20]  # of their bounds
    return x[inside], y[inside]


@pytest.fixture
def limited(write: Callable[..., Path], linear: Any, clean: tuple[np.ndarray, np.ndarray]) -> AdaptiveModel:
    """A model whose limits are one and a half times what clean support sets of this task reach."""
    x, y = clean
    losses, moves = [], []
    for first in range(0, 20, 5):
        v = linear.adapt(x[first : first + 10], y[first : first + 10], 3)
        losses.append(linear.step(v, x[first : first + 10], y[first : first + 10])[1])
        moves.append(float(np.linalg.norm(v - linear.v0) / np.linalg.norm(linear.v0)))
    loss, move = 1.5 * max(losses), 1.5 * max(moves)
    figures = {"shots": 10, "usual_spread": 100.0, "usual_loss": loss, "usual_move": move}
    figures |= {
        "largest_loss": 2 * loss,
        "largest_move": 2 * move,
        "median_error": 0.1,
        "high_error": 0.2,
        "worse": 0.0,
    }
    return AdaptiveModel.load(write(validation={"tasks": 4, "error_at_v0": 1.0, "by_shots": [figures]}))


@pytest.fixture(scope="session")
def loaded_filter(recursive_bundle: Path) -> AdaptiveModel:
    """A model that learns by sample, at v0. Fork it."""
    return AdaptiveModel.load(recursive_bundle, self_test=False)


@pytest.fixture(scope="session")
def loaded_native_filter(native_recursive_bundle: Path) -> AdaptiveModel:
    """The same by native code."""
    return AdaptiveModel.load(native_recursive_bundle, engine="native")


@pytest.fixture
def filtering(request: pytest.FixtureRequest, loaded_filter: AdaptiveModel) -> AdaptiveModel:
    """A model that learns by sample, at v0: in ONNX Runtime, or by the engine that a test asks for."""
    native = getattr(request, "param", "onnx") == "native"
    return (request.getfixturevalue("loaded_native_filter") if native else loaded_filter).fork()
