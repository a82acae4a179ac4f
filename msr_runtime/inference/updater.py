"""Updates of a network by one sample: runs of an update graph one after another, in buffers that are kept.

Where the rule says so, an update also linearizes the first samples again, see `msr_runtime.relinearization`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msr_runtime.arrays import FLOAT32, all_finite
from msr_runtime.inference.belief import Belief, Sample
from msr_runtime.inference.state import State
from msr_runtime.relinearization import due
from msr_runtime.task import Array, Shape

NEXT = "{}_next"
"""The name of an output of the graph that belongs to an input."""


class Innovation(NamedTuple):
    """What one sample said about the network, before the network learned from it."""

    error: Array
    """y minus the prediction, `(*y)`, in raw units."""
    variance: Array
    """The variance that was expected of each error, `(*y)`, in squared raw units: that of v and of the noise."""
    nis: float
    """The normalized innovation squared: the errors in their own expected deviations, squared and summed. It is the
    number of outputs on average, if the variances are right."""


class UpdateGraph(Protocol):
    """What computes an update: update.onnx in ONNX Runtime, or a bundle's native code."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of its inputs and outputs, by name."""
        ...

    def bind(self, source: State, target: State, linearized: State, arrays: State) -> Callable[[State], object]:
        """Return a function that computes the network after a sample. It takes the memory of a belief's rows.

        It reads and writes this memory at each call. Two of these functions may not run at once on the same memory.

        Args:
            source: The network before the sample.
            target: Where the one after it goes.
            linearized: Where the network is linearized: `source` itself, or another one.
            arrays: The other inputs and outputs, by name.
        """
        ...


class Updater:
    """Runs of an update graph. Safe to use from several threads: each run of updates takes its own buffers.

    Args:
        graph: The graph.
        start: The network at `v0`: what v and its weights relax to.
        relinearize: How many of the first samples are linearized again.
    """

    def __init__(self, graph: UpdateGraph, start: State, relinearize: int) -> None:
        self._graph, self._relinearize = graph, relinearize
        self.start = start
        """The network at `v0`."""
        self._pool: list[Run] = []

    def begin(self, block: Array, belief: Belief) -> "Run":
        """Return a run of updates that begins at a network. Give it back with `end`.

        Args:
            block: The network's v and folded weights, as the block of a `State`.
            belief: How sure it is of its v. Nobody else may update it meanwhile.
        """
        try:
            run = self._pool.pop()  # list.pop and list.append are atomic, so two threads never get the same buffers
        except IndexError:
            run = Run(self._graph, self.start, self._relinearize)
        run.begin(block, belief)
        return run

    def replay(self, block: Array, belief: Belief, x: Array, y: NDArray, keep: NDArray) -> "Replayed":
        """Learn from samples one after another, for a comparison with numbers that are known.

        Args:
            block: As in `begin`.
            belief: As in `begin`.
            x: `(samples, *x)` in raw units.
            y: `(samples, *y)` in raw units.
            keep: What time has left of the mean before each sample, `(samples,)`.
        """
        unknown = np.full(y.shape, np.nan, FLOAT32)
        replayed = Replayed(self.begin(block, belief), unknown, unknown.copy(), np.full(len(y), np.nan, FLOAT32))
        for index, sample in enumerate(zip(x, y, keep.tolist(), strict=True)):
            found = replayed.run.update(*sample)
            if found is None:
                break
            replayed.innovation[index], replayed.variance[index], replayed.nis[index] = found
        return replayed

    def end(self, run: "Run") -> None:
        """Give the buffers of a run back."""
        self._pool.append(run)


class Replayed(NamedTuple):
    """What many updates did. After one that was not finite, all numbers are NaN."""

    run: "Run"
    """The buffers, where the updates ended."""
    innovation: Array
    """y minus the prediction before each update, `(samples, *y)`, in raw units."""
    variance: Array
    """The variance that was expected of each innovation, `(samples, *y)`, in squared raw units."""
    nis: Array
    """The normalized innovation squared of each sample, `(samples,)`."""


