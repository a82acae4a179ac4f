"""The policy of one client: observations give actions, and support sets give an adaptation of its own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from msr_runtime import AdaptiveModel, Field, InputError
from msr_runtime.errors import ServerError
from msr_runtime.serving.access import Limits
from msr_runtime.serving.policy import MAX_STEPS, Policy, check_servable, describe, kind_of
from msr_runtime.serving.wire import decode, encode

LIMITS = Limits(samples=8)


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def named(x: np.ndarray) -> dict[str, np.ndarray]:
    """The linear bundle's observation `(..., 3)` by the names of its fields."""
    return {"angle": x[..., 2:], "position": x[..., :2]}


def adapting(x: np.ndarray, y: np.ndarray, **more: Any) -> dict[str, Any]:
    """A request to adapt the linear bundle."""
    return {"__msr__": "adapt", "support_x": named(x), "support_y": {"force": y}} | more


SUPPORT = draw(1, 6, 3), draw(2, 6, 2)


@pytest.fixture
def model(bundle_path: Path) -> AdaptiveModel:
    """A model of the reference bundle."""
    return AdaptiveModel.load(bundle_path)


@pytest.fixture
def policy(model: AdaptiveModel) -> Policy:
    """A policy of this model."""
    return Policy(model, LIMITS)


def test_what_is_outside_its_bounds_is_counted_and_what_is_absurd_refused(write: Callable[..., Path]) -> None:
    """Always, for observations and for support sets; the reply to `adapt` says it too."""
    counted: list[dict[str, int]] = []
    policy = Policy(
        AdaptiveModel.load(write(input_limit=10.0)), LIMITS, outside=lambda each: counted.append(dict(each))
    )
    policy.answer(named(np.array([0, 0, 4.0])))
    assert policy.answer(adapting(np.zeros((2, 3)), np.full((2, 2), 12.0)))["outside"] == {"y.force": 2}
    with pytest.raises(InputError, match="the observation sample 1, field 'angle' element 0 is 180 rad"):
        policy.answer(named(np.array([[0, 0, 0], [0, 0, 180.0]])))
    with pytest.raises(InputError, match="support_x sample 0, field 'angle'"):
        policy.answer(adapting(np.full((2, 3), 180.0), np.zeros((2, 2))))
    assert counted == [{"x.angle": 1}, {"y.force": 2}, {"x.angle": 1}, {"x.angle": 2}]


