"""The graphs of a filter in native code: what one sample says, and the deviations of a prediction."""

from collections.abc import Callable

from msr_runtime.inference.deviation import OUTPUTS
from msr_runtime.inference.native import NativeCode
from msr_runtime.inference.state import State
from msr_runtime.task import Shape


class NativeUpdate:
    """The `UpdateGraph` of native code.

    Args:
        code: The code.
        x: The shape of one sample's x.
        y: The shape of one sample's y.
    """

    def __init__(self, code: NativeCode, x: Shape, y: Shape) -> None:
        self._code, sizes = code, code.sizes
        of_y = dict.fromkeys(("y", "innovation", "variance"), (1, *y))
        rows = {"decays": (sizes.slots,), "new_rows": (sizes.outputs, sizes.filters)}
        self.shapes: dict[str, Shape] = {"x": (1, *x), **of_y, **rows, "nis": (1,)}

    def bind(self, source: State, target: State, linearized: State, arrays: State) -> Callable[[State], None]:
        """As `UpdateGraph.bind`."""
        given = [arrays.tensors[name] for name in ("x", "y", "decays")]
        made = [arrays.tensors[name] for name in ("new_rows", "innovation", "variance", "nis")]
        return self._code.bind_with_rows("update", (source, linearized), given, (target.block, *made))


class NativeDeviation:
    """The `DeviationGraph` of native code."""

    def __init__(self, code: NativeCode) -> None:
        self._code = code
        self.slots = code.sizes.slots

    def bind(self, network: State, arrays: State) -> Callable[[State], None]:
        """As `DeviationGraph.bind`."""
        given = [arrays.tensors[name] for name in ("x", "decays")]
        made = [arrays.tensors[name] for name in OUTPUTS]
        return self._code.bind_with_rows("deviation", (network,), given, made)
