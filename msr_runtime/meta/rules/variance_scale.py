"""How much larger the errors of a filter's predictions are than its covariance says, learned by number of samples.

The covariance of an extended Kalman filter comes from a linearized network. After few samples the network still bends
where it is linearized, so errors are larger. After many samples they are smaller than a prior for all tasks says. One
factor per number of samples makes up for both. The outer loop learns it from the likelihood of the queries, whose
maximum is where the mean squared error over the variance is 1.

Sources: Guo et al., "On Calibration of Modern Neural Networks", 2017 (one factor for all predictions); Levi et al.,
"Evaluating and Calibrating Uncertainty Prediction in Regression Tasks", 2022 (for variances).
"""

import math

import torch
from torch import Tensor, nn


class VarianceScale(nn.Module):
    """A factor on the variances of predictions. It is 1 before training.

    Its logarithm is linear in log2(n + 1), with n the number of samples, between the numbers 0, 1, 3, 7, 15 and so on.

    Args:
        memory: The most samples that count.
        pace: The logarithms are so many times their parameters, and so they learn faster.

    """

    def __init__(self, memory: int, pace: float = 1.0) -> None:
        super().__init__()
        self.pace = pace
        self.log_parameters = nn.Parameter(torch.zeros(math.ceil(math.log2(memory + 1)) + 1))

    @property
    def factors(self) -> Tensor:
        """The factors after 0, 1, 3, 7, 15, ... samples."""
        return (self.pace * self.log_parameters).exp()

    def forward(self, samples: Tensor) -> Tensor:
        """The factor after so many samples, both scalars. The number need not be whole: an old sample counts less."""
        at, last = torch.log2(samples + 1), len(self.log_parameters) - 1
        places = torch.arange(last + 1, dtype=at.dtype, device=at.device)
        shares = (1 - (at.clamp(max=last) - places).abs()).clamp(min=0)  # of the two places beside it; together 1
        return (self.pace * (shares @ self.log_parameters)).exp()