class Run:
    """The buffers of one run of updates. `Updater.begin` returns it.

    There are two states, because an update must not overwrite the state that it reads. A graph is bound to their
    memory, so an update copies nothing but its sample.
    """

    def __init__(self, graph: UpdateGraph, start: State, relinearize: int) -> None:
        self._start, self._relinearize = start, relinearize
        self._states = one, other = start.another(), start.another()
        made = ("x", "y", "decays", "new_rows", "innovation", "variance", "nis")
        self._arrays = arrays = State({name: np.zeros(graph.shapes[name], FLOAT32) for name in made})
        self._updates = graph.bind(one, other, one, arrays), graph.bind(other, one, other, arrays)
        self._there, self._again = None, self._updates
        if relinearize:
            self._there = there = start.another()  # where the first samples are linearized again
            self._again = graph.bind(one, other, there, arrays), graph.bind(other, one, there, arrays)
        self._at = 0  # which of the states holds the present network
        self._belief: Belief | None = None

    def begin(self, block: Array, belief: Belief) -> None:
        """Begin at another network. See `Updater.begin`."""
        if self._belief is not belief:  # else it is where the last update ended
            self._states[self._at].block[...] = block
            self._belief = belief

    @property
    def state(self) -> State:
        """The present v and folded weights. Valid until the next update."""
        return self._states[self._at]

    @property
    def block(self) -> Array:
        """The same in one block of memory, as in `State`."""
        return self.state.block

    @property
    def tensors(self) -> dict[str, Array]:
        """The same tensors by name."""
        return self.state.tensors

    @property
    def belief(self) -> Belief:
        """How sure the present network is of its v."""
        assert self._belief is not None
        return self._belief

    def update(self, x: Array, y: NDArray, keep: float) -> Innovation | None:
        """Learn from one sample.

        Args:
            x: `(*x)` in raw units, checked.
            y: `(*y)` in raw units, checked.
            keep: What time has left of the mean since the last update, 0 to 1.

        Returns:
            What the sample said. None if a number is not finite: then the belief is as it was, and the run must end.
        """
        belief, arrays = self.belief, self._arrays.tensors
        sample, first = Sample(x, y, float(FLOAT32.type(keep))), None
        if belief.first is not None and len(belief.first) < self._relinearize:
            first = (*belief.first, sample._replace(x=np.array(x, FLOAT32), y=np.array(y, FLOAT32)))
        self._belief = None  # until the update has succeeded, the buffers hold no network that a belief belongs to
        after = self._learn(belief, sample, self._updates, first)
        if after is None:
            return None
        found = Innovation(arrays["innovation"][0].copy(), arrays["variance"][0].copy(), float(arrays["nis"][0]))
        if after.first and due(len(after.first), self._relinearize):
            after = self._learn_again(after, after.first)
        self._belief = after
        return found

    def _learn(
        self,
        belief: Belief,
        sample: Sample,
        updates: tuple[Callable[[State], object], ...],
        first: tuple[Sample, ...] | None,
    ) -> Belief | None:
        """Take one sample from the present state to the other one, which is the present one then.

        Returns:
            What is believed then. None if a number is not finite.
        """
        arrays, source, target = self._arrays.tensors, self._states[self._at], self._states[1 - self._at]
        arrays["x"][0], arrays["y"][0] = sample.x, sample.y
        decays, dropped = belief.before(sample.keep)
        arrays["decays"][...] = decays
        if sample.keep < 1:  # v relaxes to v0, and so do the weights, which are linear in v: all of them in one block
            source.block -= self._start.block
            source.block *= FLOAT32.type(sample.keep)
            source.block += self._start.block
        updates[self._at](belief.memory)
        if not (all_finite(self._arrays.block) and all_finite(target.block)):
            return None
        self._at = 1 - self._at
        return belief.after(decays, dropped, arrays["new_rows"], first)

    def _learn_again(self, belief: Belief, samples: tuple[Sample, ...]) -> Belief:
        """Take all samples again, from the prior on, with the network linearized at the present v for all of them.

        Returns:
            What is believed then. If a number is not finite, it is the given belief, and its network stays.
        """
        assert self._there is not None
        self._there.block[...] = self.block
        self.block[...] = self._start.block
        again = belief.forgotten()
        for sample in samples:
            after = self._learn(again, sample, self._again, samples)
            if after is None:
                self.block[...] = self._there.block
                return belief
            again = after
        return again
