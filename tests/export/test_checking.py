"""An untrained learner is tried with steps that a trained one could have learned."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msr_export import check_exportable
from msr_export.checking import _falls, _random_set, _settle
from msr_runtime.errors import ExportError
from msr_runtime.meta import LEARNERS, LearnerConfig
from msr_runtime.meta.programs import registered


class Normalized(nn.Module):
    """A normalizing layer in front of a residual one: a single sample calls for smaller steps than many do."""

    def __init__(self, inputs: tuple[int], outputs: tuple[int], widths: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(inputs[0], widths[0], bias=bias), nn.LayerNorm(widths[0])
        self.inner, self.head = nn.Linear(widths[0], widths[0]), nn.Linear(widths[0], outputs[0])

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(nn.functional.gelu(self.first(x)))
        return self.head(seen + self.inner(seen))


def test_steps_are_small_enough_for_a_single_sample() -> None:
    """Else the comparison in ONNX Runtime finds no support set of one sample, and refuses a network that trains."""
    torch.manual_seed(0)
    config = LearnerConfig(network="own", width=16, filters=16, rule="gradient")
    with registered({("network", "own"): Normalized}):
        learner = LEARNERS["msr"](config, (4,), (2,), "mse").eval()
    singles = [_random_set(learner, 1) for _ in range(20)]
    assert not all(_falls(learner, *single) for single in singles)
    _settle(learner)
    assert sum(_falls(learner, *single) for single in singles) >= 18


def test_the_line_of_an_operation_that_cannot_be_exported_is_named() -> None:
    """Torch does not say where it stands in the user's code."""

    class Outside(Normalized):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.from_numpy(np.sin(x.detach().numpy())))

    with registered({("network", "own"): Outside}):
        learner = LEARNERS["maml"](LearnerConfig(network="own", width=4), (4,), (2,), "mse")
    line = Outside.forward.__code__.co_firstlineno + 1
    with pytest.raises(ExportError, match=f"data pointer.*, in {__file__}, line {line}; replace it by basic"):
        check_exportable(learner)


@pytest.mark.parametrize(("network", "outputs"), [("conv", (3, 6, 6)), ("mlp", (2,))])
def test_images_are_tried_too(network: str, outputs: tuple[int, ...]) -> None:
    """They have one center and one scale per channel, and not one per pixel."""
    config = LearnerConfig(network=network, width=2, depth=1)
    check_exportable(LEARNERS["maml"](config, (2, 6, 6), outputs, "mse"))
