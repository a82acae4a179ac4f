"""The inner loop writes into memory that is used again. What ends badly leaves no trace in it, in either engine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, InputError
from msr_runtime.adaptation.judges import judge
from msr_runtime.adaptation.update_guard import UNLIMITED, Refusal

BOTH = pytest.mark.parametrize("model", ["onnx", "native"], indirect=True)
"""Runs a test in ONNX Runtime and in native code."""


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SUPPORT = (draw(10, 6, 3), draw(11, 6, 2))
X = draw(12, 4, 3)


def acting(model: AdaptiveModel) -> tuple[bytes, bytes]:
    """What acts, to the last bit: v, and predictions with its weights."""
    return model.v.tobytes(), model.predict(X).tobytes()


def adapted(model: AdaptiveModel) -> tuple[bytes, bytes]:
    """What acts after an adaptation to `SUPPORT` from v0."""
    assert model.adapt(*SUPPORT, 3, guard=UNLIMITED).accepted
    return acting(model)


def changed(x: bool, index: tuple[int, ...], value: float) -> tuple[np.ndarray, np.ndarray]:
    """`SUPPORT` with another number in its x, or in its y."""
    support = SUPPORT[0].copy(), SUPPORT[1].copy()
    support[0 if x else 1][index] = value
    return support


BAD: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "NaN in the last x": lambda: changed(True, (5, 2), np.nan),
    "infinite first y": lambda: changed(False, (0, 0), np.inf),
    "one axis too many": lambda: (SUPPORT[0][None], SUPPORT[1]),
    "another number of y": lambda: (SUPPORT[0], SUPPORT[1][:, :1]),
    "no pairs": lambda: (SUPPORT[0], SUPPORT[1][:5]),
    "no samples": lambda: (SUPPORT[0][:0], SUPPORT[1][:0]),
    "text": lambda: (SUPPORT[0].astype(str), SUPPORT[1]),
}


@BOTH
def test_bad_samples_change_nothing(model: AdaptiveModel) -> None:
    """Neither as a support set nor as judges; and the next adaptation ends where it always did."""
    wanted = adapted(model.fork())
    model.adapt(SUPPORT[0], SUPPORT[1] + 1, 2, guard=UNLIMITED)
    before = acting(model)
    assert before != wanted
    for name, make in BAD.items():
        with pytest.raises(InputError):
            model.adapt(*make(), 3)
        with pytest.raises(InputError):
            model.adapt(*SUPPORT, 3, held_out=make())
        assert acting(model) == before, name
    assert adapted(model) == wanted


@BOTH
def test_what_overflowed_leaves_nothing_behind(model: AdaptiveModel) -> None:
    """Its NaN were written into the memory that the next network takes."""
    wanted = adapted(model.fork())
    before = acting(model)
    for _ in range(3):
        result = model.adapt(np.full((5, 3), 1e30, np.float32), SUPPORT[1][:5], 3, guard=UNLIMITED)
        assert (result.accepted, result.refusal) == (False, Refusal.NOT_FINITE)
        assert acting(model) == before
    assert adapted(model) == wanted


@BOTH
@pytest.mark.parametrize("start", ["v0", "accepted"])
def test_the_old_weights_act_until_the_last_step_is_judged(model: AdaptiveModel, start: Any) -> None:
    """Also where an adaptation is stopped between two steps."""
    wanted = adapted(model.fork())
    model.adapt(SUPPORT[0], SUPPORT[1] + 1, 2, guard=UNLIMITED)
    before, seen = acting(model), []

    def look() -> None:
        seen.append(acting(model))
        if len(seen) == 7:
            raise TimeoutError

    model.adapt(*SUPPORT, 4, start=start, guard=UNLIMITED, check=look)
    assert seen == [before] * 4
    after = acting(model)
    assert after != before
    with pytest.raises(TimeoutError):
        model.adapt(*SUPPORT, 4, start=start, guard=UNLIMITED, check=look)
    assert seen[4:] == [after] * 3
    assert acting(model) == after
    assert adapted(model) == wanted


@BOTH
def test_steps_one_by_one_are_the_steps_at_once(model: AdaptiveModel) -> None:
    """A check before each step changes no bit, from v0 and from an accepted v."""
    other = model.fork()
    for start in ("v0", "accepted", "accepted"):
        for each, check in ((model, None), (other, lambda: None)):
            result = each.adapt(*SUPPORT, 5, start=start, guard=UNLIMITED, check=check)
        assert acting(model) == acting(other), start
        assert result.loss_after < result.loss_before


@BOTH
def test_many_judges_judge_one_by_one(model: AdaptiveModel, linear: Any) -> None:
    """More of them than native code takes at once."""
    x, y = draw(1, 300, 3), draw(2, 300, 2)
    result = model.adapt(*SUPPORT, 3, guard=UNLIMITED, held_out=(x, y))

    def losses(v: np.ndarray) -> np.ndarray:
        return np.array([linear.step(v, x[one : one + 1], y[one : one + 1])[1] for one in range(300)])

    wanted = judge(losses(linear.v0), losses(linear.adapt(*SUPPORT, 3)))
    assert result.held_out == pytest.approx(wanted, rel=1e-4)


def test_a_result_does_not_change(model: AdaptiveModel) -> None:
    """Whoever keeps one may trust it."""
    result: Any = model.adapt(*SUPPORT, 3, guard=UNLIMITED)
    with pytest.raises(AttributeError):
        result.accepted = False
