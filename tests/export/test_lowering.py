"""The graphs hold only what the oldest ONNX Runtime reads."""

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from msr_export.lowering import encode, lower
from msr_runtime.inference.session import make_session


class Parts(nn.Module):
    """Split x into parts, and multiply each by its place."""

    def __init__(self, *lengths: int) -> None:
        super().__init__()
        self.lengths = list(lengths)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([index * part for index, part in enumerate(x.split(self.lengths, 1))], 1)


@pytest.mark.parametrize("parts", [15, 16, 40, 240])
def test_a_tensor_is_split_into_few_parts_at_a_time(parts: int) -> None:
    """ONNX Runtime 1.23.0 and 1.23.1 refuse a list of 16 lengths. The parts and their order stay."""
    lengths = [1 + index % 3 for index in range(parts)]
    module, x = Parts(*lengths), torch.randn(5, sum(lengths))
    model = lower(module.eval(), {"x": x}, {"x": {0: torch.export.Dim("batch")}}, ["x"], ["y"])
    assert max(len(node.output) for node in model.graph.node if node.op_type == "Split") <= 15
    assert all(numpy_helper.to_array(constant).size <= 15 for constant in model.graph.initializer)
    session = make_session(encode(model), "predict", ["CPUExecutionProvider"])
    np.testing.assert_array_equal(np.asarray(session.run(None, {"x": x.numpy()})[0]), module(x).numpy())
