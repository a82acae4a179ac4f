"""The C functions of dense algebra and mathematics that graphs call, as templates."""

from collections.abc import Iterable


def row_blocks(counts: Iterable[int]) -> str:
    """Write the loops of `product` over rows: as many rows at a time as the first count, then as the next ones."""
    return "\n".join(_product_block(count) for count in counts)


def _product_block(count: int) -> str:
    more = ", ".join(f"*restrict a{row} = a{row - 1} + row" for row in range(1, count))
    named = f"const {{T}} {more};" if more else ""
    following = f"i += {count}, a0 += {count} * row, out += {count} * columns"
    return row_block(count, 16, following, named, "first[l]", "p * step", "columns", "out[{} * columns + l]")


def row_block(count: int, lanes: int, following: str, named: str, first: str, step: str, pitch: str, out: str) -> str:
    """Write a loop over blocks of rows. A compiler unrolls no array of arrays, so each row is written out.

    Args:
        count: Rows of a block.
        lanes: Columns that are summed up at a time.
        following: How the loop goes on to the next block.
        named: Definitions of the rows `a0`, `a1` and so on, if they are not known yet.
        first: Where the sum of a lane `l` begins, and `{}` is the row.
        step: Where number `p` of a row lies in it.
        pitch: How far apart rows of b are.
        out: Where the sum goes.
    """
    each = range(count)
    lines = [
        f"for (; i + {count} <= rows; {following}) {{",
        *([f"    {named}"] if named else []),
        f"    {{T}} {', '.join(f's{row}[{lanes}]' for row in each)};",
        f"    for (int l = 0; l < {lanes}; ++l) {{",
        *(f"        s{row}[l] = {first.format(row)};" for row in each),
        "    }",
        "    for (int p = 0; p < depth; ++p) {",
        f"        const {{T}} {', '.join(f'x{row} = a{row}[{step}]' for row in each)};",
        f"        const {{T}} *restrict y = column + p * {pitch};",
        *(
            line
            for row in each
            for line in (f"        for (int l = 0; l < {lanes}; ++l)", f"            s{row}[l] += x{row} * y[l];")
        ),
        "    }",
        f"    for (int l = 0; l < {lanes}; ++l) {{",
        *(f"        {out.format(row)} = s{row}[l];" for row in each),
        "    }",
        "}",
    ]
    return "\n".join(f"        {line}" for line in lines)


