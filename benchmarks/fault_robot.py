"""A robot to break: a model that runs, its bundle and its saved adaptation, and what a fault made of them."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from msr_runtime import AdaptiveModel, Bundle, MsrError
from msr_runtime.bundle.manifest import MANIFEST, MANIFEST_DIGEST
from msr_runtime.bundle.store import write_bundle


class Row(TypedDict):
    """One kind of fault."""

    fault: str
    tried: int
    refused: int
    harmless: int
    works_on: int


class Robot:
    """A model that runs, its bundle and an adaptation saved from it; and what has become of them after a fault."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.saved = folder / "bundle", folder / "saved.safetensors"
        shutil.copytree(bundle, self.bundle)
        self.model = AdaptiveModel.load(self.bundle)
        golden = self.model.bundle.golden()
        self.x = golden.x
        assert self.model.adapt(golden.support_x, golden.support_y, 1).accepted
        self.new = AdaptiveModel(self.model.bundle)
        assert self.new.adapt(golden.support_x, golden.support_y, 2).accepted
        self.model.save_adaptation(self.saved)
        self.spare = AdaptiveModel(self.model.bundle)
        self.wanted, self.wanted_new = self.model.predict(self.x), self.new.predict(self.x)
        self.rows: list[Row] = []

    @contextmanager
    def row(self, fault: str) -> Iterator[Callable[[Callable[[], bool]], None]]:
        """Count what becomes of the faults tried inside; each is given as a function that is True if it is harmless."""
        row = Row(fault=fault, tried=0, refused=0, harmless=0, works_on=0)

        def attempt(loads: Callable[[], bool]) -> None:
            row["tried"] += 1
            try:
                row["harmless"] += loads()
            except (MsrError, OSError):
                row["refused"] += 1
            row["works_on"] += self._works()

        yield attempt
        self.rows.append(row)

    def loads(self) -> bool:
        """Load the bundle; True if its golden example comes out as in torch."""
        AdaptiveModel.load(self.bundle)
        return True

    def loads_saved(self, new: bool = False) -> bool:
        """Load the saved adaptation; True if it is the old one or, if that may be, the new one."""
        self.spare.reset()
        self.spare.load_adaptation(self.saved)
        y = self.spare.predict(self.x)
        return np.array_equal(y, self.wanted) or (new and np.array_equal(y, self.wanted_new))

    def save_new(self) -> None:
        """Save another adaptation over the old one."""
        self.new.save_adaptation(self.saved)

    def write_new(self) -> None:
        """Write another bundle over the old one."""
        bundle = self.model.bundle
        write_bundle(self.bundle, bundle.manifest.model_copy(update={"method": "another"}), bundle.files)

    def bundle_is_whole(self) -> bool:
        """Whether the bundle's folder holds the old or the new one."""
        return Bundle.open(self.bundle).manifest.method in (self.model.manifest.method, "another")

    def restore(self) -> None:
        """Save the old adaptation and write the old bundle again, and sweep up what a killed process left."""
        self.model.save_adaptation(self.saved)
        if Bundle.open(self.bundle).digest != self.model.bundle.digest:
            write_bundle(self.bundle, self.model.manifest, self.model.bundle.files)
        for rest in self.bundle.parent.glob(".*.*"):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()

    def _works(self) -> bool:
        return np.array_equal(self.model.predict(self.x), self.wanted)


@contextmanager
def changed(file: Path, data: bytes) -> Iterator[None]:
    """Put other bytes into a file for a while."""
    whole = file.read_bytes()
    file.write_bytes(data)
    yield
    file.write_bytes(whole)


def vouch(bundle: Path, manifest: Any = None) -> None:
    """Make a bundle's digests anew, as someone would who changes it on purpose.

    Args:
        bundle: The folder. Where it lacks a file that the manifest lists, the digest of this file stays.
        manifest: What to write as the manifest. By default the manifest stays, with new digests.

    """
    if manifest is None:
        with suppress(ValueError):  # it is broken: only its own digest is made
            manifest = json.loads((bundle / MANIFEST).read_bytes())
    if manifest is not None:
        listed = manifest.get("files") if isinstance(manifest, dict) else None
        listed = listed if isinstance(listed, dict) else {}
        for name in listed:
            with suppress(OSError, ValueError):
                listed[name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        (bundle / MANIFEST).write_text(json.dumps(manifest))
    digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    (bundle / MANIFEST_DIGEST).write_text(f"{digest}  {MANIFEST}\n")


@contextmanager
def vouched(robot: Robot, file: Path, data: bytes) -> Iterator[None]:
    """Put other bytes into a file for a while, under digests that vouch for them."""
    with (
        changed(robot.bundle / MANIFEST, (robot.bundle / MANIFEST).read_bytes()),
        changed(robot.bundle / MANIFEST_DIGEST, (robot.bundle / MANIFEST_DIGEST).read_bytes()),
        changed(file, data),
    ):
        vouch(robot.bundle)
        yield
