"""The linear system of a Gauss-Newton step as an ONNX graph: a Cholesky factorization, written out.

ONNX has no operator that solves a linear system. If its size K is known, all steps of an elimination can be written as
operators of their own. The factorization goes by halves: it factorizes the upper half, subtracts what this half
explains from the lower one, and factorizes the rest. Most products are then large. Only small blocks on the diagonal
are eliminated row by row.

The graph `sums, samples, v[, step] -> v_next` holds neither U nor the network. Every number of the sums is a sum over
samples, so the size of the graph and its time do not depend on how many there are.

Source: Gustavson, "Recursion leads to automatic variable blocking for dense linear-algebra algorithms", 1997.
"""

from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from msr_export.lowering import OPSET, encode
from msr_runtime.bundle.manifest import STEP
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.gauss_newton import GaussNewton

LARGEST = 1024
"""The largest K for which the graph is written. It grows by four operators per row, and the robot loads them all."""
_BLOCK = 16
"""Rows of a block on the diagonal. Smaller ones need more products, larger ones move more numbers per row. Measured."""


def freeze_elimination(learner: Learner, rule: GaussNewton) -> bytes:
    """Write the part of a step that is left when the sums over the samples are known (see `GaussNewton.sums`).

    The inputs are the sums `(K, K + 1)` in float64, the number of samples `(1,)`, v `(1, K)` and, if there is more than
    one damping, the index of the step `(1,)`. The output is the v after the step.

    Args:
        learner: The learner, float32, on the CPU.
        rule: Its rule, which moves all adapted tensors in the learner's order.

    """
    graph, start = _Graph(), learner.start()
    with torch.no_grad():
        scales, indices = rule.scales(), range(rule.own_steps)
        scale = torch.cat([scales[name].expand(start[name].numel()) for name in rule.names]).numpy()
        dampings = torch.stack([rule.damping(index) for index in indices]).numpy()
    K, targets = len(scale), 1 if learner.classifies else int(np.prod(learner.outputs))
    several = len(dampings) > 1
    damping = graph.constant("dampings", dampings)
    if several:
        damping = graph.add("Gather", damping, graph.add("Min", STEP, graph.integers(len(dampings) - 1)))
    # As in training: the product in float32, then everything in float64.
    numbers = graph.add("Cast", graph.add("Mul", "samples", graph.integers(targets)), to=TensorProto.FLOAT)
    damping = graph.add("Cast", graph.add("Mul", damping, numbers), to=TensorProto.DOUBLE)
    z = graph.add("Cast", graph.add("Transpose", _solve(graph, "sums", K, damping)), to=TensorProto.FLOAT)
    graph.add("Sub", "v", graph.add("Mul", z, graph.constant("scales", scale)), named="v_next")
    value = helper.make_tensor_value_info
    inputs = [
        value("sums", TensorProto.DOUBLE, [K, K + 1]),
        value("samples", TensorProto.INT64, [1]),
        value("v", TensorProto.FLOAT, [1, K]),
        *([value(STEP, TensorProto.INT64, [1])] if several else []),
    ]
    outputs = [value("v_next", TensorProto.FLOAT, [1, K])]
    made = helper.make_graph(graph.nodes, "solve", inputs, outputs, [*graph.constants.values()])
    return encode(helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)]))


class _Graph:
    """The operators and constants written so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._made = 0

    def constant(self, name: str, value: NDArray) -> str:
        """Add a constant, or find the one of this name. Returns its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def integers(self, *values: int) -> str:
        """Add a list of integers."""
        return self.constant("_".join(map(str, ("integers", *values))), np.array(values, np.int64))

    def identity(self, rows: int, columns: int) -> str:
        """The first columns of an identity matrix, `(rows, columns)` in float64. Stored is a byte of each number."""
        name = f"identity_{rows}_{columns}"
        if name not in self.constants:
            stored = self.constant(name, np.eye(rows, columns, dtype=np.int8))
            self.add("Cast", stored, named=f"{name}_double", to=TensorProto.DOUBLE)
        return f"{name}_double"

    def add(self, operator: str, *inputs: str, named: str | None = None, **attributes: Any) -> str:
        """Add an operator. Returns the name of its output."""
        self._made += 1
        output = named or f"value_{self._made}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def columns(self, matrix: str, first: int, last: int) -> str:
        """Cut the columns from `first` up to `last`, without it, out of a matrix."""
        return self.add("Slice", matrix, *map(self.integers, (first, last, 1)))

    def corner(self, matrix: str, first: int, rows: int, columns: int) -> str:
        """Cut the rows and columns from `first` on out of a matrix with that many rows and columns."""
        return self.add("Slice", matrix, *(self.integers(*each) for each in ((first, first), (rows, columns), (0, 1))))


