"""Each representation is one: a homomorphism into the orthogonal matrices, which agrees with what it stands for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msr_envs.checking.group import check_group
from msr_envs.groups import direct_sum, rotation, shift
from msr_envs.symmetry import (
    Angle,
    Generator,
    Matrices,
    Parts,
    Pseudoscalar,
    Pseudovector,
    Ring,
    Scalar,
    SymmetryGroup,
    Vector,
    cyclic,
    declared_group,
    dihedral,
    generate,
    mirror,
    product,
    representation_matrices,
    yaw,
)
from msr_runtime.errors import FamilyError
from msr_runtime.task import Field

SIDES = product(mirror("y", "left-right"), mirror("x", "front-back"))
LEGS = ("LF", "RF", "LH", "RH")
SWAPS = {"left-right": [("LF", "RF"), ("LH", "RH")], "front-back": [("LF", "LH"), ("RF", "RH")]}
groups = st.one_of(
    st.integers(1, 8).map(cyclic),
    st.integers(1, 6).map(dihedral),
    st.sampled_from([mirror("y"), mirror("x"), mirror("z"), SIDES, yaw(6), yaw(4, mirrored=True)]),
    st.just(product(cyclic(3), mirror("z", "up-down"))),
)
spatial = st.one_of(
    st.just((Scalar(), (3,))),
    st.just((Pseudoscalar(), (2,))),
    st.sampled_from([Vector, Pseudovector]).flatmap(
        lambda kind: st.sampled_from(
            [
                (kind(), (2,)),
                (kind(), (4, 3)),
                (kind(axes="yx"), (2,)),
                (kind(axes="x-y-z"), (6,)),
                (kind(axes="zxy"), (3,)),
                (kind(axes="z"), (1,)),
            ]
        )
    ),
)


def _field(shape: tuple[int, ...], representation: Any, name: str = "part", **more: Any) -> Field:
    return Field(name=name, shape=shape, unit="1", low=-1.0, high=1.0, representation=representation, **more)


def _assert_homomorphism(matrices: np.ndarray, group: SymmetryGroup) -> None:
    assert matrices.shape[0] == group.order
    np.testing.assert_allclose(matrices[0], np.eye(matrices.shape[-1]), atol=1e-12)
    np.testing.assert_allclose(
        matrices @ matrices.mT, np.broadcast_to(np.eye(matrices.shape[-1]), matrices.shape), atol=1e-12
    )
    products = group.elements[:, None] @ group.elements
    of_product = np.abs(group.elements - products[:, :, None]).max((-2, -1)).argmin(-1)
    np.testing.assert_allclose(matrices[:, None] @ matrices, matrices[of_product], atol=1e-12)


@given(groups)
def test_a_group_is_closed_and_begins_with_the_identity(group: SymmetryGroup) -> None:
    """Its elements are distinct, and each is the product of generators that its word says."""
    _assert_homomorphism(group.elements, group)
    distances = np.abs(group.elements[:, None] - group.elements).max((2, 3))
    assert (distances + np.eye(group.order) > 1e-3).all()
    for element, word in zip(group.elements, group.words, strict=True):
        made = np.eye(3)
        for index in word:
            made = made @ group.generators[index].matrix
        np.testing.assert_allclose(made, element, atol=1e-9)


@settings(deadline=None)
@given(groups, st.lists(spatial, min_size=1, max_size=3))
def test_spatial_representations_are_homomorphisms(
    group: SymmetryGroup, parts: list[tuple[Any, tuple[int, ...]]]
) -> None:
    """Products of elements are kept, and the whole vector passes the check of groups."""
    fields = [_field(shape, kind, f"part {index}") for index, (kind, shape) in enumerate(parts)]
    for field in fields:
        _assert_homomorphism(representation_matrices(field, group), group)
    faithful = [*fields, _field((3,), Vector(), "body")]
    whole = declared_group("whole", group, faithful, faithful)
    check_group("whole", whole, *[sum(field.size for field in faithful)] * 2)


@settings(deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["ahead", "half"]),
    st.sampled_from([(Scalar(), ()), (Pseudoscalar(), ()), (Vector(), (2,)), (Pseudovector(), (3,))]),
)
def test_a_ring_does_to_sensors_what_the_group_does_to_their_places(
    order: int, multiple: int, mirrored: bool, first: Any, inner: tuple[Any, tuple[int, ...]]
) -> None:
    """A field of vectors that stand on the ring, one a sensor, turns as the ring of their values says."""
    group = dihedral(order) if mirrored else cyclic(order)
    count = order * multiple
    kind, shape = inner
    matrices = representation_matrices(_field((count, *shape), Ring(first=first, of=kind)), group)
    _assert_homomorphism(matrices, group)
    angle = 2 * np.pi * (np.arange(count) + (0.5 if first == "half" else 0.0)) / count
    places = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    if kind != Scalar():
        return
    values = np.arange(1.0, count + 1)
    for matrix, element in zip(matrices, group.elements, strict=True):
        np.testing.assert_allclose((matrix @ values) @ places, element @ (values @ places), atol=1e-9)


def test_the_usual_groups_are_those_of_the_plain_matrices() -> None:
    """C_n on vectors and rings is what `msr_envs.groups` makes, to the last bit."""
    for order in (1, 4, 6, 16):
        made = declared_group(
            "ring", cyclic(order), [_field((order,), Ring()), _field((2,), Vector(), "way")], [_field((2,), Vector())]
        )
        assert made.name == f"C{order}"
        assert made.inputs.tobytes() == direct_sum(shift(order), rotation(order)).tobytes()
        assert made.outputs.tobytes() == rotation(order).tobytes()


def test_vectors_stand_in_the_robots_own_axes() -> None:
    """The same turn, written in frames whose axes stand in another order or point the other way."""
    turn = cyclic(4)
    np.testing.assert_allclose(representation_matrices(_field((2,), Vector()), turn)[1] @ [1, 0], [0, 1], atol=1e-12)
    np.testing.assert_allclose(
        representation_matrices(_field((2,), Vector(axes="yx")), turn)[1] @ [0, 1], [1, 0], atol=1e-12
    )
    np.testing.assert_allclose(
        representation_matrices(_field((3,), Vector(axes="x-y-z")), turn)[1] @ [1, 0, 5], [0, -1, 5], atol=1e-12
    )


def test_mirrors_negate_what_a_robot_measures() -> None:
    """An angular velocity keeps its y in a left-right mirror, gravity its x and z; yaw rate and heading change sign."""
    for kind, shape, signs in (
        (Vector(), (3,), [1, -1, 1]),
        (Pseudovector(), (3,), [-1, 1, -1]),
        (Pseudoscalar(), (1,), [-1]),
        (Angle(), (1,), [-1]),
        (Scalar(), (2,), [1, 1]),
    ):
        np.testing.assert_array_equal(representation_matrices(_field(shape, kind), mirror())[1], np.diag(signs))


def test_a_quadrupeds_legs_change_places() -> None:
    """Joints by the legs' names with sideways joints that flip; feet as vectors; both mirrors commute."""
    joints = Parts(
        parts=LEGS, cycles=SWAPS, flips={"left-right": (0, 3, 6, 9), "front-back": (1, 2, 4, 5, 7, 8, 10, 11)}
    )
    feet = Parts(cycles={"left-right": [(0, 1), (2, 3)], "front-back": [(0, 2), (1, 3)]}, of=Vector())
    fields = [_field((12,), joints, "joints"), _field((4, 3), feet, "feet")]
    for field in fields:
        _assert_homomorphism(representation_matrices(field, SIDES), SIDES)
    mirrored = representation_matrices(fields[0], SIDES)[1] @ np.arange(1.0, 13)
    np.testing.assert_array_equal(mirrored, [-4, 5, 6, -1, 2, 3, -10, 11, 12, -7, 8, 9])
    moved = representation_matrices(fields[1], SIDES)[1] @ np.arange(12.0)
    np.testing.assert_array_equal(moved.reshape(4, 3)[0], [3, -4, 5])


