"""The policy server with openpi's own client: replies, refusals, readiness, metrics and imports."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpi_client.action_chunk_broker import ActionChunkBroker
from websockets.exceptions import ConnectionClosed, InvalidStatus

import msr_runtime
from msr_runtime.errors import BundleError
from msr_runtime.serving.access import Limits
from msr_runtime.serving.metrics import Metrics
from msr_runtime.serving.policy import Policy
from msr_runtime.serving.wire import decode, encode

# openpi's client opens its connection in a way that newer versions of websockets deprecate.
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")


ZEROS = {"position": np.zeros(2, np.float32), "angle": np.zeros(1, np.float32)}
SUPPORT = {"support_x": {name: array[None] for name, array in ZEROS.items()}, "support_y": {"force": np.zeros((2, 2))}}


class TestOpenpisClient:
    def test_it_drives_the_server_unchanged(self, running: Any, linear: Any, draw: Any, observation: Any) -> None:
        """The client gets metadata, actions and timings; `prev_total_ms` comes with the second reply and later ones."""
        client = running.openpi()
        metadata = client.get_server_metadata()
        assert [field["name"] for field in metadata["inputs"]] == ["position", "angle"]
        assert (metadata["model"], metadata["rate_hz"], metadata["inner_steps"]) == ("linear", 100.0, 3)
        first, second = client.infer(observation), client.infer(observation)
        wanted = linear.predict(linear.v0, draw(3, 3)[None])
        np.testing.assert_allclose(first["actions"], wanted, rtol=1e-5, atol=1e-6)
        assert first["server_timing"].keys() == {"infer_ms"}
        assert second["server_timing"].keys() == {"infer_ms", "prev_total_ms"}
        assert first["policy_timing"]["infer_ms"] <= first["server_timing"]["infer_ms"]
        assert first["actions"].dtype == np.float32

    def test_chunk_broker(self, running: Any, linear: Any, draw: Any, named: Any) -> None:
        """A chunk has one action per observation, and the broker returns the actions of a chunk one by one."""
        client, x = running.openpi(), draw(3, 4, 3)
        wanted = linear.predict(linear.v0, x)
        single = ActionChunkBroker(client, action_horizon=1)
        chunk = ActionChunkBroker(client, action_horizon=4)
        for row, action in zip(x, wanted, strict=True):
            for reply in (single.infer(named(row)), chunk.infer(named(x))):
                assert reply["actions"].shape == reply["force"].shape == (2,)
                np.testing.assert_allclose(reply["actions"], action, rtol=1e-4, atol=1e-5)
        single.reset()

    def test_adapt_reset_and_status(
        self, running: Any, linear: Any, draw: Any, named: Any, adapting: Any, support: Any
    ) -> None:
        """`infer` of openpi's client sends adapt, reset and status too; each changes only its own connection."""
        mine, other, x = running.openpi(), running.openpi(), draw(3, 4, 3)
        v = linear.adapt(*support, 3)
        assert mine.infer(adapting(*support))["accepted"]
        for client, acting in ((mine, v), (other, linear.v0), (running.openpi(), linear.v0)):
            np.testing.assert_allclose(client.infer(named(x))["force"], linear.predict(acting, x), rtol=1e-4, atol=1e-5)
        assert mine.infer({"__msr__": "status"})["adapted"]
        assert not other.infer({"__msr__": "status"})["adapted"]
        assert not mine.infer({"__msr__": "reset"})["adapted"]
        np.testing.assert_allclose(mine.infer(named(x))["force"], linear.predict(linear.v0, x), rtol=1e-4, atol=1e-5)

    def test_many_at_once(self, running: Any, linear: Any, draw: Any, named: Any, adapting: Any) -> None:
        """Clients that adapt and infer at the same time get actions of their own adaptation."""

        def drive(seed: int) -> None:
            client, x = running.openpi(), draw(seed, 4, 3)
            for turn in range(5):
                # Near the center, where no step is too long: the guard refuses an update that raises its own loss.
                near = linear.x_center + np.float32(0.3) * draw(10 * seed + turn, 6, 3)
                support = near, draw(10 * seed + turn + 1, 6, 2)
                assert client.infer(adapting(*support))["accepted"]
                wanted = linear.predict(linear.adapt(*support, 3), x)
                for _ in range(3):
                    np.testing.assert_allclose(client.infer(named(x))["force"], wanted, rtol=1e-3, atol=1e-4)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(drive, range(6)))


