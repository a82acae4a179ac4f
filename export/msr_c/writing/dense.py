"""The C functions of dense algebra and mathematics that graphs call, as templates."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RowBlock:
    """A loop over blocks of rows of a matrix, each times the same columns of another one.

    A compiler unrolls no array of arrays, so each row is written out: `a0`, `a1` and so on, with sums `s0`, `s1`. In a
    text, `{}` stands for the number of the row.
    """

    count: int
    """Rows of a block."""
    lanes: int = 16
    """Columns that are summed up at a time."""
    loop: str
    """Until when the loop goes on, and how it comes to the next block."""
    named: tuple[str, ...]
    """Definitions of the rows, and of where sums go."""
    first: str
    """Where the sum of a lane `l` begins."""
    depth: str = "depth"
    """How many numbers of a row there are."""
    step: str = "p"
    """Where number `p` of a row lies in it."""
    pitch: str
    """How far the columns' numbers for one `p` are from those for the next."""
    out: str
    """Where the sum goes."""

    def written(self, indent: int = 8) -> str:
        """Return the loop in C."""
        rows, lanes = range(self.count), f"for (int l = 0; l < {self.lanes}; ++l)"
        lines = [
            f"for (; {self.loop}) {{",
            *(f"    {line}" for line in self.named),
            f"    {{T}} {', '.join(f's{row}[{self.lanes}]' for row in rows)};",
            f"    {lanes} {{",
            *(f"        s{row}[l] = {self.first.format(row)};" for row in rows),
            "    }",
            f"    for (int p = 0; p < {self.depth}; ++p) {{",
            f"        const {{T}} {', '.join(f'x{row} = a{row}[{self.step}]' for row in rows)};",
            f"        const {{T}} *restrict y = column + p * {self.pitch};",
            *(line for row in rows for line in (f"        {lanes}", f"            s{row}[l] += x{row} * y[l];")),
            "    }",
            f"    {lanes} {{",
            *(f"        {self.out.format(row)} = s{row}[l];" for row in rows),
            "    }",
            "}",
        ]
        return "\n".join(" " * indent + line for line in lines)


def row_blocks(counts: Sequence[int]) -> dict[str, str]:
    """Write the loops of the products: over as many rows at a time as the first count, then as the next ones.

    Returns:
        The loops, by the words that stand for them in the templates.

    """
    made = {"{BLOCKS}": _plain_block, "{PACKED}": _packed_block, "{TRANSPOSED}": _transposed_block}
    blocks = {word: "\n".join(make(count).written() for count in counts) for word, make in made.items()}
    return blocks | {"{ROW}": _SINGLE_ROW.written(indent=4)}


def _plain_block(count: int) -> RowBlock:
    return RowBlock(
        count=count,
        loop=f"i < in_blocks(rows, {count}); i += {count}",
        named=(f"const int k = min_int(i, rows - {count});", *_rows(count, "a + k * row", "row"), _out("k", "j")),
        first="first[l]",
        step="p * step",
        pitch="columns",
        out="out[{} * columns + l]",
    )


_SINGLE_ROW = RowBlock(
    count=1,
    lanes=64,
    loop="rows == 1 && next + 64 <= columns; next += 64",
    named=("const {T} *restrict a0 = a, *restrict column = b + next;", "{T} *restrict out = c + next;"),
    first="bias ? bias[next + l] : {{Z}}",
    step="p * step",
    pitch="columns",
    out="out[l]",
)
"""One row times a wide matrix. Each sum waits for the one before it, so more of them are needed side by side."""


def _packed_block(count: int) -> RowBlock:
    # It adds to what is there, so that no row may be computed twice.
    return RowBlock(
        count=count,
        loop=f"i + {count} <= rows; i += {count}",
        named=(*_rows(count, "a + i * depth + begin", "depth"), _out("i", "j")),
        first="out[{} * columns + l]",
        depth="count",
        pitch="16",
        out="out[{} * columns + l]",
    )


