"""Which task belongs to which split. The same names always give the same splits."""

import hashlib
from collections.abc import Sequence

from msr_envs.logs.columns import matching, near
from msr_envs.logs.description import LogSplit
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Split


def divide(family: str, names: Sequence[str], said: LogSplit) -> dict[Split, list[int]]:
    """Return the numbers of the tasks of each split. No task is in two.

    Shares are drawn by a digest of the names. So a further task moves few of the others to another split.

    Args:
        family: The family's name, for messages.
        names: The names of the tasks.
        said: What the description says.

    Raises:
        FamilyError: There are too few tasks, a pattern matches none, or two splits claim one.

    """
    if len(names) < len(SPLITS):
        raise FamilyError(
            f"family '{family}': there are {len(names)} tasks, {', '.join(names)}, but each of {', '.join(SPLITS)} "
            "needs at least one; record more drives, or name the column that tells drives apart (drive)"
        )
    taken: dict[int, Split] = {}
    for split in SPLITS:
        patterns = getattr(said, split)
        if isinstance(patterns, tuple):
            for index in _named(family, names, split, patterns):
                if taken.setdefault(index, split) != split:
                    raise FamilyError(
                        f"family '{family}': split names the task '{names[index]}' for {taken[index]} and for {split}, "
                        "but a task belongs to one split; correct a pattern"
                    )
    left = sorted((index for index in range(len(names)) if index not in taken), key=lambda i: _digest(names[i]))
    shares: dict[Split, float] = {split: share for split in SPLITS if isinstance(share := getattr(said, split), float)}
    for split, share in shares.items():
        count = max(1, round(share * len(names)))
        taken |= dict.fromkeys(left[:count], split)
        left = left[count:]
    if said.train is None:
        taken |= dict.fromkeys(left, "train")
    divided: dict[Split, list[int]] = {
        split: [index for index in range(len(names)) if taken.get(index) == split] for split in SPLITS
    }
    for split, members in divided.items():
        if not members:
            raise FamilyError(
                f"family '{family}': no task is left for {split}, of {len(names)}; lower the shares (split), or record "
                "more drives"
            )
    return divided


def _named(family: str, names: Sequence[str], split: Split, patterns: Sequence[str]) -> list[int]:
    found = []
    for pattern in patterns:
        matches = matching(pattern, names)
        if not matches:
            raise FamilyError(f"family '{family}': split.{split} names the task '{pattern}', {near(pattern, names)}")
        found += [names.index(match) for match in matches]
    return found


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
