"""Write elementwise operations, copies and reductions as loops. What is read once is computed where it is read."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from msr_c.graphs.building import strides
from msr_c.graphs.dims import Dim, Dims
from msr_c.graphs.elementwise import ELEMENTWISE
from msr_c.graphs.graph import Graph, Op
from msr_c.writing.memory import Memory
from msr_c.writing.text import literal


class Leaf(NamedTuple):
    """An array that a loop reads or writes."""

    array: str
    offset: Dim
    steps: list[Dim]
    """How far apart neighbours are, by axis of the loop."""


def squeezed(shape: Dims) -> Dims:
    """Return a shape without its axes of one."""
    return tuple(dim for dim in shape if dim != 1)


def hidden(graph: Graph) -> set[str]:
    """Return the tensors that need not be stored: one elementwise operation or reduction reads them, as they are.

    A copy in another order is read where it comes from.
    """
    found = set()
    for op in graph.ops:
        if op.kind not in ("elementwise", "strided") or op.output in graph.outputs or graph[op.output].size == 1:
            continue
        reader, name = _reader(graph, op.output)
        if reader is None or squeezed(graph[name].shape) != squeezed(graph[op.output].shape):
            continue
        if reader.kind == "elementwise":
            once = op.kind == "strided" or reader.inputs.count(name) == 1
            if once and squeezed(graph[reader.output].shape) == squeezed(graph[name].shape):
                found.add(op.output)
        elif reader.kind == "reduce":
            found.add(op.output)
    return found


def _reader(graph: Graph, name: str) -> tuple[Op | None, str]:
    """The only operation that reads a tensor, through views of all of it, and the name by which it reads it."""
    while True:
        readers = graph.readers(name)
        if len(readers) != 1 or name in graph.outputs:
            return None, name
        if readers[0].kind != "view":
            return readers[0], name
        if graph[readers[0].output].size != graph[name].size:
            return None, name
        name = readers[0].output


class Loops:
    """Writes loops of one graph.

    Args:
        graph: The graph.
        memory: Where its tensors lie.
        constant: Gives the name in C of a constant tensor.
    """

    def __init__(self, graph: Graph, memory: Memory, unstored: set[str], constant: Callable[[str], str]) -> None:
        self._graph, self._memory, self._hidden, self._constant = graph, memory, unstored, constant

    def array(self, name: str) -> tuple[str, Dim]:
        """Return the array in C that holds a tensor, and from where on."""
        if self._graph[name].value is not None:
            return self._constant(name), Dim.of(0)
        place = self._memory.place(name)
        return place.base, place.offset

    def elementwise(self, op: Op) -> list[str]:
        """Write the loop of an elementwise operation."""
        shape = self._graph[op.output].shape
        leaves = [self._leaf(op.output, shape, shape)]
        text = self._expression(op, leaves)
        return self._loop(squeezed(shape), leaves, lambda at: f"{at[0]} = {text(at)};")

    def strided(self, op: Op) -> list[str]:
        """Write the copy of some numbers."""
        shape = self._graph[op.output].shape
        leaves = [self._leaf(op.output, shape, shape), self._copied(op)]
        return self._loop(squeezed(shape), leaves, lambda at: f"{at[0]} = {at[1]};")

    def _copied(self, op: Op) -> Leaf:
        """The array from which an operation copies."""
        shape, (array, offset) = self._graph[op.output].shape, self.array(op.inputs[0])
        steps = [step for step, dim in zip(op.attributes["strides"], shape, strict=True) if dim != 1]
        return Leaf(array, offset + op.attributes["offset"], steps)

    def concat(self, op: Op) -> list[str]:
        """Write the copies that join arrays. What lies in its place already is not copied."""
        axis, shape = op.attributes["axis"], self._graph[op.output].shape
        own, (array, offset) = strides(shape), self.array(op.output)
        lines, begin = [], Dim.of(0)
        for name in op.inputs:
            part = self._graph[name].shape
            if not self._memory.in_place(name, op.output, own[axis] * begin):
                steps = [step for step, dim in zip(own, part, strict=True) if dim != 1]
                leaves = [Leaf(array, offset + own[axis] * begin, steps), self._leaf(name, part, part)]
                lines += self._loop(squeezed(part), leaves, lambda at: f"{at[0]} = {at[1]};")
            begin = begin + part[axis]
        return lines

    def pad(self, op: Op) -> list[str]:
        """Write a copy with a margin."""
        shape, part = self._graph[op.output].shape, self._graph[op.inputs[0]].shape
        own, (array, offset) = strides(shape), self.array(op.output)
        fill, dtype = self._leaf(op.output, shape, shape), self._graph[op.output].dtype
        value = literal(op.attributes["value"], dtype)
        lines = self._loop(squeezed(shape), [fill], lambda at: f"{at[0]} = {value};")
        for step, before in zip(own, op.attributes["before"], strict=True):
            offset = offset + step * before
        steps = [step for step, dim in zip(own, part, strict=True) if dim != 1]
        leaves = [Leaf(array, offset, steps), self._leaf(op.inputs[0], part, part)]
        return lines + self._loop(squeezed(part), leaves, lambda at: f"{at[0]} = {at[1]};")

    def reduce(self, op: Op) -> list[str]:
        """Write a sum, mean or extreme over axes."""
        source, kind, axes = self._graph[op.inputs[0]], op.attributes["reduction"], op.attributes["axes"]
        dtype, loop = source.dtype, squeezed(source.shape)
        kept = tuple(Dim.of(1) if axis in axes else dim for axis, dim in enumerate(source.shape))
        array, offset = self.array(op.output)
        own = strides(kept)
        steps = [Dim.of(0) if axis in axes else own[axis] for axis, dim in enumerate(source.shape) if dim != 1]
        leaves = [Leaf(array, offset, steps)]
        value = self._operand(op.inputs[0], source.shape, leaves)
        begin = {"sum": "0", "mean": "0", "max": "-INFINITY", "min": "INFINITY"}[kind]
        begin = begin if "INF" in begin else literal(0.0, dtype)
        count = Dim.of(1)
        for axis in axes:
            count = count * source.shape[axis]

        def combine(held: str, more: str) -> str:
            return (
                f"{held} += {more};" if kind in ("sum", "mean") else f"{held} = {_call(kind, dtype)}({held}, {more});"
            )

        scale = f" / ({dtype})({count})" if kind == "mean" else ""
        reduced = [axis for axis, step in enumerate(steps) if step == 0]
        inner = _innermost(leaves)
        if not loop or (inner is None and reduced == list(range(len(loop) - len(reduced), len(loop)))):
            outer = len(loop) - len(reduced)
            names = [f"i{axis}" for axis in range(len(loop))]
            texts = [_at(leaf, names) for leaf in leaves]
            body = [f"{dtype} total = {begin};"]
            if kind in ("sum", "mean") and loop and (loop[-1].fixed or 0) >= 2 * _LANES:
                lanes = [*names[:-1], f"({names[-1]} + l)"]
                body += _in_lanes(loop[outer:], names[outer:], dtype, value([_at(leaf, lanes) for leaf in leaves]))
                left = loop[-1].at(1) // _LANES * _LANES
                rest = [f"for (int {names[-1]} = {left}; {names[-1]} < {loop[-1]}; ++{names[-1]}) {{"]
                rest += [f"    {combine('total', value(texts))}", "}"]
                body += _nest(loop[outer:-1], names[outer:-1], rest) if loop[-1] != left else []
            else:
                body += _nest(loop[outer:], names[outer:], [combine("total", value(texts))])
            return _nest(loop[:outer], names[:outer], [*body, f"{texts[0]} = total{scale};"], scope=True)
        out = self._graph[op.output]
        target = self._leaf(op.output, out.shape, out.shape)
        lines = self._loop(squeezed(out.shape), [target], lambda at: f"{at[0]} = {begin};")
        if inner is not None:
            loop, leaves = _moved_inside(loop, leaves, inner)
        lines += self._loop(loop, leaves, lambda at: combine(at[0], value(at)))
        if scale:
            lines += self._loop(squeezed(out.shape), [target], lambda at: f"{at[0]} = {at[0]}{scale};")
        return lines

    def gather(self, op: Op) -> list[str]:
        """Write the choice of parts along an axis by indices."""
        source, at, axis = self._graph[op.inputs[0]].shape, self._graph[op.inputs[1]].shape, op.attributes["axis"]
        shape, own, (array, offset) = self._graph[op.output].shape, strides(source), self.array(op.inputs[0])
        none = [Dim.of(0)]
        steps = [*own[:axis], *none * len(at), *own[axis + 1 :]]
        chosen, begin = self.array(op.inputs[1])
        along = [*none * axis, *strides(at), *none * (len(source) - axis - 1)]
        leaves = [self._leaf(op.output, shape, shape)]
        for place, first, each in ((array, offset, steps), (chosen, begin, along)):
            leaves.append(Leaf(place, first, [step for step, dim in zip(each, shape, strict=True) if dim != 1]))
        index = f"* {own[axis]}" if own[axis] != 1 else ""
        return self._loop(
            squeezed(shape), leaves, lambda text: f"{text[0]} = {text[1][:-1]} + {text[2]} {index}".rstrip() + "];"
        )

    def gather_elements(self, op: Op) -> list[str]:
        """Write the choice of numbers along an axis by indices, each index along the same axis of its own place."""
        at = self._graph[op.inputs[1]].shape
        leaves = [self._leaf(op.output, at, at), self._leaf(op.inputs[1], at, at)]
        names, text, place = self._chosen(op.inputs[0], at, op.attributes["axis"], leaves)
        return _nest(squeezed(at), names, [f"{text[0]} = {place};"])

    def scatter_elements(self, op: Op) -> list[str]:
        """Write a copy, of which some numbers along an axis are others, by indices."""
        shape, at = self._graph[op.output].shape, self._graph[op.inputs[1]].shape
        copied = [self._leaf(op.output, shape, shape)]
        known = self._graph[op.inputs[0]].constant
        if known is not None and np.all(known == known.flat[0]):  # as many numbers as W has need not be stored
            one = literal(known.flat[0].item(), self._graph[op.output].dtype)
            lines = self._loop(squeezed(shape), copied, lambda text: f"{text[0]} = {one};")
        else:
            copied.append(self._leaf(op.inputs[0], shape, shape))
            lines = self._loop(squeezed(shape), copied, lambda text: f"{text[0]} = {text[1]};")
        leaves = [self._leaf(op.inputs[2], at, at), self._leaf(op.inputs[1], at, at)]
        names, text, place = self._chosen(op.output, at, op.attributes["axis"], leaves)
        return lines + _nest(squeezed(at), names, [f"{place} = {text[0]};"])

    def _chosen(self, name: str, at: Dims, axis: int, leaves: list[Leaf]) -> tuple[list[str], list[str], str]:
        """The names of loops over indices, the texts of the leaves in them, and the number that they mean."""
        own, (array, offset) = strides(self._graph[name].shape), self.array(name)
        names = [f"i{index}" for index in range(len(squeezed(at)))]
        axes = [index for index, dim in enumerate(at) if dim != 1]
        terms = [_times(own[index], each) for index, each in zip(axes, names, strict=True) if index != axis]
        text = [_at(leaf, names) for leaf in leaves]
        terms += [f"{text[1]} * {own[axis]}" if own[axis] != 1 else text[1]]
        terms += [str(offset)] if offset != 0 else []
        return names, text, f"{array}[{' + '.join(terms)}]"

    def range(self, op: Op) -> list[str]:
        """Write the numbers from 0 on."""
        array, offset = self.array(op.output)
        leaf = Leaf(array, offset, [Dim.of(1)])
        return self._loop(self._graph[op.output].shape, [leaf], lambda at: f"{at[0]} = i0;")

    def _expression(self, op: Op, leaves: list[Leaf]) -> Callable[[list[str]], str]:
        """Collect what an operation reads, and return a function from the texts of all leaves to its expression."""
        shape, dtype = self._graph[op.output].shape, self._graph[op.output].dtype
        operands = [self._operand(name, shape, leaves) for name in op.inputs]
        operator = op.attributes["operator"]
        types = [self._graph[name].dtype for name in op.inputs]

        def text(at: list[str]) -> str:
            given = [operand(at) for operand in operands]
            own = dtype if operator == "Cast" else types[-1]
            words = {name: _call(name, own) for name in _FUNCTIONS}
            words |= {"type": dtype, "zero": literal(0.0, own), "one": literal(1.0, own)}
            return ELEMENTWISE[operator].format(*given, **words)

        return text

    def _operand(self, name: str, shape: Dims, leaves: list[Leaf]) -> Callable[[list[str]], str]:
        tensor = self._graph[name]
        if tensor.value is not None and tensor.size == 1:
            value = tensor.value.item()
            number = str(value) if isinstance(value, Dim) else literal(value, tensor.dtype)
            return lambda _: f"({number})" if isinstance(value, Dim) else number
        root = name
        while (made := self._graph.producer(root)) and made.kind == "view" and root not in self._hidden:
            root = made.inputs[0]
        if root in self._hidden:
            made = self._graph.producer(root)
            assert made is not None
            if made.kind == "elementwise":
                return self._expression(made, leaves)
            leaves.append(self._copied(made))
        else:
            leaves.append(self._leaf(name, tensor.shape, shape))
        index = len(leaves) - 1
        return lambda at: at[index]

    def _leaf(self, name: str, shape: Dims, loop: Dims) -> Leaf:
        """An array as a loop over a larger shape reads it: it stays where it is along axes of one."""
        array, offset = self.array(name)
        steps = [Dim.of(0) if dim == 1 else step for dim, step in zip(shape, strides(shape), strict=True)]
        steps = [Dim.of(0)] * (len(loop) - len(shape)) + steps
        return Leaf(array, offset, [step for step, dim in zip(steps, loop, strict=True) if dim != 1])

    def _loop(self, shape: Dims, leaves: list[Leaf], body: Callable[[list[str]], str]) -> list[str]:
        """Write nested loops over a shape, as few as can be."""
        shape, leaves = _merged(shape, leaves)
        names = [f"i{axis}" for axis in range(len(shape))]
        return _nest(shape, names, [body([_at(leaf, names) for leaf in leaves])])


_LANES = 8
"""Sums of so many lanes run side by side: a sum of one waits for each addition."""


def _innermost(leaves: list[Leaf]) -> int | None:
    """The axis to pass last, if a reduction reads in larger steps along the last one: it stays, and is in order."""
    target, *read = (leaf.steps for leaf in leaves)
    if not target or all(steps[-1] in (0, 1) for steps in read):
        return None
    kept = (axis for axis, step in enumerate(target) if step == 1)
    return next((axis for axis in kept if all(steps[axis] in (0, 1) for steps in read)), None)


def _moved_inside(shape: Dims, leaves: list[Leaf], axis: int) -> tuple[Dims, list[Leaf]]:
    """Pass an axis last."""
    order = [*range(axis), *range(axis + 1, len(shape)), axis]
    return tuple(shape[each] for each in order), [
        leaf._replace(steps=[leaf.steps[each] for each in order]) for leaf in leaves
    ]


def _in_lanes(shape: Dims, names: list[str], dtype: str, value: str) -> list[str]:
    """Write a sum over a shape, but for what is left of the last axis, in lanes that are added up to `total`."""
    last, name = shape[-1].at(1) // _LANES * _LANES, names[-1]
    zeros = literal(0.0, dtype)
    lines = [
        f"for (int {name} = 0; {name} < {last}; {name} += {_LANES}) {{",
        f"    for (int l = 0; l < {_LANES}; ++l) {{",
        f"        lanes[l] += {value};",
        "    }",
        "}",
    ]
    body = [f"{dtype} lanes[{_LANES}] = {{{zeros}}};", *_nest(shape[:-1], names[:-1], lines)]
    return [*body, f"for (int l = 0; l < {_LANES}; ++l) {{", "    total += lanes[l];", "}"]


def _merged(shape: Dims, leaves: list[Leaf]) -> tuple[Dims, list[Leaf]]:
    """Join neighbouring axes that all arrays pass as one."""
    dims, steps = list(shape), [list(leaf.steps) for leaf in leaves]
    axis = len(dims) - 2
    while axis >= 0:
        if all(each[axis] == each[axis + 1] * dims[axis + 1] for each in steps):
            dims[axis] = dims[axis] * dims[axis + 1]
            for each in steps:
                each[axis] = each[axis + 1]
                del each[axis + 1]
            del dims[axis + 1]
        axis -= 1
    return tuple(dims), [leaf._replace(steps=each) for leaf, each in zip(leaves, steps, strict=True)]


def _nest(shape: Dims, names: list[str], body: list[str], scope: bool = False) -> list[str]:
    lines = body
    for dim, name in reversed(list(zip(shape, names, strict=True))):
        lines = [f"for (int {name} = 0; {name} < {dim}; ++{name}) {{", *("    " + line for line in lines), "}"]
    return ["{", *("    " + line for line in lines), "}"] if scope and not shape else lines


def _at(leaf: Leaf, names: list[str]) -> str:
    terms = [str(leaf.offset)] if leaf.offset != 0 else []
    terms += [_times(step, name) for step, name in zip(leaf.steps, names, strict=True) if step != 0]
    return f"{leaf.array}[{' + '.join(terms) or 0}]"


def _times(step: Dim, name: str) -> str:
    if step == 1:
        return name
    text = str(step)
    return f"{name} * ({text})" if " + " in text else f"{name} * {text}"


_FUNCTIONS = ("abs", "sqrt", "exp", "log", "sigmoid", "tanh", "max", "min", "pow", "sin", "cos", "erf", "floor")


def _call(name: str, dtype: str) -> str:
    """The function in C. Those of the math library are called by its names."""
    own = {"exp", "sigmoid", "max", "min"} if dtype == "float" else {"sigmoid", "max", "min"}
    name = "f" + name if name == "abs" else name
    if name in own:
        return f"{name}_{dtype}"
    return f"{name}f" if dtype == "float" else name
