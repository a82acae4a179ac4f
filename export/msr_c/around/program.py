"""The C source and header of a bundle: constants, one function for each graph, and the functions that users call."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from msr_c.around.public import Sizes, header, public_functions
from msr_c.rewriting.translation import Translation
from msr_c.writing.kernels import kernels
from msr_c.writing.operations import Writer, add_scratch
from msr_c.writing.text import array, comment, identifier, plain
from msr_runtime.bundle.manifest import Manifest, next_name
from msr_runtime.bundle.store import ADAPT, DEVIATION, LOSS, PREDICT, UPDATE
from msr_runtime.errors import ExportError
from msr_runtime.relinearization import LINEARIZED
from msr_runtime.task import width


class Program(NamedTuple):
    """A bundle in C."""

    header: str
    source: str


class _Function(NamedTuple):
    """The function of one graph."""

    text: str
    memory: dict[str, int]
    kernels: set[str]


def write_program(
    manifest: Manifest,
    digest: str,
    translation: Translation,
    name: str,
    shots: int,
) -> Program:
    """Write a bundle in C.

    Args:
        manifest: The bundle's manifest.
        digest: The bundle's digest.
        translation: Its graphs.
        name: What all names in C begin with.
        shots: N, the most samples of a support set.

    Raises:
        ExportError: If an array would have more numbers than C counts here.
    """
    functions = {file: _function(file, translation, name, shots) for file in translation.graphs}
    called: set[str] = set().union(*(each.kernels for each in functions.values()))
    own = {"exp_float", "sigmoid_float", "sigmoid_double", *(f"{m}_{t}" for m in ("max", "min") for t in _TYPES)}
    called |= {each for each in own if any(f"{each}(" in function.text for function in functions.values())}
    shared = {file: function.memory for file, function in functions.items() if file != PREDICT}
    memory = {dtype: max((each.get(dtype, 0) for each in shared.values()), default=0) for dtype in _TYPES}
    sizes = Sizes(name, shots, {dtype: count for dtype, count in memory.items() if count}, translation.start)
    samples = shots * max(width(manifest.inputs), width(manifest.outputs))
    if (largest := max(samples, *memory.values())) > _MOST:
        raise ExportError(
            f"for {shots} samples, the C code would need {largest:.3g} numbers in one array, but it counts up to "
            f"{_MOST}: take fewer samples (--shots), or run the bundle with ONNX Runtime"
        )
    parts = [
        _TOP.format(name=name, manifest=plain(manifest.name), digest=digest),
        "\n".join(_constants(translation, called)),
        _start(translation, name),
        kernels(called),
        *(function.text for function in functions.values()),
        public_functions(manifest, sizes, translation),
    ]
    return Program(header(manifest, digest, sizes, translation), "\n".join(parts))


_TYPES = ("float", "double", "int")
_MOST = 2**31 - 1
"""The largest number of an int."""
_TOP = """/* {manifest}: written by `msr export --c` of the bundle {digest}.

   Do not edit it: export again. {name}.h says how it is used. */
#include "{name}.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
"""


def _constants(translation: Translation, called: set[str]) -> Iterator[str]:
    for name, values in translation.constants.arrays.items():
        yield array(name, values.astype(np.int32) if values.dtype.kind in "iub" else values)
    for name, symmetry in translation.constants.symmetries.items():
        if not any(each.endswith(f"_{symmetry.stored.precision}") for each in called):
            continue
        k, count = symmetry.rows.shape
        yield comment(f"U of {name.removeprefix('U_')}: a row of {count} numbers for each of {k} filter parameters.")
        yield array(identifier(name), symmetry.stored.numbers)
        if symmetry.stored.scales is not None:
            yield array(f"{identifier(name)}_scales", symmetry.stored.scales)


def _start(translation: Translation, name: str) -> str:
    fields = [f".{identifier(each)} = {_body(array('x', value))}" for each, value in translation.start.items()]
    return f"static const {name}_network start = {{\n" + ",\n".join(fields) + "\n};\n"


def _body(definition: str) -> str:
    return definition.split(" = ", 1)[1].removesuffix(";\n")


def _function(file: str, translation: Translation, name: str, shots: int) -> _Function:
    graph, outputs = translation.graphs[file], translation.outputs[file]
    add_scratch(graph, translation.constants, shots)
    arguments, parameters = dict[str, str](), list[str]()
    states = set(translation.start)
    parameters.append(f"const {name}_network *restrict from")
    for each in graph.inputs:
        # update.onnx takes v beside the network at which it is linearized.
        held = each in states and (file, each) != (UPDATE, "v")
        arguments[each] = f"from->{identifier(each)}" if held else identifier(each)
        if each == LINEARIZED:
            arguments[each] = "from->v"
        elif not held:
            parameters.append(f"const {graph[each].dtype} *restrict {identifier(each)}")
    following = {next_name(each): each for each in states}
    if any(named in following for named in outputs.values()):
        parameters.append(f"{name}_network *restrict to")
    for each in graph.outputs:
        named = outputs[each]
        if named in following:
            arguments[each] = f"to->{identifier(following[named])}"
        else:
            arguments[each] = f"out_{identifier(named)}"
            parameters.append(f"{graph[each].dtype} *restrict out_{identifier(named)}")
    writer = Writer(graph, translation.constants, shots, arguments)
    body, memory = writer.lines(), writer.memory.sizes
    if file == PREDICT:
        places = [f"{dtype} work_{dtype}[{count}];" for dtype, count in memory.items()]
    else:
        places = [f"{dtype} *restrict work_{dtype} = work->{dtype}s;" for dtype in memory]
        parameters.append(f"{name}_workspace *restrict work")
    count = "int n, " if any(not dim.fixed and dim != 0 for each in graph.inputs for dim in graph[each].shape) else ""
    head = f"static void {graph.name}_graph({count}{', '.join(parameters)})"
    used = "\n".join(body)
    unused = [f"(void){word};" for word in _words(parameters, bool(count)) if not _uses(used, word) and word != "work"]
    unused += ["(void)work;"] if file != PREDICT and not memory else []
    lines = [f"/* {_SAYS[file]} */", head, "{", *("    " + line for line in [*places, *unused, *body]), "}", ""]
    return _Function("\n".join(lines), memory, writer.kernels)


_SAYS = {
    ADAPT: "adapt.onnx: one inner step from the samples, and the loss before it.",
    UPDATE: "update.onnx: what the filter makes of one sample.",
    LOSS: "loss.onnx: the mean loss of the samples, and that of each.",
    PREDICT: "predict.onnx: y of one x.",
    DEVIATION: "deviation.onnx: y of one x, and its standard deviations.",
}


def _words(parameters: list[str], count: bool) -> list[str]:
    return [*(["n"] if count else []), *(parameter.replace("*", " ").split()[-1] for parameter in parameters)]


def _uses(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text) is not None
