"""A bundle for another robot is refused with both lists side by side, the difference marked and its cause named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msr_runtime import Bundle, BundleError, ContractError, Field, check_robot

Check = Callable[..., str]


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    """The linear reference's bundle: position (2,) m, angle (1,) rad, force (2,) N, 100 Hz."""
    return Bundle.open(bundle_path)


@pytest.fixture
def refused(bundle: Bundle, linear: Any) -> Check:
    """A function that says why a robot with other inputs, outputs or rate is refused."""

    def why(inputs: tuple | None = None, outputs: tuple | None = None, hz: float | None = 100.0) -> str:
        manifest = linear.manifest()
        with pytest.raises(ContractError) as refusal:
            check_robot(bundle, inputs or manifest.inputs, outputs or manifest.outputs, hz)
        return str(refusal.value)

    return why


def marked(message: str) -> list[str]:
    """The marked lines, one blank between any two words."""
    return [" ".join(line.split()[1:]) for line in message.splitlines() if line.startswith("  !")]


def changed(field: Field, **values: object) -> Field:
    """A field with other values."""
    return Field.model_validate(field.model_dump() | values)


def test_a_robot_that_fits_passes(bundle: Bundle, linear: Any) -> None:
    """Exactly, or with bounds and a rate that differ by rounding."""
    position, angle = linear.manifest().inputs
    check_robot(bundle, (position, angle), linear.manifest().outputs, 100)
    rounded = changed(angle, low=-3.1415927, high=3.1415927)
    check_robot(bundle, [position, rounded], list(linear.manifest().outputs), 99.9)


def test_a_bundle_without_a_rate_fits_any(write: Callable[..., Path], linear: Any) -> None:
    """Data without time has no rate to compare."""
    bundle = Bundle.open(write(rate_hz=None))
    for hz in (None, 30.0):
        check_robot(bundle, linear.manifest().inputs, linear.manifest().outputs, hz)


def test_both_lists_stand_side_by_side(refused: Check, linear: Any) -> None:
    """Every field of both sides is shown in its place, and only the one that differs is marked."""
    position, angle = linear.manifest().inputs
    message = refused((position, changed(angle, unit="deg")))
    lines = [line for line in message.splitlines() if "position" in line or "angle (" in line]
    assert [line.split()[0] for line in lines] == ["position", "!"]
    assert lines[0].count("position (2,) m, -inf to inf") == 2
    columns = [line.index("angle", 20) if "angle" in line[20:] else line.index("position", 20) for line in lines]
    assert len(set(columns)) == 1
    assert marked(message) == ["angle (1,) rad, -3.14159 to 3.14159 angle (1,) deg, -3.14159 to 3.14159"]
    assert "likely cause: 'angle' comes in deg and is wanted in rad: convert it" in message


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"shape": (3,)}, "'position' has another shape"),
        ({"low": -1.0, "high": 1.0}, "'position' has other bounds"),
        ({"low": -1e9}, "'position' has other bounds"),
        ({"unit": "mm", "low": -1.0}, "'position' comes in mm and is wanted in m"),
        ({"name": "place"}, "'position' is called 'place' on the robot"),
    ],
)
def test_what_differs_is_named_with_its_cause(refused: Check, linear: Any, values: dict, cause: str) -> None:
    """Shape, bounds, unit and name, each with what is likely behind it."""
    position, angle = linear.manifest().inputs
    message = refused((changed(position, **values), angle))
    assert len(marked(message)) == 1
    assert message.count("likely cause") == 1
    assert f"likely cause: {cause}" in message


def test_another_order_is_one_cause(refused: Check, linear: Any) -> None:
    """The same fields in other places mark each place, and are one mistake."""
    message = refused(linear.manifest().inputs[::-1])
    assert len(marked(message)) == 2
    assert message.count("likely cause") == 1
    assert "orders its inputs otherwise" in message


def test_a_missing_and_an_unknown_field_leave_the_others_in_line(refused: Check, linear: Any) -> None:
    """A field on one side only stands against a gap, and those after it are not marked."""
    position, angle = linear.manifest().inputs
    assert marked(refused((angle,))) == ["position (2,) m, -inf to inf -"]
    extra = Field(name="current", shape=(1,), unit="A", low=0, high=9)
    message = refused((extra, position, angle))
    assert marked(message) == ["- current (1,) A, 0 to 9"]
    assert "the bundle knows no 'current'" in message


def test_outputs_are_compared_too(refused: Check, linear: Any) -> None:
    """A command in other bounds is as wrong as a measurement."""
    (force,) = linear.manifest().outputs
    assert marked(refused(outputs=(changed(force, high=5.0),))) == ["force (2,) N, -10 to 10 force (2,) N, -10 to 5"]


@pytest.mark.parametrize(("hz", "shown"), [(50.0, "50 Hz"), (102.0, "102 Hz"), (None, "none")])
def test_another_rate_is_refused(refused: Check, hz: float | None, shown: str) -> None:
    """A network trained at 100 Hz does not run at half of it, nor at an unknown rate."""
    message = refused(hz=hz)
    assert marked(message) == [f"100 Hz {shown}"]
    assert "rate" in message.split("likely cause:")[1]


def test_every_difference_is_shown_at_once(refused: Check, linear: Any) -> None:
    """Inputs, outputs and rate are all compared before the error is raised, which is a bundle's error."""
    (force,) = linear.manifest().outputs
    message = refused(linear.manifest().inputs[::-1], (changed(force, unit="kN"),), 10.0)
    assert len(marked(message)) == 4
    assert message.count("likely cause") == 3
    assert issubclass(ContractError, BundleError)
