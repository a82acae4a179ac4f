"""The limits that the robot takes from the manifest: what adapting to clean validation tasks leads to."""

import math
from copy import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from msr_envs.images import Images
from msr_export.golden import draw_golden
from msr_export.validation import SHOTS, measure_validation
from msr_runtime import AdaptiveModel
from msr_runtime.errors import FamilyError
from msr_runtime.meta.evaluation.scores import output_scales, score_sample
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field, TaskBatch


@pytest.fixture(scope="module")
def measured(exporter: Any) -> Any:
    """What a small learner leads to on four tasks."""
    return measure_validation(exporter.build("msr", "mse"), exporter.scaled, exporter.family, shots=6, seed=3, tasks=4)


def test_every_number_of_shots_is_measured(measured: Any) -> None:
    """Those of meta-training too, the smallest first."""
    assert [each.shots for each in measured.by_shots] == sorted({6, *SHOTS})
    assert measured.tasks == 4


def test_limits_are_those_of_each_task_alone(measured: Any, exporter: Any) -> None:
    """Task by task in torch, with the samples that the family draws: the same losses, moves and errors."""
    learner, normalization, family = exporter.build("msr", "mse"), exporter.scaled, exporter.family
    batch = family.sample(np.random.default_rng(3), 4, max(SHOTS), max(SHOTS) + 32, "validation")
    x, y = batch.query_x[:, -32:], batch.query_y[:, -32:]
    scales = output_scales(family, y)
    size = score_sample(family, scales, np.zeros(1), y)
    losses, moves, spreads, errors, worse = [], [], [], [], []
    v0 = torch.cat([tensor.detach().flatten() for tensor in learner.start().values()])
    widest = 0.0
    for task in range(4):
        own = batch.support_x[task], batch.support_y[task]
        wide = batch.query_x[task], batch.query_y[task]
        for support in (own, wide):
            near_x, near_y = map(torch.from_numpy, normalization.normalize(*(part[:10] for part in support)))
            before, after = learner.start(), learner.adapt(near_x, near_y)
            query = torch.from_numpy(normalization.normalize_x(x[task]))
            error, at_v0 = (
                score_sample(family, scales, normalization.raw_y(learner(at, query).detach().numpy()), y[task]) / size
                for at in (after, before)
            )
            loss, first = (learner.support_loss(at, near_x, near_y).item() for at in (after, before))
            if loss <= first and error <= at_v0:
                losses.append(loss)
                v = torch.cat([tensor.detach().flatten() for tensor in after.values()])
                moves.append(float((v - v0).norm() / v0.norm()))
                spreads.append(float(near_x.var(0, correction=0).mean()))
            if support is own:
                widest = max(widest, float(near_x.var(0, correction=0).mean()))
                errors.append(error)
                worse.append(error > at_v0)
    ten = next(each for each in measured.by_shots if each.shots == 10)
    assert ten.largest_loss == pytest.approx(max(losses), rel=1e-3)
    assert ten.largest_move == pytest.approx(max(moves), rel=1e-3)
    assert ten.usual_spread == pytest.approx(widest, rel=1e-3)
    usual = np.array(spreads) <= ten.usual_spread
    assert ten.usual_loss == pytest.approx(np.array(losses)[usual].max(), rel=1e-3)
    assert ten.usual_move == pytest.approx(np.array(moves)[usual].max(), rel=1e-3)
    assert ten.median_error == pytest.approx(np.median(errors), rel=1e-3)
    assert ten.worse == np.mean(worse)


class Sides:
    """The tiny family's question with two answers: is the push to the left?"""

    name, loss, query_sets = "sides", "cross_entropy", ("all",)
    outputs = (Field(name="side", shape=(2,), unit="1", low=-9.0, high=9.0),)

    def __init__(self, family: Any) -> None:
        self._family, self.inputs = family, family.inputs

    def sample(self, *arguments: Any) -> TaskBatch:
        """Draw tasks with int64 labels."""
        batch = self._family.sample(*arguments)
        return batch._replace(support_y=(batch.support_y[..., 0] > 0) * 1, query_y=(batch.query_y[..., 0] > 0) * 1)


@pytest.mark.parametrize("method", ["cavia", "protonets"])
def test_labels_and_a_zero_start(exporter: Any, method: str) -> None:
    """Errors are shares of wrong labels. Where v0 is zero, a move is the length of v."""
    plain = exporter.scaled.model_copy(update={"output_center": (0.0, 0.0), "output_scale": (1.0, 1.0)})
    found = measure_validation(
        exporter.build(method, "cross_entropy"), plain, cast(Any, Sides(exporter.family)), shots=4, seed=3, tasks=4
    )
    assert found
    assert all(0 <= each.median_error <= 1 for each in found.by_shots)
    assert any(each.largest_move > 0 for each in found.by_shots)


