"""Learning sample by sample on a bundle with the rule `recursive`: what is learned, and what is refused."""

import copy
import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from msr_runtime import AdaptiveModel, BundleError, InputError, Refusal
from msr_runtime.bundle.adaptation_file import encode_adaptation
from msr_runtime.bundle.store import STREAM, Bundle
from msr_runtime.inference.deviation import Prediction
from msr_runtime.inference.input_bounds import SampleBounds

RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (100, 18)).astype(np.float32)
Y = (X[:, 16:] * 0.5 - 0.2).astype(np.float32)
QUERY = X[0]
OLD_NUMPY = np.lib.NumpyVersion(np.__version__) < "2.4.0"
"""It warns that an array of one number is no number, and converts it. Newer versions refuse it."""
BOTH = pytest.mark.parametrize("filtering", ["onnx", "native"], indirect=True)
"""Runs a test in ONNX Runtime and in native code."""


@pytest.fixture
def model(filtering: AdaptiveModel) -> AdaptiveModel:
    """The model that learns by sample, at v0."""
    return filtering


def learn(model: AdaptiveModel, samples: range) -> AdaptiveModel:
    """Update the model by some of the samples."""
    for index in samples:
        assert model.update(X[index], Y[index]).accepted
    return model


def root_of_factor(model: AdaptiveModel, samples: int) -> float:
    """By what predictions multiply the deviations of the filter after so many samples, from the manifest."""
    logs = np.log(model.manifest.learned["variance scale"])
    return float(np.exp(np.interp(np.log2(samples + 1), range(len(logs)), logs) / 2))


def state(model: AdaptiveModel) -> tuple[np.ndarray, Prediction]:
    """All that the model knows, as far as it shows."""
    return model.v, model.predict(X[:5], std=True)


def assert_same(seen: tuple[np.ndarray, Prediction], wanted: tuple[np.ndarray, Prediction]) -> None:
    """Compare two states, number by number."""
    np.testing.assert_array_equal(seen[0], wanted[0])
    for one, other in zip(seen[1], wanted[1], strict=True):
        np.testing.assert_array_equal(one, other)


class TestLearning:
    """What updates do."""

    @BOTH
    def test_samples_make_it_better_and_surer(self, model: AdaptiveModel) -> None:
        """The innovations shrink, and so do the deviations, those of the noise excepted."""
        before, sizes, scale = model.predict(QUERY, std=True), [], root_of_factor(model, 0)
        assert model.manifest.recursion is not None
        memory = model.manifest.recursion.memory
        for number, (x, y) in enumerate(zip(X, Y, strict=True)):
            predicted, result = model.predict(x, std=True), model.update(x, y)
            np.testing.assert_allclose(result.innovation, y - predicted.y, atol=1e-5)
            # A full memory drops a sample before it takes another, so the model is a little less sure.
            total = predicted.total / root_of_factor(model, min(number, memory))
            assert (result.deviation > total * (1 - 1e-4)).all()
            assert (result.deviation < total * (1 + 1e-4 if number < memory else 1.02)).all()
            assert result.nis > 0
            assert result.seconds > 0
            assert result.reason is None
            sizes.append(np.abs(result.innovation).mean())
        assert np.mean(sizes[-10:]) < 0.5 * np.mean(sizes[:3])
        after, scales = model.predict(QUERY, std=True), (scale, root_of_factor(model, memory))
        assert (after.epistemic / scales[1] < before.epistemic / scale).all()
        noise = [
            (np.square(each.total) - np.square(each.epistemic)) / root**2
            for each, root in zip((before, after), scales, strict=True)
        ]
        np.testing.assert_allclose(noise[0], noise[1], rtol=1e-3)

    @BOTH
    def test_predictions_have_the_shapes_of_y(self, model: AdaptiveModel) -> None:
        """For one sample and for a batch; y is that of `predict`."""
        one, batch = model.predict(QUERY, std=True), model.predict(X, std=True)
        assert [part.shape for part in one] == [(2,)] * 3
        assert [part.shape for part in batch] == [(100, 2)] * 3
        assert all(part.dtype == np.float32 for part in (*one, *batch))
        np.testing.assert_allclose(batch.y, model.predict(X), atol=1e-5)
        np.testing.assert_array_equal(batch.total[0], one.total)

    @BOTH
    def test_a_support_set_is_taken_sample_by_sample(self, model: AdaptiveModel) -> None:
        """`adapt` begins at v0, or goes on, and ends where the updates end."""
        one_by_one = learn(model.fork(), range(12))
        assert model.adapt(X[:12], Y[:12]).accepted
        assert_same(state(model), state(one_by_one))
        learn(one_by_one, range(12, 20))
        again = model.fork()
        assert model.adapt(X[12:20], Y[12:20], start="accepted").accepted
        assert_same(state(model), state(one_by_one))
        network = again.adapted(X[:12], Y[:12])
        np.testing.assert_array_equal(network(QUERY), learn(model.fork(), range(12)).predict(QUERY))

    @BOTH
    def test_a_refused_support_set_changes_nothing(self, model: AdaptiveModel) -> None:
        """Nor does it write over the rows of the belief that acts."""
        learn(model, range(5))
        before = state(model)
        held_out = X[20:30], model.predict(X[20:30])
        result = model.adapt(X[5:19], -Y[5:19], start="accepted", held_out=held_out)
        assert result.refusal == Refusal.HELD_OUT
        assert_same(state(model), before)

    def test_a_sample_counts_once(self, model: AdaptiveModel) -> None:
        """Several steps would count it as several samples."""
        with pytest.raises(InputError, match=r"steps is 3, but the rule 'recursive' takes each sample once"):
            model.adapt(X[:5], Y[:5], steps=3)

    @BOTH
    def test_memory_does_not_grow(self, model: AdaptiveModel) -> None:
        """Over many updates, with predictions in between."""
        for _ in range(3):
            learn(model, range(100))
        model.predict(QUERY, std=True)
        tracemalloc.start()
        try:
            learn(model, range(100))
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(10):
                learn(model, range(100))
                model.predict(QUERY, std=True)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 20_000


