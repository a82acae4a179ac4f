"""Injected faults: damaged files, a full disk, a killed process. Each ends in a named error or does no harm."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_robot import vouch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msr_runtime import AdaptiveModel, BundleError
from msr_runtime.bundle.manifest import MANIFEST
from msr_runtime.bundle.store import ADAPT, GOLDEN, LOSS, PREDICT, START

ROOT = Path(__file__).parents[3]
# Hypothesis warns when examples share a fixture. Here they may: each example restores the folder.
shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.sampled_from([0, 1, -1, 2, 5, 2**31, 2**63, 10**40, 0.5, 1e308, float("nan"), float("inf")])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.sampled_from(["v", "x", "Infinity"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "shape", "x"]), inner),
    max_leaves=4,
)


@settings(shared, max_examples=150)
@given(st.data())
def test_a_wrong_manifest_loads_or_is_refused_by_name(bundle_path: Path, data: st.DataObject) -> None:
    """With entries removed or replaced by wrong values, and with correct digests, loading works or raises BundleError.

    Loading includes the sessions, their buffers and the golden example.
    """
    original = json.loads((bundle_path / MANIFEST).read_bytes())
    tree = json.loads(json.dumps(original))
    node = tree
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    if data.draw(st.integers(0, 3)):
        node[key] = data.draw(VALUES)
    else:
        del node[key]
    vouch(bundle_path, tree)
    with contextlib.suppress(BundleError):
        AdaptiveModel.load(bundle_path)
    vouch(bundle_path, original)


def replaced(tree: dict[str, Any], *place: str, value: object) -> dict[str, Any]:
    """The manifest with one number replaced."""
    node = tree = json.loads(json.dumps(tree))
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    return tree


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("inner_steps",), 3),
        (("familiarity", "largest", "slope"), 1e300),
        (("familiarity", "largest", "slope"), -1.0),
        (("familiarity", "largest", "usual"), "Infinity"),
        (("familiarity", "window"), 10**30),
        (("familiarity", "samples"), 10**400),
        (("recursion", "tau"), "NaN"),
        (("input_limit",), "Infinity"),
    ],
)
def test_a_number_that_no_export_writes_is_named(
    recursive_bundle: Path, tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    """The error says where it stands. A large one would overflow later, where the robot learns."""
    bundle = tmp_path / "bundle"
    shutil.copytree(recursive_bundle, bundle)
    vouch(bundle, replaced(json.loads((bundle / MANIFEST).read_bytes()), *place, value=value))
    with pytest.raises(BundleError, match=place[-1]):
        AdaptiveModel.load(bundle, self_test=False)


@settings(shared, max_examples=120)
@given(st.sampled_from([PREDICT, ADAPT, LOSS, START, GOLDEN]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_changed_file_that_is_vouched_for_loads_or_is_refused_by_name(
    bundle_path: Path, name: str, place: float, flip: int
) -> None:
    """If a byte of any file is changed, under correct digests, loading works or raises BundleError."""
    whole = (bundle_path / name).read_bytes()
    changed = bytearray(whole)
    changed[int(place * len(whole))] ^= flip
    (bundle_path / name).write_bytes(changed)
    vouch(bundle_path)
    with contextlib.suppress(BundleError):
        AdaptiveModel.load(bundle_path)
    (bundle_path / name).write_bytes(whole)
    vouch(bundle_path)


@pytest.mark.slow
def test_every_fault_is_refused_by_name_or_harmless(bundle_path: Path, tmp_path: Path) -> None:
    """benchmarks/faults.py on a small bundle: damage, hostile files, wrong samples, a full disk and kills."""
    script = ROOT / "benchmarks" / "faults.py"
    counts = ("--step", "200", "--flips", "60", "--manifests", "60")
    done = subprocess.run(
        [sys.executable, script, "--bundle", bundle_path, *counts, "--json", tmp_path / "rows.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 19
    for row in rows:
        assert row["tried"] == row["refused"] + row["harmless"] == row["works_on"] > 0
    refused = [row["fault"] for row in rows if row["refused"] == row["tried"]]
    assert len(refused) == 14, refused
    killed = [row for row in rows if row["fault"].startswith("killed")]
    assert all(row["harmless"] == row["tried"] for row in killed)
