"""Replay: give a bundle the recorded observations and support sets, and compare its actions with the recorded ones."""

import base64
import binascii
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.arrays import relative_error
from msr_runtime.errors import InputError
from msr_runtime.recording.messages import ACTION, ADAPTATION, OBSERVATION, Adaptation
from msr_runtime.recording.reader import Event, Recording
from msr_runtime.task import Array, Field, field_slices, sample_shape


@dataclass(frozen=True)
class FieldDifference:
    """Difference between the replay and the recording in one output field."""

    name: str
    unit: str
    largest: float
    """Largest difference over all compared actions, in `unit`."""
    differing: int
    """Number of actions in which this field differs by more than the tolerance."""
    first: int | None
    """Stamp of the first such action, in ns since 1970; None if there is none."""


@dataclass(frozen=True)
class ReplayReport:
    """Result of a replay."""

    same_bundle: bool
    """Whether the replayed bundle is the recorded one. Filter parameters are compared only in this case."""
    actions: int
    """Number of actions compared."""
    alone: int
    """Number of actions not compared: their observation is missing or not finite."""
    differing: int
    """Number of actions in which at least one field differs by more than the tolerance."""
    fields: tuple[FieldDifference, ...]
    """The differences per output field."""
    adaptations: int
    """Number of adaptations replayed: all that were accepted when they were recorded."""
    refused: int
    """Number of adaptations not replayed: they were refused when they were recorded, so the weights did not change."""
    adaptations_differing: int
    """Number of replayed adaptations that were refused now, or whose filter parameters differ by more than the
    tolerance."""
    v_error: float
    """Largest relative error of the adapted filter parameters. 0 without adaptations or under another bundle."""
    first: int | None
    """Stamp of the first difference in an action or an adaptation, in ns since 1970; None without differences."""

    @property
    def same(self) -> bool:
        """Whether no difference exceeds the tolerance."""
        return not self.differing and not self.adaptations_differing


@dataclass
class _Tick:
    """One observation, its action, and every model that may have computed this action.

    The robot may adapt on another thread during a tick. Then the order of the messages does not show whether the action
    came from the weights before or after the adaptation, so both are tried and the nearer one counts. This holds for
    every tick between the message of a pending adaptation and the message that its weights act.
    """

    stamp: int
    x: Array
    models: list[AdaptiveModel]
    action: Array | None = None


def replay(recording: Recording, model: AdaptiveModel, tolerance: float | None = None) -> ReplayReport:
    """Give a model the observations and adaptations of a recording in their order, and compare its actions.

    Args:
        recording: The recording.
        model: A model of the bundle to compare with. It is not changed.
        tolerance: Largest difference that counts as equal. For an output it is a fraction of the output's scale in the
            manifest; for filter parameters it is a fraction of the largest one. Default: the tolerance in the manifest,
            under which the bundle was exported.

    Raises:
        InputError: If recording and bundle have different fields, the recording is damaged, it holds no observation or
            no action, or the tolerance is negative or NaN.
        BundleError: If the recording contains the file of an adaptation of another bundle.

    Example:
        >>> from msr_runtime import AdaptiveModel, Recorder, Recording, replay
        >>> model = AdaptiveModel.load(bundle)
        >>> with Recorder(folder / "flight.mcap", model) as recorder:
        ...     stamp = recorder.observation([0.5] * 18)
        ...     recorder.action(model.predict([0.5] * 18))
        >>> replay(Recording.open(folder / "flight.mcap"), model).same
        True
    """
    manifest = model.manifest
    _check_fields(recording, manifest.inputs, manifest.outputs)
    comparison = _Comparison(recording, model, manifest.parity.tolerance if tolerance is None else tolerance)
    weights, tick = _Weights(model.fork()), None
    seen: dict[str, int] = {OBSERVATION: 0, ACTION: 0}
    for event in recording.events(OBSERVATION, ACTION, ADAPTATION):
        if event.topic == ADAPTATION:
            message = recording.adaptation(event)
            weights.settle()  # without its `swap`, which was dropped, an earlier change acts by now
            if message.kind == "swap":
                continue
            if message.kind in ("hold", "release"):
                weights.change(held=message.kind == "hold", pending=message.pending)
            else:
                weights.change(comparison.adapt(weights.learned, message, event), pending=message.pending)
            if tick:  # the tick is not over: its action may come from these weights too
                tick.models += weights.candidates
            continue
        seen[event.topic] += 1
        if event.topic == OBSERVATION:
            # Compare the previous tick only now: an adaptation recorded after its action may have acted already.
            comparison.act(tick)
            tick = _Tick(event.stamp, recording.vector(event), weights.candidates)
        elif tick and tick.stamp == event.stamp and tick.action is None:
            tick.action = recording.vector(event)
        else:
            comparison.alone += 1
    comparison.act(tick)
    for topic, count in seen.items():
        if not count:
            raise InputError(
                f"recording '{recording.path}' holds no message of {topic}, so nothing can be compared; the robot's "
                "program has to call Recorder.observation and Recorder.action in each tick"
            )
    return comparison.report()


