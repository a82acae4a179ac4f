"""Scores of a log: those of a plain loop, the same each time, with no y used before the robot knew it."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError, OnlineAdapter
from msr_runtime.adaptation import Drive, score
from msr_runtime.inference.input_bounds import SampleBounds

Plain = partial(OnlineAdapter, window=5, held_out=0, hz=1000.0)


def drive(linear: Any, seed: int = 1, samples: int = 40, late: int = 0, shift: float = 0.3) -> Drive:
    """A robot whose v is v0 plus `shift`. Its y are known `late` ticks later."""
    x = np.random.default_rng(seed).standard_normal((20 * samples, 3)).astype(np.float32)
    y = linear.predict(linear.v0 + np.float32(shift), x)
    inside = np.flatnonzero((np.abs(y) < 10).all(1))[:samples]
    time = np.arange(samples) / 8  # exact in binary
    return Drive(f"drive {seed}", x[inside], y[inside], time, time + late / 8)


def by_hand(linear: Any, log: Drive, late: int) -> dict[str, float]:
    """Each sample's squared errors over the variance of y, with the known samples alone."""
    scale, errors = log.y.var(0), {"adapted": [], "v0": [], "mean": [], "last": []}
    for index, (x, y) in enumerate(zip(log.x, log.y, strict=True)):
        known = max(0, index - late + 1) if late else index
        v = linear.adapt(log.x[known - 5 : known], log.y[known - 5 : known], 3) if known >= 5 else linear.v0
        answers = {"adapted": linear.predict(v, x[None])[0], "v0": linear.predict(linear.v0, x[None])[0]}
        answers["mean"] = log.y[:known].mean(0) if known else linear.y_center
        answers["last"] = log.y[known - 1] if known else linear.y_center
        for name, answer in answers.items():
            errors[name].append(np.mean((answer - y) ** 2 / scale))
    return {name: float(np.mean(each)) for name, each in errors.items()}


@pytest.mark.parametrize("late", [0, 1, 4])
def test_the_errors_are_those_of_a_plain_loop(model: AdaptiveModel, linear: Any, late: int) -> None:
    """A y that comes some ticks later teaches nothing before; one tick later it comes just before the next x."""
    log = drive(linear, late=late)
    found = score(model, [log], Plain)
    wanted = by_hand(linear, log, late)
    for name, error in found.errors.items():
        np.testing.assert_allclose(error, wanted[name], rtol=2e-3, err_msg=name)
    assert (found.drives, found.samples, found.left_out) == (1, 40, 0)
    assert found.errors["adapted"] < found.errors["v0"]
    np.testing.assert_array_equal(model.v, linear.v0)  # it is not changed


def test_the_parts_make_up_the_whole(model: AdaptiveModel, linear: Any) -> None:
    """The errors of outputs and of stretches average to the error of all; each drive begins at v0."""
    logs = [drive(linear, seed, 150) for seed in (1, 2)]
    found = score(model, logs, Plain)
    for name, error in found.errors.items():
        np.testing.assert_allclose(np.mean(found.by_output[name]), error)
        np.testing.assert_allclose(np.average(found.by_stretch[name], weights=[10, 90, 50]), error)
    assert found.samples == 300
    assert found.tried == 2 * 145
    assert found == score(model, logs, Plain)
    assert np.isnan(score(model, [drive(linear, 1, 8)], Plain).by_stretch["v0"][1])


def test_adaptations_keep_to_the_rate_in_the_time_of_the_log(model: AdaptiveModel, linear: Any) -> None:
    """At 2 Hz, a log of 8 Hz adapts with every fourth sample."""
    found = score(model, [drive(linear, 1, 48)], partial(OnlineAdapter, window=5, held_out=0, hz=2.0))
    assert found.tried == 10


def test_samples_that_are_no_measurement_are_left_out(model: AdaptiveModel, linear: Any) -> None:
    """They are counted, and what remains is scored as if they were not there. A y a little outside is predicted."""
    manifest = model.manifest
    model.bounds = SampleBounds.of(manifest.inputs, manifest.outputs, 10.0)  # the bundle itself has no limit
    log, clean = drive(linear), drive(linear)
    x, y = log.x.copy(), log.y.copy()
    x[7, 1], y[20, 0], x[30, 2], y[31, 1] = np.nan, np.inf, 65535.0, 65535.0
    clean.y[12, 0] = y[12, 0] = 12.0
    found = score(model, [log._replace(x=x, y=y)], Plain)
    others = np.delete(np.arange(40), [7, 20, 30, 31])
    wanted = score(model, [Drive("clean", *(each[others] for each in clean[1:]))], Plain)
    assert (found.samples, found.left_out) == (36, 4)
    assert found.errors == wanted.errors


def test_several_samples_of_one_time_are_taken_in_their_order(model: AdaptiveModel, linear: Any) -> None:
    """As a recorder stamps them that got several samples in one tick."""
    log = drive(linear)
    same = np.floor(log.seen * 5) / 5
    assert score(model, [log._replace(seen=same, known=same)], Plain).samples == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((40, 4))}, r"'drive 1': x has the shape \(40, 4\), but the bundle's samples have \(3,\)"),
        ({"y": np.zeros((39, 2))}, "has 40 x, 39 y, 40 times of x"),
        ({"seen": np.arange(40)[::-1]}, "its times go back or are NaN"),
        ({"known": np.full(40, np.nan)}, "its times go back or are NaN"),
        ({"x": np.full((40, 3), np.nan)}, "no sample that can be predicted"),
        (dict(zip(Drive._fields[1:], map(np.zeros, ((0, 3), (0, 2), 0, 0)), strict=True)), "no sample that can be"),
    ],
)
def test_a_log_that_does_not_fit_is_refused(
    model: AdaptiveModel, linear: Any, changes: dict[str, Any], message: str
) -> None:
    """The error names the drive and what is wrong."""
    with pytest.raises(InputError, match=message):
        score(model, [drive(linear)._replace(**changes)], Plain)
