"""The support sets of the parity check: what float32 cannot compute says nothing about an export."""

import copy
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from msr_export import support
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.normalization import Normalization

STEPS = (1, 2, 3, 4, 5)
SEED = 6
"""The first set that is drawn from it does not diverge, but rounding grows on it."""


def _own_error(learner: Learner, normalization: Normalization, drawn) -> float:
    """How far torch's float32 is from its float64 on a support set, relative to the largest loss or v."""
    x, y = map(torch.from_numpy, normalization.normalize(*drawn))
    seen = support.path_of(learner, x, y, STEPS)
    wanted = support.path_of(copy.deepcopy(learner).double(), x.double(), y.double(), STEPS)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(seen, wanted, strict=True))


def _errors(exporter, learner, seeds: Iterable[int]) -> list[float]:
    inputs, errors = exporter.inputs(exporter.scaled), []
    for seed in seeds:
        drawn = support.draw_support(learner, exporter.scaled, inputs, np.random.default_rng(seed), 10, STEPS)
        errors.append(_own_error(learner, exporter.scaled, drawn))
    return errors


@pytest.fixture
def unsteady(exporter):  # noqa: ANN201
    """A learner whose inner loop does not diverge on many support sets, but makes rounding errors large."""
    return exporter.build("maml", "mse", inner_rate=0.5)


def test_a_set_on_which_rounding_grows_is_drawn_again(exporter, unsteady, monkeypatch) -> None:
    """Its inner loop does not diverge yet, but any order of summation gives another result."""
    assert max(_errors(exporter, unsteady, [SEED])) <= 1e-6
    monkeypatch.setattr(support, "OWN_ERROR", np.inf)
    assert max(_errors(exporter, unsteady, [SEED])) > 1e-6


def test_where_no_set_is_good_enough_the_best_is_taken(exporter, unsteady, monkeypatch) -> None:
    """So that no learner is refused because float32 is coarse for it."""
    monkeypatch.setattr(support, "OWN_ERROR", np.inf)
    (first,) = _errors(exporter, unsteady, [SEED])
    monkeypatch.setattr(support, "OWN_ERROR", 0.0)
    monkeypatch.setattr(support, "_CANDIDATES", 4)
    (best,) = _errors(exporter, unsteady, [SEED])
    assert best < first


def test_a_network_that_knows_no_float64_is_compared_all_the_same(exporter) -> None:
    """Its own error cannot be measured."""
    learner = exporter.build("maml", "mse")
    fixed, forward = torch.eye(2), learner.network.forward
    learner.network.forward = lambda x: forward(x) @ fixed
    assert np.isfinite(_draw(exporter, learner)).all()


def _draw(exporter, learner) -> np.ndarray:
    inputs = exporter.inputs(exporter.scaled)
    return support.draw_support(learner, exporter.scaled, inputs, np.random.default_rng(0), 4, STEPS)[1]
