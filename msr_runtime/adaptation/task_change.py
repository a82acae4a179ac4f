"""Has the robot got another task? Sudden surprise says so: samples that a calm filter held for all but impossible."""

SAMPLES = 2
"""So many samples show a change."""
_WEIGHT = 0.3
"""Of the latest sample in the running mean."""
_LARGEST = 10.0
"""A larger surprise counts as this one. So one outlier alone lifts the running mean to 4 at most."""
_CHANGED = 4.0
"""A running mean above it is another task, if the two latest samples are above it too: the mean alone would take two
outliers with calm samples between them for a change."""
_CALM = 2.0
"""A running mean below it shows that the network explained the task until then."""
_FEWEST = 10
"""Samples of a task before another one may be noticed: the first ones surprise on every task."""


class ChangeDetector:
    """Notices that the task has changed, from how surprising each sample is. One thread calls it.

    The surprise of a sample is its normalized innovation squared, per number of y: 1 on average if the filter knows how
    sure it is. A change shows in two very surprising samples one after another. One alone is an outlier. Where
    the network never explained the task, it stays surprised: that is no change, and `FamilyVerdict` tells it.
    """

    def __init__(self) -> None:
        self.begin_task()

    def begin_task(self) -> None:
        """Forget the samples of the task before."""
        self._seen, self._mean, self._calm = 0, 1.0, False
        self._before = 0.0
        """The surprise of the sample before."""

    def add(self, surprise: float) -> bool:
        """Return whether this sample and the one before show that the task has changed.

        Args:
            surprise: The normalized innovation squared of a sample, per number of y; finite.
        """
        least, self._before = min(self._before, surprise), surprise
        self._seen += 1
        self._mean += _WEIGHT * (min(surprise, _LARGEST) - self._mean)
        self._calm |= self._seen >= _FEWEST and self._mean < _CALM
        return self._calm and min(least, self._mean) > _CHANGED
