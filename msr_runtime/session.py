"""ONNX Runtime sessions as a control loop needs them: one thread, no silent fallback, buffers bound once."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_runtime._onnxruntime import onnxruntime
from msr_runtime.errors import BundleError, InputError, ProviderError
from msr_runtime.providers import CPU, HOST, Device, Provider, check_providers, in_float32, provider_name
from msr_runtime.task import Array, Field, field_slices

_FLOAT32 = np.dtype(np.float32)
_DTYPES = {"tensor(float)": _FLOAT32, "tensor(int64)": np.dtype(np.int64)}
_ALIGNMENT = 16  # float32 numbers: every tensor of a state begins on a cache line of its own
_MAX_SHAPES = (
    8  # input shapes whose buffers are kept; more would be a leak in a program that never repeats a batch size
)


def make_session(
    model: bytes, name: str, providers: Sequence[Provider], *, prepack: bool = True
) -> onnxruntime.InferenceSession:
    """A session for the bytes of `model` with exactly the `providers` asked for, on one thread that does not spin.

    Args:
        model: ONNX, without external data.
        name: What errors call it.
        providers: Execution providers by name, or name and options. Without the CPU's among them every node has to run
            on the others; with it named last, nodes that they have no kernel for may run there.
        prepack: Let each product that reads a constant keep a copy of it in its own layout; faster where there is one.

    Raises:
        ProviderError: If a provider is not in the installed ONNX Runtime, does not start on this machine or cannot
            run the model.
        BundleError: If ONNX Runtime refuses the model, as it does any model with external data.
    """
    check_providers(providers)
    asked = [provider_name(provider) for provider in providers]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a spinning pool starves the control loop
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
    if CPU not in asked:  # then no node may run there, not even one that the other has no kernel for
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 4  # every error is raised too, and of weights that are inputs it would warn one by one
    try:
        # without its own fallback, which prints on stdout and goes on with the CPU
        session = onnxruntime.InferenceSession(model, options, providers=in_float32(providers), enable_fallback=0)
        for part in (*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()):
            _ = part.name, part.shape  # may be bytes that are no text, which only reading them tells
    except Exception as error:  # its bindings raise a class of their own for each status code
        if "fallback to CPU EP has been explicitly disabled" in str(error):
            raise ProviderError(
                f"{name} has nodes that {' and '.join(asked)} cannot run, and {CPU} was not asked for; name it last "
                "to let it run them"
            ) from error
        raise BundleError(
            f"{name} is refused by onnxruntime {onnxruntime.__version__} ({error}); it is damaged, refers to external "
            "data or is newer than this onnxruntime"
        ) from error
    if absent := [provider for provider in asked if provider not in session.get_providers()]:
        raise ProviderError(
            f"provider '{absent[0]}' starts on this machine, but not for {name}: {session.get_providers()} would act "
            "instead"
        )
    return session


def all_finite(flat: Array) -> bool:
    """Whether every number of a float32 array `(n,)` is finite."""
    # infinite for large finite values too: then look closer; vdot, because dot warns when it overflows
    return math.isfinite(np.vdot(flat, flat)) or bool(np.isfinite(flat).all())


class Side(NamedTuple):
    """What one input or output of a graph holds, one sample a row."""

    name: str
    """Its name in errors: `x`, `support_x`, ..."""
    shape: tuple[int, ...]
    """The shape of one sample."""
    dtype: np.dtype
    fields: tuple[Field, ...]
    """The fields that make up one sample, flattened; empty for labels."""
    classes: int = 0
    """Labels are below it; 0 where samples are no labels."""

    def convert(self, value: ArrayLike) -> NDArray:
        """`value` as an array of this side's dtype.

        Raises:
            InputError: If it is ragged or does not hold numbers that fit.
        """
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(f"{self.name} is not an array ({error})") from error
        kinds = "fiub" if self.dtype.kind == "f" else "iu"
        if array.dtype.kind not in kinds:
            raise InputError(f"{self.name} has dtype {array.dtype}, but {self.dtype} is wanted, or what converts to it")
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which `check_values` names
            return array.astype(self.dtype, copy=False)

    def check_batch(self, array: NDArray) -> None:
        """Raise InputError unless `array` is `(samples, *shape)` with at least one sample."""
        if array.ndim != 1 + len(self.shape) or array.shape[1:] != self.shape or not len(array):
            raise InputError(self.shape_error(array.shape))

    def shape_error(self, seen: tuple[int, ...]) -> str:
        """The sentence that says which shape was seen and which is wanted, and of what it is made."""
        parts = " + ".join(f"{field.name} {field.shape}" for field in self.fields) or "labels"
        wanted = f"({', '.join(['samples', *map(str, self.shape)])})"
        return f"{self.name} has shape {seen}, but {wanted} with at least one sample is wanted: {parts}, in this order"

    def check_values(self, array: NDArray) -> None:
        """Raise InputError if in `array` `(samples, *shape)` a number is not finite, or a label of no class."""
        if array.dtype.kind != "f":
            if not self.holds_classes(array):
                raise InputError(
                    f"{self.name} has labels {array.min()} to {array.max()}, but 0 to {self.classes - 1} are wanted"
                )
            return
        if all_finite(array.reshape(-1)):
            return
        flat = array.reshape(len(array), -1)
        sample, column = (int(index) for index in np.argwhere(~np.isfinite(flat))[0])
        place = f"element {column}"
        for name, where in field_slices(self.fields).items():
            if where.start <= column < where.stop:
                place = f"field '{name}' element {column - where.start}"
        raise InputError(
            f"{self.name} sample {sample}, {place} (index {column}) is {flat[sample, column]}, but a finite float32 is "
            "wanted; a sensor or an earlier computation gave no number"
        )

    def holds_classes(self, labels: NDArray) -> bool:
        """Whether every label is that of a class."""
        return bool(((labels >= 0) & (labels < self.classes)).all())


def side(session: onnxruntime.InferenceSession, name: str, fields: tuple[Field, ...], output: bool = False) -> Side:
    """Read one side's sample shape and dtype from a graph and check them against the manifest's `fields`.

    Raises:
        BundleError: If the graph has no such side, or the sizes differ.
    """
    parts = {part.name: part for part in (session.get_outputs() if output else session.get_inputs())}
    if name not in parts:
        raise BundleError(
            f"the graph has no {'output' if output else 'input'} '{name}' but {sorted(parts)}; export again"
        )
    shape, dtype = tuple(parts[name].shape[1:]), _DTYPES.get(parts[name].type)
    if dtype is None or not all(isinstance(axis, int) for axis in shape):
        raise BundleError(
            f"'{name}' of the graph is {parts[name].type} {parts[name].shape}, but only its first axis may be free"
        )
    wanted = sum(field.size for field in fields)
    if fields and math.prod(shape) != wanted:
        raise BundleError(
            f"'{name}' of the graph takes {shape} a sample, but the manifest's fields make {wanted} numbers"
        )
    return Side(name, shape, dtype, fields)


class State:
    """The filter parameters "v" `(1, K)` and the weights folded from them, side by side in one block of memory.

    One block is copied and checked in one operation; the values of ONNX Runtime share its memory, or lie on a device:
    then they are as the block was when it was sent, and it is as they were when it was fetched.
    """

    def __init__(self, tensors: Mapping[str, Array], device: Device = HOST) -> None:
        """Copy `tensors`: v and every weight, float32."""
        self.device = device
        sizes = [-(-tensor.size // _ALIGNMENT) * _ALIGNMENT for tensor in tensors.values()]
        self.block = np.zeros(sum(sizes), _FLOAT32)
        """All tensors flattened, in order, each filled up with zeros to a whole number of cache lines."""
        self.tensors: dict[str, Array] = {}
        """By name; views of the block."""
        self.values: dict[str, Any] = {}
        """By name, as ONNX Runtime takes them."""
        begin = 0
        for (name, tensor), size in zip(tensors.items(), sizes, strict=True):
            view = self.block[begin : begin + tensor.size].reshape(tensor.shape)
            view[...] = tensor
            self.tensors[name], self.values[name] = view, device.place(view)
            begin += size

    def send(self) -> None:
        """Copy the block to the device; nothing to do where memory is shared."""
        if self.device.copies:
            for name, value in self.values.items():
                value.update_inplace(self.tensors[name])

    def fetch(self) -> None:
        """Copy the values on the device into the block; nothing to do where memory is shared."""
        if self.device.copies:
            for name, value in self.values.items():
                self.tensors[name][...] = value.numpy()


class _Slot(NamedTuple):
    """Buffers for one input shape, and the run that reads and writes them."""

    x: Array
    flat: Array
    y: Array
    run: Callable[[], None]


class _Bound:
    """predict.onnx bound to one state's weights, with slots for each input shape seen."""

    def __init__(self, session: onnxruntime.InferenceSession, x: Side, y: Side, state: State) -> None:
        self.session, self.x, self.y, self.state = session, x, y, state
        self.pools: dict[tuple[int, ...], list[_Slot]] = {}
        self.open(x.shape)

    def open(self, shape: tuple[int, ...]) -> list[_Slot]:
        """The pool for a shape, new and warmed up if there is room for one more."""
        if shape in self.pools or len(self.pools) >= _MAX_SHAPES:
            return self.pools.get(shape, [])
        slot = self.bind(shape)
        slot.run()
        return self.pools.setdefault(shape, [slot])

    def bind(self, shape: tuple[int, ...]) -> _Slot:
        """A slot for a checked shape."""
        one = shape == self.x.shape
        samples = 1 if one else shape[0]
        x, y = np.zeros((samples, *self.x.shape), _FLOAT32), np.zeros((samples, *self.y.shape), _FLOAT32)
        binding, device = self.session.io_binding(), self.state.device
        # the values share the arrays' memory, so that a run reads x and writes y without an allocation
        values = device.place(x), device.place(y)
        binding.bind_ortvalue_input("x", values[0])
        for name, value in self.state.values.items():
            if name != "v":
                binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("y", values[1])
        run = partial(self.session.run_with_iobinding, binding, device.run_options())
        if device.copies:
            run = partial(_run_on_device, run, x, y, *values)
        return _Slot(x[0] if one else x, x.reshape(-1), y[0] if one else y, run)


