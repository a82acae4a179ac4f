"""`prepare`: what it checks, in which order, what it tests, and what its value says when it is printed."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from msr_envs.symmetry import DeclaredSymmetry, Vector, dihedral
from msr_runtime.errors import AugmentationError, TrainingError
from msr_runtime.meta import AugmentationReport, Preparation, open_run, prepare
from msr_runtime.meta.training.checkpoint import LAST, build_learner, save_checkpoint
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.meta.training.pool import TaskPool
from msr_runtime.meta.training.run import Saved
from msr_runtime.task import TaskBatch


def crooked(training) -> Any:
    """A family whose augmentation turns x and forgets to turn y."""

    class Crooked(training.Plane):
        def augment(self, rng, x, y) -> Any:
            return super().augment(rng, x, y)[0], y

    return Crooked()


def prepared(training, family: Any = None, *, saved: Saved | None = None, **changes: Any) -> Preparation:
    """A preparation of the tiny family, or of another one."""
    family = family or training.Plane()
    return prepare(family, training.config(family, **changes), saved=saved, progress=False)


def pooled(one: Preparation) -> TaskBatch:
    """The tasks that were simulated for training."""
    assert isinstance(one.pool, TaskPool)
    return one.pool.data


def assert_same_tasks(one: Preparation, other: Preparation) -> None:
    for arrays, others in ((pooled(one), pooled(other)), (one.validation, other.validation)):
        for array, expected in zip(arrays, others, strict=True):
            np.testing.assert_array_equal(array, expected)


SUMMARY = """\
family        plane, group C4
augmentation  not tested: the settings insist on it
learner       msr, 20 adapted numbers, by 2 gradient steps
training      16 tasks simulated, 0 MiB
validation    8 tasks, 5 shots"""


def test_the_text_says_what_was_prepared(training) -> None:
    """Family and group, the augmentation, the learner, and the tasks of training and validation."""
    assert str(prepared(training)) == SUMMARY
    megabytes = str(prepared(training, training_tasks=4000, samples_per_task=64)).splitlines()[3]
    assert megabytes == "training      4000 tasks simulated, 8 MiB"


def test_the_text_says_what_is_repeated_and_what_does_not_divide(training) -> None:
    """Tasks that a family draws again, and query sets of unequal size. A set without a query is refused."""

    class Few(training.Plane):
        query_sets = ("near", "far")

        def count_tasks(self, split: str) -> int:
            return 10 if split == "train" else 2

    lines = str(prepared(training, Few(), queries=7)).splitlines()
    assert lines[3:] == [
        "training      16 draws of 10 tasks simulated, 0 MiB",
        "queries       7 a step: 4 of near, 3 of far",
        "validation    8 draws of 2 tasks, 5 shots",
    ]
    with pytest.raises(TrainingError, match=r"queries is 1, but .* has 2 query sets \(near, far\)"):
        prepared(training, Few(), queries=1)


def test_the_text_says_what_is_known_of_the_augmentation(training) -> None:
    """That it is off; or the result of its test, as `check_augmentation` prints it."""
    plain = prepared(training, augment=False)
    assert str(plain) == SUMMARY.replace("not tested: the settings insist on it", "off")
    report = AugmentationReport("plane", "the group C4", "speed", error_without=0.02, error_with=0.01, t=-9.0)
    assert f"augmentation  {report}" in str(replace(plain, symmetry=report)).splitlines()
    assert str(report).startswith("a symmetry of each task: held-out error of 'speed' 0.02 without")


def test_the_text_says_that_the_group_was_found_or_that_there_is_none(training) -> None:
    """A family need not give its group as matrices: `augment` shows it. Without both there is none."""
    plane = training.Plane()
    members = ("name", "inputs", "outputs", "loss", "query_sets", "sample", "augment")
    family = SimpleNamespace(**{name: getattr(plane, name) for name in members})
    bare = prepared(training, family)
    assert bare.group is not None
    first, found, words, *_ = str(bare).splitlines()
    assert first == "family        plane, group C4, found from augment"
    assert re.fullmatch(r"found {9}C4, 4 elements; in \d\.\d s", found)
    assert re.fullmatch(r" {14}push turned by (-?90°); of the outputs: speed turned by \1", words)
    family.augment = lambda rng, x, y: (x, y)
    plain = prepared(training, family)
    assert plain.group is None
    assert str(plain).splitlines()[:2] == ["family        plane, no group given as matrices", SUMMARY.splitlines()[1]]


def test_the_text_says_what_follows_where_no_group_was_found(training) -> None:
    """An augmentation that is no group: training goes on, and nothing is measured on it."""
    plane = training.Plane()
    members = ("name", "inputs", "outputs", "loss", "query_sets", "sample")
    noisy = SimpleNamespace(**{name: getattr(plane, name) for name in members})
    noisy.augment = lambda rng, x, y: (x + rng.normal(size=x.shape).astype(x.dtype), y)
    assert re.fullmatch(
        r"found {9}none; in \d\.\d s; so the equivariance is not measured, and a bundle names no group",
        str(prepared(training, noisy)).splitlines()[1],
    )


def test_the_text_says_what_the_fields_declare(training) -> None:
    """A line for each generator. The group is that of the fields, and the form `equivariant` is built from it."""
    plane = training.Plane

    class Declared(DeclaredSymmetry, plane):
        symmetry = dihedral(4)
        inputs = tuple(field.model_copy(update={"representation": Vector()}) for field in plane.inputs)
        outputs = tuple(field.model_copy(update={"representation": Vector()}) for field in plane.outputs)

    ready = prepared(training, Declared())
    assert str(ready).splitlines()[:3] == [
        "family        plane, group D4",
        "symmetry      turn by 90°: push turns; of the outputs: speed turns",
        "              mirror: push y → −y; of the outputs: speed y → −y",
    ]
    assert ready.group is not None
    assert ready.group.order == 8


def test_constant_numbers_are_printed(training) -> None:
    """Before training, with their values. A resumed run does not measure them again."""

    class Stuck(training.Plane):
        def sample(self, *call: Any) -> Any:
            batch = super().sample(*call)
            return batch._replace(support_y=np.full_like(batch.support_y, 3), query_y=np.full_like(batch.query_y, 3))

        def augment(self, rng, x, y) -> Any:
            return x, y

        group = None

    lines = str(prepared(training, Stuck(), augment=False)).splitlines()
    assert "constant      y field 'speed' element 0 (3 ± 0 m/s), y field 'speed' element 1 (3 ± 0 m/s)" in lines


def test_a_number_too_far_from_zero_is_refused_before_training(training) -> None:
    """By its name, with the offset that mends it."""

    class Far(training.Plane):
        def sample(self, *call: Any) -> Any:
            batch = super().sample(*call)
            return batch._replace(support_x=batch.support_x + 5.3e6, query_x=batch.query_x + 5.3e6)

        def augment(self, rng, x, y) -> Any:
            return x, y

        group = None

    with pytest.raises(TrainingError, match=r"'plane': field 'push' element . of x lies around 5\.3e\+06 N.*subtract"):
        prepared(training, Far(), augment=False)


def test_no_file_is_written(training, tmp_path, monkeypatch) -> None:
    """Neither in the run's folder, which is not even made, nor in the working folder."""
    monkeypatch.chdir(tmp_path)
    family = training.Plane()
    config = training.config(family)
    run = open_run("run", config)
    prepare(family, config, saved=run.saved, progress=False)
    assert not any(tmp_path.iterdir())


