"""What repeats in a support set: copies count once, a y that is stuck is refused, a robot at rest raises no alarm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, Refusal, UpdateGuard
from msr_runtime.adaptation.repeats import at_rest, distinct, stuck
from msr_runtime.task import Field

SCALE = np.array([2.0, 1.0, 0.5])
SPEED, TURN = (
    Field(name="speed", shape=(2,), unit="m/s", low=-1, high=1),
    Field(name="turn", shape=(1,), unit="rad/s", low=-1, high=1),
)
FIELDS = SPEED, TURN


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "enough", "wanted"),
    [
        ([0, 1, 2, 3], 4, 4),
        ([0, 1, 2, 3], 9, 4),
        ([0, 1, 2, 3], 2, 2),
        ([5, 5, 5, 5], 4, 1),
        ([5, 5, 5, 1, 5, 2], 6, 3),
        ([5, 5, 5, 1, 5, 2], 3, 3),
        ([7], 5, 1),
    ],
)
def test_samples_with_the_same_x_count_once(rows: list[int], enough: int, wanted: int) -> None:
    """Rows are compared whole and exactly, images too; zero and minus zero are the same number."""
    x = draw(0, 8, 2, 3)[rows]
    assert distinct(x, enough) == wanted
    x[:, 0], x[:, 1, 2] = 0.0, 1.0  # the first and the last number are the same everywhere
    assert distinct(x, enough) == wanted
    x[::2, 0, 1] = -0.0
    assert distinct(x, enough) == wanted


def test_copies_of_one_sample_are_called_few(write: Callable[..., Path]) -> None:
    """Ten copies teach no more than one sample: the sentence says how many are different."""
    few = {"shots": 1, "usual_spread": 0.0, "usual_loss": 9.0, "usual_move": 9.0, "largest_loss": 9.0}
    few |= {"largest_move": 9.0, "median_error": 0.7, "high_error": 9.0, "worse": 0.3}
    enough = few | {"shots": 5, "worse": 0.0}
    model = AdaptiveModel.load(write(validation={"tasks": 200, "error_at_v0": 1.0, "by_shots": [few, enough]}))
    x, y = draw(0, 10, 3), 0.1 * draw(1, 10, 2)
    assert model.adapt(x, y).few_samples is None
    said = model.adapt(np.repeat(x[:1], 10, 0), y).few_samples
    assert said
    assert "the 10 samples have only 1 different x, and 1 sample is few" in said
    assert said.endswith("give at least 5 different ones")
    said = model.adapt(x[:1], y[:1]).few_samples
    assert said
    assert said.startswith("1 sample is few")


class TestStuck:
    """A y that does not change although x does."""

    def test_the_fields_are_named_with_their_values(self) -> None:
        """Whole fields, or single numbers of them."""
        x, y = draw(0, 10, 3), draw(1, 10, 3)
        assert stuck(FIELDS, SCALE, x, y) is None
        y[:, 2] = 0.25
        found = stuck(FIELDS, SCALE, x, y)
        wanted = "field 'turn' is 0.25 rad/s in all 10 support samples, although their x differ"
        assert found == (False, wanted)
        y[:, 0] = -1
        found = stuck(FIELDS, SCALE, x, y)
        assert found
        assert found[1].startswith("field 'speed' element 0 is -1 m/s and field 'turn' is 0.25 rad/s")
        y[:, 1] = 0.5
        found = stuck(FIELDS, SCALE, x, y)
        assert found
        assert found[0]
        assert found[1].startswith("field 'speed' is -1, 0.5 m/s and field 'turn'")

    def test_a_large_field_is_shown_in_part(self) -> None:
        """An image has too many numbers for a message."""
        image = Field(name="image", shape=(50, 50), unit="1", low=0, high=1)
        found = stuck((image,), SCALE, draw(0, 10, 3), np.zeros((10, 50, 50), np.float32))
        assert found
        assert "is 0, 0, 0, 0, 0, 0, ... 1 in all 10" in found[1]

    def test_what_may_well_be_the_same(self) -> None:
        """Labels, few samples, copies of few, and samples whose x hardly differ."""
        x, y = draw(0, 10, 3), np.zeros((10, 3), np.float32)
        assert stuck(FIELDS, SCALE, x, y)
        assert stuck((), SCALE, x, np.zeros(10, np.int64)) is None
        assert stuck(FIELDS, SCALE, x[:4], y[:4]) is None
        assert stuck(FIELDS, SCALE, np.repeat(x[:4], 3, 0), y[[0] * 12]) is None
        assert stuck(FIELDS, SCALE, 1.0 + 0.01 * x, y) is None

    def test_almost_the_same_is_not_stuck(self) -> None:
        """Also where the first and the last sample agree by chance."""
        x, y = draw(0, 10, 3), np.zeros((10, 3), np.float32)
        y[4] = 1e-6
        assert stuck(FIELDS, SCALE, x, y) is None

    @pytest.mark.parametrize("limits", ["limited", "without limits"])
    def test_the_update_is_refused_by_name(
        self, limited: AdaptiveModel, bundle_path: Path, linear: Any, clean: tuple, limits: str
    ) -> None:
        """Nothing is computed, v0 acts on, and the option that the reason names allows it, with a note."""
        model = limited if limits == "limited" else AdaptiveModel.load(bundle_path)
        x = clean[0][:10]
        y = np.full((10, 2), [0.5, -1.0], np.float32)
        result = model.adapt(x, y)
        assert (result.accepted, result.refusal) == (False, Refusal.STUCK)
        assert result.reason
        assert "field 'force' is 0.5, -1 N in all 10 support samples" in result.reason
        assert "UpdateGuard(constant_y=True)" in result.reason
        assert np.isnan(result.loss_after)
        np.testing.assert_array_equal(model.v, linear.v0)
        meant = model.adapt(x, y, guard=UpdateGuard(trust=np.inf, loss=np.inf, constant_y=True))
        assert meant.refusal is not Refusal.STUCK
        assert meant.stuck
        assert "field 'force' is 0.5, -1 N" in meant.stuck

    def test_one_number_that_is_stuck_is_said(self, model: AdaptiveModel, clean: tuple[np.ndarray, np.ndarray]) -> None:
        """The update acts, since it may be right."""
        x, y = clean[0][:10], clean[1][:10].copy()
        assert model.adapt(x, y).stuck is None
        y[:, 1] = -1.0
        result = model.adapt(x, y)
        assert result.accepted
        assert result.stuck
        assert result.stuck.startswith("field 'force' element 1 is -1 N")

    def test_samples_outside_their_bounds_do_not_hide_it(self, model: AdaptiveModel, clean: tuple) -> None:
        """What is never learned from does not count as a y that differs."""
        y = np.zeros((10, 2), np.float32)
        y[3] = 12.0  # of 10 N
        assert model.adapt(clean[0][:10], y).refusal is Refusal.STUCK


def test_rest_is_a_constant_y_at_one_x() -> None:
    """With the noise of its sensors, or with none."""
    x, y = 3 + 0.05 * draw(0, 10, 3) * SCALE.astype(np.float32), np.zeros((10, 2), np.float32)
    assert at_rest(SCALE, x, y)
    assert at_rest(SCALE, np.repeat(x[:1], 10, 0), y)
    assert not at_rest(SCALE, draw(0, 10, 3), y)
    assert not at_rest(SCALE, x, y + 1e-6 * draw(1, 10, 2))
    assert not at_rest(SCALE, x[:4], y[:4])
