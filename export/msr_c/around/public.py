"""What a program calls: the header, and the functions that check what they are given before a graph runs."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_c.around.filtering import HEADER, SOURCE, WORKSPACE, filter_words
from msr_c.graphs.graph import Graph
from msr_c.rewriting.translation import Translation
from msr_c.writing.text import array, filled, identifier, plain
from msr_runtime.bundle.manifest import LOSS_AFTER, STEP, Manifest
from msr_runtime.bundle.store import ADAPT
from msr_runtime.task import SLACK, Field, output_shape, sample_shape


class Sizes(NamedTuple):
    """The names and sizes that header and source share."""

    name: str
    shots: int
    memory: dict[str, int]
    """C type to how many numbers of it the workspace holds."""
    start: dict[str, NDArray]
    """"v" and the weights, as they are stored."""


def header(manifest: Manifest, digest: str, sizes: Sizes, translation: Translation) -> str:
    """Return the header."""
    name, upper, files = sizes.name, sizes.name.upper(), set(translation.graphs)
    x, y = math.prod(sample_shape(manifest.inputs)), math.prod(output_shape(manifest.outputs, manifest.loss))
    filtering = filter_words(manifest, translation) if manifest.recursion else {}
    fields = "\n".join(f"    float {identifier(each)}[{value.size}];" for each, value in sizes.start.items())
    places = "\n".join(f"    {dtype} {dtype}s[{count}];" for dtype, count in sorted(sizes.memory.items()))
    steps = f"    {name}_network networks[2];\n" if ADAPT in files else ""
    steps = WORKSPACE if manifest.recursion else steps
    words = filtering | {
        "name": name,
        "NAME": upper,
        "family": plain(manifest.name),
        "digest": digest,
        "inputs": x,
        "outputs": y,
        "shots": sizes.shots,
        "steps": manifest.inner_steps,
        "filters": manifest.filter_parameters,
        "network": fields,
        "workspace": steps + (places or "    float floats[1];"),
        "x": _listed(manifest.inputs, upper, "X"),
        "y": _listed(manifest.outputs, upper, "Y"),
        "label": "const int *ys" if manifest.loss == "cross_entropy" else "const float *ys",
        "of_y": "a label each" if manifest.loss == "cross_entropy" else f"({upper}_OUTPUTS each)",
    }
    adapting = _ADAPT if ADAPT in files else ""
    return filled(_HEADER + adapting + (HEADER if manifest.recursion else "") + _END, words)


def _listed(fields: tuple[Field, ...], upper: str, side: str) -> str:
    """The places of the fields, with their units and bounds."""
    lines, begin = [], 0
    for field in fields:
        macro = f"#define {upper}_{side}_{identifier(field.name).upper()} {begin}"
        lines.append(f"{macro} /* {field.size} numbers in {plain(field.unit)}, {field.low:g} to {field.high:g} */")
        begin += field.size
    return "\n".join(lines)


_HEADER = """/* @family@: an adaptable network, written by `msr export --c` of the bundle @digest@.

   One function predicts, one adapts. They allocate nothing, keep nothing of their own, and call only the C library's
   mathematics. So threads and interrupts may call them at once, with a network and a workspace for each that changes.

       static @name@_network acting;
       static @name@_workspace work;
       @name@_init(&acting);
       if (@name@_predict(&acting, x, y) == @NAME@_OK) { ... }
*/
#ifndef MSR_@NAME@_H
#define MSR_@NAME@_H

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers of x and of y: all fields flattened, in this order, in raw units. */
#define @NAME@_INPUTS @inputs@
#define @NAME@_OUTPUTS @outputs@
@x@
@y@
/* The most samples of a support set, and the inner steps of meta-training. */
#define @NAME@_SHOTS @shots@
#define @NAME@_STEPS @steps@
/* K, the filter parameters v. */
#define @NAME@_FILTERS @filters@

/* What a function returns. After any other than OK, nothing was written but to the workspace. */
enum {
    @NAME@_OK = 0,
    @NAME@_NOT_FINITE = 1,        /* a number that was given is NaN or infinite */
    @NAME@_OUT_OF_LIMITS = 2,     /* a number is further outside its bounds than any working sensor */
    @NAME@_WRONG_SHOTS = 3,       /* the samples are fewer than 1 or more than @NAME@_SHOTS */
    @NAME@_WRONG_STEPS = 4,       /* the steps are fewer than 1 */
    @NAME@_WRONG_LABEL = 5,       /* a label is no class */
    @NAME@_NOT_FINITE_RESULT = 6  /* a result is NaN or infinite: the samples lead nowhere */
};

