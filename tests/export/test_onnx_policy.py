"""A policy in an ONNX file becomes a torch module that computes the same, and begins a meta-training."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from msr_export import check_exportable, load_onnx
from msr_runtime.errors import ExportError
from msr_runtime.inference.session import make_session
from msr_runtime.meta import LEARNERS, LearnerConfig
from msr_runtime.meta.programs import registered

IN, OUT = 12, 2


def _file(path: Path, nodes: list[onnx.NodeProto], **constants: Any) -> Path:
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", IN), ("y", OUT))
    ]
    graph = helper.make_graph(nodes, "policy", ends[:1], ends[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32) * 0.3


def _perceptron(path: Path) -> Path:
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["moved"]),
        helper.make_node("Gemm", ["moved", "w0", "b0"], ["h0"], transB=1),
        helper.make_node("Elu", ["h0"], ["a0"], alpha=0.5),
        helper.make_node("MatMul", ["a0", "w1"], ["h1"]),
        helper.make_node("Add", ["h1", "b1"], ["h2"]),
        helper.make_node("Tanh", ["h2"], ["a2"]),
        helper.make_node("Clip", ["a2", "low", "high"], ["y"]),
    ]
    numbers = {"w0": _random(8, IN), "b0": _random(8), "w1": _random(8, OUT), "b1": _random(OUT), "mean": _random(IN)}
    return _file(path, nodes, **numbers, low=np.float32(-0.3), high=np.float32(0.3))


def _filters(path: Path) -> Path:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["image"]),
        helper.make_node("Conv", ["image", "w0", "b0"], ["h0"], strides=[2], pads=[1, 1]),
        helper.make_node("Relu", ["h0"], ["a0"]),
        helper.make_node("Flatten", ["a0"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["y"]),
    ]
    numbers = {"w0": _random(3, 2, 3), "b0": _random(3), "w1": _random(9, OUT), "b1": _random(OUT)}
    return _file(path, nodes, **numbers, shape=np.array([0, 2, 6]))


@pytest.mark.parametrize("make", [_perceptron, _filters])
def test_it_computes_what_the_file_computes(make, tmp_path: Path) -> None:
    """So does a learner that has a symmetry matrix behind every layer of it, before its first step."""
    path, x = make(tmp_path / "policy.onnx"), np.random.default_rng(0).normal(size=(9, IN)).astype(np.float32)
    session = make_session(path.read_bytes(), "policy.onnx", ["CPUExecutionProvider"])
    wanted = torch.from_numpy(np.asarray(session.run(["y"], {"x": x})[0]))
    policy = load_onnx(path)
    torch.testing.assert_close(policy(torch.from_numpy(x)).detach(), wanted)
    with registered({("network", "policy"): lambda *_, **__: load_onnx(path)}):
        learner = LEARNERS["msr"](LearnerConfig(network="policy", filters=4), (IN,), (OUT,), "mse")
    assert len(policy.layers) == 2
    assert {"layers.0.parametrizations.weight.original", "layers.1.parametrizations.weight.original"} <= {
        *learner.adapted_names
    }
    torch.testing.assert_close(learner(learner.start(), torch.from_numpy(x)).detach(), wanted, atol=1e-5, rtol=1e-5)


def test_numbers_that_are_no_layers_are_exported_too(tmp_path: Path) -> None:
    """Those of a normalization are kept with the network. What is added to a product is its bias, and learned."""
    path = _perceptron(tmp_path / "policy.onnx")
    with registered({("network", "policy"): lambda *_, **__: load_onnx(path)}):
        learner = LEARNERS["msr"](LearnerConfig(network="policy", filters=2, inner_steps=1), (IN,), (OUT,), "mse")
    assert "network.constants.0.constant" in learner.state_dict()
    assert "layers.1.parametrizations.bias.original" in learner.adapted_names
    check_exportable(learner)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    """The operation and its node, and for a missing file where it was looked for."""
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Sin", ["h"], ["y"], name="wave")]
    path = _file(tmp_path / "policy.onnx", nodes, w=_random(IN, OUT))
    with pytest.raises(ExportError, match=r"has the operation Sin \(node 'wave', .* read are Add, Clip, "):
        load_onnx(path)
    with pytest.raises(ExportError, match=r"there is no ONNX file .*absent\.onnx"):
        load_onnx(tmp_path / "absent.onnx")
    path.write_bytes(b"a policy")
    with pytest.raises(ExportError, match=r"policy\.onnx' cannot be read .*: .*another kind of file, one that was cut"):
        load_onnx(path)
