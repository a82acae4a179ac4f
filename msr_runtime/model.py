"""AdaptiveModel: one bundle at work on one robot."""

import copy
import math
import operator
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msr_runtime._onnxruntime import onnxruntime
from msr_runtime.adaptation import Adaptation, InnerLoop
from msr_runtime.bundle import ADAPT, LOSS, PREDICT, Bundle
from msr_runtime.errors import BundleError, InputError
from msr_runtime.files import write_atomically
from msr_runtime.guard import NOT_FINITE, HeldOut, Refusal, UpdateGuard
from msr_runtime.manifest import STEP, Manifest, next_name
from msr_runtime.providers import device_of, without_graphs
from msr_runtime.saved import decode_adaptation, encode_adaptation
from msr_runtime.session import BoundPredictor, Predictors, Provider, Side, State, all_finite, make_session, side
from msr_runtime.signing import PathLike
from msr_runtime.task import Array, Predict, width

Start = Literal["v0", "accepted"]
"""Where an adaptation begins: at the meta-learned filter parameters, or at those that act."""


@dataclass(frozen=True)
class AdaptResult:
    """What one adaptation did."""

    accepted: bool
    """Whether the adapted weights act now; if not, the weights from before act on."""
    loss_before: float
    """The support loss where the inner loop started, on normalised outputs."""
    loss_after: float
    """The support loss at the adapted `v`, on normalised outputs."""
    steps: int
    seconds: float
    """How long it took, the swap included, in s."""
    reason: str | None
    """Why it was refused, as a sentence; None if it was accepted."""
    refusal: Refusal | None
    """The same as a name to count by."""
    held_out: HeldOut | None
    """The loss on the held-out samples; None without any, or if the weights were not finite before it was taken."""


