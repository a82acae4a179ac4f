"""The families of images through the commands: train, evaluate, export, and evaluate the bundle."""

import json
import re
from pathlib import Path

import pytest

from msr_runtime.cli.families import family_of
from msr_runtime.errors import FamilyError

TINY = {"steps": 20, "tasks-per-step": 2, "validation-tasks": 4, "shots": 1, "queries": 3, "outer-rate": 0.01}
OPTIONS = [word for name, value in TINY.items() for word in (f"--settings.{name}", str(value))]
FAMILY = "omniglot:ways=3,size=8,crop=0.9"
SIZES = ["--learner.network", "mlp", "--learner.width", "16", "--learner.depth", "1"]


@pytest.mark.parametrize("method", ["protonets", "maml"])
def test_a_run_names_its_family_with_its_options(
    image_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys, refusal, msr, method: str
) -> None:
    """`msr evaluate` finds the family by that name, and the file by the environment variable, which it asks for."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    run, found = tmp_path / "run", tmp_path / "found.json"
    assert msr("train", FAMILY, run, "--method", method, *SIZES, *OPTIONS) == 0
    assert "new tasks in each step: 3 classes with 1 and 3 images as queries" in capsys.readouterr().out
    assert msr("evaluate", run, "--tasks", "30", "--json", found) == 0
    said = capsys.readouterr().out
    assert re.search(r"error upright +\S+ ± \S+\nerror orbit +\S+ ± \S+\nequivariance error +\S+ ± \S+\n", said)
    assert f"30 of {FAMILY}, test, 1 shots" in said
    (figures,) = json.loads(found.read_text())
    assert figures["error upright, no adaptation"]["mean"] == pytest.approx(2 / 3, abs=0.1)  # labels are drawn
    assert figures["error upright"]["mean"] < {"protonets": 0.6, "maml": 0.7}[method]  # 20 steps: MAML needs more
    monkeypatch.delenv("MSR_OMNIGLOT")
    assert msr("evaluate", run, "--tasks", "1") == 2
    assert re.search(r"give it as the option file.*MSR_OMNIGLOT", refusal())


def test_a_group_that_is_to_be_found_is_named_in_the_run(
    image_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys, refusal, msr
) -> None:
    """What was found is printed, the run and its checkpoints name it, and the same command goes on with the run."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    sizes = ["--learner.network", "conv-grid", "--learner.width", "8", "--learner.depth", "1"]
    command = ["--method", "orbit-prototypes", "--learner.grid-group", "found", *sizes, *OPTIONS, "--resume", "auto"]
    assert msr("train", f"{FAMILY},angle=quarter,flips=none", tmp_path / "run", *command) == 0
    said = capsys.readouterr().out
    assert re.search(r"\nfound +C4, 4 elements: identity, .*quarter turn to the left.*; in \d+\.\d s\n", said)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["learner"]["grid_group"] == "C4"
    assert msr("train", f"{FAMILY},angle=quarter,flips=none", tmp_path / "run", *command) == 0
    assert "is complete" in capsys.readouterr().out
    assert msr("evaluate", tmp_path / "run", "--tasks", "2") == 0
    capsys.readouterr()
    assert msr("train", f"{FAMILY},angle=0,flips=none", tmp_path / "none", *command) == 2
    assert re.search(r"grid_group is 'found', but in the augmentation of .* was found: none; .*protonets", refusal())
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["protonets", "maml"])
def test_a_bundle_answers_as_its_checkpoint(
    image_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, msr, method: str
) -> None:
    """It counts all images of a support set, and is scored on the same episodes."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    options = [*OPTIONS, "--settings.shots", "2"]
    assert msr("train", FAMILY, run, "--method", method, *SIZES, *options) == 0
    assert msr("export", run, bundle) == 0
    assert json.loads((bundle / "manifest.json").read_text())["shots"] == 2 * 3
    figures = []
    for path in (run, bundle):
        assert msr("evaluate", path, "--tasks", "20", "--json", tmp_path / "found.json") == 0
        figures += json.loads((tmp_path / "found.json").read_text())
    for name in ("error upright", "error orbit"):
        assert figures[0][name]["mean"] == pytest.approx(figures[1][name]["mean"], abs=1e-3)
    assert [each["shots"] for each in figures] == [2, 2]


def test_options_of_other_families_are_not_taken_from_a_file(image_file: Path) -> None:
    """A stranger's bundle may say which images are drawn, but not to which folder a simulator writes."""
    found = family_of(Path("bundle"), None, f"images:file={image_file},ways=2")
    assert found.name == "images:ways=2"
    with pytest.raises(FamilyError, match=r"options of a built-in family are not taken.*--family ant:cache=/tmp/x"):
        family_of(Path("bundle"), None, "ant:cache=/tmp/x")
    assert family_of(Path("bundle"), "ring-nav:beams=8", "ring-nav").name == "ring-nav-8"


def test_samples_of_images_fit_what_a_class_has(image_file: Path, tmp_path: Path, capsys, refusal, msr) -> None:
    """There are no more queries than images left; more shots than images are refused by the option's name."""
    family, out = f"images:file={image_file},ways=3", tmp_path / "samples.npz"
    assert msr("samples", family, out, "--shots", 2) == 0
    assert re.search(r"support +6 samples, x \(6, 1, 8, 8\), y \(6,\)\nquery +18 samples", capsys.readouterr().out)
    assert msr("samples", family, out, "--shots", 8) == 2
    assert "each class has 8 images" in (said := refusal())
    assert "of `msr samples`, --shots" in said
