"""A family whose fields say how they turn has its group, its augmentation and its description from them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from msr_envs import check_family
from msr_envs.symmetry import (
    DeclaredSymmetry,
    Generator,
    Matrices,
    Parts,
    Pseudoscalar,
    Pseudovector,
    Ring,
    Scalar,
    Vector,
    cyclic,
    dihedral,
    generate,
    mirror,
    product,
    yaw,
)
from msr_envs.symmetry.group import turns_about_vertical
from msr_runtime.errors import FamilyError
from msr_runtime.task import DeclaredFamily, Field, SymmetricFamily

WHEELS = Parts(cycles={"mirror": [("left_wheel", "right_wheel")]})


@pytest.fixture
def cart(field: Callable[..., Field], gain: Any) -> Any:
    """Two wheels and a yaw rate; a mirror swaps the wheels."""
    wheels = field((2,), WHEELS, "wheels", names=("left_wheel", "right_wheel"))
    yaw_rate = field((1,), Pseudoscalar(), "yaw_rate")
    return gain(mirror(), [wheels, yaw_rate], [wheels.model_copy(update={"name": "answer"})])


def test_a_declared_family_keeps_the_contract(cart: Any) -> None:
    """Its group and its augmentation fit each other, and the check says in words what was declared."""
    assert isinstance(cart, SymmetricFamily)
    assert isinstance(cart, DeclaredFamily)
    assert check_family(cart) == (
        "family 'gain' keeps the contract, group C2\n"
        "mirror: left_wheel ↔ right_wheel, yaw_rate → −yaw_rate; of the outputs: left_wheel ↔ right_wheel"
    )


def test_augment_moves_each_sample_by_its_own_element(cart: Any) -> None:
    """About half of the samples are mirrored, with any leading axes. Shapes and dtypes are kept."""
    x, y = np.tile(np.array([1, 2, 3], np.float32), (50, 40, 1)), np.tile(np.array([1, 2], np.float32), (50, 40, 1))
    moved_x, moved_y = cart.augment(np.random.default_rng(0), x, y)
    assert (moved_x.dtype, moved_x.shape, moved_y.shape) == (np.float32, x.shape, y.shape)
    mirrored = moved_x[..., 0] == 2
    assert 0.4 < mirrored.mean() < 0.6
    np.testing.assert_array_equal(moved_x[mirrored], np.tile([2, 1, -3], (mirrored.sum(), 1)))
    np.testing.assert_array_equal(moved_y[mirrored], np.tile([2, 1], (mirrored.sum(), 1)))


def test_a_field_with_several_axes_keeps_its_shape(field: Callable[..., Field], gain: Any) -> None:
    """A single field `(4, 3)` is the whole sample."""
    feet = field((4, 3), Parts(cycles={"mirror": [(0, 1), (2, 3)]}, of=Vector()), "feet")
    family = gain(mirror(), [feet], [feet])
    x = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    moved, _ = family.augment(np.random.default_rng(3), x, x)
    images = np.stack([x, x[:, [1, 0, 3, 2]] * np.array([1, -1, 1], np.float32)])
    assert (moved.shape, (moved == images).all((2, 3)).any(0).all()) == (x.shape, True)


@pytest.mark.parametrize("mirrored", [False, True])
def test_yaw_turns_by_any_angle_where_every_field_allows_it(
    field: Callable[..., Field], gain: Any, mirrored: bool
) -> None:
    """`group()` is a sample; `augment` turns x and y by one angle of any size, and the contract is kept."""
    fields = [field((2,), Vector(), "push"), field((3,), Pseudovector(), "rate"), field((1,), Scalar(), "mass")]
    family = gain(yaw(8, mirrored=mirrored), fields, fields[:1])
    assert check_family(family).startswith(f"family 'gain' keeps the contract, group {'D' if mirrored else 'C'}8\n")
    x = np.tile(np.array([0.5, 0, 0.1, 0.2, 0.3, 0.4], np.float32), (2000, 1))
    moved, answer = family.augment(np.random.default_rng(0), x, x[:, :2])
    angles = np.arctan2(moved[:, 1], moved[:, 0])
    assert len(np.unique(angles.round(3))) > 1000
    np.testing.assert_allclose(moved[:, :2], answer, atol=1e-6)
    np.testing.assert_allclose(np.hypot(moved[:, 2], moved[:, 3]), np.hypot(0.1, 0.2), atol=1e-6)
    assert set(np.sign(moved[:, 4])) == ({-1, 1} if mirrored else {1})
    np.testing.assert_array_equal(moved[:, 5], np.float32(0.4))
    assert family.symmetry_in_words()[0].startswith("turn by any angle (sampled: turn by 45°): push turns, rate turns")


def test_yaw_turns_by_its_sample_where_a_field_allows_no_other(field: Callable[..., Field], gain: Any) -> None:
    """A ring of eight sensors shifts by whole sensors."""
    ring, way = field((8,), Ring(), "beams"), field((2,), Vector(), "way")
    family = gain(yaw(8), [way, ring], [way])
    assert not family.turns_freely
    assert check_family(family).splitlines()[1] == "turn by 45°: way turns, beams shift by 1; of the outputs: way turns"


def test_labels_change_places(field: Callable[..., Field], gain: Any) -> None:
    """A label is the number of a class. A turn takes it to the class that the ring says."""

    class Direction(gain):
        loss = "cross_entropy"

        def sample(self, *call: Any) -> Any:
            batch = super().sample(*call)
            side = [
                np.round(np.arctan2(x[..., 1], x[..., 0]) / (np.pi / 2)) % 4 for x in (batch.support_x, batch.query_x)
            ]
            return batch._replace(support_y=side[0].astype(np.int64), query_y=side[1].astype(np.int64))

    family = Direction(cyclic(4), [field((2,), Vector(), "push")], [field((4,), Ring(), "side")])
    assert "keeps the contract" in check_family(family)
    wrong = Direction(mirror(), family.inputs, [field((4,), Pseudoscalar(), "side")])
    with pytest.raises(FamilyError, match="gives classes a sign or mixes them, but labels can only change places"):
        check_family(wrong)


def test_another_augment_does_not_hide_the_declared_one(gain: Any) -> None:
    """Bases in the wrong order are refused where the class is written. An augmentation of one's own is not."""

    class Plain:
        def augment(self, rng: Any, x: Any, y: Any) -> Any:
            return x, y

    with pytest.raises(
        FamilyError, match=r"class Hidden: augment of Plain hides .* write DeclaredSymmetry before Plain"
    ):

        class Hidden(Plain, DeclaredSymmetry):
            pass

    class Own(DeclaredSymmetry, Plain):
        def augment(self, rng: Any, x: Any, y: Any) -> Any:
            return super().augment(rng, x, y)

    assert Own.augment is not DeclaredSymmetry.augment


