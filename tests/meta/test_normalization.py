"""Normalising keeps every symmetry of the built-in families and can be undone."""

import numpy as np
import pytest

from msr_envs.registry import FAMILIES, load_family
from msr_runtime.meta.normalization import measure_normalization
from msr_runtime.task import SymmetricFamily, field_slices


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_commutes_with_the_group(name: str) -> None:
    """To turn and then to normalise is to normalise and then to turn, for every element, on both sides."""
    family = load_family(name)
    assert isinstance(family, SymmetricFamily)
    group = family.group()
    scaling = measure_normalization(family, _rng(), group)
    batch = family.sample(_rng(), 4, 1, 8 * len(family.query_sets), "train")
    for normalize, samples, matrices in (
        (scaling.normalize_x, batch.query_x, group.inputs),
        (scaling.normalize_y, batch.query_y, group.outputs),
    ):
        for matrix in matrices:
            np.testing.assert_allclose(normalize(samples @ matrix.T), normalize(samples) @ matrix.T, atol=2e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_brings_every_field_near_one_and_back(name: str) -> None:
    """The fields' root mean squares are near one, and centre and scale undo the step to float32."""
    family = load_family(name)
    scaling = measure_normalization(family, _rng(), None)
    batch = family.sample(np.random.default_rng(1), 64, 1, 32 * len(family.query_sets), "train")
    x, y = family.augment(_rng(), batch.query_x, batch.query_y)
    for normalized, raw, center, scale, fields in (
        (scaling.normalize_x(x), x, scaling.input_center, scaling.input_scale, family.inputs),
        (scaling.normalize_y(y), y, scaling.output_center, scaling.output_scale, family.outputs),
    ):
        assert normalized.dtype == np.float32
        np.testing.assert_allclose(normalized * np.array(scale) + np.array(center), raw, rtol=1e-5, atol=1e-5)
        for part in field_slices(fields).values():
            assert 0.5 < np.sqrt(np.mean(normalized[..., part] ** 2)) < 2.0


def test_a_field_that_never_changes_is_not_divided_by_nothing(training) -> None:
    """Its scale is one and it normalises to zero; everything stays finite."""

    class Still(training.Plane):
        def augment(self, rng, x, y):  # noqa: ANN202
            return np.full_like(x, 3.0), y

    scaling = measure_normalization(Still(), _rng(), None)
    assert scaling.input_scale == (1.0, 1.0)
    assert not scaling.normalize_x(np.full((5, 2), 3.0)).any()
