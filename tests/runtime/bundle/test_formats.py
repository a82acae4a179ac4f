"""A bundle of an older format loads and computes what it did before. A bundle of an unknown format is refused."""

import json
from pathlib import Path

import pytest

from msr_runtime import AdaptiveModel, Bundle, BundleError
from msr_runtime.bundle.manifest import FORMAT_VERSION, parse_manifest

FORMAT_2 = Path(__file__).parent / "data" / "format_2"
"""A small ring-nav bundle of format version 2."""


def test_a_bundle_of_format_2_passes_its_self_test() -> None:
    """Its golden example gives the predictions, the adapted v and the losses that torch computed."""
    model = AdaptiveModel.load(FORMAT_2)
    assert model.self_test() <= model.manifest.parity.tolerance
    assert model.manifest.format_version == FORMAT_VERSION
    assert json.loads((FORMAT_2 / "manifest.json").read_bytes())["format_version"] == 2


def test_the_renamed_field_is_carried_over() -> None:
    """Format 2 spells the field `normalisation`. All its numbers are kept."""
    written = json.loads((FORMAT_2 / "manifest.json").read_bytes())["normalisation"]
    assert Bundle.open(FORMAT_2).manifest.normalization.model_dump(mode="json") == written


def test_a_bundle_that_is_older_than_rounding_is_of_float32() -> None:
    """It says nothing of rounding, and loads (see above)."""
    assert Bundle.open(FORMAT_2).manifest.rounding is None


def test_an_adaptation_of_format_2_is_saved_and_loaded(tmp_path: Path) -> None:
    """A conversion in memory does not change the bundle's digest. So adaptations that were saved before still load."""
    model = AdaptiveModel.load(FORMAT_2)
    golden = model.bundle.golden()
    model.adapt(golden.support_x, golden.support_y)
    model.save_adaptation(tmp_path / "saved.safetensors")
    other = AdaptiveModel.load(FORMAT_2)
    other.load_adaptation(tmp_path / "saved.safetensors")
    assert (other.v == model.v).all()


def test_a_bundle_of_format_4_and_older_judges_its_samples_one_by_one() -> None:
    """Its loss.onnx gives the loss of all samples alone, so that each judge needs a run."""
    model = AdaptiveModel.load(FORMAT_2)
    x, y = model.bundle.golden().support_x, model.bundle.golden().support_y
    before = model.predict(x)
    held_out = model.adapt(x, y, held_out=(x, y)).held_out
    assert held_out
    for seen, y_hat in ((held_out.before, before), (held_out.after, model.predict(x))):
        losses = (((y_hat - y) / model.manifest.normalization.output_scale) ** 2).mean(1)
        assert losses.min() < seen < losses.mean()  # the worst judges are left out


@pytest.mark.parametrize(("version", "advice"), [(1, "export again"), (FORMAT_VERSION + 1, "update msr-runtime")])
def test_another_format_is_refused_with_what_to_do(version: int, advice: str) -> None:
    """The message names the version seen and the versions that can be read."""
    document = json.loads((FORMAT_2 / "manifest.json").read_bytes()) | {"format_version": version}
    with pytest.raises(BundleError, match=f"format version {version}, but this runtime reads 2 to .*; {advice}"):
        parse_manifest(json.dumps(document).encode(), "bundle 'x'")


def test_the_present_format_wants_the_present_name() -> None:
    """In a manifest of the present version, the old spelling `normalisation` is refused."""
    document = json.loads((FORMAT_2 / "manifest.json").read_bytes()) | {"format_version": FORMAT_VERSION}
    with pytest.raises(BundleError, match="malformed at normalization: Field required"):
        parse_manifest(json.dumps(document).encode(), "bundle 'x'")
