"""Compare the fields and the control rate of a bundle with those of a robot, before the first action."""

import itertools
import math
from collections.abc import Iterator, Sequence

from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import ContractError
from msr_runtime.task import Field

_BOUND = 1e-6
"""Largest relative difference between bounds that count as equal. Pi is often written with fewer digits."""
_RATE = 0.01
"""Largest relative difference between rates that count as equal. A camera of 29.97 Hz counts as one of 30 Hz."""
_Pair = tuple[Field | None, Field | None]


def check_robot(bundle: Bundle, inputs: Sequence[Field], outputs: Sequence[Field], hz: float | None) -> None:
    """Compare what a bundle wants with what a robot has: field names, order, shapes, units, bounds and control rate.

    Kinds, turns (`wraps`), names of elements and representations of fields are compared where both say them.

    Args:
        bundle: An opened bundle. For a loaded model it is `model.bundle`.
        inputs: The robot's measurements, in the order in which the robot concatenates them.
        outputs: The robot's commands, in the order in which the robot splits the output vector.
        hz: How often the robot will call `predict`, in Hz. None means that the robot has no fixed rate. A bundle
            without a rate fits every robot.

    Raises:
        ContractError: If they differ. The message shows both lists side by side, marks each line that differs with `!`
            and names the likely causes.

    Example:
        >>> from msr_runtime import Bundle, Field, check_robot
        >>> beams = Field(name="proximity", shape=(16,), unit="1", low=0, high=1)
        >>> goal = Field(name="goal", shape=(2,), unit="m", low=-1, high=1)
        >>> velocity = Field(name="velocity", shape=(2,), unit="m/s", low=-1, high=1, kind="velocity")
        >>> check_robot(Bundle.open(bundle), inputs=[beams, goal], outputs=[velocity], hz=10)
    """
    manifest = bundle.manifest
    lines, causes = [], []
    for side, wanted, seen in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        rows = [(*pair, _differences(*pair)) for pair in _align(wanted, seen)]
        lines += [(side, "", ""), *((bool(found), _line(ours), _line(robots)) for ours, robots, found in rows)]
        if [field.name for field in wanted] != (names := [field.name for field in seen]) and sorted(names) == sorted(
            field.name for field in wanted
        ):
            causes.append(
                f"the robot has its {side} in another order, so the network would take one quantity for another: "
                "reorder the robot's vector"
            )
        else:
            causes += [cause for *_, found in rows for cause in found]
    if differ := not _same_rate(manifest.rate_hz, hz):
        causes.append(
            "the control loop does not run at the rate of the training simulation, so each action would be held too "
            "long or too short: run the loop at the bundle's rate"
        )
    lines += [("rate", "", ""), (differ, _rate(manifest.rate_hz, "any"), _rate(hz, "none"))]
    if causes:
        raise ContractError(
            f"bundle '{bundle.path}' ({manifest.name}) does not fit this robot\n{_table(lines)}\n"
            + "\n".join(f"likely cause: {cause}" for cause in dict.fromkeys(causes))
        )


def _align(wanted: Sequence[Field], seen: Sequence[Field]) -> Iterator[_Pair]:
    """Yield pairs of fields, one per line of the message. None stands where only one of the lists has the name.

    If both lists have the same names, they are paired by position, so that a wrong order shows.
    """
    ours, robots = ([field.name for field in side] for side in (wanted, seen))
    if sorted(ours) == sorted(robots):
        yield from zip(wanted, seen, strict=True)
        return
    import difflib  # a robot that fits does without

    for _, a, b, c, d in difflib.SequenceMatcher(None, ours, robots, autojunk=False).get_opcodes():
        yield from itertools.zip_longest(wanted[a:b], seen[c:d])


