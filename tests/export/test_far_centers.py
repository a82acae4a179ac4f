"""Numbers of any unit are exported, up to a center of 1e5 scales: kelvins, pascals, farads and a northing."""

import sys

import numpy as np
import pytest

from msr_export import check_parity
from msr_runtime.errors import ParityError
from msr_runtime.normalization import Normalization, split_center

# No center is a number of float32. The northing's lies 99,900 scales from zero.
FAR = Normalization(
    input_center=(300.1, 101325.3, 47.1e-12, 5344650.123),
    input_scale=(1.0, 58.0, 2e-12, 53.5),
    output_center=(5344650.123, 47.1e-12),
    output_scale=(53.5, 2e-12),
)


def test_far_centers_are_subtracted_without_a_loss(exporter) -> None:
    """Torch normalizes in float64. The graphs do in float32, and agree within 1e-5 in loss, v and predictions."""
    learner = exporter.build("msr", "mse")
    proof = check_parity(learner, FAR, exporter.freeze(learner, FAR), inputs=exporter.inputs(FAR), seed=1)
    assert 0 < proof.max_relative_error <= 1e-5


def test_a_center_in_one_part_would_be_too_coarse(exporter, monkeypatch) -> None:
    """The check sees it: float32 moves this northing's center by 0.1 m."""
    monkeypatch.setattr(sys.modules["msr_export.plain"], "split_center", lambda *given: (split_center(*given)[0], None))
    learner = exporter.build("msr", "mse")
    with pytest.raises(ParityError, match="disagree on"):
        check_parity(learner, FAR, exporter.freeze(learner, FAR), inputs=exporter.inputs(FAR), seed=1)


def test_no_constant_is_added_where_none_is_needed(exporter) -> None:
    """Centers near zero are subtracted in one part, as ever."""
    first, rest = split_center(exporter.scaled.input_center, exporter.scaled.input_scale)
    assert first.dtype == np.float32
    assert rest is None
