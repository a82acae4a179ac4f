"""`msr export`: writes a checkpoint as a bundle."""

from pathlib import Path
from typing import Annotated

import torch
import tyro

from msr_runtime.bundle.manifest import MANIFEST
from msr_runtime.bundle.rounding import Precision
from msr_runtime.bundle.store import Bundle
from msr_runtime.cli.compile import add_native
from msr_runtime.cli.families import family_of
from msr_runtime.cli.info import describe_parity
from msr_runtime.cli.output import BundlePath, option, print_rows
from msr_runtime.cli.programs import MethodOfCheckpoint, Programs, load_own
from msr_runtime.cli.source import write_source
from msr_runtime.errors import InputError
from msr_runtime.inference.native import find_compiler

_NONE = Programs()


def export(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|CHECKPOINT")],
    bundle: BundlePath,
    /,
    family: Annotated[str | None, option("FAMILY", "the family that the checkpoint names, if it is installed")] = None,
    learner: Programs = _NONE,
    method: MethodOfCheckpoint = None,
    precision: Annotated[
        Precision | None, option("float32|float16|int8", "float16 if it costs at most 0.1 % more error, else float32")
    ] = None,
    structure: Annotated[
        tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="(default: what adapting needs)")
    ] = True,
    replace: tyro.conf.FlagCreatePairsOff[bool] = False,
    native: tyro.conf.FlagCreatePairsOff[bool] = False,
    c: Annotated[Path | None, option("FOLDER", "no C source")] = None,
) -> int:
    """Write a checkpoint as a bundle, the folder that the robot needs.

    Before the bundle is written, its outputs in ONNX Runtime are compared with those in torch.

    Args:
        checkpoint: The folder of a run, whose best checkpoint is exported, or a checkpoint file (.safetensors).
        bundle: The folder to write. A bundle that is there already is left as it is, and refused.
        family: The task family that the network was trained on: a built-in name, module:attribute, file.py:attribute,
            file.npz or file.yaml. Needed for a family of your own: it is a program, and none is run only because a file
            names it.
        learner: A network or rule of your own, on which the checkpoint was trained. A checkpoint never runs what it
            names, so name it again.
        method: The method of the checkpoint, if it is one of your own: name it again too.
        precision: How U and the layers that do not adapt are stored. Fewer bytes are less exact. The error that this
            adds after adapting is measured on validation tasks, and printed.
        structure: Store all of U. Otherwise, rows and columns that are not needed for adapting to tasks are left out,
            so that the robot adapts with less work. At most 2 % more error after adapting is allowed. What this costs
            and saves is printed.
        replace: Replace the bundle that is there already. Until the new one is whole, the old one stays.
        native: Also compile the bundle's native code for this machine's processor, as `msr compile` does with its
            defaults.
        c: Also write the bundle as C source to this folder, as `msr source` does with its defaults.
    """
    from msr_export import export_checkpoint  # the import takes seconds, and wrong arguments are reported before it
    from msr_runtime.meta.training.progress import working

    torch.set_num_threads(1)
    if (checkpoint / MANIFEST).is_file():
        raise InputError(f"'{checkpoint}' is a bundle already; name the folder of a run, or a checkpoint file in it")
    if (bundle / MANIFEST).is_file() and not replace:
        raise InputError(
            f"'{bundle}' holds a bundle already, and a robot may use it; name another folder, or replace it (--replace)"
        )
    for folder in (bundle, c) if c else (bundle,):
        if not next(above for above in folder.absolute().parents if above.exists()).is_dir():
            raise InputError(f"'{folder}' cannot be a folder, because a file has the name of a folder above it")
    if c is not None and c.exists() and not c.is_dir():
        raise InputError(f"'{c}' is a file, but a folder for the C source is wanted: name another one (--c)")
    compiler = find_compiler("cc") if native else None
    found = load_own(checkpoint, learner, method)
    tasks = family_of(checkpoint, family, found.config.family)
    with working("exporting: what can be left out is measured on validation tasks, then all is compared", shown=True):
        export_checkpoint(found, bundle, family=tasks, precision=precision, structure=structure)
    written = Bundle.open(bundle)
    if compiler:
        written = add_native(written, compiler)
    rounding, found_in_u = written.manifest.rounding, written.manifest.structure
    print_rows(
        {
            "bundle": bundle,  # as it was given, so that the next command can be copied
            "parity": describe_parity(written),
            **(found_in_u.describe() if found_in_u else {}),
            "precision": rounding.describe() if rounding else "float32",
            **{name: f"{len(data)} bytes" for name, data in written.files.items()},
        }
    )
    if c is not None:
        write_source(written, c)
    return 0
