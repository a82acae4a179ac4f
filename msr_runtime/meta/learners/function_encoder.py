"""The function encoder: meta-learned functions of x, of which a robot finds the coefficients by least squares."""

import torch
from torch import nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.networks.basis import BasisNetwork, basis_shape
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.task import Group, Loss, Shape


class FunctionEncoder(Learner):
    """Only the coefficients of a meta-learned basis of functions adapt, by one ridge regression.

    y is `g0(x) + c1 g1(x) + c2 g2(x) + ...`. Every task starts at coefficients of zero. The sum is linear in them, so
    that one solution of the rule `ridge`, with learned damping, is exact.

    Sources: Harrison, Sharma, Pavone, "Meta-Learning Priors for Efficient Online Bayesian Regression" (ALPaCA), 2018,
    of which it is the mean; Ingebrand, Thorpe, Topcu, "Function Encoders", 2025.
    """

    name = "function-encoder"

    def __init__(
        self, config: LearnerConfig, inputs: Shape, outputs: Shape, loss: Loss, group: Group | None = None
    ) -> None:
        if loss != "mse":
            raise TrainingError(
                f"method '{self.name}' finds its coefficients by least squares, but the family's loss is {loss}; take "
                "a family whose loss is mse, or another method"
            )
        if config.rule not in (None, "gradient", "ridge"):
            raise TrainingError(
                f"method '{self.name}' is linear in what adapts and takes one step of rule 'ridge', but the rule is "
                f"'{config.rule}'; leave rule out, or take another method"
            )
        super().__init__(config.model_copy(update={"rule": "ridge"}), inputs, outputs, loss, group)

    @classmethod
    def unused(cls, config: LearnerConfig) -> dict[str, str]:
        """Return the options that ridge regression does not use. `context` is used: it sizes the basis."""
        unused = super().unused(config.model_copy(update={"rule": "ridge"}))
        unused.pop("context")
        return unused

    def build_network(self) -> nn.Module:
        """Return the configured network, with as many outputs as all functions have together."""
        config = self.config
        if config.network in ("conv", "local") and len(self.inputs) == len(self.outputs) == 1:
            raise TrainingError(
                f"method '{self.name}' needs several outputs for each number of y, but network '{config.network}' "
                "gives a signal as long as x; take network 'mlp', or give x and y an axis of channels"
            )
        shape = basis_shape(self.outputs, config.context)
        return BasisNetwork(self.plain_network(shape, config.widths), self.outputs, config.context)

    def choose_adapted(self) -> tuple[str, ...]:
        """Return the name of the coefficients alone."""
        return ("coefficients",)

    def start(self) -> Tensors:
        """Return coefficients of zeros. The outer loop cannot move them: g0 is what all tasks have in common."""
        return {"coefficients": torch.zeros_like(self.network.get_parameter("coefficients"))}