def test_a_field_that_says_nothing_is_refused_by_name(field: Callable[..., Field], gain: Any) -> None:
    """Before training, with what to write."""
    family = gain(mirror(), [field((2,), Vector(), "push"), field((1,), None, "load")], [field((2,), Vector())])
    with pytest.raises(FamilyError, match=r"family 'gain': field 'load', group C2: it does not say.*write"):
        check_family(family)


def test_every_kind_is_told_in_words(field: Callable[..., Field], gain: Any) -> None:
    """What each generator does to each field, so that a wrong declaration can be seen."""
    sides = product(mirror("y", "left-right"), mirror("x", "front-back"))
    legs = Parts(
        parts=("LF", "RF", "LH", "RH"),
        cycles={"left-right": [("LF", "RF"), ("LH", "RH")], "front-back": [("LF", "LH"), ("RF", "RH")]},
        flips={"left-right": (0, 2, 4, 6)},
    )
    feet = Parts(cycles={"left-right": [(0, 1)], "front-back": []}, flips={"front-back": ()}, of=Vector())
    one = Parts(cycles={"left-right": [("b", "c")], "front-back": ()}, flips={"left-right": ("a", "b", "c")})
    fields = [
        field((8,), legs, "joints"),
        field((2, 2), feet, "feet"),
        field((3,), one, "arms", names=("a", "b", "c")),
        field((3,), Vector(), "gravity"),
        field((3,), Pseudovector(), "rates"),
        field((1,), Scalar(), "charge"),
    ]
    out = field((1,), Matrices(generators={"left-right": ((-1,),), "front-back": ((1,),)}), "odd")
    assert gain(sides, fields, [out]).symmetry_in_words() == (
        "left-right: LF ↔ RF, LH ↔ RH, the sign of joints[0], joints[2], joints[4], joints[6] changes, "
        "feet[0] ↔ feet[1] (each y → −y), b ↔ −c, a → −a, gravity y → −y, rates x → −x, rates z → −z, charge stays; "
        "of the outputs: odd by its own matrix",
        "front-back: LF ↔ LH, RF ↔ RH, feet (each x → −x), arms stay, gravity x → −x, rates y → −y, rates z → −z, "
        "charge stays; of the outputs: odd by its own matrix",
    )
    four = Parts(
        cycles={"turn": [("a", "b", "c", "d")], "mirror": [("b", "d")]},
        flips={"turn": ("a", "c"), "mirror": ("b", "d")},
    )
    beams = field((8,), Ring(of=Pseudoscalar()), "beams")
    family = gain(
        dihedral(4),
        [beams, field((2,), Vector(), "way")],
        [field((4,), Parts(cycles=four.cycles), names=tuple("abcd"))],
    )
    assert family.symmetry_in_words() == (
        "turn by 90°: beams shift by 2, way turns; of the outputs: a → b → c → d → a",
        "mirror: beams reverse (each → −each), way y → −y; of the outputs: b ↔ d",
    )
    ankles = field((4,), Parts(cycles={"turn": four.cycles["turn"]}, flips={"turn": ("a", "c")}), names=tuple("abcd"))
    assert gain(cyclic(4), [ankles], [ankles]).symmetry_in_words()[0].startswith("turn by 90°: a → −b → c → −d → a;")


