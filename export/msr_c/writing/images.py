"""The C functions of convolutions, as templates. A signal is an image of one row."""

IMAGES = r"""
//: convolve_{T}
/* Sizes of a convolution: of a large image (inner channels) and a small one (outer channels), and of the filters. */
typedef struct {
    int inner, outer, groups, height, width, rows, columns, taps_y, taps_x;
    int step_y, step_x, pad_y, pad_x, apart_y, apart_x;
} sizes_{T};

/* small (n, outer, rows, columns) = bias + large (n, inner, height, width), convolved with w (outer, inner / groups,
   taps). The images of small and large may not overlap. Without a bias it is null. */
static void convolve_{T}(int n, const sizes_{T} s, const {T} *restrict large, const {T} *restrict w,
                         const {T} *restrict bias, {T} *restrict small)
{
    const int inner = s.inner / s.groups, outer = s.outer / s.groups;
    for (int i = 0; i < n; ++i)
        for (int o = 0; o < s.outer; ++o)
            for (int row = 0; row < s.rows; ++row)
                for (int column = 0; column < s.columns; ++column) {
                    {T} sum = bias ? bias[o] : {Z};
                    for (int c = 0; c < inner; ++c)
                        for (int a = 0; a < s.taps_y; ++a) {
                            const int y = row * s.step_y - s.pad_y + a * s.apart_y;
                            if (y < 0 || y >= s.height)
                                continue;
                            for (int b = 0; b < s.taps_x; ++b) {
                                const int x = column * s.step_x - s.pad_x + b * s.apart_x;
                                if (x >= 0 && x < s.width)
                                    sum += w[((o * inner + c) * s.taps_y + a) * s.taps_x + b] *
                                           large[((i * s.inner + o / outer * inner + c) * s.height + y) * s.width + x];
                            }
                        }
                    small[((i * s.outer + o) * s.rows + row) * s.columns + column] = sum;
                }
}

//: spread_{T} convolve_{T}
/* large = bias + the transposed convolution of small: each number is added where a convolution would read it. */
static void spread_{T}(int n, const sizes_{T} s, const {T} *restrict small, const {T} *restrict w,
                       const {T} *restrict bias, {T} *restrict large)
{
    const int inner = s.inner / s.groups, outer = s.outer / s.groups, area = s.height * s.width;
    for (int i = 0; i < n * s.inner; ++i)
        for (int p = 0; p < area; ++p)
            large[i * area + p] = bias ? bias[i % s.inner] : {Z};
    for (int i = 0; i < n; ++i)
        for (int o = 0; o < s.outer; ++o)
            for (int row = 0; row < s.rows; ++row)
                for (int column = 0; column < s.columns; ++column) {
                    const {T} number = small[((i * s.outer + o) * s.rows + row) * s.columns + column];
                    for (int c = 0; c < inner; ++c)
                        for (int a = 0; a < s.taps_y; ++a) {
                            const int y = row * s.step_y - s.pad_y + a * s.apart_y;
                            if (y < 0 || y >= s.height)
                                continue;
                            for (int b = 0; b < s.taps_x; ++b) {
                                const int x = column * s.step_x - s.pad_x + b * s.apart_x;
                                if (x >= 0 && x < s.width)
                                    large[((i * s.inner + o / outer * inner + c) * s.height + y) * s.width + x] +=
                                        number * w[((o * inner + c) * s.taps_y + a) * s.taps_x + b];
                            }
                        }
                }
}
"""
