"""The C functions that the code of graphs calls. Only those that a bundle needs are written.

Compilers turn loops of a fixed length over neighbours into vector instructions, without options that change results. So
sums run in lanes: as many sums side by side as a vector holds, added up at the end.
"""

from collections.abc import Iterator

_STORES = {"float32": "float", "float16": "uint16_t", "int8": "int8_t"}
"""How U is stored, and the C type of its numbers."""

_TEXT = r"""
//: exp_float
/* e to the power of x, to 2 units in the last place. A loop that calls it is vectorized; a call of libm is not. */
static inline float exp_float(float x)
{
    const float limited = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    /* x = k log 2 + r: adding and taking away 1.5 * 2^23 rounds to a whole k. */
    const float shifted = limited * 1.44269504f + 12582912.0f, k = shifted - 12582912.0f;
    const float r = (limited - k * 0.693145752f) - k * 1.42860677e-6f;
    float p = 1.98756915e-4f;
    uint32_t bits;
    float power;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345191e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000u + 127u) << 23;
    memcpy(&power, &bits, sizeof power);
    return x != x ? x : p * power;
}

//: sigmoid_float exp_float
static inline float sigmoid_float(float x)
{
    return 1.0f / (1.0f + exp_float(-x));
}

//: sigmoid_double
static inline double sigmoid_double(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

//: max_{T}
/* The larger number; NaN if one is NaN. */
static inline {T} max_{T}({T} a, {T} b)
{
    return a != a || a > b ? a : b;
}

//: min_{T}
/* The smaller number; NaN if one is NaN. */
static inline {T} min_{T}({T} a, {T} b)
{
    return a != a || a < b ? a : b;
}

//: max_int
static inline int max_int(int a, int b)
{
    return a > b ? a : b;
}

//: min_int
static inline int min_int(int a, int b)
{
    return a < b ? a : b;
}

//: product_{T}
/* c (rows, columns) = bias + a b. Number (i, p) of a is a[i * row + p * step]; b is (depth, columns). Without a bias it
   is null. Sixteen columns of four rows are summed up at a time, in registers: compilers keep small arrays there. */
static void product_{T}(int rows, int columns, int depth, const {T} *restrict a, int row, int step,
                        const {T} *restrict b, const {T} *restrict bias, {T} *restrict c)
{
    int j = 0;
    for (; j + 16 <= columns; j += 16) {
        const {T} *restrict a0 = a, *restrict column = b + j;
        {T} *restrict out = c + j, first[16];
        int i = 0;
        for (int l = 0; l < 16; ++l)
            first[l] = bias ? bias[j + l] : {Z};
        for (; i + 4 <= rows; i += 4, a0 += 4 * row, out += 4 * columns) {
            const {T} *restrict a1 = a0 + row, *restrict a2 = a1 + row, *restrict a3 = a2 + row;
            {T} s0[16], s1[16], s2[16], s3[16];
            for (int l = 0; l < 16; ++l)
                s0[l] = s1[l] = s2[l] = s3[l] = first[l];
            for (int p = 0; p < depth; ++p) {
                const {T} x0 = a0[p * step], x1 = a1[p * step], x2 = a2[p * step], x3 = a3[p * step];
                const {T} *restrict y = column + p * columns;
                for (int l = 0; l < 16; ++l)
                    s0[l] += x0 * y[l];
                for (int l = 0; l < 16; ++l)
                    s1[l] += x1 * y[l];
                for (int l = 0; l < 16; ++l)
                    s2[l] += x2 * y[l];
                for (int l = 0; l < 16; ++l)
                    s3[l] += x3 * y[l];
            }
            for (int l = 0; l < 16; ++l) {
                out[l] = s0[l];
                out[columns + l] = s1[l];
                out[2 * columns + l] = s2[l];
                out[3 * columns + l] = s3[l];
            }
        }
        for (; i < rows; ++i, a0 += row, out += columns) {
            {T} s0[16];
            for (int l = 0; l < 16; ++l)
                s0[l] = first[l];
            for (int p = 0; p < depth; ++p)
                for (int l = 0; l < 16; ++l)
                    s0[l] += a0[p * step] * column[p * columns + l];
            for (int l = 0; l < 16; ++l)
                out[l] = s0[l];
        }
    }
    for (; j < columns; ++j)
        for (int i = 0; i < rows; ++i) {
            {T} sum = bias ? bias[j] : {Z};
            for (int p = 0; p < depth; ++p)
                sum += a[i * row + p * step] * b[p * columns + j];
            c[i * columns + j] = sum;
        }
}

//: dot_{T}
static inline {T} dot_{T}(int length, const {T} *restrict a, const {T} *restrict b)
{
    {LANES}
    for (; p + 32 <= length; p += 32) {
        for (int l = 0; l < 8; ++l)
            s0[l] += a[p + l] * b[p + l];
        for (int l = 0; l < 8; ++l)
            s1[l] += a[p + 8 + l] * b[p + 8 + l];
        for (int l = 0; l < 8; ++l)
            s2[l] += a[p + 16 + l] * b[p + 16 + l];
        for (int l = 0; l < 8; ++l)
            s3[l] += a[p + 24 + l] * b[p + 24 + l];
    }
    for (; p + 8 <= length; p += 8)
        for (int l = 0; l < 8; ++l)
            s0[l] += a[p + l] * b[p + l];
    for (; p < length; ++p)
        sum += a[p] * b[p];
    {ADD_LANES}
}

//: product_t_{T} dot_{T}
/* c (rows, columns) = bias + a bT, with a (rows, depth) and b (columns, depth). */
static void product_t_{T}(int rows, int columns, int depth, const {T} *restrict a, const {T} *restrict b,
                          const {T} *restrict bias, {T} *restrict c)
{
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j)
            c[i * columns + j] = (bias ? bias[j] : {Z}) + dot_{T}(depth, a + i * depth, b + j * depth);
}

//: gram_{T} dot_{T}
/* c (rows, rows) = a aT, with a (rows, depth). */
static void gram_{T}(int rows, int depth, const {T} *restrict a, {T} *restrict c)
{
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j <= i; ++j)
            c[i * rows + j] = c[j * rows + i] = dot_{T}(depth, a + i * depth, a + j * depth);
}

//: solve_{T}
/* x (size): the solution of a x = b for a positive definite a, by a Cholesky factorization a = l lT. It is NaN if a is
   not positive definite. */
static void solve_{T}(int size, const {T} *restrict a, const {T} *restrict b, {T} *restrict l, {T} *restrict x)
{
    for (int i = 0; i < size; ++i) {
        {T} sum;
        for (int j = 0; j <= i; ++j) {
            sum = a[i * size + j];
            for (int p = 0; p < j; ++p)
                sum -= l[i * size + p] * l[j * size + p];
            l[i * size + j] = i == j ? {SQRT}(sum) : sum / l[j * size + j];
        }
        sum = b[i];
        for (int p = 0; p < i; ++p)
            sum -= l[i * size + p] * x[p];
        x[i] = sum / l[i * size + i];
    }
    for (int i = size - 1; i >= 0; --i) {
        {T} sum = x[i];
        for (int p = i + 1; p < size; ++p)
            sum -= l[p * size + i] * x[p];
        x[i] = sum / l[i * size + i];
    }
}

//: row_float32
/* A row of U as it is stored. */
static inline const float *row_float32(int size, const float *restrict u, const float *scales, float *row)
{
    (void)size;
    (void)scales;
    (void)row;
    return u;
}

//: row_float16
#ifdef __F16C__
#include <immintrin.h>
#endif

/* Write a row of U as float: the bits of a float16 are those of a float, but for the exponent's bias. */
static const float *row_float16(int size, const uint16_t *restrict u, const float *scales, float *restrict row)
{
    int p = 0;
    (void)scales;
#ifdef __F16C__
    for (; p + 8 <= size; p += 8)
        _mm256_storeu_ps(row + p, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(u + p))));
#endif
    for (; p < size; ++p) {
        const uint32_t bits = (uint32_t)(u[p] & 0x7fffu) << 13, sign = (uint32_t)(u[p] & 0x8000u) << 16;
        float number;
        uint32_t whole;
        memcpy(&number, &bits, sizeof number);
        number *= 5.192296858534828e33f; /* 2^112 */
        memcpy(&whole, &number, sizeof whole);
        whole |= sign;
        memcpy(row + p, &whole, sizeof whole);
    }
    return row;
}

//: row_int8
/* Write a row of U as float: whole numbers, each times the scale of the weight's number that it makes. */
static const float *row_int8(int size, const int8_t *restrict u, const float *restrict scales, float *restrict row)
{
    for (int p = 0; p < size; ++p)
        row[p] = (float)u[p] * scales[p];
    return row;
}

//: fold_{S} row_{S}
/* w (size) = v U: the sum of the rows of U (k, size), each times its v. Two rows are read at a time. */
static void fold_{S}(int k, int size, const float *restrict v, const {U} *restrict u, const float *restrict scales,
                 float *rows, float *restrict w)
{
    int r = 0;
    for (int p = 0; p < size; ++p)
        w[p] = 0.0f;
    for (; r + 2 <= k; r += 2) {
        const float *restrict u0 = row_{S}(size, u + r * size, scales, rows);
        const float *restrict u1 = row_{S}(size, u + (r + 1) * size, scales, {SECOND});
        const float v0 = v[r], v1 = v[r + 1];
        for (int p = 0; p < size; ++p)
            w[p] += v0 * u0[p] + v1 * u1[p];
    }
    for (; r < k; ++r) {
        const float *restrict u0 = row_{S}(size, u + r * size, scales, rows);
        const float v0 = v[r];
        for (int p = 0; p < size; ++p)
            w[p] += v0 * u0[p];
    }
}

//: pull_{S} row_{S} dot_float
/* out (m, k) = g UT: a gradient of weights in each row of g (m, size) becomes one of v. */
static void pull_{S}(int m, int k, int size, const float *restrict g, const {U} *restrict u,
                     const float *restrict scales, float *rows, float *restrict out)
{
    for (int r = 0; r < k; ++r) {
        const float *restrict u0 = row_{S}(size, u + r * size, scales, rows);
        for (int i = 0; i < m; ++i)
            out[i * k + r] = dot_float(size, g + i * size, u0);
    }
}

//: step_{S} row_{S} dot_float
/* A gradient step of one weight: next (k) = v - rates * (g UT) and w (size) = next U. Each row of U is read once. */
static void step_{S}(int k, int size, const float *restrict v, const float *restrict rates, int each,
                 const float *restrict g, const {U} *restrict u, const float *restrict scales, float *rows,
                 float *restrict next, float *restrict w)
{
    int r = 0;
    for (int p = 0; p < size; ++p)
        w[p] = 0.0f;
    for (; r + 2 <= k; r += 2) {
        const float *restrict u0 = row_{S}(size, u + r * size, scales, rows);
        const float *restrict u1 = row_{S}(size, u + (r + 1) * size, scales, {SECOND});
        const float v0 = v[r] - rates[r * each] * dot_float(size, g, u0);
        const float v1 = v[r + 1] - rates[(r + 1) * each] * dot_float(size, g, u1);
        next[r] = v0;
        next[r + 1] = v1;
        for (int p = 0; p < size; ++p)
            w[p] += v0 * u0[p] + v1 * u1[p];
    }
    for (; r < k; ++r) {
        const float *restrict u0 = row_{S}(size, u + r * size, scales, rows);
        const float v0 = v[r] - rates[r * each] * dot_float(size, g, u0);
        next[r] = v0;
        for (int p = 0; p < size; ++p)
            w[p] += v0 * u0[p];
    }
}

//: slopes_{S} row_{S} product_float dot_float
/* out (n * m, k): gradients of v, of the weights' gradients a deltaT of a linear layer at each of n samples. Its inputs
   a are (n, inputs), the gradients delta of its outputs (n, m, outputs). A row of U is (inputs, outputs). */
static void slopes_{S}(int n, int m, int inputs, int outputs, int k, const float *restrict a,
                       const float *restrict delta, const {U} *restrict u, const float *restrict scales, float *rows,
                       float *restrict part, float *restrict out)
{
    const int size = inputs * outputs;
    for (int r = 0; r < k; ++r) {
        const float *restrict u0 = row_{S}(size, u + r * size, scales, rows);
        product_float(n, outputs, inputs, a, inputs, 1, u0, NULL, part);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < m; ++j)
                out[(i * m + j) * k + r] = dot_float(outputs, delta + (i * m + j) * outputs, part + i * outputs);
    }
}
"""


