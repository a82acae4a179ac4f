"""AdaptiveModel compared with the numpy reference: what it computes, refuses, saves and swaps."""

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from msr_runtime import AdaptiveModel, BundleError, InputError

Write = Callable[..., Path]


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SUPPORT = (draw(10, 6, 3), draw(11, 6, 2))
X = draw(12, 4, 3)
BOTH = pytest.mark.parametrize("model", ["onnx", "native"], indirect=True)
"""Runs a test in ONNX Runtime and in native code."""


def acts_at(model: AdaptiveModel, linear: Any, v: np.ndarray) -> bool:
    """Whether the model predicts what the reference does at `v`, and says so."""
    same = np.allclose(model.v, v, rtol=1e-5, atol=1e-6)
    return same and np.allclose(model.predict(X), linear.predict(v, X), rtol=1e-4, atol=1e-5)


@BOTH
def test_a_loaded_model_acts_at_v0(model: AdaptiveModel, linear: Any) -> None:
    """The defaults in predict.onnx are the weights folded from v0."""
    assert acts_at(model, linear, linear.v0)
    assert model.manifest.name == "linear"
    assert model.self_test() < 1e-5


@BOTH
def test_forks_adapt_apart(model: AdaptiveModel, linear: Any) -> None:
    """A fork begins at v0, and the two models adapt independently, although they reuse each other's memory."""
    model.adapt(*SUPPORT, 1)
    fork = model.fork()
    assert acts_at(fork, linear, linear.v0)
    for steps in (2, 3, 4):
        fork.adapt(*SUPPORT, steps)
        assert acts_at(fork, linear, linear.adapt(*SUPPORT, steps))
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 1))
    model.reset()
    assert acts_at(fork, linear, linear.adapt(*SUPPORT, 4))


@pytest.mark.parametrize("shots", [1, 6, 40])
@pytest.mark.parametrize("steps", [None, 1, 7])
@BOTH
def test_adapting_is_gradient_descent_from_v0(model: AdaptiveModel, linear: Any, shots: int, steps: int | None) -> None:
    """For any number of shots and steps, v, losses and predictions equal those of numpy."""
    x, y = draw(1, shots, 3), draw(2, shots, 2)
    result = model.adapt(x, y, steps)
    v = linear.adapt(x, y, steps or 3)
    assert result.accepted
    assert result.reason is None
    assert result.steps == (steps or 3)
    assert result.loss_before == pytest.approx(linear.step(linear.v0, x, y)[1], rel=1e-5)
    assert result.loss_after == pytest.approx(linear.step(v, x, y)[1], rel=1e-4)
    assert acts_at(model, linear, v)


@BOTH
def test_every_adaptation_starts_from_v0(model: AdaptiveModel, linear: Any) -> None:
    """A second adaptation forgets the first, and reset forgets both."""
    model.adapt(draw(1, 5, 3), draw(2, 5, 2), 9)
    model.adapt(*SUPPORT)
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 3))
    model.reset()
    assert acts_at(model, linear, linear.v0)


@BOTH
def test_an_adaptation_may_start_from_the_acting_weights(model: AdaptiveModel, linear: Any) -> None:
    """Four steps and three more equal seven of numpy; the losses are those of the last three; v0 is still available."""
    model.adapt(*SUPPORT, 4)
    result = model.adapt(*SUPPORT, start="accepted")
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 7))
    assert result.loss_before == pytest.approx(linear.step(linear.adapt(*SUPPORT, 4), *SUPPORT)[1], rel=1e-4)
    assert result.loss_after == pytest.approx(linear.step(linear.adapt(*SUPPORT, 7), *SUPPORT)[1], rel=1e-4)
    model.adapt(*SUPPORT, 1, start="accepted")
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 8))
    model.adapt(*SUPPORT, 2)
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 2))


