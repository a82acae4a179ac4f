"""Networks of one's own become C: an unrolled recurrent cell, and a soft maximum."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from msr_c import write_c
from msr_export import export_bundle
from msr_runtime.bundle.store import PREDICT, Bundle
from msr_runtime.meta.programs import registered


class _Cell(nn.Module):
    """Reads the two fields of x one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 4)
        for part in x.unflatten(1, (2, 2)).unbind(1):
            state = self.cell(part, state)
        return self.out(state)


class _SoftMaximum(nn.Module):
    """Takes the soft maximum of pairs, as a method of prototypes does of poses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.first(x).unflatten(1, (3, 2)).logsumexp(-1))


@pytest.mark.parametrize(("network", "operator"), [(_Cell, b"Sigmoid"), (_SoftMaximum, b"ReduceLogSumExp")])
def test_it_comes_back(
    exporter: Any, replayed: Callable[..., str], tmp_path: Path, network: type[nn.Module], operator: bytes
) -> None:
    """Its golden example."""
    known: dict[str, Any] = {"shots": 6, "seed": 3, "config_digest": "0", "validation_tasks": 8}
    with registered({("network", "own"): lambda *_, **__: network()}):
        learner = exporter.build("maml", "mse", network="own")
        path = export_bundle(
            learner, exporter.scaled, tmp_path / "bundle", family=exporter.family, precision="float32", **known
        )
    bundle = Bundle.open(path)
    assert operator in bundle.files[PREDICT]
    assert replayed(write_c(bundle, tmp_path / "c")).endswith("passed\n")
