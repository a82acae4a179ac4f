"""`msr samples`: writes a support set and a query set of a simulated task. It needs no torch."""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from msr_runtime.cli.families import named_family
from msr_runtime.cli.output import print_rows, require_folder
from msr_runtime.errors import InputError
from msr_runtime.families import queries_beside
from msr_runtime.files import write_atomically
from msr_runtime.task import Split


def samples(
    family: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FAMILY")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SAMPLES.npz")],
    /,
    shots: Annotated[int, tyro.conf.arg(metavar="N")] = 10,
    queries: Annotated[int, tyro.conf.arg(metavar="N")] = 64,
    split: Split = "test",
    seed: int = 0,
) -> int:
    """Write the support set and the query set of one simulated task, as `msr adapt` reads them.

    The file has the same form as the samples that a robot would record.

    Args:
        family: The task family: a built-in name, module:attribute, file.py:attribute, file.npz or file.yaml.
        out: The .npz file to write: support_x, support_y, query_x and query_y, in raw units.
        shots: Number of support samples. For images: per class.
        queries: Number of query samples per query set of the family. For images: per class, and fewer if a class has
            fewer images.
        split: The split from which the task is drawn. Training has not seen those of `test`.
        seed: Seed of the task and its samples.
    """
    for name, value, least in (("shots", shots, 1), ("queries", queries, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{name} is {value}, but at least {least} is wanted")
    require_folder(out)
    if out.suffix != ".npz":
        raise InputError(f"'{out}' does not end in .npz, the only kind of file that `msr adapt` reads")
    loaded = named_family(family)
    queries = queries_beside(loaded, shots, queries)
    batch = loaded.sample(np.random.default_rng(seed), 1, shots, queries * len(loaded.query_sets), split)
    x, y = (array.shape[1:] for array in batch[:2])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: array[0] for name, array in batch._asdict().items()})
    write_atomically(out, buffer.getvalue())
    sets = f", {queries} in each of {', '.join(loaded.query_sets)}" if len(loaded.query_sets) > 1 else ""
    print_rows(
        {
            "samples": out,
            "task": f"one of {loaded.name}, {split}, seed {seed}",
            "support": f"{len(batch.support_x[0])} samples, x {x}, y {y}",
            "query": f"{batch.query_x.shape[1]} samples{sets}",
        }
    )
    return 0