@BOTH
def test_held_out_samples_are_measured_before_and_after(model: AdaptiveModel, linear: Any) -> None:
    """The losses are those of the acting and of the adapted weights; without a guard they refuse nothing."""
    assert model.adapt(*SUPPORT, 4).held_out is None
    held_out = draw(20, 4, 3), draw(21, 4, 2)
    result = model.adapt(*SUPPORT, held_out=held_out)
    assert result.accepted
    assert result.held_out
    wanted = [linear.step(linear.adapt(*SUPPORT, steps), *held_out)[1] for steps in (4, 3)]
    assert result.held_out[:2] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "v1"}, "start is 'v1'"),
        ({"steps": 10**9}, "at most 10000"),
        ({"held_out": np.zeros((2, 3))}, r"a pair of x and y is wanted"),
        ({"held_out": (np.zeros((2, 3)),)}, "held_out is a tuple of 1"),
        ({"held_out": (np.zeros((2, 4)), np.zeros((2, 2)))}, "held_out_x has shape"),
        ({"held_out": (np.zeros((2, 3)), np.full((2, 2), np.nan))}, "held_out_y sample 0, field 'force'"),
        ({"held_out": (np.zeros((2, 3)), np.zeros((3, 2)))}, "held_out_x has 2 shots and held_out_y has 3"),
        ({"held_out": (np.zeros((0, 3)), np.zeros((0, 2)))}, "held_out_x has shape"),
    ],
)
@BOTH
def test_bad_options_of_an_adaptation_change_nothing(
    model: AdaptiveModel, linear: Any, options: dict, message: str
) -> None:
    """Start and held-out samples are checked before anything is computed."""
    with pytest.raises(InputError, match=message):
        model.adapt(*SUPPORT, **options)
    assert acts_at(model, linear, linear.v0)


@BOTH
def test_an_adapted_network_is_independent_of_the_model(model: AdaptiveModel, linear: Any) -> None:
    """`adapted` does not change the model, and later adaptations of the model do not change its result."""
    predict = model.adapted(*SUPPORT)
    assert acts_at(model, linear, linear.v0)
    for steps in range(1, 5):
        model.adapt(draw(1, 5, 3), draw(2, 5, 2), steps)
    np.testing.assert_allclose(predict(X), linear.predict(linear.adapt(*SUPPORT, 3), X), rtol=1e-4, atol=1e-5)


@BOTH
def test_returned_arrays_belong_to_the_caller(model: AdaptiveModel, linear: Any) -> None:
    """Writing into a prediction, `v` or the support set changes nothing in the model."""
    x, y = (part.copy() for part in SUPPORT)
    model.adapt(x, y)
    for array in (x, y, model.v, model.predict(X)):
        array[...] = 7
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 3))


@pytest.mark.parametrize(
    ("support", "steps", "message"),
    [
        ((np.zeros((0, 3)), np.zeros((0, 2))), None, "support_x has shape"),
        ((np.zeros((4, 2)), np.zeros((4, 2))), None, r"position \(2,\) \+ angle \(1,\)"),
        ((np.zeros(3), np.zeros(2)), None, "support_x has shape"),
        ((np.zeros((4, 3)), np.zeros((4, 3))), None, "support_y has shape"),
        ((np.zeros((4, 3)), np.zeros((5, 2))), None, "4 shots and support_y has 5"),
        ((np.full((4, 3), np.nan), np.zeros((4, 2))), None, "field 'position' element 0"),
        ((np.zeros((4, 3)), np.full((4, 2), np.inf)), None, "support_y sample 0, field 'force'"),
        ((np.zeros((4, 3)), [["a", "b"]] * 4), None, "support_y has dtype"),
        (SUPPORT, 0, "steps is 0"),
        (SUPPORT, -1, "steps is -1"),
        (SUPPORT, 1.5, "steps is 1.5, but a whole number of inner steps"),
    ],
)
@BOTH
def test_a_bad_support_set_changes_nothing(
    model: AdaptiveModel, linear: Any, support: tuple[Any, Any], steps: Any, message: str
) -> None:
    """The error names the array or field, and the earlier weights still act."""
    model.adapt(*SUPPORT, 5)
    with pytest.raises(InputError, match=message):
        model.adapt(*support, steps)
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 5))