class TestTime:
    """What was learned fades, if there is a time constant."""

    def test_nothing_fades_without_one(self, model: AdaptiveModel) -> None:
        """However long it takes."""
        other = model.fork()
        for index in range(5):
            model.update(X[index], Y[index], seconds=1e6)
            other.update(X[index], Y[index])
        assert_same(state(model), state(other))

    def test_the_model_returns_to_v0(self, recursive_bundle: Path) -> None:
        """Both what it learned and how sure it is of it. No time is what no time is."""
        model = AdaptiveModel.load(recursive_bundle, time_constant=2.0)
        first = learn(model.fork(), range(20, 21))
        learn(model, range(20))
        faded = model.fork()
        faded.follow(model)
        faded.update(X[20], Y[20], seconds=1e4)
        np.testing.assert_allclose(faded.v, first.v, atol=1e-6)
        np.testing.assert_allclose(state(faded)[1].epistemic, state(first)[1].epistemic, rtol=1e-4)
        half = model.fork()
        half.follow(model)
        half.update(X[20], Y[20], seconds=1.0)
        model.update(X[20], Y[20], seconds=0.0)
        deviations = [state(each)[1].epistemic.mean() for each in (model, half, faded)]
        assert deviations == sorted(deviations)

    @pytest.mark.parametrize("samples", [1, 3, 16, 40])
    def test_when_nothing_is_left_it_begins_again(self, recursive_bundle: Path, samples: int) -> None:
        """The next samples are its first ones: they are linearized again, and the ones before are not."""
        model = AdaptiveModel.load(recursive_bundle, self_test=False, time_constant=2.0)
        fresh = model.fork()
        learn(model, range(samples))
        for each in (model, fresh):
            assert each.update(X[50], Y[50], seconds=34.0).accepted
            learn(each, range(51, 60))
        assert_same(state(model), state(fresh))

    @pytest.mark.parametrize("constant", [0.0, -1.0, np.nan])
    def test_a_time_constant_is_above_zero(self, recursive_bundle: Path, constant: float) -> None:
        """Else nothing would ever be learned."""
        with pytest.raises(InputError, match="time_constant is"):
            AdaptiveModel.load(recursive_bundle, time_constant=constant)