class TestRefusals:
    @pytest.mark.parametrize(
        ("frame", "sentence"),
        [
            (b"\xc1", "cannot be decoded"),
            (encode(ZEROS)[:-3], "cut off"),
            (b"\x91" * 5000, "cannot be decoded"),
            (b"\x91" * 500 + b"\xc0", "inside each other"),
            (encode(ZEROS).replace(b"<f4", b"|O8"), "dtype '|O8'"),
            (encode(ZEROS).replace(b"<f4", b"<c8"), "dtype '<c8'"),
            (b"", "cannot be decoded"),
            ("position", "a text frame"),
            (encode([1, 2]), "a map is wanted"),
            (encode({"position": [1, 2]}), "['position'], but ['position', 'angle'] are wanted"),
            (encode(ZEROS | {"angle": np.zeros(2)}), "angle (2,), but position (2,), angle (1,)"),
            (encode(ZEROS | {"angle": np.full(1, np.nan)}), "is nan"),
            (encode({"__msr__": "stop"}), "'stop'"),
            (encode({"__msr__": "adapt"} | SUPPORT), "1 shots and support_y has 2"),
        ],
    )
    def test_a_sentence_and_the_connection_goes_on(
        self, running: Any, frame: Any, sentence: str, observation: Any
    ) -> None:
        """A refusal is one line of text, and the connection stays open for the next request."""
        connection = running.raw()
        connection.send(frame)
        answer = connection.recv()
        assert isinstance(answer, str)
        assert sentence in answer
        assert "\n" not in answer
        assert "Traceback" not in answer
        connection.send(encode(observation))
        assert decode(connection.recv(decode=False))["force"].shape == (1, 2)

    def test_openpis_client_raises_it(self, running: Any, observation: Any) -> None:
        """Openpi's client raises a RuntimeError with the sentence, and can be used afterwards."""
        client = running.openpi()
        with pytest.raises(RuntimeError, match="has the fields"):
            client.infer({"state": np.zeros(3)})
        assert "prev_total_ms" in client.infer(observation)["server_timing"]

    def test_a_message_beyond_the_limit_ends_its_connection(self, serve: Callable[..., Any], observation: Any) -> None:
        """A message above the limit closes its connection with code 1009; other clients are not affected."""
        running = serve(limits=Limits(message_bytes=1000))
        other, connection = running.openpi(), running.raw()
        connection.send(bytes(1001))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert other.infer(observation)["force"].shape == (1, 2)

    def test_an_internal_error_reveals_no_details(
        self, running: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, observation: Any
    ) -> None:
        """The client gets a sentence and code 1011; only the server's log has the traceback."""

        def fail(self: Policy, message: dict) -> dict:
            raise KeyError("secret")

        client = running.openpi()
        monkeypatch.setattr(Policy, "answer", fail)
        with pytest.raises(RuntimeError) as refused:
            client.infer(observation)
        assert "its log says why" in str(refused.value)
        assert "secret" not in str(refused.value)
        with pytest.raises(ConnectionClosed) as closed:
            client.infer(observation)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert "KeyError: 'secret'" in caplog.text
        monkeypatch.undo()
        assert running.openpi().infer(observation)["force"].shape == (1, 2)


class TestProbes:
    def test_ready_once_models_are_loaded(self, serve: Callable[..., Any]) -> None:
        """Before the models are loaded, /healthz answers OK, /readyz answers 503 and clients are refused."""
        running = serve(load=False)
        assert running.get("healthz") == (200, "OK\n")
        assert running.get("readyz") == (503, "the models are being loaded\n")
        with pytest.raises(InvalidStatus, match="503"):
            running.openpi()
        running.call(running.server.load())
        assert running.get("readyz") == (200, "OK\n")

    def test_a_model_that_does_not_load(self, serve: Callable[..., Any], bundle_path: Path) -> None:
        """A server with one model that cannot be loaded never becomes ready."""
        running = serve(load=False, bundles={"a": bundle_path, "b": bundle_path / "none"})
        with pytest.raises(BundleError):
            running.call(running.server.load())
        assert running.get("readyz")[0] == 503

    def test_metrics(self, running: Any, adapting: Any, observation: Any, support: Any, eventually: Any) -> None:
        """/metrics counts requests by kind and outcome, their duration, connections and adaptations."""
        client = running.openpi()
        client.infer(observation)
        client.infer(adapting(*support))
        client.infer(adapting(support[0] * np.float32(1e18), support[1]))
        with pytest.raises(RuntimeError):
            client.infer({"x": 1})
        with pytest.raises(RuntimeError):
            client.infer([])  # pyright: ignore[reportArgumentType]
        wanted = {
            'msr_requests_total{kind="infer",model="linear",outcome="ok"}': 1,
            'msr_requests_total{kind="infer",model="linear",outcome="refused"}': 1,
            'msr_requests_total{kind="adapt",model="linear",outcome="ok"}': 2,
            'msr_requests_total{kind="unknown",model="linear",outcome="refused"}': 1,
            'msr_adaptations_total{model="linear",outcome="accepted"}': 1,
            'msr_adaptations_total{model="linear",outcome="refused"}': 1,
            **{f'msr_error_count{{answer="{who}",model="linear"}}': 2 for who in ("adapted", "v0", "mean", "last")},
            'msr_request_seconds_count{kind="infer",model="linear"}': 2,
            "msr_connections": 1,
            'msr_samples_outside_total{field="x.angle",model="linear"}': 6,
        }
        for name, value in wanted.items():
            assert eventually(lambda name=name, value=value: running.figure(name) == value), name
        assert running.figure('msr_request_seconds_sum{kind="infer",model="linear"}') > 0


SERVING = (*(f"serving.{name}" for name in ("_packages", "access", "metrics", "policy", "server", "wire")), "cli.serve")


def test_serving_imports_no_training_package() -> None:
    """Serving works without the training packages."""
    training = {"torch", "onnx", "onnxscript", "gymnasium", "mujoco", "tensorboard"}
    imports = "; ".join(f"import msr_runtime.{name}" for name in SERVING)
    code = f"import json, sys; {imports}; print(json.dumps([*sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not training & {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("name", SERVING)
def test_serving_knows_no_pickle(name: str) -> None:
    """No module of serving imports a package that can run code from bytes."""
    source = Path(msr_runtime.__file__).parent / f"{name.replace('.', '/')}.py"
    imported = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {node.module} | {alias.name for alias in node.names}
    assert imported
    assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "msgpack_numpy"}


def test_adaptations_to_strange_tasks_are_counted() -> None:
    """Beside those that were accepted or refused."""
    metrics = Metrics(lambda: 0)
    for inside in (True, False):
        metrics.adaptation("robot", accepted=True, inside=inside)
    text = metrics.text()
    assert 'msr_adaptations_outside_family_total{model="robot"} 1.0' in text
    assert 'msr_adaptations_total{model="robot",outcome="accepted"} 2.0' in text
