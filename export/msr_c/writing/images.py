"""The C functions of convolutions, as templates. A signal is an image of one row.

Images have their channels last, and filters their outer channels, so both are read in the order of memory. All three
products of a convolution (its result, the gradient by its filters, the gradient by its images) are sums of numbers that
lie at known places in an image: `gathered`, blocked as the dense product. A part of an image is copied into a frame of
zeros first, so that nothing asks where the image ends, and no patch is written out.
"""

from msr_c.writing.dense import RowBlock

ROWS = 4
"""Rows of a block: a power of two, as sizes of maps often are. With 16 lanes they keep two units busy."""


def _lanes(count: int) -> str:
    """The loops of `gathered` over so many columns at a time."""
    places = [f"*restrict a{row} = a + at[i + {row}]" for row in range(ROWS)]
    ends = [f"*restrict c{row} = c + j + to[i + {row}]" for row in range(ROWS)]
    lines = ["    const {T} *restrict column = b + j;", "    int i = 0;"]
    for rows in (ROWS, 1):
        named = f"const {{T}} {', '.join(places[:rows])};", f"{{T}} {', '.join(ends[:rows])};"
        block = RowBlock(
            count=rows,
            lanes=count,
            loop=f"i + {rows} <= rows; i += {rows}",
            named=named,
            first="c{}[l]",
            step="steps[p]",
            pitch="pitch",
            out="c{}[l]",
        )
        lines.append(block.written())
    body = "\n".join(lines)
    return f"    for (; j + {count} <= columns; j += {count}) {{\n    {body}\n    }}"


