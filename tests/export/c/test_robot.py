"""The functions that `msr_runtime` calls write where they may, and compile without a warning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msr_c import Written, write_robot_source

_PROGRAM = """
#include "@header@"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

extern const long long native_sizes[8];
void native_predict(const @name@_network *network, const float *x, float *y, long long count);
void native_loss(const @name@_network *network, @name@_workspace *work, const float *xs, const float *ys, int shots,
                 float *loss);
@declared@

/* Memory of exactly so many numbers. */
static float *floats(long long count)
{
    float *made = calloc((size_t)count, sizeof(float));
    for (long long i = 0; made && i < count; ++i)
        made[i] = 0.1f;
    return made ? made : (exit(2), made);
}

int main(void)
{
    const long long inputs = native_sizes[3], outputs = native_sizes[4], shots = native_sizes[5];
    const long long K = native_sizes[6], rows = native_sizes[7];
    float *xs = floats(shots * inputs), *ys = floats(shots * outputs), *y = floats(shots * outputs);
    float *loss = floats(1), *found = floats(2), *decays = floats(rows + 1), *kept = floats(rows * K + 1);
    float *new_rows = floats(outputs * K), *of_y[3] = {floats(outputs), floats(outputs), floats(outputs)};
    @name@_network *from = (void *)floats(native_sizes[1]), *to = (void *)floats(native_sizes[1]);
    @name@_workspace *work = calloc(1, (size_t)native_sizes[2]);
    if (sizeof *from != (size_t)native_sizes[1] * sizeof(float) || sizeof *work != (size_t)native_sizes[2])
        return 3;
    @name@_init(from);
    native_predict(from, xs, y, shots);
    native_loss(from, work, xs, ys, (int)shots, loss);
    @called@
    const int finite = isfinite(*loss) && isfinite(found[0]) && isfinite(found[1]) && isfinite(y[shots * outputs - 1]);
    printf(finite ? "passed\\n" : "not finite\\n");
    free(xs), free(ys), free(y), free(loss), free(found), free(decays), free(kept), free(new_rows);
    free(of_y[0]), free(of_y[1]), free(of_y[2]), free(from), free(to), free(work);
    return 0;
}
"""
_ADAPT = (
    "void native_adapt(const @name@_network *from, @name@_workspace *work, const float *xs, const float *ys, int shots,"
    " int first, int steps, @name@_network *to, float *losses);",
    "native_adapt(from, work, xs, ys, (int)shots, 0, 3, to, found);",
)
_FILTER = (
    "void native_update(const @name@_network *from, const @name@_network *there, @name@_workspace *work,"
    " const float *x, const float *y, const float *rows, const float *decays, @name@_network *to, float *new_rows,"
    " float *innovation, float *variance, float *nis);"
    "void native_deviation(const @name@_network *network, @name@_workspace *work, const float *x, const float *rows,"
    " const float *decays, float *y, float *epistemic, float *total);",
    "decays[0] = 0.5f; for (long long i = 1; i < rows; ++i) decays[i] = 0.0f;"
    "native_update(from, from, work, xs, ys, kept, decays, to, new_rows, of_y[0], of_y[1], found);"
    "native_deviation(to, work, xs, kept, decays, of_y[0], of_y[1], of_y[2]);",
)
_SLOW = pytest.mark.slow  # a compiler takes long with its checks


@pytest.mark.parametrize(
    ("rule", "compiler"),
    [
        ("gradient", "gcc"),
        pytest.param("recursive", "gcc", marks=_SLOW),
        pytest.param("gradient", "clang", marks=_SLOW),
        pytest.param("recursive", "clang", marks=_SLOW),
    ],
)
def test_sanitizers_find_nothing(
    code: Callable[..., Any], replayed: Callable[..., str], tmp_path: Path, rule: str, compiler: str
) -> None:
    """In memory of exactly the sizes that the library tells."""
    here = code(rule)
    declared, called = _FILTER if rule == "recursive" else _ADAPT
    text = _PROGRAM.replace("@declared@", declared).replace("@called@", called)
    text = text.replace("@header@", str(here.written.header)).replace("@name@", here.name)
    source, program = tmp_path / "native.c", tmp_path / "main.c"
    source.write_bytes(write_robot_source(here.model.bundle, 9))
    program.write_text(text)
    options = "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    written = Written(here.written.header, source, program)
    assert replayed(written, *options, compiler=compiler) == "passed\n"