class TestBadInput:
    """What is refused leaves the model as it was."""

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"x": np.full(18, np.nan)}, "x sample 0, field 'proximity' element 0 .* is nan"),
            ({"y": np.array([0.0, np.inf])}, "y sample 0, field .* is inf"),
            ({"x": X[:2]}, r"x has shape \(2, 18\), but \(18,\) is wanted"),
            ({"y": np.zeros(3)}, r"y has shape \(3,\), but \(2,\) is wanted"),
            ({"x": np.full(18, 1e6)}, "bounds are"),
            ({"y": np.full(2, 1e6)}, "bounds are"),
            ({"x": "nothing"}, "dtype"),
            ({"seconds": -0.1}, "seconds is -0.1"),
            ({"seconds": np.nan}, "seconds is nan"),
            ({"seconds": np.inf}, "seconds is inf"),
            pytest.param(
                {"seconds": np.array([0.1])},
                r"seconds is \[0.1\], .* one number",
                marks=pytest.mark.skipif(OLD_NUMPY, reason="this numpy takes an array of one number for that number"),
            ),
            ({"seconds": np.array([0.1, 0.2])}, r"seconds is \[0.1 0.2\], .* one number"),
            ({"seconds": "soon"}, "seconds is soon"),
            ({"seconds": 10**400}, "seconds is 1000"),
        ],
    )
    @BOTH
    def test_it_raises(self, model: AdaptiveModel, change: dict[str, Any], said: str) -> None:
        """An error names what was seen and what was wanted."""
        learn(model, range(5))
        before = state(model)
        with pytest.raises(InputError, match=said):
            model.update(**({"x": X[5], "y": Y[5]} | change))
        assert_same(state(model), before)

    @BOTH
    def test_a_y_outside_its_bounds_is_not_learned(self, model: AdaptiveModel) -> None:
        """It is counted and refused, as in a support set."""
        learn(model, range(5))
        before, field = state(model), model.manifest.outputs[0]
        result = model.update(X[5], np.full(2, field.high + 1.5 * (field.high - field.low)))
        assert (result.accepted, result.refusal) == (False, Refusal.OUTSIDE)
        assert result.outside == {f"y.{field.name}": 1}
        assert "outside the bounds" in str(result.reason)
        assert np.isnan(result.nis)
        assert_same(state(model), before)

    @BOTH
    def test_an_update_that_is_not_finite_is_refused(self, model: AdaptiveModel) -> None:
        """The next sample is learned as if nothing had been."""
        model.bounds = SampleBounds.of((), (), None)  # a bundle whose fields have no bounds
        other = learn(model.fork(), range(6))
        learn(model, range(5))
        before = state(model)
        for x, y in ((X[5], np.full(2, 3e38)), (np.full(18, 3e38), Y[5])):
            result = model.update(x, y)
            assert (result.accepted, result.refusal) == (False, Refusal.NOT_FINITE)
            assert_same(state(model), before)
        assert_same(state(learn(model, range(5, 6))), state(other))

    def test_another_rule_says_so(self, ring_bundle: Path) -> None:
        """Each call names the rule that it needs and the one that there is."""
        model = AdaptiveModel.load(ring_bundle)
        calls: list[Callable[[], object]] = [
            lambda: model.update(X[0], Y[0]),
            lambda: model.predict(X[0], std=True),
            lambda: model.inflate(2.0),
            lambda: AdaptiveModel.load(ring_bundle, time_constant=1.0),
        ]
        for call in calls:
            with pytest.raises(InputError, match=r"'gauss-newton'.*recursive|recursive.*'gauss-newton'"):
                call()


