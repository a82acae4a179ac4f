"""Convolutions and their gradients in C equal those of ONNX Runtime, for each way in which a filter reads an image."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, Op
from msr_c.reading.model import read_graph
from msr_c.rewriting.channels import CONVOLUTIONS, channels_last
from msr_c.rewriting.filters import find_filter_gradients
from msr_export import convolutions
from msr_export.lowering import encode, lower
from msr_export.traced import Traced

_MOST = 7
"""The most samples of the functions in C. So a part of a few images may be left over."""


class Case(NamedTuple):
    """Sizes of images and filters, and how filters read."""

    size: tuple[int, ...]
    taps: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    channels: tuple[int, int] = (2, 3)

    @property
    def made(self) -> tuple[int, ...]:
        """The sizes of the result."""
        reach = self.dilation * (self.taps - 1) + 1
        return tuple((each + 2 * self.padding - reach) // self.stride + 1 for each in self.size)

    @property
    def filters(self) -> tuple[int, ...]:
        """The shape of the filters."""
        return (self.channels[1], self.channels[0] // self.groups, *[self.taps] * len(self.size))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of torch's convolution."""
        return {key: getattr(self, key) for key in ("stride", "padding", "dilation", "groups")}


_CASES = {
    "one tap": Case((5, 7), 1, channels=(3, 8)),
    "one tap, stride 2": Case((6, 5), 1, 2, channels=(3, 17)),
    "same": Case((7, 5), 3, 1, 1, channels=(3, 20)),
    "stride 2": Case((9, 8), 3, 2, 1, channels=(4, 16)),
    "no padding, stride 2": Case((8, 9), 3, 2),
    "five taps": Case((9, 7), 5, 1, 2),
    "five taps, stride 2": Case((11, 6), 5, 2, 2, channels=(9, 8)),
    "four taps": Case((8, 8), 4, 2, 1, channels=(2, 24)),
    "pixels between taps": Case((9, 9), 2, 3),
    "apart": Case((9, 8), 3, 2, 2, 2),
    "groups": Case((6, 7), 3, 2, 1, 1, 2, (4, 32)),
    "each channel by itself": Case((6, 5), 3, 1, 1, 1, 3, (3, 3)),
    "signal": Case((15,), 3, 2, 1, channels=(3, 9)),
    "one position": Case((3, 3), 3, channels=(2, 16)),
    "bands of rows": Case((70, 40), 3, 1, 1, channels=(16, 2)),
}


def _model(case: Case) -> bytes:
    """A convolution and its gradient by the image."""
    axes, (inner, outer) = len(case.size), case.channels
    reach = case.dilation * (case.taps - 1) + 1
    unread = [
        size - ((made - 1) * case.stride - 2 * case.padding + reach)
        for size, made in zip(case.size, case.made, strict=True)
    ]
    known = {"strides": [case.stride] * axes, "pads": [case.padding] * 2 * axes, "group": case.groups}
    known["dilations"] = [case.dilation] * axes
    shapes = {
        "image": ("n", inner, *case.size),
        "filters": case.filters,
        "bias": (outer,),
        "back": ("n", outer, *case.made),
    }
    typed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "filters", "bias"], ["y"], **known),
        helper.make_node("ConvTranspose", ["back", "filters"], ["by_image"], output_padding=unread, **known),
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "by_image")]
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(
        helper.make_graph(nodes, "c", typed, results), opset_imports=opset, ir_version=8
    ).SerializeToString()


def _graph(case: Case) -> Graph:
    """The model of a case, and the gradient by its filters."""
    graph = read_graph(_model(case), "adapt", Dim.samples())
    conv = next(op for op in graph.ops if op.kind == "conv")
    graph.add("by_filters", "float", (math.prod(case.filters[1:]), case.filters[0]))
    graph.ops.append(Op("conv filters", ["image", "back"], ["by_filters"], dict(conv.attributes)))
    graph.outputs.append("by_filters")
    channels_last(graph)
    return graph


