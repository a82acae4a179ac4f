"""The policy of one client: it answers messages of named arrays with replies of named arrays.

This module does not know the websocket; `msr_runtime.serving.server` receives and sends.
"""

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.classifying import USUAL, classified
from msr_runtime.adaptation.comparison import Comparison
from msr_runtime.adaptation.learning import predict_new
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.sessions import check_samples
from msr_runtime.adaptation.start import Start
from msr_runtime.adaptation.update_guard import UpdateGuard
from msr_runtime.errors import InputError, ServerError
from msr_runtime.inference.input_bounds import Counting
from msr_runtime.serving.access import Limits
from msr_runtime.serving.cost import most_samples, relative_cost
from msr_runtime.task import Field, field_slices

REQUEST = "__msr__"
"""The key that marks a message as a request other than an observation. Its value is `adapt`, `reset` or `status`."""
KINDS = ("infer", "adapt", "reset", "status")
"""What a message can ask for. An observation, which has no key `__msr__`, asks for `infer`."""
ACTIONS = "actions"
"""Key of the whole output vector in a reply. openpi's clients look for this key."""
MAX_STEPS = 1000
"""Largest number of inner steps per adaptation, unless meta-training used more."""
RESULT = (
    *("accepted", "loss_before", "loss_after", "steps", "seconds", "refusal", "reason", "outside"),
    *("left_out", "missed", "few_samples", "stuck"),
)
"""The fields of `AdaptResult` that the reply to `adapt` contains."""
CLASSIFIED = "classified"
"""Key of what a bundle of prototypes says of each sample, once a class was taught."""
_REPLY = ("policy_timing", "server_timing", REQUEST, CLASSIFIED)
"""Keys of the protocol that a field must not have as its name."""
_MEMORY = 64.0
"""Samples over which a weight in the comparison of a client falls by the factor e."""
_shortened = reprlib.Repr()  # error messages show what the client sent, but a client may send very long texts and lists
_shortened.maxlist, _shortened.maxstring = 32, 64


def _shown(value: object) -> str:
    """What a client sent, on one line: the repr of an array has several."""
    return " ".join(_shortened.repr(value).split())


def kind_of(message: object) -> str:
    """Return what a message asks for, one of `KINDS`.

    Raises:
        InputError: If the message is not a map, or asks for something else.
    """
    if not isinstance(message, dict):
        raise InputError(f"a message is {type(message).__name__}, but a map is wanted: field name to array")
    if REQUEST not in message:
        return "infer"
    kind = message[REQUEST]
    if not isinstance(kind, str) or kind not in KINDS[1:]:
        raise InputError(f"'{REQUEST}' is {_shown(kind)}, but one of {', '.join(KINDS[1:])} is wanted")
    return kind


def check_servable(model: AdaptiveModel, ignored: Collection[str] = ()) -> None:
    """Raise ServerError if a field of the model has the same name as a key of the protocol, or as an ignored key."""
    for field in model.manifest.inputs:
        if field.name in ignored:
            raise ServerError(
                f"bundle '{model.bundle.path}' has an input field named '{field.name}', but this key is to be ignored; "
                "leave it out of --ignore"
            )
    for field in (*model.manifest.inputs, *model.manifest.outputs):
        if field.name in _REPLY:
            raise ServerError(
                f"bundle '{model.bundle.path}' has a field named '{field.name}', but the protocol uses this name as a "
                "key; rename the field in the task family, then train and export again"
            )


def describe(model: AdaptiveModel, ignored: Collection[str] = ()) -> dict[str, Any]:
    """Describe a model to a client: fields with units, order and bounds, rate, inner steps, and kinds of messages.

    Args:
        model: The model.
        ignored: Keys of an observation that are ignored.
    """
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
        "ignored": list(ignored),
        # A client that connects again after a broken connection must know that it has to adapt again.
        "adaptation": {"starts_at": "v0", "ends_with": "connection"},
    }


