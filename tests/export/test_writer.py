"""A bundle appears complete and right, or not at all."""

import hashlib
import os
from typing import Never

import numpy as np
import pytest
import torch

from msr_export import Frozen, check_golden, export_bundle, writer
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.bundle.manifest import TrainingSamples
from msr_runtime.bundle.store import ADAPT, Bundle
from msr_runtime.errors import ExportError, ParityError
from msr_runtime.meta.training.config import TrainSettings


def test_manifest_says_what_the_bundle_is(bundle) -> None:
    """Fields, rates, group, parity and versions are in the manifest."""
    manifest = Bundle.open(bundle).manifest
    assert (manifest.name, manifest.method, manifest.loss, manifest.rate_hz) == ("swivel", "msr-full", "mse", 50.0)
    assert [field.name for field in manifest.inputs] == ["velocity", "wind"]
    assert manifest.rule == "gradient"
    assert set(manifest.learned) == {weight.name for weight in manifest.weights}
    assert manifest.group == "C4"
    assert manifest.equivariance_error is not None
    assert manifest.equivariance_error > 0
    assert manifest.parity.max_relative_error <= 1e-5
    assert manifest.shots == 6
    assert {"torch", "onnx", "numpy"} <= set(manifest.provenance.versions)


def test_a_bundle_trained_without_augmentation_names_no_group(exporter, tmp_path) -> None:
    """Nothing taught it the family's symmetry. What the samples were like stands in the provenance."""
    settings = TrainSettings(shots=6, fewest_shots=2, noise=0.3, outliers=0.1, augment=False)
    samples = writer._samples(settings)
    assert samples == TrainingSamples(augmented=False, fewest_shots=2, noise=0.3, outliers=0.1, outlier_size=10.0)
    manifest = Bundle.open(
        exporter.write(exporter.exported("msr", "mse"), tmp_path / "bundle", samples=samples)
    ).manifest
    assert (manifest.group, manifest.equivariance_error, manifest.provenance.samples) == (None, None, samples)


def test_a_rule_of_one_step_and_rates_of_each_step_reach_the_robot(exporter, tmp_path) -> None:
    """The manifest names the rule, its steps and what it learned. The golden example replays on the robot."""
    for changes in ({"rule": "ridge", "damping": 0.1, "depth": 0, "bias": False}, {"step_rates": True}):
        export = exporter.exported("msr", "mse", **changes)
        model = AdaptiveModel.load(exporter.write(export, tmp_path / "bundle"))
        manifest, learned = model.manifest, {"damping", "scale of layers.0.weight"}
        assert manifest.rule == export.learner.config.rule
        assert manifest.inner_steps == (1 if manifest.rule == "ridge" else 5)
        assert manifest.rule == "gradient" or set(manifest.learned) == learned
        assert all(len(values) in (1, manifest.inner_steps) for values in manifest.learned.values())
        golden = model.bundle.golden()
        assert model.adapt(golden.support_x, golden.support_y).steps == manifest.inner_steps


def test_prototypes_reach_the_robot(exporter) -> None:
    """An adaptation is one step to the class means. A second step changes nothing."""
    model = AdaptiveModel.load(exporter.bundle("protonets", "cross_entropy"))
    manifest, golden = model.manifest, model.bundle.golden()
    assert (manifest.method, manifest.rule, manifest.inner_steps, manifest.learned) == (
        "protonets",
        "class-means",
        1,
        {},
    )
    assert [weight.name for weight in manifest.weights] == ["prototypes"]
    # Without the guard, which rightly refuses what an untrained network makes of them.
    once, twice = (model.adapted(golden.support_x, golden.support_y, steps)(golden.x) for steps in (1, 2))
    assert np.abs(once - golden.y).max() <= 1e-5 * np.abs(golden.y).max()
    assert np.array_equal(once, twice)


def test_a_basis_of_functions_reaches_the_robot(exporter, tmp_path) -> None:
    """One adaptation is one ridge regression. Its damping goes along, and only the coefficients change."""
    export = exporter.exported("function-encoder", "mse")
    model = AdaptiveModel.load(exporter.write(export, tmp_path / "bundle"))
    manifest, golden = model.manifest, model.bundle.golden()
    assert (manifest.method, manifest.rule, manifest.inner_steps) == ("function-encoder", "ridge", 1)
    assert set(manifest.learned) == {"damping", "scale of coefficients"}
    assert [(weight.name, weight.shape) for weight in manifest.weights] == [("coefficients", (3,))]
    result = model.adapt(golden.support_x, golden.support_y, guard=UNLIMITED)
    assert result.loss_after < result.loss_before
    assert np.abs(model.predict(golden.x) - golden.y).max() <= 1e-5 * np.abs(golden.y).max()


