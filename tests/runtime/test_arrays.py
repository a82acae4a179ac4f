"""Checks on arrays that several packages share."""

import numpy as np

from msr_runtime.arrays import norm


def test_a_norm_that_overflows_is_infinite() -> None:
    """Without a warning: a damaged start must not stop a program that turns warnings into errors."""
    assert norm(np.array([[3.0, 4.0]], np.float32)) == 5.0
    assert norm(np.array([[1e30, 0.0]], np.float32)) == np.inf
