"""Networks of images in C: convolutions and their gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from msr_c import Written, write_c
from msr_export import export_bundle
from msr_runtime.bundle.store import Bundle
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field, Loss, Split, TaskBatch

SHAPE = 2, 7, 6


class Pictures:
    """y is the mean of an image, times an unknown number."""

    name = "pictures"
    inputs: tuple[Field, ...] = (Field(name="image", shape=SHAPE, unit="1", low=-9.0, high=9.0),)
    outputs: tuple[Field, ...] = (Field(name="y", shape=(2,), unit="1", low=-9.0, high=9.0),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks."""
        x = rng.normal(size=(tasks, shots + queries, *SHAPE)).astype(np.float32)
        y = (x.mean((-1, -2)) * rng.normal(size=(tasks, 1, 2))).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leave all samples as they are."""
        return x, y


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The C code of a network with two convolutions."""
    torch.manual_seed(0)
    config = LearnerConfig.model_validate({"network": "conv", "depth": 2, "width": 3, "filters": 5, "rule": "gradient"})
    learner, folder = LEARNERS["msr"](config, SHAPE, (2,), "mse").eval(), tmp_path_factory.mktemp("images")
    known: dict[str, Any] = {"shots": 4, "seed": 3, "config_digest": "0", "validation_tasks": 8}
    scaling = Normalization.identity(SHAPE, (2,))
    bundle = export_bundle(learner, scaling, folder / "bundle", family=Pictures(), precision="float32", **known)
    return write_c(Bundle.open(bundle), folder / "c")


@pytest.mark.slow  # it exports a network of images
@pytest.mark.parametrize(
    ("compiler", "options"),
    [("gcc", ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")), ("clang", ())],
)
def test_two_layers_of_convolution_come_back(
    replayed: Callable[..., str], written: Written, compiler: str, options: tuple[str, ...]
) -> None:
    """The gradient by the first layer goes through a transposed convolution with a stride."""
    assert "spread_float(" in written.source.read_text()
    assert replayed(written, *options, compiler=compiler).endswith("passed\n")
