"""`msr source`: writes a bundle as C source."""

from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.bundle.store import Bundle
from msr_runtime.cli.output import BundlePath, TrustedKeys, option, print_rows

Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]


def source(
    bundle: BundlePath,
    folder: Folder,
    /,
    shots: Annotated[int | None, option("N", "as many as in meta-training")] = None,
    key: TrustedKeys = (),
) -> int:
    """Write a bundle as C99: a header, a source with all constants, and a program that tests them.

    It predicts and adapts as the bundle does, allocates nothing and needs libm alone.

    Compile and run the program first: it replays the bundle's golden example.

    U takes as many bytes as in the bundle: for a smaller source, export it in float16 or int8.

    Args:
        bundle: The folder of the bundle.
        folder: The folder to write to. Files of an earlier call are replaced.
        shots: The most samples of a support set. Each takes memory.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
    """
    write_source(Bundle.open(bundle, key or None), folder, shots)
    return 0


def write_source(bundle: Bundle, folder: Path, shots: int | None = None) -> None:
    """Write a bundle as C, and print the files and how they are compiled."""
    from msr_c import write_c  # onnx is imported for it alone

    written = write_c(bundle, folder, shots)
    program = written.test.with_suffix("")
    print_rows(
        {
            **written._asdict(),
            "compile": f"cc -std=c99 -O2 {written.source} {written.test} -lm -o {program}",
        }
    )
