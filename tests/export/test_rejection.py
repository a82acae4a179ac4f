"""Prototypes on the robot: which class an image is of, and whether it is of none of those that were taught."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from msr_envs.images import Images
from msr_export import export_bundle
from msr_export.rejection import SHARES, measure_rejection
from msr_runtime import AdaptiveModel, Bundle, InputError
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.bundle.manifest import parse_manifest
from msr_runtime.cli.info import info
from msr_runtime.errors import BundleError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.normalization import Normalization
from msr_runtime.serving.access import Limits
from msr_runtime.serving.policy import CLASSIFIED, Policy
from msr_runtime.serving.wire import decode, encode

WAYS = 4
UNIT = Normalization(
    input_center=(((0.4,),),), input_scale=(((0.4,),),), output_center=(0.0,) * WAYS, output_scale=(1.0,) * WAYS
)


@pytest.fixture(scope="module")
def family(image_file: Path) -> Images:
    """Patterns with noise, four of them a task; quarter turns of the queries."""
    return Images(image_file, ways=WAYS, angle="quarter", flips="none", crop=1)


@pytest.fixture(scope="module")
def learner() -> Learner:
    """A filter bank that was not trained: it holds quarter turns by construction."""
    torch.manual_seed(0)
    config = LearnerConfig(network="conv-grid", width=8, depth=2, grid_group="C4")
    return LEARNERS["orbit-prototypes"](config, (1, 8, 8), (WAYS,), "cross_entropy").eval()


@pytest.fixture(scope="module")
def path(once: Callable[..., Path], family: Images, learner: Learner) -> Path:
    """Its bundle."""
    options = {"family": family, "shots": 1, "seed": 0, "config_digest": "0" * 64, "validation_tasks": 40}
    return once("rejecting", lambda folder: export_bundle(learner, UNIT, folder / "bundle", **options)) / "bundle"


def test_as_many_images_are_refused_as_stated(family: Images, learner: Learner, path: Path) -> None:
    """On other tasks, through the bundle: of taught classes the stated share, of others the stated larger one."""
    model = AdaptiveModel.load(path)
    found = model.manifest.rejection
    assert found is not None
    assert tuple(point.known for point in found.points) == SHARES
    assert [point.distance for point in found.points] == sorted((p.distance for p in found.points), reverse=True)
    point = found.points[-1]
    rng, known, unknown = np.random.default_rng(5), [], []
    for _ in range(60):
        (x,), (y,), (query_x,), (query_y,) = family.sample(rng, 1, 1, 4, "test")
        query_x, _ = family.augment(rng, query_x, query_y)
        assert model.adapt(x[:-1], y[:-1], guard=UNLIMITED).accepted  # classes may look alike
        refused = ~model.classify(query_x, refuse=point.known).known
        known += refused[query_y < WAYS - 1].tolist()
        unknown += refused[query_y == WAYS - 1].tolist()
    assert np.mean(known) == pytest.approx(point.known, abs=0.1)
    assert np.mean(unknown) == pytest.approx(point.unknown, abs=0.15)
    assert point.unknown > 2 * point.known


def test_other_learners_have_no_prototypes(family: Images) -> None:
    anil = LEARNERS["anil"](LearnerConfig(network="conv-grid", width=4, depth=1), (1, 8, 8), (WAYS,), "cross_entropy")
    options = {"shots": 1, "augmented": True, "seed": 0, "tasks": 2}
    assert measure_rejection(anil, UNIT, family, **options) is None


def _images(family: Images) -> NDArray[np.float32]:
    """Two images of each of four test classes, in the order of their labels."""
    batch = family.sample(np.random.default_rng(1), 1, 1, 1, "test")
    return np.concatenate([batch.support_x[0], batch.query_x[0]])


def test_classes_are_taught_one_by_one(family: Images, path: Path, tmp_path: Path) -> None:
    """Names are those of taught classes alone; a new class changes no other, and all of it is kept in a file."""
    model, x = AdaptiveModel.load(path, check_inputs=True), _images(family)
    with pytest.raises(InputError, match=r"no class was taught.*call adapt\(\)"):
        model.classify(x)
    assert model.taught == ()
    assert model.adapt(x[:2], np.array([3, 1])).accepted  # any of the labels
    assert model.taught == (1, 3)
    found = model.classify(x)
    assert set(found.label.tolist()) <= {1, 3}
    assert found.label[:2].tolist() == [3, 1]
    assert found.known[:2].all()
    assert np.isneginf(found.scores[:, [0, 2]]).all()
    np.testing.assert_array_equal(found.distance, -found.scores.max(1))
    one = model.classify(x[1])
    assert (int(one.label), bool(one.known), one.scores.shape) == (1, True, (WAYS,))
    assert float(one.distance) == pytest.approx(float(found.distance[1]), abs=1e-4)
    rows = model.v.reshape(WAYS, -1)
    assert (model.predict(x)[:, [0, 2]].max(1) < found.scores[:, [1, 3]].min(1)).all()  # to every other client too

    assert model.adapt(x[2:3], np.array([0]), start="accepted").accepted
    assert model.taught == (0, 1, 3)
    assert np.array_equal(model.v.reshape(WAYS, -1)[[1, 3]], rows[[1, 3]])
    assert model.classify(x[:3]).label.tolist() == [3, 1, 0]
    np.testing.assert_allclose(model.classify(x).scores[:, [1, 3]], found.scores[:, [1, 3]], rtol=1e-5, atol=1e-5)
    many = model.adapt(np.repeat(x[3:4], 6, 0) + 0.01 * x[:6], np.full(6, 2), start="accepted")
    assert many.accepted, many.reason  # one label for all of them is no stuck sensor
    assert model.taught == (0, 1, 2, 3)

    model.save_adaptation(tmp_path / "parts.safetensors")
    again = AdaptiveModel.load(path)
    again.load_adaptation(tmp_path / "parts.safetensors")
    assert again.taught == (0, 1, 2, 3)
    assert np.array_equal(again.classify(x).scores, model.classify(x).scores)
    again.reset()
    assert again.taught == ()


def test_a_client_is_told_the_same(family: Images, path: Path) -> None:
    """The server teaches, adds and names classes, and tells what is unknown, in messages that its wire can carry."""
    x = _images(family)
    policy, model = Policy(AdaptiveModel.load(path), Limits()), AdaptiveModel.load(path)
    assert CLASSIFIED not in policy.answer({"image": x})

    def teach(first: int, last: int, **more: Any) -> dict[str, Any]:
        support = {"support_x": {"image": x[first:last]}, "support_y": np.arange(first, last)}
        return policy.answer(decode(encode({"__msr__": "adapt", **support, **more})))

    assert teach(0, 2)["accepted"]
    assert teach(2, 3, start="accepted")["accepted"]
    model.adapt(x[:3], np.arange(3))
    wanted, seen = model.classify(x), decode(encode(policy.answer({"image": x})))[CLASSIFIED]
    for name in ("label", "known", "distance"):
        np.testing.assert_allclose(seen[name], getattr(wanted, name), rtol=1e-4, atol=1e-4)
    assert policy.answer({"image": x[0]})[CLASSIFIED]["label"].tolist() == [0]
    for start in ("v1", np.zeros(3), None):
        with pytest.raises(InputError, match="but one of v0, accepted is wanted"):
            teach(0, 2, start=start)
    policy.answer({"__msr__": "reset"})
    assert CLASSIFIED not in policy.answer({"image": x})


def test_what_was_not_measured_is_refused(family: Images, path: Path, exporter: Any, tmp_path: Path) -> None:
    """Each message names what is wrong; the model stays as it is."""
    model, x = AdaptiveModel.load(path, check_inputs=True), _images(family)
    model.adapt(x[:2], np.array([0, 1]))
    with pytest.raises(InputError, match=r"refuse is 0\.3, but the bundle was measured where 0\.01, 0\.02, 0\.05"):
        model.classify(x, refuse=0.3)
    with pytest.raises(InputError, match="shape"):
        model.classify(x[:, :, :4])
    with pytest.raises(InputError, match="input_limit"):
        model.classify(100 * x)
    steps = AdaptiveModel.load(exporter.write(exporter.exported("anil", "cross_entropy"), tmp_path / "anil"))
    for call in (lambda: steps.classify(np.zeros(4)), lambda: steps.taught):
        with pytest.raises(InputError, match=r"needs a bundle of prototypes.*rule 'gradient'.*orbit-prototypes"):
            call()


def test_a_manifest_of_something_else_is_refused(path: Path) -> None:
    """Figures of prototypes beside a v that is none of them do not load."""
    manifest = Bundle.open(path).manifest
    for changes in ({"loss": "mse"}, {"filter_parameters": manifest.filter_parameters + 1}):
        with pytest.raises(BundleError, match="rejection is of prototypes of 4 classes"):
            parse_manifest(manifest.model_copy(update=changes).to_bytes(), "bundle")


def test_the_command_states_what_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info(path)
    (line,) = (each for each in capsys.readouterr().out.splitlines() if each.startswith("none of these"))
    assert "5 % and" in line


def test_a_bundle_that_was_not_measured_says_so(family: Images, path: Path) -> None:
    """An older bundle of prototypes adapts and predicts; to say `none of these` it has to be exported again."""
    bundle = Bundle.open(path)
    older = AdaptiveModel(replace(bundle, manifest=bundle.manifest.model_copy(update={"rejection": None})))
    x = _images(family)
    assert older.adapt(x[:2], np.array([0, 1])).accepted
    assert older.predict(x).shape == (2 * WAYS, WAYS)
    with pytest.raises(InputError, match=r"was exported by an older version.*export it again"):
        older.classify(x)
