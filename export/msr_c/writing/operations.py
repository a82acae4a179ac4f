"""Write each operation of a graph in C: as a loop, or as a call of a kernel."""

from collections.abc import Callable

from msr_c.graphs.building import broadcast, strides
from msr_c.graphs.constants import Constants
from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, Op
from msr_c.writing.chains import Orders, plan_chain
from msr_c.writing.loops import Loops, hidden
from msr_c.writing.memory import Memory
from msr_c.writing.text import comment, identifier
from msr_c.writing.windows import Window
from msr_runtime.errors import ExportError


def add_scratch(graph: Graph, constants: Constants, most: int) -> None:
    """Give operations the memory that they compute in, for at most so many samples."""
    for op in graph.ops:
        if op.kind == "damped":
            J = graph[op.inputs[0]]
            size = min(dim.at(most) for dim in J.shape)
            shapes = (size, size), (size, size), (size,)
            op.attributes["scratch"] = tuple(graph.new("system", shape, J.dtype) for shape in shapes)
        if op.kind == "solve":
            rows = graph[op.inputs[0]].shape[0]
            op.attributes["scratch"] = (graph.new("factor", (rows, rows), graph[op.inputs[0]].dtype),)
        elif op.kind == "chain":
            orders = plan_chain(graph, op, most)
            needed, begins = orders.room(graph, most)
            room = graph.new("products", (needed,), graph[op.output].dtype)
            within = {name: (room, begin) for name, begin in begins.items()}
            op.attributes |= {"orders": orders, "scratch": (room,), "within": within}
        elif op.kind in ("conv", "conv transpose", "conv filters"):
            _add_frames(graph, op, most)
        elif op.kind in ("fold", "pull", "step", "slopes"):
            symmetry = constants.symmetries[op.attributes["U"]]
            plain = symmetry.stored.precision == "float32"
            rows = 0 if plain else 2 if op.kind in ("fold", "step") else 1
            op.attributes["scratch"] = (graph.new("rows of U", (rows, symmetry.rows.shape[1])),) if rows else ()
            if op.kind == "slopes":
                inputs, outputs = symmetry.weight
                samples = graph[op.inputs[0]].size // inputs
                op.attributes["scratch"] += (graph.new("part", (samples, outputs)),)