class AdaptiveModel:
    """A frozen symmetry matrix and the filter parameters that adapt: `W = reshape(U v)`, folded once an adaptation.

    `predict` may be called from any thread while another one adapts, resets or loads: a call takes the predictor that
    acts when it begins, and never waits. Concurrent calls that change the model are safe too; the last to finish acts.
    """

    def __init__(self, bundle: Bundle, providers: Sequence[Provider] = ("CPUExecutionProvider",)) -> None:
        """Build the sessions for an opened bundle; `load` also replays its golden example.

        Raises:
            BundleError: If the graphs break the bundle's contract or ONNX Runtime refuses them.
            ProviderError: If a provider was asked for and is not active.
        """
        self.bundle = bundle
        manifest = bundle.manifest
        where, varying = f"bundle '{bundle.path}'", without_graphs(providers)
        predict, adapt, loss = (
            # A step reads each U in two directions, both fast as it lies: packed for each, it would be there twice.
            make_session(bundle.files[file], f"{where}: {file}", given, prepack=file != ADAPT)
            for file, given in ((PREDICT, providers), (ADAPT, varying), (LOSS, varying))
        )
        weights = {weight.name: list(weight.shape) for weight in manifest.weights}
        state = {"v": [1, manifest.filter_parameters]} | weights
        _check(where, PREDICT, predict.get_overridable_initializers(), weights)
        for file, session, wanted in ((ADAPT, adapt, state), (LOSS, loss, weights)):
            others = ("support_x", "support_y", STEP)
            _check(where, file, [part for part in session.get_inputs() if part.name not in others], wanted)
        _check(where, ADAPT, adapt.get_outputs(), {next_name(name): state[name] for name in state} | {"loss": []})
        _check(where, LOSS, loss.get_outputs(), {"loss": []})
        y = side(predict, "y", manifest.outputs, output=True)
        labels = manifest.loss == "cross_entropy"
        self._support_x = side(adapt, "support_x", manifest.inputs)
        self._support_y = side(adapt, "support_y", () if labels else manifest.outputs)
        if labels:
            self._support_y = self._support_y._replace(classes=width(manifest.outputs))
        self._held_out = self._support_x._replace(name="held_out_x"), self._support_y._replace(name="held_out_y")
        start = State(bundle.start(), device_of(providers))
        self._inner_loop = InnerLoop(adapt, loss, start)
        self._predictors = Predictors(predict, side(predict, "x", manifest.inputs), y, start)
        try:
            self._start = self._acting = self._predictors.make(start.block)
        except Exception as error:  # a graph that breaks its contract raises whatever ONNX Runtime meets first
            raise BundleError(f"{where}: {PREDICT} does not run ({error}); it breaks the contract") from error

    @classmethod
    def load(
        cls,
        bundle: Bundle | PathLike,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        self_test: bool = True,
        trusted_keys: Sequence[PathLike] | None = None,
    ) -> Self:
        """Open a bundle, build its sessions and replay its golden example on this machine.

        Args:
            bundle: A bundle's folder, or an opened bundle.
            providers: Execution providers of ONNX Runtime, by name or name and options; each has to be active.
            self_test: Replay the golden example.
            trusted_keys: PEM files of Ed25519 public keys: ONNX Runtime sees only what one of them signed.

        Raises:
            BundleError: If the bundle is damaged or its golden example comes out otherwise than in torch.
            SignatureError: If trusted keys were given, and it is unsigned or signed by none of them.
            ProviderError: If a provider was asked for and is not active.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle, trusted_keys)
        elif trusted_keys is not None:
            bundle.check_signature(trusted_keys)
        model = cls(bundle, providers)
        if self_test:
            model.self_test()
        return model

    def self_test(self) -> float:
        """Replay the golden example and return the largest relative error; the acting weights stay as they are.

        Raises:
            BundleError: If it exceeds the tolerance that the bundle was written under.
        """
        golden, tolerance = self.bundle.golden(), self.manifest.parity.tolerance
        try:
            end, adapted = self._adapt(golden.support_x, golden.support_y, golden.steps)
            figures = {"prediction at v0": (self._start(golden.x), golden.y0)}
            if adapted is not None:
                figures |= {"adapted v": (adapted.tensors["v"], golden.v)}
                figures |= {"adapted prediction": (adapted(golden.x), golden.y)}
                figures |= {"support losses": (np.array([end.loss_before, end.loss_after]), golden.losses)}
        except Exception as error:  # a graph that breaks its contract raises whatever ONNX Runtime meets first
            raise BundleError(
                f"bundle '{self.bundle.path}': its golden example does not run ({error}); its graphs break the contract"
            ) from error
        if adapted is None:
            raise BundleError(f"bundle '{self.bundle.path}': its golden adaptation is not finite on this machine")
        worst = 0.0
        for name, (seen, wanted) in figures.items():
            error = relative_error(seen, wanted)
            if not error <= tolerance:
                raise BundleError(
                    f"bundle '{self.bundle.path}': the golden example's {name} is off by {error:.1e}, more than "
                    f"{tolerance:.1e}; this onnxruntime computes otherwise than torch did: do not trust it here"
                )
            worst = max(worst, error)
        return worst

    def fork(self) -> Self:
        """Another model on the same sessions, acting at `v0`: what either of the two adapts, the other never sees."""
        other = copy.copy(self)
        other.reset()
        return other

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def v(self) -> Array:
        """The filter parameters that act now, `(1, K)`; a copy."""
        acting = self._acting  # held, so that its memory is not used again meanwhile
        return acting.tensors["v"].copy()

    def predict(self, x: ArrayLike) -> Array:
        """The acting network's output: `(obs,)` to `(out,)`, or `(batch, obs)` to `(batch, out)`, float32 in raw units.

        Raises:
            InputError: If `x` has another shape or dtype, or is not finite.
        """
        return self._acting(x)

    @property
    def sample(self) -> tuple[Side, Side]:
        """What one sample of a support set is: its x and its y."""
        return self._support_x, self._support_y

    def adapt(
        self,
        support_x: ArrayLike,
        support_y: ArrayLike,
        steps: int | None = None,
        *,
        start: Start = "v0",
        held_out: tuple[ArrayLike, ArrayLike] | None = None,
        guard: UpdateGuard | None = None,
    ) -> AdaptResult:
        """Adapt `v` by `steps` inner steps on the support set and let it act, if nothing speaks against it.

        Args:
            support_x: `(shots, obs)` in raw units.
            support_y: `(shots, out)` in raw units; labels for a classifier.
            steps: None takes as many as in meta-training.
            start: From the meta-learned `v0`, or from the `accepted` v, which acts now.
            held_out: x `(samples, obs)` and y `(samples, out)` which the inner loop does not see.
            guard: What may refuse the update; None refuses only what is not finite.

        Raises:
            InputError: If a shape, dtype or value is wrong; the acting weights stay as they are.
        """
        begin, acting = time.perf_counter(), self._acting
        check_start(start)
        judges = None if held_out is None else _samples(self._held_out, *held_out)
        end, adapted = self._adapt(support_x, support_y, steps, None if start == "v0" else acting.block)
        objection, losses = NOT_FINITE, None
        if adapted is not None:
            if judges:
                losses = HeldOut(*(self._inner_loop.loss(*judges, each.tensors) for each in (acting, adapted)))
            support = end.loss_before, end.loss_after
            v0, v = self._start.tensors["v"], adapted.tensors["v"]
            objection = guard.judge(v0, v, support, losses) if guard else None
            if objection is None:
                self._acting = adapted
        refusal, reason = objection or (None, None)
        taken = self.manifest.inner_steps if steps is None else int(steps)
        seconds = time.perf_counter() - begin
        return AdaptResult(objection is None, end.loss_before, end.loss_after, taken, seconds, reason, refusal, losses)

    def adapted(self, support_x: ArrayLike, support_y: ArrayLike, steps: int | None = None) -> Predict:
        """A network adapted like `adapt` does, while this model acts on unchanged; at `v0` if that is refused.

        Raises:
            InputError: If a shape, dtype or value is wrong.
        """
        return self._adapt(support_x, support_y, steps)[1] or self._start

    def reset(self) -> None:
        """Let the meta-learned `v0` act again."""
        self._acting = self._start

    def save_adaptation(self, path: str | os.PathLike[str]) -> None:
        """Write the acting `v` and its folded weights as a safetensors file that names this bundle.

        Raises:
            InputError: If nothing was adapted yet.
        """
        write_atomically(Path(path).resolve(), self.dump_adaptation())

    def dump_adaptation(self) -> bytes:
        """The bytes that `save_adaptation` writes.

        Raises:
            InputError: If nothing was adapted yet.
        """
        acting = self._acting
        if acting is self._start:
            raise InputError("there is no adaptation to save: the model acts at v0; adapt it first")
        return encode_adaptation(acting.tensors, self.bundle)

    def load_adaptation(self, path: str | os.PathLike[str]) -> None:
        """Let an adaptation saved earlier act.

        Raises:
            BundleError: If the file is missing, damaged, of another bundle or not finite; the acting weights stay as
                they are.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise BundleError(f"adaptation '{path}' cannot be read ({error})") from error
        self.restore_adaptation(data, f"adaptation '{path}'")

    def restore_adaptation(self, data: bytes, where: str = "the adaptation") -> None:
        """Let an adaptation act that `dump_adaptation` or a saved file gave; `where` names it in errors.

        Raises:
            BundleError: If it is damaged, of another bundle or not finite; the acting weights stay as they are.
        """
        tensors = decode_adaptation(data, self.bundle, where)
        self._acting = self._predictors.make(State(tensors).block, like=self._acting)

    def _adapt(
        self, support_x: ArrayLike, support_y: ArrayLike, steps: int | None, begin: Array | None = None
    ) -> tuple[Adaptation, BoundPredictor | None]:
        """Where the inner loop ends, and the adapted predictor, or None if a loss or anything in it is not finite.

        It begins at `v0`, or at the state whose block is `begin`.
        """
        x, y = _samples(self.sample, support_x, support_y)
        try:
            count = self.manifest.inner_steps if steps is None else operator.index(steps)
        except TypeError as error:
            raise InputError(f"steps is {steps!r}, but a whole number is wanted") from error
        if count < 1:
            raise InputError(f"steps is {count}, but at least one inner step is wanted; reset() returns to v0")

        end = self._inner_loop(x, y, count, begin)
        if not (math.isfinite(end.loss_before) and math.isfinite(end.loss_after) and all_finite(end.block)):
            return end, None
        return end, self._predictors.make(end.block, like=self._acting)