DENSE = r"""
//: exp_float
#if defined __FAST_MATH__ || defined __ASSOCIATIVE_MATH__
#error "leave out -ffast-math, -Ofast and -fassociative-math: they reorder sums, and all results would be wrong"
#endif

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
   is null. Sixteen columns of a few rows are summed up at a time, in registers: compilers keep small arrays there. */
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
{BLOCKS}
    }
    for (; j < columns; ++j) {
        const {T} first = bias ? bias[j] : {Z};
        int i = 0;
        for (; i + 4 <= rows; i += 4) {
            const {T} *restrict a0 = a + i * row;
            {T} s0 = first, s1 = first, s2 = first, s3 = first;
            for (int p = 0; p < depth; ++p) {
                const {T} y = b[p * columns + j];
                s0 += a0[p * step] * y;
                s1 += a0[row + p * step] * y;
                s2 += a0[2 * row + p * step] * y;
                s3 += a0[3 * row + p * step] * y;
            }
            c[i * columns + j] = s0;
            c[(i + 1) * columns + j] = s1;
            c[(i + 2) * columns + j] = s2;
            c[(i + 3) * columns + j] = s3;
        }
        for (; i < rows; ++i) {
            {T} sum = first;
            for (int p = 0; p < depth; ++p)
                sum += a[i * row + p * step] * b[p * columns + j];
            c[i * columns + j] = sum;
        }
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

//: product_tt_{T}
/* c (rows, columns) = bias + aT bT, with a (depth, rows) and b (columns, depth). Sixteen rows are summed up at once. */
static void product_tt_{T}(int rows, int columns, int depth, const {T} *restrict a, const {T} *restrict b,
                           const {T} *restrict bias, {T} *restrict c)
{
    for (int j = 0; j < columns; ++j) {
        const {T} first = bias ? bias[j] : {Z}, *restrict other = b + j * depth;
        int i = 0;
        for (; i + 16 <= rows; i += 16) {
            {T} sums[16];
            for (int l = 0; l < 16; ++l)
                sums[l] = first;
            for (int p = 0; p < depth; ++p)
                for (int l = 0; l < 16; ++l)
                    sums[l] += a[p * rows + i + l] * other[p];
            for (int l = 0; l < 16; ++l)
                c[(i + l) * columns + j] = sums[l];
        }
        for (; i < rows; ++i) {
            {T} sum = first;
            for (int p = 0; p < depth; ++p)
                sum += a[p * rows + i] * other[p];
            c[i * columns + j] = sum;
        }
    }
}

//: gram_{T} dot_{T}
/* c (rows, rows) = a aT, with a (rows, depth). */
static void gram_{T}(int rows, int depth, const {T} *restrict a, {T} *restrict c)
{
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j <= i; ++j)
            c[i * rows + j] = c[j * rows + i] = dot_{T}(depth, a + i * depth, a + j * depth);
}

//: solve_{T} dot_{T}
/* x (size): the solution of a x = b for a positive definite a, by a Cholesky factorization a = l lT. It is NaN if a is
   not positive definite. */
static void solve_{T}(int size, const {T} *restrict a, const {T} *restrict b, {T} *restrict l, {T} *restrict x)
{
    for (int i = 0; i < size; ++i) {
        {T} *row = l + i * size;
        for (int j = 0; j < i; ++j)
            row[j] = (a[i * size + j] - dot_{T}(j, row, l + j * size)) / l[j * size + j];
        row[i] = {SQRT}(a[i * size + i] - dot_{T}(i, row, row));
        x[i] = (b[i] - dot_{T}(i, row, x)) / row[i];
    }
    for (int i = size - 1; i >= 0; --i) {
        {T} sum = x[i];
        for (int p = i + 1; p < size; ++p)
            sum -= l[p * size + i] * x[p];
        x[i] = sum / l[i * size + i];
    }
}

//: gram_t_{T}
/* The lower half of c (k, k) = aT a, with a (rows, k). Four rows are read at a time. */
static void gram_t_{T}(int rows, int k, const {T} *restrict a, {T} *restrict c)
{
    int r = 0;
    for (int i = 0; i < k * k; ++i)
        c[i] = {Z};
    for (; r + 4 <= rows; r += 4) {
        const {T} *restrict a0 = a + r * k, *restrict a1 = a0 + k, *restrict a2 = a1 + k, *restrict a3 = a2 + k;
        for (int i = 0; i < k; ++i) {
            const {T} x0 = a0[i], x1 = a1[i], x2 = a2[i], x3 = a3[i];
            for (int p = 0; p <= i; ++p)
                c[i * k + p] += (x0 * a0[p] + x1 * a1[p]) + (x2 * a2[p] + x3 * a3[p]);
        }
    }
    for (; r < rows; ++r)
        for (int i = 0; i < k; ++i)
            for (int p = 0; p <= i; ++p)
                c[i * k + p] += a[r * k + i] * a[r * k + p];
}

//: damped_{T} gram_{T} gram_t_{T} solve_{T} product_{T}
/* x (k): jT (j jT + c I)^-1 b, with j (rows, k). (jT j + c I)^-1 jT b is the same, so the system of fewer numbers,
   size, is solved. There is room for it in a and l (size, size), and y (size). */
static void damped_{T}(int rows, int k, const {T} *restrict j, const {T} *restrict c, const {T} *restrict b,
                       {T} *restrict a, {T} *restrict l, {T} *restrict y, {T} *restrict x)
{
    const int size = rows < k ? rows : k;
    if (rows == size) {
        gram_{T}(rows, k, j, a);
    } else {
        gram_t_{T}(rows, k, j, a);
        product_{T}(1, k, rows, b, rows, 1, j, NULL, y);
    }
    for (int i = 0; i < size; ++i)
        a[i * size + i] += c[0];
    if (rows == size) {
        solve_{T}(rows, a, b, l, y);
        product_{T}(1, k, rows, y, rows, 1, j, NULL, x);
    } else {
        solve_{T}(k, a, y, l, x);
    }
}
"""
