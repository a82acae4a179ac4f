"""The factor on a filter's variances is what was learned at the places, and lies between them elsewhere."""

import math

import pytest
import torch

from msr_runtime.meta.rules.variance_scale import VarianceScale


def make(memory: int, *factors: float) -> VarianceScale:
    scale = VarianceScale(memory, pace=2.0)
    with torch.no_grad():
        scale.log_parameters.copy_(torch.tensor(factors).log() / 2)
    assert scale.factors.tolist() == pytest.approx(factors)
    return scale


def test_it_is_one_before_training() -> None:
    """An untrained factor changes nothing, to the last bit."""
    scale = VarianceScale(64)
    assert all(scale(torch.tensor(n)) == 1 for n in (0.0, 1.0, 2.7, 40.0, 64.0, 65.0))


@pytest.mark.parametrize(("n", "wanted"), [(0.0, 2.0), (1.0, 3.0), (3.0, 0.5), (7.0, 0.7), (8.0, 0.7), (1e6, 0.7)])
def test_it_is_what_was_learned_at_the_places(n: float, wanted: float) -> None:
    """The places are 0, 1, 3 and 7 samples, and beyond the memory's last place the factor stays."""
    assert make(7, 2.0, 3.0, 0.5, 0.7)(torch.tensor(n)).item() == pytest.approx(wanted)


def test_it_is_a_power_of_the_samples_between_the_places() -> None:
    """With log2(n + 1) halfway between two places, it is the geometric mean of theirs."""
    scale = make(7, 2.0, 3.0, 0.5, 0.7)
    assert scale(torch.tensor(math.sqrt(2) - 1)).item() == pytest.approx(math.sqrt(6.0))
    assert scale(torch.tensor(math.sqrt(32) - 1)).item() == pytest.approx(math.sqrt(0.35))


@pytest.mark.parametrize("memory", [1, 2, 3, 64, 127, 128])
def test_every_number_of_samples_has_a_place(memory: int) -> None:
    """The last place is that of the memory, or beyond it."""
    places = 2.0 ** torch.arange(len(VarianceScale(memory).log_parameters)) - 1
    assert places[-2] < memory <= places[-1]