class TestInfer:
    def test_one_observation_is_a_chunk_of_one_action(self, policy: Policy, linear: Any) -> None:
        """Fields are found by name in any order; every array of the reply has an axis for the chunk in front."""
        x = draw(3, 3)
        reply = policy.answer(named(x))
        np.testing.assert_allclose(reply["force"][0], linear.predict(linear.v0, x[None])[0], rtol=1e-5, atol=1e-6)
        assert reply["force"].shape == (1, 2)
        np.testing.assert_array_equal(reply["actions"], reply["force"])
        assert reply["policy_timing"]["infer_ms"] > 0

    def test_a_batch(self, policy: Policy, linear: Any) -> None:
        x = draw(3, 5, 3)
        np.testing.assert_allclose(policy.answer(named(x))["force"], linear.predict(linear.v0, x), rtol=1e-5, atol=1e-6)

    def test_lists_and_other_numbers(self, policy: Policy) -> None:
        """Lists, float64 and integers are accepted too, as clients in other languages send them."""
        wanted = policy.answer(named(np.array([1, 2, 3], np.float32)))["force"]
        for position, angle in (([1, 2], [3.0]), (np.array([1.0, 2.0]), np.array([3], np.uint8))):
            np.testing.assert_array_equal(policy.answer({"position": position, "angle": angle})["force"], wanted)

    def test_outputs_by_name(self, write: Callable[..., Path]) -> None:
        """Each output field is a part of the vector, in its own shape."""
        fields = [Field(name=name, shape=shape, unit="1", low=-1, high=1) for name, shape in (("a", ()), ("b", (1, 1)))]
        reply = Policy(AdaptiveModel.load(write(outputs=fields)), LIMITS).answer(named(draw(3, 4, 3)))
        assert (reply["a"].shape, reply["b"].shape, reply["actions"].shape) == ((4,), (4, 1, 1), (4, 2))
        np.testing.assert_array_equal(reply["actions"], np.stack([reply["a"], reply["b"][:, 0, 0]], 1))

    @pytest.mark.parametrize(
        ("observation", "sentence"),
        [
            ({"position": [1, 2]}, "has the fields ['position'], but ['position', 'angle'] are wanted"),
            (named(draw(0, 3)) | {"prompt": "go"}, "['angle', 'position', 'prompt'], but ['position', 'angle']"),
            (named(draw(0, 3)) | {"prompt": "go"}, "to ignore a key, give it to `msr serve` with --ignore"),
            ({}, "has the fields [], but"),
            ({"position": [1, 2], "angle": 3}, "shapes position (2,), angle (), but position (2,), angle (1,)"),
            ({"position": draw(0, 3, 2), "angle": draw(0, 2, 1)}, "position (3, 2), angle (2, 1)"),
            ({"position": draw(0, 1, 2), "angle": draw(0, 1)}, "for several, each needs one more axis in front"),
            (named(draw(0, 0, 3)), "0 samples, but 1 to 8"),
            (named(draw(0, 9, 3)), "9 samples, but 1 to 8"),
            (named(np.array([0, np.nan, 0])), "field 'position' element 1 (index 1) is nan"),
            (named(np.array([0, 0, 1e300])), "field 'angle' element 0 (index 2) is inf"),
            (named(np.array([0, 0, 3e38])), "the network's output is not finite"),
            ({"position": "left", "angle": [1]}, "'position' has dtype <U4"),
            ({"position": [1, None], "angle": [1]}, "'position' has dtype object"),
            ({"position": [[1, 2], [3]], "angle": [1]}, "'position' is not an array"),
            ({"position": {"x": 1}, "angle": [1]}, "'position' has dtype object"),
        ],
    )
    def test_refusals(self, policy: Policy, observation: dict, sentence: str) -> None:
        """A refusal is one sentence with the value seen and the value wanted."""
        with pytest.raises(InputError, match=re.escape(sentence)):
            policy.answer(observation)

    def test_ignored_keys(self, model: AdaptiveModel) -> None:
        """Keys that the server ignores may stand in observations and support sets, with any value; others may not."""
        policy = Policy(model, LIMITS, ignored=("prompt", "image"))
        more = {"prompt": "go", "image": np.zeros((2, 2, 3), np.uint8)}
        wanted = policy.answer(named(draw(0, 3)))["force"]
        np.testing.assert_array_equal(policy.answer(named(draw(0, 3)) | more)["force"], wanted)
        request = adapting(*SUPPORT)
        assert policy.answer(request | {"support_x": request["support_x"] | more})["accepted"]
        with pytest.raises(InputError, match=r"'promt'\].*\['image', 'prompt'\] are ignored"):
            policy.answer(named(draw(0, 3)) | {"promt": "go"})
        with pytest.raises(InputError, match="has the fields"):
            policy.answer({"angle": [1], "prompt": "go"})
        assert describe(model, ("prompt",))["ignored"] == ["prompt"]
        with pytest.raises(ServerError, match="leave it out of --ignore"):
            check_servable(model, ("position",))

    def test_what_is_shown_of_a_strangers_names_is_short(self, policy: Policy) -> None:
        """A refusal stays short, however long and many the client's names are."""
        with pytest.raises(InputError) as refused:
            policy.answer({f"{number}" * 1000: 0 for number in range(1000)})
        assert len(str(refused.value)) < 4000


