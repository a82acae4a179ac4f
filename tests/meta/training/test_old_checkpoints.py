"""A checkpoint that an older version wrote still loads, and gives the same numbers after adaptation."""

from pathlib import Path

import numpy as np

from msr_runtime import Bundle
from msr_runtime.meta import load_checkpoint, torch_adapt

CHECKPOINT = Path(__file__).parent / "data" / "ring_nav_format_2.safetensors"
BUNDLE = Path(__file__).parents[2] / "runtime" / "bundle" / "data" / "format_2"
"""The bundle that was exported from this checkpoint at that time."""


def test_an_old_checkpoint_adapts_as_its_bundle_says() -> None:
    """The bundle states the checkpoint's digest, and torch gives the outputs of the bundle's stored example."""
    checkpoint, bundle = load_checkpoint(CHECKPOINT), Bundle.open(BUNDLE)
    assert checkpoint.digest == bundle.manifest.provenance.config_digest
    golden = bundle.golden()
    predict = torch_adapt(checkpoint.learner, checkpoint.normalization)(golden.support_x, golden.support_y)
    np.testing.assert_allclose(predict(golden.x), golden.y, rtol=1e-4, atol=1e-5)
