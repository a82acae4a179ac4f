"""AdaptiveModel: a bundle, loaded on a robot, that predicts and adapts."""

import contextlib
import copy
import threading
import time
from collections.abc import Sequence
from typing import Literal, NoReturn, Self, overload

from numpy.typing import ArrayLike

from msr_runtime.adaptation.backend import Engine
from msr_runtime.adaptation.by_sample import LearnsBySample
from msr_runtime.adaptation.classifying import USUAL, Classified, classified, require_prototypes, taught_classes
from msr_runtime.adaptation.result import AdaptResult
from msr_runtime.adaptation.saved import SavedAdaptations
from msr_runtime.adaptation.self_test import replay_golden_example
from msr_runtime.adaptation.sessions import Check, Sessions, take_held_out, take_samples
from msr_runtime.adaptation.start import Start, check_start
from msr_runtime.adaptation.update import make_update
from msr_runtime.adaptation.update_guard import UNMEASURED_GUARD, USUAL_GUARD, UpdateGuard
from msr_runtime.adaptation.weights_recorder import WeightsRecorder
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.signing import PathLike
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import InputError
from msr_runtime.inference.deviation import Prediction
from msr_runtime.inference.device import Provider
from msr_runtime.inference.input_bounds import Outside, OutsideCounter, SampleBounds
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.task import Array, Predict

_FREE = contextlib.nullcontext()


