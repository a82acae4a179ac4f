"""`msr check`: a policy in an ONNX file against the symmetry of a family."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def write(path: Path, weight: np.ndarray, samples: str | int = "n") -> Path:
    """Write an actor, y = x weight, beside a critic of one number."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["x", "v"], ["value"])]
    sizes = {"x": weight.shape[0], "value": 1, "y": weight.shape[1]}
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [samples, n]) for name, n in sizes.items()}
    weights = {"w": weight, "v": weight[:, :1]}
    numbers = [numpy_helper.from_array(each.astype(np.float32), name) for name, each in weights.items()]
    graph = helper.make_graph(nodes, "policy", [ends["x"]], [ends["value"], ends["y"]], numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("samples", ["n", 1])
def test_a_policy_that_turns_with_its_robot(trained, tmp_path, msr, capsys, samples) -> None:
    """The output that has the width of y is taken, also of a file that takes one sample at a time."""
    policy = write(tmp_path / "policy.onnx", 2 * np.eye(2), samples)
    assert msr("check", policy, f"{trained / 'push.py'}:Push") == 0
    out, err = capsys.readouterr()
    assert f"{policy}, x to y" in out
    assert "element 1 of C4: force 0 holds" in out
    assert err == ""


def test_a_policy_that_does_not(trained, tmp_path, msr, capsys) -> None:
    """Exit code 1, with the field and its error."""
    policy = write(tmp_path / "policy.onnx", np.diag([2.0, 0.1]))
    assert msr("check", policy, f"{trained / 'push.py'}:Push") == 1
    out, err = capsys.readouterr()
    assert "element 1 of C4: force 0.94 BROKEN" in out
    assert "a symmetry is broken: an error is above 0.3. Either the policy does not have it, or" in err


@pytest.mark.parametrize(
    ("weight", "says"), [(np.eye(2)[:, :1], "an output whose last axis has 2 numbers"), (None, "there is no ONNX file")]
)
def test_what_is_no_policy_for_the_family_is_refused(trained, tmp_path, msr, refusal, weight, says) -> None:
    policy = tmp_path / "policy.onnx"
    if weight is not None:
        write(policy, weight)
    assert msr("check", policy, f"{trained / 'push.py'}:Push") == 2
    assert says in refusal()


def test_fields_that_contradict_the_group_are_warned_of(trained, tmp_path, msr, capsys) -> None:
    """The group is used, and what the fields say is written into bundles."""
    text = (trained / "push.py").read_text()
    (tmp_path / "push.py").write_text(text.replace("high=8.0)", "high=8.0, representation='scalar')"))
    policy = write(tmp_path / "policy.onnx", np.eye(2))
    assert msr("check", policy, f"{tmp_path / 'push.py'}:Push") == 0
    _, err = capsys.readouterr()
    assert err.startswith(
        "msr: WARNING: family 'push': field 'force' of y says that it is a scalar, but element 1 of C4"
    )
    assert err.count("\n") == 1
