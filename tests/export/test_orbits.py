"""Prototypes of images on the robot: class means in one closed form, in every pose, as torch computes them."""

import numpy as np
import pytest
import torch

from msr_export import check_parity, freeze
from msr_runtime.errors import ExportError
from msr_runtime.inference.session import make_session
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.normalization import Normalization

SHAPE, CLASSES = (1, 12, 12), 4
SCALING = Normalization(
    input_center=(((0.1,),),), input_scale=(((0.3,),),), output_center=(0.0,) * CLASSES, output_scale=(1.0,) * CLASSES
)


@pytest.mark.parametrize(
    ("method", "changes"),
    [("orbit-prototypes", {"grid_group": "D2"}), ("protonets", {"head": "map", "temperature": 0.2})],
)
def test_prototypes_of_images(method: str, changes: dict[str, object]) -> None:
    """ONNX Runtime is within 1e-5 of torch. A class's weights are its prototype in every pose; predict needs no U."""
    torch.manual_seed(0)
    config = LearnerConfig.model_validate({"network": "conv-grid", "width": 8, "depth": 2} | changes)
    learner = LEARNERS[method](config, SHAPE, (CLASSES,), "cross_entropy").eval()
    frozen = freeze(learner, SCALING)
    rng = np.random.default_rng(0)
    images = rng.random((64, *SHAPE), dtype=np.float32)
    assert 0 < check_parity(learner, SCALING, frozen, images, seed=1).max_relative_error <= 1e-5
    poses = 4 if method == "orbit-prototypes" else 1
    assert frozen.weights["prototypes"].shape == (CLASSES * poses, 8 * 3 * 3)

    adapt, predict = (make_session(graph, name, ["CPUExecutionProvider"]) for graph, name in
                      ((frozen.adapt, "adapt"), (frozen.predict, "predict")))  # fmt: skip
    support, labels = images[:CLASSES], np.arange(CLASSES)
    state = {"v": frozen.v0, **frozen.weights}
    (learned,) = adapt.run(["prototypes_next"], {"support_x": support, "support_y": labels, **state})
    moved = np.stack([image[:, ::-1] for image in support])  # upside down
    for views, wanted in ((support, True), (moved, method == "orbit-prototypes")):
        scores = np.asarray(predict.run(["y"], {"x": np.ascontiguousarray(views), "prototypes": learned})[0])
        own = scores[labels, labels]
        assert np.allclose(own, _best(learner, support), rtol=1e-4, atol=1e-4) == wanted


def test_steps_from_class_means_are_refused() -> None:
    """Their linear system has no fixed size: the sentence says what to do."""
    config = LearnerConfig(network="conv-grid", width=8, depth=2, grid_group="D2", rule="gauss-newton")
    learner = LEARNERS["orbit-prototypes"](config, SHAPE, (CLASSES,), "cross_entropy").eval()
    with pytest.raises(ExportError, match=r"'orbit-prototypes' takes Gauss-Newton steps.*leave --learner.rule out"):
        freeze(learner, SCALING)


@pytest.mark.parametrize("changes", [{"grid_group": "D2"}, {"head": "map", "temperature": 0.2}])
def test_a_class_is_added_without_forgetting(changes: dict[str, object]) -> None:
    """A support set of one new class leaves the v of the others as they are, bit for bit."""
    torch.manual_seed(0)
    config = LearnerConfig.model_validate({"network": "conv-grid", "width": 8, "depth": 2} | changes)
    method = "orbit-prototypes" if config.grid_group else "protonets"
    learner = LEARNERS[method](config, SHAPE, (CLASSES,), "cross_entropy").eval()
    frozen = freeze(learner, SCALING)
    adapt = make_session(frozen.adapt, "adapt", ["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((6, *SHAPE), dtype=np.float32)

    def teach(state: dict[str, np.ndarray], x: np.ndarray, y: list[int]) -> dict[str, np.ndarray]:
        feed = {"support_x": x, "support_y": np.array(y), **state}
        values = adapt.run([f"{name}_next" for name in state], feed)
        return {name: np.asarray(value) for name, value in zip(state, values, strict=True)}

    start = {"v": frozen.v0, **frozen.weights}
    three = teach(start, images[:3], [0, 1, 3])
    assert not three["v"].reshape(CLASSES, -1)[2].any()
    four = teach(three, images[3:], [2, 2, 2])
    rows = four["v"].reshape(CLASSES, -1)
    assert np.array_equal(rows[[0, 1, 3]], three["v"].reshape(CLASSES, -1)[[0, 1, 3]])
    whole = teach(start, images, [0, 1, 3, 2, 2, 2])
    for name, value in four.items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-5, atol=1e-6)


def _best(learner: torch.nn.Module, support: np.ndarray) -> np.ndarray:
    """The scores that torch gives the support samples for their own classes."""
    x, _ = SCALING.normalize(support, np.arange(CLASSES))
    with torch.no_grad():
        adapted = learner.adapt(torch.from_numpy(x), torch.arange(CLASSES))  # type: ignore[operator]
        return learner(adapted, torch.from_numpy(x)).diagonal().numpy()
