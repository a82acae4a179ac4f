"""Sessions: no silent fallback, no foreign data, and a bound predictor that computes what a plain run does."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import external_data_helper

from msr_runtime.adaptation import InnerLoop
from msr_runtime.errors import BundleError, InputError
from msr_runtime.providers import HOST, Device
from msr_runtime.session import BoundPredictor, Predictors, State, make_session, side

CPU = ("CPUExecutionProvider",)


@pytest.fixture
def predictor(linear: Any, linear_files: dict[str, bytes]) -> BoundPredictor:
    """The linear network with weights of its own bound."""
    return bind(linear, linear_files["predict.onnx"], np.ones((1, 4), np.float32))


def bind(linear: Any, model: bytes, v: np.ndarray, device: Device = HOST) -> BoundPredictor:
    """A predictor for the network of `model` with weights folded from `v`."""
    session, manifest = make_session(model, "predict.onnx", CPU), linear.manifest()
    x, y = side(session, "x", manifest.inputs), side(session, "y", manifest.outputs, output=True)
    state = State(linear.start(v), device)
    return Predictors(session, x, y, state).make(state.block)


def test_options_keep_the_session_on_one_quiet_thread(
    linear_files: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """One thread, no spinning, and no warning for weights that are inputs with defaults."""
    options = make_session(linear_files["predict.onnx"], "predict.onnx", CPU).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.disable_prepacking") == "0"
    assert capfd.readouterr() == ("", "")


def test_a_model_with_external_data_is_refused(
    linear_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that points at a file is refused although the file is there: only checked bytes reach a session."""
    model = onnx.load_from_string(linear_files["predict.onnx"])
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    assert (tmp_path / "weights.bin").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="external"):
        make_session((tmp_path / "model.onnx").read_bytes(), "model.onnx", CPU)


def test_a_refused_graph_prints_nothing(linear_files: dict[str, bytes], capfd: pytest.CaptureFixture[str]) -> None:
    """The error says it all: a constant of another size than its shape, found as the session is built."""
    model = onnx.load_from_string(linear_files["predict.onnx"])
    model.graph.initializer[0].raw_data += bytes(4)
    with pytest.raises(BundleError, match="does not match"):
        make_session(model.SerializeToString(), "predict.onnx", CPU)
    assert capfd.readouterr() == ("", "")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_model_are_refused(raw: bytes) -> None:
    """Whatever the bytes, the refusal is a BundleError that names the file."""
    with pytest.raises(BundleError, match=r"predict\.onnx is refused"):
        make_session(raw, "predict.onnx", CPU)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (7, 3)])
def test_a_bound_predictor_computes_the_network(linear: Any, predictor: BoundPredictor, shape: tuple[int, ...]) -> None:
    """One sample or a batch, with the bound weights and not the defaults; repeated calls do not disturb each other."""
    v, rng = np.ones((1, 4), np.float32), np.random.default_rng(0)
    x = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    y = [predictor(part) for part in x]
    for seen, part in zip(y, x, strict=True):
        assert (seen.dtype, seen.shape) == (np.float32, (*shape[:-1], 2))
        np.testing.assert_allclose(seen, linear.predict(v, part), rtol=1e-5, atol=1e-5)


def test_what_converts_is_converted(predictor: BoundPredictor) -> None:
    """Lists, float64, integers, other byte orders and strided views give what float32 gives."""
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    strided = np.zeros((4, 6), np.float32)[::2, ::2]
    strided[...] = x
    for same in (x.tolist(), x.astype(float), x.astype(np.int64), x.astype(">f4"), strided, np.asfortranarray(x)):
        np.testing.assert_array_equal(predictor(same), predictor(x))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(2),
        np.zeros((0, 3)),
        np.zeros((3, 2)),
        np.zeros((1, 1, 3)),
        np.float32(1),
        [[1, 2, 3], [1]],
        ["a", "b", "c"],
        np.zeros(3, complex),
        np.array([None] * 3),
    ],
)
def test_wrong_shapes_and_dtypes_are_input_errors(predictor: BoundPredictor, x: object) -> None:
    """Nothing is broadcast, parsed or truncated into an input."""
    with pytest.raises(InputError, match="x "):
        predictor(x)  # pyright: ignore[reportArgumentType]


