"""The benchmark of wide networks trains small ones, counts U, and its table compares at the same width."""

from pathlib import Path
from typing import Any

import pytest
import widths
from tables.structure import widths as lines_of
from widths import FORMS, Case, Options, symmetry_numbers

from msr_envs.registry import load_family
from msr_runtime.meta.training.checkpoint import build_learner
from msr_runtime.meta.training.config import TrainConfig, TrainSettings

OPTIONS = Options()


def _learner(form: str, width: int) -> Any:
    config = TrainConfig.of(load_family("ring-nav"), "msr", Case(form, width).learner, TrainSettings())
    return build_learner(config)


def test_numbers_of_u_grow_with_the_form() -> None:
    """A full U has as many rows as all weights together; of a Kronecker product, each side has its own factor."""
    layers = [(18, 16), (16, 16), (16, 16), (16, 2)]
    weights = sum(inputs * outputs + outputs for inputs, outputs in layers)
    columns = 16
    small = min(columns, 2)  # the bias of two outputs
    full = symmetry_numbers(_learner("full, 16 columns", 16))
    assert full == (weights - 2) * columns + 2 * small
    one, four = (symmetry_numbers(_learner(form, 16)) for form in ("Kronecker", "Kronecker, 4 terms"))
    biases = 3 * 16 * columns + 2 * small  # their U is full in every form
    assert four - biases == 4 * (one - biases)
    assert one < full
    assert set(OPTIONS.forms) == set(FORMS)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(SystemExit, match="no form 'sparse'; there are full, 64 columns, "):
        widths.main(Options(forms=("sparse",)))


@pytest.mark.slow
def test_it_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two forms at one width, trained shortly."""
    options = Options(
        widths=(8,),
        forms=("full, 16 columns", "Kronecker"),
        steps=3,
        training_tasks=200,
        seeds=1,
        tasks=2,
        out=tmp_path,
    )
    widths.main(options)
    out = capsys.readouterr().out
    assert "Kronecker" in out
    assert "over full" in out


def test_errors_are_compared_at_the_same_width() -> None:
    """And times with the first line."""
    row = {"outer_rate": 0.008, "symmetry_numbers": 10, "adapted_parameters": 4}
    rows = [
        row | {"form": form, "width": width, "step_seconds": seconds, "error_orbit": [error, error]}
        for form, width, seconds, error in (("a", 1, 2.0, 0.1), ("a", 2, 4.0, 0.2), ("b", 2, 1.0, 0.1))
    ]
    lines = lines_of(rows)
    assert [line["over full"] for line in lines] == ["1.00", "1.00", "0.50"]
    assert [line["an outer step"] for line in lines] == ["1.00", "2.00", "0.50"]
