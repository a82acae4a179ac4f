"""The native code of a bundle, and the inner loop and the losses that run it. ONNX Runtime makes no session for it."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.backend import Adaptation, Runs
from msr_runtime.arrays import FLOAT32
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.native import INTERFACE
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.deviation import Deviations
from msr_runtime.inference.device import CPU, Provider
from msr_runtime.inference.native import NativeCode, NetworkState, library_name
from msr_runtime.inference.native_filter import NativeDeviation, NativeUpdate
from msr_runtime.inference.predictor import Predictors
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.state import State
from msr_runtime.inference.time_limit import TimeLimit
from msr_runtime.inference.updater import Updater
from msr_runtime.task import Array, output_shape, sample_shape, width


class NativeBackend:
    """The `Backend` of native code, compiled for this processor.

    Args:
        bundle: The opened bundle.
        providers: As in `AdaptiveModel.load`.

    Raises:
        InputError: If another provider than the CPU is asked for.
        BundleError: If the bundle has no code for this processor, or it was made of another bundle.
    """

    def __init__(self, bundle: Bundle, providers: Sequence[Provider]) -> None:
        self._manifest = manifest = bundle.manifest
        self._code = _open(bundle, providers)
        self._x = SampleSpec("x", sample_shape(manifest.inputs), FLOAT32, manifest.inputs)
        self._y = SampleSpec("y", output_shape(manifest.outputs, manifest.loss), FLOAT32, manifest.outputs)
        labels = SampleSpec("support_y", (), np.dtype(np.int64), (), width(manifest.outputs))
        support_y = labels if manifest.loss == "cross_entropy" else self._y._replace(name="support_y")
        self.support = self._x._replace(name="support_x"), support_y
        """As in `Backend`."""
        # One by one, there may be any number.
        self.most = None if manifest.recursion else self._code.sizes.shots
        """As in `Backend`."""
        self.start = NetworkState(bundle.start(), self._code.sizes.numbers)
        """As in `Backend`."""

    def runs(self, limit: TimeLimit | None = None) -> Runs:  # noqa: ARG002 - nothing ends machine code
        """As in `Backend`."""
        code, start, x, y = self._code, self.start, self._x, self._y
        losses, predictors = NativeLoss(code), Predictors(code, x, y, start)
        recursion = self._manifest.recursion
        if recursion is None:
            return Runs(predictors, losses, NativeLoop(code, start), None, None)
        updater = Updater(NativeUpdate(code, x.shape, y.shape), start, recursion.relinearize)
        return Runs(predictors, losses, None, updater, Deviations(NativeDeviation(code), x, y, start))


class NativeLoop:
    """As `InnerLoop`, by native code. Any thread may call it."""

    def __init__(self, code: NativeCode, start: NetworkState) -> None:
        self._code, self._start = code, start

    def __call__(
        self,
        x: Array,
        y: NDArray,
        steps: int,
        into: State,
        begin: State | None = None,
        check: Callable[[], None] | None = None,
    ) -> Adaptation:
        """As `InnerLoop`: one call of the code for all steps, or for each of them where a check comes before each."""
        return Adaptation(*self._code.adapt(begin or self._start, into, x, y, steps, check))


class NativeLoss:
    """As `SupportLoss`, by native code. Any thread may call it."""

    def __init__(self, code: NativeCode) -> None:
        self._code = code

    def mean(self, x: Array, y: NDArray, network: State) -> float:
        """The mean loss on any number of samples."""
        return self._code.loss(network, x, y)

    def each(self, x: Array, y: NDArray, network: State) -> NDArray:
        """The loss of each sample, `(samples,)`."""
        return self._code.losses(network, x, y)


def _open(bundle: Bundle, providers: Sequence[Provider]) -> NativeCode:
    """Load the native code of a bundle. See `NativeBackend`."""
    manifest, name, where = bundle.manifest, library_name(), f"bundle '{bundle.path}'"
    if list(providers) != [CPU]:
        raise InputError(
            f"engine is 'native', which runs on the CPU, but providers is {list(providers)}: leave one out"
        )
    if name not in bundle.files:
        others = sorted(each for each in bundle.files if each.endswith(".so"))
        found = f", only {', '.join(others)}" if others else ""
        raise BundleError(
            f"{where} has no native code for this processor ({name}){found}: run `msr compile {bundle.path}` here, or "
            "leave the engine out, which takes ONNX Runtime"
        )
    code = NativeCode(bundle.files[name], f"{where}: {name}", manifest.loss == "cross_entropy", INTERFACE)
    if (seen := code.sizes[1:2] + code.sizes[3:5] + code.sizes[6:]) != (wanted := _sizes(manifest)):
        raise BundleError(
            f"{where}: {name} has the sizes {seen} (numbers of a network, x, y, v, rows), but its manifest wants "
            f"{wanted}; it was made from another bundle: export again, then `msr compile {bundle.path}`"
        )
    return code


def _sizes(manifest: Manifest) -> tuple[int, ...]:
    """What the code of a bundle says of it: numbers of a network, of x and of y, K, and rows of a filter."""
    x, y = math.prod(sample_shape(manifest.inputs)), math.prod(output_shape(manifest.outputs, manifest.loss))
    K = manifest.filter_parameters
    rows, _ = manifest.belief_shape
    return K + manifest.weight_entries, x, y, K, rows + y if manifest.recursion else 0