@BOTH
def test_an_update_that_diverges_is_refused(model: AdaptiveModel, linear: Any) -> None:
    """When the steps overflow, the result says so and the earlier weights still act."""
    model.adapt(*SUPPORT)
    result = model.adapt(1e6 * SUPPORT[0], SUPPORT[1], 20)
    assert not result.accepted
    assert result.reason
    assert "not finite" in result.reason
    assert np.isfinite(result.loss_before)
    assert not np.isfinite(result.loss_after)
    assert acts_at(model, linear, linear.adapt(*SUPPORT, 3))
    np.testing.assert_array_equal(model.adapted(1e6 * SUPPORT[0], SUPPORT[1], 20)(X), model._sessions.start(X))


@BOTH
def test_predict_sees_one_whole_adaptation_at_a_time(model: AdaptiveModel, linear: Any) -> None:
    """While another thread adapts and resets, every prediction belongs to one `v`, never to a mixture."""
    known = [linear.predict(v, X) for v in (linear.v0, linear.adapt(*SUPPORT, 1), linear.adapt(*SUPPORT, 8))]
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            model.adapt(*SUPPORT, 1)
            model.adapt(*SUPPORT, 8)
            model.reset()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        seen = [model.predict(X) for _ in range(3000)]
    finally:
        stop.set()
        thread.join()
    matches = [[np.allclose(y, wanted, rtol=1e-4, atol=1e-5) for wanted in known] for y in seen]
    assert all(sum(match) == 1 for match in matches)


@BOTH
def test_threads_adapt_without_sharing_buffers(model: AdaptiveModel, linear: Any) -> None:
    """Concurrent adaptations to different support sets of several sizes each equal the result of numpy."""

    def ask(seed: int) -> bool:
        x, y = draw(seed, 3 + seed % 3, 3), draw(seed + 100, 3 + seed % 3, 2)
        wanted = linear.predict(linear.adapt(x, y, 4), X)
        return all(np.allclose(model.adapted(x, y, 4)(X), wanted, rtol=1e-4, atol=1e-5) for _ in range(100))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(8)))


def test_a_huge_adaptation_is_not_read_whole(bundle_path: Path, tmp_path: Path) -> None:
    """A sparse file of one tebibyte is refused."""
    with (tmp_path / "saved.safetensors").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match=r"saved\.safetensors"):
        AdaptiveModel.load(bundle_path).load_adaptation(tmp_path / "saved.safetensors")


def test_a_saved_adaptation_acts_in_a_fresh_model(model: AdaptiveModel, linear: Any, tmp_path: Path) -> None:
    """After saving and loading, predictions are bit-identical, and no temporary file remains."""
    model.adapt(*SUPPORT)
    model.save_adaptation(tmp_path / "wing.safetensors")
    model.adapt(*SUPPORT)
    model.save_adaptation(tmp_path / "wing.safetensors")
    fresh = AdaptiveModel.load(model.bundle)
    fresh.load_adaptation(tmp_path / "wing.safetensors")
    np.testing.assert_array_equal(fresh.v, model.v)
    np.testing.assert_array_equal(fresh.predict(X), model.predict(X))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["wing.safetensors"]
    fresh.reset()
    fresh.restore_adaptation(model.dump_adaptation())
    np.testing.assert_array_equal(fresh.v, model.v)


def test_there_must_be_an_adaptation_to_save(model: AdaptiveModel, tmp_path: Path) -> None:
    """Saving at v0 raises."""
    with pytest.raises(InputError, match="adapt it first"):
        model.save_adaptation(tmp_path / "none.safetensors")


