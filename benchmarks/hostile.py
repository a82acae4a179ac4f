"""What an attacker or a broken sensor hands over: graphs, files, keys and samples that have to be refused by name.

`faults.py` counts what becomes of each. Files are changed under digests that vouch for them.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fault_robot import Robot, changed, vouched
from onnx import TensorProto, helper, numpy_helper

from msr_runtime import AdaptiveModel, Bundle
from msr_runtime.bundle.manifest import MANIFEST
from msr_runtime.bundle.store import ADAPT, GOLDEN, LOSS, PREDICT, START

HUGE = 2_000_000_000
"""Bytes of a file that belongs to no bundle. The file is sparse, so it needs no room on the disk."""
_PRIME = 2**255 - 19
_EIGHTH = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
"""The y of a point of order 8 on the curve of Ed25519."""
WEAK_POINTS = tuple(
    (y | sign << 255).to_bytes(32, "little")
    for y in (0, 1, _EIGHTH, _PRIME - _EIGHTH, _PRIME - 1, _PRIME, _PRIME + 1, 2**255 - 1)
    for sign in (0, 1)
)
"""Public keys of Ed25519 that anyone could sign for: points of small order, and second forms of a point."""


def hostile_graphs(robot: Robot) -> None:
    """Add to each graph what could run without end, call foreign code, fill the memory or hide numbers."""
    with robot.row("graph with a loop, foreign code or a huge constant, digests made anew") as attempt:
        for name in (PREDICT, ADAPT, LOSS):
            whole = (robot.bundle / name).read_bytes()
            for add in ADDITIONS.values():
                model = onnx.load_from_string(whole)
                add(model)
                with vouched(robot, robot.bundle / name, model.SerializeToString()):
                    attempt(robot.loads)
            with vouched(robot, robot.bundle / name, b"\x14\0\0\0ORTM" + bytes(100)):  # ONNX Runtime's own format
                attempt(robot.loads)


def hostile_files(robot: Robot) -> None:
    """Make files huge, pack a huge array into the golden example, and let it ask for endless inner steps."""
    with robot.row("huge file, or one that unpacks to a huge array") as attempt:
        for name in (MANIFEST, PREDICT, ADAPT, LOSS, START, GOLDEN):
            with changed(robot.bundle / name, (robot.bundle / name).read_bytes()):
                with (robot.bundle / name).open("r+b") as file:
                    file.truncate(HUGE)
                attempt(robot.loads)
        golden = robot.model.bundle.golden()._asdict()
        for part in golden.keys() - {"steps"}:
            for shape in ((1, 20_000_000), (20_000_000, 1)):
                packed = _archive(golden | {part: np.zeros(shape, np.float32)})
                with vouched(robot, robot.bundle / GOLDEN, packed):
                    attempt(robot.loads)
        for steps in (-1, 0, 10**12):
            with vouched(robot, robot.bundle / GOLDEN, _archive(golden | {"steps": np.array(steps)})):
                attempt(robot.loads)
    with robot.row("manifest that asks for endless inner steps, digests made anew") as attempt:
        for steps in (0, -1, 10**12, 10**40):
            tree = json.loads((robot.bundle / MANIFEST).read_bytes()) | {"inner_steps": steps}
            with vouched(robot, robot.bundle / MANIFEST, json.dumps(tree).encode()):
                attempt(robot.loads)


def weak_keys(robot: Robot) -> None:
    """Trust public keys that anyone could sign for, keys of other kinds, and no key at all."""
    key = robot.bundle.parent / "weak.pem"
    with robot.row("public key that anyone could sign for, or no key at all") as attempt:
        for point in WEAK_POINTS:
            key.write_bytes(public_pem(point))
            attempt(lambda: _opens(robot, [key]))
        for data in (b"", b"-----BEGIN PUBLIC KEY-----\n", b"\0" * 1000):
            key.write_bytes(data)
            attempt(lambda: _opens(robot, [key]))
        key.unlink()
        for keys in ([key], []):
            attempt(lambda keys=keys: _opens(robot, keys))


def public_pem(point: bytes) -> bytes:
    """Return a public key of Ed25519 as the text of a PEM file."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return Ed25519PublicKey.from_public_bytes(point).public_bytes(serialization.Encoding.PEM, form)


