"""A graph that reads another file, loops, calls foreign code or makes huge arrays is refused by name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fault_robot import vouch
from google.protobuf import descriptor_pb2
from hostile import ADDITIONS
from onnx import TensorProto, helper, numpy_helper

from msr_runtime import AdaptiveModel, Bundle, BundleError
from msr_runtime.bundle import graphs
from msr_runtime.bundle.graphs import check_graph
from msr_runtime.bundle.store import ADAPT, PREDICT

Write = Callable[..., Path]
LARGEST = 10_000
FLOATS = np.ones((4, 4), np.float32)
REFUSALS = {
    **{operator: rf"\({operator}\), which runs a graph of its own" for operator in ("If", "Loop", "Scan")},
    "ONNX Runtime's operator": r"node 'added Gelu' \(Gelu\) of the domain 'com.microsoft'",
    "foreign operator": r"node 'added Own' \(Own\) of the domain 'my.own'",
    "function": "functions of its own",
    "sparse constant": "sparse constants",
    **dict.fromkeys(("huge constant", "ConstantOfShape", "Expand", "Tile"), "at most 10000 are allowed"),
}
"""What may be added to a graph, and how it is refused."""


def graph(*nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """A model from x `(4,)` to y, with the nodes in between."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    return helper.make_model(helper.make_graph([*nodes], "graph", [x], [y], [*constants]))


def elsewhere(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    """The same constant, with its numbers in the file "weights.bin"."""
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def test_a_graph_that_would_read_the_working_folder_is_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each constant and each tensor in an attribute may lie in another file. All are looked at, large ones too."""
    monkeypatch.chdir(tmp_path)
    large = numpy_helper.from_array(np.ones((50, 100), np.float32), "large")
    held = helper.make_node("Constant", [], ["u"], "held", value=elsewhere(large, tmp_path))
    product = helper.make_node("MatMul", ["x", "u"], ["y"], "product")
    listed = numpy_helper.from_array(FLOATS, "u")
    for model in (graph(held, product), graph(product, constants=(elsewhere(listed, tmp_path),))):
        with pytest.raises(BundleError, match="refers to external data"):
            check_graph(model.SerializeToString(), LARGEST, "the graph")
    with pytest.raises(BundleError, match=f"{PREDICT} is refused: it refers to external data"):
        write({PREDICT: model.SerializeToString()})


@pytest.mark.parametrize(("name", "says"), REFUSALS.items())
def test_what_has_no_place_in_a_bundle_is_refused(name: str, says: str) -> None:
    """A node that runs a graph of its own, foreign code, a sparse constant, and arrays of any size."""
    model = graph(helper.make_node("Identity", ["x"], ["y"]))
    ADDITIONS[name](model)
    with pytest.raises(BundleError, match=says):
        check_graph(model.SerializeToString(), LARGEST, "the graph")


def test_every_addition_has_a_refusal() -> None:
    """None of those that the benchmark of faults tries is left out here."""
    assert REFUSALS.keys() == ADDITIONS.keys()


def test_a_constant_that_a_node_holds_counts_too() -> None:
    """A sparse one, and a shape from which another node makes a huge array."""
    values, at = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.array([3]), "at")
    sparse = helper.make_sparse_tensor(values, at, [10])
    model = graph(helper.make_node("Constant", [], ["y"], "thin", sparse_value=sparse))
    with pytest.raises(BundleError, match="with a sparse constant"):
        check_graph(model.SerializeToString(), LARGEST, "the graph")
    held = helper.make_node("Constant", [], ["shape"], value_ints=[100_000, 100_000])
    model = graph(held, helper.make_node("ConstantOfShape", ["shape"], ["y"], "grow"))
    with pytest.raises(BundleError, match="at most 10000 are allowed"):
        check_graph(model.SerializeToString(), LARGEST, "the graph")


def test_a_graph_of_too_many_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is far above the exporter's graphs."""
    monkeypatch.setattr(graphs, "MAX_NODES", 3)
    model = graph(*(helper.make_node("Identity", ["x"], ["y"]) for _ in range(4)))
    with pytest.raises(BundleError, match="4 nodes, more than the 3 allowed"):
        check_graph(model.SerializeToString(), LARGEST, "the graph")


def test_a_model_in_another_format_is_refused(write: Write) -> None:
    """ONNX Runtime's own format would pass by the check."""
    with pytest.raises(BundleError, match=f"{ADAPT} is refused: it is not an ONNX model"):
        write({ADAPT: b"\x14\0\0\0ORTM" + bytes(100)})


def test_the_fields_are_those_of_onnx() -> None:
    """Each field of the check has the number, and is repeated or not, as in onnx.proto."""
    messages = (onnx.ModelProto, onnx.GraphProto, onnx.NodeProto, onnx.AttributeProto, onnx.TensorProto)
    for message in messages:
        described = descriptor_pb2.DescriptorProto()
        message.DESCRIPTOR.CopyToProto(described)
        theirs = {field.number: field for field in described.field}
        for field in graphs._FIELDS[message.DESCRIPTOR.name.removesuffix("Proto")].split(", "):
            _, number, kind = field.split()
            repeated = theirs[int(number)].label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
            assert repeated == kind.endswith("*"), field


def test_a_graph_is_looked_into_before_it_runs_and_not_for_native_code(
    bundle_path: Path, compiled: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    """Every way to ONNX Runtime refuses the graph. Native code loads, because it runs none."""
    path = shutil.copytree(compiled("linear", bundle_path), tmp_path / "hostile")
    model = onnx.load(path / ADAPT)
    ADDITIONS["Loop"](model)
    (path / ADAPT).write_bytes(model.SerializeToString())
    vouch(path)
    assert AdaptiveModel.load(path, engine="native").self_test() < 1e-5
    for way in (Bundle.open, AdaptiveModel.load, lambda path: AdaptiveModel(Bundle.read(path))):
        with pytest.raises(BundleError, match=rf"{ADAPT} is refused.*\(Loop\), which runs a graph of its own"):
            way(path)


def test_the_graphs_of_a_bundle_pass(bundle_path: Path) -> None:
    """A bundle that is right opens and loads."""
    assert AdaptiveModel.load(Bundle.open(bundle_path)).self_test() < 1e-5
