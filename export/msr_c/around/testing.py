"""A C program that replays the golden example with the C code of a bundle, as a robot does at each load."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from msr_c.writing.text import array, filled
from msr_runtime.bundle.golden import Golden
from msr_runtime.bundle.manifest import Manifest


def golden_program(manifest: Manifest, golden: Golden, name: str, tolerance: float) -> str:
    """Return the program. It prints the largest relative error, and returns 1 if it is above the tolerance.

    Args:
        manifest: The bundle's manifest.
        golden: The bundle's golden example.
        name: What all names in C begin with.
        tolerance: The largest relative error.
    """
    labels = manifest.loss == "cross_entropy"
    scale = np.asarray(manifest.normalization.output_scale, np.float32)
    values: Mapping[str, NDArray] = {
        "support_x": golden.support_x,
        "support_y": golden.support_y.astype(np.int32) if labels else golden.support_y,
        "query_x": golden.x,
        "wanted_v": golden.v,
        "wanted_y0": golden.y0,
        "wanted_y": golden.y,
        "wanted_losses": golden.losses,
        "output_scale": np.broadcast_to(scale, golden.y.shape[1:]) if not labels else np.ones(golden.y.shape[1]),
    }
    floats = {key: value if value.dtype.kind == "i" else value.astype(np.float32) for key, value in values.items()}
    words = {
        "name": name,
        "NAME": name.upper(),
        "arrays": "\n".join(array(key, np.ascontiguousarray(value)) for key, value in floats.items()),
        "shots": len(golden.support_x),
        "queries": len(golden.x),
        "steps": golden.steps,
        "tolerance": f"{tolerance:.9g}",
        "adapt": _BY_SAMPLE if manifest.recursion else _BY_STEPS,
        "declare": "static @name@_filter filter;" if manifest.recursion else "static @name@_network adapted;",
        "network": "filter.network" if manifest.recursion else "adapted",
    }
    return filled(_PROGRAM, words)


_PROGRAM = """/* Replays the golden example of the bundle: what the export computed, this machine must compute too. */
#include "@name@.h"

#include <math.h>
#include <stdio.h>

@arrays@
@declare@
static @name@_workspace work;

/* The length of a difference, relative to the length of what is wanted. Each number is divided by its scale. */
static double relative_error(const float *seen, const float *wanted, int count, const float *scales, int width)
{
    double apart = 0.0, size = 0.0;
    for (int i = 0; i < count; ++i) {
        const double scale = scales ? (double)scales[i % width] : 1.0;
        const double difference = ((double)seen[i] - (double)wanted[i]) / scale, number = (double)wanted[i] / scale;
        apart += difference * difference;
        size += number * number;
    }
    return sqrt(apart) / (size > 0.0 ? sqrt(size) : 1.0);
}

static int failed;

static void compare(const char *what, double error)
{
    const int right = error <= @tolerance@;
    printf("%s: off by %.2e, %.2e allowed%s\\n", what, error, @tolerance@, right ? "" : " FAILED");
    failed |= !right;
}

static void expect(const char *what, int status, int wanted)
{
    if (status != wanted) {
        printf("%s: status %d, %d is wanted FAILED\\n", what, status, wanted);
        failed = 1;
    }
}

static void predict_all(const @name@_network *network, float *y)
{
    for (int i = 0; i < @queries@; ++i)
        expect("predict", @name@_predict(network, query_x + i * @NAME@_INPUTS, y + i * @NAME@_OUTPUTS), @NAME@_OK);
}

int main(void)
{
    static float y[@queries@ * @NAME@_OUTPUTS], wrong[@NAME@_INPUTS];
    float losses[2] = {0.0f, 0.0f};
    wrong[@NAME@_INPUTS - 1] = NAN;
@adapt@
    predict_all(&@network@, y);
    compare("adapted v", relative_error(@network@.v, wanted_v, @NAME@_FILTERS, NULL, 1));
    compare("support losses", relative_error(losses, wanted_losses, 2, NULL, 1));
    compare("adapted prediction",
            relative_error(y, wanted_y, @queries@ * @NAME@_OUTPUTS, output_scale, @NAME@_OUTPUTS));

    /* A bad x is refused, and changes nothing. */
    y[0] = 7.0f;
    expect("a NaN", @name@_predict(&@network@, wrong, y), @NAME@_NOT_FINITE);
    wrong[@NAME@_INPUTS - 1] = INFINITY;
    expect("an infinity", @name@_predict(&@network@, wrong, y), @NAME@_NOT_FINITE);
    if (y[0] != 7.0f)
        failed = 1;
    printf("network %u bytes, workspace %u bytes\\n", (unsigned)sizeof(@name@_network),
           (unsigned)sizeof(@name@_workspace));
    puts(failed ? "FAILED" : "passed");
    return failed;
}
"""

_BY_STEPS = """    @name@_init(&adapted);
    predict_all(&adapted, y);
    compare("prediction at v0",
            relative_error(y, wanted_y0, @queries@ * @NAME@_OUTPUTS, output_scale, @NAME@_OUTPUTS));
    expect("no shots", @name@_adapt(&adapted, &work, support_x, support_y, 0, 1, losses, losses + 1),
           @NAME@_WRONG_SHOTS);
    expect("too many shots",
           @name@_adapt(&adapted, &work, support_x, support_y, @NAME@_SHOTS + 1, 1, losses, losses + 1),
           @NAME@_WRONG_SHOTS);
    expect("no steps", @name@_adapt(&adapted, &work, support_x, support_y, 1, 0, losses, losses + 1),
           @NAME@_WRONG_STEPS);
    expect("a NaN", @name@_adapt(&adapted, &work, wrong, support_y, 1, 1, losses, losses + 1), @NAME@_NOT_FINITE);
    expect("adapt", @name@_adapt(&adapted, &work, support_x, support_y, @shots@, @steps@, losses, losses + 1),
           @NAME@_OK);"""

_BY_SAMPLE = """    static @name@_innovation innovation;
    @name@_filter_init(&filter);
    predict_all(&filter.network, y);
    compare("prediction at v0",
            relative_error(y, wanted_y0, @queries@ * @NAME@_OUTPUTS, output_scale, @NAME@_OUTPUTS));
    expect("loss", @name@_loss(&filter.network, &work, support_x, support_y, @shots@, losses), @NAME@_OK);
    expect("a NaN", @name@_update(&filter, &work, wrong, support_y, @NAME@_TICK, &innovation), @NAME@_NOT_FINITE);
    expect("time that runs back", @name@_update(&filter, &work, support_x, support_y, -1.0, &innovation),
           @NAME@_NOT_FINITE);
    for (int i = 0; i < @shots@; ++i)
        expect("update",
               @name@_update(&filter, &work, support_x + i * @NAME@_INPUTS, support_y + i * @NAME@_OUTPUTS, @NAME@_TICK,
                             &innovation),
               @NAME@_OK);
    expect("loss", @name@_loss(&filter.network, &work, support_x, support_y, @shots@, losses + 1), @NAME@_OK);"""
