"""What y would be if nothing changed any more: the floor that every prediction of a stream has to beat."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.logs.samples import Moment
from msr_runtime.task import Array, Field, field_slices


class Present(NamedTuple):
    """Where the present value of each number of y stands. The arrays are `(y,)`."""

    inputs: NDArray[np.int64]
    """The number of x that holds it, or -1."""
    change: NDArray[np.bool_]
    """Whether it is a change."""

    @classmethod
    def of(
        cls, inputs: Sequence[Moment], outputs: Sequence[Moment], x: Sequence[Field], y: Sequence[Field]
    ) -> "Present":
        """Compare the fields of y with those of x."""
        slices, where, change = field_slices(x), [], []
        same = {_meaning(moment): slices[moment.name] for moment in inputs if not moment.ahead}
        for moment, field in zip(outputs, y, strict=True):
            found = same.get(_meaning(moment))
            where += [-1] * field.size if found is None else list(range(found.start, found.stop))
            change += [moment.field.difference] * field.size
        return cls(np.array(where), np.array(change))

    def predict(self, support_y: Array, x: Array) -> Array:
        """Return `(queries, y)` for the support's y `(shots, y)` and x `(queries, x)`."""
        held = np.where(self.inputs >= 0, x[:, self.inputs], support_y[-1])
        return np.where(self.change, 0, held).astype(np.float32)


def _meaning(moment: Moment) -> tuple[object, ...]:
    field = moment.field
    return field.sources(), field.difference, field.cosine_sine, field.body_frame
