"""`check_family` accepts the built-in families, and names each broken rule with its likely cause."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.checking.family import check_family
from msr_envs.groups import direct_sum, random_action, rotation, shift, trivial
from msr_envs.registry import FAMILIES, load_family
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, ClosedLoop, Field, Group, Split, TaskBatch


class Planar:
    """A small family that keeps every rule: y is a vector in the plane, scaled by an unknown gain."""

    name: Any = "planar"
    inputs: Any = (
        Field(name="push", shape=(2,), unit="N", low=-2, high=2),
        Field(name="load", shape=(1,), unit="kg", low=-2, high=2),
    )
    outputs: Any = (Field(name="speed", shape=(2,), unit="m/s", low=-4, high=4),)
    loss: Any = "mse"
    query_sets: Any = ("all",)
    rate_hz: float = 10.0

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        rng = np.random.default_rng([SPLITS.index(split), int(rng.integers(2**63))])
        x = rng.uniform(-1, 1, (tasks, shots + queries, 3)).astype(np.float32)
        y = (rng.uniform(1, 2, (tasks, 1, 1)) * x[..., :2]).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> Any:
        return random_action(Planar.group(self), rng, x, y)

    def group(self) -> Group:
        return Group("C4", direct_sum(rotation(4), trivial(4, 1)), rotation(4))

    def evaluate(self, adapt: Any, rng: np.random.Generator, tasks: int, split: Split) -> Any:
        return ClosedLoop("distance", "m", False, rng.uniform(size=tasks))


class Labels(Planar):
    """The same robot. y is the direction of the push, as one of four labels."""

    name = "labels"
    outputs = (Field(name="direction", shape=(4,), unit="1", low=0, high=1),)
    loss = "cross_entropy"

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        batch = super().sample(rng, tasks, shots, queries, split)
        return batch._replace(support_y=self._label(batch.support_x), query_y=self._label(batch.query_x))

    def _label(self, x: NDArray) -> NDArray:
        return (np.round(np.arctan2(x[..., 1], x[..., 0]) / (np.pi / 2)) % 4).astype(np.int64)

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> Any:
        element = rng.integers(4, size=y.shape)
        matrices = self.group().inputs.astype(x.dtype)[element]
        return np.einsum("...ij,...j->...i", matrices, x), (y + element) % 4

    def group(self) -> Group:
        return Group("C4", Planar.group(self).inputs, shift(4))


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"arm", "quadrotor"}))
def test_built_in_families_keep_the_contract(name: str) -> None:
    """The built-in families keep every rule. The two that are left out are checked alike in their own folders."""
    check_family(load_family(name))


@pytest.mark.parametrize("family", [Planar(), Labels()], ids=lambda family: family.name)
def test_small_families_keep_the_contract(family: Planar) -> None:
    """The families from which the broken ones below are made keep every rule, in closed loop and with labels."""
    check_family(family, closed_loop=True)


def _altered(part: str, change: Any, base: type[Planar] = Planar) -> Planar:
    """A family in which one part of the samples is changed."""

    class Altered(base):
        def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
            batch = super().sample(rng, tasks, shots, queries, split)
            return batch._replace(**{part: change(getattr(batch, part))})

    return Altered()


def _with(base: type[Planar] = Planar, **members: Any) -> Planar:
    """A family in which some members are replaced."""
    return type("Changed", (base,), members)()


def _with_group(inputs: NDArray, outputs: NDArray) -> Planar:
    return _with(group=lambda _: Group("C4", inputs, outputs))


def _not_a_number(array: NDArray) -> NDArray:
    array[0, 0, 0] = np.nan
    return array


def _in_place(_: Planar, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    x[:], y[:] = random_action(Planar().group(), rng, x, y)
    return x, y


def _apart(_: Planar, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    return random_action(Planar().group(), rng, x, y)[0], random_action(Planar().group(), rng, x, y)[1]


def _once_a_task(_: Planar, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    element = rng.integers(4, size=len(x))
    matrices = [part[element].astype("f4") for part in Planar().group()[1:]]
    return np.einsum("tij,tsj->tsi", matrices[0], x), np.einsum("tij,tsj->tsi", matrices[1], y)


def _half_of_the_group(_: Planar, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    half = Group("C2", *(matrices[::2] for matrices in Planar().group()[1:]))
    return random_action(half, rng, x, y)


def _forward(_: Planar, *call: Any) -> TaskBatch:
    return TaskBatch(*map(np.abs, Planar().sample(*call)))


_kept = np.random.default_rng(0)
_IN, _OUT = Planar().group().inputs, Planar().group().outputs
_EIGHTH = direct_sum(rotation(8)[:4], trivial(4, 1))
_PUSH = Planar.inputs[0]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (
            object(),
            "lacks name, inputs, outputs, loss, query_sets, sample, augment;.*without a symmetry, `augment` returns x",
        ),
        (Planar, "an instance is wanted"),
        (_with(augment=None), "cannot be called"),
        (_with(name=""), "name is ''"),
        (_with(loss="l1"), "loss is 'l1'.*mse, huber, cross_entropy"),
        (_with(rate_hz=0.0), "rate_hz is 0.0"),
        (_with(rate_hz="20 Hz"), "rate_hz is '20 Hz'.*a finite number above 0"),
        (_with(query_sets=("all")), "query_sets is 'all'.*comma"),
        (_with(query_sets=("all", "all")), "different names"),
        (_with(outputs=Planar.outputs[0]), "outputs is .*tuple"),
        (_with(inputs=(_PUSH, _PUSH)), "inputs holds 2 fields named 'push'"),
        (_with(sample=lambda *_: None), "returned NoneType.*TaskBatch"),
        (_altered("support_x", lambda a: a[..., :2]), r"support_x the shape \(1, 1, 2\).*\(1, 1, 3\)"),
        (_altered("query_y", lambda a: a[:, :-1]), "query_y the shape .*axis"),
        (_altered("query_x", lambda a: a.astype("f8")), "query_x the dtype float64.*float32.*astype"),
        (_altered("query_y", lambda a: a.astype("i4"), Labels), "query_y the dtype int32.*int64"),
        (_altered("query_y", lambda a: a + 4, Labels), "labels from .* 0 to 3"),
        (_altered("support_y", _not_a_number), "nan into support_y.*finite"),
        (_altered("query_x", lambda a: a * 90), "N in field 'push'.*outside its bounds -2 to 2.*unit"),
        (_altered("query_x", lambda a: a + _kept.normal(size=a.shape).astype("f4") / 9), "equal generators.*elsewhere"),
        (
            _with(sample=lambda _, _r, *sizes: Planar().sample(np.random.default_rng(3), *sizes)),
            "same batch for differently seeded.*not used",
        ),
        (
            _with(sample=lambda _, rng, t, s, q, _split: Planar().sample(rng, t, s, q, "train")),
            "splits 'train' and 'validation' share a task.*disjoint",
        ),
        (_with(augment=_in_place), "augment wrote into the x"),
        (_with(augment=lambda _, _r, x, y: (x.astype("f8"), y)), r"augment turned x .* float64.*must be kept"),
        (_with(augment=lambda _, _r, x, y: (x, y[..., 0])), "augment turned y .*shape and dtype"),
        (_with(augment=lambda _, _r, x, _y: x), "augment returned ndarray.*pair"),
        (_with(augment=lambda _, _r, x, y: (x, y * np.float32(np.inf))), "augment put .* y .*not finite"),
        (
            _with(augment=lambda _, _r, x, y: random_action(Planar().group(), _kept, x, y)),
            "augment gave different results",
        ),
        (_with(augment=lambda _, _r, x, y: (x + np.float32(0.1), y)), "returned an x that no element"),
        (_with(augment=_half_of_the_group), "augment never moves by element 1.* 2 of the 4 elements.*same group"),
        (
            _with(
                inputs=(Field(name="push", shape=(2,), unit="N", low=-0.1, high=1), Planar.inputs[1]), sample=_forward
            ),
            "augment gave values from .* in field 'push', far outside its bounds -0.1 to 1",
        ),
        (_with(augment=_once_a_task), "all 32 examples of a task by element .*one draw a batch or a task"),
        (
            _with(augment=lambda _, _r, x, y: Planar().augment(np.random.default_rng(5), x, y)),
            "augment gave the same result for differently seeded.*`rng` is not used",
        ),
        (_altered("query_x", np.ndarray.tolist), "query_x as a list.*plain numpy array.*asarray"),
        (_altered("query_y", lambda a: np.ma.masked_greater(a, 0.5)), "query_y as a MaskedArray.*masked"),
        (_with(group=lambda _: (_IN, _OUT)), "group returned tuple, but it must return a Group"),
        (_with(examples=1), "examples is 1, but it must be a whole number of at least 2"),
        (_with(augment=_apart), "its y by none that fits.*apart"),
        (_with(augment=lambda _, _r, x, y: (x, y)), "all 32 examples of a task by element 0.*its own"),
        (_with_group(_OUT, _OUT), r"inputs has the shape \(4, 2, 2\).*\(4, 3, 3\).*leaves out"),
        (_with_group(_IN, rotation(8)), r"outputs has the shape \(8, 2, 2\).*different order"),
        (_with_group(_IN[::-1], _OUT[::-1]), "element 0 is not the identity"),
        (_with_group(_IN, np.stack([_OUT[0], *(2 * _OUT[1:])])), "element 1 is not orthogonal on the outputs"),
        (_with_group(_IN[[0, 1, 2, 3, 1]], _OUT[[0, 1, 2, 3, 1]]), "elements 1 and 4 are the same"),
        (_with_group(_EIGHTH, rotation(8)[:4]), "not a group.*missing"),
        (_with_group(_IN, rotation(8)[:4]), "on the inputs but not on the outputs.*other way"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_each_broken_rule_is_named_with_its_cause(family: object, words: str) -> None:
    """Each broken rule raises a FamilyError that says which rule it is, and the likely cause."""
    with pytest.raises(FamilyError, match=words):
        check_family(family)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (_with(evaluate=lambda *_: [1.0, 2.0]), "returned list.*ClosedLoop"),
        (_with(evaluate=lambda *_: ClosedLoop("d", "m", False, np.ones(1))), r"one finite figure a task, shape \(2,\)"),
        (_with(evaluate=lambda *_: ClosedLoop("d", "m", False, _kept.uniform(size=2))), "compared in pairs"),
    ],
)
def test_the_closed_loop_is_checked_when_asked_for(family: Planar, words: str) -> None:
    """A broken closed-loop measure is found only with `closed_loop=True`."""
    check_family(family)
    with pytest.raises(FamilyError, match=words):
        check_family(family, closed_loop=True)


def test_a_family_without_a_group_or_a_closed_loop_is_a_family() -> None:
    """`group` and `evaluate` are optional. Without `evaluate`, `closed_loop=True` is refused."""

    class Bare:
        name, inputs, outputs, loss, query_sets = "bare", Planar.inputs, Planar.outputs, "mse", ("all",)
        sample, augment = Planar().sample, Planar().augment

    check_family(Bare())
    with pytest.raises(FamilyError, match="rate_hz or evaluate is missing"):
        check_family(Bare(), closed_loop=True)


def _fails(*_: Any) -> Any:
    return np.stack([np.zeros(2), np.zeros(3)])


@pytest.mark.parametrize(
    ("family", "call"),
    [
        (_with(sample=_fails), r"sample\(rng, 1, 1, 1, 'train'\)"),
        (_with(augment=_fails), r"augment\(rng, x, y\)"),
        (_with(group=_fails), r"group\(\)"),
        (_with(evaluate=_fails), r"evaluate\(None, rng, 2, 'validation'\)"),
        (_with(outputs=property(_fails)), "outputs"),
    ],
    ids=["sample", "augment", "group", "evaluate", "property"],
)
def test_code_that_fails_is_named_with_file_and_line(family: Planar, call: str) -> None:
    """The line of the family, and not that of a library which it calls."""
    line = _fails.__code__.co_firstlineno + 1
    says = f"'planar': {call} failed with ValueError: all input .*, in {__file__}, line {line}; correct `"
    with pytest.raises(FamilyError, match=says) as caught:
        check_family(family, closed_loop=True)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_property_that_lacks_something_is_not_called_missing() -> None:
    """An AttributeError in its code says which attribute, and where."""
    family = _with(loss=property(lambda self: self.unknown))
    with pytest.raises(FamilyError, match=r"'planar': loss failed with AttributeError: .*'unknown', in .*, line"):
        check_family(family)


def test_a_recording_of_few_examples_is_checked() -> None:
    """No more samples of a task are asked for than it has."""

    class Few(Planar):
        examples = 4

        def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
            assert shots < self.examples
            return super().sample(rng, tasks, shots, queries, split)

    check_family(Few())