def _transposed_block(count: int) -> RowBlock:
    return RowBlock(
        count=count,
        loop=f"j < in_blocks(columns, {count}); j += {count}",
        named=(
            f"const int k = min_int(j, columns - {count});",
            *_rows(count, "b + k * depth", "depth"),
            _out("i", "k"),
        ),
        first="bias ? bias[k + {}] : {{Z}}",
        pitch="rows",
        out="out[l * columns + {}]",
    )


def _rows(count: int, first: str, apart: str) -> tuple[str, ...]:
    """Define the rows of a block."""
    others = "".join(f", *restrict a{row} = a{row - 1} + {apart}" for row in range(1, count))
    return (f"const {{T}} *restrict a0 = {first}{others};",)


def _out(row: str, column: str) -> str:
    return f"{{T}} *restrict out = c + {row} * columns + {column};"


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

//: in_blocks min_int
/* How many rows or columns are computed in blocks of a size, and not one by one. Where there are vectors, all of them
   are: the last block begins earlier then, and computes some a second time. */
static inline int in_blocks(int count, int block)
{
#if defined __SSE__ || defined __ARM_NEON
    return count < block ? 0 : count;
#else
    return count - count % block;
#endif
}

//: product_{T} in_blocks
/* c (rows, columns) = bias + a b. Number (i, p) of a is a[i * row + p * step]; b is (depth, columns). Without a bias it
   is null. Sixteen columns of a few rows are summed up at a time, or more columns of one row, in registers: compilers
   keep small arrays there. */
static void product_{T}(int rows, int columns, int depth, const {T} *restrict a, int row, int step,
                        const {T} *restrict b, const {T} *restrict bias, {T} *restrict c)
{
    const int blocked = in_blocks(columns, 16);
    int next = 0;
{ROW}
    for (; next < blocked; next += 16) {
        const int j = min_int(next, columns - 16);
        const {T} *restrict column = b + j;
        {T} first[16];
        int i = 0;
        for (int l = 0; l < 16; ++l)
            first[l] = bias ? bias[j + l] : {Z};
{BLOCKS}
    }
    for (int j = blocked; j < columns; ++j) {
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

//: product_t_{T} dot_{T} in_blocks
/* c (rows, columns) = bias + a bT, with a (rows, depth) and b (columns, depth). For many rows, numbers of sixteen rows
   of b are laid side by side first, so that no product needs a sum over a vector. */
static void product_t_{T}(int rows, int columns, int depth, const {T} *restrict a, const {T} *restrict b,
                          const {T} *restrict bias, {T} *restrict c)
{
    const int blocked = rows < 8 ? 0 : in_blocks(columns, 16);
    {T} column[16 * 32];
    for (int next = 0; next < blocked; next += 16) {
        const int j = min_int(next, columns - 16);
        for (int i = 0; i < rows; ++i)
            for (int l = 0; l < 16; ++l)
                c[i * columns + j + l] = bias ? bias[j + l] : {Z};
        for (int begin = 0; begin < depth; begin += 32) {
            const int count = min_int(depth - begin, 32);
            int i = 0;
            for (int p = 0; p < count; ++p)
                for (int l = 0; l < 16; ++l)
                    column[p * 16 + l] = b[(j + l) * depth + begin + p];
{PACKED}
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = blocked; j < columns; ++j)
            c[i * columns + j] = (bias ? bias[j] : {Z}) + dot_{T}(depth, a + i * depth, b + j * depth);
}

//: product_tt_{T} in_blocks
/* c (rows, columns) = bias + aT bT, with a (depth, rows) and b (columns, depth). Sixteen rows of a few columns are
   summed up at a time. */
static void product_tt_{T}(int rows, int columns, int depth, const {T} *restrict a, const {T} *restrict b,
                           const {T} *restrict bias, {T} *restrict c)
{
    const int blocked = in_blocks(rows, 16);
    for (int next = 0; next < blocked; next += 16) {
        const int i = min_int(next, rows - 16);
        const {T} *restrict column = a + i;
        int j = 0;
{TRANSPOSED}
    }
    for (int i = blocked; i < rows; ++i)
        for (int j = 0; j < columns; ++j) {
            {T} sum = bias ? bias[j] : {Z};
            for (int p = 0; p < depth; ++p)
                sum += a[p * rows + i] * b[j * depth + p];
            c[i * columns + j] = sum;
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
