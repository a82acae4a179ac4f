"""What a bundle with the rule `recursive` knows of v beside its value: how sure it is of it.

v is whitened: the meta-learned start and scales make it m, whose prior is N(0, I). Each number that was observed takes
one direction out of the covariance of m:

    C = I - Rᵀ diag(d) R        with the rows R of some samples and their weights d

There is room for the rows of some samples. When it is full, those of the sample that hold least are dropped before the
next sample is taken: least variance returns. C then grows, so it stays a covariance after any number of samples, and
nothing is ever added up. The oldest sample would be the wrong one to drop: the first samples take out most, and later
ones only what is left.

A belief never changes. The next one shares its memory, because copying all rows would take longer than an update. There
is room for one sample more than counts: the next update writes where no belief reads that is at most one update old.

A belief knows its first samples, because they are linearized again later (see `msr_runtime.relinearization`).
"""

from collections.abc import Mapping
from numbers import Real
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from msr_runtime.arrays import FLOAT32
from msr_runtime.errors import InputError
from msr_runtime.inference.state import State
from msr_runtime.task import Array

_LEAST = 1e-9
"""A weight below it counts as zero: processors take many times as long for the smallest numbers of float32."""
_FIRST = "first_x", "first_y", "first_keep"
_ROUNDING = 1e-3
"""By how much rounding may push the largest eigenvalue of Rᵀ diag(d) R above 1."""


class Sample(NamedTuple):
    """A sample that a network learned from."""

    x: Array
    """`(*x)` in raw units, float32."""
    y: Array
    """`(*y)` in raw units, float32."""
    keep: float
    """What time had left of the mean since the sample before, 0 to 1. float32 holds it exactly."""


class _Rows:
    """The rows of all beliefs that follow each other."""

    def __init__(self, rows: Array, squares: NDArray | None = None) -> None:
        self.state = State({"rows": rows})
        """The rows `(slots, K)`, as numpy and ONNX Runtime see them."""
        # A robot copies rows within a tick, and to square them all would take longer than to copy them.
        self.squares = np.square(rows.astype(np.float64)).sum(1) if squares is None else squares
        """The squared length of each row, `(slots,)`."""
        self.written = 0
        """How many samples were written, or are being written."""

    def copy(self) -> "_Rows":
        """Return a copy that nobody writes to."""
        return _Rows(self.state.tensors["rows"], self.squares.copy())


