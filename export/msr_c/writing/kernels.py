"""The C functions that the code of graphs calls. Only those that a bundle needs are written.

Compilers turn loops of a fixed length over neighbours into vector instructions, without options that change results. So
sums run in lanes: as many sums side by side as a vector holds, added up at the end.
"""

from collections.abc import Iterator

from msr_c.writing.dense import DENSE, row_blocks
from msr_c.writing.images import IMAGES
from msr_c.writing.symmetric import SYMMETRIC

_STORES = {"float32": "float", "float16": "uint16_t", "int8": "int8_t"}
"""How U is stored, and the C type of its numbers."""
_EIGHT = {
    "float32": "_mm256_loadu_ps(u + p)",
    "float16": "_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(u + p)))",
    "int8": "_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64("
    "(const __m128i *)(const void *)(u + p)))),\n                         _mm256_loadu_ps(scales + p))",
}
"""How eight numbers of a row of U become floats."""


def kernels(wanted: set[str]) -> str:
    """Return the C functions that are wanted, each after those that it calls.

    Args:
        wanted: Names of functions.
    """
    parts: dict[str, tuple[list[str], str]] = {}
    for part in (DENSE + IMAGES + SYMMETRIC).split("//: ")[1:]:
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
            second = "rows" if store == "float32" else "rows + size"
            yield {"{S}": store, "{U}": own, "{SECOND}": second, "{EIGHT}": _EIGHT[store]}
        return
    for dtype in ("float", "double") if "{T}" in head else ("float",):
        zero, root = ("0.0f", "sqrtf") if dtype == "float" else ("0.0", "sqrt")
        # Five rows of sixteen floats, and what they are multiplied by, nearly fill the registers of AVX2, and ten shots
        # are two blocks. With three sizes of blocks, clang keeps none of them in registers.
        blocks = row_blocks((5, 1) if dtype == "float" else (4, 1))
        words = {"{LANES}": _LANES, "{ADD_LANES}": _ADD_LANES, **blocks}
        yield words | {"{T}": dtype, "{Z}": zero, "{SQRT}": root}


def _filled(text: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


_LANES = """{T} s0[8] = {{Z}}, s1[8] = {{Z}}, s2[8] = {{Z}}, s3[8] = {{Z}}, sum = {Z};
    int p = 0;"""
_ADD_LANES = """for (int l = 0; l < 8; ++l)
        s0[l] = (s0[l] + s1[l]) + (s2[l] + s3[l]);
    return sum + ((s0[0] + s0[4]) + (s0[2] + s0[6])) + ((s0[1] + s0[5]) + (s0[3] + s0[7]));"""
