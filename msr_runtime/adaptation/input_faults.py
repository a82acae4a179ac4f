"""Is one number of x at fault? Evidence for weak actuators and sensors with an offset, beside that of clean tasks."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.family import chance_in_stream
from msr_runtime.arrays import all_finite
from msr_runtime.bundle.familiarity import Familiarity, usual_nis
from msr_runtime.bundle.input_faults import Fit, by_count
from msr_runtime.task import Field

_WORDS = (("acts more weakly", "acts more strongly"), ("is lower", "is higher"))
"""What a gain and an offset mean, below and above zero."""


@dataclass(frozen=True)
class FaultVerdict:
    """The number of x that is most likely at fault, and whether it is. See `msr_runtime.bundle.input_faults`."""

    input: str = ""
    """The number of x, for example `commands[2]`."""
    seems: str = ""
    """What it does, compared with what its value says: `acts more weakly`, `acts more strongly`, `is lower` or
    `is higher`."""
    evidence: float = math.nan
    """How strong the evidence is. NaN while there are too few samples."""
    limit: float = math.nan
    """What it exceeds on a clean task only by a false alarm."""
    alarms: int = 0
    """How often it has risen above the limit. It may rise again only after it was below half of the limit, or in
    another task: evidence grows and falls while one fault stays."""

    @property
    def found(self) -> bool:
        """Whether a number of x is at fault. False while nothing is known."""
        return self.evidence > self.limit

    def __str__(self) -> str:
        if math.isnan(self.evidence):
            return "not known yet"
        said = f"{self.input} {self.seems} than its value says" if self.found else "none seems to be at fault"
        past = f", alarms so far: {self.alarms}" if self.alarms else ""
        return f"{said}: evidence {self.evidence:.3g}, at most {self.limit:.3g} is usual{past}"


class FaultCheck:
    """Gathers evidence sample by sample. One thread adds, any thread may read.

    It looks at all samples since the task began, up to as many as the exporter's streams had. From then on it looks at
    the latest ones: at least half as many, at most as many.

    Args:
        known: What is known of clean tasks, with `faults`.
        fields: The fields of x.
        tick: The time between two samples of meta-training, in s.
        false_alarms: Share of clean tasks that may be called faulty within a minute.

    """

    def __init__(self, known: Familiarity, fields: tuple[Field, ...], tick: float, false_alarms: float) -> None:
        self._names, chance = element_names(fields), chance_in_stream(known, tick, false_alarms / 2)
        counts = [each.samples for each in known.faults]
        limits = np.array([[each.gain.limit(chance), each.offset.limit(chance)] for each in known.faults])
        self._usual = known.usual
        self._limits, self._fewest, self._half = by_count(counts, limits), counts[0], counts[-1] // 2
        self.now = FaultVerdict()
        """The verdict so far."""
        self.begin_task()

    def begin_task(self) -> None:
        """Forget the samples of the task before."""
        self._count, self._fit, self._newer = 0, _nothing(len(self._names)), _nothing(len(self._names))
        self._seen, self._alarmed = 0, False
        self.now = FaultVerdict(alarms=self.now.alarms)

    def add(self, x: NDArray, errors: NDArray, variances: NDArray, slopes: NDArray) -> None:
        """Add one sample, all in raw units but for the scales of x.

        Args:
            x: `(inputs,)`, in scales, not centered.
            errors: The innovation, `(outputs,)`.
            variances: What was expected of it, `(outputs,)`.
            slopes: `(inputs, outputs)`, per scale of the input.

        """
        with np.errstate(all="ignore"):  # what is not finite does not count
            found = Fit.of(errors, variances, slopes).both(x)
        self.add_fit(found, len(errors))

    def add_fit(self, found: Fit, outputs: int) -> None:
        """Add one sample by what it says of gains and offsets, `(2, inputs)`. What is not finite is no evidence.

        Args:
            found: What it says.
            outputs: The numbers of its y.

        """
        self._seen += 1
        found = found.over(usual_nis(self._usual, self._seen))
        if not all(map(all_finite, (found.pull, found.weight, found.squares))):
            return
        self._count, self._fit = self._count + 1, self._fit + found
        if self._count > self._half:
            self._newer += found
        if self._count < self._fewest:
            return
        evidence, limit = self._fit.evidence(self._count * outputs), self._limits[self._count - 1]
        over = evidence / limit[:, None]
        kind, number = divmod(int(over.argmax()), len(self._names))
        largest, seems = over[kind, number], _WORDS[kind][int(self._fit.pull[kind, number] > 0)]
        alarm = largest > 1 and not self._alarmed
        self._alarmed = bool(largest > (0.5 if self._alarmed else 1))
        self.now = FaultVerdict(
            self._names[number], seems, float(evidence[kind, number]), float(limit[kind]), self.now.alarms + bool(alarm)
        )
        if self._count >= 2 * self._half:
            self._count, self._fit, self._newer = self._count - self._half, self._newer, _nothing(len(self._names))


def element_names(fields: tuple[Field, ...]) -> list[str]:
    """Return a name for each number of a vector: `velocity[1]`, or `yaw_rate` for a field of one number."""
    return [
        field.name if field.size == 1 else f"{field.name}[{field.names[index] if field.names else index}]"
        for field in fields
        for index in range(field.size)
    ]


def _nothing(inputs: int) -> Fit:
    return Fit(np.zeros((2, inputs)), np.zeros((2, inputs)), np.zeros((1, 1)))
