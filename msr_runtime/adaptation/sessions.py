"""What runs a bundle, and one adaptation in it: whatever its rule, and whatever computes."""

import copy
import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, get_args

from numpy.typing import ArrayLike, NDArray

from msr_runtime.adaptation.backend import Backend, Engine
from msr_runtime.adaptation.measured import Measured
from msr_runtime.adaptation.recursion import Recursion
from msr_runtime.arrays import all_finite, norm
from msr_runtime.bundle.manifest import MOST_STEPS
from msr_runtime.bundle.store import PREDICT, Bundle
from msr_runtime.bundle.stream import Stream
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.device import Provider
from msr_runtime.inference.input_bounds import Outside, SampleBounds
from msr_runtime.inference.predictor import BoundPredictor, Predictors
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.time_limit import TimeLimit
from msr_runtime.task import Array

Check = Callable[[], None]
"""A function that is called before each inner step. What it raises ends the adaptation."""


class Adapted(NamedTuple):
    """Where one run of the inner loop ended."""

    loss_before: float
    """Support loss where it began, on normalized outputs."""
    loss_after: float
    """Support loss where it ended, on normalized outputs."""
    predictor: BoundPredictor | None
    """The network with the adapted weights. None if a weight or a loss is not finite."""
    surprise: float = math.nan
    """As in `Adaptation`."""


class Sessions:
    """What runs an opened bundle. Safe to use from several threads; it keeps no adaptation.

    Args:
        bundle: The opened bundle.
        providers: As in `AdaptiveModel.load`.
        time_constant: As in `AdaptiveModel.load`.
        engine: As in `AdaptiveModel.load`.

    Raises:
        BundleError: If the graphs do not match the manifest, if ONNX Runtime refuses them, or if their first run takes
            too long, 60 s.
        ProviderError: If a requested provider does not start.
        InputError: If there is a time constant, and the bundle has no use for it or it is not above 0; if there is no
            such engine, or it does not run this bundle.
    """

    def __init__(
        self,
        bundle: Bundle,
        providers: Sequence[Provider],
        time_constant: float | None = None,
        engine: Engine = "onnx",
    ) -> None:
        manifest = bundle.manifest
        if engine not in get_args(Engine):
            raise InputError(f"engine is {engine!r}, but one of {list(get_args(Engine))} is wanted")
        if time_constant is not None and not manifest.recursion:
            raise InputError(
                f"time_constant is {time_constant}, but bundle '{bundle.path}' has the rule '{manifest.rule}', which "
                "has no time: leave time_constant out, or train with --learner.rule recursive"
            )
        self.engine = engine
        """What computes."""
        self._backend = _open(bundle, providers, engine)
        self.support = support_x, support_y = self._backend.support
        """What one sample of a support set is: its x and its y."""
        self.most = self._backend.most
        """The most samples of an adaptation; None if there is no limit."""
        self.held_out = support_x._replace(name="held_out_x"), support_y._replace(name="held_out_y")
        """The same for a sample that judges."""
        self.familiarity = manifest.familiarity
        """How much the samples of clean tasks surprise the rule `recursive`; None if it is not known."""
        self.measured = Measured(manifest)
        """What was measured at the export of the bundle."""
        self.scale = norm(self._backend.start.tensors["v"])
        """The norm of `v0`."""
        self._inner_steps = manifest.inner_steps
        self._runs = self._backend.runs()
        self.recursion = Recursion(manifest, self._runs, time_constant) if manifest.recursion else None
        """What runs the rule `recursive`. None for other rules."""
        try:
            self.start = self._network_at_v0()
            """The network at `v0`."""
        except Exception as error:  # the bindings of ONNX Runtime raise many types for a malformed graph
            raise BundleError(
                f"bundle '{bundle.path}': {PREDICT} does not run ({error}); the graph does not match its manifest: "
                "export again"
            ) from error

    @property
    def predictors(self) -> Predictors:
        """Make the networks that predict."""
        return self._runs.predictors

    def _network_at_v0(self) -> BoundPredictor:
        return self.predictors.make(self._backend.start.block, belief=self.recursion.prior if self.recursion else None)

    def limited(self, limit: TimeLimit) -> Self:
        """Return the same with a time limit on its runs, for a test. It has buffers of its own."""
        other = copy.copy(self)
        other._runs = self._backend.runs(limit)
        other.recursion = self.recursion and self.recursion.tested(other._runs)
        other.start = other._network_at_v0()
        return other

    def steps(self, steps: int | None) -> int:
        """Return how many inner steps `steps` stands for: None takes as many as in meta-training.

        Raises:
            InputError: If it is not a whole number from 1 to the most that a manifest may name.
        """
        try:
            count = self._inner_steps if steps is None else operator.index(steps)
        except TypeError as error:
            raise InputError(f"steps is {steps!r}, but a whole number of inner steps is wanted") from error
        if count < 1:
            raise InputError(f"steps is {count}, but at least one inner step is wanted; reset() returns to v0")
        if count > MOST_STEPS:
            raise InputError(
                f"steps is {count}, but at most {MOST_STEPS} are taken: more would take hours, and hold up every other "
                f"change of the model; meta-training took {self._inner_steps}"
            )
        if count > 1 and self.recursion:
            raise InputError(
                f"steps is {count}, but the rule 'recursive' takes each sample once: a second time, it would count as "
                "another sample; leave steps out"
            )
        return count

    def adapt(
        self,
        x: Array,
        y: NDArray,
        steps: int,
        like: BoundPredictor,
        begin: BoundPredictor | None = None,
        check: Check | None = None,
    ) -> Adapted:
        """Run the inner loop; or take the samples one by one, with the rule `recursive`.

        Args:
            x: `(shots, *x)` in raw units, checked by `check_samples`.
            y: `(shots, *y)` in raw units; labels for a classifier.
            steps: Number of inner steps, 1 or more.
            like: The network that acts now. The new one is made ready for the input shapes that it has seen.
            begin: The network whose v the inner loop begins at. None begins at `v0`.
            check: Called before each inner step.
        """
        # The inner loop writes where the new network acts from: no copy is made between the two.
        network = self._runs.predictors.blank(like)
        if self.recursion:
            end = self.recursion.adapt(x, y, network.state, begin, check)
        else:
            assert self._runs.inner_loop is not None
            end = self._runs.inner_loop(x, y, steps, network.state, begin.state if begin else None, check)
        if not (math.isfinite(end.loss_before) and math.isfinite(end.loss_after) and all_finite(network.block)):
            return Adapted(end.loss_before, end.loss_after, None)
        network.state.send()
        network.belief = end.belief
        return Adapted(end.loss_before, end.loss_after, network, end.surprise)

    def replay(self, stream: Stream) -> Stream:
        """Return a stream with what the graphs compute of its samples here, of a bundle with the rule `recursive`."""
        recursion, acting = self.recursion, self.start
        assert recursion is not None
        seen = recursion.updater.replay(acting.block, recursion.prior, stream.x, stream.y, stream.keep)
        stream = stream._replace(innovation=seen.innovation, variance=seen.variance, nis=seen.nis)
        if not all_finite(seen.nis):
            return stream
        network = self.predictors.make(seen.run.block, belief=seen.run.belief)
        y, epistemic, total = recursion.deviations(stream.query_x, network)
        return stream._replace(v=network.tensors["v"].copy(), query_y=y, epistemic=epistemic, total=total)

    def losses(self, x: Array, y: NDArray, network: BoundPredictor) -> NDArray:
        """Return the loss of a network on each of some checked samples, `(samples,)`, on normalized outputs.

        Args:
            x: `(samples, *x)` in raw units.
            y: `(samples, *y)` in raw units; labels for a classifier.
            network: The network.
        """
        return self._runs.losses.each(x, y, network.state)

    def moved(self, network: BoundPredictor) -> float:
        """Return how far the v of a network is from `v0`: `|v - v0| / |v0|`, or `|v|` where `v0` is zero."""
        return norm(network.state.tensors["v"] - self.start.state.tensors["v"]) / (self.scale or 1.0)


