"""The test whether the support set of a task tells the task: what it finds, and what it costs nobody."""

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


def test_recorded_tasks_of_few_samples_are_not_judged(training) -> None:
    """Of eleven samples, three would be the support set."""
    short = SimpleNamespace(**{name: getattr(training.Plane(), name) for name in ("name", "inputs", "outputs", "loss")})
    short.__dict__.update(
        query_sets=("all",), examples=11, sample=training.Plane().sample, augment=training.Plane().augment
    )
    assert check_tasks(short, np.random.default_rng(0)) is None  # type: ignore[arg-type]
