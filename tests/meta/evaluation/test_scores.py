"""Errors are relative to always predicting zero. The equivariance error is relative to the size of the output."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from msr_runtime.meta.evaluation.scores import score
from msr_runtime.meta.symmetry.measures import equivariance_error
from msr_runtime.task import Array, Field, Predict, TaskBatch, TaskFamily


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _least_squares(support_x: Array, support_y: Array) -> Predict:
    matrix = np.linalg.lstsq(support_x.astype(np.float64), support_y.astype(np.float64))[0]
    return lambda x: (x @ matrix).astype(np.float32)


def test_a_perfect_predictor_has_no_error(training) -> None:
    """Least squares fits the tiny family exactly: no error on any set, none on the orbit, exact equivariance."""
    scores = score(training.Plane(), _least_squares, _rng(), tasks=8, shots=5, queries=16)
    assert list(scores.sets) == ["all"]
    for errors in (scores.sets["all"], scores.orbit, scores.equivariance):
        assert errors.shape == (8,)
        assert errors.max() < 1e-6


def test_predicting_zero_has_error_one(training) -> None:
    """On average over the tasks, by definition. A network that always gives zero is equivariant."""
    scores = score(training.Plane(), lambda *_: np.zeros_like, _rng(), tasks=8, shots=5, queries=16)
    assert scores.sets["all"].mean() == pytest.approx(1.0)
    assert scores.orbit.mean() == pytest.approx(1.0)
    assert not scores.equivariance.any()


def test_an_offset_of_y_counts_over_variance(training) -> None:
    """The mean square of y around 100 hides every error. The variance does not: giving the mean has an error of one."""

    class Offset(training.Plane):
        def sample(self, *call: object) -> TaskBatch:
            batch = super().sample(*call)
            return batch._replace(support_y=batch.support_y + 100, query_y=batch.query_y + 100)

    mean = np.full((1, 2), 100, np.float32)
    scores = score(Offset(), lambda *_: lambda x: np.repeat(mean, len(x), 0), _rng(), tasks=64, shots=5, queries=16)
    assert scores.sets["all"].mean() < 1e-3
    assert scores.over_variance["all"].mean() == pytest.approx(1.0, rel=1e-2)
    plain = score(training.Plane(), lambda *_: np.zeros_like, _rng(), tasks=64, shots=5, queries=16)
    assert plain.over_variance["all"].mean() == pytest.approx(1.0, rel=1e-2)


def test_fields_without_bounds_are_measured_by_how_far_they_vary(training) -> None:
    """Many simulators state no bounds. Predicting zero then has an error of one too, and no error is NaN."""

    class Unbounded(training.Plane):
        outputs = (Field(name="speed", shape=(2,), unit="m/s", low=-math.inf, high=math.inf),)

    scores = score(Unbounded(), lambda *_: np.zeros_like, _rng(), tasks=8, shots=5, queries=16)
    bounded = score(training.Plane(), lambda *_: np.zeros_like, _rng(), tasks=8, shots=5, queries=16)
    for found, wanted in ((scores.sets, bounded.sets), (scores.over_variance, bounded.over_variance)):
        assert found["all"] == pytest.approx(wanted["all"])
    assert scores.orbit == pytest.approx(bounded.orbit)


def test_the_same_state_gives_the_same_tasks(training) -> None:
    """Two methods are scored on the same samples, so they can be compared task by task."""
    seen = []
    for _ in range(2):
        supports = []
        score(training.Plane(), lambda x, y, kept=supports: (kept.append((x, y)), np.zeros_like)[1], _rng(), tasks=3)
        seen.append(supports)
    np.testing.assert_array_equal(seen[0], seen[1])


def test_a_family_without_a_group_has_no_equivariance_error(training) -> None:
    """It is NaN, since there is nothing to measure. The other errors are measured."""
    plane = training.Plane()
    members = ("name", "inputs", "outputs", "loss", "query_sets", "sample", "augment")
    bare = SimpleNamespace(**{name: getattr(plane, name) for name in members})
    assert isinstance(bare, TaskFamily)
    assert (score(bare, _least_squares, _rng(), tasks=3).equivariance < 1e-6).all()  # its group is found
    bare.augment = lambda rng, x, y: (x, y)
    scores = score(bare, _least_squares, _rng(), tasks=3)
    assert np.isnan(scores.equivariance).all()
    assert scores.orbit.max() < 1e-6


def test_equivariance_error_is_zero_for_maps_that_commute_alone(training) -> None:
    """A turn scaled by the radius commutes with C4. A stretch along one axis does not, nor does an offset."""
    group, x = training.Plane().group(), _rng().normal(size=(50, 2))
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert equivariance_error(lambda x: np.linalg.norm(x, axis=-1, keepdims=True) * x @ turn.T, group, x) < 1e-14
    assert equivariance_error(lambda x: x * np.array([1.0, 2.0]), group, x) > 0.2
    assert equivariance_error(lambda x: x + np.array([1.0, 0.0]), group, x) > 0.2


def test_equivariance_error_does_not_depend_on_the_scale(training) -> None:
    """Outputs in millimeters and in meters have the same error."""
    group, x = training.Plane().group(), _rng().normal(size=(50, 2)).astype(np.float32)
    errors = [
        equivariance_error(lambda x, k=k: np.float32(k) * np.tanh(x + np.float32(0.5)), group, x)
        for k in (1.0, 1e3, 1e-6)
    ]
    assert errors == pytest.approx([errors[0]] * 3, rel=1e-4)
