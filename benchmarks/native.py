"""Native code in the bundles that benchmarks write."""

from pathlib import Path

from msr_runtime.bundle.store import Bundle
from msr_runtime.cli.compile import add_native
from msr_runtime.inference.native import find_compiler


def compile_native(bundle: Path) -> None:
    """Add native code to the bundle in a folder, by the compiler `cc`, as `msr compile` does.

    Raises:
        InputError: If there is no `cc`.

    """
    add_native(Bundle.open(bundle), find_compiler("cc"))
