"""Sizes that depend on the number of samples n: polynomials in n with whole coefficients.

A graph takes any number of samples. Its C takes up to N, so each size is known but for n. It is written into loops as
text, and planned in memory for n = N.
"""

from collections.abc import Mapping
from typing import Self


class Dim:
    """A size: the sum of `coefficient * n ** power`."""

    def __init__(self, terms: Mapping[int, int]) -> None:
        """Take the coefficients, by power of n."""
        self._terms = {power: int(factor) for power, factor in sorted(terms.items(), reverse=True) if factor}

    @classmethod
    def samples(cls) -> Self:
        """Return n itself."""
        return cls({1: 1})

    @classmethod
    def of(cls, value: "Dim | int") -> "Dim":
        """Return a size of a whole number, or the size itself."""
        return value if isinstance(value, Dim) else Dim({0: int(value)})

    @property
    def fixed(self) -> int | None:
        """The number, if it is the same for every n."""
        return self._terms.get(0, 0) if not self._terms.keys() - {0} else None

    def at(self, samples: int) -> int:
        """Return the size for a number of samples."""
        return sum(factor * samples**power for power, factor in self._terms.items())

    def __str__(self) -> str:
        """The size as C computes it."""
        parts = []
        for power, factor in self._terms.items():
            factors = [] if factor == 1 and power else [str(factor)]
            parts.append(" * ".join([*factors, *["n"] * power]))
        return " + ".join(parts) or "0"

    def __repr__(self) -> str:
        return f"Dim({self})"

    def __add__(self, other: "Dim | int") -> "Dim":
        terms = dict(self._terms)
        for power, factor in Dim.of(other)._terms.items():
            terms[power] = terms.get(power, 0) + factor
        return Dim(terms)

    def __mul__(self, other: "Dim | int") -> "Dim":
        terms: dict[int, int] = {}
        for power, factor in self._terms.items():
            for more, times in Dim.of(other)._terms.items():
                terms[power + more] = terms.get(power + more, 0) + factor * times
        return Dim(terms)

    def __sub__(self, other: "Dim | int") -> "Dim":
        return self + Dim.of(other) * -1

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: int) -> "Dim":
        return Dim.of(other) - self

    def __floordiv__(self, other: "Dim | int") -> "Dim":
        """The quotient by a size of one term, which must be exact.

        Raises:
            ValueError: If it is not.
        """
        divisor = Dim.of(other)._terms
        if len(divisor) == 1:
            (power, factor), *_ = divisor.items()
            if all(own >= power and value % factor == 0 for own, value in self._terms.items()):
                return Dim({own - power: value // factor for own, value in self._terms.items()})
        raise ValueError(f"{self} divided by {other} is no whole size")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim | int) and Dim.of(other)._terms == self._terms

    def __hash__(self) -> int:
        return hash(tuple(self._terms.items()))


Dims = tuple[Dim, ...]


def size(dims: Dims) -> Dim:
    """Return how many numbers an array of this shape has."""
    total = Dim.of(1)
    for dim in dims:
        total = total * dim
    return total