def _open(bundle: Bundle, providers: Sequence[Provider], engine: Engine) -> Backend:
    # Each brings packages that the other does without.
    if engine == "onnx":
        from msr_runtime.adaptation.onnx_backend import OnnxBackend

        return OnnxBackend(bundle, providers)
    from msr_runtime.adaptation.native_backend import NativeBackend

    return NativeBackend(bundle, providers)


def check_sample(specs: tuple[SampleSpec, SampleSpec], x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    """Convert one sample x `(*x)` and y `(*y)`, and check it.

    Raises:
        InputError: If a shape or dtype is wrong, or a value is not finite.
    """
    sample = []
    for spec, side, value in zip(specs, "xy", (x, y), strict=True):
        array = spec.convert_one(value)
        if not all_finite(array.reshape(-1)):
            spec._replace(name=side).check_values(array[None])
        sample.append(array)
    return sample[0], sample[1]


class Samples(NamedTuple):
    """Checked samples in raw units."""

    x: Array
    """`(samples, *x)`."""
    y: NDArray
    """`(samples, *y)`; labels for a classifier."""
    outside: Outside
    """How many of them have a value outside its bounds, by field."""


def take_held_out(
    specs: tuple[SampleSpec, SampleSpec], bounds: SampleBounds, held_out: tuple[ArrayLike, ArrayLike]
) -> Samples:
    """Convert the pair of x `(samples, *x)` and y `(samples, *y)`, and check them.

    Raises:
        InputError: As `take_samples`, and if it is no pair: an array alone is taken for one if it has two rows.
    """
    if not isinstance(held_out, tuple | list) or len(held_out) != 2:
        kind = type(held_out).__name__
        parts = f" of {len(held_out)}" if isinstance(held_out, tuple | list) else ""
        raise InputError(f"held_out is a {kind}{parts}, but a pair of x and y is wanted: held_out=(x, y)")
    return take_samples(specs, bounds, *held_out)


def take_samples(specs: tuple[SampleSpec, SampleSpec], bounds: SampleBounds, x: ArrayLike, y: ArrayLike) -> Samples:
    """Convert x `(samples, *x)` and y `(samples, *y)`, check them, and compare them with their bounds.

    Raises:
        InputError: As `check_samples`, or if a value is so far outside its bounds that `SampleBounds.count` refuses it.
    """
    xs, ys = specs[0].convert(x), specs[1].convert(y)
    if specs[0].is_batch(xs) and specs[1].is_batch(ys) and len(xs) == len(ys) and bounds.hold(xs, ys):
        return Samples(xs, ys, {})
    check_samples(specs, xs, ys)
    return Samples(xs, ys, bounds.count(specs, xs, ys))


def check_samples(specs: tuple[SampleSpec, SampleSpec], x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    """Convert x `(samples, *x)` and y `(samples, *y)`, and check them.

    Raises:
        InputError: If a shape or dtype is wrong, a value is not finite, there is no sample, or x and y are not paired.
    """
    xs, ys = specs[0].convert(x), specs[1].convert(y)
    for spec, array in zip(specs, (xs, ys), strict=True):
        spec.check_batch(array)
        spec.check_values(array)
    if len(xs) != len(ys):
        raise InputError(
            f"{specs[0].name} has {len(xs)} shots and {specs[1].name} has {len(ys)}, but every x needs its own y"
        )
    return xs, ys
