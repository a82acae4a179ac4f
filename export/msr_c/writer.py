"""Write a finished bundle as C99 source: the header, the source with its constants, and a program that tests them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from msr_c.around.program import write_program
from msr_c.around.robot import robot_functions
from msr_c.around.testing import golden_program
from msr_c.rewriting.translation import Translation, translate_bundle
from msr_c.writing.text import identifier
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import ExportError
from msr_runtime.files import write_atomically

__all__ = ["Written", "write_c", "write_robot_source"]


class Written(NamedTuple):
    """The files of a bundle in C."""

    header: Path
    """What a program includes."""
    source: Path
    """The network, its adaptation and its constants."""
    test: Path
    """A program that replays the golden example."""


def write_c(bundle: Bundle, folder: Path, shots: int | None = None) -> Written:
    """Write an opened bundle as C99. U is stored as the bundle stores it, so `msr export --precision` makes it smaller.

    Args:
        bundle: The bundle.
        folder: The folder to write to. It is made if it is not there. Files of an earlier export are replaced, each
            when the new one is whole.
        shots: N, the most samples of a support set. None takes those of meta-training.

    Raises:
        ExportError: If the bundle cannot be written in C, or `shots` is below the golden example's.
    """
    name, shots = identifier(bundle.manifest.name), bundle.manifest.shots if shots is None else shots
    _check_shots(bundle, shots)
    program = write_program(bundle.manifest, bundle.digest, _translate(bundle), name, shots)
    test = golden_program(bundle.manifest, bundle.golden(), name, bundle.manifest.parity.tolerance)
    folder.mkdir(parents=True, exist_ok=True)
    written = Written(folder / f"{name}.h", folder / f"{name}.c", folder / f"{name}_test.c")
    for path, text in zip(written, (program.header, program.source, test), strict=True):
        write_atomically(path, text.encode())
    return written


def _check_shots(bundle: Bundle, shots: int) -> None:
    """Refuse fewer samples than the test of the code needs."""
    if shots < (least := len(bundle.golden().support_x)):
        raise ExportError(
            f"shots is {shots}, but the golden example that tests the code has {least} samples: take {least} or more"
        )


def _translate(bundle: Bundle) -> Translation:
    """Translate a bundle whose names C tells apart."""
    translation = translate_bundle(bundle)
    for names in (translation.start, *_sides(bundle.manifest)):
        _refuse_twins(names)
    return translation


def _sides(manifest: Manifest) -> Iterator[list[str]]:
    """The names of the fields of x, and of y, as macros."""
    for side in (manifest.inputs, manifest.outputs):
        yield [field.name.upper() for field in side]


def _refuse_twins(names: Iterable[str]) -> None:
    """Refuse names that C would not tell apart.

    Raises:
        ExportError: If there are some.
    """
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(identifier(name), name)
        if first != name:
            raise ExportError(f"'{first}' and '{name}' have the same name in C, {identifier(name)}: rename one of them")


def write_robot_source(bundle: Bundle, shots: int) -> bytes:
    """Return an opened bundle as one C99 source that `msr_runtime` compiles and calls.

    Args:
        bundle: The bundle.
        shots: N, the most samples of a support set.

    Raises:
        ExportError: If the bundle cannot be written in C, or `shots` is below the golden example's.
    """
    _check_shots(bundle, shots)
    name, translation = identifier(bundle.manifest.name), _translate(bundle)
    program = write_program(bundle.manifest, bundle.digest, translation, name, shots)
    body = program.source.replace(f'#include "{name}.h"\n', program.header, 1)
    return (body + robot_functions(bundle.manifest, name, translation.graphs)).encode()
