"""`msr source`: writes a bundle as C source."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from msr_runtime.bundle.store import Bundle
from msr_runtime.cli.output import BundlePath, TrustedKeys, option, print_rows

Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]


def source(
    bundle: BundlePath,
    folder: Folder,
    /,
    shots: Annotated[int | None, option("N", "as many as in meta-training")] = None,
    store: Literal["float32", "float16", "int8"] = "float32",
    key: TrustedKeys = (),
) -> int:
    """Write a bundle as C99: a header, a source with all constants, and a program that tests them.

    It predicts and adapts as the bundle does, allocates nothing and needs libm alone.

    Compile and run the program first: it replays the bundle's golden example.

    Args:
        bundle: The folder of the bundle.
        folder: The folder to write to. Files of an earlier call are replaced.
        shots: The most samples of a support set. Each takes memory.
        store: How the symmetry matrix U is stored. The test program compares with what ONNX Runtime makes of this U.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
    """
    write_source(Bundle.open(bundle, key or None), folder, shots, store)
    return 0


def write_source(
    bundle: Bundle, folder: Path, shots: int | None = None, store: Literal["float32", "float16", "int8"] = "float32"
) -> None:
    """Write a bundle as C, and print the files and how they are compiled."""
    from msr_c import write_c  # onnx is imported for it alone

    written = write_c(bundle, folder, shots, store)
    program = written.test.with_suffix("")
    print_rows(
        {
            **written._asdict(),
            "U": store,
            "compile": f"cc -std=c99 -O2 {written.source} {written.test} -lm -o {program}",
        }
    )