def _add_frames(graph: Graph, op: Op, most: int) -> None:
    """Plan how much of a convolution is computed at a time."""
    images = op.inputs[0], op.inputs[1] if op.kind == "conv filters" else op.output
    dtype, turned = graph[op.output].dtype, op.kind == "conv transpose"
    small, large = (graph[name].shape for name in (images if turned else images[::-1]))
    window = Window.of(large, small, op.attributes)
    most = large[0].at(most)
    part = window.spread(most) if turned else window.convolved(most)
    floats, ints = [part.frame], [part.depth, part.positions]
    if turned:
        floats.append(part.depth * window.inner // window.groups)
    ints.append(part.depth if op.kind == "conv filters" else part.positions)
    names = [graph.new("frame", (size,), dtype) for size in floats]
    names += [graph.new("places", (size,), "int") for size in ints]
    op.attributes["scratch"], op.attributes["window"] = tuple(names), (window, part)


class Writer:
    """Writes the operations of one graph.

    Args:
        graph: The graph.
        constants: The constants of the bundle.
        samples: N, the most samples.
        arguments: Input or output to the array in C that holds it.
    """

    def __init__(self, graph: Graph, constants: Constants, samples: int, arguments: dict[str, str]) -> None:
        self._graph, self._constants = graph, constants
        self._hidden = hidden(graph)
        self.memory = Memory(graph, samples, arguments, self._hidden)
        self._loops = Loops(graph, self.memory, self._hidden, self._constant)
        self.kernels: set[str] = set()
        """The kernels that are called."""

    def lines(self) -> list[str]:
        """Return the body of the graph's function."""
        lines = []
        for op in self._graph.ops:
            if op.kind == "view":
                lines += self._copied(op)
            elif op.output not in self._hidden if len(op.outputs) == 1 else True:
                lines += [comment(", ".join(op.outputs)), *self._write(op)]
        return lines

    def _constant(self, name: str) -> str:
        value = self._graph[name].constant
        if value is None:
            raise ExportError(f"{self._graph.name}.onnx computes with several sizes at once, which is not written in C")
        return self._constants.name(value)

    def _copied(self, op: Op) -> list[str]:
        """A view that is an output has memory of its own."""
        if op.output not in self._graph.outputs:
            return []
        steps = {"strides": strides(self._graph[op.output].shape), "offset": op.attributes["offset"]}
        return self._loops.strided(Op("strided", op.inputs, op.outputs, steps))

    def _write(self, op: Op) -> list[str]:
        plain: dict[str, Callable[[Op], list[str]]] = {
            "elementwise": self._loops.elementwise,
            "strided": self._loops.strided,
            "concat": self._loops.concat,
            "pad": self._loops.pad,
            "reduce": self._loops.reduce,
            "range": self._loops.range,
            "gather": self._loops.gather,
            "gather elements": self._loops.gather_elements,
            "scatter elements": self._loops.scatter_elements,
            "matmul": self._matmul,
            "chain": self._chain,
            "fold": self._fold,
            "pull": self._pull,
            "step": self._step,
            "slopes": self._slopes,
            "solve": self._solve,
            "damped": self._damped,
            "conv": self._convolve,
            "conv transpose": self._convolve,
            "conv filters": self._convolve,
        }
        return plain[op.kind](op)

    def _pointer(self, name: str) -> str:
        array, offset = self._loops.array(name)
        return array if offset == 0 else f"{array} + {offset}"

    def _call(self, kernel: str, *arguments: object) -> str:
        self.kernels.add(kernel)
        return f"{kernel}({', '.join(map(str, arguments))});"

    def _matmul(self, op: Op) -> list[str]:
        graph = self._graph
        a, b = (graph[name] for name in op.inputs[:2])
        if len(a.shape) > 2 or len(b.shape) > 2:
            return self._stacked(op)
        bias = "NULL"
        if len(op.inputs) > 2:
            bias = self._pointer(op.inputs[2])
            if graph[op.inputs[2]].size != graph[op.output].shape[1]:
                raise ExportError(f"{graph.name}.onnx adds a matrix in a Gemm, and only rows are written in C")
        out, ta, tb = graph[op.output], op.attributes["ta"], op.attributes["tb"]
        rows, columns = out.shape
        depth = graph[op.inputs[0]].shape[0 if ta else -1]
        if op.inputs[0] == op.inputs[1] and tb and not ta and bias == "NULL":
            return [self._call(f"gram_{out.dtype}", rows, depth, self._pointer(op.inputs[0]), self._pointer(op.output))]
        return [self._product(op, (rows, columns, depth), [self._pointer(name) for name in op.inputs[:2]], bias)]

    def _chain(self, op: Op) -> list[str]:
        orders: Orders = op.attributes["orders"]
        few, many = ([line for op in ops for line in self._matmul(op)] for ops in (orders.few, orders.many))
        if not many:
            return few
        ways = [["    " + line for line in lines] for lines in (few, many)]
        return [f"if (n < {orders.limit}) {{", *ways[0], "} else {", *ways[1], "}"]

    def _product(
        self, op: Op, sizes: tuple[Dim, Dim, Dim], operands: list[str], bias: str = "NULL", out: str = ""
    ) -> str:
        rows, columns, depth = sizes
        ta, tb, dtype = op.attributes["ta"], op.attributes["tb"], self._graph[op.output].dtype
        out = out or self._pointer(op.output)
        if tb:
            kernel = f"product_tt_{dtype}" if ta else f"product_t_{dtype}"
            return self._call(kernel, rows, columns, depth, *operands, bias, out)
        row, step = (1, rows) if ta else (depth, 1)
        return self._call(f"product_{dtype}", rows, columns, depth, operands[0], row, step, operands[1], bias, out)

    def _stacked(self, op: Op) -> list[str]:
        """A product of stacks of matrices: of each pair by itself."""
        graph = self._graph
        a, b, out = graph[op.inputs[0]], graph[op.inputs[1]], graph[op.output]
        batch = broadcast(a.shape[:-2], b.shape[:-2])
        texts = []
        for name in (*op.inputs, op.output):
            shape = graph[name].shape
            steps = strides(shape)[:-2]
            steps = [Dim.of(0) if dim == 1 else step for dim, step in zip(shape[:-2], steps, strict=True)]
            steps = [Dim.of(0)] * (len(batch) - len(steps)) + steps
            terms = [f"i{axis} * ({step})" for axis, step in enumerate(steps) if step != 0 and batch[axis] != 1]
            texts.append(" + ".join([self._pointer(name), *terms]))
        depth = a.shape[-2] if op.attributes["ta"] else a.shape[-1]
        body = [self._product(op, (out.shape[-2], out.shape[-1], depth), texts[:2], out=texts[2])]
        for axis, dim in reversed(list(enumerate(batch))):
            if dim != 1:
                body = [f"for (int i{axis} = 0; i{axis} < {dim}; ++i{axis}) {{", *("    " + each for each in body), "}"]
        return body

    def _symmetry(self, op: Op) -> tuple[int, int, str, str]:
        """The sizes of an operation's U, the kernel for how U is stored, and what the kernel reads it by."""
        symmetry = self._constants.symmetries[op.attributes["U"]]
        name, precision = identifier(symmetry.name), symmetry.stored.precision
        scales = "NULL" if symmetry.stored.scales is None else f"{name}_scales"
        return *symmetry.rows.shape, f"{op.kind}_{precision}", f"{name}, {scales}, {self._rows(op)}"

    def _rows(self, op: Op) -> str:
        """Where rows of U are read into."""
        scratch = [name for name in op.attributes["scratch"] if name.startswith("rows of U")]
        return self._pointer(scratch[0]) if scratch else "NULL"

    def _fold(self, op: Op) -> list[str]:
        k, count, kernel, U = self._symmetry(op)
        v, out = map(self._pointer, (*op.inputs, op.output))
        return [self._call(kernel, k, count, v, U, out)]

    def _pull(self, op: Op) -> list[str]:
        k, count, kernel, U = self._symmetry(op)
        rows = self._graph[op.inputs[0]].size // count
        gradient, out = map(self._pointer, (*op.inputs, op.output))
        return [self._call(kernel, rows, k, count, gradient, U, out)]

    def _step(self, op: Op) -> list[str]:
        k, count, kernel, U = self._symmetry(op)
        v, rates, gradient = map(self._pointer, op.inputs)
        each = 0 if self._graph[op.inputs[1]].size == 1 else 1
        outputs = map(self._pointer, op.outputs)
        return [self._call(kernel, k, count, v, rates, each, gradient, U, *outputs)]

    def _slopes(self, op: Op) -> list[str]:
        k, _, kernel, U = self._symmetry(op)
        inputs, outputs = self._constants.symmetries[op.attributes["U"]].weight
        a, delta = (self._graph[name] for name in op.inputs)
        samples = a.size // inputs
        rows = delta.size // outputs // samples
        first, second, part, out = map(self._pointer, (*op.inputs, op.attributes["scratch"][-1], op.output))
        sizes = samples, rows, inputs, outputs, k
        return [self._call(kernel, *sizes, first, second, U, part, out)]

    def _convolve(self, op: Op) -> list[str]:
        """A convolution, or a gradient of one."""
        window, part = op.attributes["window"]
        kernel = {"conv": "convolve", "conv transpose": "spread", "conv filters": "filters"}[op.kind]
        n, dtype = self._graph[op.inputs[0]].shape[0], self._graph[op.output].dtype
        given = [*map(self._pointer, op.inputs)]
        if op.kind != "conv filters" and len(given) == 2:
            given.append("NULL")  # there is no bias
        places = map(self._pointer, (op.output, *op.attributes["scratch"]))
        return [self._call(f"{kernel}_{dtype}", n, window.text(part), *given, *places)]

    def _solve(self, op: Op) -> list[str]:
        A, b = op.inputs
        (factor,) = op.attributes["scratch"]
        rows, dtype = self._graph[A].shape[0], self._graph[A].dtype
        return [self._call(f"solve_{dtype}", rows, *map(self._pointer, (A, b, factor, op.output)))]

    def _damped(self, op: Op) -> list[str]:
        J = self._graph[op.inputs[0]]
        arrays = map(self._pointer, (*op.inputs, *op.attributes["scratch"], op.output))
        return [self._call(f"damped_{J.dtype}", *J.shape, *arrays)]
