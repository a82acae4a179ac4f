"""How much an adaptation costs, estimated from the manifest before it runs.

The estimate counts the multiplications of one inner step. It is a ratio to the adaptation of meta-training, so it does
not depend on the machine. A rule that solves a linear system costs the third power of the system's size. Where a bundle
has no graphs for many samples, this size grows with the samples: ten times the samples can cost a thousand times as
much.
"""

from bisect import bisect_right

from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.store import SUMS
from msr_runtime.inference.many_samples import cost_of_few, cost_of_many
from msr_runtime.task import width

_SOLVING = ("gauss-newton", "ridge")
"""The rules that solve a linear system in each step."""


def relative_cost(manifest: Manifest, samples: int, steps: int) -> float:
    """Return the estimated cost of an adaptation; 1 is the cost of `shots` samples and `inner_steps` steps.

    Args:
        manifest: The manifest of the bundle, with its rule, shots, inner steps and sizes.
        samples: Number of support samples.
        steps: Number of inner steps.
    """
    own = _step(manifest, manifest.shots) * manifest.inner_steps
    return _step(manifest, samples) * steps / own


def most_samples(manifest: Manifest, samples: int, steps: int, limit: float) -> int:
    """Return the largest number of samples, at most `samples`, whose estimated cost with `steps` is within `limit`."""
    return bisect_right(range(1, samples + 1), limit, key=lambda count: relative_cost(manifest, count, steps))


def _step(manifest: Manifest, samples: int) -> float:
    """Multiplications of one inner step."""
    weights = manifest.weight_entries
    if manifest.rule not in _SOLVING:
        return samples * weights  # forwards and backwards through every weight, once per sample
    rows, size = samples * width(manifest.outputs), manifest.filter_parameters
    # The Jacobian is a row per output of each sample. U maps each row from the weights to the filter parameters; each
    # layer has its own block of U.
    jacobian = rows * weights * (2 + size / len(manifest.weights))
    few = cost_of_few(rows, size)
    return jacobian + (min(few, cost_of_many(rows, size)) if SUMS in manifest.files else few)