class _Weights:
    """Which models may act: the one that has learned, or `v0` where it is held; during a change, old and new."""

    def __init__(self, learned: AdaptiveModel) -> None:
        self.learned, self._v0, self._held = learned, learned.fork(), False
        self._before: AdaptiveModel | None = None

    @property
    def _acting(self) -> AdaptiveModel:
        return self._v0 if self._held else self.learned

    @property
    def candidates(self) -> list[AdaptiveModel]:
        """The models that may act now."""
        return [self._acting] if self._before is None else [self._before, self._acting]

    def change(self, learned: AdaptiveModel | None = None, *, held: bool | None = None, pending: bool) -> None:
        """Change what has been learned, or whether `v0` is held."""
        before = self._acting
        self.learned = learned or self.learned
        self._held = self._held if held is None else held
        self._before = before if pending else None

    def settle(self) -> None:
        """End a change: the new weights act."""
        self._before = None


class _Comparison:
    """Replays the messages one by one and collects the differences."""

    def __init__(self, recording: Recording, model: AdaptiveModel, tolerance: float) -> None:
        if not tolerance >= 0:
            raise InputError(f"tolerance is {tolerance}, but 0 or more is wanted; leave it out for the bundle's own")
        manifest = model.manifest
        self.recording, self.tolerance = recording, tolerance
        self.same_bundle = recording.policy.bundle == model.bundle.digest
        self.shape, self.outputs = sample_shape(manifest.inputs), manifest.outputs
        self.slices = field_slices(manifest.outputs)
        self.allowed = tolerance * np.asarray(manifest.normalization.output_scale)
        self.alone = self.actions = self.differing = self.adaptations = self.refused = self.adaptations_differing = 0
        self.largest, self.counts = dict.fromkeys(self.slices, 0.0), dict.fromkeys(self.slices, 0)
        self.firsts: dict[str, int] = {}
        self.v_error, self.first = 0.0, None

    def act(self, tick: _Tick | None) -> None:
        """Compare the recorded action of one tick with the action of the model."""
        if tick is None or tick.action is None:
            return
        if not np.isfinite(tick.x).all():
            self.alone += 1
            return
        # dict.fromkeys drops repeated models (a refused adaptation does not make a new one) and keeps their order
        differences = (self._difference(model, tick.x, tick.action) for model in dict.fromkeys(tick.models))
        difference = min(differences, key=lambda candidate: float((candidate - self.allowed).max()))
        self.actions += 1
        beyond = difference > self.allowed
        self.differing += bool(beyond.any())
        for name, part in self.slices.items():
            self.largest[name] = max(self.largest[name], float(difference[part].max()))
            if beyond[part].any():
                self.counts[name] += 1
                self.firsts.setdefault(name, tick.stamp)
                self._note_first(tick.stamp)

    def adapt(self, acting: AdaptiveModel, recorded: Adaptation, event: Event) -> AdaptiveModel:
        """Return the model after a message of `/adaptation`.

        `acting` is not changed, because the present tick may still need it.
        """
        if recorded.kind == "reset":
            return _begun(acting, recorded.inflate)
        if not recorded.accepted:
            self.refused += 1
            return acting
        after = copy.copy(acting)  # a shallow copy shares the sessions and starts with the acting weights
        if recorded.kind == "load":
            _load(after, recorded, self.recording)
        elif recorded.kind == "update":
            (x,), (y,) = self.recording.support(recorded, event)
            after.update(x.reshape(self.shape), y.reshape(sample_shape(self.outputs)), recorded.elapsed)
        else:
            x, y = self.recording.support(recorded, event)
            labels = after.manifest.loss == "cross_entropy"
            y = y[:, 0] if labels else y.reshape(-1, *sample_shape(self.outputs))
            # without limits: the recording says that this update acted
            result = after.adapt(x.reshape(-1, *self.shape), y, recorded.steps, start=recorded.start, guard=UNLIMITED)
            self._compare_v(after, result, recorded, event.stamp)
        return after

    def report(self) -> ReplayReport:
        """Return the differences so far."""
        fields = tuple(
            FieldDifference(
                field.name, field.unit, self.largest[field.name], self.counts[field.name], self.firsts.get(field.name)
            )
            for field in self.outputs
        )
        return ReplayReport(
            same_bundle=self.same_bundle,
            actions=self.actions,
            alone=self.alone,
            differing=self.differing,
            fields=fields,
            adaptations=self.adaptations,
            refused=self.refused,
            adaptations_differing=self.adaptations_differing,
            v_error=self.v_error,
            first=self.first,
        )

    def _difference(self, model: AdaptiveModel, x: Array, action: Array) -> NDArray[np.float64]:
        """Absolute difference per output `(out,)`, in raw units; infinite where they differ and one is not finite."""
        # float64, because the difference of two large float32 values can overflow
        given, wanted = model.predict(x.reshape(self.shape)).reshape(-1).astype(np.float64), action.astype(np.float64)
        same = (given == wanted) | (np.isnan(given) & np.isnan(wanted))  # equal infinities too; inf - inf would be NaN
        with np.errstate(invalid="ignore"):
            return np.where(same, 0.0, np.nan_to_num(np.abs(given - wanted), nan=math.inf, posinf=math.inf))

    def _compare_v(self, model: AdaptiveModel, result: AdaptResult, recorded: Adaptation, stamp: int) -> None:
        self.adaptations += 1
        error = 0.0
        if not result.accepted:
            error = math.inf
        elif self.same_bundle:
            error = relative_error(model.v[0], np.array(recorded.v, np.float32))
        self.v_error = max(self.v_error, error)
        if error > self.tolerance:
            self.adaptations_differing += 1
            self._note_first(stamp)

    def _note_first(self, stamp: int) -> None:
        self.first = stamp if self.first is None else min(self.first, stamp)


def _begun(model: AdaptiveModel, inflate: float | None) -> AdaptiveModel:
    """Return the model at the beginning of a new task."""
    if inflate is None:
        return model.fork()
    after = copy.copy(model)
    after.inflate(inflate)
    return after


def _load(model: AdaptiveModel, recorded: Adaptation, recording: Recording) -> None:
    """Load the adaptation file that a message contains."""
    try:
        data = base64.b64decode(recorded.file, validate=True)
    except binascii.Error as error:
        raise InputError(
            f"recording '{recording.path}': the file in a message of {ADAPTATION} is not base64 ({error}); another "
            "program wrote this message"
        ) from error
    model.restore_adaptation(data, f"recording '{recording.path}': an adaptation that was loaded from a file")


def _check_fields(recording: Recording, inputs: Sequence[Field], outputs: Sequence[Field]) -> None:
    manifest = recording.policy.manifest
    for side, ours, theirs in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        recorded, wanted = (", ".join(f"{f.name} {f.shape} {f.unit}" for f in fields) for fields in (ours, theirs))
        if recorded != wanted:
            raise InputError(
                f"recording '{recording.path}' has the {side} {recorded}, but the bundle has {wanted}; the recording "
                "comes from another robot or from a bundle of another task family"
            )
