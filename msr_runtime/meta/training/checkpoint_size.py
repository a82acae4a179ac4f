"""Whether a checkpoint's file can hold the learner that its configuration describes.

A file may come from a stranger. Its configuration can name a network that fills the memory of any machine, so its sizes
are compared with the numbers that the file holds before anything is built.
"""

import torch

from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.networks.registry import NETWORKS
from msr_runtime.task import Shape

_SLACK = 4
"""How many times the numbers in the file a learner may need by this count, which knows the methods only roughly."""
_LEAST = 10**4
"""Numbers that a learner may always need."""


def oversize(config: LearnerConfig, inputs: Shape, outputs: Shape, held: int, memory: float) -> str | None:
    """Return why a learner cannot be in a file, or None if it can.

    Args:
        config: The learner's configuration.
        inputs: The shape of a sample's x.
        outputs: The shape of a sample's y.
        held: How many numbers of a learner the file holds.
        memory: Memory of this machine, in bytes.

    """
    most = _SLACK * held + _LEAST
    for name in ("depth", "width", "filters", "terms", "context", "inner_steps"):
        value = getattr(config, name)
        if value > most:
            return f"its {name} is {value:,}, but the file holds {held:,} numbers of a learner"
    if config.depth * config.width > most:
        return f"its {config.depth:,} layers are {config.width:,} wide, but the file holds {held:,} numbers of a learner"
    with torch.device("meta"):  # tensors without memory: only their sizes are needed
        network = NETWORKS[config.network](inputs, outputs, config.width, config.depth, bias=config.bias)
        sizes = [parameter.numel() for parameter in network.parameters()]
    # The rest of the forms needs fewer numbers than the weights that it makes. These must fit into the memory.
    if config.form in ("full", "kronecker") or not config.reparameterized:
        columns = config.filters if config.form == "full" and config.reparameterized else 1
        if (needed := sum(size * min(size, columns) for size in sizes)) > most:
            return f"its network has {needed:,} numbers, but the file holds {held:,}"
    if (needed := 4 * sum(sizes)) > memory / 4:
        return f"its weights take {needed / 2**30:,.1f} GiB, but this machine has {memory / 2**30:,.1f} GiB of memory"
    return None
