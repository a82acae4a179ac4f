"""Replay: does a bundle, given what a robot saw and learned, do what the robot did?"""

import base64
import binascii
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import InputError
from msr_runtime.messages import ACTION, ADAPTATION, OBSERVATION, Adaptation
from msr_runtime.model import AdaptiveModel, AdaptResult, relative_error
from msr_runtime.recording import Event, Recording
from msr_runtime.task import Array, Field, field_slices, sample_shape


@dataclass(frozen=True)
class FieldDifference:
    """How one output field of the replay differs from the recording."""

    name: str
    unit: str
    largest: float
    """The largest difference, in `unit`."""
    differing: int
    """Actions in which it exceeds the tolerance."""
    first: int | None
    """The stamp of the first of them, in ns since 1970."""


@dataclass(frozen=True)
class ReplayReport:
    """A recording against a bundle."""

    same_bundle: bool
    """Whether the bundle is the one that was recorded; only then are filter parameters compared."""
    actions: int
    """Actions compared."""
    alone: int
    """Actions without the observation that they answer, or with one that is not finite; they are not compared."""
    differing: int
    """Actions in which a field exceeds the tolerance."""
    fields: tuple[FieldDifference, ...]
    adaptations: int
    """Adaptations replayed: all that were accepted."""
    refused: int
    """Adaptations that were refused then, so that the weights stayed as they were."""
    adaptations_differing: int
    """Of those replayed: refused now, or with filter parameters that exceed the tolerance."""
    v_error: float
    """The largest relative error of the adapted filter parameters; 0 without any, or under another bundle."""
    first: int | None
    """The stamp of the first difference of any kind, in ns since 1970."""

    @property
    def same(self) -> bool:
        """Whether nothing exceeds the tolerance."""
        return not self.differing and not self.adaptations_differing


@dataclass
class _Tick:
    """One observation, and every model that may have acted on it.

    The robot may have adapted on another thread while the tick lasted: then the file's order does not tell which
    weights the action came from, and either may have.
    """

    stamp: int
    x: Array
    models: list[AdaptiveModel]
    action: Array | None = None


def replay(recording: Recording, model: AdaptiveModel, tolerance: float | None = None) -> ReplayReport:
    """Give a model a recording's observations and adaptations in their order and compare what it does.

    Args:
        recording: An opened recording.
        model: A model of the bundle to compare with; it stays as it is.
        tolerance: The largest difference that counts as the same: for an output, as a share of its scale in the
            manifest; for filter parameters, as a share of their largest. By default the bundle's own.

    Raises:
        InputError: If the fields differ, the recording is damaged, or it holds no observation or no action.
        BundleError: If it holds a file of an adaptation that is not of this bundle.
    """
    manifest = model.manifest
    _check_fields(recording, manifest.inputs, manifest.outputs)
    comparison = _Comparison(recording, model, manifest.parity.tolerance if tolerance is None else tolerance)
    acting, tick = model.fork(), None
    seen: dict[str, int] = {OBSERVATION: 0, ACTION: 0}
    for event in recording.events(OBSERVATION, ACTION, ADAPTATION):
        if event.topic == ADAPTATION:
            acting = comparison.adapt(acting, event)
            if tick:
                tick.models.append(acting)
            continue
        seen[event.topic] += 1
        if event.topic == OBSERVATION:
            comparison.act(tick)
            tick = _Tick(event.stamp, recording.vector(event), [acting])
        elif tick and tick.stamp == event.stamp and tick.action is None:
            tick.action = recording.vector(event)
        else:
            comparison.alone += 1
    comparison.act(tick)
    for topic, count in seen.items():
        if not count:
            raise InputError(
                f"recording '{recording.path}' holds no message of {topic}, so that nothing can be compared"
            )
    return comparison.report()