class Short:
    """A family of recorded tasks with forty examples each."""

    def __init__(self, family: Any) -> None:
        self.__dict__.update(vars(family))
        self._family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def sample(self, rng: Any, tasks: int, shots: int, queries: int, split: Any) -> Any:
        """Draw, or refuse what the examples do not suffice for."""
        if shots >= 40:
            raise FamilyError(f"{shots} support examples were asked for, but each task has 40")
        return self._family.sample(rng, tasks, shots, queries, split)


def test_a_family_with_few_examples_is_measured_as_far_as_they_go(exporter: Any) -> None:
    """The larger numbers of shots are left out."""
    found = measure_validation(
        exporter.build("msr", "mse"), exporter.scaled, cast(Any, Short(exporter.family)), shots=6, seed=3, tasks=4
    )
    assert found
    assert found.by_shots[-1].shots == 20


def test_a_family_without_bounds_has_limits(measured: Any, exporter: Any) -> None:
    """One field without bounds: its standard deviation takes the place of its range, so errors over y are the same."""
    family = copy(exporter.family)
    family.outputs = tuple(field.model_copy(update={"low": -math.inf, "high": math.inf}) for field in family.outputs)
    found = measure_validation(exporter.build("msr", "mse"), exporter.scaled, family, shots=6, seed=3, tasks=4)
    assert found
    assert found.error_at_v0 == pytest.approx(measured.error_at_v0, rel=1e-3)


def test_a_learner_that_never_helps_has_no_limits(exporter: Any) -> None:
    """They would refuse everything."""
    learner = exporter.build("msr", "mse")
    with torch.no_grad():
        for parameter in learner.rule.parameters():
            parameter.fill_(30.0)  # rates at which every step overflows
    found = measure_validation(learner, exporter.scaled, exporter.family, shots=6, seed=3, tasks=4)
    assert found is None


def test_the_bundle_holds_to_them(exporter: Any, bundle: Path) -> None:
    """`adapt` without a guard takes the limits of its number of samples, and refuses what is beyond."""
    model = AdaptiveModel.load(bundle)
    found = model.manifest.validation
    assert found
    x, y = exporter.family.sample(np.random.default_rng(3), 1, 10, 1, "validation")[:2]
    result = model.adapt(x[0], y[0])
    ten = next(each for each in found.by_shots if each.shots == 10)
    assert result.limits in ((ten.usual_loss, ten.usual_move), (ten.largest_loss, ten.largest_move))
    result = model.adapt(x[0], np.random.default_rng(0).uniform(-9, 9, (10, 2)))
    assert (result.accepted, result.missed > 1) == (False, True)


def test_stored_images_judge_only_what_has_not_seen_them(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class gives half of its 8 images to the support set. Episodes of large images are fewer."""
    family = Images(image_file, ways=3)
    learner = LEARNERS["protonets"](LearnerConfig(width=8, depth=1, network="mlp"), (1, 8, 8), (3,), "cross_entropy")
    ones = {"input_center": [[[0.0]]], "input_scale": [[[1.0]]], "output_center": [0.0] * 3, "output_scale": [1.0] * 3}
    normalization = Normalization.model_validate(ones)
    seen = []
    monkeypatch.setattr(family, "sample", lambda *call: seen.append(call[1:]) or Images.sample(family, *call))
    measured = measure_validation(learner, normalization, family, shots=1, seed=0, tasks=40)
    assert measured is not None
    assert seen == [(40, 4, 4, "validation")]
    assert [each.shots for each in measured.by_shots] == [3, 6]
    monkeypatch.setattr("msr_export.validation._IMAGES", 0)
    fewer = measure_validation(learner, normalization, family, shots=1, seed=0, tasks=40)
    assert fewer is not None
    assert fewer.tasks == 20
    golden = draw_golden(learner, normalization, family, 2, 0)
    assert (len(golden.support_x), len(golden.x)) == (6, 63)


def test_each_image_is_embedded_once(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all numbers of shots, before and after adapting. Embedded anew each time, the figures are the same."""
    family = Images(image_file, ways=3)
    config = LearnerConfig(network="conv-grid", width=8, depth=2, grid_group="D2")
    learner = LEARNERS["orbit-prototypes"](config, (1, 8, 8), (3,), "cross_entropy").eval()
    normalization = Normalization.identity((1, 8, 8), (3,))
    seen: list[int] = []
    embedding = learner.network.get_submodule("embedding")
    hook = embedding.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    measured = measure_validation(learner, normalization, family, shots=1, seed=0, tasks=30)
    hook.remove()
    assert measured is not None
    assert sum(seen) == 30 * 3 * 8
    monkeypatch.setattr("msr_export.validation.ProtoNets", type(None))
    assert measured == measure_validation(learner, normalization, family, shots=1, seed=0, tasks=30)