def test_an_adaptation_of_another_bundle_is_refused(model: AdaptiveModel, write: Write, tmp_path: Path) -> None:
    """Filter parameters of one bundle never act in another one, even if the shapes are the same."""
    other = AdaptiveModel.load(write(method="another export"))
    other.adapt(*SUPPORT)
    other.save_adaptation(tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="was saved from bundle"):
        model.load_adaptation(tmp_path / "other.safetensors")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_a_damaged_adaptation_never_acts(
    model: AdaptiveModel, linear: Any, tmp_path: Path, place: float, flip: int, cut: bool
) -> None:
    """A changed byte or a cut file is refused, unless the byte is padding and changes no weight."""
    file = tmp_path / "wing.safetensors"
    model.adapt(*SUPPORT)
    changed = bytearray(model.dump_adaptation())
    position = int(place * len(changed))
    changed[position] ^= flip
    file.write_bytes(changed[:position] if cut else changed)
    model.reset()
    try:
        model.load_adaptation(file)
    except BundleError:
        assert acts_at(model, linear, linear.v0)
    else:
        assert acts_at(model, linear, linear.adapt(*SUPPORT, 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", np.full((1, 4), np.nan, np.float32)),
        ("v", np.zeros((1, 5), np.float32)),
        ("layer.weight", np.zeros((2, 3))),
        ("another", np.zeros(1, np.float32)),
    ],
)
def test_an_adaptation_with_other_tensors_is_refused(
    model: AdaptiveModel, tmp_path: Path, name: str, value: np.ndarray
) -> None:
    """Shape, dtype, finiteness and name of every tensor are checked."""
    model.adapt(*SUPPORT)
    file = tmp_path / "wing.safetensors"
    model.save_adaptation(file)
    file.write_bytes(save(load(file.read_bytes()) | {name: value}, {"bundle": model.bundle.digest, "digest": ""}))
    with pytest.raises(BundleError, match=f"'{name}' has shape"):
        model.load_adaptation(file)


def test_a_missing_adaptation_is_named(model: AdaptiveModel, tmp_path: Path) -> None:
    """The error gives the path."""
    with pytest.raises(BundleError, match="absent"):
        model.load_adaptation(tmp_path / "absent.safetensors")


def test_samples_outside_their_bounds_are_counted_and_absurd_ones_refused(write: Write) -> None:
    """`adapt` always compares x and y of support and held-out samples; the earlier weights act on."""
    model = AdaptiveModel.load(write(input_limit=10.0))
    x, y = SUPPORT[0].copy(), SUPPORT[1].copy()
    assert model.adapt(x, y).outside == {}
    x[:2, 2], y[3, 0] = -4.0, -12.0  # of an angle within pi and a force within 10 N
    result = model.adapt(x, y, 1)
    assert (result.accepted, result.outside) == (True, {"x.angle": 2, "y.force": 1})
    v = model.v
    absurd = y.copy()
    absurd[1, 1] = 250.0
    for call in (
        lambda: model.adapt(x, absurd),
        lambda: model.adapted(x, absurd),
        lambda: model.adapt(x, y, held_out=(x, absurd)),
    ):
        with pytest.raises(
            InputError, match=r"_y sample 1, field 'force' element 1 is 250 N, but its bounds are -10 and"
        ):
            call()
    np.testing.assert_array_equal(model.v, v)


def test_predict_compares_with_the_bounds_where_asked_to(write: Write) -> None:
    """By default it does not. Each fork counts for itself."""
    path = write(input_limit=10.0)
    plain, checking = AdaptiveModel.load(path), AdaptiveModel.load(path, check_inputs=True)
    odd, absurd = [0.0, 0.0, 4.0], [0.0, 0.0, 900.0]
    np.testing.assert_array_equal(plain.predict(odd), checking.predict(odd))
    assert plain.predict(absurd).shape == checking.predict([odd, odd, odd]).shape[1:]
    assert checking.fork().outside == plain.outside == {}
    with pytest.raises(InputError, match="field 'angle' element 0 is 900 rad"):
        checking.predict(absurd)
    with pytest.raises(InputError, match="x has shape"):
        checking.predict([0.0])
    with pytest.raises(InputError, match="masked array"):
        plain.predict(np.ma.masked_greater(odd, 3.0))
    assert checking.outside == {"x.angle": 5}


def test_a_bundle_of_before_refuses_no_value(bundle_path: Path) -> None:
    """Its manifest has no limit. What is outside is still counted."""
    assert AdaptiveModel.load(bundle_path).adapt(SUPPORT[0], SUPPORT[1] + 999).outside == {"y.force": 6}


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_model_that_cannot_be_copied_says_what_to_do(model: AdaptiveModel, copied: Callable) -> None:
    """Its sessions live in this process: the message names `load` for another one, and `fork` for this one."""
    with pytest.raises(TypeError, match=r"in another process call AdaptiveModel.load.*in this process use fork\(\)"):
        copied(model)
