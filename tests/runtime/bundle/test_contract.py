"""A bundle for another robot is refused. The error shows both lists, marks the differences and names the causes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msr_runtime import Bundle, BundleError, ContractError, Field, check_robot
from msr_runtime.representation import Angle, Vector

Check = Callable[..., str]


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    """The linear reference's bundle: position (2,) m, angle (1,) rad, force (2,) N, 100 Hz."""
    return Bundle.open(bundle_path)


@pytest.fixture
def refused(bundle: Bundle, linear: Any) -> Check:
    """A function that returns the error message for a robot with other inputs, outputs or rate."""

    def why(inputs: tuple | None = None, outputs: tuple | None = None, hz: float | None = 100.0) -> str:
        manifest = linear.manifest()
        with pytest.raises(ContractError) as refusal:
            check_robot(bundle, inputs or manifest.inputs, outputs or manifest.outputs, hz)
        return str(refusal.value)

    return why


def marked(message: str) -> list[str]:
    """The lines marked `!`, with single spaces between words."""
    return [" ".join(line.split()[1:]) for line in message.splitlines() if line.startswith("  !")]


def changed(field: Field, **values: object) -> Field:
    """A field with other values."""
    return Field.model_validate(field.model_dump() | values)


def test_a_robot_that_fits_passes(bundle: Bundle, linear: Any) -> None:
    """Equal fields and rate pass. So do bounds and a rate that differ only by rounding."""
    position, angle = linear.manifest().inputs
    check_robot(bundle, (position, angle), linear.manifest().outputs, 100)
    rounded = changed(angle, low=-3.1415927, high=3.1415927)
    check_robot(bundle, [position, rounded], list(linear.manifest().outputs), 99.9)


def test_a_bundle_without_a_rate_fits_any(write: Callable[..., Path], linear: Any) -> None:
    """A bundle that was trained on data without a rate is not compared by rate."""
    bundle = Bundle.open(write(rate_hz=None))
    for hz in (None, 30.0):
        check_robot(bundle, linear.manifest().inputs, linear.manifest().outputs, hz)


def test_both_lists_stand_side_by_side(refused: Check, linear: Any) -> None:
    """Each field of both lists is shown on one line, and only the field that differs is marked."""
    position, angle = linear.manifest().inputs
    message = refused((position, changed(angle, unit="deg")))
    lines = [line for line in message.splitlines() if "position" in line or "angle (" in line]
    assert [line.split()[0] for line in lines] == ["position", "!"]
    assert lines[0].count("position (2,) m, -inf to inf") == 2
    columns = [line.index("angle", 20) if "angle" in line[20:] else line.index("position", 20) for line in lines]
    assert len(set(columns)) == 1
    assert marked(message) == ["angle (1,) rad, -3.14159 to 3.14159 angle (1,) deg, -3.14159 to 3.14159"]
    assert "likely cause: 'angle' is in deg on the robot, but the bundle wants rad: convert it" in message


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"shape": (3,)}, "'position' has another shape"),
        ({"low": -1.0, "high": 1.0}, "'position' has other bounds"),
        ({"low": -1e9}, "'position' has other bounds"),
        ({"unit": "mm", "low": -1.0}, "'position' is in mm on the robot, but the bundle wants m"),
        ({"name": "place"}, "'position' is called 'place' on the robot"),
    ],
)
def test_what_differs_is_named_with_its_cause(refused: Check, linear: Any, values: dict, cause: str) -> None:
    """A wrong shape, bound, unit or name is reported with its likely cause."""
    position, angle = linear.manifest().inputs
    message = refused((changed(position, **values), angle))
    assert len(marked(message)) == 1
    assert message.count("likely cause") == 1
    assert f"likely cause: {cause}" in message


def test_another_order_is_one_cause(refused: Check, linear: Any) -> None:
    """If the same fields stand in another order, each wrong line is marked, but only one cause is named."""
    message = refused(linear.manifest().inputs[::-1])
    assert len(marked(message)) == 2
    assert message.count("likely cause") == 1
    assert "the robot has its inputs in another order" in message
    assert "reorder the robot's vector" in message


