"""Predictors for the linear reference network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from msr_runtime.inference.device import HOST, Device
from msr_runtime.inference.onnx_network import OnnxNetwork
from msr_runtime.inference.predictor import BoundPredictor, Predictors
from msr_runtime.inference.session import make_session
from msr_runtime.inference.session_spec import read_spec
from msr_runtime.inference.state import State


@pytest.fixture
def predictors(linear: Any, linear_files: dict[str, bytes]) -> Callable[..., Predictors]:
    """A function that returns `Predictors` for the linear network, with all tensors on one device."""

    def made(device: Device = HOST) -> Predictors:
        manifest = linear.manifest()
        session = make_session(linear_files["predict.onnx"], "predict.onnx", ["CPUExecutionProvider"])
        x, y = read_spec(session, "x", manifest.inputs), read_spec(session, "y", manifest.outputs, output=True)
        return Predictors(OnnxNetwork(session), x, y, State(linear.start(), device))

    return made


@pytest.fixture
def predictor(linear: Any, predictors: Callable[..., Predictors]) -> BoundPredictor:
    """The linear network with the weights folded from v = 1."""
    return predictors().make(State(linear.start(np.ones((1, 4), np.float32))).block)
