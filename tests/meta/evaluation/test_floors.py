"""The floors beside a network: each does what its name says, on numbers, images and labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.groups import rotation
from msr_envs.images import Images
from msr_runtime.meta.evaluation.floor_methods import fit_ridge, floors
from msr_runtime.meta.evaluation.scores import score, score_all
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field, Group, TaskBatch

MEAN, RIDGE, MIRRORED = "mean of the support", "ridge on x", "ridge on x, mirrored"


def _units(inputs: int, outputs: int) -> Normalization:
    """A normalization with centers and scales that are not 0 and 1."""
    sides = {"input": inputs, "output": outputs}
    return Normalization.model_validate(
        {
            f"{side}_{part}": [number] * size
            for side, size in sides.items()
            for part, number in (("center", 0.5), ("scale", 3.0))
        }
    )


def _errors(family: Any, normalization: Normalization) -> dict[str, float]:
    scored = score_all(family, floors(family, normalization), np.random.default_rng(0), tasks=16, shots=6, queries=16)
    return {name: float(scores.orbit.mean()) for name, scores in scored.items()}


def test_ridge_fits_what_is_linear(training) -> None:
    """The tiny family is linear with a symmetric group. The mean is as bad as zero there."""
    errors = _errors(training.Plane(), _units(2, 2))
    assert errors[MEAN] == pytest.approx(1.2, abs=0.3)
    assert errors[RIDGE] < 1e-4
    assert errors[MIRRORED] < 1e-4


def test_the_images_help_where_the_support_looks_one_way(training) -> None:
    """From samples along one axis, ridge knows nothing of the other one, and its images show that too."""

    class OneWay(training.Plane):
        def sample(self, *call: Any) -> TaskBatch:
            batch = super().sample(*call)
            gain = batch.support_y[:, :1, :1] / batch.support_x[:, :1, :1]
            ahead = batch.support_x * np.array([1, 0], np.float32)
            return batch._replace(support_x=ahead, support_y=gain * ahead, query_y=gain * batch.query_x)

        def group(self) -> Group:
            return Group("C4", rotation(4), rotation(4))

    errors = _errors(OneWay(), _units(2, 2))
    assert errors[RIDGE] > 0.3
    assert errors[MIRRORED] < 1e-4


def test_labels_and_images(training) -> None:
    """The mean of labels is how often each class occurs; ridge learns classes that a line parts. Shapes are kept."""

    class Halves(training.Plane):
        outputs = (Field(name="half", shape=(2,), unit="1", low=0, high=1),)
        loss = "cross_entropy"
        group = None

        def sample(self, *call: Any) -> TaskBatch:
            batch = super().sample(*call)
            return batch._replace(
                support_y=(batch.support_x[..., 0] > 0).astype(int), query_y=(batch.query_x[..., 0] > 0).astype(int)
            )

        def augment(self, rng: np.random.Generator, x: Any, y: Any) -> Any:
            return x, y

    found = floors(Halves(), _units(2, 2))
    assert list(found) == [MEAN, RIDGE]
    x = np.linspace(-1, 1, 10, dtype=np.float32)[:, None] * np.array([1, 0.1], np.float32)
    predict = found[MEAN](x, np.array([1] * 7 + [0] * 3))
    np.testing.assert_allclose(predict(x[:2]), [[0.3, 0.7]] * 2)
    assert _errors(Halves(), _units(2, 2))[RIDGE] < 0.3

    class Images(training.Plane):
        inputs = (Field(name="camera", shape=(1, 2, 2), unit="1", low=0, high=1),)
        outputs = (Field(name="flow", shape=(1, 2, 2), unit="1", low=0, high=1),)
        group = None
        augment = Halves.augment

    units = {"input_center": [[[0.5]]], "input_scale": [[[3.0]]], "output_center": [[[0.5]]], "output_scale": [[[3.0]]]}
    pictures = np.random.default_rng(0).normal(size=(8, 1, 2, 2)).astype(np.float32)
    for adapt in floors(Images(), Normalization.model_validate(units)).values():
        assert adapt(pictures, 2 * pictures)(pictures[:3]).shape == (3, 1, 2, 2)


@pytest.mark.parametrize("together", [1, 3])
def test_what_is_left_out_is_computed_exactly(together: int, monkeypatch) -> None:
    """The best ridge is the one that fits best where a sample and its images are really left out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 2))
    x[:, 4] = 1.0
    errors = {}
    for ridge in (1e-6, 1e-2, 0.1, 1.0, 30.0):
        errors[ridge] = 0.0
        for start in range(0, 12, together):
            kept = np.r_[0:start, start + together : 12]
            weights = np.linalg.solve(x[kept].T @ x[kept] + 12 * ridge * np.eye(5), x[kept].T @ y[kept])
            errors[ridge] += np.sum((x[start : start + together] @ weights - y[start : start + together]) ** 2)
    best = min(errors, key=lambda ridge: errors[ridge])
    monkeypatch.setattr("msr_runtime.meta.evaluation.floor_methods.RIDGES", tuple(errors))
    onto, weights = fit_ridge(x, y, together)
    np.testing.assert_allclose(onto @ weights, np.linalg.solve(x.T @ x + 12 * best * np.eye(5), x.T @ y), atol=1e-9)


def test_all_methods_see_the_same_tasks(training) -> None:
    """Scored together or alone, a method gets equal errors."""
    found = floors(training.Plane(), _units(2, 2))
    together = score_all(training.Plane(), found, np.random.default_rng(3), tasks=4)
    for name, adapt in found.items():
        alone = score(training.Plane(), adapt, np.random.default_rng(3), tasks=4)
        np.testing.assert_array_equal(alone.orbit, together[name].orbit)


def test_a_stream_has_its_last_value(training) -> None:
    """Where the family knows what y is if nothing changes, that is a floor."""

    class Stream(training.Plane):
        examples, consecutive = 40, False

        def last_value(self, support_y: NDArray, x: NDArray) -> NDArray:
            return np.tile(support_y[-1], (len(x), 1))

    adapt = floors(Stream(), _units(2, 2))["last value"]
    support = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(adapt(support, support)(np.zeros((4, 2), np.float32)), [[4, 5]] * 4)
    assert "last value" not in floors(training.Plane(), _units(2, 2))


def test_orders_of_pixels_score_as_their_matrices(image_file: Path) -> None:
    """A group of flips and turns gives the same floors and equivariance in either form."""

    class Ordered(Images):
        def __init__(self) -> None:
            super().__init__(image_file, ways=3, angle="quarter")
            matrices = self.group()
            self.group = lambda: matrices._replace(inputs=matrices.inputs.argmax(2))

    units = {"input_center": [[[0.5]]], "input_scale": [[[0.4]]], "output_center": [0.0] * 3, "output_scale": [1.0] * 3}
    scored = []
    for family in (Images(image_file, ways=3, angle="quarter"), Ordered()):
        methods = floors(family, Normalization.model_validate(units))
        scored.append(score_all(family, methods, np.random.default_rng(0), tasks=4, shots=2))
    for name, scores in scored[0].items():
        other = scored[1][name]
        assert np.array_equal(scores.orbit, other.orbit)
        assert scores.equivariance == pytest.approx(other.equivariance)
    assert scored[0][RIDGE].equivariance.mean() > 0.1
