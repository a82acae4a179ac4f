"""Predictions: a network with one set of folded weights, and buffers that are reused for each input shape."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from msr_runtime.arrays import FLOAT32, all_finite
from msr_runtime.errors import InputError
from msr_runtime.inference.belief import Belief
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.state import State
from msr_runtime.task import Array

_MAX_SHAPES = 8
"""Number of input shapes whose buffers are kept. Without a limit, a program that never repeats a batch size would use
more and more memory."""
_MAX_ROWS = 256
"""Largest number of samples in one run of the graph. A larger batch runs in parts of this size, because ONNX Runtime
and the buffers keep the memory of the largest run, and each adaptation prepares the shapes that were seen before."""


class Network(Protocol):
    """What computes predictions: predict.onnx in ONNX Runtime, or a bundle's native code."""

    def bind_predict(self, state: State, x: Array, y: Array) -> Callable[[], object]:
        """Return a function that predicts from x `(batch, *x)` to y `(batch, *y)`, with the weights of a state.

        It reads and writes this memory at each call. The caller keeps the arrays as long as the function.
        """
        ...


class _Slot(NamedTuple):
    """Buffers for one input shape, and the run of the network that uses them."""

    x: Array
    """The input buffer, in the shape that the caller gives: one sample or a batch."""
    flat: Array
    """The same memory as `x`, as a vector."""
    y: Array
    """The output buffer."""
    run: Callable[[], object]
    """Runs the network from `x` to `y`."""


class _Bound:
    """A network bound to the weights of one state, with a pool of slots per input shape."""

    def __init__(self, network: Network, x: SampleSpec, y: SampleSpec, state: State) -> None:
        self.network, self.x, self.y, self.state = network, x, y, state
        self.pools: dict[tuple[int, ...], list[_Slot]] = {}
        self.open(x.shape)

    def open(self, shape: tuple[int, ...]) -> list[_Slot]:
        """Return the pool of slots for a shape. If the limit of shapes allows it, a new shape gets a pool of its own.

        Otherwise the list is empty, and slots that are put into it are not kept.
        """
        if shape in self.pools or len(self.pools) >= _MAX_SHAPES:
            return self.pools.get(shape, [])
        slot = self.bind(shape)
        slot.run()  # the first run is slow, because ONNX Runtime allocates its memory in it
        # setdefault is atomic: if another thread has made this pool meanwhile, its pool is used
        return self.pools.setdefault(shape, [slot])

    def bind(self, shape: tuple[int, ...]) -> _Slot:
        """Make a slot for an input shape that was checked: `(*x)` for one sample, or `(batch, *x)`."""
        one = shape == self.x.shape
        samples = 1 if one else shape[0]
        x, y = np.zeros((samples, *self.x.shape), FLOAT32), np.zeros((samples, *self.y.shape), FLOAT32)
        run = self.network.bind_predict(self.state, x, y)
        return _Slot(x[0] if one else x, x.reshape(-1), y[0] if one else y, run)


