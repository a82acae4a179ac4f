"""Translate the graphs of a bundle into operations that are ready to be written in C."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_c.graphs.constants import Constants
from msr_c.graphs.dims import Dim
from msr_c.graphs.graph import Graph
from msr_c.reading.model import read_graph
from msr_c.rewriting.chains import join_chains
from msr_c.rewriting.channels import channels_last
from msr_c.rewriting.filters import find_filter_gradients
from msr_c.rewriting.layout import absorb_transposes, drop_views, join_biases, store_transposed
from msr_c.rewriting.parts import merge_equal, part_by_part, use_known_weights
from msr_c.rewriting.solving import join_steps, solve_by_cholesky, solve_the_smaller_system
from msr_c.rewriting.symmetry import find_folds, find_products
from msr_runtime.bundle.manifest import LOSSES, next_name
from msr_runtime.bundle.store import ADAPT, DEVIATION, LOSS, PREDICT, UPDATE, Bundle

_ROUNDS = 3
"""Each rewriting may make room for another one; a further round changes nothing in any graph of the exporter."""


class Translation(NamedTuple):
    """The graphs of a bundle, and what they share."""

    graphs: dict[str, Graph]
    """File to graph, for the graphs that the C code has."""
    outputs: dict[str, dict[str, str]]
    """File to the names of outputs: as the graph has it now, to as the bundle has it."""
    constants: Constants
    start: dict[str, NDArray]
    """"v" `(1, K)` and the weights at v0, as the C code stores them."""


def translate_bundle(bundle: Bundle) -> Translation:
    """Translate the graphs of a bundle.

    Raises:
        ExportError: If a graph computes something that cannot be written in C.
    """
    weights = [weight.name for weight in bundle.manifest.weights]
    start = {
        name: np.moveaxis(value, 0, -1) if name != "v" and value.ndim > 1 else value
        for name, value in bundle.start().items()
    }
    start = {name: np.ascontiguousarray(value) for name, value in start.items()}
    translation = Translation({}, {}, Constants(), start)
    for file in (ADAPT, UPDATE, LOSS, PREDICT, DEVIATION):  # the first ones say what U is
        if file in bundle.files:
            samples = Dim.of(1) if file == PREDICT else Dim.samples()
            graph = read_graph(bundle.files[file], file.removesuffix(".onnx"), samples)
            graph.outputs = [name for name in graph.outputs if name != LOSSES]
            graph.tidy()
            named = list(graph.outputs)
            find_filter_gradients(graph)
            channels_last(graph)
            store_transposed(graph, weights, next_name("{}"))
            translation.graphs[file] = graph
            translation.outputs[file] = dict(zip(graph.outputs, named, strict=True))
            _rewrite(graph, translation, file)
    return translation


def _rewrite(graph: Graph, translation: Translation, file: str) -> None:
    constants, names = translation.constants, {next_name(name): name for name in translation.start}
    weights = {
        now: names[name] for now, name in translation.outputs[file].items() if name in names and name != "v_next"
    }
    part_by_part(graph)
    find_folds(graph, constants, weights)
    find_products(graph, constants)
    use_known_weights(graph, constants, translation.start)
    solve_by_cholesky(graph)
    for _ in range(_ROUNDS):
        absorb_transposes(graph)
        drop_views(graph)
        join_biases(graph)
        merge_equal(graph)
    solve_the_smaller_system(graph)
    join_steps(graph)
    join_chains(graph)
