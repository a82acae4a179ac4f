"""How sure a model is of its v: the covariance against a Kalman filter in float64 that keeps it whole."""

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_runtime.errors import InputError
from msr_runtime.inference.belief import Belief

K, J, MEMORY, NOISE = 7, 2, 6, 0.05


class Kalman:
    """A Kalman filter of K whitened numbers, in float64."""

    def __init__(self) -> None:
        self.C = np.eye(K)

    def relax(self, keep: float) -> None:
        """Let time pass."""
        self.C = keep**2 * self.C + (1 - keep**2) * np.eye(K)

    def rows(self, slopes: NDArray) -> NDArray:
        """The new rows `(J, K)` for a sample with these slopes `(J, K)`, one output after the other."""
        C, rows = self.C, []
        for h in slopes:
            g = C @ h
            rows.append(g / np.sqrt(h @ g + NOISE))
            C = C - np.outer(rows[-1], rows[-1])
        return np.array(rows)


def learn(belief: Belief, slopes: NDArray, keep: float = 1.0) -> Belief:
    """The belief after a sample, as update.onnx computes it from the rows."""
    (decays, dropped), filter_ = belief.before(keep), Kalman()
    rows = belief.memory.tensors["rows"].astype(np.float64)
    filter_.C = np.eye(K) - (rows.T * decays) @ rows
    return belief.after(decays, dropped, filter_.rows(slopes).astype(np.float32))


def samples(count: int, seed: int = 0) -> NDArray:
    """Slopes of some samples, `(count, J, K)`."""
    return np.random.default_rng(seed).standard_normal((count, J, K))


def learned(count: int, seed: int = 0) -> Belief:
    """The belief after some samples."""
    belief = Belief.prior(MEMORY, J, K)
    for slopes in samples(count, seed):
        belief = learn(belief, slopes)
    return belief


def test_the_covariance_is_that_of_a_kalman_filter() -> None:
    """Until the memory is full, with time that passes in between."""
    belief, filter_ = Belief.prior(MEMORY, J, K), Kalman()
    np.testing.assert_array_equal(belief.covariance(), np.eye(K))
    for slopes, keep in zip(samples(MEMORY), (1.0, 0.9, 1.0, 0.5, 1.0, 0.99), strict=True):
        filter_.relax(keep)
        rows = filter_.rows(slopes)
        filter_.C -= rows.T @ rows
        belief = learn(belief, slopes, keep)
        np.testing.assert_allclose(belief.covariance(), filter_.C, atol=2e-6)


def test_what_holds_least_is_dropped_before_the_next_sample_is_taken() -> None:
    """The covariance then is larger than that of a filter which drops nothing, but hardly. It is never negative."""
    belief, filter_ = Belief.prior(MEMORY, J, K), Kalman()
    for number, slopes in enumerate(samples(5 * MEMORY)):
        rows = filter_.rows(slopes)
        filter_.C -= rows.T @ rows
        belief = learn(belief, slopes)
        assert number < MEMORY or np.trace(belief.covariance()) < np.trace(filter_.C) + 0.02 * K
        assert np.linalg.eigvalsh(belief.covariance() - filter_.C).min() > -1e-5
        assert np.linalg.eigvalsh(belief.covariance()).min() > 0
        assert (belief.decays > 0).sum() <= MEMORY * J


def test_all_is_forgotten_in_the_end() -> None:
    """The covariance returns to the prior's, and no weight becomes one of float32's smallest numbers."""
    belief = learned(4)
    decays, _ = belief.before(1e-3)
    assert decays.max() <= 1.1e-6
    assert learn(belief, np.zeros((J, K)), 1e-30).covariance() == pytest.approx(np.eye(K))
    assert belief.before(1e-6)[0].max() == 0


def test_a_belief_stays_as_it_is_while_the_next_one_is_made() -> None:
    """A prediction that began with it can end. The update after the next one may write over its rows."""
    first = learned(2 * MEMORY)
    before = first.covariance()
    second = learn(first, samples(1, 1)[0])
    np.testing.assert_array_equal(first.covariance(), before)
    assert first.intact
    assert second.intact
    third = learn(second, samples(1, 2)[0])
    assert not first.intact
    assert second.intact
    assert third.intact


def test_two_models_go_on_from_one_belief() -> None:
    """Neither sees what the other learns, whether it is the prior or one that was shared."""
    for start in (Belief.prior(MEMORY, J, K), learned(4)):
        before = start.covariance()
        start.share()
        one, other = learn(start, samples(1, 1)[0]), learn(start, samples(1, 2)[0])
        alone = learn(start.copy(), samples(1, 1)[0])
        np.testing.assert_array_equal(one.covariance(), alone.covariance())
        assert np.abs(one.covariance() - other.covariance()).max() > 1e-3
        np.testing.assert_array_equal(start.covariance(), before)


class TestInflation:
    """`inflated` multiplies variances, up to the prior's."""

    @pytest.mark.parametrize("factor", [1.0, 3.0, 1e6, np.inf])
    def test_every_variance_grows_by_the_factor(self, factor: float) -> None:
        """Direction by direction, and no further than 1."""
        belief = learned(4)
        variances, directions = np.linalg.eigh(belief.covariance())
        with np.errstate(invalid="ignore"):
            wanted = np.minimum(factor * variances, 1)
        seen = belief.inflated(factor).covariance()
        np.testing.assert_allclose(seen, (directions * wanted) @ directions.T, atol=2e-6)

    def test_it_goes_on_learning(self) -> None:
        """With a memory full of other rows than those of samples."""
        belief = learned(4).inflated(2.0)
        for slopes in samples(2 * MEMORY, 3):
            belief = learn(belief, slopes)
            assert np.linalg.eigvalsh(belief.covariance()).min() > 0

    @pytest.mark.parametrize("factor", [0.5, -1.0, np.nan])
    def test_other_factors_are_refused(self, factor: float) -> None:
        """Only samples make a model surer."""
        with pytest.raises(InputError, match=r"factor is .* at least 1 is wanted"):
            learned(2).inflated(factor)


class TestFiles:
    """What a file keeps of a belief."""

    @pytest.mark.parametrize("count", [1, MEMORY, 2 * MEMORY + 1])
    def test_it_comes_back_and_drops_the_same_rows(self, count: int) -> None:
        """Also after the next samples."""
        belief = learned(count)
        again = Belief.restored(belief.tensors(), J)
        for slopes in samples(MEMORY, 4):
            np.testing.assert_allclose(again.covariance(), belief.covariance(), atol=1e-6)
            belief, again = learn(belief, slopes), learn(again, slopes)

    def test_numbers_that_make_no_covariance_are_refused(self) -> None:
        """A weight above 1, or rows that take more variance than there is."""
        tensors = learned(3).tensors()
        with pytest.raises(InputError, match="decays lie between"):
            Belief.restored(tensors | {"decays": 2 * tensors["decays"]}, J)
        with pytest.raises(InputError, match="of the prior's variance"):
            Belief.restored(tensors | {"rows": 2 * tensors["rows"]}, J)
