"""The recursive rule: an extended Kalman filter in the tensors that adapt. It takes the samples one by one.

A batch rule starts at v0 with every support set. This rule goes on from where it is: each sample moves v a little, and
it knows how sure it is. Before the first sample, v is normally distributed around the meta-learned start:

    v = v0 + scale * m,     m ~ N(0, I)

One sample (x, y) linearizes the network at the present v, with slopes H of the outputs in m, and corrects m by what the
outputs miss. Between samples, m may relax towards the prior. So the covariance never exceeds the prior's, whatever the
samples are, and a robot that changed is learned anew. The first samples are linearized again where v is later, see
`msr_runtime.relinearization`.

Sources: Jazwinski, "Stochastic Processes and Filtering Theory", 1970; Harrison, Sharma, Pavone, "Meta-Learning Priors
for Efficient Online Bayesian Regression", 2018, for a last layer alone; Huber, "Robust Estimation of a Location
Parameter", 1964.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from msr_runtime.errors import TrainingError
from msr_runtime.meta.rules.belief import Belief, eliminate, squared_errors
from msr_runtime.meta.rules.gauss_newton import GaussNewton
from msr_runtime.meta.rules.rule import Forward, Rule, Tensors, inverse_softplus, rescale
from msr_runtime.meta.rules.variance_scale import VarianceScale
from msr_runtime.relinearization import due
from msr_runtime.task import Loss

_PACE = 5.0
"""The outer loop moves every parameter at the same rate, but the noise has the farthest way: it begins at the error of
a network that knows little, and ends at what a trained one still misses. So its parameter counts this many times, and
so do those of the time constant and of the factors on variances.
"""


class Sample(NamedTuple):
    """One sample of a stream."""

    x: Tensor
    """`(*x)`."""
    y: Tensor
    """`(*y)`."""
    keep: Tensor | None
    """What time has left of the mean since the sample before, a scalar. None: all of it."""


class Observation(NamedTuple):
    """What one sample with J outputs did."""

    mean: Tensor
    """m `(K,)` after the sample."""
    rows: Tensor
    """The J new rows of the belief, `(J, K)`."""
    innovation: Tensor
    """y minus the prediction before the sample, `(J,)`."""
    variance: Tensor
    """The variance that was expected of each innovation, `(J,)`."""
    nis: Tensor
    """The normalized innovation squared, a scalar: J on average if the variances are right."""


class Prediction(NamedTuple):
    """What a belief says of new samples with J outputs. Both variances hold the factor of `VarianceScale`."""

    outputs: Tensor
    """`(samples, J)`."""
    covariances: Tensor
    """`(samples, J, J)`: how far off the outputs may be because m is not known."""
    noise: Tensor
    """The variance of what an observed y adds, `(J,)`."""


class Recursive(Rule):
    """An extended Kalman filter, sample by sample.

    The outer loop learns one scale per tensor (the standard deviation of its prior), the variance of the noise on each
    output, and, if there is one, the rate of forgetting. Each is the `softplus` of a multiple of its parameter. It also
    learns a factor on the variances of predictions, see `VarianceScale`. The updates of the filter do not use it.

    Args:
        names: The adapted tensors that move; others stay as they are.
        outputs: J, the numbers of a sample's output.
        memory: Number of samples that make up the covariance, those that say most. The others count in the mean alone.
        gate: A number of standard deviations. A larger error is an outlier, and moves the mean only as much as an error
            of this size. None: there are no outliers.
        relinearize: Up to this number, all samples so far are linearized again each time that their number has grown
            by a half, see `msr_runtime.relinearization`.
        time_constant: After this time, in samples, 1/e of what was learned is left. It is learned, and starts here.
            None: nothing is forgotten.
        scale: Where the scales start.
        noise: Where the variances of the noise start.
        first_order: Treat slopes and errors as constants in the outer loop.

    Raises:
        TrainingError: `names` is empty, or a scale, a noise or a time constant is not above 0.

    Example:
        >>> import torch
        >>> from msr_runtime.meta.rules import Recursive
        >>> rule = Recursive(["v"], outputs=1, scale=10.0, noise=1e-6)
        >>> x, y = torch.ones(4, 1), torch.full((4, 1), 2.0)
        >>> moved = rule(lambda adapted, x: x * adapted["v"], "mse", {"v": torch.zeros(1)}, x, y)
        >>> round(moved["v"].item(), 2)
        2.0

    """

    def __init__(
        self,
        names: Iterable[str],
        outputs: int,
        *,
        memory: int = 64,
        gate: float | None = 3.0,
        relinearize: int = 16,
        time_constant: float | None = None,
        scale: float = 0.1,
        noise: float = 0.1,
        first_order: bool = False,
    ) -> None:
        super().__init__(1, first_order=first_order)
        self.names = tuple(names)
        if not self.names:
            raise TrainingError(
                "the rule is given no tensor to move, but at least one is wanted; pass the names of adapted tensors "
                "(most likely the method adapts nothing)"
            )
        self.memory, self.gate, self.relinearize = memory, gate, relinearize
        self.scale_parameters = nn.Parameter(inverse_softplus(torch.full((len(self.names),), scale)))
        self.noise_parameters = nn.Parameter(inverse_softplus(torch.full((outputs,), noise)) / _PACE)
        self.variance_scale = VarianceScale(memory, _PACE)
        # The rate, not the time: for a small one the softplus is an exponential, so that it can change many times over.
        self.rate_parameter = None
        if time_constant is not None:
            self.rate_parameter = nn.Parameter(inverse_softplus(1 / torch.tensor(time_constant)) / _PACE)

    def scales(self) -> Tensors:
        """Name of a moving tensor to the standard deviation of its prior, a scalar."""
        return dict(zip(self.names, nn.functional.softplus(self.scale_parameters).unbind(), strict=True))

    def noise(self) -> Tensor:
        """The variance of the noise on each output `(J,)`."""
        return nn.functional.softplus(_PACE * self.noise_parameters)

    def time_constant(self) -> Tensor | None:
        """The samples after which 1/e of what was learned is left, a scalar. None: nothing is forgotten."""
        return None if self.rate_parameter is None else 1 / nn.functional.softplus(_PACE * self.rate_parameter)

    def keep(self) -> Tensor | None:
        """What is left of the mean after the time of one sample, a scalar. None: all of it."""
        return None if (time := self.time_constant()) is None else (-1 / time).exp()

    def tensors(self, start: Tensors, mean: Tensor) -> Tensors:
        """The adapted tensors at `v0 + scale * m`: v0 is `start`, m is `mean` `(K,)`."""
        parts, scales = mean.split([start[name].numel() for name in self.names]), self.scales()
        moved = {
            name: start[name] + scales[name] * part.reshape(start[name].shape)
            for name, part in zip(self.names, parts, strict=True)
        }
        return start | moved

    def prior(self, start: Tensors) -> Belief:
        """The belief before the first sample."""
        moving = [start[name] for name in self.names]
        return Belief.prior(moving[0], sum(tensor.numel() for tensor in moving))

    def correct(self, belief: Belief, outputs: Tensor, slopes: Tensor, y: Tensor) -> Observation:
        """Learn from one sample that has been linearized.

        Args:
            belief: What is believed right before it.
            outputs: The linearized network's outputs at the belief's mean, `(J,)`.
            slopes: Their slopes in m, `(J, K)`.
            y: `(*y)`.

        """
        noise, errors = self.noise(), y.flatten() - outputs
        gains = belief.times(slopes)
        covariance = gains @ slopes.mT
        found = eliminate(covariance, errors, noise, gains, self.gate)
        deviations = found.used.sqrt()
        rows = found.gains / deviations.unsqueeze(1)
        moved = belief.mean + (found.errors / deviations) @ rows
        variance = covariance.diagonal().clamp(min=0) + noise
        return Observation(moved, rows, errors, variance, squared_errors(found))

    def linearize(self, forward: Forward, start: Tensors, mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Linearize the network in m, for one sample. The slopes come from one backward pass per output.

        Args:
            forward: The network.
            start: The adapted tensors before the first sample.
            mean: m `(K,)`.
            x: `(*x)`.

        Returns:
            The outputs `(J,)`, and their slopes `(J, K)`.

        """
        pulled = vjp(lambda mean: forward(self.tensors(start, mean), x.unsqueeze(0)).flatten(), mean)
        unit = torch.eye(len(self.noise_parameters), dtype=mean.dtype, device=mean.device)
        outputs, slopes = pulled[0], vmap(pulled[1])(unit)[0]
        return (outputs.detach(), slopes.detach()) if self.first_order else (outputs, slopes)

    def believe(self, forward: Forward, loss: Loss, start: Tensors, support_x: Tensor, support_y: Tensor) -> Belief:
        """Take all samples in their order, one unit of time apart. The arguments are those of `Rule.step`.

        Raises:
            TrainingError: The loss is that of classes.

        """
        require_numbers(loss)
        belief, keep = self.prior(start), self.keep()
        samples = zip(support_x.unbind(), support_y.unbind(), strict=True)
        for after, _ in self.follow(forward, start, (Sample(x, y, keep) for x, y in samples)):
            belief = after
        return belief

    def follow(
        self, forward: Forward, start: Tensors, samples: Iterable[Sample]
    ) -> Iterator[tuple[Belief, Observation]]:
        """Learn from a stream, from the prior on.

        Args:
            forward: The network.
            start: The adapted tensors before the first sample, v0.
            samples: The stream.

        Yields:
            What is believed after each sample, and what the sample did.

        """
        belief, first = self.prior(start), list[Sample]()
        for count, sample in enumerate(samples, 1):
            belief, seen = self.learn(forward, start, belief, sample)
            if count <= self.relinearize:
                first.append(sample)
            if due(count, self.relinearize):
                belief = self.learn_again(forward, start, belief.mean, first)
            yield belief, seen

    def learn(self, forward: Forward, start: Tensors, belief: Belief, sample: Sample) -> tuple[Belief, Observation]:
        """Let time pass, make room in the memory, and learn from one sample.

        Args:
            forward: The network.
            start: The adapted tensors before the first sample, v0.
            belief: What was believed after the sample before.
            sample: The sample.

        Returns:
            What is believed now, and what the sample did.

        """
        belief = self._before(belief, sample.keep)
        seen = self.correct(belief, *self.linearize(forward, start, belief.mean, sample.x), sample.y)
        return belief.with_rows(seen.mean, seen.rows), seen

    def learn_again(self, forward: Forward, start: Tensors, mean: Tensor, samples: Sequence[Sample]) -> Belief:
        """Learn from samples from the prior on, with the network linearized at one mean for all of them.

        Args:
            forward: The network.
            start: The adapted tensors before the first sample, v0.
            mean: m `(K,)`, where the network is linearized.
            samples: All samples since the prior.

        Returns:
            What is believed after the last of them.

        """
        inputs, belief = torch.stack([sample.x for sample in samples]), self.prior(start)
        # Samples do not depend on each other.
        linear = vmap(lambda x: self.linearize(forward, start, mean, x))(inputs)
        for sample, outputs, slopes in zip(samples, *(part.unbind() for part in linear), strict=True):
            belief = self._before(belief, sample.keep)
            seen = self.correct(belief, outputs + slopes @ (belief.mean - mean), slopes, sample.y)
            belief = belief.with_rows(seen.mean, seen.rows)
        return belief

    def _before(self, belief: Belief, keep: Tensor | None) -> Belief:
        """The belief right before a sample: time has passed, and there is room for its rows."""
        if keep is not None:
            belief = belief.relaxed(keep)
        # Rows go before the sample is taken, so that nothing of what follows depends on them.
        return belief.largest(self.memory - 1, len(self.noise_parameters))

    def predict(self, forward: Forward, start: Tensors, belief: Belief, x: Tensor) -> Prediction:
        """Predict outputs, and say how sure that is.

        Args:
            forward: The network.
            start: The adapted tensors before the first sample.
            belief: What is believed.
            x: `(samples, *x)`.

        """
        # Samples do not depend on each other.
        outputs, slopes = vmap(lambda x: self.linearize(forward, start, belief.mean, x))(x)
        noise = self.noise()
        factor = self.variance_scale(belief.decays.sum() / len(noise))
        return Prediction(outputs, factor * belief.covariances(slopes), factor * noise)

    def surprise(self, forward: Forward, start: Tensors, belief: Belief, x: Tensor, y: Tensor) -> Tensor:
        """The negative log likelihood of samples, per number of y, in nats; a scalar.

        Args:
            forward: The network.
            start: The adapted tensors before the first sample.
            belief: What is believed.
            x: `(samples, *x)`.
            y: `(samples, *y)`.

        """
        outputs, covariances, noise = self.predict(forward, start, belief, x)

        def of_sample(errors: Tensor, covariance: Tensor) -> Tensor:
            found = eliminate(covariance, errors, noise)
            return (squared_errors(found) + found.variances.log().sum()) / len(errors)

        return (vmap(of_sample)(y.flatten(1) - outputs, covariances).mean() + math.log(2 * math.pi)) / 2

    def forward(
        self,
        forward: Forward,
        loss: Loss,
        adapted: Tensors,
        support_x: Tensor,
        support_y: Tensor,
        steps: int | None = None,
    ) -> Tensors:
        """Take all samples in their order. With 0 `steps` nothing moves; more than one change nothing."""
        if steps == 0:
            return adapted
        return self.tensors(adapted, self.believe(forward, loss, adapted, support_x, support_y).mean)

    def begin_as(self, rule: Rule, samples: int) -> None:
        """Begin with the numbers of a trained rule that moved the same tensors, as far as they mean something here.

        Those of a filter are taken as they are. A Gauss-Newton step from v0 is the filter's estimate with the network
        linearized at v0, if noise and squared scales have a certain ratio. So the ratio is taken, and the noise stays.

        Args:
            rule: The trained rule.
            samples: The support samples with which it was trained.

        """
        if isinstance(rule, Recursive) and rule.names == self.names:
            self.load_state_dict(rule.state_dict(), strict=False)
        elif isinstance(rule, GaussNewton) and rule.names == self.names:
            outputs = len(self.noise_parameters)
            squared = self.noise().mean() / (rule.damping(0) * samples * outputs)
            scales = squared.sqrt() * torch.stack(list(rule.scales().values()))
            with torch.no_grad():
                self.scale_parameters.copy_(inverse_softplus(scales))

    def shrink(self) -> None:
        """Multiply every scale by 0.9: what is surer of its start moves less."""
        rescale(self.scale_parameters, 0.9)


def require_numbers(loss: Loss) -> None:
    """Refuse classes: their likelihood is not normal.

    Raises:
        TrainingError: The loss is that of classes.

    """
    if loss == "cross_entropy":
        raise TrainingError(
            "the rule 'recursive' filters numbers, but the loss is 'cross_entropy', of classes; set rule to "
            "'gauss-newton' or 'gradient'"
        )
