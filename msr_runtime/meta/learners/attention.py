"""In-context attention: a network that reads the support set in one pass."""

import math

from torch import Tensor, nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.labels import one_hot
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.unused import INNER_LOOP
from msr_runtime.meta.networks.attention import InContextNetwork
from msr_runtime.meta.rules.rule import Tensors


class Attention(Learner):
    """Nothing takes a step: each x attends to the samples of the support set, as in a transformer neural process.

    What is kept of a support set, keys and values, grows with its samples. So it is not among the numbers that adapt,
    and the exporter refuses the method: it is one to compare others with.
    """

    name = "attention"

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options of steps too, and `bias`: the layers of a block have biases."""
        unused = super().unused(config.model_copy(update={"bias": True}))
        return unused | dict.fromkeys(("bias", "activation", *INNER_LOOP), "it reads the support set in one pass")

    def build_network(self) -> nn.Module:
        """Return as many blocks of attention as the network has hidden layers."""
        config = self.config
        if config.network != "mlp":
            raise TrainingError(
                f"method '{self.name}' makes one token of a whole sample, but the network is '{config.network}'; take "
                "network 'mlp', which flattens images"
            )
        if len(set(config.widths)) != 1:
            raise TrainingError(
                f"method '{self.name}' has at least one block, and one width for all blocks, but depth is "
                f"{config.depth} and width is {config.width}; set depth to 1 or more, and width to one number"
            )
        inputs, outputs = math.prod(self.inputs), math.prod(self.outputs)
        return InContextNetwork(inputs, outputs, outputs, config.widths[0], config.depth)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the names of what is kept of a support set."""
        return ("keys", "values")

    def build_rule(self) -> None:
        """Return None: nothing takes a step."""

    def start(self) -> Tensors:
        """Return the keys and values of no samples, each `(blocks, 0, width)`."""
        start = self.network.get_parameter("norm.weight")
        return {name: start.new_zeros(self.config.depth, 0, len(start)) for name in self.adapted_names}

    def forward(self, adapted: Tensors, x: Tensor) -> Tensor:
        """Map x `(samples, *x)` to `(samples, *y)`, with the given keys and values."""
        return self.network(x.flatten(1), adapted["keys"], adapted["values"]).unflatten(1, self.outputs)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Tensors:
        """Read the support set. The result does not depend on the number of steps, if there is at least one."""
        if steps == 0:
            return self.start()
        assert isinstance(self.network, InContextNetwork)
        y = one_hot(support_y, self.outputs[0], support_x.dtype) if self.classifies else support_y
        return dict(zip(("keys", "values"), self.network.remember(support_x.flatten(1), y.flatten(1)), strict=True))
