"""In-context attention: the support set is read in one pass, and nothing takes a step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.attention import Attention
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.outer import OuterLoss
from msr_runtime.meta.training.trainer import train

CONFIG = LearnerConfig(width=8, depth=2)


@pytest.fixture
def learner() -> Attention:
    torch.manual_seed(0)
    return Attention(CONFIG, (4,), (2,), "mse").double()


def test_what_is_kept_of_a_support_set_grows_with_it(learner: Attention) -> None:
    """Keys and values of each block. Without samples there are none, and no numbers that adapt."""
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    adapted = learner.adapt(x, y)
    assert {name: tuple(part.shape) for name, part in adapted.items()} == {"keys": (2, 5, 8), "values": (2, 5, 8)}
    assert learner.adapted_size() == 0
    for start in (learner.start(), learner.adapt(x, y, steps=0)):
        assert {name: tuple(part.shape) for name, part in start.items()} == {"keys": (2, 0, 8), "values": (2, 0, 8)}
        assert learner(start, x).isfinite().all()
    assert torch.equal(learner(learner.adapt(x, y, steps=3), x), learner(adapted, x))


def test_the_outer_gradient_is_that_of_finite_differences(learner: Attention) -> None:
    """In float64, of all parameters, through the reading of the support set."""
    loss = OuterLoss(learner)
    names = [name for name, _ in loss.named_parameters()]
    batch = tuple(torch.randn(2, n, size, dtype=torch.float64) for n in (5, 6) for size in (4, 2))

    def losses(*tensors: torch.Tensor) -> torch.Tensor:
        return functional_call(loss, dict(zip(names, tensors, strict=True)), batch)

    parameters = dict(loss.named_parameters())
    assert torch.autograd.gradcheck(losses, [parameters[name] for name in names], fast_mode=True)


@pytest.mark.parametrize("labels", [False, True])
def test_images_and_labels_are_tokens_too(labels: bool) -> None:
    """An image is flattened, and a label is a vector with a one. Another label gives another answer."""
    learner = Attention(CONFIG, (1, 3, 2), (3,) if labels else (2, 2, 1), "cross_entropy" if labels else "mse")
    x, y = torch.randn(5, 1, 3, 2), torch.randint(3, (5,)) if labels else torch.randn(5, 2, 2, 1)
    answers = learner(learner.adapt(x, y), x)
    assert answers.shape == (5, *learner.outputs)
    assert not torch.equal(learner(learner.adapt(x, (y + 1) % 3), x), answers)
    assert learner.support_loss(learner.adapt(x, y), x, y).isfinite()


def test_it_learns(training, tmp_path: Path) -> None:
    """Five samples of a plane that was never seen leave a part of the error of its mean."""
    config = training.config(training.Plane(), learner=LearnerConfig(width=16, depth=2), steps=120, outer_rate=0.01)
    config = config.model_copy(update={"method": "attention"})
    assert train(training.Plane(), config, tmp_path / "run", progress=False).best < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "conv"}, "one token of a whole sample, but the network is 'conv'; take network 'mlp'"),
        ({"depth": 0}, "at least one block.*but depth is 0 and width is 8; set depth to 1 or more"),
        ({"width": (8, 16)}, r"one width for all blocks, but depth is 2 and width is \(8, 16\)"),
    ],
)
def test_sizes_that_give_no_blocks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=f"method 'attention' .*{message}"):
        Attention(CONFIG.model_copy(update=changes), (4,), (2,), "mse")
