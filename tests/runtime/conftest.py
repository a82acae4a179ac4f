"""A real bundle, small enough to check by hand: a linear network `W = reshape(U v)` and its gradient step in ONNX."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from msr_runtime.bundle.manifest import Manifest, Normalization, Parity, Provenance, Weight
from msr_runtime.bundle.store import ADAPT, GOLDEN, LOSS, PREDICT, START, Golden, encode_start, write_bundle
from msr_runtime.task import Field

OBS, OUT, K = 3, 2, 4
FLOAT = TensorProto.FLOAT


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    """Standard normal numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model_bytes(nodes: list, inputs: dict, outputs: dict, constants: dict[str, NDArray]) -> bytes:
    """Return the bytes of a checked ONNX model. A constant with the name of an input is the default of that input."""
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@dataclass(frozen=True)
class Linear:
    """The network in numpy. It is the reference for the ONNX graphs."""

    u: NDArray[np.float32] = field(default_factory=lambda: random(1, OUT * OBS, K))
    v0: NDArray[np.float32] = field(default_factory=lambda: random(2, 1, K))
    rate: float = 0.05
    x_center: NDArray[np.float32] = field(default_factory=lambda: np.array([0.5, 0.0, -1.0], np.float32))
    x_scale: NDArray[np.float32] = field(default_factory=lambda: np.array([2.0, 1.0, 0.5], np.float32))
    y_center: NDArray[np.float32] = field(default_factory=lambda: np.array([1.0, -1.0], np.float32))
    y_scale: NDArray[np.float32] = field(default_factory=lambda: np.array([3.0, 0.1], np.float32))

    def fold(self, v: NDArray) -> NDArray:
        """Return `W = reshape(U v)`, `(out, obs)`."""
        return (v @ self.u.T).reshape(OUT, OBS)

    def start(self, v: NDArray | None = None) -> dict[str, NDArray]:
        """Return `v` and the weights folded from it, by name. The default is `v0`."""
        v = self.v0 if v is None else v
        return {"v": v, "layer.weight": self.fold(v)}

    def predict(self, v: NDArray, x: NDArray) -> NDArray:
        """Return the prediction in raw units."""
        return ((x - self.x_center) / self.x_scale) @ self.fold(v).T * self.y_scale + self.y_center

    def step(self, v: NDArray, x: NDArray, y: NDArray) -> tuple[NDArray, float]:
        """Take one gradient step; return the next `v` and the loss before the step."""
        inputs, targets = (x - self.x_center) / self.x_scale, (y - self.y_center) / self.y_scale
        error = inputs @ self.fold(v).T - targets
        gradient = (2 / error.size) * error.T @ inputs
        return v - np.float32(self.rate) * gradient.reshape(1, -1) @ self.u, float(np.mean(error**2))

    def adapt(self, x: NDArray, y: NDArray, steps: int) -> NDArray:
        """Return the filter parameters after `steps` inner steps from `v0`."""
        v = self.v0
        for _ in range(steps):
            v, _ = self.step(v, x, y)
        return v

    def predict_onnx(self) -> bytes:
        """Return the bytes of predict.onnx."""
        nodes = [
            ("Sub", ["x", "x_center"], "x_shifted", {}),
            ("Div", ["x_shifted", "x_scale"], "x_normal", {}),
            ("Gemm", ["x_normal", "layer.weight"], "y_normal", {"transB": 1}),
            ("Mul", ["y_normal", "y_scale"], "y_scaled", {}),
            ("Add", ["y_scaled", "y_center"], "y", {}),
        ]
        inputs = {"x": ["batch", OBS], "layer.weight": [OUT, OBS]}
        return model_bytes(nodes, inputs, {"y": ["batch", OUT]}, self._scaling() | {"layer.weight": self.fold(self.v0)})

    def adapt_onnx(self) -> bytes:
        """Return the bytes of adapt.onnx."""
        nodes = [
            *self._loss_nodes(),
            ("Shape", ["error"], "samples", {"end": 1}),
            ("Cast", ["samples"], "count", {"to": FLOAT}),
            ("Gemm", ["error", "x_normal"], "sum_gradient", {"transA": 1}),
            ("Div", ["sum_gradient", "count"], "mean_gradient", {}),
            ("Reshape", ["mean_gradient", "row"], "gradient_row", {}),
            ("MatMul", ["gradient_row", "u"], "v_gradient", {}),
            ("Mul", ["v_gradient", "rate"], "v_step", {}),
            ("Sub", ["v", "v_step"], "v_next", {}),
            ("Gemm", ["v_next", "u"], "flat_next", {"transB": 1}),
            ("Reshape", ["flat_next", "weight_shape"], "layer.weight_next", {}),
        ]
        inputs = {"support_x": ["shots", OBS], "support_y": ["shots", OUT], "v": [1, K], "layer.weight": [OUT, OBS]}
        outputs = {"v_next": [1, K], "layer.weight_next": [OUT, OBS], "loss": []}
        constants = {
            "u": self.u,
            "weight_shape": np.array([OUT, OBS]),
            "row": np.array([1, -1]),
            "rate": np.full(1, 2 * self.rate / OUT, np.float32),
        }
        return model_bytes(nodes, inputs, outputs, self._scaling() | constants)

    def loss_onnx(self) -> bytes:
        """Return the bytes of loss.onnx."""
        inputs = {"support_x": ["shots", OBS], "support_y": ["shots", OUT], "layer.weight": [OUT, OBS]}
        nodes = [*self._loss_nodes(), ("ReduceMean", ["squared", "values"], "losses", {"keepdims": 0})]
        outputs, constants = {"loss": [], "losses": ["shots"]}, {"values": np.array([1])}
        return model_bytes(nodes, inputs, outputs, self._scaling() | constants)

    @staticmethod
    def _loss_nodes() -> list:
        return [
            ("Sub", ["support_x", "x_center"], "x_shifted", {}),
            ("Div", ["x_shifted", "x_scale"], "x_normal", {}),
            ("Sub", ["support_y", "y_center"], "y_shifted", {}),
            ("Div", ["y_shifted", "y_scale"], "y_normal", {}),
            ("Gemm", ["x_normal", "layer.weight"], "predicted", {"transB": 1}),
            ("Sub", ["predicted", "y_normal"], "error", {}),
            ("Mul", ["error", "error"], "squared", {}),
            ("ReduceMean", ["squared"], "loss", {"keepdims": 0}),
        ]

    def _scaling(self) -> dict[str, NDArray]:
        return {name: getattr(self, name) for name in ("x_center", "x_scale", "y_center", "y_scale")}

    def manifest(self) -> Manifest:
        """Return the manifest, without the digests of the files."""
        return Manifest(
            name="linear",
            method="by hand",
            inputs=(
                Field(name="position", shape=(2,), unit="m", low=-np.inf, high=np.inf),
                Field(name="angle", shape=(1,), unit="rad", low=-np.pi, high=np.pi),
            ),
            outputs=(Field(name="force", shape=(OUT,), unit="N", low=-10, high=10),),
            normalization=Normalization(
                input_center=tuple(self.x_center.tolist()),
                input_scale=tuple(self.x_scale.tolist()),
                output_center=tuple(self.y_center.tolist()),
                output_scale=tuple(self.y_scale.tolist()),
            ),
            loss="mse",
            filter_parameters=K,
            weights=(Weight(name="layer.weight", shape=(OUT, OBS)),),
            shots=5,
            inner_steps=3,
            rule="gradient",
            learned={"layer": (self.rate,)},
            rate_hz=100.0,
            opset=18,
            ir_version=8,
            oldest_onnxruntime="1.14",
            group=None,
            equivariance_error=None,
            parity=Parity(max_relative_error=1e-7, tolerance=1e-5, shots=(5,), batches=(4,), steps=(3,)),
            provenance=Provenance(config_digest="0" * 64, versions={"numpy": np.__version__}, seed=0),
        )

    def files(self) -> dict[str, bytes]:
        """Return every file of the bundle except the manifest."""
        support_x, support_y, x = random(3, 5, OBS), random(4, 5, OUT), random(5, 4, OBS)
        v = self.adapt(support_x, support_y, 3)
        losses = np.array([self.step(at, support_x, support_y)[1] for at in (self.v0, v)], np.float32)
        golden = Golden(support_x, support_y, x, v, self.predict(v, x), self.predict(self.v0, x), losses, 3)
        return {
            PREDICT: self.predict_onnx(),
            ADAPT: self.adapt_onnx(),
            LOSS: self.loss_onnx(),
            START: encode_start(self.start()),
            GOLDEN: golden.to_bytes(),
        }


