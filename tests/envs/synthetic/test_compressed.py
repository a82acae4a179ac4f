"""Compressed images give the same losses and gradients as the images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from msr_envs.checking.family import check_family
from msr_envs.registry import COMPRESSED, load_family
from msr_envs.ring_nav.family import RingNav
from msr_envs.synthetic.compressed import CONV_C8_HARD_COMPRESSED, Compressed, compress, patches
from msr_envs.synthetic.one_dimension import RANK1
from msr_envs.synthetic.two_dimensions import CONV_C8, CONV_C8_HARD
from msr_runtime.errors import FamilyError, TrainingError
from msr_runtime.meta.evaluation.scores import score
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MSR
from msr_runtime.meta.rules.rule import Rule
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.meta.training.outer import OuterLoss, outer_gradient
from msr_runtime.meta.training.pool import TaskPool
from msr_runtime.meta.training.trainer import train
from msr_runtime.task import SPLITS, Field, Split, TaskBatch, TaskFamily

SIZES = {1: (40,), 2: (11, 13), 3: (7, 8, 9)}
CONVOLUTIONS = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}
BOUNDS: dict[str, Any] = {"unit": "1", "low": -9.0, "high": 9.0}


class Noise:
    """Random images and outputs, unrelated to each other, with a mean of one: every weight leaves an error."""

    name, query_sets = "noise", ("near", "far")
    loss: Any = "mse"

    def __init__(self, image: tuple[int, ...], response: tuple[int, ...]) -> None:
        self.inputs: Any = (Field(name="image", shape=image, **BOUNDS),)
        self.outputs: Any = (Field(name="response", shape=response, **BOUNDS),)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        rng = np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])
        x, y = (
            rng.standard_normal((tasks, shots + queries, *side[0].shape), np.float32) + np.float32(1)
            for side in (self.inputs, self.outputs)
        )
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        return x, y


@st.composite
def layers(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """Kernel, stride, padding and dilation, with 1, 2 or 3 axes of space."""
    axes = draw(st.integers(1, 3))
    spans = ((1, 3 if axes < 3 else 2), (1, 2), (0, 2), (1, 3))
    return tuple(tuple(draw(st.integers(*span)) for _ in range(axes)) for span in spans)


def loss_and_gradients(loss: Tensor, *weights: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, weights)]


def assert_near(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert torch.linalg.vector_norm(a - b) <= tolerance * torch.linalg.vector_norm(b)


@settings(max_examples=80, deadline=None)
@given(layer=layers(), bias=st.booleans(), flat=st.booleans(), seed=st.integers(0, 2**32))
def test_rows_have_the_loss_and_gradients_of_any_convolution(
    layer: tuple[tuple[int, ...], ...], bias: bool, flat: bool, seed: int
) -> None:
    """Loss and gradients of weight and bias are equal to 1e-12 in float64, also if the patches lack full rank."""
    rng, (kernel, stride, padding, dilation) = np.random.default_rng(seed), layer
    axes = len(kernel)
    images = rng.standard_normal((2, 3, *SIZES[axes]))
    images[:, 1] = images[:, 0] if flat else images[:, 1]
    weight = torch.from_numpy(rng.standard_normal((4, 3, *kernel))).requires_grad_()
    offset = torch.from_numpy(rng.standard_normal(4)).requires_grad_()
    outputs = CONVOLUTIONS[axes](
        torch.from_numpy(images), weight, offset if bias else None, stride=stride, padding=padding, dilation=dilation
    )
    y = rng.standard_normal(outputs.shape)
    given = [weight, offset] if bias else [weight]
    wanted = loss_and_gradients(nn.functional.mse_loss(outputs, torch.from_numpy(y)), *given)

    P = patches(images, kernel, stride, padding, dilation).reshape(2, -1, weight[0].numel())
    P = np.concatenate([P, np.ones_like(P[..., :1])], -1) if bias else P
    Y = y.reshape(2, 4, -1).swapaxes(1, 2)
    if P.shape[1] < P.shape[2]:
        return
    rows_x, rows_y = map(torch.from_numpy, compress(P, Y))
    assert rows_x.shape[1] == P.shape[2] + 2
    W = torch.cat([weight.flatten(1), offset[:, None]], 1) if bias else weight.flatten(1)
    assert_near(loss_and_gradients(nn.functional.mse_loss(rows_x @ W.mT, rows_y), *given), wanted, 1e-12)


def test_a_family_gives_the_rows_of_its_images_in_float32() -> None:
    """Loss and gradient are equal to 1e-6 for each query set, with stride, padding, dilation and bias together."""
    family = Noise((2, 16, 15), (3, 8, 7))
    compressed = Compressed(family, kernel=3, stride=2, padding=(2, 1), dilation=2, bias=True)
    images = family.sample(np.random.default_rng(0), 2, 2, 4, "train")
    rows = compressed.sample(np.random.default_rng(0), 2, 2, 4, "train")
    assert rows.query_x.shape == (2, 4 * compressed.rows, 2 * 9 + 1)
    weight, offset = torch.randn(3, 2, 3, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    W = torch.cat([weight.flatten(1), offset[:, None]], 1)
    sides = [(images[i : i + 2], rows[i : i + 2]) for i in (0, 2)]
    for (x, y), (rows_x, rows_y) in sides:
        for part in (slice(0, 1), slice(1, 2)):  # of the support an image each, of the queries a set each
            size = x.shape[1] // 2
            one = slice(part.start * size, part.stop * size)
            these = slice(one.start * compressed.rows, one.stop * compressed.rows)
            outputs = nn.functional.conv2d(
                torch.from_numpy(x[0, one]), weight, offset, stride=2, padding=(2, 1), dilation=2
            )
            wanted = loss_and_gradients(nn.functional.mse_loss(outputs, torch.from_numpy(y[0, one])), weight, offset)
            linear = torch.from_numpy(rows_x[0, these]) @ W.mT
            loss = nn.functional.mse_loss(linear, torch.from_numpy(rows_y[0, these]))
            assert_near(loss_and_gradients(loss, weight, offset), wanted, 1e-6)


def test_the_outer_gradient_is_that_of_the_images() -> None:
    """Gradients of U, v and the rate are equal to 1e-6, through an inner step so long that losses are damped."""
    torch.manual_seed(0)
    config = LearnerConfig(depth=0, bias=False, rule="gradient", inner_steps=1, inner_rate=40.0, filters=18)
    linear = MSR(config, (9,), (24,), "mse")
    convolution = MSR(config.model_copy(update={"network": "conv"}), (1, 6, 6), (24, 4, 4), "mse")
    convolution.load_state_dict(
        {name: t.reshape(convolution.state_dict()[name].shape) for name, t in linear.state_dict().items()}
    )
    results = []
    for family, learner in ((CONV_C8_HARD, convolution), (CONV_C8_HARD_COMPRESSED, linear)):
        batch = family.sample(np.random.default_rng(0), 8, 2, 5, "train")
        loss, gradients = outer_gradient(OuterLoss(learner).double())([torch.from_numpy(a).double() for a in batch])
        results.append([loss, *gradients.values()])
    assert results[0][0] > 1
    assert_near(results[1], results[0], 1e-6)


@pytest.mark.parametrize("rule", ["gradient", "gauss-newton", "ridge"])
def test_every_rule_adapts_as_on_all_patches(rule: Any) -> None:
    """A learner adapts alike to the patches of two images and to their rows."""
    torch.manual_seed(0)
    config = LearnerConfig(depth=0, bias=False, inner_steps=2, inner_rate=3.0, filters=18, rule=rule)
    learner = MSR(config, (9,), (24,), "mse").double()
    images = CONV_C8_HARD.sample(np.random.default_rng(0), 1, 2, 1, "train")
    P = patches(images.support_x[0].astype(np.float64), (3, 3), (1, 1), (0, 0), (1, 1)).reshape(-1, 9)
    Y = images.support_y[0].reshape(2, 24, -1).swapaxes(1, 2).reshape(-1, 24).astype(np.float64)
    rows = CONV_C8_HARD_COMPRESSED.sample(np.random.default_rng(0), 1, 2, 1, "train")
    (wanted,) = learner.adapt(torch.from_numpy(P), torch.from_numpy(Y)).values()
    (found,) = learner.adapt(
        torch.from_numpy(rows.support_x[0]).double(), torch.from_numpy(rows.support_y[0]).double()
    ).values()
    assert isinstance(learner.rule, Rule)
    (start,) = learner.start().values()
    assert not torch.allclose(found, start, rtol=0.1)
    assert_near([found], [wanted], 1e-6)


@pytest.mark.parametrize("name", COMPRESSED)
def test_the_compressed_problems_keep_the_contract(name: str) -> None:
    """Each name gives the family of that name, which keeps every rule."""
    family = load_family(name)
    check_family(family)
    assert family.name == name


def test_normalization_finds_nothing_to_centre_and_the_images_scale() -> None:
    """The center of the rows is zero although the images have a mean of one. The scale is that of the images."""
    family = Noise((2, 9, 9), (3, 7, 7))
    compressed = Compressed(family, kernel=3, bias=True)
    images = family.sample(np.random.default_rng(0), 64, 1, 128, "train")
    found = measure_normalization(compressed, np.random.default_rng(0), None).normalization
    np.testing.assert_allclose((*found.input_center, *found.output_center), 0.0, atol=1e-8)
    np.testing.assert_allclose(found.input_scale[-1], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found.input_scale[:-1], np.sqrt(np.square(images.query_x).mean()), rtol=0.01)
    np.testing.assert_allclose(found.output_scale, np.sqrt(np.square(images.query_y).mean()), rtol=0.01)


def test_many_tasks_are_drawn_a_few_at_a_time() -> None:
    """All tasks differ, and equal generators give equal tasks."""
    family = Compressed(CONV_C8_HARD, kernel=3, at_once=2)
    batch, again = (family.sample(np.random.default_rng(0), 5, 1, 2, "test") for _ in range(2))
    assert batch.support_x.shape == (5, family.rows, 9)
    assert len({task.tobytes() for task in batch.support_y}) == 5
    for a, b in zip(batch, again, strict=True):
        assert np.array_equal(a, b)


class Labels(Noise):
    """The same family with another loss."""

    loss = "cross_entropy"


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (Labels((1, 9, 9), (3,)), {}, "its loss is cross_entropy, but only the mean squared error"),
        (RANK1, {}, r"its inputs have the shape \(70,\), but an image is \(channels, \*space\)"),
        (RingNav(), {}, "several input or output fields"),
        (CONV_C8, {"kernel": (3, 3, 3)}, "its images have 2 axes of space, but kernel"),
        (CONV_C8, {"padding": 1}, r"the layer maps \(1, 32, 32\) to \(channels, 32, 32\), but the outputs have"),
        (Noise((1, 5, 5), (3, 3, 3)), {}, "an image has 9 positions and would become 11 rows"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_cannot_be_compressed_is_refused(family: TaskFamily, changes: dict[str, Any], message: str) -> None:
    """The message names the family and the reason."""
    with pytest.raises(FamilyError, match=f"family '{family.name}' cannot be compressed: .*{message}"):
        Compressed(family, **{"kernel": 3, **changes})


def test_a_samples_rows_are_drawn_together_and_scored_together() -> None:
    """The pool draws whole samples from each query set. Predicting zero has a relative error of one on every set."""
    family = Compressed(Noise((1, 9, 9), (3, 7, 7)), kernel=3)
    pool = TaskPool(family, np.random.default_rng(0), 3, 4)
    batch = pool.draw(np.random.default_rng(1), 2, 2, 6)
    assert batch.support_x.shape == (2, 2 * family.rows, 9)
    assert batch.query_y.shape == (2, 6 * family.rows, 3)
    for drawn, held, sets in (
        (batch.support_x, pool.data.support_x, [0, 0]),
        (batch.query_x, pool.data.query_x, [0, 0, 0, 1, 1, 1]),
    ):
        held = held.reshape(3, -1, family.rows, 9)
        numbers = {sample.tobytes(): number for task in held for number, sample in enumerate(task)}
        for task in drawn.reshape(2, -1, family.rows, 9):
            samples = [numbers[sample.tobytes()] for sample in task]
            assert [number // 4 for number in samples] == sets
            assert len(set(samples)) == len(samples)
    scores = score(family, lambda x, y: lambda x: np.zeros((len(x), 3), np.float32), np.random.default_rng(0), tasks=3)
    for errors in (*scores.sets.values(), scores.orbit):
        np.testing.assert_allclose(errors.mean(), 1.0)


@pytest.mark.parametrize(("method", "changes"), [("msr", {"depth": 1}), ("maml", {"bias": True}), ("cavia", {})])
def test_a_network_that_is_not_linear_is_refused(method: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Rows are useless with a nonlinearity, a bias or a context, and the training loss would not show it."""
    learner = LearnerConfig(**({"depth": 0, "bias": method == "cavia"} | changes))
    config = TrainConfig.of(CONV_C8_HARD_COMPRESSED, method, learner, TrainSettings(augment=False))
    with pytest.raises(TrainingError, match=f"gives 11 rows for each sample.*the network of method '{method}' is not"):
        train(CONV_C8_HARD_COMPRESSED, config, tmp_path, progress=False)


def test_the_trainer_learns_the_group_from_rows(tmp_path: Path) -> None:
    """The error on new tasks is below half of 0.25 (raw units), the best that is possible without the group."""
    learner = LearnerConfig(depth=0, bias=False, rule="ridge", damping=0.1, filters=32)
    settings = TrainSettings(
        steps=100,
        outer_rate=0.03,
        shots=1,
        queries=4,
        training_tasks=200,
        samples_per_task=5,
        validation_every=100,
        augment=False,
    )
    config = TrainConfig.of(CONV_C8_HARD_COMPRESSED, "msr", learner, settings)
    result = train(CONV_C8_HARD_COMPRESSED, config, tmp_path, progress=False)
    assert result.best < 0.25 / 2 / 2  # its unit is the outputs' mean square, 2
