"""What is wrong or odd in the numbers of a log, though every file can be read.

What is surely wrong is refused. What may be wrong, such as another unit or a sensor's fault code, is a note, which
`msr train` prints.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from msr_envs.logs.drives import Drive
from msr_envs.logs.samples import Samples
from msr_runtime.errors import FamilyError
from msr_runtime.task import Array, Field, Split, field_slices

_SLOW = 1.0
"""From this usual step on, in s, the time may be in ms."""
_RATES = 1.2
"""Drives whose usual steps are that many times apart were not recorded at one rate."""
_FAR = 1000.0
"""A value that lies so many times farther from the median than 99 % of the values is named."""
_SIZES = 30.0
"""Drives whose root mean squares are that many times apart may have other units: degrees and radians are 57 apart."""


def require_changing(family: str, kept: Sequence[Samples], outputs: Sequence[Field]) -> None:
    """Refuse a log of which no output ever changes.

    Raises:
        FamilyError: y is the same in every sample.
    """
    first = kept[0].y[:1]
    if all((samples.y == first).all() for samples in kept):
        names = ", ".join(f"'{field.name}'" for field in outputs)
        raise FamilyError(
            f"family '{family}': y ({names}) is {first[0].tolist()} in every sample, so there is nothing to learn; the "
            "likely cause is a sensor that was off, or another column: name the one that is to be predicted (outputs)"
        )


def require_apart(family: str, kept: Sequence[Samples], splits: Mapping[str, Split]) -> None:
    """Refuse two drives with the same samples in two splits: the network would be tested on what it learned.

    Args:
        family: The family's name, for messages.
        kept: The samples of each drive.
        splits: The split of each task.

    Raises:
        FamilyError: There are two such drives.

    """
    first: dict[bytes, Drive] = {}
    for samples in kept:
        drive = samples.drive
        twin = first.setdefault(hashlib.sha256(samples.x.tobytes() + samples.y.tobytes()).digest(), drive)
        here, there = splits.get(drive.task), splits.get(twin.task)
        if here and there and here != there:
            raise FamilyError(
                f"family '{family}': drives '{twin.name}' ({there}) and '{drive.name}' ({here}) hold the same samples, "
                "but splits must share none; the likely cause is a copy of a file: leave one out (files), or put both "
                "into one split (split)"
            )


def odd_times(read: Sequence[Samples]) -> Iterator[str]:
    """Yield a sentence for each thing that is odd in the times of the drives."""
    if back := [samples for samples in read if samples.back]:
        worst = max(back, key=lambda samples: samples.back)
        yield (
            f"the time goes back, or stands still, at {sum(samples.back for samples in back)} rows of {len(back)} "
            f"drives, most in '{worst.drive.name}' ({worst.back}); sort the rows by time, and delete those that stand "
            "twice"
        )
    steps = sorted((samples.step, samples.drive.name) for samples in read if samples.step is not None)
    if steps and (usual := float(np.median([step for step, _ in steps]))) >= _SLOW:
        yield (
            f"the time moves by {usual:g} s in its usual step, which is a rate of {1 / usual:.4g} Hz; if it is in ms "
            "or µs, write a column in s, or leave out time and give rate_hz"
        )
    if steps and steps[-1][0] > _RATES * steps[0][0]:
        yield (
            f"the drives have different rates, from {1 / steps[-1][0]:.4g} Hz in '{steps[-1][1]}' to "
            f"{1 / steps[0][0]:.4g} Hz in '{steps[0][1]}', but one network runs at one rate; bring them to one rate, "
            "or leave some out (files)"
        )


def odd_values(kept: Sequence[Samples], inputs: Sequence[Field], outputs: Sequence[Field]) -> Iterator[str]:
    """Yield a sentence for each field of which some values lie far out, which is far larger in some drives, or of
    which x holds what y asks for.
    """
    names = [samples.drive.name for samples in kept]
    for i, answer in enumerate(_numbers(outputs)):
        for j, given in enumerate(_numbers(inputs)):
            if all(np.array_equal(samples.x[:, j], samples.y[:, i]) for samples in kept):
                yield (
                    f"{answer} of y is {given} of x in every sample, so there is nothing to learn about it; predict "
                    "further ahead (horizon), let y be the change (difference), or take the column out of x"
                )
    for fields, sides in ((inputs, [samples.x for samples in kept]), (outputs, [samples.y for samples in kept])):
        for field, part in zip(fields, field_slices(fields).values(), strict=True):
            drives = [side[:, part] for side in sides]
            yield from _far_out(field, names, drives) or _apart(field, names, drives)


def _numbers(fields: Sequence[Field]) -> list[str]:
    """Return the name of each number of a sample."""
    return [
        f"field '{field.name}'" + (f" element {element}" if field.size > 1 else "")
        for field in fields
        for element in range(field.size)
    ]


def _far_out(field: Field, names: Sequence[str], drives: Sequence[Array]) -> list[str]:
    whole = np.concatenate(drives)
    middle = np.median(whole, 0)
    usual = np.percentile(np.abs(whole - middle), 99, axis=0)
    far = [(np.abs(values - middle) / _FAR > usual) & (usual > 0) for values in drives]
    if not (count := sum(int(each.any(1).sum()) for each in far)):
        return []
    index = next(i for i, each in enumerate(far) if each.any())
    return [
        f"field '{field.name}' holds {drives[index][far[index]][0]:.4g} {field.unit} in drive '{names[index]}', more "
        f"than {_FAR:g} times as far out as 99 % of its values, and so in {count} samples; the likely cause is the "
        "code that a sensor gives for a fault: leave these cells empty"
    ]


def _apart(field: Field, names: Sequence[str], drives: Sequence[Array]) -> list[str]:
    sizes = np.array([np.sqrt(np.mean(values.astype(np.float64) ** 2)) for values in drives])
    least, most = int(np.where(sizes > 0, sizes, np.inf).argmin()), int(sizes.argmax())
    if sizes[most] <= _SIZES * sizes[least]:
        return []
    return [
        f"field '{field.name}' is {sizes[most] / sizes[least]:.3g} times as large in drive '{names[most]}' as in "
        f"'{names[least]}'; the likely cause is another unit, or a robot that stood still: bring the drives to one "
        "unit, or leave some out (files)"
    ]
