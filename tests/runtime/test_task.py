"""Fields: what they say of their numbers, what is refused, and when two lists describe the same vector."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from msr_runtime import Field
from msr_runtime.representation import Angle, Scalar
from msr_runtime.task import channels_last, fields_agree, image_layout

HEADING: dict[str, Any] = {"name": "heading", "shape": (1,), "unit": "rad", "low": -math.pi, "high": math.pi}


def test_a_field_says_what_it_is() -> None:
    """Kind and turn are told where they are said, and read back from JSON."""
    plain = Field(**HEADING)
    said = Field(**HEADING, kind="position", wraps=2 * math.pi)
    assert (plain.kind, plain.wraps) == ("other", None)
    assert plain.describe() == "(1,) rad, -3.14159 to 3.14159"
    assert said.describe() == "(1,) rad, -3.14159 to 3.14159, position, wraps after 6.28319"
    joints = Field(name="joints", shape=(5,), unit="rad", low=-1, high=1, names=tuple("abcde"))
    assert joints.describe() == "(5,) rad [a, b, c, …], -1 to 1"
    assert Field.model_validate_json(said.model_dump_json()) == said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "speed"}, "'position', 'velocity', 'effort' or 'other'"),
        ({"wraps": 0.0}, "wraps is 0.0"),
        ({"wraps": math.nan}, "wraps is nan"),
        ({"wraps": 360.0}, "the bounds at least one turn apart"),
        ({"wraps": 2 * math.pi, "high": 3.14159}, "write pi as math.pi"),
        ({"names": ("a", "b")}, "names are a, b, but each of its 1 elements needs one name of its own"),
        ({"names": ("a", "a"), "shape": (2,)}, "each of its 2 elements"),
        ({"representation": "vectors"}, "does not match any of the expected tags: 'scalar', 'pseudoscalar', 'vector'"),
        ({"representation": {"kind": "vector", "axis": "xy"}}, "Extra inputs"),
    ],
)
def test_what_a_field_cannot_be_is_refused(more: dict, message: str) -> None:
    """An unknown word, and a turn that the bounds do not hold."""
    with pytest.raises(ValidationError, match=message):
        Field.model_validate(HEADING | more)


def test_fields_agree_where_both_say_something() -> None:
    """A file of before says no kind. It agrees with one that does; two that differ in what they say do not agree."""
    said: tuple[dict[str, Any], ...] = ({}, {"kind": "position"}, {"kind": "velocity"})
    plain, position, velocity = (Field.model_validate(HEADING | more) for more in said)
    turned = Field(**HEADING, wraps=6.0)
    assert fields_agree((plain, position), (velocity, turned))
    assert not fields_agree((position,), (velocity,))
    assert not fields_agree((turned,), (Field(**HEADING, wraps=5.0),))
    assert not fields_agree((plain,), (Field.model_validate(HEADING | {"unit": "deg"}),))
    assert not fields_agree((plain,), (plain, plain))
    named, other = (Field(**HEADING, names=(name,)) for name in "ab")
    assert fields_agree((plain, named), (named, named))
    assert not fields_agree((named,), (other,))
    angle, scalar = (Field(**HEADING, representation=kind) for kind in (Angle(), Scalar()))
    assert fields_agree((plain, angle), (angle, angle))
    assert not fields_agree((angle,), (scalar,))


@pytest.mark.parametrize(
    ("shape", "last"), [((8, 8, 3), True), ((480, 640, 4), True), ((3, 8, 8), False), ((16, 4, 4), False)]
)
def test_an_image_says_how_it_is_read(shape: tuple[int, ...], last: bool) -> None:
    """Channels come first. Where they seem to come last, the text says how to move them."""
    image = Field(name="image", shape=shape, unit="1", low=0, high=1)
    assert channels_last(shape) is last
    layout = image_layout([image])
    assert layout is not None
    assert layout.startswith(f"{shape} is read as {shape[0]} channels of {shape[1]} x {shape[2]}")
    assert ("move them first: np.moveaxis(image, -1, -3)" in layout) is last
    assert image_layout([image, Field(**HEADING)]) is None  # several fields are one vector
