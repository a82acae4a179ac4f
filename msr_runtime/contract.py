"""Does a bundle fit this robot? Fields and rate compared by name, before the first action."""

import difflib
import itertools
import math
from collections.abc import Iterator, Sequence

from msr_runtime.bundle import Bundle
from msr_runtime.errors import ContractError
from msr_runtime.task import Field

_BOUND = 1e-6
"""Bounds that differ by less than this share of the larger one are the same: pi has many spellings."""
_RATE = 0.01
"""Rates that differ by less than this share are the same: a 29.97 Hz camera is one of 30 Hz."""
_Pair = tuple[Field | None, Field | None]


def check_robot(bundle: Bundle, inputs: Sequence[Field], outputs: Sequence[Field], hz: float | None) -> None:
    """Compare what a bundle wants with what a robot says that it has: names, order, shapes, units, bounds and rate.

    Args:
        bundle: An opened bundle; a model's is `model.bundle`.
        inputs: What the robot measures, in the order in which it concatenates it.
        outputs: What the robot is commanded by, in the order in which it takes the vector apart.
        hz: How often the robot will call `predict`, in Hz; None if it has no rate. A bundle without a rate fits any.

    Raises:
        ContractError: If they differ. It shows both lists side by side, the lines that differ marked `!`, and why.
    """
    manifest = bundle.manifest
    lines, causes = [], []
    for side, wanted, seen in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        rows = [(*pair, _differences(*pair)) for pair in _align(wanted, seen)]
        lines += [(side, "", ""), *((bool(found), _line(ours), _line(robots)) for ours, robots, found in rows)]
        if [field.name for field in wanted] != (names := [field.name for field in seen]) and sorted(names) == sorted(
            field.name for field in wanted
        ):
            causes.append(f"the robot orders its {side} otherwise: the numbers would land in each other's places")
        else:
            causes += [cause for *_, found in rows for cause in found]
    if differ := not _same_rate(manifest.rate_hz, hz):
        causes.append(
            "the loop runs at another rate than the simulation that the network was trained in: its actions would be "
            "held too long or too short"
        )
    lines += [("rate", "", ""), (differ, _rate(manifest.rate_hz, "any"), _rate(hz, "none"))]
    if causes:
        raise ContractError(
            f"bundle '{bundle.path}' ({manifest.name}) does not fit this robot\n{_table(lines)}\n"
            + "\n".join(f"likely cause: {cause}" for cause in dict.fromkeys(causes))
        )


def _align(wanted: Sequence[Field], seen: Sequence[Field]) -> Iterator[_Pair]:
    """Both lists in order, with a gap where a name is on one of them only; place by place if the names are the same."""
    ours, robots = ([field.name for field in side] for side in (wanted, seen))
    if sorted(ours) == sorted(robots):
        yield from zip(wanted, seen, strict=True)
        return
    for _, a, b, c, d in difflib.SequenceMatcher(None, ours, robots, autojunk=False).get_opcodes():
        yield from itertools.zip_longest(wanted[a:b], seen[c:d])


def _differences(wanted: Field | None, seen: Field | None) -> list[str]:
    """The likely cause of each way in which two fields differ."""
    if wanted is None or seen is None:
        if wanted is not None:
            return [f"the robot has no '{wanted.name}': a sensor or joint is missing, or a newer bundle wants more"]
        assert seen is not None
        return [f"the bundle knows no '{seen.name}': leave it out of the vector, or train with it"]
    if wanted.name != seen.name:
        return [f"'{wanted.name}' is called '{seen.name}' on the robot, or is something else: rename or reorder it"]
    causes = []
    if wanted.shape != seen.shape:
        causes.append(f"'{wanted.name}' has another shape: another sensor model or number of joints than in simulation")
    if wanted.unit != seen.unit:
        causes.append(f"'{wanted.name}' comes in {seen.unit} and is wanted in {wanted.unit}: convert it")
    elif not all(map(_same_bound, (wanted.low, wanted.high), (seen.low, seen.high))):
        causes.append(
            f"'{wanted.name}' has other bounds: another range setting, or a unit or sign that differs; the network was "
            "trained between its own"
        )
    return causes


def _same_bound(wanted: float, seen: float) -> bool:
    return math.isclose(wanted, seen, rel_tol=_BOUND)


def _same_rate(wanted: float | None, seen: float | None) -> bool:
    return wanted is None or (seen is not None and math.isclose(wanted, seen, rel_tol=_RATE))


def _line(field: Field | None) -> str:
    return "-" if field is None else f"{field.name} {field.shape} {field.unit}, {field.low:g} to {field.high:g}"


def _rate(hz: float | None, absent: str) -> str:
    return absent if hz is None else f"{hz:g} Hz"


def _table(lines: Sequence[tuple[str | bool, str, str]]) -> str:
    """Three columns: a mark or, flush left, the name of a part; what the bundle wants; what the robot has."""
    width = max(len(wanted) for _, wanted, _ in lines)
    rows = [f"  {'the bundle wants':<{width + 4}}  the robot has"]
    for mark, wanted, seen in lines:
        rows.append(f"  {mark}" if isinstance(mark, str) else f"  {'!' if mark else ' '}   {wanted:<{width}}  {seen}")
    return "\n".join(row.rstrip() for row in rows)
