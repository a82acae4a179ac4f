"""Filters that begin again where a jump surprises them, as `OnlineAdapter` does."""

import copy
from collections import deque
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from online_peers import Sure

from msr_runtime.adaptation.task_change import SAMPLES, ChangeDetector


class Filter(Sure, Protocol):
    """A filter whose streams can be replaced."""

    def replace(self, streams: NDArray[np.int64], by: Self) -> None:
        """Give these streams the state of another filter's, in their order."""
        ...


class Restarting:
    """A filter that begins a stream again, with the latest samples, when they show that its task has changed."""

    def __init__(self, method: Filter) -> None:
        self.method = method

    def start(self, streams: int) -> None:
        self.method.start(streams)
        self.detectors = [ChangeDetector() for _ in range(streams)]
        self.last: deque[tuple[NDArray, NDArray]] = deque(maxlen=SAMPLES)

    def predict(self, x: NDArray) -> NDArray:
        return self.method.predict(x)

    def variance(self, x: NDArray) -> NDArray:
        return self.method.variance(x)

    def innovation(self) -> NDArray:
        return self.method.innovation()

    def update(self, x: NDArray, y: NDArray) -> None:
        self.method.update(x, y)
        self.last.append((x, y))
        surprises = zip(self.detectors, self.method.innovation().tolist(), strict=True)
        changed = np.flatnonzero([detector.add(surprise) for detector, surprise in surprises])
        if not len(changed):
            return
        again = copy.copy(self.method)
        again.start(len(changed))
        for last_x, last_y in self.last:
            again.update(last_x[changed], last_y[changed])
        self.method.replace(changed, again)
        for stream in changed.tolist():
            self.detectors[stream].begin_task()