class TestAdapt:
    def test_it_acts_for_this_client_alone(self, model: AdaptiveModel, linear: Any) -> None:
        """The reply describes the adaptation; another policy of the same model still acts at v0."""
        first, second, x = Policy(model, LIMITS), Policy(model, LIMITS), draw(3, 4, 3)
        reply = first.answer(adapting(*SUPPORT, steps=2))
        assert (reply["accepted"], reply["steps"], reply["reason"]) == (True, 2, None)
        assert reply["loss_after"] < reply["loss_before"]
        encode(reply)
        v = linear.adapt(*SUPPORT, 2)
        np.testing.assert_allclose(first.answer(named(x))["force"], linear.predict(v, x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(second.answer(named(x))["force"], linear.predict(linear.v0, x), rtol=1e-4, atol=1e-5)

    def test_an_update_is_judged_as_the_client_asks(self, policy: Policy, linear: Any) -> None:
        """`trust` and the held-out samples of the message decide whether the update is accepted."""
        x = SUPPORT[0]
        y, other = (linear.predict(linear.v0 + np.float32(shift), x).clip(-10, 10) for shift in (0.3, -0.6))
        reply = policy.answer(adapting(x, y, trust=1e-6))
        assert (reply["accepted"], reply["refusal"]) == (False, "trust region")
        reply = policy.answer(adapting(x, y, trust=1e6, held_out_x=named(x), held_out_y={"force": y}))
        assert reply["accepted"]
        assert reply["held_out"]["after"] < reply["held_out"]["before"]
        reply = policy.answer(adapting(x, other, held_out_x=named(x), held_out_y={"force": y}))
        assert (reply["accepted"], reply["refusal"]) == (False, "no better on held-out samples")
        assert decode(encode(reply))["held_out"] == reply["held_out"]

    def test_new_samples_are_compared_before_they_are_learned_from(self, model: AdaptiveModel, linear: Any) -> None:
        """Those that the client sends again count once. The reply and the metrics get the errors."""
        told: list[dict[str, float]] = []
        policy = Policy(model, LIMITS, compared=lambda errors: told.append(dict(errors)))
        x = draw(7, 8, 3)
        y = linear.predict(linear.v0 + np.float32(0.3), x).clip(-10, 10)
        reply = policy.answer(adapting(x[:5], y[:5], trust=1e6))
        assert reply["accepted"]
        policy.answer(adapting(x, y, trust=1e6))
        policy.answer(adapting(x, y, trust=1e6))
        first, second = told
        assert first["adapted"] == first["v0"]
        v = linear.adapt(x[:5], y[:5], 3)
        for name, network in (("adapted", v), ("v0", linear.v0)):
            error = np.mean(((linear.predict(network, x[5:]) - y[5:]) / linear.y_scale) ** 2)
            np.testing.assert_allclose(second[name], error, rtol=1e-3)
        reply = policy.answer(adapting(x, y, trust=1e6))
        assert decode(encode(reply))["helping"]["samples"] == 8
        assert reply["family"] is None

    def test_reset_and_status(self, policy: Policy, linear: Any) -> None:
        """A refused update is counted and changes nothing; after a reset v0 acts."""
        x = draw(3, 4, 3)
        policy.answer(adapting(*SUPPORT))
        before = policy.answer(named(x))["force"]
        assert not policy.answer(adapting(SUPPORT[0] * np.float32(1e18), SUPPORT[1]))["accepted"]
        np.testing.assert_array_equal(policy.answer(named(x))["force"], before)
        assert policy.answer({"__msr__": "status"}) == {"adapted": True, "accepted": 1, "refused": 1}
        assert policy.answer({"__msr__": "reset"}) == {"adapted": False, "accepted": 1, "refused": 1}
        np.testing.assert_allclose(policy.answer(named(x))["force"], linear.predict(linear.v0, x), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("message", "sentence"),
        [
            (
                {"__msr__": "adapt"},
                "'support_y'] are wanted, and ['held_out_x', 'held_out_y', 'start', 'steps', 'trust'] may be given",
            ),
            (adapting(*SUPPORT, held_out_x=named(SUPPORT[0])), "'held_out_y'"),
            (adapting(*SUPPORT, trust="far"), "trust is 'far'"),
            (adapting(*SUPPORT, trust=0), "trust is 0, but a positive distance"),
            (adapting(*SUPPORT, step=2), "may be given"),
            (adapting(*SUPPORT, steps=0), "at least one inner step"),
            (
                adapting(*SUPPORT, steps=MAX_STEPS + 1),
                f"steps is {MAX_STEPS + 1}, but an integer up to {MAX_STEPS}",
            ),
            (adapting(*SUPPORT, steps=2.0), "steps is 2.0"),
            (adapting(*SUPPORT, steps=True), "steps is True"),
            (adapting(SUPPORT[0], SUPPORT[1][:5]), "6 shots and support_y has 5"),
            (adapting(SUPPORT[0][0], SUPPORT[1][0]), "are wanted with one more axis in front"),
            (adapting(draw(0, 9, 3), draw(0, 9, 2)), "9 samples"),
            (adapting(*SUPPORT) | {"support_x": SUPPORT[0]}, "support_x is ndarray, but a map from"),
            (adapting(*SUPPORT) | {"support_y": {"torque": SUPPORT[1]}}, "['torque'], but ['force'] are wanted"),
            (adapting(SUPPORT[0], SUPPORT[1] * np.nan), "field 'force' element 0"),
            ({"__msr__": "reset", "now": 1}, "a message 'reset' has the keys"),
            ({"__msr__": "status", "now": 1}, "a message 'status' has the keys"),
        ],
    )
    def test_refusals(self, policy: Policy, message: dict, sentence: str) -> None:
        """A refusal names what does not fit, and the acting weights do not change."""
        policy.answer(adapting(*SUPPORT))
        before = policy.answer(named(draw(3, 3)))["force"]
        with pytest.raises(InputError, match=re.escape(sentence)):
            policy.answer(message)
        np.testing.assert_array_equal(policy.answer(named(draw(3, 3)))["force"], before)


_NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
_ARRAYS = npst.arrays(npst.scalar_dtypes().filter(lambda dtype: dtype.kind in "biuf"), npst.array_shapes(max_side=3))
_SHAPED = npst.arrays(np.float32, st.sampled_from([(2,), (1,), (2, 2), (2, 1), (3, 2), (3, 1)]))
_ODD = st.recursive(_NUMBERS | _ARRAYS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
_FIELDS = st.fixed_dictionaries({"position": _SHAPED | _ODD, "angle": _SHAPED | _ODD}, optional={"x": _ODD})
_FORCES = st.fixed_dictionaries({"force": _SHAPED | _ODD})
_MESSAGES = _FIELDS | st.fixed_dictionaries(
    {"__msr__": st.sampled_from(["adapt", "reset", "status"]) | _ODD},
    optional={"support_x": _FIELDS | _ODD, "support_y": _FORCES | _ODD, "steps": st.integers(-1, 3) | _ODD},
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_MESSAGES)
def test_any_message_ends_in_a_reply_or_a_refusal(policy: Policy, message: dict) -> None:
    """Any value that `decode` can return gets a reply or a refusal, and the policy still works."""
    refusal = ""
    try:
        kind_of(message)
        reply = policy.answer(message)
    except InputError as error:
        refusal = str(error)
    else:
        encode(reply)
    assert "\n" not in refusal
    assert len(refusal) < 2000
    assert policy.answer({"__msr__": "status"}).keys() == {"adapted", "accepted", "refused"}


@pytest.mark.parametrize("message", [None, 1, "adapt", [{}], np.zeros(3)])
def test_a_message_is_a_map(message: object) -> None:
    with pytest.raises(InputError, match="a map is wanted"):
        kind_of(message)


@pytest.mark.parametrize("kind", ["infer", "Adapt", "", None, 1, ["adapt"], np.zeros(3), {"a": 1}])
def test_unknown_kinds(kind: object) -> None:
    with pytest.raises(InputError, match="one of adapt, reset, status is wanted"):
        kind_of({"__msr__": kind})


def test_fields_named_like_the_protocols_own_are_not_served(write: Callable[..., Path]) -> None:
    fields = [Field(name="server_timing", shape=(2,), unit="1", low=-1, high=1)]
    with pytest.raises(ServerError, match="field named 'server_timing'"):
        check_servable(AdaptiveModel.load(write(outputs=fields)))


def test_the_description_is_a_message(model: AdaptiveModel) -> None:
    """The description holds fields with units, order and bounds, and can be encoded."""
    told = describe(model)
    assert [(field["name"], field["unit"]) for field in told["inputs"]] == [("position", "m"), ("angle", "rad")]
    assert told["inputs"][0]["high"] == np.inf
    assert (told["rate_hz"], told["bundle"]) == (100.0, model.bundle.digest)
    encode(told)
