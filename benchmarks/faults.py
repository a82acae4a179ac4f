"""What damage, attackers, a full disk or a kill do: each fault is injected, and the state from before has to work on.

A fault is *refused* when loading ends in one of the project's named errors (or in the system's own OSError, where the
disk is full), and *harmless* when what loads is right: the golden example comes out as in torch, or a saved adaptation
is the old or the new one, whole. Anything else is a row that fails. After each fault the model that ran before it has
to predict the same bits, and the adaptation that was saved before it has to load and predict the same bits.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when the numeric libraries are loaded

import numpy as np
import onnx
import tyro
from fault_robot import Robot, changed, vouched
from hostile import hostile_files, hostile_graphs, weak_keys, wrong_samples
from onnx import external_data_helper
from store import RUNTIME, Output, begin, keep, settled
from tables import faults as fault_lines
from terminal import print_lines

from msr_runtime.bundle.manifest import MANIFEST
from msr_runtime.bundle.store import ADAPT, LOSS, PREDICT

PAGE = 4096
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 3, 2**31, 2**63, 10**40, 0.5, 1e308, -1e-300, "", "v", "1", "Infinity", "NaN"),
    *([], [1], [2**62, 2**62], [[1]], ["v"], {}, {"name": "v"}, {"x": {}}),
)
"""What a manifest's entries are replaced by."""
CALLS = {"open", "write", "flush", "fsync", "close", "__exit__", "mkdir", "rename", "replace", "unlink", "rmdir"}
"""The interpreter's functions that change a file or a folder: between two of them a kill does the same."""


@dataclass(frozen=True)
class Options(Output):
    """What to break."""

    bundle: Path = Path("runs/demo/bundle")
    """A bundle; it is copied first."""
    step: int = 1024
    """Bytes between two places where a file is cut."""
    flips: int = 2000
    """Bytes flipped, over all files."""
    manifests: int = 2000
    """Manifests made wrong."""
    seed: int = 0
    """Of what is flipped and replaced."""