@pytest.fixture(scope="session")
def linear() -> Linear:
    """The numpy reference."""
    return Linear()


@pytest.fixture(scope="session")
def linear_files(linear: Linear) -> dict[str, bytes]:
    """The files of the reference's bundle."""
    return linear.files()


@pytest.fixture(scope="session")
def linear_bundle(tmp_path_factory: pytest.TempPathFactory, linear: Linear, linear_files: dict[str, bytes]) -> Path:
    """The reference's bundle. Read only."""
    return write_bundle(tmp_path_factory.mktemp("linear") / "bundle", linear.manifest(), linear_files).path


@pytest.fixture
def bundle_path(tmp_path: Path, linear_bundle: Path) -> Path:
    """A fresh copy of the reference's bundle, to be changed."""
    return shutil.copytree(linear_bundle, tmp_path / "bundle")


@pytest.fixture
def write(tmp_path: Path, linear: Linear, linear_files: dict[str, bytes]) -> Callable[..., Path]:
    """A function that writes the reference's bundle with some files or manifest values replaced."""

    def replaced(files: dict[str, bytes] | None = None, **values: object) -> Path:
        manifest = Manifest.model_validate(linear.manifest().model_dump() | values)
        return write_bundle(tmp_path / "replaced", manifest, linear_files | (files or {})).path

    return replaced