def test_equal_seeds_prepare_equal_values(training) -> None:
    """The same tasks, normalization and initial weights. Another seed gives other tasks."""
    first, second, other = (prepared(training, seed=seed) for seed in (3, 3, 4))
    assert_same_tasks(first, second)
    assert first.normalization == second.normalization
    weights, others = first.learner.state_dict(), second.learner.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert not np.array_equal(pooled(first).support_x, pooled(other).support_x)


def test_an_augmentation_that_is_not_a_symmetry_is_refused(training) -> None:
    """Unless the user insists on it, or does not augment: then nothing is tested."""
    with pytest.raises(AugmentationError, match="the group C4 is not a symmetry of each of its tasks"):
        prepared(training, crooked(training), insist_on_augmentation=False)
    assert prepared(training, crooked(training), insist_on_augmentation=True).symmetry is None
    assert prepared(training, crooked(training), insist_on_augmentation=False, augment=False).symmetry is None


def test_a_tested_augmentation_is_reported(training) -> None:
    """The report is part of the value."""
    symmetry = prepared(training, insist_on_augmentation=False).symmetry
    assert symmetry is not None
    assert symmetry.accepted
    assert (symmetry.family, symmetry.group, symmetry.field) == ("plane", "the group C4", "speed")


def test_an_augmentation_that_changes_nothing_is_not_tested(training) -> None:
    """The identity is a symmetry of every task."""

    class Still(training.Plane):
        def augment(self, rng, x, y) -> Any:
            return x, y

    still = prepared(training, Still(), insist_on_augmentation=False)
    assert still.symmetry is None
    assert "augmentation  not tested: it changes no sample" in str(still).splitlines()


