"""Trained learners that follow streams: by the recursive rule, or again and again from v0 on a window of samples.

All streams are computed at once in torch, which gives the numbers of the exported bundles up to rounding.
"""

import copy
from collections import deque
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.belief import Belief
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.recursive import Observation, Recursive, Sample
from msr_runtime.meta.rules.rule import Tensors, rescale
from msr_runtime.meta.training.checkpoint import Checkpoint
from msr_runtime.normalization import Normalization
from msr_runtime.relinearization import due


class Trained:
    """What both have in common: a learner, its normalization, and tensors that adapt, one set a stream."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.learner: Learner = copy.deepcopy(checkpoint.learner).requires_grad_(False)
        self.normalization: Normalization = checkpoint.normalization
        self.scale = torch.tensor(self.normalization.output_scale, dtype=torch.float32)
        self.center = torch.tensor(self.normalization.output_center, dtype=torch.float32)

    def start(self, streams: int) -> None:
        self.adapted: Tensors = {
            name: tensor.expand(streams, *tensor.shape) for name, tensor in self.learner.start().items()
        }

    def predict(self, x: NDArray) -> NDArray:
        with torch.no_grad():
            outputs = vmap(self.learner)(self.adapted, self.normalized_x(x))
            return (outputs * self.scale + self.center).numpy().astype(np.float64)

    def normalized_x(self, x: NDArray) -> Tensor:
        return torch.from_numpy(self.normalization.normalize_x(x))

    def normalized(self, x: NDArray, y: NDArray) -> tuple[Tensor, Tensor]:
        x, y = self.normalization.normalize(x, y)
        return torch.from_numpy(x), torch.from_numpy(y)


class Unadapted(Trained):
    """The network at v0."""

    def update(self, x: NDArray, y: NDArray) -> None:
        pass


class Windowed(Trained):
    """Gauss-Newton steps from v0 on the latest samples, at every tick, from the first sample on.

    Args:
        checkpoint: Of a learner with the rule `gauss-newton`.
        window: How many samples the support set has, at most.
        damping: Factor on the learned dampings.

    """

    def __init__(self, checkpoint: Checkpoint, *, window: int, damping: float) -> None:
        super().__init__(checkpoint)
        self.samples: deque[tuple[Tensor, Tensor]] = deque(maxlen=window)
        assert isinstance(self.learner.rule, GaussNewton)
        rescale(self.learner.rule.damping_parameters, damping)

    def start(self, streams: int) -> None:
        super().start(streams)
        self.samples.clear()

    def update(self, x: NDArray, y: NDArray) -> None:
        self.samples.append(self.normalized(x, y))
        support_x, support_y = (torch.stack(part, 1) for part in zip(*self.samples, strict=True))
        with torch.no_grad():
            self.adapted = vmap(self.learner.adapt)(support_x, support_y)


class Filtered(Trained):
    """The recursive rule, one sample a tick.

    Args:
        checkpoint: Of a learner with the rule `recursive`.
        noise: Factor on the learned variances of the noise.
        ticks: Time constant of the way back to v0, in ticks; infinite for a task that stays.
        relinearize: Whether the first samples are linearized again, as the rule was trained.

    """

    def __init__(self, checkpoint: Checkpoint, *, noise: float, ticks: float, relinearize: bool = True) -> None:
        super().__init__(checkpoint)
        assert isinstance(self.learner.rule, Recursive)
        self.rule: Recursive = self.learner.rule
        variances = noise * self.rule.noise()
        vars(self.rule)["noise"] = lambda: variances  # in place of the method, for this one rule
        self.relinearize = self.rule.relinearize if relinearize else 0
        self.keep = torch.tensor(np.exp(-1 / ticks), dtype=torch.float32)
        self.v0 = self.learner.start()

    def start(self, streams: int) -> None:
        super().start(streams)
        numbers, outputs = self.learner.adapted_size(), len(self.rule.noise_parameters)
        held = self.rule.memory * outputs
        zeros = torch.zeros
        self.belief = Belief(zeros(streams, numbers), zeros(streams, held, numbers), zeros(streams, held))
        self.first = zeros(streams, self.relinearize, *self.learner.inputs), zeros(streams, self.relinearize, outputs)
        self.counts = torch.zeros(streams, dtype=torch.int64)
        self.latest = np.ones(streams)

    def update(self, x: NDArray, y: NDArray) -> None:
        sample_x, sample_y = self.normalized(x, y)
        with torch.no_grad():
            self._learn(sample_x, sample_y)
            self._learn_again(sample_x, sample_y)
            self.adapted = vmap(lambda mean: self.rule.tensors(self.v0, mean))(self.belief.mean)

    def _learn(self, x: Tensor, y: Tensor) -> None:
        mean, rows, decays = self.belief
        outputs, decays = y.shape[-1], decays * self.keep**2
        # the rows of the sample that holds least go before this one is taken, as in the rule; empty ones hold nothing
        held = (decays * rows.square().sum(-1)).unflatten(1, (-1, outputs)).sum(-1)
        mine = torch.arange(len(mean))[:, None], held.argmin(1)[:, None] * outputs + torch.arange(outputs)
        decays[mine] = 0
        seen = vmap(self._observe)(Belief(self.keep * mean, rows, decays), x, y)
        rows[mine], decays[mine] = seen.rows, 1
        self.belief = Belief(seen.mean, rows, decays)
        self.latest = seen.nis.numpy() / outputs

    def _learn_again(self, x: Tensor, y: Tensor) -> None:
        """Linearize the first samples again, of the streams that have as many as the rule wants for it."""
        known = torch.where(self.counts < self.relinearize)[0]
        for held, new in zip(self.first, (x, y), strict=True):
            held[known, self.counts[known]] = new[known]
        self.counts += 1
        for count in filter(lambda count: due(count, self.relinearize), self.counts.unique().tolist()):
            mine = torch.where(self.counts == count)[0]
            first_x, first_y = (held[mine, :count] for held in self.first)
            again = vmap(self._observe_again)(self.belief.mean[mine], first_x, first_y)
            mean, rows, decays = self.belief
            mean[mine], rows[mine], decays[mine] = again.mean, 0, 0
            new = again.rows.shape[1]
            rows[mine, :new], decays[mine, :new] = again.rows, again.decays

    def replace(self, streams: NDArray[np.int64], by: Self) -> None:
        mine = torch.from_numpy(streams)
        parts = (*self.belief, *self.first, self.counts)
        for part, new in zip(parts, (*by.belief, *by.first, by.counts), strict=True):
            part[mine] = new
        for name, tensor in by.adapted.items():
            self.adapted[name][mine] = tensor

    def variance(self, x: NDArray) -> NDArray:
        with torch.no_grad():
            covariances, noise = vmap(self._covariances)(self.belief, self.normalized_x(x))
            variances = covariances.diagonal(dim1=-2, dim2=-1).clamp(min=0) + noise.unsqueeze(1)
            return (variances * self.scale**2).numpy().astype(np.float64)

    def innovation(self) -> NDArray:
        return self.latest

    def _observe(self, belief: Belief, x: Tensor, y: Tensor) -> Observation:
        # `belief` has relaxed, and rows that hold nothing count zero
        return self.rule.correct(belief, *self.rule.linearize(self.learner, self.v0, belief.mean, x), y)

    def _observe_again(self, mean: Tensor, x: Tensor, y: Tensor) -> Belief:
        samples = [Sample(*each, self.keep) for each in zip(x.unbind(), y.unbind(), strict=True)]
        return self.rule.learn_again(self.learner, self.v0, mean, samples)

    def _covariances(self, belief: Belief, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rule.predict(self.learner, self.v0, belief, x)[1:]
