"""The adaptation of `peers.py` as LiteRT and IREE run it: compiled ahead of time, for a robot without torch and JAX.

Both take the program that JAX exports (StableHLO). LiteRT runs one inner step a call, as an interpreter whose v and
weights are inputs and outputs: with several steps in one program it would pack U anew in each. IREE runs all steps of
an adaptation as one program.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from peers import Adaptation, Arrays, jax_problem

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array


def stablehlo(function: Callable[..., Any], *inputs: Array) -> str:
    """Export a function of arrays of such shapes, float32, as a module of StableHLO with one function, `main`."""
    import jax  # pyright: ignore[reportMissingImports]
    from jax import export  # pyright: ignore[reportMissingImports]

    shapes = [jax.ShapeDtypeStruct(each.shape, np.float32) for each in inputs]
    return export.export(jax.jit(function, keep_unused=True))(*shapes).mlir_module()


def _predict(problem: Adaptation) -> Callable[..., Any]:
    """`predict` with the weights as one argument each, in the problem's order."""

    def predict(x: Any, *weights: Any) -> Any:
        return problem.predict(dict(zip(problem.v0, weights, strict=True)), x)

    return predict


class LiteRTPeer:
    """LiteRT on one thread, with XNNPACK.

    Args:
        learner: The learner.
        normalization: Of its inputs and outputs.
        x: A support x `(shots, x)`: its programs have fixed shapes.
        y: A support y `(shots, y)`.

    """

    def __init__(self, learner: Learner, normalization: Normalization, x: Array, y: Array) -> None:
        self.problem = problem = jax_problem(learner, normalization)
        names, numbers = list(problem.v0), problem.numbers(0)
        self._v0, self._weights0 = (
            [np.asarray(each[name]) for name in names] for each in (problem.v0, problem.weights0)
        )

        def step(x: Any, y: Any, *rest: Any) -> tuple[Any, ...]:
            own, state = rest[: len(numbers)], rest[len(numbers) :]
            halves = (dict(zip(names, half, strict=True)) for half in (state[: len(names)], state[len(names) :]))
            v, weights = problem.step(*halves, x, y, *own)
            return (*(v[name] for name in names), *(weights[name] for name in names))

        inputs = [x, y, *numbers, *self._v0, *self._weights0]
        self._step, self._reads, self._writes = _interpreter(step, inputs, 2 * len(names))
        self._own, self._state = self._reads[2 : 2 + len(numbers)], self._reads[2 + len(numbers) :]
        self._predictor, (self._x, *self._constants), (self._y,) = _interpreter(
            _predict(problem), [x[:1], *self._weights0], 1
        )
        self._act(self._weights0)

    def adapt(self, support_x: Array, support_y: Array, steps: int) -> None:
        """Adapt from v0 on the support `(shots, x)`, `(shots, y)` and let the new weights act."""
        step, begin = self._step, (*self._v0, *self._weights0)
        step.set_tensor(self._reads[0], support_x)
        step.set_tensor(self._reads[1], support_y)
        for index in range(steps):
            for place, number in zip(self._own, self.problem.numbers(index), strict=True):
                step.set_tensor(place, number)
            for place, values in zip(self._state, begin, strict=True):
                step.set_tensor(place, values)
            step.invoke()
            begin = [step.get_tensor(place) for place in self._writes]
        self._act(begin[len(self._v0) :])

    def predict(self, x: Array) -> Array:
        """Map `(1, x)` to `(1, y)` with the weights that act."""
        self._predictor.set_tensor(self._x, x)
        self._predictor.invoke()
        return self._predictor.get_tensor(self._y)

    def _act(self, weights: Sequence[Array]) -> None:
        # An input keeps its values until it is set again.
        for place, values in zip(self._constants, weights, strict=True):
            self._predictor.set_tensor(place, values)


def _interpreter(
    function: Callable[..., Any], inputs: Sequence[Array], outputs: int
) -> tuple[Any, list[int], list[int]]:
    """Convert a function for LiteRT, and return its interpreter, and the places of its inputs and outputs."""
    # Its parts for MLIR are what litert-torch converts with; JAX has no converter of its own without TensorFlow.
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    from litert_converter.mlir import ir, passmanager  # pyright: ignore[reportMissingImports]
    from litert_converter.mlir._mlir_libs import converter_api_ext as converter  # pyright: ignore[reportMissingImports]

    reads, writes = [f"in{index}" for index in range(len(inputs))], [f"out{index}" for index in range(outputs)]
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(stablehlo(function, *inputs))
        converter.set_signature(module.operation, signature_name="main", input_names=reads, output_names=writes)
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
        flatbuffer = converter.export_flatbuffer_to_bytes(module.operation)
    interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner("main")
    inputs_at, outputs_at = signature.get_input_details(), signature.get_output_details()
    places = [inputs_at[name]["index"] for name in reads], [outputs_at[name]["index"] for name in writes]
    return interpreter, *places


class IREEPeer:
    """IREE on one thread, compiled for this processor. The weights stay on its device.

    Args:
        learner: The learner.
        normalization: Of its inputs and outputs.
        x: A support x `(shots, x)`: its programs have fixed shapes.
        y: A support y `(shots, y)`.

    """

    def __init__(self, learner: Learner, normalization: Normalization, x: Array, y: Array) -> None:
        import iree.runtime  # pyright: ignore[reportMissingImports]

        self.problem, self._support = jax_problem(learner, normalization), (x, y)
        config = iree.runtime.Config("local-sync")
        self._make = lambda text: _iree_program(text, config)
        self._programs = cache(self._program)
        weights = [np.asarray(each) for each in self.problem.weights0.values()]
        self._predict = self._make(stablehlo(_predict(self.problem), x[:1], *weights))
        self._weights: Sequence[Any] = [iree.runtime.asdevicearray(config.device, each) for each in weights]

    def _program(self, steps: int) -> Callable[..., Any]:
        def adapted(x: Any, y: Any) -> tuple[Any, ...]:
            weights: Arrays = self.problem.adapted(x, y, steps)
            return tuple(weights[name] for name in self.problem.v0)

        return self._make(stablehlo(adapted, *self._support))

    def adapt(self, support_x: Array, support_y: Array, steps: int) -> None:
        """Adapt from v0 on the support `(shots, x)`, `(shots, y)` and let the new weights act."""
        self._weights = self._programs(steps)(support_x, support_y)

    def predict(self, x: Array) -> Array:
        """Map `(1, x)` to `(1, y)` with the weights that act."""
        return self._predict(x, *self._weights).to_host()


def _iree_program(text: str, config: Any) -> Callable[..., Any]:
    """Compile a module of StableHLO for this processor, and return its function."""
    import iree.compiler  # pyright: ignore[reportMissingImports]
    import iree.runtime  # pyright: ignore[reportMissingImports]

    compiled = iree.compiler.compile_str(
        text,
        target_backends=["llvm-cpu"],
        input_type="stablehlo",
        extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"],
    )
    context = iree.runtime.SystemContext(config=config)
    module = iree.runtime.VmModule.copy_buffer(context.instance, compiled)
    context.add_vm_module(module)
    return context.modules[module.name]["main"]
