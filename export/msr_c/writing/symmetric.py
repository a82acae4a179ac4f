"""The C functions that read U row by row, as templates: one version for each type in which U is stored."""

SYMMETRIC = r"""
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