def check_start(start: object) -> None:
    """Raise InputError unless an adaptation can begin there, see `Start`."""
    if start not in ("v0", "accepted"):
        raise InputError(f"start is {start!r}, but 'v0' or 'accepted' is wanted")


def relative_error(seen: Array, wanted: Array) -> float:
    """The largest difference over the largest wanted value; infinite if the shapes differ or it is not a number."""
    if seen.shape != wanted.shape:
        return math.inf
    exact = wanted.astype(np.float64)
    scale = max(np.abs(exact).max(initial=0), float(np.finfo(np.float32).tiny))
    error = float(np.abs(seen - exact).max(initial=0) / scale)
    return math.inf if math.isnan(error) else error


def _samples(sides: tuple[Side, Side], x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    """Convert and check x `(samples, *x)` and y `(samples, *y)`: finite pairs, and at least one."""
    xs, ys = sides[0].convert(x), sides[1].convert(y)
    for part, array in zip(sides, (xs, ys), strict=True):
        part.check_batch(array)
        part.check_values(array)
    if len(xs) != len(ys):
        raise InputError(
            f"{sides[0].name} has {len(xs)} shots and {sides[1].name} has {len(ys)}, but they must be pairs"
        )
    return xs, ys


def _check(where: str, file: str, parts: Sequence[onnxruntime.NodeArg], wanted: dict[str, list]) -> None:
    seen = {part.name: part.shape for part in parts}
    if seen != wanted:
        raise BundleError(f"{where}: {file} has {seen}, but its manifest wants {wanted}; they are not of one export")
