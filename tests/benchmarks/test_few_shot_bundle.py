"""Torch, ONNX Runtime and native code name the same images alike, and the table says how often they do not."""

from pathlib import Path

import few_shot
import few_shot_bundle
import numpy as np
import pytest
from few_shot import CELLS, Data
from few_shot_bundle import FIRST, Options, main, scored
from tables.images import few_shot_bundle as lines_of

from msr_runtime.task import Adapt

PROTONETS = "protonets"


@pytest.fixture
def omniglot(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file in place of Omniglot's, and tasks of few classes."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    monkeypatch.setitem(few_shot.DATA, "omniglot", Data("omniglot:size=8", "MSR_OMNIGLOT", 6, tuple(CELLS)))


@pytest.mark.slow
def test_a_bundle_names_images_as_torch_does(
    omniglot: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the same episodes; rounding turns hardly a name."""
    found = []
    monkeypatch.setattr(few_shot_bundle, "keep", lambda options, begun, rows: found.extend(rows))
    main(Options(methods=(PROTONETS,), cells=("5x1",), budget="smoke", episodes=3, turns=3, out=tmp_path))
    torch, *others = found
    assert [row["who"] for row in found] == [FIRST, *few_shot_bundle.ENGINES]
    assert torch["adapt_seconds"] is None
    for row in others:
        assert row["other"] < 0.05
        assert row["accuracy"] == pytest.approx(torch["accuracy"], abs=0.05)
        assert row["adapt_seconds"] > 0
    assert "named otherwise" in capsys.readouterr().out


def test_answers_are_counted(omniglot: None) -> None:
    """One who always says the first class is right once in five, and differs from one who is never right."""

    def says(label: int) -> Adapt:
        return lambda x, y: lambda query: np.eye(5, dtype=np.float32)[np.full(len(query), label)]

    found = scored({FIRST: says(0), "another": says(1)}, "5x1", 2)
    assert found == {FIRST: (pytest.approx(0.2), 0.0), "another": (pytest.approx(0.2), 1.0)}
    row = {"method": "a", "cell": "5x1", "bundle_bytes": 2000, "adapt_seconds": None, "predict_seconds": None}
    rows = [row | {"who": who, "accuracy": accuracy, "other": other} for who, (accuracy, other) in found.items()]
    first, another = lines_of(rows)
    assert (first["5 way 1 shot"], first["named otherwise"], first["bundle, kB"]) == ("20.00", "0.000%", "–")
    assert (another["named otherwise"], another["bundle, kB"]) == ("100.000%", "2")
