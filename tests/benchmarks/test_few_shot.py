"""Cells of the few-shot table: which runs serve them, how they are scored, and how they are shown."""

from pathlib import Path

import few_shot
import numpy as np
import pytest
import torch
from few_shot import CELLS, METHODS, Data, Options, accuracies, plan, run
from tables.images import COLUMNS, PAPER
from tables.images import few_shot as lines

from msr_envs.images import Omniglot
from msr_envs.registry import load_family
from msr_runtime.meta.learners.config import FOUND, LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.training.checkpoint import load_checkpoint
from msr_runtime.meta.training.config import TrainConfig
from msr_runtime.meta.training.preflight import require_used
from msr_runtime.normalization import Normalization


@pytest.fixture
def omniglot(image_file: Path, monkeypatch) -> None:
    """A small file in place of Omniglot's, and tasks of few classes."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    monkeypatch.setitem(few_shot.DATA, "omniglot", Data("omniglot:size=8", "MSR_OMNIGLOT", 6, tuple(CELLS)))


def test_prototypes_train_once_for_all_columns(omniglot) -> None:
    """Methods that take steps train once a column, on tasks of that column. No option that nobody uses is set."""
    jobs = list(plan(Options(methods=("protonets", "maml"), seeds=2)))
    prototypes = [job for _, name, _, job in jobs if name == "protonets"]
    assert [job.family for job in prototypes] == ["omniglot:size=8,ways=6,turned=true"] * 2
    assert {cells for _, name, cells, _ in jobs if name == "protonets"} == {tuple(CELLS)}
    stepping = [(cells, job) for _, name, cells, job in jobs if name == "maml" and job.settings.seed == 0]
    assert [cells for cells, _ in stepping] == [("5x1",), ("5x5",), ("20x1",), ("20x5",)]
    assert stepping[3][1].settings.shots == 5
    assert stepping[3][1].family == "omniglot:size=8,ways=20,turned=true"
    assert len({job.run for *_, job in jobs}) == len(jobs)


def test_a_network_holds_only_what_moves_the_queries() -> None:
    """Both flips on Omniglot, turns on photographs at any angle; a network without a group on all."""
    for data, groups in (("omniglot", {"D2", FOUND, None}), ("photographs, any angle", {"C4", "C8", None})):
        jobs = plan(Options(data=(data,), seeds=1))
        assert {job.learner.grid_group for *_, job in jobs} == groups


def test_every_method_of_the_table_can_be_trained(omniglot) -> None:
    """Nothing is set that the method refuses."""
    for _, _, _, job in plan(Options(cells=("5x1",), seeds=1)):
        learner = job.learner
        if learner.grid_group == FOUND:
            learner = learner.model_copy(update={"grid_group": "D2"})  # found only where it is trained
        family = load_family(job.family)
        config = TrainConfig.of(family, job.method, learner, job.settings)
        require_used(config, LEARNERS[job.method], family)
        assert LEARNERS[job.method](learner, (1, 8, 8), (family.outputs[0].size,), "cross_entropy")


def test_a_cell_is_trained_scored_and_shown(omniglot, tmp_path: Path) -> None:
    """Its line names the accuracy with its interval and the paper's; a finished run is not trained again."""
    options = Options(methods=("protonets",), cells=("5x1",), budget="smoke", seeds=1, out=tmp_path)
    (job,) = plan(options)
    (first,), (again,) = run(*job, 4), run(*job, 4)
    assert first["accuracy"] == again["accuracy"] > 0.2
    assert first["steps"] == few_shot.BUDGETS["smoke"].prototypes
    assert first["seconds"] > 0
    line, *paper = lines([first])
    assert line["method"] == "protonets"
    assert line["5 way 1 shot"].startswith(f"{100 * first['accuracy']:.1f} ± ")
    assert line["20 way 5 shot"] == "–"
    assert {each["method"]: each["5 way 1 shot"] for each in paper}["paper: protonets"] == "92.9"
    assert first["paper"] == 92.9


def test_a_group_that_is_not_named_is_found(omniglot, tmp_path: Path) -> None:
    """From the augmentation of the family alone, within the training: the paper's has both flips."""
    options = Options(methods=("orbit-prototypes",), seeds=1, cells=("5x1",), budget="smoke", out=tmp_path)
    given, found = plan(options)
    assert [job.learner.grid_group for *_, job in (given, found)] == ["D2", FOUND]
    (row,) = run(*found, 2)
    assert load_checkpoint(found[-1].run).config.learner.grid_group == "D2"
    (again,) = run(*given, 2)
    assert row["accuracy"] == again["accuracy"]


def test_scores_of_other_classes_are_left_out(image_file: Path) -> None:
    """A learner of many classes tells the five of an episode apart: here by pixels that are nearly their own."""
    config = LearnerConfig(network="conv-grid", width=8, depth=1, head="map", temperature=0.1)
    torch.manual_seed(0)
    learner = LEARNERS["protonets"](config, (1, 8, 8), (30,), "cross_entropy")
    unit = Normalization(
        input_center=(((0.0,),),), input_scale=(((1.0,),),), output_center=(0.0,) * 30, output_scale=(1.0,) * 30
    )
    family = Omniglot(image_file, size=8, ways=5, angle=0, flips="none", crop=1)
    share = accuracies(learner, unit, family, 1, 6)
    assert share.shape == (6,)
    assert share.mean() > 0.9


def test_the_papers_figures_have_rows() -> None:
    """Each method of its table is in ours, by the same name."""
    assert PAPER.keys() <= METHODS.keys()
    assert np.shape(list(PAPER.values())) == (5, len(CELLS))
    assert list(COLUMNS) == list(CELLS)
