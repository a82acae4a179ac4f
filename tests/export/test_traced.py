"""A module is traced once: what the trace gives is already made of operators that can be written in ONNX."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from msr_export.lowering import encode, lower, quiet
from msr_export.traced import Traced

aten = torch.ops.aten
X = torch.randn(7, 3)


class _Curve(nn.Module):
    """Means over all numbers, a bend, and axes of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.layer(x))
        return y.sum() / y.numel(), y[:, None, :, None].squeeze((1, 2, 3))


@pytest.fixture
def curve() -> _Curve:
    torch.manual_seed(0)
    return _Curve()


@pytest.fixture
def program(curve) -> Traced:
    return Traced(curve, {"x": X}, ["x"])


def _run(program: Traced, x: Tensor) -> list[Tensor]:
    """By ONNX Runtime, for a number of samples that the trace did not see."""
    axes = {"arguments": {"x": {0: torch.export.Dim("shots")}}}
    model = lower(program, {"arguments": {"x": X}}, axes, ["x"], ["mean", "y"])
    session = onnxruntime.InferenceSession(encode(model), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(np.asarray(each)) for each in session.run(None, {"x": x.numpy()})]


def test_nothing_is_traced_again_where_nothing_is_left_to_decompose(program, monkeypatch) -> None:
    def again(*_: object) -> None:
        raise AssertionError("the program is traced again")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", again)
    assert len(_run(program, X)) == 2
    assert len([node for node in program.graph.nodes if node.target is aten.sym_size.int]) == 1


def test_the_graph_equals_the_module_for_any_number_of_samples(curve, program) -> None:
    for samples in (1, 5):
        x = torch.randn(samples, 3)
        torch.testing.assert_close(_run(program, x), [each.detach() for each in curve(x)])


def test_an_operator_that_the_table_names_is_decomposed(curve, program) -> None:
    table = {aten.tanh.default: lambda x: 2 * torch.sigmoid(2 * x) - 1}
    with quiet():
        decomposed = program.run_decompositions(table)
    assert aten.tanh.default not in {node.target for node in decomposed.graph.nodes}
    wanted = curve(X)
    torch.testing.assert_close(decomposed.module()(arguments={"x": X}), [each.detach() for each in wanted])
