"""What a latched guard sends: velocities and efforts go to zero, and positions stay where they are."""

import math
from collections.abc import Mapping, Sequence

from msr_runtime.errors import InputError
from msr_runtime.task import Field, field_slices

STOP_SECONDS = 1.0
"""Time from the largest value of a field to zero where no rate is given, in s. Slower motions stop sooner."""


class StopRamp:
    """Brings velocities and efforts to zero, at their rate. Everything else keeps its value.

    Efforts go to zero because one that is held accelerates the robot for ever.
    """

    def __init__(self, fields: Sequence[Field], rates: Mapping[str, float]) -> None:
        """Stop the fields whose kind is velocity or effort, by their entry in `rates` if there is one.

        Raises:
            InputError: If nothing says how fast a field may stop.
        """
        self._paces: list[tuple[slice, float]] = []
        places = field_slices(fields)
        for field in fields:
            if field.kind in ("velocity", "effort"):
                pace = rates.get(field.name, max(abs(field.low), abs(field.high)) / STOP_SECONDS)
                if not pace < math.inf:
                    raise InputError(
                        f"the field '{field.name}' goes from {field.low} to {field.high}, and its kind is "
                        f"{field.kind}, so it must stop when the guard latches, but nothing says how fast; give its "
                        "rate in `rates`, or finite bounds"
                    )
                self._paces.append((places[field.name], pace))

    def after(self, sent: list[float], seconds: float) -> list[float]:
        """Return what follows `sent` after `seconds`. The values of one field shrink together: no turn, no curve."""
        stopped = sent.copy()
        for place, pace in self._paces:
            values = sent[place]
            if largest := max(map(abs, values)):
                share = max(0.0, 1.0 - pace * seconds / largest)
                stopped[place] = [share * value for value in values]
        return stopped
