"""Products of matrices in C equal those of numpy: of every size and layout, and of several matrices in any order."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph, Op
from msr_c.graphs.orders import Order, fewest, multiplications
from msr_c.rewriting.chains import join_chains
from msr_c.writing.chains import plan_chain

_SIZES = (
    (1, 1, 1),
    (4, 18, 7),
    (7, 3, 40),
    (8, 16, 32),
    (10, 2, 64),
    (13, 17, 33),
    (20, 64, 65),
    (64, 31, 18),
    (1, 150, 9),
)
"""Rows, columns and what is summed up: below, at and above the sizes of blocks."""
_LAYOUTS = tuple(product((False, True), (False, True)))
_FEW, _MANY = 4, 5
"""Samples up to which, and from which on, the gradient below is multiplied in another order."""


def _name(size: tuple[int, int, int], layout: tuple[bool, bool]) -> str:
    return "_".join(map(str, ("product", *size, *map(int, layout))))


def _matrix_product(size: tuple[int, int, int], layout: tuple[bool, bool]) -> Graph:
    """Return a graph that multiplies two matrices, each stored as it is or transposed."""
    graph = Graph("adapt")
    (rows, columns, depth), (ta, tb) = size, layout
    graph.add("a", "float", (depth, rows) if ta else (rows, depth))
    graph.add("b", "float", (columns, depth) if tb else (depth, columns))
    graph.add("c", "float", (rows, columns))
    graph.inputs, graph.outputs = ["a", "b"], ["c"]
    graph.ops = [Op("matmul", ["a", "b"], ["c"], {"ta": ta, "tb": tb})]
    return graph


def _gradient() -> Graph:
    """Return a graph of `Fᵀ (deltaᵀ a) Gᵀ`, over n samples."""
    graph, n = Graph("adapt"), Dim.samples()
    shapes = {"a": (n, 5), "delta": (n, 4), "F": (4, 4), "G": (5, 5), "dW": (4, 5), "half": (4, 5), "dv": (4, 5)}
    for name, shape in shapes.items():
        graph.add(name, "float", shape)
    graph.inputs, graph.outputs = ["a", "delta", "F", "G"], ["dv"]
    graph.ops = [
        Op("matmul", ["delta", "a"], ["dW"], {"ta": True, "tb": False}),
        Op("matmul", ["dW", "G"], ["half"], {"ta": False, "tb": True}),
        Op("matmul", ["F", "half"], ["dv"], {"ta": True, "tb": False}),
    ]
    return graph


@pytest.fixture(scope="module", params=["gcc", "clang"])
def code(request: pytest.FixtureRequest, in_c: Callable[..., Any]) -> Any:
    """The functions of all products."""
    graphs = {_name(*each): _matrix_product(*each) for each in product(_SIZES, _LAYOUTS)}
    gradient = _gradient()
    join_chains(gradient)
    return in_c(graphs | {"gradient": gradient}, request.param)


@pytest.mark.parametrize("layout", _LAYOUTS)
@pytest.mark.parametrize("size", _SIZES)
def test_a_product_is_that_of_numpy(code: Any, size: tuple[int, int, int], layout: tuple[bool, bool]) -> None:
    rng, graph = np.random.default_rng(0), _matrix_product(size, layout)
    a, b = (rng.normal(size=[dim.at(1) for dim in graph[name].shape]).astype(np.float32) for name in graph.inputs)
    seen = code.run(_name(size, layout), {"a": a, "b": b})["c"]
    wanted = (a.T if layout[0] else a).astype(np.float64) @ (b.T if layout[1] else b)
    np.testing.assert_allclose(seen, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, _FEW, _MANY, 7])
def test_a_gradient_is_that_of_numpy_in_either_order(code: Any, n: int) -> None:
    rng = np.random.default_rng(n)
    shapes = {"a": (n, 5), "delta": (n, 4), "F": (4, 4), "G": (5, 5)}
    known = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    wanted = known["F"].T @ (known["delta"].T @ known["a"]) @ known["G"].T
    np.testing.assert_allclose(code.run("gradient", known)["dv"], wanted, rtol=1e-4, atol=1e-5)


def test_few_samples_are_multiplied_by_the_factors_first() -> None:
    """A gradient of many samples is summed over them first."""
    graph = _gradient()
    join_chains(graph)
    (chain,) = graph.ops
    assert (chain.kind, chain.inputs) == ("chain", ["F", "delta", "a", "G"])
    at = {n: fewest([size.at(n) for size in chain.attributes["sizes"]]) for n in (_FEW, _MANY)}
    assert at[_FEW] == ((0, 1), (2, 3))
    assert at[_MANY] != at[_FEW]
    orders = plan_chain(graph, chain, _MANY + 2)
    assert orders.limit == _MANY
    assert orders.many


def test_a_product_whose_order_saves_nothing_stays() -> None:
    """A fold by Kronecker factors takes as long in either order."""
    graph = Graph("adapt")
    for name in ("F", "v", "G", "half", "W"):
        graph.add(name, "float", (4, 4))
    graph.inputs, graph.outputs = ["F", "v", "G"], ["W"]
    graph.ops = [
        Op("matmul", ["F", "v"], ["half"], {"ta": False, "tb": False}),
        Op("matmul", ["half", "G"], ["W"], {"ta": False, "tb": True}),
    ]
    join_chains(graph)
    assert [op.kind for op in graph.ops] == ["matmul", "matmul"]


def _orders(first: int, end: int) -> list[Order]:
    """Return every order."""
    if end - first == 1:
        return [first]
    parts = [(_orders(first, middle), _orders(middle, end)) for middle in range(first + 1, end)]
    return [pair for left, right in parts for pair in product(left, right)]


@given(st.lists(st.integers(1, 20), min_size=2, max_size=7))
def test_no_order_takes_fewer_multiplications(sizes: list[int]) -> None:
    every = [multiplications(order, sizes) for order in _orders(0, len(sizes) - 1)]
    assert multiplications(fewest(sizes), sizes) == min(every)