class TestStates:
    """Resetting, inflating, saving, and several models on the same sessions."""

    @BOTH
    def test_reset_forgets_how_sure_it_was(self, model: AdaptiveModel) -> None:
        """The next samples are learned as the first ones were."""
        start = state(model)
        learn(model, range(10)).reset()
        assert_same(state(model), start)
        assert_same(state(learn(model, range(10))), state(learn(model.fork(), range(10))))

    @BOTH
    def test_inflating_keeps_the_weights(self, model: AdaptiveModel) -> None:
        """Deviations grow up to those before the first sample, and the next sample moves v further."""
        prior = model.predict(QUERY, std=True).epistemic
        learn(model, range(20))
        v, before = model.v, model.predict(QUERY, std=True)
        calm = copy.copy(model)
        model.inflate(4.0)
        after = model.predict(QUERY, std=True)
        np.testing.assert_array_equal(model.v, v)
        np.testing.assert_array_equal(after.y, before.y)
        assert (after.epistemic > 1.2 * before.epistemic).all()
        for each in (model, calm):
            learn(each, range(20, 21))
        assert np.linalg.norm(model.v - v) > np.linalg.norm(calm.v - v)
        model.inflate(np.inf)
        np.testing.assert_allclose(model.predict(QUERY, std=True).epistemic, prior, rtol=0.2)
        for factor in (0.5, np.nan, "a"):
            with pytest.raises(InputError, match="at least 1"):
                model.inflate(factor)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(("samples", "factor"), [(0, 10.0), (3, 1.0)])
    def test_inflating_by_nothing_changes_nothing(self, model: AdaptiveModel, samples: int, factor: float) -> None:
        """At v0 no variance can grow. The first samples are linearized again all the same."""
        other = learn(model.fork(), range(samples + 10))
        learn(model, range(samples)).inflate(factor)
        if not samples:
            with pytest.raises(InputError, match="no adaptation to save"):
                model.dump_adaptation()
        assert_same(state(learn(model, range(samples, samples + 10))), state(other))

    @pytest.mark.parametrize("samples", [5, 80])
    @BOTH
    def test_a_file_keeps_how_sure_it_was(self, model: AdaptiveModel, tmp_path: Path, samples: int) -> None:
        """And the model goes on learning as if it had never stopped: the first samples are linearized again too."""
        learn(model, range(samples)).save_adaptation(tmp_path / "saved.safetensors")
        again = model.fork()
        again.load_adaptation(tmp_path / "saved.safetensors")
        for each in (model, again):
            learn(each, range(80, 90))
        np.testing.assert_allclose(again.v, model.v, atol=1e-6)
        for one, other in zip(state(again)[1], state(model)[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("decays", "decays lie between"),
            ("rows", "of the prior's variance"),
            ("first_keep", "first_keep lie between"),
            ("first_x", "'first_x' is missing"),
        ],
    )
    def test_a_forged_file_is_refused(self, model: AdaptiveModel, change: str, said: str) -> None:
        """Its numbers would make no covariance, and the filter would diverge."""
        tensors = load(learn(model, range(5)).dump_adaptation())
        if "missing" in said:
            del tensors[change]
        else:
            tensors[change] = 3 * tensors[change]
        before = state(model)
        with pytest.raises(BundleError, match=said):
            model.restore_adaptation(encode_adaptation(tensors, model.bundle))
        assert_same(state(model), before)

    def test_a_file_that_leaves_first_samples_out_is_refused(self, model: AdaptiveModel) -> None:
        """The others would be forgotten as soon as the rest is linearized again."""
        tensors = load(learn(model, range(5)).dump_adaptation())
        for kept in (0, 4):
            fewer = {name: part[:kept] if name.startswith("first") else part for name, part in tensors.items()}
            with pytest.raises(BundleError, match=rf"those of 5 samples, but it holds the first {kept} alone"):
                model.restore_adaptation(encode_adaptation(fewer, model.bundle))

    @BOTH
    def test_first_samples_that_overflow_are_not_linearized_again(self, model: AdaptiveModel) -> None:
        """The model learns the new sample, and stays where it is then."""
        tensors = load(learn(model, range(5)).dump_adaptation())
        again = {name: part for name, part in tensors.items() if not name.startswith("first")}
        tensors["first_x"][2] = 3e38
        once = model.fork()
        for each, kept in ((model, tensors), (once, again)):
            each.restore_adaptation(encode_adaptation(kept, model.bundle))
        for samples in (range(5, 6), range(6, 12)):
            assert_same(state(learn(model, samples)), state(learn(once, samples)))

    @BOTH
    def test_models_on_the_same_sessions_learn_apart(self, model: AdaptiveModel) -> None:
        """A fork begins at v0; a copy, and a model that follows, go on from where the other is."""
        alone = state(learn(model.fork(), range(10)))
        learn(model, range(5))
        twin, follower = copy.copy(model), model.fork()
        follower.follow(model)
        for each in (twin, follower):
            for index in range(50, 60):
                each.update(X[index], Y[index])
        assert_same(state(learn(model, range(5, 10))), alone)
        assert_same(state(twin), state(follower))


def test_the_golden_stream_is_replayed(recursive_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle whose stream says otherwise does not load."""
    model = AdaptiveModel.load(recursive_bundle)
    assert model.self_test() <= model.bundle.stream().allowed(model.manifest.parity.tolerance)
    stream = model.bundle.stream()
    monkeypatch.setattr(type(model.bundle), "stream", lambda _: stream._replace(nis=stream.nis * 1.1))
    with pytest.raises(BundleError, match=r"normalized innovations of a stream is off by"):
        model.self_test()


def test_a_damaged_stream_is_named(recursive_bundle: Path) -> None:
    """The graphs are right, so nothing is said of them."""
    bundle = Bundle.open(recursive_bundle)
    damaged = dataclasses.replace(bundle, files={**bundle.files, STREAM: bundle.files[STREAM][:100]})
    with pytest.raises(BundleError, match=r"stream\.npz is not a golden stream") as error:
        AdaptiveModel.load(damaged)
    assert "graphs do not match" not in str(error.value)