def test_signs_may_differ_from_leg_to_leg() -> None:
    """Four legs in a circle whose ankles turn the other way on two of them: four quarter turns bring all back."""
    ankles = Parts(cycles={"turn": [("a", "b", "c", "d")]}, flips={"turn": ("a", "c")})
    matrices = representation_matrices(_field((4,), ankles, names=tuple("abcd")), cyclic(4))
    np.testing.assert_array_equal(matrices[1] @ [1, 2, 3, 4], [4, -1, 2, -3])
    _assert_homomorphism(matrices, cyclic(4))


def test_a_matrix_can_be_given_for_each_generator() -> None:
    """What no other kind says, such as a swap of a number with the negative of another."""
    kind = Matrices(generators={"mirror": ((0, -1), (-1, 0))})
    matrices = representation_matrices(_field((2,), kind), mirror())
    np.testing.assert_array_equal(matrices[1] @ [1, 2], [-2, -1])


@given(spatial)
def test_a_field_reads_back_from_json(part: tuple[Any, tuple[int, ...]]) -> None:
    """With its representation; text stands for a kind without more."""
    kind, shape = part
    field = _field(shape, kind)
    assert Field.model_validate_json(field.model_dump_json()) == field
    assert hash(field) == hash(Field.model_validate_json(field.model_dump_json()))


