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

//: vectors
/* Where the processor has vectors of eight numbers, four rows of U are read at once and no row is written out. */
#if defined __AVX2__ && defined __FMA__ && defined __F16C__
#include <immintrin.h>
#define EIGHT_AT_ONCE
#endif

//: four_{S} vectors
#ifdef EIGHT_AT_ONCE
static inline __m256 eight_{S}(const {U} *u, const float *scales, int p)
{
    (void)scales;
    return {EIGHT};
}

/* out (4) = U g for four rows of U (4, size). */
static inline void dots_{S}(int size, const float *restrict g, const {U} *restrict u, const float *restrict scales,
                            float *restrict out)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    for (int p = 0; p < size; p += 8) {
        const __m256 x = _mm256_loadu_ps(g + p);
        s0 = _mm256_fmadd_ps(x, eight_{S}(u, scales, p), s0);
        s1 = _mm256_fmadd_ps(x, eight_{S}(u + size, scales, p), s1);
        s2 = _mm256_fmadd_ps(x, eight_{S}(u + 2 * size, scales, p), s2);
        s3 = _mm256_fmadd_ps(x, eight_{S}(u + 3 * size, scales, p), s3);
    }
    s0 = _mm256_hadd_ps(_mm256_hadd_ps(s0, s1), _mm256_hadd_ps(s2, s3));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s0), _mm256_extractf128_ps(s0, 1)));
}

/* w (size) += v U for four rows of U (4, size). */
static inline void spread_{S}(int size, const float *restrict v, const {U} *restrict u, const float *restrict scales,
                              float *restrict w)
{
    const __m256 v0 = _mm256_set1_ps(v[0]), v1 = _mm256_set1_ps(v[1]);
    const __m256 v2 = _mm256_set1_ps(v[2]), v3 = _mm256_set1_ps(v[3]);
    for (int p = 0; p < size; p += 8) {
        __m256 sum = _mm256_fmadd_ps(v0, eight_{S}(u, scales, p), _mm256_loadu_ps(w + p));
        sum = _mm256_fmadd_ps(v1, eight_{S}(u + size, scales, p), sum);
        sum = _mm256_fmadd_ps(v2, eight_{S}(u + 2 * size, scales, p), sum);
        _mm256_storeu_ps(w + p, _mm256_fmadd_ps(v3, eight_{S}(u + 3 * size, scales, p), sum));
    }
}
#endif

//: fold_{S} row_{S} four_{S}
/* w (size) = v U: the sum of the rows of U (k, size), each times its v. Two rows are read at a time. */
static void fold_{S}(int k, int size, const float *restrict v, const {U} *restrict u, const float *restrict scales,
                 float *rows, float *restrict w)
{
    int r = 0;
    for (int p = 0; p < size; ++p)
        w[p] = 0.0f;
#ifdef EIGHT_AT_ONCE
    for (; size % 8 == 0 && r + 4 <= k; r += 4)
        spread_{S}(size, v + r, u + r * size, scales, w);
#endif
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

//: pull_{S} row_{S} dot_float four_{S}
/* out (m, k) = g UT: a gradient of weights in each row of g (m, size) becomes one of v. */
static void pull_{S}(int m, int k, int size, const float *restrict g, const {U} *restrict u,
                     const float *restrict scales, float *rows, float *restrict out)
{
    int r = 0;
#ifdef EIGHT_AT_ONCE
    for (; size % 8 == 0 && r + 4 <= k; r += 4)
        for (int i = 0; i < m; ++i)
            dots_{S}(size, g + i * size, u + r * size, scales, out + i * k + r);
#endif
    for (; r < k; ++r) {
        const float *restrict u0 = row_{S}(size, u + r * size, scales, rows);
        for (int i = 0; i < m; ++i)
            out[i * k + r] = dot_float(size, g + i * size, u0);
    }
}

//: step_{S} row_{S} dot_float four_{S}
/* A gradient step of one weight: next (k) = v - rates * (g UT) and w (size) = next U. Each row of U is read once. */
static void step_{S}(int k, int size, const float *restrict v, const float *restrict rates, int each,
                 const float *restrict g, const {U} *restrict u, const float *restrict scales, float *rows,
                 float *restrict next, float *restrict w)
{
    int r = 0;
    for (int p = 0; p < size; ++p)
        w[p] = 0.0f;
#ifdef EIGHT_AT_ONCE
    for (; size % 8 == 0 && r + 4 <= k; r += 4) {
        dots_{S}(size, g, u + r * size, scales, next + r);
        for (int i = r; i < r + 4; ++i)
            next[i] = v[i] - rates[i * each] * next[i];
        spread_{S}(size, next + r, u + r * size, scales, w);
    }
#endif
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
