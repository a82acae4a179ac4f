"""Predictions are compared in the scale of each number, and centers that float32 cannot hold are found."""

import numpy as np
import pytest

from msr_runtime.normalization import Normalization, split_center
from msr_runtime.task import Field

PASCAL_AND_FARAD = Normalization(
    input_center=(0.0,), input_scale=(1.0,), output_center=(101325.0, 47e-12), output_scale=(58.0, 2e-12)
)


def test_pascals_do_not_hide_farads() -> None:
    """A capacity that is off by its whole scale is an error of one, beside a pressure of 1e5."""
    wanted = np.array([[101325.0 + 58, 47e-12]], np.float32)
    size, apart = PASCAL_AND_FARAD.compare_y(wanted + np.array([[0.0, 2e-12]], np.float32), wanted)
    assert size == pytest.approx(1.0, rel=1e-3)
    assert apart == pytest.approx(1.0, rel=1e-3)
    assert PASCAL_AND_FARAD.compare_y(wanted, wanted)[1] == 0


def test_a_step_of_float32_is_no_difference() -> None:
    """Neighboring numbers near the center are one number, rounded in two ways. Ten steps are a difference."""
    wanted = np.array([[101325.0, 47e-12]], np.float32)
    step = np.array([np.spacing(wanted[0, 0]), 0.0], np.float32)
    assert PASCAL_AND_FARAD.compare_y(wanted + step, wanted)[1] == 0
    assert PASCAL_AND_FARAD.compare_y(wanted + 10 * step, wanted)[1] > 0
    assert np.isnan(PASCAL_AND_FARAD.compare_y(wanted * np.nan, wanted)[1])


def test_a_split_center_keeps_what_float32_loses() -> None:
    """Both parts together are the center, and float32 arithmetic finds the distance from it."""
    center, scale = 5344650.123, 53.5
    first, rest = split_center([center], [scale])
    assert rest is not None
    assert float(first[0]) + float(rest[0]) == pytest.approx(center, abs=1e-7)
    x = np.float32(5344700.0)
    assert float((x - first[0]) - rest[0]) == pytest.approx(float(x) - center, rel=1e-6)


def test_a_center_beyond_what_float32_holds_is_named() -> None:
    """The field, the unit, the figures, and what to subtract. Within 1e5 scales there is nothing to say."""
    fields = (Field(name="place", shape=(2,), unit="m", low=-1e7, high=1e7),)
    labels = (Field(name="class", shape=(3,), unit="1", low=0.0, high=1.0),)
    common = {"output_center": (0.0,) * 3, "output_scale": (1.0,) * 3}
    near = Normalization(input_center=(5.0, 1e5), input_scale=(1.0, 1.0), **common)
    assert near.far_from_zero(fields, labels) is None
    said = near.model_copy(update={"input_center": (5.0, -1.01e5)}).far_from_zero(fields, labels)
    assert said is not None
    assert said.startswith("field 'place' element 1 of x lies around -101000 m and varies by 1 m only")
    assert "subtract an offset, such as -101000" in said
