"""A copy of a learner, without U or beside one with it, between raw and normalized units: what all graphs share."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from msr_export.flat import FlatNetwork
from msr_export.folding import folded_weights
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.normalization import Normalization, split_center


class Plain(nn.Module):
    """What all graphs share: the network without U, with given weights, between raw and normalized units."""

    input_center: Tensor
    input_rest: Tensor | None
    input_scale: Tensor
    output_center: Tensor
    output_rest: Tensor | None
    output_scale: Tensor

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        super().__init__()
        self.plain = copy.deepcopy(learner)
        for layer in list(self.plain.network.modules()):
            if parametrize.is_parametrized(layer):
                remove_parametrizations(layer)
        for side, center, scale in (
            ("input", normalization.input_center, normalization.input_scale),
            ("output", normalization.output_center, normalization.output_scale),
        ):
            first, rest = split_center(center, scale)
            self.register_buffer(f"{side}_center", torch.from_numpy(first))
            self.register_buffer(f"{side}_rest", None if rest is None else torch.from_numpy(rest))
            self.register_buffer(f"{side}_scale", torch.tensor(scale, dtype=torch.float32))

    def flatten(self, samples: int) -> None:
        """Compute by a flat graph of the network, where it cannot be differentiated for any number of samples as it is.

        Args:
            samples: The number of samples of an example: a length that no other axis has.

        """
        self.plain.forward = FlatNetwork(self.plain.network, torch.randn(samples, *self.plain.inputs))

    def predict(self, x: Tensor, weights: Tensors) -> Tensor:
        """Map raw x `(batch, *x)` to raw y. Scores of classes have no unit and stay as they are."""
        y = self.plain(weights, self._normalized_x(x))
        return y if self.plain.classifies else self.raw(y)

    def raw(self, y: Tensor) -> Tensor:
        """Return normalized y `(batch, *y)` in raw units."""
        y = y * self.output_scale
        return (y if self.output_rest is None else y + self.output_rest) + self.output_center

    def loss(self, support_x: Tensor, support_y: Tensor, weights: Tensors) -> Tensor:
        """The learner's loss on raw support samples."""
        return self.plain.support_loss(weights, *self._normalized(support_x, support_y))

    def _normalized(self, support_x: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize support samples. Labels stay as they are."""
        y = support_y
        if not self.plain.classifies:
            y = _normalize(support_y, self.output_center, self.output_rest, self.output_scale)
        return self._normalized_x(support_x), y

    def _normalized_x(self, x: Tensor) -> Tensor:
        return _normalize(x, self.input_center, self.input_rest, self.input_scale)


class Adapting(Plain):
    """The same, with the learner beside it: with U, and with v as one row."""

    def __init__(self, learner: Learner, normalization: Normalization) -> None:
        super().__init__(learner, normalization)
        self.learner = copy.deepcopy(learner)
        start = learner.start()
        self.shapes = {name: start[name].shape for name in learner.adapted_names}

    def unflatten(self, v: Tensor) -> Tensors:
        """Cut a row v `(1, K)` into the adapted tensors."""
        parts = v.split([shape.numel() for shape in self.shapes.values()], dim=1)
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def flatten(self, samples: int) -> None:
        """See `Plain.flatten`. The learner folds its weights and then computes by the same graph."""
        super().flatten(samples)
        self.learner.forward = lambda adapted, x: self.plain(folded_weights(self.learner, adapted), x)


def _normalize(raw: Tensor, center: Tensor, rest: Tensor | None, scale: Tensor) -> Tensor:
    """`(raw - center) / scale`, with a center in two parts where one would be too coarse (see `split_center`)."""
    moved = raw - center
    return (moved if rest is None else moved - rest) / scale


def remove_parametrizations(layer: nn.Module) -> None:
    """Turn the parametrized tensors of a copied layer into plain parameters again.

    torch's own function would remove the tensors from the layer's class. The copy shares this class with the original
    learner, so the learner would be broken.
    """
    tensors = {name: getattr(layer, name).detach() for name in layer.parametrizations}  # type: ignore[union-attr]
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    for name, tensor in tensors.items():
        layer.register_parameter(name, nn.Parameter(tensor))
