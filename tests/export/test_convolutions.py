"""Gradients of convolutions and pooling, written for ONNX, equal torch's, for all strides and in every rule."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msr_export import check_parity, convolutions, export_bundle, freeze, patches
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import InputError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field, Loss, Split, TaskBatch

aten = torch.ops.aten
EXAMPLES = settings(max_examples=60, deadline=None)


def _each(draw: Callable[[Any], Any], axes: int, low: int, high: int) -> list[int]:
    return [draw(st.integers(low, high)) for _ in range(axes)]


@st.composite
def _convolutions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, list]:
    """Image, weight and bias in float64, and stride, padding, dilation, transposed, output padding and groups."""
    axes, groups, transposed = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.booleans())
    stride, padding, dilation = _each(draw, axes, 1, 3), _each(draw, axes, 0, 2), _each(draw, axes, 1, 2)
    more = [draw(st.integers(0, max(pair) - 1)) * transposed for pair in zip(stride, dilation, strict=True)]
    sizes, taps = _each(draw, axes, 4, 8), _each(draw, axes, 1, 3)
    filters = (2 * groups, 3) if transposed else (3 * groups, 2)
    image, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((draw(st.sampled_from((1, 3))), 2 * groups, *sizes), (*filters, *taps), (3 * groups,))
    )
    return image, weight, bias, [stride, padding, dilation, transposed, more, groups]


@given(_convolutions())
@EXAMPLES
def test_the_gradient_of_a_convolution_is_torchs(case: tuple[Tensor, Tensor, Tensor, list]) -> None:
    """By image, weight and bias. The convolution by patches is compared too, if it is not transposed."""
    image, weight, bias, settings = case
    try:
        y = aten.convolution(image, weight, bias, *settings)
    except RuntimeError:  # the filter is larger than the image
        assume(False)
    gradient = torch.randn_like(y)
    wanted = torch.autograd.grad(y, (image, weight, bias), gradient)
    seen = convolutions.convolution_backward(gradient, image, weight, None, *settings, wanted=[True] * 3)
    for value, should in zip(seen, wanted, strict=True):
        torch.testing.assert_close(value, should)
    stride, padding, dilation, transposed, _, groups = settings
    if not transposed:
        torch.testing.assert_close(patches.convolution(image, weight, bias, stride, padding, dilation, groups), y)


@given(st.data())
@EXAMPLES
def test_poolings_and_their_gradients_are_torchs(data: st.DataObject) -> None:
    """Windows overlap, stick out or leave pixels unread. Of equal maxima the first one counts."""
    taps, stride, sizes = (_each(data.draw, 2, low, high) for low, high in ((1, 4), (1, 4), (4, 9)))
    padding = [data.draw(st.integers(0, tap // 2)) for tap in taps]
    dilation, up, counted = _each(data.draw, 2, 1, 2), data.draw(st.booleans()), data.draw(st.booleans())
    divisor = data.draw(st.sampled_from((None, 3)))
    image = torch.randint(-2, 3, (2, 3, *sizes)).double().requires_grad_()
    averaging = (taps, stride, padding, up, counted, divisor)
    y = aten.avg_pool2d(image, *averaging)
    gradient = torch.randn_like(y)
    (wanted,) = torch.autograd.grad(y, image, gradient)
    torch.testing.assert_close(convolutions.avg_pool2d_backward(gradient, image, *averaging), wanted)
    torch.testing.assert_close(patches.avg_pool(image, *averaging), y)
    assume(all((tap - 1) * apart < size for tap, apart, size in zip(taps, dilation, sizes, strict=True)))
    y, indices = aten.max_pool2d_with_indices(image, taps, stride, padding, dilation, up)
    gradient = torch.randn_like(y)
    (wanted,) = torch.autograd.grad(y, image, gradient)
    seen = convolutions.max_pool2d_backward(gradient, image, taps, stride, padding, dilation, up, indices)
    torch.testing.assert_close(seen, wanted)
    again = patches.max_pool(image, taps, stride, padding, dilation, up)
    assert torch.equal(again, y)
    torch.testing.assert_close(torch.autograd.grad(again, image, gradient)[0], wanted)


SHAPE, CLASSES = (2, 7, 6), 3
SCALED = Normalization(
    input_center=(((0.3,),), ((-0.2,),)),
    input_scale=(((2.0,),), ((1.5,),)),
    output_center=(0.0,) * CLASSES,
    output_scale=(1.0,) * CLASSES,
)
NETWORKS = {
    "max": lambda: (
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    ),
    "average": lambda: (
        nn.Conv2d(2, 4, (3, 2), padding=1, dilation=2, groups=2),
        nn.SiLU(),
        nn.AvgPool2d(2, padding=1),
        nn.Flatten(),
        nn.Linear(48, CLASSES),
    ),
    "signal": lambda: (
        nn.Flatten(2),
        nn.Conv1d(2, 4, 5, stride=2, padding=1, dilation=2),
        nn.ReLU(),
        nn.MaxPool1d(3, 2),
        nn.Conv1d(4, 4, 3),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    ),
}


def _learner(network: str, loss: Loss, **changes: object) -> Learner:
    class Images(Learner):
        name = "images"

        def build_network(self) -> nn.Module:
            return nn.Sequential(*NETWORKS[network]())

    torch.manual_seed(0)
    config = LearnerConfig.model_validate({"filters": 5, "inner_steps": 2, "damping": 0.1} | changes)
    learner = Images(config, SHAPE, (CLASSES,), loss)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return learner


def _case(network: str, loss: Loss, **changes: object) -> object:
    return pytest.param(network, loss, changes, id="-".join(map(str, (network, loss, *changes.values()))))


@pytest.mark.slow  # the bundle below is compared in the same way
@pytest.mark.parametrize(
    ("network", "loss", "changes"),
    [
        _case("max", "mse"),
        _case("average", "huber", reparameterized=True, form="per-input"),
        _case("signal", "mse", reparameterized=True, form="kronecker", terms=2),
        _case("max", "mse", reparameterized=True, rule="gauss-newton"),
        _case("average", "cross_entropy", rule="gauss-newton"),
        _case("signal", "huber", reparameterized=True, rule="gauss-newton"),
        _case("signal", "mse", rule="ridge"),
    ],
)
def test_networks_of_images_adapt_as_in_torch(exporter, network: str, loss: Loss, changes: dict[str, object]) -> None:
    """At four shot counts, three batch sizes and one to five steps, ONNX Runtime is within 1e-5 of torch."""
    learner = _learner(network, loss, **changes)
    inputs = exporter.inputs(SCALED, SHAPE)
    assert 0 < check_parity(learner, SCALED, freeze(learner, SCALED), inputs, seed=1).max_relative_error <= 1e-5


class Blots:
    """Images whose means, mixed by unknown numbers, say to which class they belong."""

    name = "blots"
    inputs: tuple[Field, ...] = (Field(name="image", shape=SHAPE, unit="1", low=-math.inf, high=math.inf),)
    outputs: tuple[Field, ...] = (Field(name="class", shape=(CLASSES,), unit="1", low=-9.0, high=9.0),)
    loss: Loss = "cross_entropy"
    query_sets: tuple[str, ...] = ("all",)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks: the largest of the means of an image's thirds, after random numbers mixed them."""
        x = rng.normal(size=(tasks, shots + queries, *SHAPE)).astype(np.float32)
        thirds = x.mean((2, 3)).reshape(*x.shape[:2], CLASSES, -1).mean(-1)
        y = np.einsum("tij,tnj->tni", rng.normal(size=(tasks, CLASSES, CLASSES)), thirds).argmax(-1)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leave all samples as they are."""
        return x, y


def test_a_bundle_of_images_adapts_on_the_robot_as_in_torch(tmp_path) -> None:
    """Exported, with its comparison with torch; opened and adapted to labels.

    It predicts one image or a batch, and refuses a flattened image by name.
    """
    learner = _learner("max", "cross_entropy", reparameterized=True)
    arguments = {"family": Blots(), "shots": 6, "seed": 3, "config_digest": "0", "validation_tasks": 8}
    arguments["structure"] = False
    model = AdaptiveModel.load(export_bundle(learner, SCALED, tmp_path / "bundle", **arguments))
    golden = Bundle.open(tmp_path / "bundle").golden()
    assert golden.support_x.shape == (6, *SHAPE)
    # without limits: the network is not trained, so that they say nothing
    assert model.adapt(golden.support_x, golden.support_y, guard=UNLIMITED).accepted
    for x, y in ((golden.x, golden.y), (golden.x[0], golden.y[0])):
        np.testing.assert_allclose(model.predict(x), y, atol=1e-5 * np.abs(golden.y).max())
    with pytest.raises(InputError, match=r"x has shape \(84,\), but \(samples, 2, 7, 6\)"):
        model.predict(golden.x[0].ravel())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_written_norm_is_torchs(groups: int) -> None:
    """With and without the numbers of the channels."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 4, 5, 5), torch.randn(4), torch.randn(4)
    for w, b, eps in ((None, None, 1e-5), (weight, bias, 1e-3), (None, bias, 1e-5)):
        wanted = nn.functional.group_norm(x, groups, w, b, eps)
        torch.testing.assert_close(patches.group_norm(x, groups, w, b, eps), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_layers_are_normalized_in_gauss_newton_steps_for_any_number_of_samples() -> None:
    """Torch's own norm reads how many samples there are, and the graph would hold for that number alone."""
    torch.manual_seed(0)
    config = LearnerConfig(network="conv", width=2, depth=1, norm="layer", rule="gauss-newton", inner_steps=1)
    learner = LEARNERS["maml"](config, (1, 6, 6), (2,), "cross_entropy").eval()
    scaling = Normalization.identity((1, 6, 6), (2,))
    images = np.random.default_rng(0).standard_normal((32, 1, 6, 6)).astype(np.float32)
    assert check_parity(learner, scaling, freeze(learner, scaling), images, seed=0).max_relative_error <= 1e-5
