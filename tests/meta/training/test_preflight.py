"""Settings and families that cannot be trained are refused before anything is simulated for long."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from msr_envs import load_family
from msr_runtime.errors import FamilyError, TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.preflight import require_pool, require_samples, require_used
from msr_runtime.meta.training.preparation import prepare


@pytest.mark.parametrize(
    ("method", "learner", "settings", "says"),
    [
        ("no-adaptation", {}, {"noise": 0.3}, "option noise"),
        ("no-adaptation", {}, {"outliers": 0.1}, "option outliers"),
        ("no-adaptation", {}, {"fewest_shots": 2}, "option fewest_shots"),
        ("no-adaptation", {"inner_steps": 2}, {}, "option inner_steps"),
        ("fine-tuning", {}, {"fewest_shots": 2}, "option fewest_shots"),
        ("maml", {}, {"outlier_size": 3.0}, "option outlier_size, but it is set to 3.0: there are no outliers"),
    ],
)
def test_what_nothing_uses_is_refused(method: str, learner: Any, settings: Any, says: str) -> None:
    """Options that the method ignores, and settings of outliers without outliers."""
    family = load_family("rank1")
    config = TrainConfig.of(family, method, LearnerConfig(**learner), TrainSettings(**settings))
    with pytest.raises(TrainingError, match=f"'{method}' does not use the {says}"):
        prepare(family, config, progress=False)


def test_what_matters_is_not_refused() -> None:
    """Noise, to a method that chooses its best checkpoint by adapting; sizes, which a program may give all methods."""
    family = load_family("rank1")
    for method, learner, settings in (
        ("fine-tuning", LearnerConfig(), TrainSettings(noise=0.3, outliers=0.1, outlier_size=3.0)),
        ("maml", LearnerConfig(filters=5, context=3), TrainSettings()),
    ):
        require_used(TrainConfig.of(family, method, learner, settings), LEARNERS[method], family)


@pytest.mark.parametrize("side", ["x", "y"])
def test_samples_of_another_shape_than_the_fields_are_refused(training, side: str) -> None:
    """The message names the side, the shape seen and the shape wanted. Here the samples have one axis too many."""

    class Crooked(training.Plane):
        def sample(self, *call: Any) -> Any:
            batch = super().sample(*call)
            names = [f"support_{side}", f"query_{side}"]
            return batch._replace(**{name: getattr(batch, name)[..., None, :] for name in names})

    says = rf"'plane' gives samples of {side} of shape \(1, 2\), but its fields describe the shape \(2,\)"
    with pytest.raises(TrainingError, match=says):
        require_samples(Crooked(), training.config(training.Plane()).settings)


def test_samples_that_fail_name_the_line_of_the_family(training) -> None:
    """Not a line of a library that the family calls."""

    class Failing(training.Plane):
        def sample(self, *call: Any) -> Any:
            return np.stack([np.zeros(2), np.zeros(3)])

    line = Failing.sample.__code__.co_firstlineno + 1
    says = rf"'plane': sample\(rng, 1, 1, 1, 'train'\) failed with ValueError: all input.*, in {__file__}, line {line};"
    with pytest.raises(FamilyError, match=says) as caught:
        require_samples(Failing(), training.config(training.Plane()).settings)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (tuple, "returned a tuple, but a TaskBatch is wanted; end it with `return TaskBatch"),
        (lambda batch: batch._replace(query_x=batch.query_x[:, 1:]), r"gave query_x the shape \(1, 0, 2\).*\(1, 1\)"),
        (lambda batch: batch._replace(support_y=None), r"gave support_y the shape \(\), but a numpy array is wanted"),
    ],
)
def test_samples_of_another_kind_or_number_are_refused(training, made: Any, says: str) -> None:
    """The message names the call and what it gave."""

    class Own(training.Plane):
        def sample(self, *call: Any) -> Any:
            return made(super().sample(*call))

    with pytest.raises(FamilyError, match=rf"'plane': sample\(rng, 1, 1, 1, 'train'\) {says}"):
        require_samples(Own(), training.config(training.Plane()).settings)


def test_more_samples_than_the_memory_holds_are_refused(training) -> None:
    """The message says how much memory is needed, and which settings to lower."""
    settings = training.config(training.Plane(), training_tasks=10**8).settings
    says = (
        r"100000000 training_tasks of 16 samples_per_task take .* GiB.*"
        r"'plane' has 4 numbers; lower training_tasks or samples_per_task"
    )
    with pytest.raises(TrainingError, match=says):
        require_samples(training.Plane(), settings)


@pytest.mark.parametrize("changes", [{"tasks_per_step": 17}, {"shots": 17}, {"queries": 17}], ids=str)
def test_outer_steps_larger_than_the_pool_are_refused(training, changes: dict[str, int]) -> None:
    """Without repeats, no more tasks or samples can be drawn than are simulated."""
    with pytest.raises(TrainingError, match=r"17.*(training_tasks|samples_per_task) is 16"):
        require_pool(training.Plane(), training.config(training.Plane(), **changes).settings)


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (TrainSettings, "noise"),
        (TrainSettings, "outlier_size"),
        (TrainSettings, "outer_rate"),
        (LearnerConfig, "inner_rate"),
        (LearnerConfig, "damping"),
    ],
)
def test_an_infinite_setting_is_refused(config: Any, option: str) -> None:
    """It would train on NaN to the last step, and its file could not be read: JSON has no infinity."""
    with pytest.raises(ValidationError, match="finite number"):
        config(**{option: math.inf})
