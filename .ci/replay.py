"""Replay bundles on this processor and store what they compute; with --compare, hold it against another processor's.

replay.py RESULT.npz BUNDLE ... [--compare OTHER.npz]
"""

import argparse
import platform
from pathlib import Path

import numpy as np

from msr_runtime import AdaptiveModel

parser = argparse.ArgumentParser()
parser.add_argument("result", type=Path)
parser.add_argument("bundles", type=Path, nargs="+")
parser.add_argument("--compare", type=Path)
asked = parser.parse_args()
results = {}
for bundle in asked.bundles:
    model = AdaptiveModel.load(bundle, self_test=False)
    golden, tolerance = model.bundle.golden(), model.manifest.parity.tolerance
    where = f"{bundle.parent.name} on {platform.machine()}"
    print(f"{where}: golden example off by {model.self_test():.1e}, {tolerance:.1e} allowed")
    results[f"{bundle}: prediction at v0"] = model.predict(golden.x)
    assert model.adapt(golden.support_x, golden.support_y, golden.steps).accepted, bundle
    results[f"{bundle}: adapted v"] = model.v
    results[f"{bundle}: adapted prediction"] = model.predict(golden.x)
    if asked.compare:
        with np.load(asked.compare) as others:
            errors = {
                name: np.linalg.norm(result - others[name]) / np.linalg.norm(others[name])
                for name, result in results.items()
                if name.startswith(str(bundle))
            }
        print(f"{where}: off from the other processor by {max(errors.values()):.1e} (largest of {len(errors)})")
        assert max(errors.values()) <= tolerance, errors
np.savez(asked.result, **results)
