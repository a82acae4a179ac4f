"""One client's policy: messages of named arrays in, replies of named arrays out; it knows no network."""

import math
import reprlib
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import InputError, ServerError
from msr_runtime.guard import UpdateGuard
from msr_runtime.model import AdaptiveModel
from msr_runtime.task import Field, field_slices

REQUEST = "__msr__"
"""The key whose value says that a message is no observation: `adapt`, `reset` or `status`."""
KINDS = ("infer", "adapt", "reset", "status")
ACTIONS = "actions"
"""The reply's key for the whole output vector; openpi's clients look for it."""
MAX_STEPS = 1000
"""Inner steps of one adaptation, at most, unless meta-training took more."""
RESULT = ("accepted", "loss_before", "loss_after", "steps", "seconds", "refusal", "reason")
"""What of an AdaptResult the reply to `adapt` holds."""
_REPLY = ("policy_timing", "server_timing", REQUEST)
_names = reprlib.Repr()  # what a client sent is shown to it, but not at any length
_names.maxlist, _names.maxstring = 32, 64


def kind_of(message: object) -> str:
    """What a message asks for, one of `KINDS`.

    Raises:
        InputError: If it is no map, or asks for something else.
    """
    if not isinstance(message, dict):
        raise InputError(f"a message is {type(message).__name__}, but a map is wanted: field name to array")
    if REQUEST not in message:
        return "infer"
    kind = message[REQUEST]
    if not isinstance(kind, str) or kind not in KINDS[1:]:
        raise InputError(f"'{REQUEST}' is {_names.repr(kind)}, but one of {', '.join(KINDS[1:])} is wanted")
    return kind


def check_servable(model: AdaptiveModel) -> None:
    """Raise ServerError if the names of the model's fields are also the protocol's own."""
    for field in (*model.manifest.inputs, *model.manifest.outputs):
        if field.name in _REPLY:
            raise ServerError(
                f"bundle '{model.bundle.path}' has a field named '{field.name}', which is a key of the "
                "protocol itself; rename it in the task family"
            )


def describe(model: AdaptiveModel) -> dict[str, Any]:
    """What a client is told of a model: its fields with units, order and bounds, its rate and the further messages."""
    manifest = model.manifest
    return {
        "family": manifest.name,
        "method": manifest.method,
        "bundle": model.bundle.digest,
        "inputs": [field.model_dump() for field in manifest.inputs],
        "outputs": [field.model_dump() for field in manifest.outputs],
        "loss": manifest.loss,
        "rate_hz": manifest.rate_hz,
        "shots": manifest.shots,
        "inner_steps": manifest.inner_steps,
        "max_steps": max_steps(model),
        "messages": {"key": REQUEST, "kinds": list(KINDS[1:])},
    }


def max_steps(model: AdaptiveModel) -> int:
    """Inner steps of one adaptation, at most."""
    return max(MAX_STEPS, model.manifest.inner_steps)