STORED = {"faults": Options()}
"""The stored result, and what it measures."""


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one byte changed."""
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= int(rng.integers(1, 256))
    return bytes(changed)


def break_files(robot: Robot, options: Options, rng: np.random.Generator) -> None:
    """Cut and flip every file of the bundle, with and without digests that vouch for the change, and what was saved."""
    files = sorted(file for file in robot.bundle.iterdir())
    with robot.row(f"bundle's file cut every {options.step} bytes") as attempt:
        for file in files:
            whole = file.read_bytes()
            for end in range(0, len(whole), options.step):
                with changed(file, whole[:end]):
                    attempt(robot.loads)
    with robot.row("bundle's byte flipped") as attempt:
        for _ in range(options.flips):
            file = files[rng.integers(len(files))]
            with changed(file, flipped(file.read_bytes(), rng)):
                attempt(robot.loads)
    with robot.row("the same, digests made anew") as attempt:
        for _ in range(options.flips):
            file = files[rng.integers(len(files))]
            with vouched(robot, file, flipped(file.read_bytes(), rng)):
                attempt(robot.loads)
    whole = robot.saved.read_bytes()
    with robot.row(f"saved adaptation cut every {options.step} bytes") as attempt:
        for end in range(0, len(whole), options.step):
            with changed(robot.saved, whole[:end]):
                attempt(robot.loads_saved)
    with robot.row("saved adaptation's byte flipped") as attempt:
        for _ in range(options.flips):
            with changed(robot.saved, flipped(whole, rng)):
                attempt(robot.loads_saved)


def break_manifests(robot: Robot, options: Options, rng: np.random.Generator) -> None:
    """Drop and replace entries of the manifest, anywhere in it, under a digest that vouches for it."""
    original = (robot.bundle / MANIFEST).read_bytes()
    with robot.row("manifest's entry dropped or replaced, digests made anew") as attempt:
        for _ in range(options.manifests):
            tree = json.loads(original)
            node, key = tree, rng.choice(list(tree))
            while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
                node = node[key]
                key = rng.choice(list(node)) if isinstance(node, dict) else int(rng.integers(len(node)))
            if rng.random() < 0.2:
                del node[key]
            else:
                node[key] = VALUES[rng.integers(len(VALUES))]
            with vouched(robot, robot.bundle / MANIFEST, json.dumps(tree).encode()):
                attempt(robot.loads)


def link(robot: Robot) -> None:
    """Let files be links, and graphs refer to tensors in other files: beside them, above, anywhere, behind links."""
    outside = robot.bundle.parent / "outside"
    for kind, make in (("symbolic", os.symlink), ("hard", os.link)):
        with robot.row(f"file is a {kind} link to other bytes outside") as attempt:
            for file in sorted(robot.bundle.iterdir()):
                outside.write_bytes(file.read_bytes() + b"\0")
                kept = file.rename(file.parent.parent / "kept")
                make(outside, file)
                attempt(robot.loads)
                file.unlink()
                kept.rename(file)
    with robot.row("graph with external data, digests made anew") as attempt:
        for name in (PREDICT, ADAPT, LOSS):
            for make in (None, os.symlink, os.link):
                for location in ("tensors.bin", "../tensors.bin", str(robot.bundle / "tensors.bin")):
                    graph, tensors = _external((robot.bundle / name).read_bytes(), location)
                    place = robot.bundle / location
                    (outside if make else place).write_bytes(tensors)
                    if make:
                        make(outside, place)
                    with vouched(robot, robot.bundle / name, graph):
                        attempt(robot.loads)
                    place.unlink()
    outside.unlink()


def _external(graph: bytes, location: str) -> tuple[bytes, bytes]:
    """A graph whose tensors lie at `location`, and the bytes that belong there."""
    model = onnx.load_from_string(graph)
    tensors, offset = b"", 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
        tensor.raw_data = raw  # what lies elsewhere may only be raw
        external_data_helper.set_external_data(tensor, location, offset, len(raw))
        tensor.ClearField("raw_data")
        tensors, offset = tensors + raw, offset + len(raw)
    return model.SerializeToString(), tensors


def fill_the_disk(robot: Robot, folder: Path, step: int) -> None:
    """Save onto a file system with too little room: a real one if this process may mount it, else a limited file."""
    size = len(robot.saved.read_bytes())
    disk = folder / "disk"
    disk.mkdir()
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={8 * size // PAGE * PAGE + 64 * PAGE}", "tmpfs", disk],
        capture_output=True,
        check=False,
    ).returncode
    kept, robot.saved = robot.saved, disk / robot.saved.name
    try:
        shutil.copy(kept, robot.saved)
        with robot.row(f"disk full while an adaptation is saved ({'tmpfs' if mounted else 'limited size'})") as attempt:
            for room in range(0, size, PAGE if mounted else step):
                if mounted:
                    with (disk / "filler").open("wb", buffering=0) as filler:
                        filler.write(bytes(max(0, shutil.disk_usage(disk).free - room)))
                attempt(lambda room=room: _saves(robot, None if mounted else room) and robot.loads_saved())
                (disk / "filler").unlink(missing_ok=True)
                assert robot.loads_saved()
                assert [path.name for path in disk.iterdir()] == [robot.saved.name]
    finally:
        robot.saved = kept
        if mounted:
            subprocess.run(["umount", disk], check=True)


def _saves(robot: Robot, limit: int | None) -> bool:
    """Save, in files of at most `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        robot.save_new()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return True


def kill(robot: Robot, step: int) -> None:
    """Kill a process that saves: before and after each call that changes a file, and at every so many bytes."""
    with robot.row("killed at every call on a file while an adaptation is saved") as attempt:
        _kill_at_every_call(robot, robot.save_new, lambda: robot.loads_saved(new=True), attempt)
    with robot.row("killed at every call on a file while a bundle is replaced") as attempt:
        _kill_at_every_call(robot, robot.write_new, robot.bundle_is_whole, attempt)
    with robot.row(f"killed every {step} bytes while an adaptation is saved") as attempt:
        for limit in range(0, len(robot.saved.read_bytes()), step):

            def die(limit: int = limit) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python turns it into an error
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                robot.save_new()

            assert _in_child(die)
            attempt(robot.loads_saved)
            robot.restore()


def _kill_at_every_call(
    robot: Robot,
    action: Callable[[], None],
    whole: Callable[[], bool],
    attempt: Callable[[Callable[[], bool]], None],
) -> None:
    count = 0
    killed = True
    while killed:
        count += 1

        def die(last: int = count) -> None:
            calls = 0

            def hook(_frame: object, event: str, function: object) -> None:
                nonlocal calls
                if event in ("c_call", "c_return") and getattr(function, "__name__", None) in CALLS:
                    calls += 1
                    if calls == last:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.setprofile(hook)
            action()
            sys.setprofile(None)

        if killed := _in_child(die):
            attempt(whole)
            robot.restore()
    assert count > 1


def _in_child(action: Callable[[], None]) -> bool:
    """Run `action` in a copy of this process; whether a signal ended it."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main() -> None:
    """Inject every fault, print the table, and exit with 1 if anything was neither refused by name nor harmless."""
    options = settled(tyro.cli(Options, description=__doc__), STORED)
    begun = begin(options, (*RUNTIME, "benchmarks/faults.py"), seeds=(options.seed,))
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as place:
        robot = Robot(options.bundle, Path(place))
        break_files(robot, options, rng)
        break_manifests(robot, options, rng)
        link(robot)
        hostile_graphs(robot)
        hostile_files(robot)
        weak_keys(robot)
        wrong_samples(robot)
        fill_the_disk(robot, Path(place), options.step)
        kill(robot, options.step)
    print_lines(fault_lines(robot.rows), "what damage, attacks, full disks and kills lead to")
    keep(options, begun, robot.rows)
    sys.exit(any(not row["tried"] == row["refused"] + row["harmless"] == row["works_on"] for row in robot.rows))


if __name__ == "__main__":
    main()