def test_other_kinds_read_back_from_json() -> None:
    """Rings, parts and matrices, and kinds by name alone."""
    for shape, kind in (
        ((6, 2), Ring(first="half", of=Vector())),
        ((12,), Parts(parts=LEGS, cycles=SWAPS, flips={"left-right": (0,)})),
        ((2,), Matrices(generators={"mirror": ((0.0, 1.0), (1.0, 0.0))})),
        ((1,), Angle()),
    ):
        field = _field(shape, kind)
        assert Field.model_validate_json(field.model_dump_json()) == field
    assert _field((2,), "vector").representation == Vector()
    assert _field((2,), {"kind": "vector", "axes": "yx"}).representation == Vector(axes="yx")


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ((4,), Vector(), r"as vector: its shape \(4,\) ends neither in 2 numbers .* nor in 3 .*Vector\(axes='xy'\)"),
        ((4,), Vector(axes="xyz"), "as vector xyz: its 4 numbers are not whole vectors with the 3 axes"),
        ((2,), {"kind": "vector", "axes": "xx"}, "axes is 'xx', but it must name one to three different axes"),
        ((2,), {"kind": "vector", "axes": "ab"}, "axes is 'ab'"),
        ((), Ring(), r"as ring ahead: it has the shape \(\), but the first axis of a ring"),
        ((3,), Parts(cycles={"mirror": [("left", "right")]}), "hold part 'left', but no part has a name"),
        ((5,), Parts(parts=LEGS, cycles={}), "its 5 numbers cannot be shared evenly by the 4 parts LF, RF, LH, RH"),
        ((4,), Parts(parts=("a", "a"), cycles={}), "parts are a, a, but each needs a name of its own"),
        ((12,), Parts(parts=LEGS, cycles={"m": [("LF", "RFF")]}), "part 'RFF', but the parts are .*Did you mean 'RF'"),
        ((4,), Parts(cycles={"m": [(0, 1), (1, 2)]}), "hold part '1' twice, so they are no permutation"),
        ((4,), Parts(cycles={"m": [(0, 4)]}), "hold part 4, but there are 4, numbered from 0"),
        ((4,), Parts(cycles={"m": []}, flips={"m": (9,)}), "flips of 'm' hold element 9, but there are 4"),
        ((4,), Parts(cycles={}, flips={"m": (0,)}), "flips names the generator 'm', but cycles does not"),
        ((2,), Matrices(generators={"m": ((1, 0), (0, 2))}), "matrix of 'm' is not orthogonal .*off by 3"),
        ((2,), Matrices(generators={"m": ((1, 0, 0), (0, 1, 0))}), "must be 2 x 2"),
    ],
)
def test_what_does_not_fit_the_field_is_refused(shape: tuple[int, ...], kind: Any, words: str) -> None:
    """Before any group is known, by the field's name."""
    with pytest.raises(ValueError, match=f"(?s){words}"):
        _field(shape, kind)


