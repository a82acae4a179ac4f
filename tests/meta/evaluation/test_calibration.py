"""Intervals and squared errors are counted over the orbit, on the tasks on which errors are measured."""

from collections.abc import Callable

import numpy as np
import pytest

from msr_runtime.meta.evaluation.calibration import calibrate
from msr_runtime.meta.evaluation.predictor import torch_adapt, torch_adapt_surely
from msr_runtime.meta.evaluation.scores import draw_scored
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.rules.recursive import Recursive
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array


def _noisy(deviation: float) -> Callable[[Array, Array], Callable[[Array], tuple[Array, Array]]]:
    """Predict rightly but for noise of deviation 1, and say that it has another one."""

    def adapt(support_x: Array, support_y: Array) -> Callable[[Array], tuple[Array, Array]]:
        matrix, rng = np.linalg.lstsq(support_x, support_y)[0], np.random.default_rng(0)

        def predict(x: Array) -> tuple[Array, Array]:
            noise = rng.normal(size=(len(x), 2)).astype(np.float32)
            return (x @ matrix + noise).astype(np.float32), np.full_like(noise, deviation)

        return predict

    return adapt


@pytest.mark.parametrize(("deviation", "held", "nis"), [(1.0, 0.9, 1.0), (2.0, 0.999, 0.25), (0.5, 0.589, 4.0)])
def test_counts_what_the_intervals_hold(training, deviation: float, held: float, nis: float) -> None:
    """90 % of normal numbers lie within 1.64 standard deviations; half as wide, 59 %."""
    found = calibrate(training.Plane(), _noisy(deviation), np.random.default_rng(0), tasks=4, shots=5, queries=400)
    assert found.held.shape == found.nis.shape == (4,)
    assert found.held.mean() == pytest.approx(held, abs=0.02)
    assert found.nis.mean() == pytest.approx(nis, rel=0.1)


def test_a_torch_learner_is_in_raw_units(training) -> None:
    """Its predictions are those of `torch_adapt`, its variances those of the rule in the units of y. Other rules have
    none.
    """
    units = {"input_center": (0.1, 0.2), "input_scale": (2.0, 3.0)}
    units |= {"output_center": (0.5, -0.5), "output_scale": (10.0, 0.1)}
    normalization = Normalization.model_validate(units)
    learner = MSR(LearnerConfig(width=6, depth=1, filters=4, rule="recursive"), (2,), (2,), "mse")
    batch, (x, _) = draw_scored(training.Plane(), np.random.default_rng(0), 1, 5, 8, "test")
    support = batch.support_x[0], batch.support_y[0]
    surely = torch_adapt_surely(learner, normalization)
    assert surely is not None
    y, deviations = surely(*support)(x[0])
    np.testing.assert_array_equal(y, torch_adapt(learner, normalization)(*support)(x[0]))
    assert isinstance(learner.rule, Recursive)
    least = np.sqrt(learner.rule.noise().detach().numpy()) * (10.0, 0.1)
    assert (deviations > least).all()
    assert (deviations < 3 * least).all()
    plain = MSR(LearnerConfig(width=6, depth=1, filters=4), (2,), (2,), "mse")
    assert torch_adapt_surely(plain, normalization) is None
