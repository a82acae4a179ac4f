"""A tiny real family, and small learners that are exported once for all tests."""

import pickle
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from msr_export import Frozen, export_bundle, freeze, writer
from msr_export.freeze import flatten
from msr_runtime.bundle.manifest import STEP
from msr_runtime.bundle.rounding import Precision
from msr_runtime.inference.session import make_session
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import learner_class
from msr_runtime.normalization import Normalization
from msr_runtime.task import Array, Field, Group, Loss, Split, TaskBatch, width


class Swivel:
    """A point is pushed in the plane through an unknown gain and rotation. Symmetric under quarter turns."""

    name = "swivel"
    inputs: tuple[Field, ...] = (
        Field(name="velocity", shape=(2,), unit="m/s", low=-20.0, high=20.0),
        Field(name="wind", shape=(2,), unit="m/s", low=-2.0, high=2.0),
    )
    outputs: tuple[Field, ...] = (Field(name="acceleration", shape=(2,), unit="m/s^2", low=-9.0, high=9.0),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)
    rate_hz = 50.0

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks. Gains above 1 are for training only."""
        gain = rng.uniform(1.0, 2.0, (tasks, 1, 1)) if split == "train" else rng.uniform(0.5, 1.0, (tasks, 1, 1))
        turn = rng.uniform(0, 2 * np.pi, (tasks, 1))
        x = rng.normal(size=(tasks, shots + queries, 4)) * np.array([5.0, 5.0, 0.5, 0.5])
        rotated = np.stack(
            [
                np.cos(turn) * x[..., 0] - np.sin(turn) * x[..., 1],
                np.sin(turn) * x[..., 0] + np.cos(turn) * x[..., 1],
            ],
            -1,
        )
        y = (x[..., 2:] - gain * rotated / 5.0).astype(np.float32)
        x = x.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Rotate each example by a random number of quarter turns."""
        group = self.group()
        element = rng.integers(group.order, size=x.shape[:-1])
        return (
            np.einsum("...ij,...j->...i", group.inputs.astype(x.dtype)[element], x),
            np.einsum("...ij,...j->...i", group.outputs.astype(y.dtype)[element], y),
        )

    def group(self) -> Group:
        """C4 on both input fields and on the output."""
        quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
        outputs = np.stack([np.linalg.matrix_power(quarter, power) for power in range(4)])
        return Group("C4", np.stack([np.kron(np.eye(2), matrix) for matrix in outputs]), outputs)


class Sides(Swivel):
    """Is the push to the left or to the right? Two classes of scores."""

    name = "sides"
    outputs: tuple[Field, ...] = (Field(name="side", shape=(2,), unit="1", low=-9.0, high=9.0),)
    loss: Loss = "cross_entropy"

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks with int64 labels."""
        support_x, support_y, query_x, query_y = super().sample(rng, tasks, shots, queries, split)
        return TaskBatch(support_x, (support_y[..., 0] > 0) * 1, query_x, (query_y[..., 0] > 0) * 1)

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Turn each example by a half turn, or leave it: the sides swap."""
        turned = rng.random(y.shape) < 0.5
        return np.where(turned[..., None], -x, x), np.where(turned, 1 - y, y)

    def group(self) -> Group:
        """A half turn swaps the sides' scores."""
        return Group("C2", np.stack([np.eye(4), -np.eye(4)]), np.stack([np.eye(2), np.eye(2)[::-1]]))


FAMILY, SIDES = Swivel(), Sides()
INPUTS, OUTPUTS = width(FAMILY.inputs), width(FAMILY.outputs)
SCALED = Normalization(
    input_center=(0.5, -1.0, 0.2, 0.0),
    input_scale=(5.0, 4.0, 0.5, 0.6),
    output_center=(0.5, -1.0),
    output_scale=(2.0, 3.0),
)
UNSCALED_Y = SCALED.model_copy(update={"output_center": (0.0, 0.0), "output_scale": (1.0, 1.0)})


class Export(NamedTuple):
    """A learner and the graphs that the exporter made from it."""

    learner: Learner
    normalization: Normalization
    frozen: Frozen


def build(method: str, loss: Loss, **changes: object) -> Learner:
    """A small untrained learner without zeros: biases, rates and contexts are random too. Its rule is `gradient`."""
    torch.manual_seed(0)
    small = {"width": 12, "depth": 2, "filters": 5, "context": 3, "rule": "gradient"}
    config = LearnerConfig.model_validate(small | changes)
    group = (SIDES if loss == "cross_entropy" else FAMILY).group()
    learner = learner_class(method)(config, (INPUTS,), (OUTPUTS,), loss, group)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return learner.eval()


def inputs(normalization: Normalization, shape: tuple[int, ...] = (INPUTS,)) -> Array:
    """Random samples of x in raw units, from which the parity check draws its support sets."""
    return normalization.raw_x(np.random.default_rng(2).standard_normal((64, *shape)))


