"""A bundle opens only if it is complete and unchanged. Every other bundle is refused, and the error names the file."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msr_runtime.bundle.manifest import FORMAT_VERSION, MANIFEST, MANIFEST_DIGEST, Manifest
from msr_runtime.bundle.store import ADAPT, GOLDEN, LOSS, PREDICT, START, Bundle, write_bundle
from msr_runtime.errors import BundleError

Write = Callable[..., Path]
NAMES = [MANIFEST, MANIFEST_DIGEST, PREDICT, ADAPT, LOSS, START, GOLDEN]
# Hypothesis warns when examples share a fixture. Here they may: each example restores the folder.
shared = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def listed(folder: Path) -> list[str]:
    """The names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def put_manifest(bundle: Path, raw: bytes) -> None:
    """Replace the manifest and correct its digest, as an attacker who edits a bundle on purpose would do."""
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / MANIFEST_DIGEST).write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n")


def edit(bundle: Path, **values: object) -> None:
    """Change entries of the manifest."""
    put_manifest(bundle, json.dumps(json.loads((bundle / MANIFEST).read_bytes()) | values).encode())


def test_what_is_written_is_what_is_opened(bundle_path: Path, linear: Any, linear_files: dict[str, bytes]) -> None:
    """The manifest (with infinite bounds), the filter parameters and the golden example come back exactly."""
    bundle = Bundle.open(bundle_path)
    assert bundle.manifest.model_copy(update={"files": {}}) == linear.manifest()
    assert dict(bundle.files) == linear_files
    assert list(bundle.start()) == ["v", "layer.weight"]
    assert all(np.array_equal(tensor, linear.start()[name]) for name, tensor in bundle.start().items())
    golden = bundle.golden()
    assert golden.steps == 3
    assert np.array_equal(golden.y0, linear.predict(linear.v0, golden.x))


def test_the_same_contents_give_the_same_bytes(tmp_path: Path, linear: Any) -> None:
    """Two bundles with the same contents have the same digest, so that exports can be compared."""
    first = write_bundle(tmp_path / "first", linear.manifest(), linear.files())
    assert write_bundle(tmp_path / "second", linear.manifest(), linear.files()).digest == first.digest