class Belief:
    """How sure a network is of its v. Make the first one with `prior`.

    Any thread may read one. One thread at a time may call `after`.
    """

    def __init__(
        self,
        memory: _Rows,
        decays: Array,
        outputs: int,
        place: int,
        number: int,
        first: tuple[Sample, ...] | None = None,
    ) -> None:
        self._memory = memory
        self.decays = decays
        """d `(slots,)`, float32, between 0 and 1. Only read it. It is zero for rows that hold nothing."""
        self._outputs = outputs
        self._place = place
        """The first of the rows that the next sample is written to. They hold nothing."""
        self._number = number
        """How many samples had been written to the memory."""
        self.first = first
        """All samples since the prior. None: they are too many, or not known."""

    @classmethod
    def prior(cls, memory: int, outputs: int, size: int) -> Self:
        """Return the belief before the first sample. Any number of models may begin at it, at once.

        Args:
            memory: How many samples count.
            outputs: J, the numbers of one sample's y.
            size: K, the filter parameters.
        """
        slots = (memory + 1) * outputs
        belief = cls(_Rows(np.zeros((slots, size), FLOAT32)), np.zeros(slots, FLOAT32), outputs, 0, 0, ())
        belief.share()
        return belief

    @property
    def memory(self) -> State:
        """The memory of the rows: "rows" `(slots, K)`. Beliefs that follow each other share it."""
        return self._memory.state

    @property
    def intact(self) -> bool:
        """Whether no later update has written over a row of this belief. Look after reading the rows, not before."""
        return self._memory.written <= self._number + 1

    def before(self, keep: float) -> tuple[Array, int]:
        """Return the weights of the rows `(slots,)` for the next update, and the first of the rows that were dropped.

        Args:
            keep: What is left of the mean since the last update, 0 to 1. The covariance relaxes by its square:
                `C <- keep² C + (1 - keep²) I`.
        """
        decays = self.decays.copy()
        if keep < 1:
            decays *= keep * keep
            decays[decays < _LEAST] = 0.0
        shares = (decays * self._memory.squares).reshape(-1, self._outputs).sum(1)
        shares[self._place // self._outputs] = np.inf  # nothing is there, and the next rows need it
        dropped = int(shares.argmin()) * self._outputs
        decays[dropped : dropped + self._outputs] = 0.0
        return decays, dropped

    def after(self, decays: Array, dropped: int, rows: Array, first: tuple[Sample, ...] | None = None) -> Self:
        """Return the belief after an update. It shares the memory, unless another belief has used it meanwhile.

        Args:
            decays: What `before` gave. It is kept, so do not change it afterwards.
            dropped: The same.
            rows: The new rows `(J, K)`, finite.
            first: All samples since the prior, with this one. None: they are too many, or not known.
        """
        memory, number = self._memory, self._number
        if memory.written != number:
            memory, number = memory.copy(), 0
        memory.written = number + 1  # first: a reader that sees a new row must know of it
        place = slice(self._place, self._place + self._outputs)
        memory.state.tensors["rows"][place] = rows
        memory.squares[place] = np.square(rows).sum(1)
        decays[place] = 1.0
        return type(self)(memory, decays, self._outputs, dropped, number + 1, first)

    def forgotten(self) -> Self:
        """Return the prior of this belief, with a memory of its own."""
        shape, slots = self._memory.state.tensors["rows"].shape, len(self.decays)
        rows = _Rows(np.broadcast_to(FLOAT32.type(0), shape), np.zeros(slots))
        return type(self)(rows, np.zeros(slots, FLOAT32), self._outputs, 0, 0, ())

    def share(self) -> None:
        """Let several models go on from this belief, each with a memory of its own.

        No update of it may run meanwhile.
        """
        self._memory.written = self._number + 1  # as if the next sample were written: `after` then copies the memory

    def copy(self) -> Self:
        """Return the same belief with a memory of its own, so that updates of the copy never touch this one."""
        return type(self)(self._memory.copy(), self.decays, self._outputs, self._place, 0, self.first)

    def inflated(self, factor: float) -> Self:
        """Return the belief with every variance multiplied by `factor`, but none larger than the prior's.

        Where nothing changes, it is this belief, whose first samples are linearized again. Else they are not known any
        more: from the prior on, they would count in full.

        Args:
            factor: At least 1. Infinity returns the prior's covariance.

        Raises:
            InputError: If it is below 1, or not a number.
        """
        if not isinstance(factor, Real) or not factor >= 1:
            raise InputError(
                f"factor is {factor!r}, but at least 1 is wanted: the variances are multiplied by it, and only samples "
                "make them smaller"
            )
        if factor == 1 or not self.decays.any():
            return self
        # The eigenvectors of the rows' part of C hold the same covariance, and each has a variance of its own.
        weighed = self._weighed()
        _, lengths, vectors = np.linalg.svd(weighed, full_matrices=False)
        variances = 1 - np.minimum(lengths**2, 1.0)
        with np.errstate(invalid="ignore"):  # infinity times zero: what is known exactly is not known any more
            known = 1 - np.nan_to_num(np.minimum(factor * variances, 1.0), nan=1.0)
        tensors = {"rows": np.zeros_like(weighed, FLOAT32), "decays": np.zeros(len(weighed), FLOAT32)}
        tensors["rows"][: len(known)], tensors["decays"][: len(known)] = vectors, known
        return type(self)._from_rows(tensors, self._outputs)

    def covariance(self) -> NDArray[np.float64]:
        """Return C, the covariance of the whitened v, `(K, K)`. It is I for the prior."""
        weighed = self._weighed()
        return np.eye(weighed.shape[1]) - weighed.T @ weighed

    def tensors(self) -> dict[str, Array]:
        """Return what a file keeps: "rows" `(memory * J, K)` and their weights "decays" `(memory * J,)`.

        If the first samples are known, also "first_x" `(n, *x)`, "first_y" `(n, *y)` and "first_keep" `(n,)`.
        The caller sees to it that no update runs meanwhile.
        """
        rows = self._memory.state.tensors["rows"]
        spare = slice(self._place, self._place + self._outputs)
        tensors = {"rows": np.delete(rows, spare, 0), "decays": np.delete(self.decays, spare)}
        if not self.first:
            return tensors
        first = (np.array(part, FLOAT32) for part in zip(*self.first, strict=True))
        return tensors | dict(zip(_FIRST, first, strict=True))

    @classmethod
    def restored(cls, tensors: Mapping[str, Array], outputs: int) -> Self:
        """Return the belief that `tensors` wrote.

        Args:
            tensors: What `tensors` returned, finite float32 of the right shapes; other tensors are not read.
            outputs: J.

        Raises:
            InputError: If they make no covariance: a weight is not between 0 and 1, or a variance is negative.
        """
        decays = tensors["decays"]
        if decays.min(initial=0) < 0 or decays.max(initial=0) > 1:
            raise InputError(f"its decays lie between {decays.min():g} and {decays.max():g}, but 0 to 1 is wanted")
        belief = cls._from_rows(tensors, outputs)
        largest = float(np.linalg.svd(belief._weighed(), compute_uv=False).max(initial=0.0)) ** 2
        if not largest <= 1 + _ROUNDING:
            raise InputError(f"its rows take {largest:.3g} of the prior's variance in one direction, but at most 1 is")
        if _FIRST[0] in tensors:
            x, y, keep = (tensors[name] for name in _FIRST)
            if keep.min(initial=0) < 0 or keep.max(initial=0) > 1:
                raise InputError(f"its first_keep lie between {keep.min():g} and {keep.max():g}, but 0 to 1 is wanted")
            belief.first = tuple(map(Sample, x, y, keep.tolist()))
            # They are taken again from the prior on, so what other samples told would be lost.
            if (told := int(decays.reshape(-1, outputs).any(1).sum())) > len(belief.first):
                raise InputError(
                    f"its rows are those of {told} samples, but it holds the first {len(belief.first)} alone"
                )
        return belief

    @classmethod
    def _from_rows(cls, tensors: Mapping[str, Array], outputs: int) -> Self:
        spare = np.zeros((outputs, tensors["rows"].shape[1]), FLOAT32)
        rows, decays = tensors["rows"], tensors["decays"]
        return cls(_Rows(np.concatenate([spare, rows])), np.concatenate([spare[:, 0], decays]), outputs, 0, 0)

    def _weighed(self) -> NDArray[np.float64]:
        """The rows that count, each times the root of its weight: `(memory * J, K)`."""
        found = self.tensors()
        return found["rows"].astype(np.float64) * np.sqrt(found["decays"].astype(np.float64))[:, None]