def draw(export: Export, shots: int, seed: int = 0) -> tuple[Array, NDArray]:
    """A random support set in raw units: `(shots, x)` and `(shots, y)`, or labels `(shots,)`."""
    rng = np.random.default_rng(seed)
    scaling = export.normalization
    x = rng.normal(size=(shots, INPUTS)) * scaling.input_scale + scaling.input_center
    y = rng.normal(size=(shots, OUTPUTS)) * scaling.output_scale + scaling.output_center
    if export.learner.classifies:
        return x.astype(np.float32), rng.integers(OUTPUTS, size=shots)
    return x.astype(np.float32), y.astype(np.float32)


def assert_updates_of_right_size(export: Export) -> None:
    """Compare the first step's move of v with torch, at several shots.

    The loss is a mean, so the move must not grow with the shots.
    """
    session = make_session(export.frozen.adapt, "adapt", ["CPUExecutionProvider"])
    state: dict[str, NDArray] = {"v": export.frozen.v0, **export.frozen.weights}
    if any(part.name == STEP for part in session.get_inputs()):
        state[STEP] = np.zeros(1, np.int64)
    for shots in (2, 8, 21):
        support_x, support_y = draw(export, shots)
        v = np.asarray(session.run(["v_next"], {"support_x": support_x, "support_y": support_y, **state})[0])
        x, y = map(torch.from_numpy, export.normalization.normalize(support_x, support_y))
        wanted = flatten(export.learner, export.learner.adapt(x, y, 1)).numpy() - export.frozen.v0
        assert np.linalg.norm(v - export.frozen.v0) / np.linalg.norm(wanted) == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="session")
def export_to() -> Callable[[Path], Path]:
    """Export a small untrained MSR on the tiny family to a folder. Nothing is rounded or left out."""
    known: dict[str, Any] = {"family": FAMILY, "shots": 6, "seed": 3, "config_digest": "0", "validation_tasks": 8}
    known["structure"] = False

    def write(folder: Path) -> Path:
        return export_bundle(build("msr", "mse"), SCALED, folder, precision="float32", **known)

    return write


@pytest.fixture(scope="session")
def bundle(export_to: Callable[[Path], Path], once: Callable[..., Path]) -> Path:
    """The folder of a small real MSR bundle, untrained, on the tiny family. Read only."""
    return once("swivel", lambda folder: export_to(folder / "bundle")) / "bundle"


def _name(method: str, loss: Loss, form: str, **changes: object) -> str:
    return sha256(repr((method, loss, form, sorted(changes.items()))).encode()).hexdigest()


class Exporter:
    """What tests use of this file: test modules cannot import it."""

    family = FAMILY
    sides = SIDES
    scaled = SCALED
    build = staticmethod(build)
    draw = staticmethod(draw)
    inputs = staticmethod(inputs)
    assert_updates_of_right_size = staticmethod(assert_updates_of_right_size)
    freeze = staticmethod(freeze)

    def __init__(self, once: Callable[..., Path]) -> None:
        """Keep what is frozen in folders of `once`."""
        self._once = once

    def exported(self, method: str, loss: Loss, form: str = "full", **changes: object) -> Export:
        """Freeze a learner under the normalization of its loss, once per test run."""
        learner = build(method, loss, form=form, terms=2 if form == "kronecker" else 1, **changes)
        normalization = UNSCALED_Y if learner.classifies else SCALED

        def fill(folder: Path) -> None:
            (folder / "frozen").write_bytes(pickle.dumps(freeze(learner, normalization)))

        frozen = pickle.loads((self._once(_name(method, loss, form, **changes), fill) / "frozen").read_bytes())
        return Export(learner, normalization, frozen)

    def bundle(self, method: str, loss: Loss, form: str = "full", **changes: object) -> Path:
        """The bundle of such a learner, as `write` writes it, once per test run. Read only."""

        def fill(folder: Path) -> None:
            with torch.no_grad():
                self.write(self.exported(method, loss, form, **changes), folder / "bundle")

        return self._once(f"{_name(method, loss, form, **changes)}-bundle", fill) / "bundle"

    def write(self, export: Export, folder: Path, **options: Any) -> Path:
        """Write the bundle of a frozen learner, with all checks of an export. Labels are those of `Sides`.

        Nothing is rounded or left out: the graphs are those of the exact learner.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "freeze", lambda *_: export.frozen)
            patch.setattr(writer, "centered", lambda learner, *_: learner)  # of this learner the graphs are
            family = SIDES if export.learner.classifies else FAMILY
            known = {
                "family": family,
                "shots": 6,
                "seed": 3,
                "config_digest": "0",
                "validation_tasks": 8,
                "precision": "float32",
                "structure": False,
            }
            known |= options
            return export_bundle(export.learner, export.normalization, folder, **known)

    def write_rounded(self, folder: Path, precision: Precision, method: str, **settings: Any) -> Path:
        """Write the bundle of a learner that is rounded at its export, on the task family `Swivel`."""
        known: dict[str, Any] = {"family": FAMILY, "shots": 6, "seed": 3, "config_digest": "0", "validation_tasks": 8}
        known["structure"] = False
        return export_bundle(build(method, **settings), SCALED, folder, precision=precision, **known)


@pytest.fixture(scope="session")
def exporter(once: Callable[..., Path]) -> Exporter:
    """Small learners, each exported once."""
    return Exporter(once)
