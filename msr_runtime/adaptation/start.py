"""The two places where an adaptation may begin."""

from typing import Literal

from msr_runtime.errors import InputError

Start = Literal["v0", "accepted"]
"""Where an adaptation begins: at the meta-learned filter parameters `v0`, or at the `accepted` ones, which act now."""


def check_start(start: object) -> None:
    """Raise InputError unless `start` is one of the two values of `Start`."""
    if start not in ("v0", "accepted"):
        raise InputError(f"start is {start!r}, but 'v0' or 'accepted' is wanted")
