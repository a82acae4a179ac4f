"""A bundle whose U was made smaller becomes C as any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from msr_c import write_c
from msr_export import export_bundle
from msr_export.truncation import directions, truncate
from msr_export.tying import can_tie, tied
from msr_runtime.bundle.store import Bundle
from msr_runtime.meta.learners.learner import Learner

_WEIGHT = "layers.0.parametrizations.weight"


def _written(exporter: Any, learner: Learner, folder: Path) -> Bundle:
    """Export a learner whose U was changed, with the checks of an export."""
    known: dict[str, Any] = {"shots": 6, "seed": 3, "config_digest": "0", "validation_tasks": 8}
    known |= {"precision": "float32", "structure": False}
    path = export_bundle(learner, exporter.scaled, folder, family=exporter.family, **known)
    return Bundle.open(path)


def _tie(learner: Learner) -> None:
    """Give the first U two different rows and tie them."""
    parts = learner.network.get_submodule(_WEIGHT)
    symmetry: Any = parts.get_submodule("0")
    with torch.no_grad():
        symmetry.U.copy_(symmetry.U[torch.arange(len(symmetry.U)) % 2])
    pattern = tied(symmetry, 0.02)
    assert pattern is not None
    parts[0] = pattern  # type: ignore[index]


@pytest.mark.parametrize("rule", ["gradient", pytest.param("gauss-newton", marks=pytest.mark.slow)])
def test_fewer_columns(exporter: Any, replayed: Callable[..., str], tmp_path: Path, rule: str) -> None:
    """The golden example comes back."""
    learner = exporter.build("msr", "mse", rule=rule, depth=1, width=6)
    name = f"{_WEIGHT}.original"
    symmetry: Any = learner.network.get_submodule(f"{_WEIGHT}.0")
    truncate(learner, name, directions(symmetry, learner.start()[name], torch.randn(9, 5))[:2])
    bundle = _written(exporter, learner, tmp_path / "bundle")
    assert bundle.manifest.filter_parameters == learner.adapted_size()
    assert replayed(write_c(bundle, tmp_path / "c")).endswith("passed\n")


def test_equal_rows_by_ridge(exporter: Any, replayed: Callable[..., str], tmp_path: Path) -> None:
    """With fewer numbers in v than in y, the Jacobian is taken forwards and adds nothing up."""
    learner = exporter.build("msr", "mse", rule="ridge", depth=0, filters=1, bias=False)
    assert can_tie(learner)
    _tie(learner)
    bundle = _written(exporter, learner, tmp_path / "bundle")
    assert replayed(write_c(bundle, tmp_path / "c")).endswith("passed\n")


def test_equal_rows_by_gradient_steps(exporter: Any, replayed: Callable[..., str], tmp_path: Path) -> None:
    """Their gradient is a sum over equal entries. The zeros between them are not stored."""
    learner = exporter.build("msr", "mse", depth=1, width=6)
    _tie(learner)
    bundle = _written(exporter, learner, tmp_path / "bundle")
    source = write_c(bundle, tmp_path / "c")
    assert replayed(source).endswith("passed\n")
    places = 6 * 4 + 1
    assert f"[{places}] = {{" not in "".join(path.read_text() for path in (tmp_path / "c").glob("*.c"))