def test_names_that_two_fields_share_are_told_apart(field: Callable[..., Field], gain: Any) -> None:
    """Positions and speeds of the same wheels: without the field's name, the line says one thing twice."""
    swap = Parts(cycles={"mirror": [("left", "right")]})
    angle, speed = (field((2,), swap, name, names=("left", "right")) for name in ("angle", "speed"))
    (line,) = gain(mirror(), [angle, speed], [speed]).symmetry_in_words()
    assert line == "mirror: left ↔ right (in angle), left ↔ right (in speed); of the outputs: left ↔ right"


@pytest.mark.parametrize("symmetry", [None, "mirror", mirror])
def test_what_is_no_group_is_refused_with_what_to_write(field: Callable[..., Field], gain: Any, symmetry: Any) -> None:
    """A symmetry that is missing, a name, or a function that was not called. A robot without one is told what to do."""
    family = gain(symmetry, [field((2,), Vector())], [field((2,), Vector())])
    with pytest.raises(FamilyError, match=r"'gain': symmetry is .*such as mirror.*none, leave out DeclaredSymmetry"):
        check_family(family)


def test_many_changes_are_counted(field: Callable[..., Field], gain: Any) -> None:
    """A field of thirty pairs does not fill the screen."""
    pairs = [(2 * i, 2 * i + 1) for i in range(30)]
    many = field((60,), Parts(cycles={"mirror": pairs}), "cells")
    (line,) = gain(mirror(), [many], [many]).symmetry_in_words()
    assert "cells[22] ↔ cells[23], 18 more of cells; of" in line


def test_a_mirror_may_lie_in_any_direction() -> None:
    """As that of a quadrotor whose arms make an X, seen from one of its arms."""
    diagonal = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    slanted = turns_about_vertical(np.array(0.3)) @ np.diag([1.0, -1.0, 1.0]) @ turns_about_vertical(np.array(-0.3))
    for mirror_matrix in (diagonal, slanted):
        group = generate("C2", Generator("diagonal", mirror_matrix))
        assert group.order == 2
        np.testing.assert_allclose(group.elements[1], mirror_matrix, atol=1e-12)