def test_a_resumed_run_keeps_its_normalization_and_tests_nothing_again(training, tmp_path) -> None:
    """Even if the family gives other samples now, and its augmentation would be refused."""

    class Stretched(training.Plane):
        def sample(self, *call: Any) -> Any:
            batch = super().sample(*call)
            return batch._replace(support_y=batch.support_y * 2, query_y=batch.query_y * 2)

        def augment(self, rng, x, y) -> Any:
            return super().augment(rng, x, y)[0], y

    family = training.Plane()
    config = training.config(family, insist_on_augmentation=False)
    learner = build_learner(config)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 1.0
    old = measure_normalization(family, np.random.default_rng(0), family.group()).normalization
    save_checkpoint(tmp_path / LAST, config=config, learner=learner, normalization=old, step=20, best=0.5)
    saved = open_run(tmp_path, config, resume=True).saved
    resumed = prepared(training, Stretched(), saved=saved, insist_on_augmentation=False)
    assert resumed.symmetry is None
    assert "augmentation  not tested again: the run resumes" in str(resumed).splitlines()
    assert resumed.normalization == old
    assert prepared(training, Stretched(), augment=False).normalization.output_scale[0] != old.output_scale[0]
    state, expected = resumed.learner.state_dict(), learner.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_resumed_run_simulates_the_same_tasks(training, tmp_path) -> None:
    """Skipping the test and the measurement draws no random number from the tasks' streams."""
    family = training.Plane()
    config = training.config(family)
    first = prepared(training)
    save_checkpoint(
        tmp_path / LAST, config=config, learner=first.learner, normalization=first.normalization, step=20, best=0.5
    )
    assert_same_tasks(prepared(training, saved=open_run(tmp_path, config, resume=True).saved), first)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shots": 17}, "shots is 17"),
        ({"training_tasks": 10**8}, "GiB of memory"),
        ({"tasks_per_step": 17}, "tasks_per_step is 17"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_simulated(training, changes: dict[str, Any], says: str) -> None:
    """The family is asked for one sample of one task at most, even if its augmentation has yet to be tested."""

    class Counting(training.Plane):
        asked = 0

        def sample(self, rng, tasks, shots, queries, split) -> Any:
            self.asked += tasks * (shots + queries)
            return super().sample(rng, tasks, shots, queries, split)

    family = Counting()
    with pytest.raises(TrainingError, match=says):
        prepared(training, family, insist_on_augmentation=False, **changes)
    assert family.asked <= 2
