"""Where the numbers of a graph lie: in its arguments, in constants, or in a workspace that is planned here.

Places in the workspace are used again once the last operation that reads them has run.
"""

from typing import NamedTuple

from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, Op

LINE = 16
"""Places begin at multiples of so many numbers, so that whole vectors are read."""


class Place(NamedTuple):
    """Where the numbers of a tensor begin."""

    base: str
    """An array in C."""
    offset: Dim
    """From where on in it."""

    def __str__(self) -> str:
        return self.base if self.offset == 0 else f"{self.base} + {self.offset}"


class Memory:
    """The places of a graph's tensors.

    Args:
        graph: The graph.
        samples: N, the most samples.
        arguments: Input or output to the array in C that holds it.
        hidden: Tensors that are never stored, because they are computed where they are read.
    """

    def __init__(self, graph: Graph, samples: int, arguments: dict[str, str], hidden: set[str]) -> None:
        self._graph, self._samples, self._hidden = graph, samples, hidden
        self.sizes: dict[str, int] = {}
        """C type to how many numbers the workspace has of it."""
        self._free: dict[str, list[tuple[int, int]]] = {}
        self._lengths: dict[str, int] = {}
        self._parents: dict[str, tuple[str, Dim]] = {}
        self._places = {name: Place(base, Dim.of(0)) for name, base in arguments.items()}
        self._place_parts()
        last = self._last_uses()
        for index, op in enumerate(graph.ops):
            for name in [*op.outputs, *op.attributes.get("scratch", ())]:
                root = self._root(name)[0]
                if op.kind != "view" and name not in hidden and root not in self._places:
                    self._allocate(root)
            for name in [root for root, at in last.items() if at == index]:
                self._release(name)

    def place(self, name: str) -> Place:
        """Return where a tensor lies."""
        root, offset = self._root(name)
        place = self._places[root]
        return Place(place.base, place.offset + offset)

    def _root(self, name: str) -> tuple[str, Dim]:
        offset = Dim.of(0)
        while name in self._parents and name not in self._places:
            name, more = self._parents[name]
            offset = offset + more
        return name, offset

    def _place_parts(self) -> None:
        """Views lie in their source, products of a chain in its room, parts of a joined row in the row at once."""
        joined = {name for op in self._graph.ops if op.kind == "concat" for name in op.inputs}
        for op in self._graph.ops:
            if op.kind == "view":
                self._parents[op.output] = op.inputs[0], op.attributes["offset"]
            self._parents |= op.attributes.get("within", {})
        for op in self._graph.ops:
            if op.kind != "concat" or any(dim != 1 for dim in self._graph[op.output].shape[: op.attributes["axis"]]):
                continue
            offset = Dim.of(0)
            for name in op.inputs:
                root, before = self._root(name)
                made = self._graph.producer(root)
                whole = before == 0 and self._graph[root].size == self._graph[name].size
                # The same numbers may be a part of two rows, but they lie in one.
                taken = root in self._places or root in self._parents or root in self._hidden or root in joined - {name}
                once = sum(other.inputs.count(name) for other in self._graph.ops if other.kind == "concat") == 1
                if made and made.kind != "concat" and whole and once and not taken:
                    self._parents[root] = op.output, offset
                offset = offset + self._graph[name].size

    def in_place(self, part: str, whole: str, offset: Dim) -> bool:
        """Whether a part of a row lies in the row already."""
        return part not in self._hidden and self._root(part) == (self._root(whole)[0], self._root(whole)[1] + offset)

    def _last_uses(self) -> dict[str, int]:
        last: dict[str, int] = {}
        reads = {name: self._reads(op) for op in self._graph.ops for name in op.outputs}
        for index, op in enumerate(self._graph.ops):
            if not set(op.outputs) & self._hidden:
                for name in [*self._reads(op, reads), *op.outputs, *op.attributes.get("scratch", ())]:
                    last[self._root(name)[0]] = index
        return {name: at for name, at in last.items() if name not in self._places}

    def _reads(self, op: Op, reads: dict[str, list[str]] | None = None) -> list[str]:
        """What an operation reads, through tensors that are never stored."""
        found = []
        for name in op.inputs:
            root = self._root(name)[0]
            if reads and root in self._hidden:
                made = self._graph.producer(root)
                found += self._reads(made, reads) if made else []
            else:
                found.append(name)
        return found

    def _allocate(self, name: str) -> None:
        tensor = self._graph[name]
        wanted = -(-tensor.size.at(self._samples) // LINE) * LINE
        free = self._free.setdefault(tensor.dtype, [])
        fitting = [(length, begin) for begin, length in free if length >= wanted]
        if fitting:
            length, begin = min(fitting)
            free.remove((begin, length))
            if length > wanted:
                free.append((begin + wanted, length - wanted))
        else:
            begin = self.sizes.get(tensor.dtype, 0)
            tail = next((part for part in free if sum(part) == begin), None)
            if tail:
                free.remove(tail)
                begin = tail[0]
            self.sizes[tensor.dtype] = begin + wanted
        self._places[name] = Place(f"work_{tensor.dtype}", Dim.of(begin))
        self._lengths[name] = wanted

    def _release(self, name: str) -> None:
        place = self._places.get(name)
        if place is None or not place.base.startswith("work_"):
            return
        begin, length = place.offset.at(0), self._lengths[name]
        free = self._free[self._graph[name].dtype]
        for other in list(free):  # neighbours become one
            if sum(other) == begin or begin + length == other[0]:
                free.remove(other)
                begin, length = min(begin, other[0]), length + other[1]
        free.append((begin, length))
