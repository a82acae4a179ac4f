"""The policy of a client whose observations are images, and whose outputs are labels."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from msr_runtime import AdaptiveModel, Field, InputError
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.store import ADAPT, GOLDEN, LOSS, PREDICT, START, Golden, encode_start, write_bundle
from msr_runtime.serving.access import Limits
from msr_runtime.serving.policy import Policy


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def classifier(tmp_path: Path, linear: Any) -> Policy:
    """A linear softmax classifier of 2 x 2 images into three classes, with a hand-written bundle."""
    u, v0, rate = draw(1, 12, 4), draw(2, 1, 4), 0.5
    support_x, x = draw(3, 6, 2, 2), draw(4, 5, 2, 2)
    support_y: Any = np.arange(6) % 3

    def logits(v: np.ndarray, images: np.ndarray) -> np.ndarray:
        return images.reshape(-1, 4) @ (v @ u.T).reshape(3, 4).T

    def log_p(v: np.ndarray) -> np.ndarray:
        scores = logits(v, support_x)
        return scores - np.log(np.exp(scores).sum(1, keepdims=True))

    def loss(v: np.ndarray) -> np.float32:
        return np.float32(-log_p(v)[np.arange(6), support_y].mean())

    error = (np.exp(log_p(v0)) - np.eye(3)[support_y]) / 6
    v = (v0 - rate * (error.T @ support_x.reshape(6, 4)).reshape(1, -1) @ u).astype(np.float32)
    start = {"v": v0, "weight": (v0 @ u.T).reshape(3, 4)}
    golden = Golden(
        support_x, support_y, x, v, logits(v, x), logits(v0, x), np.array([loss(v0), loss(v)]), 1
    )  # fmt: skip
    graphs = _classifier_graphs(u, rate, start["weight"])
    files = graphs | {START: encode_start(start), GOLDEN: golden.to_bytes()}
    replaced = {
        "inputs": [Field(name="image", shape=(2, 2), unit="1", low=0, high=1)],
        "outputs": [Field(name="shape", shape=(3,), unit="1", low=-1, high=1)],
        "loss": "cross_entropy",
        "normalization": {
            "input_center": ((0.0,),) * 2,
            "input_scale": ((1.0,),) * 2,
            "output_center": (0.0,) * 3,
            "output_scale": (1.0,) * 3,
        },
        "weights": [{"name": "weight", "shape": (3, 4)}],
        "inner_steps": 1,
    }
    manifest = Manifest.model_validate(linear.manifest().model_dump() | replaced)
    return Policy(AdaptiveModel.load(write_bundle(tmp_path / "classifier", manifest, files).path), Limits(samples=8))


def test_they_adapt_and_infer(classifier: Policy) -> None:
    """One image or several keep their shape, and labels are integers."""
    support = {"support_x": {"image": draw(3, 6, 2, 2)}, "support_y": np.arange(6) % 3}
    reply = classifier.answer({"__msr__": "adapt"} | support)
    assert reply["accepted"]
    assert reply["loss_after"] < reply["loss_before"]
    one, many = (classifier.answer({"image": image})["shape"] for image in (draw(5, 2, 2), draw(5, 1, 2, 2)))
    np.testing.assert_allclose(one, many, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 1, 2, 3, 0, 1], "labels 0 to 3, but 0 to 2"),
        ([0, -1, 2, 0, 0, 1], "labels -1 to 2"),
        ([0.5] * 6, "dtype float64"),
        ([[0]] * 6, "shape (6, 1)"),
        ([0], "support_y has 1"),
        ({"class": [0] * 6}, "support_y names fields, ['class'], but a classifier learns from labels"),
    ],
)
def test_refusals(classifier: Policy, labels: object, sentence: str) -> None:
    message = {"__msr__": "adapt", "support_x": {"image": draw(3, 6, 2, 2)}, "support_y": labels}
    with pytest.raises(InputError, match=re.escape(sentence)):
        classifier.answer(message)


def _classifier_graphs(u: np.ndarray, rate: float, weight: np.ndarray) -> dict[str, bytes]:
    """The graphs predict, adapt and loss of softmax regression with `weight = reshape(U v)`."""
    image, labels = ("support_x", TensorProto.FLOAT, ["shots", 2, 2]), ("support_y", TensorProto.INT64, ["shots"])
    folded, v, loss = ("weight", TensorProto.FLOAT, [3, 4]), ("v", TensorProto.FLOAT, [1, 4]), ("loss", 1, [])
    logits = [("Flatten", ["support_x"], "flat", {}), ("Gemm", ["flat", "weight"], "logits", {"transB": 1})]
    entropy = ("SoftmaxCrossEntropyLoss", ["logits", "support_y"], "loss", {})
    step = [
        ("Softmax", ["logits"], "p", {}),
        ("OneHot", ["support_y", "three", "zero_one"], "wanted", {}),
        ("Sub", ["p", "wanted"], "error", {}),
        ("Shape", ["support_y"], "size", {}),
        ("Cast", ["size"], "count", {"to": TensorProto.FLOAT}),
        ("Gemm", ["error", "flat"], "sum", {"transA": 1}),
        ("Div", ["sum", "count"], "gradient", {}),
        ("Reshape", ["gradient", "row"], "gradient_row", {}),
        ("MatMul", ["gradient_row", "u"], "v_gradient", {}),
        ("Mul", ["v_gradient", "rate"], "v_step", {}),
        ("Sub", ["v", "v_step"], "v_next", {}),
        ("Gemm", ["v_next", "u"], "flat_next", {"transB": 1}),
        ("Reshape", ["flat_next", "weight_shape"], "weight_next", {}),
    ]
    constants = {
        "u": u,
        "rate": np.full(1, rate, np.float32),
        "three": np.array(3),
        "zero_one": np.array([0, 1], np.float32),
        "row": np.array([1, -1]),
        "weight_shape": np.array([3, 4]),
    }
    one = [("Flatten", ["x"], "flat", {}), ("Gemm", ["flat", "weight"], "y", {"transB": 1})]
    x, y = ("x", TensorProto.FLOAT, ["batch", 2, 2]), ("y", TensorProto.FLOAT, ["batch", 3])
    after = [("v_next", *v[1:]), ("weight_next", *folded[1:]), loss]
    return {
        PREDICT: _graph(one, [x, folded], [y], {"weight": weight}),
        ADAPT: _graph([*logits, entropy, *step], [image, labels, v, folded], after, constants),
        LOSS: _graph([*logits, entropy], [image, labels, folded], [loss], {}),
    }


def _graph(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info(*part) for part in inputs],
        [helper.make_tensor_value_info(*part) for part in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
