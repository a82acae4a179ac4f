"""The native code of a bundle, and the inner loop and the losses that run it."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.inner_loop import Adaptation
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.native import NativeCode, NetworkState, library_name
from msr_runtime.inference.providers import CPU, Provider
from msr_runtime.task import Array, output_shape, sample_shape


def open_native(bundle: Bundle, providers: Sequence[Provider]) -> NativeCode:
    """Load the native code of a bundle, for this processor.

    Raises:
        InputError: If the bundle learns sample by sample, or another provider than the CPU is asked for.
        BundleError: If the bundle has none for this processor, or it was made of another bundle.
    """
    manifest, name, where = bundle.manifest, library_name(), f"bundle '{bundle.path}'"
    if manifest.recursion:
        raise InputError(
            f"engine is 'native', but {where} has the rule '{manifest.rule}', which native code does not run: leave "
            "engine out, or write it as C for a program of your own (`msr source`)"
        )
    if list(providers) != [CPU]:
        raise InputError(
            f"engine is 'native', which runs on the CPU, but providers is {list(providers)}: leave one out"
        )
    if name not in bundle.files:
        others = sorted(each for each in bundle.files if each.endswith(".so"))
        found = f", only {', '.join(others)}" if others else ""
        raise BundleError(
            f"{where} has no native code for this processor ({name}){found}: run `msr compile {bundle.path}` here, or "
            "load it without engine='native'"
        )
    code = NativeCode(bundle.files[name], f"{where}: {name}", manifest.loss == "cross_entropy")
    x, y = sample_shape(manifest.inputs), output_shape(manifest.outputs, manifest.loss)
    K = manifest.filter_parameters
    wanted = K + manifest.weight_entries, math.prod(x), math.prod(y), K
    if (seen := (code.sizes.numbers, code.sizes.inputs, code.sizes.outputs, code.sizes.filters)) != wanted:
        raise BundleError(
            f"{where}: {name} has the sizes {seen} (numbers of a network, x, y, v), but its manifest wants {wanted}; "
            f"it was made from another bundle: export again, then `msr compile {bundle.path}`"
        )
    return code


class NativeLoop:
    """As `InnerLoop`, by native code. Any thread may call it."""

    def __init__(self, code: NativeCode, start: NetworkState) -> None:
        self._code, self._start = code, start

    def __call__(
        self, x: Array, y: NDArray, steps: int, begin: Array | None = None, check: Callable[[], None] | None = None
    ) -> Adaptation:
        """As `InnerLoop`: one call of the code for all steps, or for each of them where a check comes before each."""
        block, before = self._start.block if begin is None else begin, 0.0
        at_once = 1 if check else steps
        for step in range(0, steps, at_once):
            if check:
                check()
            found, block = self._code.adapt(block, x, y, step, at_once)
            before = before if step else found
        return Adaptation(before, self._code.loss(block, x, y), block)


class NativeLoss:
    """As `SupportLoss`, by native code. Any thread may call it."""

    def __init__(self, code: NativeCode, start: NetworkState) -> None:
        self._code, self._start = code, start

    def each(self, x: Array, y: NDArray, tensors: Mapping[str, Array]) -> Array:
        """The loss of each sample, `(samples,)`."""
        state = self._start.another()
        for name, tensor in tensors.items():
            state.tensors[name][...] = tensor
        one_by_one = (slice(index, index + 1) for index in range(len(x)))
        return np.array([self._code.loss(state.block, x[one], y[one]) for one in one_by_one])