def kernels(wanted: set[str]) -> str:
    """Return the C functions that are wanted, each after those that it calls.

    Args:
        wanted: Names of functions.
    """
    parts: dict[str, tuple[list[str], str]] = {}
    for part in _TEXT.split("//: ")[1:]:
        head, text = part.split("\n", 1)
        for words in _versions(head):
            name, *needs = _filled(head, words).split()
            parts[name] = needs, _filled(text, words)
    order: list[str] = []

    def add(name: str) -> None:
        if name not in order:
            for need in parts[name][0]:
                add(need)
            order.append(name)

    for name in parts:
        if name in wanted:
            add(name)
    return "\n".join(parts[name][1].strip("\n") + "\n" for name in order)


def _versions(head: str) -> Iterator[dict[str, str]]:
    """What each version of a function has in place of the words in braces."""
    if "{S}" in head:
        for store, own in _STORES.items():
            # Numbers that are stored as they are need no memory to be read into.
            yield {"{S}": store, "{U}": own, "{SECOND}": "rows" if store == "float32" else "rows + size"}
        return
    for dtype in ("float", "double") if "{T}" in head else ("float",):
        zero, root = ("0.0f", "sqrtf") if dtype == "float" else ("0.0", "sqrt")
        yield {"{LANES}": _LANES, "{ADD_LANES}": _ADD_LANES, "{T}": dtype, "{Z}": zero, "{SQRT}": root}


def _filled(text: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


_LANES = """{T} s0[8] = {{Z}}, s1[8] = {{Z}}, s2[8] = {{Z}}, s3[8] = {{Z}}, sum = {Z};
    int p = 0;"""
_ADD_LANES = """for (int l = 0; l < 8; ++l)
        s0[l] = (s0[l] + s1[l]) + (s2[l] + s3[l]);
    return sum + ((s0[0] + s0[4]) + (s0[2] + s0[6])) + ((s0[1] + s0[5]) + (s0[3] + s0[7]));"""
