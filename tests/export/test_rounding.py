"""Rounding leaves alone what a smaller type holds already, what adapts, and what it would harm."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from msr_export.rounding import constants, round_half, round_rows, rounded, row_lengths
from msr_runtime.bundle.rounding import as_rows
from msr_runtime.meta.symmetry.measures import equivariance_error
from msr_runtime.task import Array

_MATRICES = arrays.array_shapes(min_dims=2, max_dims=3, max_side=6)


@given(arrays.arrays(np.float16, _MATRICES, elements=st.floats(-60_000, 60_000, width=16)))
def test_a_float16_number_stays(values: Any) -> None:
    """Subnormal ones and zeros too."""
    exact = values.astype(np.float32)
    near = round_half(exact)
    assert near is not None
    assert np.array_equal(near, exact)


@given(arrays.arrays(np.float32, _MATRICES, elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)))
def test_rows_are_found_again_to_the_last_bit(values: Any) -> None:
    """Each number is off by half a scale at most, and rounding again changes nothing."""
    near = round_rows(values)
    if near is None:  # a row has nothing but numbers near the smallest of float32
        assert np.abs(values).max(-1)[np.abs(values).max(-1) > 0].min() < 1e-35
        return
    scales = np.abs(values).max(-1, keepdims=True) / 127
    assert (np.abs(near - values) <= 0.501 * scales).all()
    found = as_rows(near, values.shape[-1])
    assert found is not None
    q, s = found
    assert np.array_equal(q * s, near.reshape(q.shape))
    assert (np.abs(q).max(1)[s[:, 0] > 0] == 127).all()
    again = round_rows(near)
    assert again is not None
    assert np.array_equal(again, near)


def test_a_row_of_zeros_stays() -> None:
    """Its scale is zero, and it does not touch the other rows."""
    values = np.array([[0, 0, 0], [1, -127, 3]], np.float32)
    near = round_rows(values)
    assert near is not None
    assert np.array_equal(near, values)
    assert not np.any(as_rows(near, 3)[1][0])  # type: ignore[index]


@pytest.mark.parametrize(("size", "fits"), [(1e5, (False, True)), (1e-9, (False, True)), (1e-38, (False, False))])
def test_numbers_that_a_type_does_not_hold(size: float, fits: tuple[bool, bool]) -> None:
    """Beyond float16 and below it, and rows whose scale float32 itself holds badly."""
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32) * np.float32(size)
    assert (round_half(values) is not None, round_rows(values) is not None) == fits


def test_a_few_tiny_numbers_do_no_harm() -> None:
    """What counts is how far off the tensor is as a whole."""
    near = round_half(np.array([[0.3, 1e-9]], np.float32))
    assert near is not None
    assert near[0, 1] == 0


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_only_constants_are_rounded(exporter: Any, precision: Any) -> None:
    """v, vectors and what the rule learned stay. The learner that is given stays as it is."""
    learner = exporter.build("msr", "mse")
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    near, kept = rounded(learner, precision)
    assert kept == ()
    changed = {name for name, value in near.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"network.{name}" for name in constants(learner)} == {n for n in before if n.endswith(".U")}
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert row_lengths(learner) == {5, 2}


def test_layers_that_do_not_adapt_are_rounded_to_float16(exporter: Any) -> None:
    """They have no U: also where int8 is asked for."""
    learner = exporter.build("anil", "mse")
    assert set(constants(learner)) == {"layers.0.weight", "layers.1.weight"}
    near, _ = rounded(learner, "int8")
    weight: Array = near.network.get_parameter("layers.1.weight").detach().numpy()
    assert np.array_equal(weight, weight.astype(np.float16))
    assert not row_lengths(learner)


def test_what_does_not_fit_stays_float32_by_name(exporter: Any) -> None:
    """The other tensors are rounded."""
    learner = exporter.build("msr", "mse")
    name = next(iter(constants(learner)))
    with torch.no_grad():
        constants(learner)[name].mul_(1e6)
    near, kept = rounded(learner, "float16")
    assert kept == (name,)
    assert torch.equal(constants(near)[name], constants(learner)[name])


def test_a_known_group_stays_exact(exporter: Any) -> None:
    """The fixed basis of the form `equivariant` is not rounded."""
    learner = exporter.build("msr", "mse", form="equivariant", width=16)
    for parameter in learner.parameters():
        if not parameter.requires_grad:  # a bias that has to be zero
            parameter.zero_()
    near, _ = rounded(learner, "int8")
    moved = {name: value + 0.1 for name, value in near.start().items()}
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)

    def predict(x: Array) -> Array:
        with torch.no_grad():
            return near(moved, torch.from_numpy(x)).numpy()

    assert equivariance_error(predict, exporter.family.group(), x) < 1e-5
