"""What a declared group does, in words: one line per generator, so that a wrong declaration can be seen."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from msr_envs.symmetry.group import Generator, SymmetryGroup, yaw_of
from msr_envs.symmetry.matrices import ring_places, spatial_matrices
from msr_runtime.representation import Angle, Inner, Matrices, Parts, Pseudovector, Ring, Scalar, Shape, Vector
from msr_runtime.task import Field

_SHOWN = 12
"""So many changes of one field are named; their count stands for the others."""
_TOLERANCE = 1e-6


def describe_symmetry(
    group: SymmetryGroup, inputs: Sequence[Field], outputs: Sequence[Field], freely: bool = False
) -> tuple[str, ...]:
    """Return a line for each generator of the group: what it does to each field.

    Args:
        group: The group.
        inputs: The fields of x. What they say fits the group.
        outputs: The fields of y, likewise.
        freely: Whether `augment` turns by any angle.

    Example:
        >>> from msr_envs.symmetry import Ring, Vector, cyclic, describe_symmetry
        >>> from msr_runtime.task import Field
        >>> velocity = Field(name="velocity", shape=(2,), unit="m/s", low=-1, high=1, representation=Vector())
        >>> commands = Field(name="commands", shape=(6,), unit="1", low=-1, high=1, representation=Ring())
        >>> describe_symmetry(cyclic(6), [velocity, commands], [velocity])
        ('turn by 60°: velocity turns, commands shift by 1; of the outputs: velocity turns',)

    """
    lines = []
    for generator in group.generators:
        free = freely and yaw_of(generator.matrix) is not None
        name = f"{generator.name} by any angle (sampled: {generator})" if free else str(generator)
        lines.append(f"{name}: {'; of the outputs: '.join(_side(fields, generator) for fields in (inputs, outputs))}")
    return tuple(lines)


def _side(fields: Sequence[Field], generator: Generator) -> str:
    said = [(field.name, _phrases(field, generator)) for field in fields]
    known = Counter(phrase for _, phrases in said for phrase in phrases)
    # The names of joints stand in positions and in torques: say of which field a phrase is that two fields share.
    return ", ".join(
        ", ".join(phrases) + (f" (in {name})" if any(known[phrase] > 1 for phrase in phrases) else "")
        for name, phrases in said
        if phrases
    )


def _phrases(field: Field, generator: Generator) -> list[str]:
    given = field.representation
    if given is None:
        return []
    if isinstance(given, Matrices):
        return [f"{field.name} by its own matrix"]
    if isinstance(given, Parts):
        phrases = _parts(given, field, generator)
    elif isinstance(given, Ring):
        phrases = _ring(given, field, generator)
    else:
        phrases = _spatial(given, field.name, field.shape, generator)
    return phrases or [f"{field.name} {_verb(field.name, 'stay')}"]


def _spatial(kind: Inner | Angle, name: str, shape: Shape, generator: Generator) -> list[str]:
    """What happens to numbers that stay in their place. Empty if nothing does."""
    mirrored = np.linalg.det(generator.matrix) < 0
    if not isinstance(kind, Vector | Pseudovector):
        return [f"{name} → −{name}"] if mirrored and not isinstance(kind, Scalar) else []
    axes = kind.frame(shape)
    block = spatial_matrices(kind, (len(axes),), generator.matrix[None])[0]
    signs = np.diag(block)
    if np.abs(block - np.diag(signs)).max() > _TOLERANCE:
        return [f"{name} {_verb(name, 'turn')}" + (" and is mirrored" if mirrored else "")]
    return [f"{name} {'xyz'[axis]} → −{'xyz'[axis]}" for (axis, _), sign in zip(axes, signs, strict=True) if sign < 0]


def _ring(given: Ring, field: Field, generator: Generator) -> list[str]:
    places = ring_places(given, field.shape[0], generator.matrix, generator.name)
    inner = _each(_spatial(given.of, "each", field.shape[1:], generator))
    if np.linalg.det(generator.matrix) < 0:
        return [f"{field.name} {_verb(field.name, 'reverse')}{inner}"]
    return [f"{field.name} {_verb(field.name, 'shift')} by {places[0]}{inner}"] if places[0] else []


def _parts(given: Parts, field: Field, generator: Generator) -> list[str]:
    names = given.part_names(field.shape, field.names)
    moves = given.moves(generator.name, field.shape, field.names)
    flipped = given.flipped(generator.name, field.shape, field.names)
    single = math.prod(given.one(field.shape)) == 1

    def named(part: int, sign: bool = False) -> str:
        return ("−" if sign else "") + (names[part] if names else f"{field.name}[{part}]")

    phrases, left = [], dict(moves)
    while left:
        start = min(left)
        cycle = [start]
        while (after := left.pop(cycle[-1])) != start:
            cycle.append(after)
        signs = [single and part in flipped for part in cycle]
        if len(cycle) == 2 and signs[0] == signs[1]:
            phrases.append(f"{named(start)} ↔ {named(cycle[1], signs[1])}")
        elif len(cycle) > 1:
            phrases.append(" → ".join([named(start), *map(named, [*cycle[1:], start], signs)]))
    if single:
        phrases += [f"{named(part)} → −{named(part)}" for part in sorted(flipped) if moves.get(part, part) == part]
    elif flipped:
        numbers = [field.names[i] if field.names else f"{field.name}[{i}]" for i in sorted(flipped)]
        phrases.append(f"the sign of {', '.join(numbers)} changes")
    if len(phrases) > _SHOWN:
        phrases = [*phrases[:_SHOWN], f"{len(phrases) - _SHOWN} more of {field.name}"]
    inner = _spatial(given.of, "each", given.one(field.shape), generator)
    return [*phrases[:-1], phrases[-1] + _each(inner)] if phrases else [f"{field.name}{_each(inner)}"] * bool(inner)


def _each(phrases: list[str]) -> str:
    return f" ({', '.join(phrases)})" if phrases else ""


def _verb(name: str, verb: str) -> str:
    return verb if name.endswith("s") and not name.endswith("ss") else f"{verb}s"