class _Rows(NamedTuple):
    """Some rows of the factorized system `L⁻¹ [A | b]`, right of their block on the diagonal."""

    inverse: str
    """The inverse of the block of L on the diagonal, `(size, size)`."""
    rest: str
    """What is right of the block, `(size, width)`: columns of Lᵀ, and the right side last."""
    size: int
    width: int


def _solve(graph: _Graph, sums: str, K: int, damping: str) -> str:
    """Add the solution x `(K, 1)` of `(A + damping I) x = b`. The sums are the upper triangle of A, and b beside it."""
    x = ""
    for rows in reversed(_factorize(graph, sums, K, K + 1, damping)):
        right = rows.rest
        if x:
            known = graph.add("MatMul", graph.columns(rows.rest, 0, rows.width - 1), x)
            right = graph.add("Sub", graph.columns(rows.rest, rows.width - 1, rows.width), known)
        part = graph.add("Gemm", rows.inverse, right, transA=1)
        x = graph.add("Concat", part, x, axis=0) if x else part
    return x


def _factorize(graph: _Graph, rows: str, size: int, width: int, damping: str) -> list[_Rows]:
    """Factorize rows `(size, width)` whose first block `(size, size)` is on the diagonal. Reads its upper triangle."""
    if size <= _BLOCK:
        block = graph.columns(rows, 0, size)
        damped = graph.add("Add", block, graph.add("Mul", graph.identity(size, size), damping))
        inverse = _inverse_factor(graph, damped, size)
        rest = graph.add("MatMul", inverse, graph.columns(rows, size, width))
        return [_Rows(inverse, rest, size, width - size)]
    half = -(-size // _BLOCK) // 2 * _BLOCK
    first = graph.add("Slice", rows, *map(graph.integers, (0, half, 0)))
    upper = _factorize(graph, first, half, width, damping)
    kept = width - half
    beside = [graph.columns(each.rest, each.width - kept, each.width) for each in upper]
    explained = graph.add("Concat", *beside, axis=0) if len(beside) > 1 else beside[0]
    across = graph.columns(explained, 0, size - half)
    lower = graph.corner(rows, half, size, width)
    left = graph.add("Gemm", across, explained, lower, transA=1, alpha=-1.0)
    return upper + _factorize(graph, left, size - half, kept, damping)


def _inverse_factor(graph: _Graph, block: str, size: int) -> str:
    """Add L⁻¹ for a block `L Lᵀ`. Reads its upper triangle."""
    identity = graph.identity(size, size)
    # The elimination of [[A, I], [I, 0]], without roots: its first rows become [D Lᵀ | L⁻¹], with ones on the diagonal
    # of L. What is eliminated stays where it is. So by symmetry a row is also the column that it eliminates.
    upper = graph.add("Concat", block, identity, axis=1)
    lower = graph.identity(size, 2 * size)
    left, rows = graph.add("Concat", upper, lower, axis=0), []
    for index in range(size):
        row = graph.add("Gather", left, graph.integers(index), axis=0)
        rows.append(row)
        if index < size - 1:
            scaled = graph.add("Div", row, graph.add("Gather", row, graph.integers(index), axis=1))
            left = graph.add("Gemm", row, scaled, left, transA=1, alpha=-1.0)
    whole = graph.add("Concat", *rows, axis=0) if size > 1 else rows[0]
    diagonal = graph.add("Mul", graph.columns(whole, 0, size), identity)
    roots = graph.add("Sqrt", graph.add("ReduceSum", diagonal, graph.integers(1), keepdims=1))
    return graph.add("Div", graph.columns(whole, size, 2 * size), roots)