class AdaptiveModel(LearnsBySample, SavedAdaptations):
    """A network with a frozen symmetry matrix U and filter parameters v that adapt: `W = reshape(U v)`.

    The weights W are folded while adapting, so a prediction costs no more than that of an ordinary network. Any
    thread may call `predict` while another one adapts, resets or loads. A call uses the weights that act when it
    begins, and never waits. Several threads may change the model at once; the change that finishes last acts.

    Example:
        >>> import numpy as np
        >>> from msr_runtime import AdaptiveModel
        >>> model = AdaptiveModel.load(bundle)
        >>> support_x = np.random.default_rng(0).uniform(0, 1, (10, 18))  # ten observations
        >>> model.adapt(support_x, 0.1 * support_x[:, :2]).accepted  # the right action for each
        True
        >>> model.predict(support_x[0]).shape
        (2,)
    """

    def __init__(
        self,
        bundle: Bundle,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        check_inputs: bool = False,
        time_constant: float | None = None,
        engine: Engine = "onnx",
    ) -> None:
        """Build the sessions of an opened bundle. Robots call `load`, which also replays the golden example.

        Args:
            bundle: The opened bundle.
            providers: As in `load`.
            check_inputs: As in `load`.
            time_constant: As in `load`.
            engine: As in `load`.

        Raises:
            BundleError: If the graphs do not match the manifest, or their first run fails or takes longer than 60 s.
            ProviderError: If a requested provider does not start.
            InputError: As in `load`.
        """
        self.bundle = bundle
        self._sessions = Sessions(bundle, providers, time_constant, engine)
        self._acting = self._sessions.start
        # With the rule `recursive`, a change builds on the one before it, so they wait for each other.
        self._changes = threading.RLock()
        x, y = self.sample_specs
        self.bounds = SampleBounds.of(x.fields, y.fields, bundle.manifest.input_limit)
        """The bounds of a sample's x and y."""
        self._predicted = OutsideCounter() if check_inputs else None

    @classmethod
    def load(
        cls,
        bundle: Bundle | PathLike,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        self_test: bool = True,
        trusted_keys: Sequence[PathLike] | None = None,
        check_inputs: bool = False,
        time_constant: float | None = None,
        engine: Engine = "onnx",
    ) -> Self:
        """Open a bundle, build its sessions and replay its golden example on this machine.

        Args:
            bundle: Path of a bundle's folder, or an opened bundle.
            providers: Execution providers of ONNX Runtime: names, or pairs of name and options. Each must start here.
            self_test: Replay the golden example, see `self_test`.
            trusted_keys: PEM files of Ed25519 public keys. If given, one of these keys must have signed the bundle;
                the signature is checked before ONNX Runtime reads a graph.
            check_inputs: Let `predict` compare each observation with the bounds of its fields: what is outside is
                counted, see `outside`, and what is absurd is refused. It takes some microseconds per call. `adapt`
                always compares.
            time_constant: For bundles with the rule `recursive`: the time, in s, after which 1/e of what was learned
                is left. `math.inf` forgets nothing. None takes the bundle's own (`manifest.recursion.tau`).
            engine: `onnx`, or `native`: the bundle's machine code (`msr compile`). It is a program: trust the bundle.

        Raises:
            BundleError: If the bundle is damaged, or if its golden example gives other values here than in torch.
            SignatureError: If `trusted_keys` are given, and the bundle is unsigned or signed by none of them.
            ProviderError: If a requested provider does not start.
            InputError: If a time constant is not above 0, or if it or the engine does not fit the bundle's rule.
            ImportError: If the engine is `onnx`, and ONNX Runtime is missing or installed twice.

        Example:
            >>> from msr_runtime import AdaptiveModel
            >>> model = AdaptiveModel.load(bundle)
            >>> model.manifest.name, model.manifest.rate_hz
            ('ring-nav', 10.0)
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.read(bundle, trusted_keys)  # what runs the graphs checks them
        elif trusted_keys is not None:
            bundle.check_signature(trusted_keys)
        model = cls(bundle, providers, check_inputs, time_constant, engine)
        if self_test:
            model.self_test()
        return model

    def self_test(self) -> float:
        """Replay the golden example: adapt to its support set, and compare with what torch computed at export.

        The acting weights do not change.

        Returns:
            The largest relative error.

        Raises:
            BundleError: If the error is larger than the tolerance in the manifest, if the graphs do not run, or if they
                take longer than 60 s.
        """
        return replay_golden_example(self.bundle, self._sessions)

    def fork(self) -> Self:
        """Return another model on the same sessions, which acts at `v0`. The two models adapt independently."""
        other = copy.copy(self)
        other.reset()
        return other

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        with self._changing():
            other.__dict__.update(self.__dict__)
            if self._acting.belief:
                self._acting.belief.share()
        other._changes = threading.RLock()
        other._predicted = OutsideCounter() if self._predicted else None
        return other

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "an AdaptiveModel cannot be pickled or copied deeply, because its ONNX sessions live in this process; in "
            f"another process call AdaptiveModel.load('{self.bundle.path}') and restore_adaptation(data), with the "
            "bytes of dump_adaptation() from here; in this process use fork()"
        )

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle: fields, units, rate, shots, steps and provenance."""
        return self.bundle.manifest

    @property
    def v(self) -> Array:
        """A copy of the acting filter parameters, `(1, K)`, float32."""
        acting = self._acting  # a reference, so that the memory is not reused for another adaptation before the copy
        return acting.tensors["v"].copy()

    @overload
    def predict(self, x: ArrayLike, std: Literal[False] = False) -> Array: ...

    @overload
    def predict(self, x: ArrayLike, std: Literal[True]) -> Prediction: ...

    def predict(self, x: ArrayLike, std: bool = False) -> Array | Prediction:
        """Compute the output of the acting network in raw units.

        Args:
            x: One observation `(obs,)` or a batch `(batch, obs)`, in raw units. For an image in place of a vector, obs
                stands for its axes.
            std: Whether to say how sure the network is. It takes several times as long, and needs a bundle with the
                rule `recursive`.

        Returns:
            `(out,)` or `(batch, out)`, float32. With `std`, a `Prediction`: y and its standard deviations.

        Raises:
            InputError: If `x` has another shape or dtype, or is not finite; with `check_inputs`, if a value is further
                outside its bounds than the manifest's `input_limit`; with `std`, if the bundle has another rule.

        Example:
            >>> import numpy as np
            >>> from msr_runtime import AdaptiveModel
            >>> model = AdaptiveModel.load(bundle)
            >>> model.predict(np.zeros(18)).shape, model.predict(np.zeros((5, 18))).shape
            ((2,), (5, 2))
        """
        x = x if self._predicted is None else self._counted(x, self._predicted)
        return self._predict_with_deviations(x) if std else self._acting(x)

    def _counted(self, x: ArrayLike, into: OutsideCounter) -> Array:
        spec = self.sample_specs[0]
        x = spec.convert(x)
        if x.shape[-len(spec.shape) :] == spec.shape:  # else the network refuses it
            self.bounds.x.count("x", x, into.add)
        return x

    def classify(self, x: ArrayLike, refuse: float = USUAL) -> Classified:
        """Name the class of images, and say which are of none of the classes that were taught.

        It needs a bundle of prototypes: method `protonets` or `orbit-prototypes`. A support set may have any of the
        bundle's classes; `adapt(x, y, start="accepted")` adds classes, and leaves all others as they are.

        Args:
            x: As in `predict`.
            refuse: The share of images of taught classes that may be called unknown. More of them let fewer others
                through. `manifest.rejection.points` lists the shares that were measured, and what each lets through.

        Returns:
            Label, whether it is known, distance and scores.

        Raises:
            InputError: As in `predict`; if the bundle has no prototypes, if no class was taught, or if nothing was
                measured for `refuse`.
        """
        require_prototypes(self.manifest, str(self.bundle.path), "classify()")
        acting = self._acting  # read once: scores and v belong together
        x = x if self._predicted is None else self._counted(x, self._predicted)
        return classified(self.manifest, acting(x), acting.tensors["v"], refuse)

    @property
    def taught(self) -> tuple[int, ...]:
        """The labels of the classes that were taught, of a bundle of prototypes.

        Raises:
            InputError: If the bundle has no prototypes.
        """
        require_prototypes(self.manifest, str(self.bundle.path), "taught")
        acting = self._acting
        return tuple(taught_classes(self.manifest, acting.tensors["v"]).tolist())

    @property
    def outside(self) -> Outside:
        """Observations of `predict` with a value outside its bounds, by field. Empty without `check_inputs`."""
        return self._predicted.total() if self._predicted else {}

    @property
    def sample_specs(self) -> tuple[SampleSpec, SampleSpec]:
        """Shape, dtype and fields of one sample of a support set: of its x and of its y."""
        return self._sessions.support

    @property
    def most_samples(self) -> int | None:
        """The most samples that one adaptation takes. None if there is no limit, as in ONNX Runtime."""
        return self._sessions.most

    def adapt(
        self,
        support_x: ArrayLike,
        support_y: ArrayLike,
        steps: int | None = None,
        *,
        start: Start = "v0",
        held_out: tuple[ArrayLike, ArrayLike] | None = None,
        guard: UpdateGuard | None = None,
        check: Check | None = None,
        recorder: WeightsRecorder | None = None,
        in_order: bool = False,
    ) -> AdaptResult:
        """Adapt `v` to the support set by inner steps. The adapted weights act at once, unless they are refused.

        The rule `recursive` takes no steps. It takes the samples one by one in their order, as `update` does, with the
        time of meta-training between them.

        Samples whose y is outside the bounds of its field are left out. If a limit is missed, those that spoil the
        update are left out too. More than a fifth of the samples is never left out as bad: then the update is refused.
        To find bad samples takes at most 20 more adaptations, and at most three with 15 samples or more.

        If y is exactly the same in all samples although x differs, the update is refused, see `UpdateGuard.constant_y`.

        Args:
            support_x: `(shots, obs)` in raw units.
            support_y: `(shots, out)` in raw units; labels `(shots,)` for a classifier.
            steps: Number of inner steps; None takes as many as in meta-training.
            start: Where the inner loop begins: at the meta-learned `v0`, or at the `accepted` v, which acts now.
            held_out: x `(samples, obs)` and y `(samples, out)` to judge the update by; the inner loop does not see
                them.
            guard: What may refuse the update. None takes `UpdateGuard()`, with the limits that were measured at the
                export. In a bundle without them (format version 3 and older) None sets no limit.
            check: A function that is called before each inner step. What it raises ends the adaptation, and the earlier
                weights still act. Use it to stop a long adaptation.
            recorder: Records this adaptation: before the new weights act, and when they do. Use it if another thread
                predicts meanwhile, so that a replay knows which weights each action can come from.
            in_order: Whether the samples are in the order of time, the oldest first. Then a change of the task shows:
                a limit is missed, the acting network explains the older samples and not the newest, and these predict
                each other. If so, the samples before the change are left out, and the inner loop begins at `v0`, see
                `AdaptResult.begins`. It needs a limit of the loss, at least eight samples of the new task and five of
                the old one; more where so few made networks worse at the export. Labels show no change.

        Returns:
            What the adaptation did, and why it was refused if it was. After a refusal the earlier weights still act.

        Raises:
            InputError: If a shape, dtype or value is wrong, or a value is further outside its bounds than the
                manifest's `input_limit`. The earlier weights still act.

        Example:
            >>> import numpy as np
            >>> from msr_runtime import AdaptiveModel
            >>> x = np.random.default_rng(0).uniform(0, 1, (10, 18))
            >>> result = AdaptiveModel.load(bundle).adapt(x, 0.1 * x[:, :2])
            >>> result.accepted, result.loss_after < result.loss_before
            (True, True)
        """
        began = time.perf_counter()
        check_start(start)
        sessions = self._sessions
        support = take_samples(sessions.support, self.bounds, support_x, support_y)
        with self._changing():
            acting = self._acting  # read once: another thread may swap it during this call
            result, network = make_update(
                sessions,
                self.bounds,
                support,
                began=began,
                acting=acting,
                steps=sessions.steps(steps),
                start=start,
                held_out=None if held_out is None else take_held_out(sessions.held_out, self.bounds, held_out),
                guard=guard or (USUAL_GUARD if sessions.measured.known else UNMEASURED_GUARD),
                check=check,
                in_order=in_order,
            )
            if recorder is not None:
                v = (self._acting if network is None else network).tensors["v"]
                began_at = start if result.begins is None else "v0"
                recorder.adaptation(support_x, support_y, result, v, began_at, pending=network is not None)
            if network is not None:
                # one atomic assignment: `predict` sees the old weights or the new, never a mix
                self._acting = network
                if recorder is not None:
                    recorder.swapped()
        return result

    def adapted(self, support_x: ArrayLike, support_y: ArrayLike, steps: int | None = None) -> Predict:
        """Return a network adapted to the whole support set, without a guard and without changing this model.

        Args:
            support_x: As in `adapt`.
            support_y: As in `adapt`.
            steps: As in `adapt`.

        Returns:
            A function like `predict`. It acts at `v0` if the adapted weights are not finite.

        Raises:
            InputError: As in `adapt`.
        """
        sessions = self._sessions
        x, y, _ = take_samples(sessions.support, self.bounds, support_x, support_y)
        return sessions.adapt(x, y, sessions.steps(steps), self._acting).predictor or sessions.start

    def reset(self) -> None:
        """Return to the meta-learned `v0`. With the rule `recursive`, also to how sure the model was of it."""
        with self._changing():
            self._acting = self._sessions.start

    def follow(self, other: "AdaptiveModel") -> None:
        """Act with the weights that act in another model on the same sessions.

        Args:
            other: This model's `fork`, or the model that this one was forked from.

        Raises:
            InputError: If the other model has sessions of its own.
        """
        if other._sessions is not self._sessions:
            raise InputError("the other model has sessions of its own, but a fork of this model is wanted")
        with other._changing():
            acting = other._acting
            if acting.belief:
                acting.belief.share()
        with self._changing():
            self._acting = acting

    def _changing(self) -> contextlib.AbstractContextManager[object]:
        """Inside, no other thread changes the model, where a change must wait for another one."""
        return self._changes if self._sessions.recursion else _FREE
