"""Held-out samples: a rise counts beyond their noise only, and a judge may be an outlier."""

import numpy as np
import pytest

from msr_runtime.adaptation.judges import judge

RNG = np.random.default_rng(0)


def test_a_clear_rise_is_seen() -> None:
    """Most losses rise, by a size of their own."""
    before = RNG.uniform(0.1, 0.2, 16)
    assert judge(before, before + RNG.uniform(0.05, 0.1, 16)).worse
    assert not judge(before + RNG.uniform(0.05, 0.1, 16), before).worse


def test_a_rise_within_the_noise_does_not_count() -> None:
    """One of a few noisy judges that rises much says nothing; a single judge never does."""
    before = np.array([0.1, 0.2, 0.1, 0.3, 0.2])
    after = before + np.array([-0.02, 0.9, -0.03, -0.02, 0.01])
    assert after.mean() > before.mean()
    assert not judge(before, after).worse
    assert not judge(np.array([0.1]), np.array([9.0])).worse


def test_noise_alone_is_seldom_taken_for_a_rise() -> None:
    """Of updates that change nothing on average, few are refused."""
    refused = [judge(RNG.chisquare(2, 16), RNG.chisquare(2, 16)).worse for _ in range(1000)]
    assert np.mean(refused) < 0.1


@pytest.mark.parametrize("away", [1e3, 1e9])
def test_a_judge_that_no_network_explains_is_left_out(away: float) -> None:
    """Its loss neither hides a rise nor makes one, and does not stand in the means."""
    before = np.full(10, 0.2)
    before[3] = away
    worse, better = before * 1.5, before * 0.5
    worse[3], better[3] = 0.9 * away, 1.1 * away
    assert judge(before, worse).worse
    assert not judge(before, better).worse
    assert judge(before, better)[:2] == pytest.approx((0.2, 0.1))


def test_any_finite_loss_is_better_than_none() -> None:
    """Acting weights that overflow on the judges do not hold up a working update."""
    assert not judge(np.full(6, np.nan), np.full(6, 0.5)).worse