def wrong_samples(robot: Robot) -> None:
    """Give predict and adapt what no sensor should send: after a refusal the old weights act."""
    golden = robot.model.bundle.golden()
    bounded = robot.model.manifest.input_limit is not None  # else nothing is too far away
    model = AdaptiveModel(robot.model.bundle, check_inputs=True)
    with robot.row("observation that is not finite, of another shape or type, masked, or absurdly far away") as attempt:
        for x in _wrong(golden.x, bounded):
            attempt(lambda x=x: model.predict(x) is None)
    with robot.row("support set that is so") as attempt:
        for x in _wrong(golden.support_x, bounded):
            attempt(lambda x=x: robot.model.adapt(x, golden.support_y) is None)
        for y in _wrong(golden.support_y, bounded):
            attempt(lambda y=y: robot.model.adapt(golden.support_x, y) is None)
        attempt(lambda: robot.model.adapt(golden.support_x[:0], golden.support_y[:0]) is None)


def _wrong(right: np.ndarray, bounded: bool) -> Iterator[Any]:
    """Yield what is no batch of samples like `right`."""
    for value in (np.nan, np.inf, -np.inf):
        wrong = right.copy()
        wrong.flat[wrong.size // 2] = value
        yield wrong
    if bounded:
        yield from (np.full_like(right, value) for value in (3e38, -3e38, 1e12))
    yield np.ma.masked_array(right, np.zeros(right.shape, bool))
    yield right[..., :-1]
    yield right[None]
    yield np.concatenate([right, right], -1)
    yield right.astype(complex)
    yield right.astype(str)
    yield np.full(right.shape, 10**400, object)  # no float holds it
    yield None
    yield [[1.0], [1.0, 2.0]]


def _opens(robot: Robot, keys: list[Path]) -> bool:
    Bundle.open(robot.bundle, keys)
    return False  # the bundle is not signed


def _archive(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def _node(operator: str, *inputs: str, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    """Return what adds one node to a graph, in front of all others."""

    def add(model: onnx.ModelProto) -> None:
        node = helper.make_node(operator, inputs, [f"{operator} out"], f"added {operator}", **attributes)
        model.graph.node.insert(0, node)

    return add


def _constant(tensor: TensorProto, *nodes: Callable[[onnx.ModelProto], None]) -> Callable[[onnx.ModelProto], None]:
    """Return what adds a constant to a graph, and nodes that use it."""

    def add(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(tensor)
        for node in nodes:
            node(model)

    return add


def _function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Identity", ["a"], ["b"])]
    model.functions.append(helper.make_function("my.own", "f", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))


def _sparse(model: onnx.ModelProto) -> None:
    values, at = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.array([3]), "at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [10]))


def _branch(name: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Identity", ["added"], [name])], name, [], [out])


_SHAPE = numpy_helper.from_array(np.array([100_000, 100_000]), "added")
ADDITIONS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "If": _node("If", "added", then_branch=_branch("a"), else_branch=_branch("b")),
    "Loop": _node("Loop", "", "added", "added", body=_branch("a")),
    "Scan": _node("Scan", "added", body=_branch("a"), num_scan_inputs=1),
    "ONNX Runtime's operator": _node("Gelu", "added", domain="com.microsoft"),
    "foreign operator": _node("Own", "added", domain="my.own"),
    "function": _function,
    "sparse constant": _sparse,
    "huge constant": _constant(TensorProto(name="added", dims=[10**6, 10**6], data_type=TensorProto.FLOAT)),
    **{
        operator: _constant(_SHAPE, _node(operator, *inputs, "added"))
        for operator, inputs in {"ConstantOfShape": (), "Expand": ("x",), "Tile": ("x",)}.items()
    },
}
"""What is added to a graph: its name to a function that adds it to a model."""