IMAGES = (
    r"""
//: window
/* A convolution of images (height, width, inner channels) to images (rows, columns, outer channels). So many images and
   rows of them are computed at a time. */
typedef struct {
    int inner, outer, groups, height, width, rows, columns, taps_y, taps_x;
    int step_y, step_x, pad_y, pad_x, apart_y, apart_x, images, band;
} window;

//: gathered_{T}
/* c += a b, with b (depth, columns) in rows of `pitch` numbers. Number (i, p) of a is a[at[i] + steps[p]], and row i of
   c begins at c[to[i]]. */
static void gathered_{T}(int rows, int columns, int depth, const {T} *restrict a, const int *restrict at,
                         const int *restrict steps, const {T} *restrict b, int pitch, {T} *restrict c,
                         const int *restrict to)
{
    int j = 0;
"""
    + "\n".join(map(_lanes, (16, 8, 4, 1)))
    + r"""
}

//: frame_{T}
/* frame (rows, columns, channels): the part of an image (height, width, channels) from `top` and `left` on, and zeros
   where it has no numbers. */
static void frame_{T}(int rows, int columns, int top, int left, int height, int width, int channels,
                      const {T} *restrict image, {T} *restrict frame)
{
    for (int r = 0; r < rows; ++r) {
        const int y = top + r, inside = y >= 0 && y < height;
        const int begin = !inside || -left > columns ? columns : -left;
        const int end = !inside || width - left > columns ? columns : width - left;
        {T} *restrict row = frame + r * columns * channels;
        for (int p = 0; p < begin * channels; ++p)
            row[p] = {Z};
        if (begin < end)
            memcpy(row + begin * channels, image + (y * width + left + begin) * channels,
                   (size_t)((end - begin) * channels) * sizeof *row);
        for (int p = end * channels; p < columns * channels; ++p)
            row[p] = {Z};
    }
}

//: begin_{T}
/* images (count, channels) = bias, or 0 without one. */
static void begin_{T}(int count, int channels, const {T} *restrict bias, {T} *restrict images)
{
    for (int i = 0; i < count; ++i)
        for (int c = 0; c < channels; ++c)
            images[i * channels + c] = bias ? bias[c] : {Z};
}

//: taps_of window
/* How far in a frame of so many columns each number that a filter reads lies from the first. Returns how many they
   are. */
static int taps_of(const window s, int columns, int *restrict taps)
{
    int count = 0;
    for (int c = 0; c < s.inner / s.groups; ++c)
        for (int a = 0; a < s.taps_y; ++a)
            for (int b = 0; b < s.taps_x; ++b)
                taps[count++] = (a * s.apart_y * columns + b * s.apart_x) * s.inner + c;
    return count;
}

//: framed_{T} window frame_{T}
/* Frame what a band of rows reads of some images, and write where each of its positions begins there. Returns how many
   positions there are. */
static int framed_{T}(const window s, int images, int row, const {T} *restrict large, {T} *restrict frame,
                      int *restrict at)
{
    const int rows = s.rows - row < s.band ? s.rows - row : s.band;
    const int columns = (s.columns - 1) * s.step_x + (s.taps_x - 1) * s.apart_x + 1;
    const int down = (rows - 1) * s.step_y + (s.taps_y - 1) * s.apart_y + 1, size = down * columns * s.inner;
    int count = 0;
    for (int i = 0; i < images; ++i) {
        frame_{T}(down, columns, row * s.step_y - s.pad_y, -s.pad_x, s.height, s.width, s.inner,
                  large + i * s.height * s.width * s.inner, frame + i * size);
        for (int y = 0; y < rows; ++y)
            for (int x = 0; x < s.columns; ++x)
                at[count++] = i * size + (y * s.step_y * columns + x * s.step_x) * s.inner;
    }
    return count;
}

//: convolve_{T} begin_{T} taps_of framed_{T} gathered_{T}
/* small (n, rows, columns, outer) = bias + large (n, height, width, inner), convolved with w (inner / groups, taps,
   outer). There is room for a frame, and for the places of taps, positions, and results. */
static void convolve_{T}(int n, const window s, const {T} *restrict large, const {T} *restrict w,
                         const {T} *restrict bias, {T} *restrict small, {T} *restrict frame, int *restrict taps,
                         int *restrict at, int *restrict to)
{
    const int inner = s.inner / s.groups, outer = s.outer / s.groups;
    const int depth = taps_of(s, (s.columns - 1) * s.step_x + (s.taps_x - 1) * s.apart_x + 1, taps);
    for (int i = 0; i < s.images * s.band * s.columns; ++i)
        to[i] = i * s.outer;
    begin_{T}(n * s.rows * s.columns, s.outer, bias, small);
    for (int first = 0; first < n; first += s.images)
        for (int row = 0; row < s.rows; row += s.band) {
            const int images = n - first < s.images ? n - first : s.images;
            const int count = framed_{T}(s, images, row, large + first * s.height * s.width * s.inner, frame, at);
            {T} *restrict out = small + (first * s.rows + row) * s.columns * s.outer;
            for (int k = 0; k < s.groups; ++k)
                gathered_{T}(count, outer, depth, frame + k * inner, at, taps, w + k * outer, s.outer,
                             out + k * outer, to);
        }
}

//: filters_{T} begin_{T} taps_of framed_{T} gathered_{T}
/* The gradient by w (inner / groups, taps, outer), from the gradient `small` by a convolution's result. */
static void filters_{T}(int n, const window s, const {T} *restrict large, const {T} *restrict small, {T} *restrict w,
                        {T} *restrict frame, int *restrict taps, int *restrict at, int *restrict to)
{
    const int inner = s.inner / s.groups, outer = s.outer / s.groups;
    const int depth = taps_of(s, (s.columns - 1) * s.step_x + (s.taps_x - 1) * s.apart_x + 1, taps);
    for (int i = 0; i < depth; ++i)
        to[i] = i * s.outer;
    begin_{T}(depth, s.outer, NULL, w);
    for (int first = 0; first < n; first += s.images)
        for (int row = 0; row < s.rows; row += s.band) {
            const int images = n - first < s.images ? n - first : s.images;
            const int count = framed_{T}(s, images, row, large + first * s.height * s.width * s.inner, frame, at);
            const {T} *restrict back = small + (first * s.rows + row) * s.columns * s.outer;
            for (int k = 0; k < s.groups; ++k)
                gathered_{T}(depth, outer, count, frame + k * inner, taps, at, back + k * outer, s.outer,
                             w + k * outer, to);
        }
}

//: turned_{T} window
/* Filters of one group for the pixels of one phase: each tap that reaches them as a matrix (outer, inner), and how far
   back in a frame of so many columns its numbers lie. Returns how many rows all of them have. */
static int turned_{T}(const window s, int group, int phase, int columns, const {T} *restrict w, {T} *restrict turned,
                      int *restrict steps)
{
    const int inner = s.inner / s.groups, outer = s.outer / s.groups, taps = s.taps_y * s.taps_x;
    int depth = 0;
    for (int t = 0; t < taps; ++t) {
        const int y = t / s.taps_x * s.apart_y, x = t % s.taps_x * s.apart_x;
        if (y % s.step_y != phase / s.step_x || x % s.step_x != phase % s.step_x)
            continue;
        for (int c = 0; c < inner; ++c)
            for (int o = 0; o < outer; ++o)
                turned[(depth + o) * inner + c] = w[(c * taps + t) * s.outer + group * outer + o];
        for (int o = 0; o < outer; ++o)
            steps[depth + o] = group * outer + o - (y / s.step_y * columns + x / s.step_x) * s.outer;
        depth += outer;
    }
    return depth;
}

//: spread_{T} begin_{T} frame_{T} turned_{T} gathered_{T}
/* large = bias + the transposed convolution of small. Pixels that lie a stride apart are of one phase: the same taps
   reach them. `images` and `band` count what is computed at a time of a phase. */
static void spread_{T}(int n, const window s, const {T} *restrict small, const {T} *restrict w,
                       const {T} *restrict bias, {T} *restrict large, {T} *restrict frame, {T} *restrict turned,
                       int *restrict steps, int *restrict at, int *restrict to)
{
    const int over_y = (s.taps_y - 1) * s.apart_y / s.step_y, over_x = (s.taps_x - 1) * s.apart_x / s.step_x;
    const int down = (s.height - 1 + s.pad_y) / s.step_y + 1, across = (s.width - 1 + s.pad_x) / s.step_x + 1;
    const int columns = across + over_x, size = (s.band + over_y) * columns * s.outer, inner = s.inner / s.groups;
    begin_{T}(n * s.height * s.width, s.inner, bias, large);
    for (int task = 0; task < s.groups * s.step_y * s.step_x; ++task) {
        const int group = task % s.groups, phase = task / s.groups;
        const int depth = turned_{T}(s, group, phase, columns, w, turned, steps);
        for (int first = 0; first < n && depth; first += s.images)
            for (int row = 0; row < down; row += s.band) {
                int count = 0;
                for (int i = first; i < n && i < first + s.images; ++i) {
                    {T} *restrict part = frame + (i - first) * size;
                    frame_{T}(s.band + over_y, columns, row - over_y, -over_x, s.rows, s.columns, s.outer,
                              small + i * s.rows * s.columns * s.outer, part);
                    for (int r = row; r < row + s.band && r < down; ++r)
                        for (int q = 0; q < across; ++q) {
                            const int y = r * s.step_y + phase / s.step_x - s.pad_y;
                            const int x = q * s.step_x + phase % s.step_x - s.pad_x;
                            if (y < 0 || y >= s.height || x < 0 || x >= s.width)
                                continue;
                            at[count] = (i - first) * size + ((r - row + over_y) * columns + q + over_x) * s.outer;
                            to[count++] = ((i * s.height + y) * s.width + x) * s.inner;
                        }
                }
                gathered_{T}(count, inner, depth, frame, at, steps, turned, inner, large + group * inner, to);
            }
    }
}
"""
)
