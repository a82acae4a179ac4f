"""Reductions and copies in C equal those of ONNX Runtime, whatever the order in which they read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from msr_c.graphs.dims import Dim
from msr_c.reading.model import read_graph

_SHAPES = {"many numbers": (3, 21), "few numbers": (2, 5), "whole lanes": (4, 16)}


def _model(shape: tuple[int, ...]) -> bytes:
    """Sums and means of an array and of its transpose, and what an operation makes of both."""
    nodes = [helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1])]
    nodes += [helper.make_node("Transpose", ["x"], ["again"], perm=[0, 2, 1])]
    nodes += [helper.make_node("Mul", ["turned", "turned"], ["squared"])]
    nodes += [helper.make_node("Tanh", ["again"], ["elementwise"])]
    results, known = ["elementwise"], []
    for operator in ("ReduceMean", "ReduceSum"):
        for name, axes in (("x", [2]), ("x", [1, 2]), ("squared", [2]), ("squared", [1])):
            results.append(f"{operator}_{name}_{len(results)}")
            known.append(numpy_helper.from_array(np.array(axes, np.int64), f"axes_{results[-1]}"))
            nodes.append(helper.make_node(operator, [name, known[-1].name], [results[-1]], keepdims=0))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", *shape))
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    graph = helper.make_graph(nodes, "loops", [x], made, known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def code(in_c: Callable[..., Any]) -> Any:
    """The functions of all shapes."""
    return in_c(
        {name.replace(" ", "_"): read_graph(_model(shape), "adapt", Dim.samples()) for name, shape in _SHAPES.items()}
    )


@pytest.mark.parametrize("name", list(_SHAPES))
def test_they_are_those_of_onnx_runtime(code: Any, name: str) -> None:
    """One sample and several."""
    session = onnxruntime.InferenceSession(_model(_SHAPES[name]), providers=["CPUExecutionProvider"])
    for n in (1, 7):
        x = np.random.default_rng(n).normal(size=(n, *_SHAPES[name])).astype(np.float32)
        seen = code.run(name.replace(" ", "_"), {"x": x})
        for key, wanted in zip(seen, session.run(list(seen), {"x": x}), strict=True):
            np.testing.assert_allclose(seen[key], np.asarray(wanted), rtol=1e-5, atol=1e-6)
