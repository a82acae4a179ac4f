"""`msr check`: compares a policy in an ONNX file with the symmetry that a family declares. It needs no torch."""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from msr_envs.checking import check_policy
from msr_envs.checking.policy import BROKEN
from msr_runtime.cli.families import checked_family, named_family
from msr_runtime.cli.output import print_rows, refuse
from msr_runtime.inference.policy_file import PolicyFile
from msr_runtime.task import width


def check(
    policy: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="POLICY.onnx")],
    family: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FAMILY")],
    /,
) -> int:
    """Compare a policy with the symmetry that a family declares.

    It says which output breaks which turn or mirror, by how much, and which field does not fit.

    The family is checked first, as `check_family` does. Exit code 1: a symmetry is broken.

    Args:
        policy: An ONNX file, from any program: one input, x in the family's units and order. A bundle's predict.onnx
            is one.
        family: The task family: a built-in name, module:attribute, file.py:attribute, file.npz or file.yaml.
    """
    loaded = named_family(family)
    words = checked_family(loaded).splitlines()
    predict = PolicyFile(policy, width(loaded.outputs))
    report = check_policy(predict, loaded, np.random.default_rng(0))
    declared = {f"declared {i}" if len(words) > 2 else "declared": line for i, line in enumerate(words[1:], 1)}
    found = {f"{i} of {len(report.elements)}": element for i, element in enumerate(report.elements, 1)}
    print_rows({"policy": f"{policy}, {predict.input} to {predict.output}", "family": words[0], **declared, **found})
    if report.broken:
        refuse(
            f"a symmetry is broken: an error is above {BROKEN:g}. Either the policy does not have it, or what the "
            "fields say of it is wrong"
        )
    return int(report.broken)