def test_a_missing_and_an_unknown_field_leave_the_others_in_line(refused: Check, linear: Any) -> None:
    """A field that only one list has is shown beside a gap. The fields after it are not marked."""
    position, angle = linear.manifest().inputs
    assert marked(refused((angle,))) == ["position (2,) m, -inf to inf -"]
    extra = Field(name="current", shape=(1,), unit="A", low=0, high=9)
    message = refused((extra, position, angle))
    assert marked(message) == ["- current (1,) A, 0 to 9"]
    assert "the bundle has no 'current': leave it out" in message


def test_outputs_are_compared_too(refused: Check, linear: Any) -> None:
    """Output fields are checked like input fields."""
    (force,) = linear.manifest().outputs
    assert marked(refused(outputs=(changed(force, high=5.0),))) == ["force (2,) N, -10 to 10 force (2,) N, -10 to 5"]


@pytest.mark.parametrize(("hz", "shown"), [(50.0, "50 Hz"), (102.0, "102 Hz"), (None, "none")])
def test_another_rate_is_refused(refused: Check, hz: float | None, shown: str) -> None:
    """A network trained for 100 Hz is refused at half that rate, at a rate 2 % higher, and at an unknown rate."""
    message = refused(hz=hz)
    assert marked(message) == [f"100 Hz {shown}"]
    assert "rate" in message.split("likely cause:")[1]


def test_every_difference_is_shown_at_once(refused: Check, linear: Any) -> None:
    """Inputs, outputs and rate are all compared before the error is raised. ContractError is a BundleError."""
    (force,) = linear.manifest().outputs
    message = refused(linear.manifest().inputs[::-1], (changed(force, unit="kN"),), 10.0)
    assert len(marked(message)) == 4
    assert message.count("likely cause") == 3
    assert issubclass(ContractError, BundleError)


@pytest.mark.parametrize(
    ("robots", "bundles", "cause"),
    [
        (
            {"kind": "velocity"},
            {"kind": "position"},
            "'angle' is a velocity on the robot, but the bundle wants a position",
        ),
        ({"wraps": 6.0}, {"wraps": 5.0}, "'angle' wraps after 6.0 on the robot, but after 5.0 in the bundle"),
    ],
)
def test_kinds_and_turns_are_compared_where_both_say_them(
    write: Callable[..., Path], linear: Any, robots: dict, bundles: dict, cause: str
) -> None:
    """A bundle of an older format says neither: it fits a robot that does, and the other way round."""
    position, angle = linear.manifest().inputs
    outputs = linear.manifest().outputs
    said = Bundle.open(write(inputs=(position, changed(angle, **bundles))))
    check_robot(said, (position, changed(angle, **bundles)), outputs, 100)
    check_robot(said, (position, angle), outputs, 100)
    with pytest.raises(ContractError, match=cause) as refusal:
        check_robot(said, (position, changed(angle, **robots)), outputs, 100)
    assert len(marked(str(refusal.value))) == 1


@pytest.mark.parametrize(
    ("robots", "bundles", "cause"),
    [
        (
            {"names": ("b", "a")},
            {"names": ("a", "b")},
            "0 of 'position' is 'b' on the robot, but 'a' in.*another order",
        ),
        ({"names": ("a", "c")}, {"names": ("a", "b")}, "1 of 'position' is 'c' on the robot, but 'b' in.*rename it"),
        (
            {"representation": Vector(axes="yx")},
            {"representation": Vector()},
            "as on a vector yx on the robot, but as on a vector in the bundle: the axes",
        ),
    ],
)
def test_the_elements_are_compared_where_both_name_them(
    write: Callable[..., Path], linear: Any, robots: dict, bundles: dict, cause: str
) -> None:
    """Joints in another order are seen, and axes in another order. Who says nothing is not refused."""
    (position, angle), outputs = linear.manifest().inputs, linear.manifest().outputs
    said = Bundle.open(write(inputs=(changed(position, **bundles), angle)))
    check_robot(said, (changed(position, **bundles), angle), outputs, 100)
    check_robot(said, (position, angle), outputs, 100)
    with pytest.raises(ContractError, match=cause) as refusal:
        check_robot(said, (changed(position, **robots), angle), outputs, 100)
    assert len(marked(str(refusal.value))) == 1


def test_an_older_bundle_says_no_kind(bundle: Bundle, linear: Any) -> None:
    """A robot may say more than its bundle."""
    position, angle = linear.manifest().inputs
    more = changed(angle, kind="position", wraps=6.0, names=("heading",), representation=Angle())
    check_robot(bundle, (position, more), linear.manifest().outputs, 100)