def max_steps(model: AdaptiveModel) -> int:
    """Return the largest number of inner steps that one message may ask for."""
    return max(MAX_STEPS, model.manifest.inner_steps)


class Policy:
    """The policy of one client: a fork of the model, with an adaptation of its own that starts at `v0`.

    Not safe to call from two threads at once. Several policies of one model may run at the same time.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        limits: Limits,
        ignored: Collection[str] = (),
        outside: Counting | None = None,
        compared: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        """Fork `model`.

        Args:
            model: The model.
            limits: The largest number of samples in a message, and the largest cost of an adaptation.
            ignored: Keys that may stand beside the fields of an observation, and are not read.
            outside: Gets the number of observations with a value outside its bounds, by field.
            compared: Gets the errors on new support samples, before they are learned from, see `Comparison.add`.
        """
        self._compared = compared
        self._outside = outside
        self._model, self._limits, self._ignored = model.fork(), limits, frozenset(ignored)
        self._manifest = manifest = model.manifest
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        self._x, self._y = (spec.shape for spec in model.sample_specs)
        self._slices = field_slices(manifest.outputs)
        self._labels = manifest.loss == "cross_entropy"
        self._max_steps = max_steps(model)
        self._adapted, self._accepted, self._refused = False, 0, 0
        self._v0, self._comparison = model.fork(), Comparison(model.sample_specs[1], manifest.normalization, _MEMORY)
        self._learned: frozenset[int] = frozenset()
        """Hashes of the samples of the latest support set."""

    @property
    def adapted(self) -> bool:
        """Whether adapted weights act."""
        return self._adapted

    def answer(self, message: dict, check: Callable[[], None] | None = None) -> dict[str, Any]:
        """Answer one message. `kind_of` tells its kind.

        * `infer`, a message without `__msr__`: an array per input field, `(*field)` for one observation or
          `(samples, *field)` for several. The reply holds an array `(samples, *field)` per output field, and the whole
          output vector `(samples, out)` under `actions`. One observation gives one sample, which is a chunk of one
          action to openpi's clients. Of a bundle of prototypes that was taught a class, `classified` holds `label`,
          `known` and `distance` of each sample, see `AdaptiveModel.classify`.
        * `adapt`: under `support_x` an array `(shots, *field)` per input field; under `support_y` an array
          `(shots, *field)` per output field, or for a classifier its integer labels `(shots,)`. The reply holds the
          fields `RESULT` of `AdaptResult`. Optional keys: `steps`, the inner steps; `start`, see
          `AdaptiveModel.adapt`; `trust`, the radius of the
          trust region in norms of v0 (see `UpdateGuard`; by default the one measured at the export); `held_out_x` and
          `held_out_y`, samples whose loss must not rise. The reply then holds the fields of `HeldOut` under `held_out`.
          Under `helping` it holds those of `Helping`: how the acting network predicted the samples that it had not
          learned from; under `family` those of `FamilyVerdict`, or nothing.
        * `reset`: `v0` acts again. The reply is the one to `status`.
        * `status`: the reply tells whether adapted weights act, and how many adaptations were accepted and refused.

        Args:
            message: The decoded message.
            check: Called before each inner step. What it raises ends an adaptation; the acting weights do not change.

        Raises:
            InputError: If the message does not fit the model, a value is further outside its bounds than the manifest's
                `input_limit`, an adaptation would cost too much, or the output is not finite. The acting weights do not
                change.
        """
        match kind_of(message):
            case "adapt":
                return self._adapt(message, check)
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
        self._model.bounds.x.count("the observation", x, self._outside)
        begin = perf_counter()
        # a single sample takes the faster path of predict, whose buffers are bound in advance
        y = self._model.predict(x[0])[None] if single else self._model.predict(x)
        seconds = perf_counter() - begin
        flat = y.reshape(len(y), -1)
        if not np.isfinite(flat).all():
            raise InputError(
                "the network's output is not finite although the observation is; either the observation lies far "
                "outside the bounds of its fields, or the adaptation went wrong: send 'reset' to act at v0 again"
            )
        fields = {field.name: flat[:, self._slices[field.name]].reshape(-1, *field.shape) for field in self._outputs}
        return {ACTIONS: flat} | fields | self._classified(y) | {"policy_timing": {"infer_ms": 1e3 * seconds}}

    def _classified(self, scores: NDArray) -> dict[str, Any]:
        """What the scores `(samples, classes)` say, of a bundle of prototypes that was taught a class."""
        if self._manifest.rejection is None or not self._model.taught:
            return {}
        found = classified(self._manifest, scores, self._model.v, USUAL)
        return {CLASSIFIED: {"label": found.label, "known": found.known, "distance": found.distance}}

    def _adapt(self, message: dict, check: Callable[[], None] | None) -> dict[str, Any]:
        held = {"held_out_x", "held_out_y"}
        _check_keys(message, {REQUEST, "support_x", "support_y"}, {"steps", "start", "trust"} | held)
        if len(held & message.keys()) == 1:
            raise InputError(
                f"a message 'adapt' has '{min(held & message.keys())}', but not '{min(held - message.keys())}'; "
                "held-out samples need both"
            )
        support = self._samples(message, "support")
        held_out = self._samples(message, "held_out") if held <= message.keys() else None
        # type() and not isinstance: True and False are ints too, but a mistake here
        if type(trust := message.get("trust")) not in (int, float, type(None)):
            raise InputError(f"trust is {_shown(trust)}, but a number is wanted: the radius of the trust region")
        if type(steps := message.get("steps")) not in (int, type(None)) or (steps or 1) > self._max_steps:
            raise InputError(f"steps is {_shown(steps)}, but an integer up to {self._max_steps} is wanted")
        start = message.get("start", "v0")
        if type(start) is not str or start not in get_args(Start):
            raise InputError(f"start is {_shown(start)}, but one of {', '.join(get_args(Start))} is wanted")
        self._check_cost(len(support[0]), self._manifest.inner_steps if steps is None else steps)
        self._model.bounds.count(self._model.sample_specs, *support, self._outside)
        guard = None if trust is None else UpdateGuard(trust=trust)
        self._compare(*check_samples(self._model.sample_specs, *support))
        result = self._model.adapt(
            *support, steps, start=cast(Start, start), held_out=held_out, guard=guard, check=check
        )
        self._adapted |= result.accepted
        self._accepted += result.accepted
        self._refused += not result.accepted
        losses = {"held_out": result.held_out._asdict()} if result.held_out else {}
        family = asdict(result.family) | {"inside": result.family.inside} if result.family else None
        helping = asdict(self._comparison.now)
        return {name: getattr(result, name) for name in RESULT} | losses | {"helping": helping, "family": family}

    def _compare(self, x: NDArray, y: NDArray) -> None:
        """Compare what the acting network says of new samples. A client may send old ones again, as from a window."""
        pairs = [hash(one_x.tobytes() + one_y.tobytes()) for one_x, one_y in zip(x, y, strict=True)]
        new = np.array([pair not in self._learned for pair in pairs])
        self._learned = frozenset(pairs)
        if not new.any():
            return
        x, y = x[new], y[new]
        found = self._comparison.add(predict_new(self._model, x), predict_new(self._v0, x), y)
        if self._compared and found:
            self._compared(found)

    def _check_cost(self, samples: int, steps: int) -> None:
        limit = self._limits.adapt_cost
        if (cost := relative_cost(self._manifest, samples, steps)) > limit:
            fewer = most_samples(self._manifest, samples, steps, limit)
            raise InputError(
                f"an adaptation to {samples} samples with {steps} steps of the rule {self._manifest.rule} would cost "
                f"about {cost:.3g} times as much as in meta-training, but at most {limit:g} times is allowed; send "
                + (f"at most {fewer} samples, or fewer steps" if fewer else "fewer steps")
                + "; the option of `msr serve` is --limits.adapt-cost"
            )

    def _samples(self, message: dict, name: str) -> tuple[NDArray, NDArray]:
        """Join the samples under `name` into the arrays of the model: x `(samples, *x)` and y `(samples, *y)`."""
        x, _ = self._join(f"{name}_x", message[f"{name}_x"], self._inputs, batch=True)
        if self._labels:
            labels = message[f"{name}_y"]
            if isinstance(labels, dict):
                raise InputError(
                    f"{name}_y names fields, {sorted(map(str, labels))}, but a classifier learns from labels: send the "
                    "integers (shots,) themselves in place of the dict"
                )
            y = _numbers(f"{name}_y", "labels", labels)
        else:
            y, _ = self._join(f"{name}_y", message[f"{name}_y"], self._outputs, batch=True)
            y = y.reshape(len(y), *self._y)
        return x.reshape(len(x), *self._x), y

    def _status(self) -> dict[str, Any]:
        return {"adapted": self._adapted, "accepted": self._accepted, "refused": self._refused}

    def _join(self, what: str, values: object, fields: Sequence[Field], *, batch: bool = False) -> tuple[NDArray, bool]:
        """Join named arrays into one array `(samples, width)`, with the fields in the model's order.

        Args:
            what: Name of the message or its part in errors.
            values: Field name to array.
            fields: The model's fields.
            batch: Refuse a single sample without an axis of samples.

        Returns:
            The joined array, and whether `values` was a single sample without an axis of samples.
        """
        wanted = [field.name for field in fields]
        if not isinstance(values, dict):
            raise InputError(f"{what} is {type(values).__name__}, but a map from {wanted} to arrays is wanted")
        if values.keys() - self._ignored != set(wanted):
            more = values.keys() > set(wanted)
            raise InputError(
                f"{what} has the fields {_shown(sorted(values, key=str))}, but {wanted} are wanted"
                + (f", and {sorted(self._ignored)} are ignored" if self._ignored else "")
                + "; the client was written for another model or for another version of this model"
                + ("; to ignore a key, give it to `msr serve` with --ignore" if more else "")
            )
        arrays = [_numbers(what, field.name, values[field.name]) for field in fields]
        pairs = list(zip(arrays, fields, strict=True))
        if not batch and all(array.shape == field.shape for array, field in pairs):
            return np.concatenate([array.reshape(1, -1) for array in arrays], axis=1), True
        for array, field in pairs:
            if array.ndim != 1 + len(field.shape) or array.shape[1:] != field.shape or len(array) != len(arrays[0]):
                seen = ", ".join(f"{field.name} {array.shape}" for array, field in pairs)
                shapes = ", ".join(f"{field.name} {field.shape}" for field in fields)
                axis = "one more axis in front, which counts the samples and has one length for all fields"
                wanted_axis = f"with {axis}" if batch else f"for one observation; for several, each needs {axis}"
                raise InputError(f"{what} has the shapes {seen}, but {shapes} are wanted {wanted_axis}")
        if not 1 <= len(arrays[0]) <= self._limits.samples:
            raise InputError(
                f"{what} has {len(arrays[0])} samples, but 1 to {self._limits.samples} are wanted per message; the "
                "option of `msr serve` is --limits.samples"
            )
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1), False


def _numbers(what: str, name: str, value: object) -> NDArray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise InputError(f"{what}, '{name}' is not an array ({error}); give lists of equal length") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what}, '{name}' has dtype {array.dtype}, but numbers are wanted")
    return array


def _check_keys(message: dict, needed: set[str], allowed: set[str]) -> None:
    if not needed <= message.keys() <= needed | allowed:
        raise InputError(
            f"a message '{message[REQUEST]}' has the keys {_shown(sorted(message, key=str))}, but "
            f"{sorted(needed)} are wanted"
            + (f", and {sorted(allowed)} may be given" if allowed else "")
            + "; a key is missing, misspelled or of another version"
        )
