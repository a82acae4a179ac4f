"""Sessions use one thread, never change to another provider in silence, and refuse data from other files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from msr_runtime.errors import BundleError
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.session import make_session

CPU = ("CPUExecutionProvider",)


def test_options_keep_the_session_on_one_quiet_thread(
    linear_files: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """The session has one thread that does not spin. It prints no warning for weights that are inputs with defaults."""
    options = make_session(linear_files["predict.onnx"], "predict.onnx", CPU).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.disable_prepacking") == "0"
    assert capfd.readouterr() == ("", "")


def test_a_model_with_external_data_is_refused(
    linear_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that refers to an external file is refused, even if the file exists: its digest was never checked."""
    model = onnx.load_from_string(linear_files["predict.onnx"])
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    assert (tmp_path / "weights.bin").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="external"):
        make_session((tmp_path / "model.onnx").read_bytes(), "model.onnx", CPU)


@pytest.mark.parametrize("prepack", [True, False])
def test_a_large_constant_is_not_read_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepack: bool
) -> None:
    """No optimizer of ONNX Runtime touches it, so it would be read when the session is made."""
    weights = np.ones((300, 200), np.float32)
    constant = numpy_helper.from_array(weights, "u")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 300])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 200])
    product = helper.make_node("MatMul", ["x", "u"], ["y"])
    model = helper.make_model(helper.make_graph([product], "g", [x], [y], [constant]), ir_version=8)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 18))
    make_session(model.SerializeToString(), "model.onnx", CPU, prepack=prepack)
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    assert (tmp_path / "weights.bin").stat().st_size == weights.nbytes
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="external"):
        make_session((tmp_path / "model.onnx").read_bytes(), "model.onnx", CPU, prepack=prepack)


def test_a_model_in_the_format_of_onnxruntime_is_refused(linear_files: dict[str, bytes], tmp_path: Path) -> None:
    """It would load without the checks of a bundle, which read ONNX."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(linear_files["predict.onnx"], options, providers=CPU)
    raw = (tmp_path / "model.ort").read_bytes()
    assert raw[4:8] == b"ORTM"
    with pytest.raises(BundleError, match="model is refused"):
        make_session(raw, "model", CPU)


def test_a_refused_graph_prints_nothing(linear_files: dict[str, bytes], capfd: pytest.CaptureFixture[str]) -> None:
    """A constant whose size does not fit its shape raises an error, and nothing is printed."""
    model = onnx.load_from_string(linear_files["predict.onnx"])
    model.graph.initializer[0].raw_data += bytes(4)
    with pytest.raises(BundleError, match="is refused by onnxruntime"):
        make_session(model.SerializeToString(), "predict.onnx", CPU)
    assert capfd.readouterr() == ("", "")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_model_are_refused(raw: bytes) -> None:
    """Any bytes that are not a model raise a BundleError that names the file."""
    with pytest.raises(BundleError, match=r"predict\.onnx is refused"):
        make_session(raw, "predict.onnx", CPU)
