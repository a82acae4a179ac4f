"""What a control engineer writes: filters on raw features, the last value, a low-pass. Many streams at once, in numpy.

Each has `start`, `predict` and `update`, see `Online`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LARGEST = 128
"""Directions that a learned prior keeps at most."""


class Online(Protocol):
    """A method that learns from one sample at a time, on many streams side by side, in raw units."""

    def start(self, streams: int) -> None:
        """Forget everything, and begin so many streams."""
        ...

    def predict(self, x: NDArray) -> NDArray:
        """Predict y `(streams, queries, y)` of x `(streams, queries, x)`."""
        ...

    def update(self, x: NDArray, y: NDArray) -> None:
        """Learn from one sample of each stream: x `(streams, x)`, y `(streams, y)`."""
        ...


@runtime_checkable
class Sure(Online, Protocol):
    """A method that says how sure it is."""

    def variance(self, x: NDArray) -> NDArray:
        """Return the variance `(streams, queries, y)` of y, in raw units squared, of x `(streams, queries, x)`."""
        ...

    def innovation(self) -> NDArray:
        """Return the normalized innovation squared of the latest sample, `(streams,)`: a mean over outputs."""
        ...


class Scaling(NamedTuple):
    """Centers and scales of x and y, from training tasks."""

    x_center: Floats
    x_scale: Floats
    y_center: Floats
    y_scale: Floats

    @classmethod
    def of(cls, x: NDArray, y: NDArray) -> "Scaling":
        """Measure them on samples x `(..., x)`, y `(..., y)`."""
        flat = [part.reshape(-1, part.shape[-1]).astype(np.float64) for part in (x, y)]
        return cls(flat[0].mean(0), flat[0].std(0) + 1e-9, flat[1].mean(0), flat[1].std(0) + 1e-9)


class Features:
    """A constant, the inputs, and with `products` the products of any two of them."""

    def __init__(self, scaling: Scaling, *, products: bool) -> None:
        self.scaling, self.products = scaling, products

    def __call__(self, x: NDArray) -> Floats:
        """Return the features `(..., features)` of x `(..., x)` in raw units."""
        z = (x - self.scaling.x_center) / self.scaling.x_scale
        parts = [np.ones((*z.shape[:-1], 1)), z]
        if self.products:
            i, j = np.triu_indices(z.shape[-1])
            parts.append(z[..., i] * z[..., j])
        return np.concatenate(parts, -1)


class LeastSquares:
    """Recursive least squares with a forgetting factor: one covariance for all outputs."""

    def __init__(self, features: Features, *, forgetting: float, spread: float) -> None:
        self.features, self.forgetting, self.spread = features, forgetting, spread

    def start(self, streams: int) -> None:
        size, scaling = len(self.features(np.zeros(len(self.features.scaling.x_center)))), self.features.scaling
        self.weights = np.zeros((streams, size, len(scaling.y_scale)))
        self.covariance = np.tile(self.spread * np.eye(size), (streams, 1, 1))

    def predict(self, x: NDArray) -> NDArray:
        scaling = self.features.scaling
        return self.features(x) @ self.weights * scaling.y_scale + scaling.y_center

    def update(self, x: NDArray, y: NDArray) -> None:
        scaling = self.features.scaling
        phi, target = self.features(x), (y - scaling.y_center) / scaling.y_scale
        gain = (self.covariance @ phi[..., None])[..., 0]
        variance = self.forgetting + np.sum(phi * gain, -1)
        error = target - np.einsum("sf,sfj->sj", phi, self.weights)
        self.weights += gain[:, :, None] * (error / variance[:, None])[:, None]
        self.covariance -= gain[:, :, None] * (gain / variance[:, None])[:, None]
        # without a bound, directions that no sample shows grow for ever
        trace = np.trace(self.covariance, axis1=1, axis2=2) / len(phi[0])
        growth = np.where(trace < self.spread, 1 / self.forgetting, 1.0)
        self.covariance *= growth[:, None, None]


class Prior(NamedTuple):
    """What training tasks say of the weights of features: y = (mean + basis m) features, m ~ N(0, 1)."""

    mean: Floats
    """`(features, y)`."""
    basis: Floats
    """`(K, features, y)`."""
    noise: Floats
    """`(y,)`: variance of what the features cannot say."""

    @classmethod
    def fit(cls, features: Features, x: NDArray, y: NDArray, ridge: float = 1e-2) -> "Prior":
        """Fit each task by ridge regression, and take mean and main directions over tasks.

        Args:
            features: The features.
            x: `(tasks, samples, x)`, raw units, samples over the orbit.
            y: `(tasks, samples, y)`.
            ridge: Weight of the squared coefficients, beside a mean squared error.

        """
        phi, target = features(x), (y - features.scaling.y_center) / features.scaling.y_scale
        gram = np.swapaxes(phi, 1, 2) @ phi / phi.shape[1] + ridge * np.eye(phi.shape[-1])
        fitted = np.linalg.solve(gram, np.swapaxes(phi, 1, 2) @ target / phi.shape[1])
        mean, noise = fitted.mean(0), np.mean((target - phi @ fitted) ** 2, (0, 1))
        flat = (fitted - mean).reshape(len(fitted), -1) / np.sqrt(len(fitted))
        _, deviations, directions = np.linalg.svd(flat, full_matrices=False)
        kept = min(LARGEST, int(np.sum(deviations > 0.01 * deviations[0])))
        basis = (deviations[:kept, None] * directions[:kept]).reshape(kept, *mean.shape)
        return cls(mean, basis, noise + 1e-6)


class Kalman:
    """A Kalman filter on the weights of features, that relaxes to a prior learned from training tasks.

    Args:
        features: The features.
        prior: Of the weights.
        noise: Factor on the prior's noise variance.
        spread: Factor on the prior's variance of the weights.
        ticks: Time constant of the way back to the prior, in ticks; infinite for a task that stays.

    """

    def __init__(self, features: Features, prior: Prior, *, noise: float, spread: float, ticks: float) -> None:
        self.features, self.prior, self.noise = features, prior, noise * prior.noise
        self.basis, self.keep = np.sqrt(spread) * prior.basis, float(np.exp(-1 / ticks))

    def start(self, streams: int) -> None:
        size = len(self.basis)
        self.mean, self.covariance = np.zeros((streams, size)), np.tile(np.eye(size), (streams, 1, 1))
        self.latest = np.ones(streams)

    def predict(self, x: NDArray) -> NDArray:
        start, tangent = self._tangent(x)
        scaling = self.features.scaling
        return (start + np.einsum("sqjk,sk->sqj", tangent, self.mean)) * scaling.y_scale + scaling.y_center

    def variance(self, x: NDArray) -> NDArray:
        _, tangent = self._tangent(x)
        spread = np.einsum("sqjk,skl,sqjl->sqj", tangent, self.covariance, tangent, optimize=True)
        return (spread + self.noise) * self.features.scaling.y_scale**2

    def innovation(self) -> NDArray:
        return self.latest

    def update(self, x: NDArray, y: NDArray) -> None:
        self.mean *= self.keep
        self.covariance *= self.keep**2
        diagonal = np.arange(self.covariance.shape[-1])
        self.covariance[:, diagonal, diagonal] += 1 - self.keep**2
        start, tangent = (part[:, 0] for part in self._tangent(x[:, None]))
        target = (y - self.features.scaling.y_center) / self.features.scaling.y_scale
        squares = []
        for j, noise in enumerate(self.noise):  # one output after another: no matrix is inverted
            h = tangent[:, j]
            gain = (self.covariance @ h[..., None])[..., 0]
            variance = np.sum(h * gain, -1) + noise
            error = target[:, j] - start[:, j] - np.sum(h * self.mean, -1)
            self.mean += gain * (error / variance)[:, None]
            self.covariance -= gain[:, :, None] * (gain / variance[:, None])[:, None]
            squares.append(error**2 / variance)
        self.latest = np.mean(squares, 0)

    def replace(self, streams: NDArray[np.int64], by: Self) -> None:
        self.mean[streams], self.covariance[streams] = by.mean, by.covariance

    def _tangent(self, x: NDArray) -> tuple[Floats, Floats]:
        """The output at the prior's mean `(streams, queries, y)`, and its change with m `(streams, queries, y, K)`."""
        phi = self.features(x)
        return phi @ self.prior.mean, np.einsum("sqf,kfj->sqjk", phi, self.basis, optimize=True)


class LowPass:
    """A running mean of y, whatever x is. With one tick it is the last value.

    Args:
        ticks: Time constant in ticks: 1 for the last value.
        start: `(y,)`: the mean over training tasks.

    """

    def __init__(self, ticks: float, start: NDArray) -> None:
        self.share, self.first = 1 / ticks, start

    def start(self, streams: int) -> None:
        self.value = np.tile(self.first.astype(np.float64), (streams, 1))

    def predict(self, x: NDArray) -> NDArray:
        return np.repeat(self.value[:, None], x.shape[1], 1)

    def update(self, x: NDArray, y: NDArray) -> None:  # noqa: ARG002 - a low-pass reads y alone
        self.value += self.share * (y - self.value)


Make = Callable[..., Online]
"""Makes a method with some of its settings."""
