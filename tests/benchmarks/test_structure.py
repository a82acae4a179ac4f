"""The benchmark of U's structure finds what was planted, and its table compares with the first step."""

from typing import Any

import numpy as np
import pytest
import torch
from structure import is_convolution
from structure_left import near_factors, sparse_basis
from tables.cells import MISSING
from tables.structure import structure, structure_left

from msr_export.tying import TiedSymmetry, tied
from msr_runtime.meta.symmetry.forms import FullSymmetry


def _convolution(outputs: int, shuffled: bool) -> TiedSymmetry:
    """What is found in a U that makes a convolution of three taps, whose second output may stand elsewhere."""
    symmetry = FullSymmetry(torch.zeros(outputs, outputs + 2), 3)
    U = torch.zeros(outputs, outputs + 2, 3)
    for tap in range(3):
        U[torch.arange(outputs), torch.arange(outputs) + tap, tap] = 1
    U[1] = U[1].roll(4, 0) if shuffled else U[1]
    with torch.no_grad():
        symmetry.U.copy_(U.reshape(-1, 3) @ torch.linalg.qr(torch.randn(3, 3))[0])
    found = tied(symmetry, 0.02)
    assert found is not None
    return found


@pytest.mark.parametrize("shuffled", [False, True])
def test_an_exact_convolution_is_recognized(shuffled: bool) -> None:
    """In any basis of v. Weights that share the same three numbers otherwise are none."""
    found = _convolution(8, shuffled)
    assert len(found.R) == 3
    assert is_convolution(found) != shuffled


def test_a_sparse_basis_is_found() -> None:
    """However v was rotated before."""
    rng = np.random.default_rng(0)
    sparse = rng.standard_normal((300, 4)) * (rng.random((300, 4)) < 0.1)
    U = sparse @ np.linalg.qr(rng.standard_normal((4, 4)))[0]
    off = {}
    for share in (0.85, 0.95):
        turn, found = sparse_basis(U, share)
        assert np.allclose(turn @ turn.T, np.eye(4))
        assert (found == 0).mean() > share - 0.01
        off[share] = np.linalg.norm(found - U @ turn) / np.linalg.norm(U)
    assert off[0.85] < 0.01, "so many zeros were planted"
    assert off[0.95] > 0.1, "so many were not"


def test_kronecker_factors_are_found() -> None:
    """Of the right sizes they are exact, and smaller ones are not."""
    rng = np.random.default_rng(0)
    U = np.einsum("mp,nq,pqk->mnk", rng.random((6, 2)), rng.random((7, 3)), rng.random((2, 3, 4)))
    assert np.allclose(near_factors(U, [2, 3]), U)
    assert not np.allclose(near_factors(U, [2, 2]), U, rtol=1e-2)


def test_each_step_is_compared_with_the_network_as_it_was_learned() -> None:
    """Run by run. What was not timed is a dash, and networks do not mix."""
    first: dict[str, Any] = {
        "case": "a",
        "step": "as learned",
        "filter_parameters": 9,
        "multiply_adds": 900,
        "different_rows": {},
        "convolutions": [],
        "stored_as": "float32",
        "symmetry_bytes": 3600,
        "bundle_bytes": 9000,
        "adapt_seconds": [1e-3, 2e-3],
        "native_seconds": [],
        "error": 0.5,
        "many_error": 0.2,
        "outside_error": None,
    }
    smaller = first | {
        "step": "as exported",
        "adapt_seconds": [5e-4, 5e-4],
        "error": 0.4,
        "many_error": 0.3,
        "multiply_adds": 27,
    }
    tied_rows = smaller | {"different_rows": {"layers.0.weight": 3}, "convolutions": ["layers.0.weight"]}
    left = {"case": "a", "zeros": 0.02, "factors": 1.0}
    rows = [
        first,
        smaller,
        left,
        first | {"case": "b", "error": 0.1, "outside_error": 0.5},
        tied_rows | {"case": "b", "outside_error": 1.5},
    ]
    lines = {line["network: step"]: line for line in structure(rows)}
    assert lines["a: as learned"]["adapt"] == "1.00"
    assert lines["a: as exported"]["adapt"] == "0.38 (0.25 to 0.50)"
    assert lines["a: as exported"]["adapt, native"] == MISSING
    assert lines["a: as exported"]["over as learned"] == "0.800"
    assert lines["a: as exported"]["64 samples"] == "1.500"
    assert lines["a: as exported"]["outside"] == MISSING
    assert lines["b: as exported"]["over as learned"] == "4.000"
    assert lines["b: as exported"]["outside"] == "3.000"
    assert lines["b: as exported"]["different rows"] == "3, a convolution"
    assert structure_left(rows) == [
        {"network": "a", "zeros in a sparse basis": "2%", "numbers of Kronecker factors": "100%"}
    ]