def test_the_robot_adapts_as_torch_did(bundle) -> None:
    """ONNX Runtime replays the golden example: the adaptation is accepted, changes y, and equals torch."""
    model = AdaptiveModel.load(bundle)
    golden = Bundle.open(bundle).golden()
    before = model.predict(golden.x)
    # without limits: the network is not trained, so that they say nothing
    result = model.adapt(golden.support_x, golden.support_y, guard=UNLIMITED)
    assert result.accepted
    assert result.loss_after < result.loss_before
    after = model.predict(golden.x)
    assert np.abs(before - golden.y0).max() <= 1e-5 * np.abs(golden.y0).max()
    assert np.abs(after - golden.y).max() <= 1e-5 * np.abs(golden.y).max()
    assert np.abs(after - before).max() > 1e-3


def test_the_same_learner_gives_the_same_bytes(bundle, export_to, tmp_path) -> None:
    """A second export gives every file the same digest."""
    torch.manual_seed(99)
    again = Bundle.open(export_to(tmp_path / "again"))
    assert again.manifest.files == Bundle.open(bundle).manifest.files
    assert hashlib.sha256(again.files[ADAPT]).hexdigest() == again.manifest.files[ADAPT]


def test_a_model_that_misses_is_refused_and_leaves_nothing(exporter, export_to, tmp_path, monkeypatch) -> None:
    """A graph of another learner is found before anything is written."""
    right = exporter.exported("msr", "mse").frozen

    def wrong(*_: object) -> Frozen:
        return right._replace(predict=exporter.exported("maml", "huber").frozen.predict)

    monkeypatch.setattr(writer, "freeze", wrong)
    with pytest.raises(ParityError, match="'y'"):
        export_to(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_golden_example_that_would_fail_on_the_robot_is_refused(exporter, bundle) -> None:
    """The replay that the robot makes at load is made before the bundle is written."""
    frozen = exporter.exported("msr", "mse").frozen
    golden = Bundle.open(bundle).golden()
    check_golden(frozen, exporter.scaled, golden)
    with pytest.raises(ParityError, match="golden example's adapted prediction"):
        check_golden(frozen, exporter.scaled, golden._replace(y=golden.y + 1e-3))


def test_an_interrupted_export_leaves_nothing(exporter, export_to, tmp_path, monkeypatch) -> None:
    """Ctrl-C during writing leaves neither a bundle nor a part of one."""
    monkeypatch.setattr(writer, "freeze", lambda *_: exporter.exported("msr", "mse").frozen)

    def interrupt(handle) -> Never:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_to(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_learner_of_another_family_is_refused(exporter, tmp_path) -> None:
    """Shapes that do not fit the family are named before any work is done."""
    family = exporter.family
    learner = exporter.build("msr", "mse")
    learner.inputs = (7,)
    with pytest.raises(
        ExportError, match=r"maps samples of shape \(7,\) to \(2,\), but family 'swivel' has \(4,\) and \(2,\)"
    ):
        export_bundle(
            learner, exporter.scaled, tmp_path / "bundle", family=family, shots=6, seed=3, config_digest="0" * 64
        )


def test_a_number_too_far_from_zero_is_refused_by_name(exporter, tmp_path) -> None:
    """Training refuses it since it knows how; a checkpoint may be older. It is not blamed on the export."""
    center = (0.5, -1.0, 5e6, 0.0)
    far = exporter.scaled.model_copy(update={"input_center": center})
    with pytest.raises(ExportError, match=r"field 'wind' element 0 of x lies around 5e\+06 m/s and varies by 0.5 m/s"):
        export_bundle(
            exporter.build("msr", "mse"),
            far,
            tmp_path / "bundle",
            family=exporter.family,
            shots=6,
            seed=3,
            config_digest="0" * 64,
        )
    assert list(tmp_path.iterdir()) == []
