"""A trimmed graph is the same graph in fewer bytes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from msr_export.lowering import IR_VERSION, OPSET
from msr_export.trimming import trim
from msr_runtime.inference.session import make_session


def test_names_notes_and_defaults_are_left_out() -> None:
    """Inputs, outputs and large constants keep their names, and no short name is one of theirs."""
    rng = np.random.default_rng(0)
    constants = {"weight": rng.normal(size=(4, 40)), "a": rng.normal(size=(1, 40))}
    nodes = [
        helper.make_node("Gemm", ["x", "weight"], ["a long product"], "a long node", alpha=1.0, beta=1.0, transA=0),
        helper.make_node("Gemm", ["x", "weight"], ["another"], alpha=-2.0, transB=0),
        helper.make_node("Add", ["a long product", "a"], ["sum"]),
        helper.make_node("Add", ["sum", "another"], ["b"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 40])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    before = model.SerializeToString()
    trim(model, OPSET)
    after = model.SerializeToString()
    x = {"x": rng.normal(size=(1, 4)).astype(np.float32)}
    (wanted,), (seen,) = (
        make_session(each, "test", ["CPUExecutionProvider"]).run(["b"], x) for each in (before, after)
    )
    assert np.array_equal(np.asarray(seen), np.asarray(wanted))
    assert [part.name for part in model.graph.initializer] == ["weight", "a"]  # the first free name, by chance
    assert [list(node.output) for node in model.graph.node] == [["c"], ["d"], ["e"], ["b"]]
    assert [[part.name for part in node.attribute] for node in model.graph.node] == [[], ["alpha"], [], []]
    assert not any(node.name for node in model.graph.node)
    assert len(after) < len(before) - 100