def _differences(wanted: Field | None, seen: Field | None) -> list[str]:
    """Return the likely causes of the differences between two fields; an empty list if there are none."""
    if wanted is None or seen is None:
        if wanted is not None:
            return [
                f"the robot has no '{wanted.name}': a sensor or joint is missing, or the bundle is newer than the "
                "robot's program"
            ]
        assert seen is not None
        return [f"the bundle has no '{seen.name}': leave it out of the robot's vector, or train with it"]
    if wanted.name != seen.name:
        return [
            f"'{wanted.name}' is called '{seen.name}' on the robot, or the two are different quantities: rename or "
            "reorder the robot's field"
        ]
    causes = []
    if wanted.shape != seen.shape:
        causes.append(
            f"'{wanted.name}' has another shape: the sensor model or the number of joints differs from the simulation"
        )
    if wanted.unit != seen.unit:
        causes.append(f"'{wanted.name}' is in {seen.unit} on the robot, but the bundle wants {wanted.unit}: convert it")
    elif not all(map(_same_bound, (wanted.low, wanted.high), (seen.low, seen.high))):
        causes.append(
            f"'{wanted.name}' has other bounds: the range setting, the unit or the sign differs; the network was "
            "trained only between the bundle's bounds"
        )
    if wanted.kind != seen.kind and "other" not in (wanted.kind, seen.kind):
        causes.append(
            f"'{wanted.name}' is a {seen.kind} on the robot, but the bundle wants a {wanted.kind}: the two are "
            "different quantities, or one of the programs gives the wrong kind"
        )
    if wanted.unit == seen.unit and None not in (wanted.wraps, seen.wraps) and wanted.wraps != seen.wraps:
        causes.append(
            f"'{wanted.name}' wraps after {seen.wraps} on the robot, but after {wanted.wraps} in the bundle: one full "
            "turn is 2 * math.pi rad or 360 deg"
        )
    if len(wanted.names) == len(seen.names) and wanted.names != seen.names:
        causes.append(_other_names(wanted, seen))
    ours, robots = wanted.representation, seen.representation
    if ours is not None and robots is not None and ours != robots:
        causes.append(
            f"a turn or a mirror acts on '{wanted.name}' as on a {robots.describe()} on the robot, but as on a "
            f"{ours.describe()} in the bundle: the axes or the parts stand in another order, or one of the programs "
            "gives the wrong representation"
        )
    return causes


def _other_names(wanted: Field, seen: Field) -> str:
    first = next(i for i, (ours, robots) in enumerate(zip(wanted.names, seen.names, strict=True)) if ours != robots)
    where = f"element {first} of '{wanted.name}' is '{seen.names[first]}' on the robot, but '{wanted.names[first]}'"
    if sorted(wanted.names) == sorted(seen.names):
        return f"{where} in the bundle: the robot has them in another order, so reorder its vector"
    return f"{where} in the bundle: the two are different joints or sensors, or one is named otherwise: rename it"


def _same_bound(wanted: float, seen: float) -> bool:
    return math.isclose(wanted, seen, rel_tol=_BOUND)


def _same_rate(wanted: float | None, seen: float | None) -> bool:
    return wanted is None or (seen is not None and math.isclose(wanted, seen, rel_tol=_RATE))


def _line(field: Field | None) -> str:
    return "-" if field is None else f"{field.name} {field.describe()}"


def _rate(hz: float | None, absent: str) -> str:
    return absent if hz is None else f"{hz:g} Hz"


def _table(lines: Sequence[tuple[str | bool, str, str]]) -> str:
    """Return the lines as text in three columns: the mark, what the bundle wants, what the robot has.

    A line whose mark is a string is a heading.
    """
    width = max(len(wanted) for _, wanted, _ in lines)
    rows = [f"  {'the bundle wants':<{width + 4}}  the robot has"]
    for mark, wanted, seen in lines:
        rows.append(f"  {mark}" if isinstance(mark, str) else f"  {'!' if mark else ' '}   {wanted:<{width}}  {seen}")
    return "\n".join(row.rstrip() for row in rows)
