"""A recurrent cell, unrolled in a network of one's own, becomes C."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from msr_c import write_c
from msr_export import export_bundle
from msr_runtime.bundle.store import Bundle
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


def test_a_gated_cell_comes_back(exporter: Any, replayed: Callable[..., str], tmp_path: Path) -> None:
    """Its golden example."""
    known: dict[str, Any] = {"shots": 6, "seed": 3, "config_digest": "0", "validation_tasks": 8}
    with registered({("network", "own"): lambda *_, **__: _Cell()}):
        learner = exporter.build("maml", "mse", network="own")
        path = export_bundle(
            learner, exporter.scaled, tmp_path / "bundle", family=exporter.family, precision="float32", **known
        )
    assert replayed(write_c(Bundle.open(path), tmp_path / "c")).endswith("passed\n")