@shared
@given(st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_changed_byte_is_refused(bundle_path: Path, name: str, place: float, flip: int) -> None:
    """If any byte of any file is changed, the bundle is refused and the error names the file or the manifest."""
    file = bundle_path / name
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[int(place * len(whole))] ^= flip
    file.write_bytes(changed)
    with pytest.raises(BundleError, match=MANIFEST if name == MANIFEST_DIGEST else name):
        Bundle.open(bundle_path)
    file.write_bytes(whole)
    Bundle.open(bundle_path)


def test_a_wrong_digest_is_shown_as_text(bundle_path: Path) -> None:
    """Without the file's line break, and without Python's marks of bytes."""
    (bundle_path / MANIFEST_DIGEST).write_bytes(b"\xff0  manifest.json\n")
    with pytest.raises(BundleError, match=r"manifest.sha256 holds '\\xff0  manifest.json'; the manifest was edited"):
        Bundle.open(bundle_path)


@shared
@given(st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(bundle_path: Path, name: str, share: float) -> None:
    """A bundle with an incomplete copy of a file is refused."""
    file = bundle_path / name
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BundleError):
        Bundle.open(bundle_path)
    file.write_bytes(whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(bundle_path: Path, name: str) -> None:
    """The message names the missing file."""
    (bundle_path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(bundle_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(shared, max_examples=100)
@given(
    st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | JSON.map(lambda tree: json.dumps(tree).encode())
)
def test_any_bytes_as_a_manifest_are_refused(bundle_path: Path, raw: bytes) -> None:
    """Random bytes, text or JSON in place of a manifest raise BundleError."""
    original = (bundle_path / MANIFEST).read_bytes()
    put_manifest(bundle_path, raw)
    with pytest.raises(BundleError, match=r"malformed|format version"):
        Bundle.open(bundle_path)
    put_manifest(bundle_path, original)


def test_a_deeply_nested_manifest_is_refused(bundle_path: Path) -> None:
    """Nesting that could overflow the stack is refused as malformed."""
    put_manifest(bundle_path, b"[" * 100_000)
    with pytest.raises(BundleError, match="malformed"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize(("version", "advice"), [(1, "export again"), (FORMAT_VERSION + 1, "update msr-runtime")])
def test_another_format_version_says_what_to_do(bundle_path: Path, version: int, advice: str) -> None:
    """The error names the unknown version, even if the manifest has unknown entries too."""
    edit(bundle_path, format_version=version, new_entry=1)
    with pytest.raises(BundleError, match=f"format version {version}.*{advice}"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".hidden", "a\\b", "", MANIFEST, "a\n"])
def test_a_file_name_cannot_leave_the_folder(bundle_path: Path, name: str) -> None:
    """Names with separators, parent folders and hidden names are refused before a file is read."""
    files = json.loads((bundle_path / MANIFEST).read_bytes())["files"]
    edit(bundle_path, files=files | {name: "0" * 64})
    with pytest.raises(BundleError, match="not a plain name"):
        Bundle.open(bundle_path)


def test_a_link_out_of_the_folder_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    """A link is followed to a file inside the folder, and refused to the same file outside it."""
    file, inside = bundle_path / PREDICT, bundle_path / "data"
    inside.mkdir()
    file.rename(inside / PREDICT)
    file.symlink_to(inside / PREDICT)
    Bundle.open(bundle_path)
    (inside / PREDICT).rename(tmp_path / "outside")
    file.unlink()
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="outside the folder"):
        Bundle.open(bundle_path)


def test_links_in_a_ring_and_pipes_are_refused(bundle_path: Path) -> None:
    """Links that point at each other, and pipes, are refused without waiting."""
    file = bundle_path / PREDICT
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(bundle_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(bundle_path)


@pytest.mark.parametrize("name", [PREDICT, ADAPT, LOSS, START, GOLDEN])
def test_a_manifest_must_list_every_required_file(bundle_path: Path, name: str) -> None:
    """A manifest that does not list a graph, the start or the golden example is refused."""
    files = json.loads((bundle_path / MANIFEST).read_bytes())["files"]
    del files[name]
    edit(bundle_path, files=files)
    with pytest.raises(BundleError, match=f"not '{name}'"):
        Bundle.open(bundle_path)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """The message says that a bundle is a folder."""
    with pytest.raises(BundleError, match="whole folder"):
        Bundle.open(tmp_path / "absent")


@pytest.mark.parametrize(
    "values",
    [
        {"inner_steps": 0},
        {"weights": ()},
        {"weights": ({"name": "x", "shape": (1,)},)},
        {"weights": ({"name": "w", "shape": (1,)}, {"name": "w", "shape": (1,)})},
        {"weights": ({"name": "w", "shape": (1,)}, {"name": "w_next", "shape": (1,)})},
        {"filter_parameters": 0},
        {"rate_hz": 0},
        {"unknown": 1},
    ],
)
def test_a_manifest_that_contradicts_itself_cannot_be_built(linear: Any, values: dict) -> None:
    """A manifest with bad values is refused where the exporter builds it."""
    with pytest.raises(ValueError, match="1 validation error"):
        Manifest.model_validate(linear.manifest().model_dump() | values)


def test_a_golden_example_is_never_unpickled(write: Write, tmp_path: Path) -> None:
    """An archive with a pickled object is refused, and the pickle's code does not run."""

    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "trap",)

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, support_x=np.array([Trap()], object))
    bundle = Bundle.open(write({GOLDEN: buffer.getvalue()}))
    with pytest.raises(BundleError, match="not a golden example"):
        bundle.golden()
    assert not (tmp_path / "trap").exists()


@shared
@given(st.binary(max_size=300))
def test_bytes_that_are_no_archive_are_refused(bundle_path: Path, raw: bytes) -> None:
    """Random bytes in place of the golden example or the start raise BundleError."""
    bundle = Bundle.open(bundle_path)
    broken = Bundle(bundle.path, bundle.manifest, bundle.digest, {**bundle.files, GOLDEN: raw, START: raw})
    with pytest.raises(BundleError, match=GOLDEN):
        broken.golden()
    with pytest.raises(BundleError, match=START):
        broken.start()


def test_writing_replaces_a_bundle_whole_and_leaves_nothing_behind(
    bundle_path: Path, linear: Any, linear_files: dict[str, bytes]
) -> None:
    """No file of the old bundle is left in the new one, and no temporary folder is left beside it."""
    (bundle_path / "old").touch()
    manifest = linear.manifest().model_copy(update={"method": "second"})
    assert write_bundle(bundle_path, manifest, linear_files).manifest.method == "second"
    assert listed(bundle_path) == sorted(NAMES)
    assert listed(bundle_path.parent) == [bundle_path.name]


def test_a_failed_write_leaves_the_old_bundle(bundle_path: Path, linear: Any, linear_files: dict[str, bytes]) -> None:
    """If a file name is refused, the old bundle stays and no temporary folder is left."""
    before = Bundle.open(bundle_path).digest
    for extra in ({"../out": b""}, {"a" * 101: b""}):
        with pytest.raises(ValueError, match="not a plain name"):
            write_bundle(bundle_path, linear.manifest(), linear_files | extra)
    assert Bundle.open(bundle_path).digest == before
    assert listed(bundle_path.parent) == [bundle_path.name]


def test_a_killed_writer_leaves_no_half_bundle(bundle_path: Path) -> None:
    """If a process is killed while it replaces the bundle, the folder still holds a complete bundle."""
    code = """if True:
        import sys
        from msr_runtime.bundle.store import Bundle, write_bundle
        bundle = Bundle.open(sys.argv[1])
        print("ready", flush=True)
        while True:
            write_bundle(bundle.path, bundle.manifest, bundle.files)
    """
    with subprocess.Popen([sys.executable, "-c", code, str(bundle_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        writer.kill()
    Bundle.open(bundle_path)


def test_where_names_cannot_be_exchanged_a_bundle_is_replaced_in_two_steps(
    bundle_path: Path, linear: Any, linear_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On systems without an exchange, the bundle is replaced too, and no temporary folder is left."""
    monkeypatch.setattr("msr_runtime.bundle.store.exchange", lambda *_: False)
    manifest = linear.manifest().model_copy(update={"method": "second"})
    assert write_bundle(bundle_path, manifest, linear_files).manifest.method == "second"
    assert listed(bundle_path.parent) == [bundle_path.name]


def test_writing_needs_every_required_file(tmp_path: Path, linear: Any, linear_files: dict[str, bytes]) -> None:
    """A bundle without a required file is not written."""
    with pytest.raises(BundleError, match=f"'{START}' is missing"):
        write_bundle(tmp_path / "new", linear.manifest(), {k: v for k, v in linear_files.items() if k != START})
    assert not listed(tmp_path)


def test_writing_never_replaces_what_is_no_bundle(tmp_path: Path, linear: Any, linear_files: dict[str, bytes]) -> None:
    """A folder that is not a bundle, named by mistake, stays as it is."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BundleError, match="not replaced"):
        write_bundle(tmp_path, linear.manifest(), linear_files)
    assert (tmp_path / "thesis.tex").exists()