def test_a_shape_error_lists_the_fields(predictor: BoundPredictor) -> None:
    """The message shows what the vector is made of."""
    with pytest.raises(InputError, match=r"\(4,\).*position \(2,\) \+ angle \(1,\)"):
        predictor(np.zeros(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_named(predictor: BoundPredictor, bad: float) -> None:
    """The message gives sample, field, element and index; the predictor goes on afterwards."""
    x = np.zeros((3, 3))
    x[1, 1] = bad
    with pytest.raises(InputError, match=r"sample 1, field 'position' element 1 \(index 1\)"):
        predictor(x)
    assert np.isfinite(predictor(np.zeros((3, 3)))).all()


def test_large_finite_values_are_no_error(predictor: BoundPredictor) -> None:
    """The quick check overflows on them, the exact one then lets them through."""
    assert predictor(np.full(3, 1e30, np.float32)).shape == (2,)


def test_many_batch_sizes_do_not_pile_up(linear: Any, predictor: BoundPredictor) -> None:
    """Buffers are kept for a few shapes only, and the others are computed all the same."""
    for batch in range(1, 40):
        x = np.full((batch, 3), batch, np.float32)
        np.testing.assert_allclose(predictor(x), linear.predict(predictor.tensors["v"], x), rtol=1e-5)
    assert len(predictor._pools) <= 8


def test_threads_do_not_share_buffers(linear: Any, predictor: BoundPredictor) -> None:
    """Concurrent calls of one shape each get the answer to their own question."""

    def ask(seed: int) -> bool:
        x = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
        return all(np.allclose(predictor(x), linear.predict(predictor.tensors["v"], x), atol=1e-5) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(8)))


def test_a_state_lies_in_one_block(linear: Any) -> None:
    """Its tensors are copies that share the block's memory, with ONNX Runtime's values too."""
    tensors = linear.start()
    state = State(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(state.tensors[name], tensor)
        assert np.shares_memory(state.tensors[name], state.block)
        assert not np.shares_memory(state.tensors[name], tensor)
    state.block[:] = 7
    assert all((value.numpy() == 7).all() for value in state.values.values())


def test_values_with_memory_of_their_own_are_sent_and_fetched(linear: Any) -> None:
    """As on a GPU: until it is sent, a change of the block is not seen, nor one of the values until it is fetched."""
    state = State(linear.start(), Device(copies=True))
    np.testing.assert_array_equal(state.values["v"].numpy(), linear.v0)
    state.block[:] = 7
    np.testing.assert_array_equal(state.values["v"].numpy(), linear.v0)
    state.send()
    assert all((value.numpy() == 7).all() for value in state.values.values())
    for name, value in state.values.items():
        value.update_inplace(linear.start()[name])
    assert (state.tensors["v"] == 7).all()
    state.fetch()
    assert all(np.array_equal(state.tensors[name], tensor) for name, tensor in linear.start().items())


@pytest.mark.parametrize("shape", [(3,), (7, 3)])
def test_a_predictor_on_a_device_computes_the_network(
    linear: Any, linear_files: dict[str, bytes], shape: tuple[int, ...]
) -> None:
    """Inputs and weights are copied there and the output back, call by call."""
    v, rng = np.ones((1, 4), np.float32), np.random.default_rng(0)
    predictor = bind(linear, linear_files["predict.onnx"], v, Device(copies=True))
    for _ in range(3):
        x = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(predictor(x), linear.predict(v, x), rtol=1e-5, atol=1e-5)


def test_the_inner_loop_on_a_device_keeps_its_states_there(linear: Any, linear_files: dict[str, bytes]) -> None:
    """Steps go from value to value; only where the loop ends do they come back."""
    adapt, loss = (make_session(linear_files[f"{name}.onnx"], name, CPU) for name in ("adapt", "loss"))
    inner_loop = InnerLoop(adapt, loss, State(linear.start(), Device(copies=True)))
    rng = np.random.default_rng(0)
    for steps in (1, 2, 5):
        x, y = (rng.standard_normal((6, size)).astype(np.float32) for size in (3, 2))
        end = inner_loop(x, y, steps)
        np.testing.assert_allclose(end.block[:4][None], linear.adapt(x, y, steps), rtol=1e-4, atol=1e-5)
        assert end.loss_before == pytest.approx(linear.step(linear.v0, x, y)[1], rel=1e-4)
        assert end.loss_after == pytest.approx(linear.step(linear.adapt(x, y, steps), x, y)[1], rel=1e-4)
        on = inner_loop(x, y, 1, begin=end.block)
        np.testing.assert_allclose(on.block[:4][None], linear.adapt(x, y, steps + 1), rtol=1e-4, atol=1e-5)


def test_memory_is_used_again_only_when_nobody_holds_the_predictor(linear: Any, linear_files: dict[str, bytes]) -> None:
    """Predictors that are held keep their weights; those let go lend their bindings, opened shapes included."""
    session, manifest = make_session(linear_files["predict.onnx"], "predict.onnx", CPU), linear.manifest()
    x, y = side(session, "x", manifest.inputs), side(session, "y", manifest.outputs, output=True)
    predictors = Predictors(session, x, y, State(linear.start()))
    points = [np.full((1, 4), number, np.float32) for number in range(6)]
    blocks, sample = [State(linear.start(v)).block for v in points], np.ones((5, 3), np.float32)

    held = [predictors.make(block) for block in blocks]
    for predictor, v in zip(held, points, strict=True):
        np.testing.assert_allclose(predictor(sample), linear.predict(v, sample), rtol=1e-5, atol=1e-5)
    bound = held[2]._bound
    del predictor, held[2]
    again = predictors.make(blocks[0], like=held[1])
    assert again._bound is bound
    assert again._pools.keys() == {(3,), (5, 3)}
    np.testing.assert_allclose(again(sample), linear.predict(points[0], sample), rtol=1e-5, atol=1e-5)
    for predictor, number in zip(held, (0, 1, 3, 4, 5), strict=True):
        np.testing.assert_allclose(predictor(sample), linear.predict(points[number], sample), rtol=1e-5, atol=1e-5)


def import_in(*, path: Path | None = None, before: str = "pass") -> str:
    """The last line of what importing ONNX Runtime in a fresh interpreter says."""
    code = (
        f"import sys; {before}; import msr_runtime._onnxruntime; import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_telemetry_is_off_by_default() -> None:
    """The variable is set before the import."""
    assert import_in() == "1"


def test_a_missing_onnxruntime_says_what_to_install() -> None:
    """The error names both extras."""
    message = import_in(before="sys.modules['onnxruntime'] = None")
    assert message.startswith("ImportError")
    assert "msr-runtime[cpu]" in message
    assert "msr-runtime[gpu]" in message


def test_two_onnxruntimes_are_refused(tmp_path: Path) -> None:
    """The CPU and the GPU distribution overwrite each other's folder, so having both is an error."""
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.30.0.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.30.0\n"
        (tmp_path / f"{name}-1.30.0.dist-info" / "METADATA").write_text(metadata)
    assert "uninstall both" in import_in(path=tmp_path)


def test_a_side_must_fit_the_manifest(linear: Any, linear_files: dict[str, bytes]) -> None:
    """A graph whose width is not that of the fields, or which lacks the side, is refused."""
    session = make_session(linear_files["predict.onnx"], "predict.onnx", CPU)
    with pytest.raises(BundleError, match="make 2 numbers"):
        side(session, "x", linear.manifest().outputs)
    with pytest.raises(BundleError, match="no input 'z'"):
        side(session, "z", ())