/* Filter parameters v, and the weights that are folded from them. Matrices are (inputs, outputs),
   filters (inputs, taps, outputs). */
typedef struct {
@network@
} @name@_network;

/* Memory to compute in. It holds nothing between two calls. */
typedef struct {
@workspace@
} @name@_workspace;

/* Set a network to the meta-learned start, v0. */
void @name@_init(@name@_network *network);

/* Compute y (@NAME@_OUTPUTS) of x (@NAME@_INPUTS). */
int @name@_predict(const @name@_network *network, const float *x, float *y);

/* Compute the mean loss of samples, on normalized outputs: xs (@NAME@_INPUTS each), ys @of_y@. */
int @name@_loss(const @name@_network *network, @name@_workspace *work, const float *xs, @label@, int shots,
                float *loss);
"""

_ADAPT = """
/* Adapt a network to samples by inner steps from where it is: @NAME@_STEPS of them from v0, as in meta-training.
   Adapt a copy and swap a pointer, and predictions never wait; on any status but OK the network is as it was. */
int @name@_adapt(@name@_network *network, @name@_workspace *work, const float *xs, @label@, int shots, int steps,
                 float *loss_before, float *loss_after);
"""

_END = """
#ifdef __cplusplus
}
#endif

#endif
"""


def public_functions(manifest: Manifest, sizes: Sizes, translation: Translation) -> str:
    """Return the functions that a program calls."""
    labels = manifest.loss == "cross_entropy"
    parts = [_CHECKS, _bounds(manifest)]
    words: dict[str, object] = {
        "inputs": math.prod(sample_shape(manifest.inputs)),
        "outputs": math.prod(output_shape(manifest.outputs, manifest.loss)),
        "filters": manifest.filter_parameters,
        "name": sizes.name,
        "NAME": sizes.name.upper(),
        "label": "const int *ys" if labels else "const float *ys",
        "check_y": _CHECK_LABELS if labels else _CHECK_Y,
        "classes": output_shape(manifest.outputs, manifest.loss)[0],
    }
    parts.append(_PLAIN)
    if ADAPT in translation.graphs:
        words |= adapt_words(translation.graphs[ADAPT], "&loss", "    loss_graph(shots, from, xs, ys, &loss, work);\n")
        parts.append(_ADAPT_FUNCTION)
    if manifest.recursion:
        parts += [_usual_bounds(manifest.outputs), SOURCE]
        words |= filter_words(manifest, translation)
    return filled("\n".join(parts), words)


def adapt_words(graph: Graph, loss: str, last: str) -> dict[str, str]:
    """What the functions that adapt call: a step that gives the loss after it too needs no graph of the loss.

    Args:
        graph: The graph of a step.
        loss: Where the loss after the last step goes.
        last: How it is computed by itself.
    """
    given = LOSS_AFTER in graph.outputs
    return {
        "step": "&step, " if STEP in graph.inputs else "",
        "next": f"{loss}, " if given else "",
        "last": "" if given else last,
    }


def _bounds(manifest: Manifest) -> str:
    """The numbers between which x and y may be, rounded outward."""
    parts = []
    for side, fields in (("x", manifest.inputs), ("y", manifest.outputs)):
        limit = math.inf if manifest.input_limit is None else manifest.input_limit
        lows, highs = [], []
        for field in fields:
            room = limit * (field.high - field.low)
            room = room if math.isfinite(room) else math.inf
            lows += [field.low - room if math.isfinite(room) else -math.inf] * field.size
            highs += [field.high + room if math.isfinite(room) else math.inf] * field.size
        if side == "x" or manifest.loss != "cross_entropy":
            parts.append(array(f"{side}_lowest", _within_float32(lows)))
            parts.append(array(f"{side}_highest", _within_float32(highs)))
    return "\n".join(parts)


def _usual_bounds(fields: tuple[Field, ...]) -> str:
    """The numbers between which a y is outside no field's bounds."""
    rooms = [SLACK * (each.high - each.low) if math.isfinite(each.high - each.low) else 0.0 for each in fields]
    lows = [field.low - room for field, room in zip(fields, rooms, strict=True) for _ in range(field.size)]
    highs = [field.high + room for field, room in zip(fields, rooms, strict=True) for _ in range(field.size)]
    return array("y_low", _within_float32(lows)) + "\n" + array("y_high", _within_float32(highs))