def _run_on_device(run: Callable[[], None], x: Array, y: Array, x_value: Any, y_value: Any) -> None:
    x_value.update_inplace(x)
    run()
    y[...] = y_value.numpy()


class BoundPredictor:
    """predict.onnx with one state's weights: the whole of what acts between two adaptations; `Predictors` makes them.

    Safe to call from several threads: each call takes buffers out of a pool for itself and puts them back.
    """

    def __init__(self, bound: _Bound, spare: list[_Bound]) -> None:
        """Act with `bound`; it goes to `spare` when nobody holds this predictor any more."""
        self._bound, self._spare = bound, spare
        self._pools, self.x = bound.pools, bound.x

    def __del__(self) -> None:
        # No call is under way: it would hold the predictor, and with it all slots are back in their pools.
        self._spare.append(self._bound)

    @property
    def tensors(self) -> dict[str, Array]:
        """The filter parameters "v" and the weights, to be read and only for as long as the predictor is held."""
        return self._bound.state.tensors

    @property
    def block(self) -> Array:
        """The same in one block of memory, as in `State`."""
        return self._bound.state.block

    def __call__(self, x: ArrayLike) -> Array:
        """`(obs,)` to `(out,)`, or `(batch, obs)` to `(batch, out)`, in raw units.

        Raises:
            InputError: If `x` has another shape or dtype, or is not finite.
        """
        if type(x) is not np.ndarray or x.dtype is not _FLOAT32:
            x = self.x.convert(x)
        pool = self._pools.get(x.shape)
        if pool is None:
            if x.ndim != 1 + len(self.x.shape) or x.shape[1:] != self.x.shape or not len(x):
                raise InputError(f"{self.x.shape_error(x.shape)}; for one sample the first axis may be left out")
            pool = self._bound.open(x.shape)
        try:
            slot = pool.pop()  # atomic: no other thread can hold the same buffers
        except IndexError:
            slot = self._bound.bind(x.shape)
        try:
            slot.x[...] = x
            if not all_finite(slot.flat):
                self.x.check_values(slot.x.reshape(-1, *self.x.shape))
            slot.run()
            return slot.y.copy()
        finally:
            pool.append(slot)


class Predictors:
    """Makes the predictors of one session, from the memory and bindings of those that nobody holds any more.

    Two take turns as a robot adapts again and again: binding each anew would cost as much as an inner step.
    """

    def __init__(self, session: onnxruntime.InferenceSession, x: Side, y: Side, start: State) -> None:
        self._session, self._x, self._y, self._start = session, x, y, start
        self._spare: list[_Bound] = []

    def make(self, block: Array, like: BoundPredictor | None = None) -> BoundPredictor:
        """A predictor with a copy of a state's `block`, ready for the input shapes that `like` has seen."""
        try:
            bound = self._spare.pop()  # atomic: no other predictor can be made from it
        except IndexError:
            bound = _Bound(self._session, self._x, self._y, State(self._start.tensors, self._start.device))
        bound.state.block[...] = block
        bound.state.send()
        for shape in list(like._pools) if like else ():  # a copy: another thread may add to it
            bound.open(shape)
        return BoundPredictor(bound, self._spare)
