"""What computes the networks of a bundle: ONNX Runtime, or the bundle's native code, behind one Protocol."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from msr_runtime.inference.belief import Belief
from msr_runtime.inference.deviation import Deviations
from msr_runtime.inference.predictor import Predictors
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.state import State
from msr_runtime.inference.time_limit import TimeLimit
from msr_runtime.inference.updater import Updater
from msr_runtime.task import Array

Engine = Literal["onnx", "native"]
"""What computes: ONNX Runtime, or the native code of the bundle."""


class Adaptation(NamedTuple):
    """What one run of the inner loop led to. The caller checks that the losses and the adapted network are finite."""

    loss_before: float
    """Support loss where it began."""
    loss_after: float
    """Support loss where it ended."""
    belief: Belief | None = None
    """How sure the rule `recursive` is of this v. None with other rules."""
    surprise: float = math.nan
    """With the rule `recursive`: the surprise of the samples, see `Familiarity`. NaN with other rules."""


class Loop(Protocol):
    """Runs inner steps."""

    def __call__(
        self,
        x: Array,
        y: NDArray,
        steps: int,
        into: State,
        begin: State | None = None,
        check: Callable[[], None] | None = None,
    ) -> Adaptation:
        """Adapt to one support set, see `InnerLoop`."""
        ...


class Losses(Protocol):
    """Measures the loss of any network."""

    def mean(self, x: Array, y: NDArray, network: State) -> float:
        """The mean loss on samples, see `SupportLoss`."""
        ...

    def each(self, x: Array, y: NDArray, network: State) -> NDArray:
        """The loss on each sample, see `SupportLoss`."""
        ...


class Runs(NamedTuple):
    """All that a backend runs. Any thread may call it; it keeps no adaptation."""

    predictors: Predictors
    losses: Losses
    inner_loop: Loop | None
    """None with the rule `recursive`."""
    updater: Updater | None
    """None with other rules."""
    deviations: Deviations | None
    """None with other rules."""


class Backend(Protocol):
    """Computes the networks of one bundle."""

    support: tuple[SampleSpec, SampleSpec]
    """What one sample of a support set is: its x and its y."""
    most: int | None
    """The most samples of an adaptation. None: as many as the memory holds."""

    @property
    def start(self) -> State:
        """Return v and the weights at `v0`, as this backend reads them."""
        ...

    def runs(self, limit: TimeLimit | None = None) -> Runs:
        """Return what runs, in buffers of its own.

        Args:
            limit: Ends the runs, for a test. Native code knows none: who runs it trusts it.
        """
        ...
