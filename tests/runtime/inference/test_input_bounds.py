"""Bounds of inputs: what counts as outside, what is refused by name, and that counts add up."""

import math

import numpy as np
import pytest

from msr_runtime import Field, InputError
from msr_runtime.inference.input_bounds import InputBounds, OutsideCounter, SampleBounds

FIELDS = (
    Field(name="proximity", shape=(2,), unit="1", low=0.0, high=1.0),
    Field(name="goal", shape=(1,), unit="m", low=-1.0, high=1.0),
    Field(name="depth", shape=(1,), unit="m", low=0.0, high=math.inf),
)


def samples(*rows: list[float]) -> np.ndarray:
    """Samples `(samples, 4)`, float32."""
    return np.array(rows, np.float32)


def test_samples_outside_are_counted_by_field() -> None:
    """A field counts a sample once, however many of its values are outside; 5 % of the range is sensor noise."""
    bounds = InputBounds("x", FIELDS, 10.0)
    inside = [0.0, 1.0, -1.0, 0.0], [1.05, -0.05, 1.1, 1e30]
    assert bounds.count("x", samples(*inside)) == {}
    rows = samples(*inside, [1.2, 1.2, 0, 0], [0, 0, 1.2, 0], [-1, 0, -3, -0.1])
    assert bounds.count("x", rows) == {"x.proximity": 2, "x.goal": 2, "x.depth": 1}
    assert bounds.count("x", rows[2]) == {"x.proximity": 1}  # one sample without an axis
    assert InputBounds("y", (), 10.0).count("y", np.array([3, 4])) == {}  # labels


def test_samples_inside_hold() -> None:
    """One look for one sample or several; NaN is not outside, and labels never are."""
    bounds = InputBounds("x", FIELDS, 10.0)
    inside = samples([0.0, 1.0, -1.0, 0.0], [1.05, -0.05, 1.1, math.nan])
    assert bounds.hold(inside)
    assert bounds.hold(inside[1])
    assert not bounds.hold(samples([0, 0, 0, 0], [0, 0, 1.2, 0]))
    assert not bounds.hold(samples([0, -0.06, 0, 0])[0])
    assert InputBounds("y", (), 10.0).hold(np.array([3, 4]))


SIDES = SampleBounds.of(FIELDS, FIELDS[1:3], 10.0)


@pytest.mark.parametrize("count", [1, 7, 2000])
def test_a_quick_look_at_both_sides_finds_each_number(count: int) -> None:
    """One number that is outside or not finite is enough, wherever it stands."""
    x, y = samples(*[[0.5, 1.0, -1.0, 1e30]] * count), samples(*[[0.9, 0.0]] * count)
    few = x.size <= 2**12
    assert SIDES.hold(x, y) is few  # many numbers are compared elsewhere
    for side in (x, y):
        for place in ((0, 0), (count // 2, side.shape[1] - 1), (count - 1, 0)):
            for wrong in (math.nan, math.inf, -math.inf, -1.2):
                kept, side[place] = side[place], wrong
                assert not SIDES.hold(x, y), (place, wrong)
                side[place] = kept
    assert SIDES.hold(x, y) is few


def test_a_quick_look_takes_one_sample_strided_ones_and_no_labels() -> None:
    """As adaptations and updates hand them over."""
    x, y = samples(*[[0.5, 1.0, -1.0, 1e30]] * 6), samples(*[[0.9, 0.0]] * 6)
    assert SIDES.hold(x[0], y[0])
    assert not SIDES.hold(x[0], y[0] + 2)
    assert SIDES.hold(np.asfortranarray(x)[::2], y[1::2])
    assert not SampleBounds.of(FIELDS, (), 10.0).hold(x, np.array([0, 1, 2, 0, 1, 2]))


def test_no_rounding_puts_a_bound_outside() -> None:
    """float32 rounds 0.1 up; a field that ends there takes it."""
    tenth = Field(name="speed", shape=(1,), unit="m/s", low=-0.1, high=0.1)
    bounds = InputBounds("x", (tenth,), None)
    edge = np.float32(0.1 + 0.05 * 0.2)
    assert bounds.count("x", np.array([[edge], [-edge]], np.float32)) == {}


def test_a_bound_beyond_float32_bounds_nothing() -> None:
    """A manifest may name one: no warning, and the largest of float32 holds."""
    far = Field(name="count", shape=(1,), unit="1", low=-1e300, high=1e300)
    bounds = InputBounds("x", (far,), 10.0)
    largest = np.finfo(np.float32).max
    assert bounds.count("x", np.array([[largest], [-largest]])) == {}


def test_a_goal_of_50_m_is_refused_by_name() -> None:
    """The error says which sample, field, value and bounds, the limit and the likely cause. Its counts are kept."""
    kept = OutsideCounter()
    bounds = InputBounds("x", FIELDS, 10.0)
    rows = samples([0, 0, 0, 0], [1.2, 0, 50, 0])
    with pytest.raises(
        InputError, match=r"support_x sample 1, field 'goal' element 0 is 50 m, but its bounds are -1 and"
    ):
        bounds.count("support_x", rows, kept.add)
    assert kept.total() == {"x.proximity": 1, "x.goal": 1}
    bounds.count("x", samples([0, 0, -21, 0]), kept.add)
    assert kept.total() == {"x.proximity": 1, "x.goal": 2}
    with pytest.raises(InputError, match=r"it is 10\.1 times their distance outside, and the bundle's limit is 10"):
        bounds.count("x", samples([0, 0, -21.1, 0]))
    assert InputBounds("x", FIELDS, None).count("x", rows) == {"x.proximity": 1, "x.goal": 1}
    assert bounds.count("x", samples([0, 0, 0, -1e30])) == {"x.depth": 1}  # an infinite range has no multiple


def test_a_cameras_bytes_are_named_as_such() -> None:
    """The message of an image from 0 to 1 says what to divide by."""
    bounds = InputBounds("x", (Field(name="image", shape=(1, 2, 2), unit="1", low=0.0, high=1.0),), 10.0)
    with pytest.raises(InputError, match=r"'image' element 3 is 200, but.*divide a camera's 0 to 255 by 255"):
        bounds.count("x", samples([0, 1, 0, 200]).reshape(1, 1, 2, 2))