class Policy:
    """A fork of a model for one client, with an adaptation of its own, that starts at `v0`.

    Not to be called from two threads at once; several policies of one model may be.
    """

    def __init__(self, model: AdaptiveModel, max_samples: int) -> None:
        self._model, self._max_samples = model.fork(), max_samples
        manifest = model.manifest
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        self._x, self._y = (side.shape for side in model.sample)
        self._slices = field_slices(manifest.outputs)
        self._labels = manifest.loss == "cross_entropy"
        self._max_steps = max_steps(model)
        self._adapted, self._accepted, self._refused = False, 0, 0

    def answer(self, message: dict) -> dict[str, Any]:
        """The reply to one message.

        `infer`: `{field: (*field) or (samples, *field)}` to `{field: (samples, *field)}`, and the whole output vector
        `(samples, out)` under `actions`; one observation gives one sample, a chunk of one action.
        `adapt`: `{"support_x": {field: (shots, *field)}, "support_y": {field: (shots, *field)}}` to the `RESULT` of the
        adaptation; a classifier's support_y is its labels, integers `(shots,)`. Beside them may stand `steps`; `trust`,
        the distance from v0 beyond which the update is refused (see `UpdateGuard`); and `held_out_x` and `held_out_y`,
        samples on which it must not be worse, whose losses `{"before": ..., "after": ...}` come under `held_out`.
        `reset`: back to `v0`. `status`: what this client's policy is and did.

        Raises:
            InputError: If it does not fit the model, or an action would not be finite; the acting weights stay as they
                are.
        """
        match kind_of(message):
            case "adapt":
                return self._adapt(message)
            case "reset":
                _check_keys(message, {REQUEST}, set())
                self._model.reset()
                self._adapted = False
                return self._status()
            case "status":
                _check_keys(message, {REQUEST}, set())
                return self._status()
            case _:
                return self._infer(message)

    def _infer(self, observation: dict) -> dict[str, Any]:
        x, single = self._join("the observation", observation, self._inputs)
        x = x.reshape(len(x), *self._x)
        begin = perf_counter()
        y = self._model.predict(x[0])[None] if single else self._model.predict(x)
        seconds = perf_counter() - begin
        flat = y.reshape(len(y), -1)
        if not np.isfinite(flat).all():
            raise InputError(
                "the network's output is not finite, though the observation is: it lies far outside the fields' "
                "bounds, or the adaptation went wrong; reset returns to v0"
            )
        fields = {field.name: flat[:, self._slices[field.name]].reshape(-1, *field.shape) for field in self._outputs}
        return {ACTIONS: flat} | fields | {"policy_timing": {"infer_ms": 1e3 * seconds}}

    def _adapt(self, message: dict) -> dict[str, Any]:
        held = {"held_out_x", "held_out_y"}
        needed = {REQUEST, "support_x", "support_y"} | (held if held & message.keys() else set())
        _check_keys(message, needed, {"steps", "trust"})
        support = self._samples(message, "support")
        held_out = self._samples(message, "held_out") if held <= message.keys() else None
        if type(trust := message.get("trust", math.inf)) not in (int, float):
            raise InputError(f"trust is {_names.repr(trust)}, but a number is wanted")
        if type(steps := message.get("steps")) not in (int, type(None)) or (steps or 1) > self._max_steps:
            raise InputError(f"steps is {_names.repr(steps)}, but a whole number up to {self._max_steps} is wanted")
        result = self._model.adapt(*support, steps, held_out=held_out, guard=UpdateGuard(trust=trust))
        self._adapted |= result.accepted
        self._accepted += result.accepted
        self._refused += not result.accepted
        losses = {"held_out": result.held_out._asdict()} if result.held_out else {}
        return {name: getattr(result, name) for name in RESULT} | losses

    def _samples(self, message: dict, name: str) -> tuple[NDArray, NDArray]:
        """The samples under `name` as the model takes them: x `(samples, *x)` and y `(samples, *y)`."""
        x, _ = self._join(f"{name}_x", message[f"{name}_x"], self._inputs, batch=True)
        if self._labels:
            y = _numbers(f"{name}_y", "labels", message[f"{name}_y"])
        else:
            y, _ = self._join(f"{name}_y", message[f"{name}_y"], self._outputs, batch=True)
            y = y.reshape(len(y), *self._y)
        return x.reshape(len(x), *self._x), y

    def _status(self) -> dict[str, Any]:
        return {"adapted": self._adapted, "accepted": self._accepted, "refused": self._refused}

    def _join(self, what: str, values: object, fields: Sequence[Field], *, batch: bool = False) -> tuple[NDArray, bool]:
        """Named arrays as one `(samples, width)` in the model's order, and whether they were one sample without axis.

        `batch` refuses the latter.
        """
        wanted = [field.name for field in fields]
        if not isinstance(values, dict):
            raise InputError(f"{what} is {type(values).__name__}, but a map from {wanted} to arrays is wanted")
        if values.keys() != set(wanted):
            raise InputError(
                f"{what} has the fields {_names.repr(sorted(values, key=str))}, but {wanted} are wanted; the "
                "client was written for another model or another version of it"
            )
        arrays = [_numbers(what, field.name, values[field.name]) for field in fields]
        pairs = list(zip(arrays, fields, strict=True))
        if not batch and all(array.shape == field.shape for array, field in pairs):
            return np.concatenate([array.reshape(1, -1) for array in arrays], axis=1), True
        for array, field in pairs:
            if array.ndim != 1 + len(field.shape) or array.shape[1:] != field.shape or len(array) != len(arrays[0]):
                seen = ", ".join(f"{field.name} {array.shape}" for array, field in pairs)
                shapes = ", ".join(f"{field.name} {field.shape}" for field in fields)
                raise InputError(
                    f"{what} has the shapes {seen}, but {shapes} are wanted, {'each' if batch else 'all alone or all'} "
                    "with an axis of as many samples in front"
                )
        if not 1 <= len(arrays[0]) <= self._max_samples:
            raise InputError(
                f"{what} has {len(arrays[0])} samples, but 1 to {self._max_samples} are wanted in a message"
            )
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1), False


def _numbers(what: str, name: str, value: object) -> NDArray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise InputError(f"{what}, '{name}' is not an array ({error})") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what}, '{name}' has dtype {array.dtype}, but numbers are wanted")
    return array


def _check_keys(message: dict, needed: set[str], allowed: set[str]) -> None:
    if not needed <= message.keys() <= needed | allowed:
        raise InputError(
            f"a message '{message[REQUEST]}' has the keys {_names.repr(sorted(message, key=str))}, but "
            f"{sorted(needed)} are wanted" + (f", and {sorted(allowed)} may be given" if allowed else "")
        )
