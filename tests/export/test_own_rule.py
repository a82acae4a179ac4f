"""A rule of one's own is exported under the name of its class."""

from pathlib import Path

import torch
from torch import nn

from msr_export import export_bundle
from msr_runtime import AdaptiveModel
from msr_runtime.meta.rules.rule import LOSSES, Forward, Index, Rule, Tensors
from msr_runtime.task import Loss


class OneRate(Rule):
    """Gradient steps by one learned rate."""

    def __init__(self) -> None:
        super().__init__(1)
        self.rate = nn.Parameter(torch.tensor(0.01))

    def step(
        self,
        index: Index,
        forward: Forward,
        loss: Loss,
        adapted: Tensors,
        support_x: torch.Tensor,
        support_y: torch.Tensor,
    ) -> tuple[Tensors, torch.Tensor]:
        def of(adapted: Tensors) -> torch.Tensor:
            return LOSSES[loss](forward(adapted, support_x), support_y)

        gradients, before = torch.func.grad_and_value(of)(adapted)
        return {name: tensor - self.rate * gradients[name] for name, tensor in adapted.items()}, before


def test_it_is_exported_and_adapts(exporter, tmp_path: Path) -> None:
    learner = exporter.build("msr", "mse", depth=1)
    learner.rule = OneRate()
    known = {"family": exporter.family, "shots": 6, "seed": 3, "config_digest": "0", "validation_tasks": 8}
    bundle = export_bundle(learner, exporter.scaled, tmp_path / "bundle", **known)
    model = AdaptiveModel.load(bundle)
    assert model.manifest.rule == "OneRate"
    assert model.manifest.learned == {"rate": (torch.tensor(0.01).item(),)}