def _within_float32(values: list[float]) -> NDArray:
    largest = float(np.finfo(np.float32).max)
    return np.clip(values, -largest, largest).astype(np.float32)


_CHECKS = """
/* Whether all numbers are finite. Their bits are looked at, so that no compiler option can switch it off. */
static int all_finite(const float *numbers, int count)
{
    for (int i = 0; i < count; ++i) {
        uint32_t bits;
        memcpy(&bits, numbers + i, sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u)
            return 0;
    }
    return 1;
}

/* Whether all samples lie within limits, (width) each. */
static int all_within(const float *numbers, int samples, int width, const float *lowest, const float *highest)
{
    for (int i = 0; i < samples; ++i)
        for (int j = 0; j < width; ++j)
            if (numbers[i * width + j] < lowest[j] || numbers[i * width + j] > highest[j])
                return 0;
    return 1;
}
"""

_CHECK_Y = """    if (!all_finite(ys, shots * @NAME@_OUTPUTS))
        return @NAME@_NOT_FINITE;
    if (!all_within(ys, shots, @NAME@_OUTPUTS, y_lowest, y_highest))
        return @NAME@_OUT_OF_LIMITS;"""

_CHECK_LABELS = """    for (int i = 0; i < shots; ++i)
        if (ys[i] < 0 || ys[i] >= @classes@)
            return @NAME@_WRONG_LABEL;"""

_PLAIN = """
static int check_samples(const float *xs, @label@, int shots)
{
    if (shots < 1 || shots > @NAME@_SHOTS)
        return @NAME@_WRONG_SHOTS;
    if (!all_finite(xs, shots * @NAME@_INPUTS))
        return @NAME@_NOT_FINITE;
    if (!all_within(xs, shots, @NAME@_INPUTS, x_lowest, x_highest))
        return @NAME@_OUT_OF_LIMITS;
@check_y@
    return @NAME@_OK;
}

void @name@_init(@name@_network *network)
{
    *network = start;
}

int @name@_predict(const @name@_network *network, const float *x, float *y)
{
    float result[@NAME@_OUTPUTS];
    if (!all_finite(x, @NAME@_INPUTS))
        return @NAME@_NOT_FINITE;
    predict_graph(network, x, result);
    if (!all_finite(result, @NAME@_OUTPUTS))
        return @NAME@_NOT_FINITE_RESULT;
    memcpy(y, result, sizeof result);
    return @NAME@_OK;
}

int @name@_loss(const @name@_network *network, @name@_workspace *work, const float *xs, @label@, int shots,
                float *loss)
{
    float mean;
    const int status = check_samples(xs, ys, shots);
    if (status != @NAME@_OK)
        return status;
    loss_graph(shots, network, xs, ys, &mean, work);
    if (!all_finite(&mean, 1))
        return @NAME@_NOT_FINITE_RESULT;
    *loss = mean;
    return @NAME@_OK;
}
"""

_ADAPT_FUNCTION = """
int @name@_adapt(@name@_network *network, @name@_workspace *work, const float *xs, @label@, int shots, int steps,
                 float *loss_before, float *loss_after)
{
    float before = 0.0f, later, loss = 0.0f;
    const @name@_network *from = network;
    const int status = check_samples(xs, ys, shots);
    if (status != @NAME@_OK)
        return status;
    if (steps < 1)
        return @NAME@_WRONG_STEPS;
    for (int step = 0; step < steps; ++step) {
        @name@_network *to = &work->networks[step % 2];
        adapt_graph(shots, from, xs, ys, @step@to, step == 0 ? &before : &later, @next@work);
        from = to;
    }
@last@    if (!all_finite(&before, 1) || !all_finite(&loss, 1) ||
        !all_finite((const float *)from, (int)(sizeof *from / sizeof(float))))
        return @NAME@_NOT_FINITE_RESULT;
    *network = *from;
    *loss_before = before;
    *loss_after = loss;
    return @NAME@_OK;
}
"""