@pytest.mark.parametrize(
    ("group", "shape", "kind", "words"),
    [
        (cyclic(4), (7,), Ring(), "'turn by 90°' takes sensors of this ring of 7 to places where no sensor stands"),
        (mirror("x"), (5,), Ring(), "'mirror' takes sensors of this ring of 5"),
        (cyclic(4), (1,), Vector(axes="x"), r"mixes its axes \(vector x\) with others"),
        (cyclic(4), (1,), Angle(), "'turn by 90°' shifts an angle .*its cosine and its sine as a Vector"),
        (mirror("x", "front-back"), (1,), Angle(), "'front-back' shifts an angle"),
        (cyclic(4), (4,), None, r"does not say how the group acts on it; write representation=Ring\(\)"),
        (cyclic(4), (3,), None, r"write representation=Vector\(\) for a vector"),
        (cyclic(4), (1,), None, r"write representation=Scalar\(\) if no element changes it, or Pseudoscalar\(\)"),
        (cyclic(4), (3,), Parts(cycles={"turn": [(0, 1, 2)]}), "does not make this group.*cycle of another length"),
        (mirror(), (2,), Parts(cycles={"mirror": [(0, 1)]}, flips={"mirror": (0,)}), "signs that do not return"),
        (
            SIDES,
            (4,),
            Parts(cycles={"left-right": [(0, 1)]}),
            r"what the generator 'front-back' does; cycles names left-right",
        ),
        (
            mirror(),
            (4,),
            Parts(cycles={"mirror": (), "turn": ()}),
            "the generator 'turn', but the group's generators are mirror",
        ),
        (mirror(), (1,), Matrices(generators={}), "what the generator 'mirror' does; generators names none"),
        (
            SIDES,
            (3,),
            Parts(cycles={"left-right": [(0, 1)], "front-back": [(1, 2)]}),
            "what it says of left-right, front-back does not make this group",
        ),
    ],
)
def test_what_does_not_fit_the_group_is_refused(
    group: SymmetryGroup, shape: tuple[int, ...], kind: Any, words: str
) -> None:
    """By the family's, the field's and the group's name, and with what to write."""
    with pytest.raises(FamilyError, match=f"family 'robot': field 'part', group {group.name}: .*{words}"):
        declared_group("robot", group, [_field(shape, kind)], [_field((1,), Scalar())])


def _spin(angle: float) -> Generator:
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Generator("spin", matrix)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: product(cyclic(4), mirror()), r"'turn' and 'mirror' do not commute.*dihedral\(n\)"),
        (lambda: product(mirror(), mirror("x")), r"2 generators are named 'mirror'.*mirror\('x', 'front-back'\)"),
        (lambda: product(mirror("y", "a"), mirror("y", "b")), "has 2 elements, not 2 x 2: the groups share elements"),
        (
            lambda: generate("X", _spin(1.0)),
            "group X: its generators spin by 57.3° make more than 64 elements.*full turn",
        ),
        (lambda: cyclic(72), r"turn by 5° make more than 64 elements; take fewer turns"),
        (lambda: cyclic(0), "has the order 0, but it must be 1 or more"),
        (lambda: generate("X", Generator("s", 2 * np.eye(3))), "generator 's' .* orthogonal 3 x 3"),
    ],
)
def test_what_makes_no_group_is_refused(make: Callable[[], SymmetryGroup], words: str) -> None:
    """With the generators that do not go together."""
    with pytest.raises(FamilyError, match=words):
        make()