class _Comparison:
    """Replays one event after the other and keeps the differences."""

    def __init__(self, recording: Recording, model: AdaptiveModel, tolerance: float) -> None:
        if not tolerance >= 0:
            raise InputError(f"the tolerance is {tolerance}, but 0 or more is wanted")
        manifest = model.manifest
        self.recording, self.tolerance = recording, tolerance
        self.same_bundle = recording.policy.bundle == model.bundle.digest
        self.shape, self.outputs = sample_shape(manifest.inputs), manifest.outputs
        self.slices = field_slices(manifest.outputs)
        self.allowed = tolerance * np.asarray(manifest.normalisation.output_scale)
        self.alone = self.actions = self.differing = self.adaptations = self.refused = self.adaptations_differing = 0
        self.largest, self.counts = dict.fromkeys(self.slices, 0.0), dict.fromkeys(self.slices, 0)
        self.firsts: dict[str, int] = {}
        self.v_error, self.first = 0.0, None

    def act(self, tick: _Tick | None) -> None:
        """Compare one tick's action with what the model does."""
        if tick is None or tick.action is None:
            return
        if not np.isfinite(tick.x).all():
            self.alone += 1
            return
        differences = (self._difference(model, tick.x, tick.action) for model in dict.fromkeys(tick.models))
        difference = min(differences, key=lambda found: float((found - self.allowed).max()))
        self.actions += 1
        beyond = difference > self.allowed
        self.differing += bool(beyond.any())
        for name, part in self.slices.items():
            self.largest[name] = max(self.largest[name], float(difference[part].max()))
            if beyond[part].any():
                self.counts[name] += 1
                self.firsts.setdefault(name, tick.stamp)
                self._met(tick.stamp)

    def adapt(self, acting: AdaptiveModel, event: Event) -> AdaptiveModel:
        """The model after an event of `/adaptation`; `acting` stays as it is, for the tick that goes on."""
        told = self.recording.adaptation(event)
        if told.kind == "reset":
            return acting.fork()
        if not told.accepted:
            self.refused += 1
            return acting
        after = copy.copy(acting)  # shares the sessions, and begins with the weights that act
        if told.kind == "load":
            _load(after, told, self.recording)
        else:
            x, y = self.recording.support(told, event)
            labels = after.manifest.loss == "cross_entropy"
            y = y[:, 0] if labels else y.reshape(-1, *sample_shape(self.outputs))
            result = after.adapt(x.reshape(-1, *self.shape), y, told.steps, start=told.start)
            self._compare_v(after, result, told, event.stamp)
        return after

    def report(self) -> ReplayReport:
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
        """Per output, in raw units; infinite where one is a number and the other is not."""
        given, wanted = model.predict(x.reshape(self.shape)).reshape(-1).astype(np.float64), action.astype(np.float64)
        same = (given == wanted) | (np.isnan(given) & np.isnan(wanted))  # infinities too
        with np.errstate(invalid="ignore"):
            return np.where(same, 0.0, np.nan_to_num(np.abs(given - wanted), nan=math.inf, posinf=math.inf))

    def _compare_v(self, model: AdaptiveModel, result: AdaptResult, told: Adaptation, stamp: int) -> None:
        self.adaptations += 1
        error = 0.0
        if not result.accepted:
            error = math.inf
        elif self.same_bundle:
            error = relative_error(model.v[0], np.array(told.v, np.float32))
        self.v_error = max(self.v_error, error)
        if error > self.tolerance:
            self.adaptations_differing += 1
            self._met(stamp)

    def _met(self, stamp: int) -> None:
        self.first = stamp if self.first is None else min(self.first, stamp)


def _load(model: AdaptiveModel, told: Adaptation, recording: Recording) -> None:
    """Load the file of an adaptation out of a message."""
    try:
        data = base64.b64decode(told.file, validate=True)
    except binascii.Error as error:
        raise InputError(f"recording '{recording.path}': a loaded adaptation's file is no base64 ({error})") from error
    model.restore_adaptation(data, f"recording '{recording.path}': an adaptation that was loaded from a file")


def _check_fields(recording: Recording, inputs: Sequence[Field], outputs: Sequence[Field]) -> None:
    manifest = recording.policy.manifest
    for side, ours, theirs in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        recorded, wanted = (", ".join(f"{f.name} {f.shape} {f.unit}" for f in fields) for fields in (ours, theirs))
        if recorded != wanted:
            raise InputError(
                f"recording '{recording.path}' has the {side} {recorded}, but the bundle has {wanted}; it was recorded "
                "on another robot, or with a bundle of another family"
            )
