"""The test whether the support set of a task tells the task: what it finds, and what it costs nobody."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from msr_envs.registry import load_family
from msr_runtime.meta.training.task_test import TaskReport, check_tasks
from msr_runtime.task import TaskBatch


def found(family: object) -> TaskReport:
    """The report of a family that can be tested."""
    report = check_tasks(family, np.random.default_rng(0))  # type: ignore[arg-type]
    assert report is not None
    return report


@pytest.mark.parametrize("name", ["ring-nav", "hex-drive"])
def test_support_sets_of_the_built_in_robots_tell_their_tasks(name: str) -> None:
    """That of another task predicts far worse."""
    report = found(load_family(name))
    assert report.verdict == "tells"
    assert report.other > 10 * report.own


def test_one_wrong_unit_in_the_support_set_is_found(training) -> None:
    """Queries predict each other, and the support set does not predict them."""

    class Degrees(training.Plane):
        def sample(self, *call: object) -> TaskBatch:
            x = super().sample(*call)
            gain = np.random.default_rng(3).uniform(0.5, 2.0, (len(x.query_x), 1, 1)).astype(np.float32)
            return x._replace(support_y=0.1 * gain * x.support_x, query_y=gain * x.query_x)

    report = found(Degrees())
    assert report.verdict == "another task"
    assert report.queries < 0.01 < report.own
    assert "different tasks, units or order" in report.doubt()


@pytest.mark.parametrize(
    ("part", "field", "factor"),
    [("support_y", "speed", 0.001), ("support_y", "speed", 57.3), ("support_x", "push", 1000.0)],
)
def test_another_unit_is_found_where_the_worlds_turn_too(training, part: str, field: str, factor: float) -> None:
    """The support set of another task is then even worse, so that the own one can seem to tell its task."""

    class Unit(training.Plane):
        def sample(self, *call: object) -> TaskBatch:
            batch = super().sample(*call)
            return batch._replace(**{part: np.float32(factor) * getattr(batch, part)})

    report = found(Unit())
    assert report.verdict != "tells"
    said = re.search(rf"its '{field}' is about (\S+) times as large as that of the queries", report.doubt())
    assert said is not None
    assert float(said[1]) == pytest.approx(factor, rel=0.1)


def test_a_verdict_of_another_unit_needs_a_support_set_that_tells() -> None:
    """And queries that tell more by a factor, and by more than rounding."""
    report = TaskReport("cart", "speed", own=0.9, other=1.1, queries=0.01, t=8.0)
    assert report.verdict == "another unit"
    assert "is in another unit, frame or order: let" in report.doubt()
    assert replace(report, queries=0.4).verdict == "tells"
    assert replace(report, own=1e-5, queries=1e-9).verdict == "tells"


def test_few_recorded_tasks_are_each_drawn_once(training) -> None:
    """What is drawn again proves nothing, and three tasks must differ much more than 24 to be as sure."""

    class Listed(training.Plane):
        drawn = 0

        def count_tasks(self, split: str) -> int:
            return 5

        def sample(self, rng: object, tasks: int, *call: object) -> TaskBatch:
            self.drawn = max(self.drawn, tasks)
            return super().sample(rng, tasks, *call)

    family = Listed()
    assert found(family).verdict == "tells"
    assert family.drawn == 5
    family.count_tasks = lambda split: 2  # type: ignore[method-assign]
    assert check_tasks(family, np.random.default_rng(0)) is None


def test_recorded_tasks_of_few_samples_are_not_judged(training) -> None:
    """Of eleven samples, three would be the support set."""
    short = SimpleNamespace(**{name: getattr(training.Plane(), name) for name in ("name", "inputs", "outputs", "loss")})
    short.__dict__.update(
        query_sets=("all",), examples=11, sample=training.Plane().sample, augment=training.Plane().augment
    )
    assert check_tasks(short, np.random.default_rng(0)) is None  # type: ignore[arg-type]