class BoundPredictor:
    """The network with one set of folded weights. `Predictors` makes them, one per adaptation.

    It is safe to call from several threads. Each call takes buffers from a pool and returns them at its end.
    """

    def __init__(self, bound: _Bound, spare: list[_Bound]) -> None:
        """Predict with `bound`. When the last reference to this predictor is gone, `bound` goes to `spare`."""
        self.belief: Belief | None = None
        """How sure the network is of its v. None without the rule `recursive`."""
        self._bound, self._spare = bound, spare
        self._pools, self.x, self.state = bound.pools, bound.x, bound.state

    def __del__(self) -> None:
        # No call can be running here, because a call holds a reference to the predictor. So all slots are back in
        # their pools, and the memory can be given to the next predictor.
        self._spare.append(self._bound)

    @property
    def tensors(self) -> dict[str, Array]:
        """The filter parameters "v" `(1, K)` and the folded weights, float32, by name.

        Only read them, and keep a reference to the predictor meanwhile: its memory is used again after that.
        """
        return self.state.tensors

    @property
    def block(self) -> Array:
        """The same tensors in one block of memory, as in `State`."""
        return self.state.block

    def __call__(self, x: ArrayLike) -> Array:
        """Return the network's output in raw units, float32, in an array of its own.

        Args:
            x: One sample `(*x)` or a batch `(batch, *x)` in raw units. The output is `(*y)` or `(batch, *y)`.

        Raises:
            InputError: If `x` has another shape or dtype, or is not finite.
        """
        # `is` compares two objects, which is much faster than a comparison of dtypes or an array conversion.
        if type(x) is not np.ndarray or x.dtype is not FLOAT32:
            x = self.x.convert(x)
        pool = self._pools.get(x.shape)
        if pool is None:
            if x.ndim != 1 + len(self.x.shape) or x.shape[1:] != self.x.shape or not len(x):
                raise InputError(f"{self.x.shape_error(x.shape)}; for one sample the first axis may be left out")
            if len(x) > _MAX_ROWS:
                return self._in_parts(x)
            pool = self._bound.open(x.shape)
        try:
            slot = pool.pop()  # list.pop is atomic in Python, so two threads never get the same buffers
        except IndexError:  # all slots are in use by other threads, or the shape is not kept
            slot = self._bound.bind(x.shape)
        try:
            slot.x[...] = x
            if not all_finite(slot.flat):
                self.x.check_values(slot.x.reshape(-1, *self.x.shape))
            slot.run()  # ONNX Runtime releases Python's interpreter lock here, so other threads go on
            return slot.y.copy()  # the next call overwrites the buffer
        finally:
            pool.append(slot)

    def _in_parts(self, x: Array) -> Array:
        """Predict a batch larger than `_MAX_ROWS`."""
        self.x.check_values(x)  # here, so that an error counts the samples of the whole batch
        y = np.empty((len(x), *self._bound.y.shape), FLOAT32)
        last = len(x) - _MAX_ROWS
        # The last part overlaps the one before it, so that all parts have one shape and use the same buffers.
        for begin in (*range(0, last, _MAX_ROWS), last):
            part = slice(begin, begin + _MAX_ROWS)
            y[part] = self(x[part])
        return y


class Predictors:
    """Makes the predictors of one network. It reuses the memory and the bindings of predictors without references.

    A robot that adapts repeatedly needs two sets of memory in turn: one acts while the other is filled. A new binding
    per adaptation would cost as much time as an inner step.
    """

    def __init__(self, network: Network, x: SampleSpec, y: SampleSpec, start: State) -> None:
        self._network, self._x, self._y, self._start = network, x, y, start
        self._spare: list[_Bound] = []

    def make(self, block: Array, like: BoundPredictor | None = None, belief: Belief | None = None) -> BoundPredictor:
        """Make a predictor with a copy of the tensors in `block`.

        Args:
            block: The block of a `State`: the filter parameters and the folded weights.
            like: A predictor that acted before. The new one is made ready for all input shapes that this one has seen.
            belief: How sure the network is of its v, see `BoundPredictor.belief`.
        """
        predictor = self.blank(like)
        predictor.state.block[...] = block
        predictor.state.send()
        predictor.belief = belief
        return predictor

    def blank(self, like: BoundPredictor | None = None) -> BoundPredictor:
        """Make a predictor without weights. Before it acts, fill its `state` and send it.

        Args:
            like: As in `make`.
        """
        try:
            bound = self._spare.pop()  # list.pop is atomic, so no other thread gets the same memory
        except IndexError:
            bound = _Bound(self._network, self._x, self._y, self._start.another())
        for shape in list(like._pools) if like else ():  # a copy, because another thread may add a shape
            bound.open(shape)
        return BoundPredictor(bound, self._spare)

    def block(self, tensors: Mapping[str, Array]) -> Array:
        """Return the block of a state with these tensors, laid out as the network reads it."""
        state = self._start.another()
        for name, tensor in tensors.items():
            state.tensors[name][...] = tensor
        return state.block