@pytest.fixture(scope="module", params=["gcc", pytest.param("clang", marks=pytest.mark.slow)])
def code(request: pytest.FixtureRequest, in_c: Callable[..., Any]) -> Any:
    """The functions of all cases."""
    return in_c({f"case_{index}": _graph(case) for index, case in enumerate(_CASES.values())}, request.param)


@pytest.mark.parametrize("name", list(_CASES))
def test_it_is_the_convolution_of_onnx_runtime(code: Any, name: str) -> None:
    """One image, and several; the gradient by filters is torch's, because ONNX has no operator for it."""
    case, rng = _CASES[name], np.random.default_rng(0)
    session = onnxruntime.InferenceSession(_model(case), providers=["CPUExecutionProvider"])
    for n in (1, _MOST):
        shapes = {"image": (n, case.channels[0], *case.size), "filters": case.filters, "bias": (case.channels[1],)}
        shapes["back"] = (n, case.channels[1], *case.made)
        given = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        seen = code.run(f"case_{list(_CASES).index(name)}", given)
        for key, wanted in zip(("y", "by_image"), map(np.asarray, session.run(["y", "by_image"], given)), strict=True):
            np.testing.assert_allclose(seen[key], wanted, rtol=1e-4, atol=1e-4)
        image, filters, bias, back = (torch.from_numpy(given[key]) for key in ("image", "filters", "bias", "back"))
        filters.requires_grad_()
        function = {1: nn.functional.conv1d, 2: nn.functional.conv2d}[len(case.size)]
        (by_filters,) = torch.autograd.grad(function(image, filters, bias, **case.settings), filters, back)
        wanted = np.moveaxis(by_filters.numpy(), 0, -1).reshape(seen["by_filters"].shape)
        np.testing.assert_allclose(seen["by_filters"], wanted, rtol=1e-4, atol=1e-3)


class _Gradients(nn.Module):
    """Two layers, of which the second has groups, and their gradients by filters as the exporter writes them."""

    def forward(self, image: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        settings = [[2, 2], [1, 1], [1, 1], False, [0, 0], 1], [[2, 2], [0, 0], [1, 1], False, [0, 0], 2]
        hidden = torch.ops.aten.convolution(image, first, None, *settings[0])
        squared = hidden * hidden
        y = torch.ops.aten.convolution(squared, second, None, *settings[1])
        known = [True] * 3
        back, by_second, _ = convolutions.convolution_backward(y * y, squared, second, None, *settings[1], wanted=known)
        assert back is not None
        by_first = convolutions.convolution_backward(back * hidden, image, first, None, *settings[0], wanted=known)[1]
        assert by_first is not None
        assert by_second is not None
        return by_first, by_second


def test_gradients_by_filters_are_found_in_what_the_exporter_writes(in_c: Callable[..., Any]) -> None:
    """No patch is cut out: only convolutions, elementwise operations and copies into another order are left."""
    arguments = {"image": torch.randn(5, 3, 9, 8), "first": torch.randn(8, 3, 3, 3), "second": torch.randn(6, 4, 2, 2)}
    axes = {"arguments": {"image": {0: torch.export.Dim("n")}, "first": None, "second": None}}
    traced = Traced(_Gradients(), arguments, ("image",))
    model = encode(lower(traced, {"arguments": arguments}, axes, list(arguments), ["by_first", "by_second"]))
    graph = read_graph(model, "adapt", Dim.samples())
    find_filter_gradients(graph)
    channels_last(graph)
    kinds = [op.kind for op in graph.ops]
    assert [kinds.count(kind) for kind in CONVOLUTIONS] == [2, 1, 2]
    assert not {"concat", "pad", "matmul"} & set(kinds)
    given = {
        key: np.random.default_rng(0).normal(size=each.shape).astype(np.float32) for key, each in arguments.items()
    }
    seen = in_c({"gradients": graph}).run("gradients", given)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for key, wanted in zip(seen, map(np.asarray, session.run(list(seen), given)), strict=True):
        np.testing.assert_allclose(seen[key], wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
