"""The linear system of a Gauss-Newton step, written out in ONNX operators, is solved as torch solves it."""

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from msr_export.elimination import LARGEST, freeze_elimination
from msr_runtime.inference.session import make_session
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.task import Array


class _Alone:
    """As much of a learner as the graph needs: one tensor of K numbers, and two outputs."""

    classifies, outputs = False, (2,)

    def __init__(self, size: int) -> None:
        self._v = torch.zeros(size)

    def start(self) -> dict[str, torch.Tensor]:
        return {"v": self._v}


def _solved(rule: GaussNewton, size: int, sums: NDArray[np.float64], samples: int, v: Array, step: int = 0) -> Array:
    model = freeze_elimination(_Alone(size), rule)  # type: ignore[arg-type]
    session = make_session(model, "solve.onnx", ("CPUExecutionProvider",), optimize=False)
    feed = {"sums": sums, "samples": np.array([samples]), "v": v}
    feed |= {"step": np.array([step])} if rule.own_steps > 1 else {}
    return np.asarray(session.run(["v_next"], feed)[0])


@pytest.mark.parametrize("condition", [1e1, 1e5, 1e8])
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 100])
def test_the_system_is_solved_at_any_size_and_condition(size: int, condition: float) -> None:
    """To the rounding of float32, in which v is. Only the upper triangle is read."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
    A, b = (turn * np.geomspace(condition, 1, size)) @ turn.T, rng.normal(size=size)
    rule = GaussNewton(["v"], steps=1, damping=0.125)
    damping, scale = rule.damping(0).item(), rule.scales()["v"].item()
    z = np.linalg.solve(A + damping * 2 * 5 * np.eye(size), b)
    v = rng.normal(size=(1, size)).astype(np.float32)
    sums = np.concatenate([np.triu(A) + np.tril(np.full_like(A, np.nan), -1), b[:, None]], axis=1)
    seen = _solved(rule, size, np.nan_to_num(sums, nan=7.0), 5, v)
    np.testing.assert_allclose(seen, v - scale * z, rtol=1e-6, atol=1e-6 * np.abs(z).max())


def test_each_step_has_its_damping_and_later_ones_the_last() -> None:
    rule = GaussNewton(["v"], steps=2)
    with torch.no_grad():
        rule.damping_parameters.copy_(torch.tensor([0.0, 3.0]))
    sums, v = np.array([[2.0, 3.0]]), np.ones((1, 1), np.float32)
    for step, index in ((0, 0), (1, 1), (7, 1)):
        wanted = 1 - rule.scales()["v"].item() * 3 / (2 + rule.damping(index).item() * 2 * 4)
        assert _solved(rule, 1, sums, 4, v, step).item() == pytest.approx(wanted, rel=1e-6)


def test_the_largest_graph_is_far_from_the_most_operators_that_a_robot_loads() -> None:
    rule = GaussNewton(["v"], steps=1)
    sizes = [len(onnx.load_from_string(freeze_elimination(_Alone(size), rule)).graph.node) for size in (48, 96)]  # type: ignore[arg-type]
    assert (sizes[1] - sizes[0]) / 48 * LARGEST < 10_000
