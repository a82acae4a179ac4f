"""The `msr` command as a user runs it: whole, wrong, damaged, interrupted and without torch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, Bundle
from msr_runtime._onnxruntime import onnxruntime
from msr_runtime.cli import COMMANDS, main
from msr_runtime.recorder import Recorder

FAMILY = '''
"""A planar push with an unknown gain: symmetric under quarter turns."""

import numpy as np
from msr_runtime.task import ClosedLoop, Field, Group, TaskBatch

QUARTERS = np.stack([np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), n) for n in range(4)])


class Push:
    name = "push"
    inputs = (Field(name="velocity", shape=(2,), unit="m/s", low=-4.0, high=4.0),)
    outputs = (Field(name="force", shape=(2,), unit="N", low=-8.0, high=8.0),)
    loss = "mse"
    query_sets = ("all",)
    rate_hz = 50.0

    def sample(self, rng, tasks, shots, queries, split):
        low, high = (1.0, 2.0) if split == "train" else (0.5, 1.0)
        x = rng.normal(size=(tasks, shots + queries, 2))
        y = rng.uniform(low, high, (tasks, 1, 1)) * x
        x, y = x.astype(np.float32), y.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng, x, y):
        turn = QUARTERS[rng.integers(4, size=x.shape[:-1])].astype(np.float32)
        return np.einsum("...ij,...j->...i", turn, x), np.einsum("...ij,...j->...i", turn, y)

    def group(self):
        return Group("C4", QUARTERS, QUARTERS)

    def evaluate(self, adapt, rng, tasks, split):
        batch = self.sample(rng, tasks, 5, 8, split)
        errors = np.zeros(tasks)
        if adapt is not None:
            for task in range(tasks):
                predict = adapt(batch.support_x[task], batch.support_y[task])
                errors[task] = np.abs(predict(batch.query_x[task]) - batch.query_y[task]).mean()
        return ClosedLoop("force missed", "N", False, errors)
'''
TINY = [
    *("--settings.steps", "20", "--settings.training-tasks", "16", "--settings.samples-per-task", "32"),
    *("--settings.validation-every", "10", "--learner.width", "8", "--learner.depth", "1", "--learner.filters", "4"),
]


def msr(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a family's file, a run of 20 steps on it and the bundle of that run. Read only."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "push.py").write_text(FAMILY, encoding="utf-8")
    assert msr("train", f"{folder / 'push.py'}:Push", folder / "run", *TINY) == 0
    assert msr("export", folder / "run", folder / "bundle") == 0
    return folder


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, np.ndarray]:
    """Support and query for the linear bundle."""
    rng = np.random.default_rng(0)
    shapes = {"support_x": (5, 3), "support_y": (5, 2), "query_x": (4, 3), "query_y": (4, 2)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command wrote, on stderr alone."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("msr: ")
    assert err.count("\n") == 1
    return err


class TestFromSimulationToRobot:
    def test_info(self, trained, capsys) -> None:
        """`info` says what the bundle of a real run is."""
        assert msr("info", trained / "bundle") == 0
        out = capsys.readouterr().out
        for part in ("push", "msr-full", "velocity", "m/s", "C4", "10 shots, 5 inner steps", "50 Hz", "adapt.onnx"):
            assert part in out

    def test_info_of_the_machine(self, capsys) -> None:
        """Without a bundle, what the machine offers: the runtime, each provider tried, cores and scheduling."""
        assert msr("info") == 0
        lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        assert onnxruntime.__version__ in lines["onnxruntime here"]
        assert lines["CPUExecutionProvider"].strip() == "starts"
        assert {"CUDAExecutionProvider", "TensorrtExecutionProvider", "cores", "real time"} <= lines.keys()
        assert "bundle" not in lines

    def test_adapt(self, trained, tmp_path, capsys) -> None:
        """A saved adaptation acts as the one that was printed, and the query error is given before and after."""
        x = np.random.default_rng(1).normal(size=(2, 10, 2)).astype(np.float32)
        np.savez(tmp_path / "a.npz", support_x=x[0], support_y=0.7 * x[0], query_x=x[1], query_y=0.7 * x[1])
        assert msr("adapt", trained / "bundle", tmp_path / "a.npz", "--save", tmp_path / "a.safetensors") == 0
        out = capsys.readouterr().out
        assert "query error" in out
        assert "accepted" in out
        model = AdaptiveModel.load(trained / "bundle")
        model.load_adaptation(tmp_path / "a.safetensors")
        np.testing.assert_array_equal(
            model.predict(x[1]), model.adapted(x[0], np.float32(0.7) * x[0])(x[1]), strict=True
        )

    def test_bundle_and_run_score_alike(self, trained, tmp_path, capsys) -> None:
        """ONNX Runtime and torch give the same errors on the same tasks, closed loop and reference included."""
        common = ("--tasks", "8", "--closed-loop-tasks", "3", "--json")
        assert msr("evaluate", trained / "run", *common, tmp_path / "run.json") == 0
        family = f"{trained / 'push.py'}:Push"
        assert msr("evaluate", trained / "bundle", "--family", family, *common, tmp_path / "bundle.json") == 0
        run, bundle = (json.loads((tmp_path / f"{name}.json").read_text())[0] for name in ("run", "bundle"))
        names = [name for name, value in run.items() if isinstance(value, dict)]
        assert names == [
            "error all",
            "error orbit",
            "equivariance error",
            "force missed [N], adapted",
            "force missed [N], reference",
        ]
        for name in names:
            assert bundle[name]["mean"] == pytest.approx(run[name]["mean"], rel=1e-3, abs=1e-6)
        assert run["force missed [N], reference"]["mean"] == 0
        assert "±" in capsys.readouterr().out

    def test_own_family_has_to_be_named(self, trained, capsys) -> None:
        """A bundle knows its family's name, not the file it came from: the refusal says what to add."""
        assert msr("evaluate", trained / "bundle") == 2
        assert "--family" in refusal(capsys)

    def test_family_of_other_fields(self, trained, capsys) -> None:
        """A model is not scored on a robot that it does not fit."""
        assert msr("evaluate", trained / "run", "--family", "hex-drive") == 2
        assert "other fields" in refusal(capsys)

    def test_resume_takes_the_runs_own_settings(self, trained, tmp_path, capsys) -> None:
        """`--resume` alone goes on from the checkpoint; with other settings it is refused."""
        run, family = tmp_path / "run", f"{trained / 'push.py'}:Push"
        shutil.copytree(trained / "run", run)
        assert msr("train", family, run, "--resume") == 0
        assert "20 steps" in capsys.readouterr().out
        assert msr("train", family, run, "--resume", "--settings.steps", "40") == 2
        assert "other settings" in refusal(capsys)
        assert msr("train", family, run) == 2
        assert "holds a run already" in refusal(capsys)

    def test_interrupted(self, trained, tmp_path) -> None:
        """Ctrl-C ends with code 130, a checkpoint and the command that goes on from it."""
        run = tmp_path / "run"
        start = [sys.executable, "-c", "from msr_runtime.cli import main; main()"]
        asked = ["train", f"{trained / 'push.py'}:Push", str(run), *TINY, "--settings.steps", "100000"]
        process = subprocess.Popen(
            [*start, *asked],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        ended = time.monotonic() + 60
        while not (run / "last.safetensors").exists() and time.monotonic() < ended:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "--resume" in err
        assert (run / "last.safetensors").exists()


class TestTrust:
    def test_from_key_to_verified_bundle(self, bundle_path, tmp_path, capsys) -> None:
        """`keygen`, `sign`, `verify`: the fingerprint that the first prints is the one that the last finds."""
        private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
        assert msr("keygen", private) == 0
        fingerprint = capsys.readouterr().out.split()[1]
        assert msr("verify", bundle_path) == 0
        assert "signature  none" in capsys.readouterr().out
        assert msr("sign", bundle_path, "--key", private) == 0
        assert msr("info", bundle_path) == 0
        assert "Ed25519" in capsys.readouterr().out
        assert msr("verify", bundle_path) == 0
        assert "not checked" in capsys.readouterr().out
        assert msr("verify", bundle_path, "--key", public) == 0
        assert f"by key {fingerprint}" in capsys.readouterr().out

    @pytest.mark.parametrize("fault", ["unsigned", "foreign", "damaged"])
    def test_failed_check(self, fault, bundle_path, tmp_path, capsys) -> None:
        """A bundle that is not what the key's owner made is a failed check: code 1 and one sentence."""
        for name in ("key", "other"):
            assert msr("keygen", tmp_path / f"{name}.pem") == 0
        if fault != "unsigned":
            assert msr("sign", bundle_path, "--key", tmp_path / "key.pem") == 0
        if fault == "damaged":
            (bundle_path / "adapt.onnx").write_bytes(b"x")
        capsys.readouterr()
        key = tmp_path / ("other.pub.pem" if fault == "foreign" else "key.pub.pem")
        assert msr("verify", bundle_path, "--key", key) == 1
        assert {"unsigned": "not signed", "foreign": "none of the 1 trusted keys", "damaged": "adapt.onnx"}[
            fault
        ] in refusal(capsys)

    @pytest.mark.parametrize("command", ["adapt", "bench", "replay", "serve"])
    def test_commands_that_run_a_bundle_can_want_a_signature(self, command, bundle_path, tmp_path, capsys) -> None:
        """With --key an unsigned bundle is refused before anything of it runs."""
        assert msr("keygen", tmp_path / "key.pem") == 0
        capsys.readouterr()
        np.savez(tmp_path / "a.npz", support_x=np.zeros((2, 3)), support_y=np.zeros((2, 2)))
        with Recorder(tmp_path / "a.mcap", Bundle.open(bundle_path)):
            pass
        arguments = {
            "adapt": [bundle_path, tmp_path / "a.npz"],
            "bench": [bundle_path],
            "replay": [tmp_path / "a.mcap", bundle_path],
            "serve": [bundle_path, "--port", 0],
        }[command]
        assert msr(command, *arguments, "--key", tmp_path / "key.pub.pem") == 2
        assert "is not signed" in refusal(capsys)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["verify", "absent"], "'absent' is not a folder"),
            (["verify", "bundle", "--key", "absent.pem"], "absent.pem"),
            (["sign", "bundle", "--key", "absent.pem"], "absent.pem"),
            (["sign", "absent", "--key", "key.pem"], "'absent' is not a folder"),
            (["keygen", "key.pem"], "'key.pem' exists"),
        ],
    )
    def test_wrong_input(self, arguments, named, bundle_path, tmp_path, monkeypatch, capsys) -> None:
        """A folder or key that is not there, or a key that is, is wrong usage."""
        monkeypatch.chdir(tmp_path)
        assert msr("keygen", "key.pem") == 0
        capsys.readouterr()
        assert msr(*arguments) == 2
        assert named in refusal(capsys)


class TestBench:
    def test_figures(self, bundle_path, tmp_path, capsys) -> None:
        """`bench` prints and writes predict beside a bare session, and adaptations of 1, 3 and 5 steps."""
        assert msr("bench", bundle_path, "--json", tmp_path / "bench.json") == 0
        (figures,) = json.loads((tmp_path / "bench.json").read_text())
        for name in ("predict_p50_us", "predict_p99_us", "session_p50_us", "predict_over_session", "adapt_5_p50_ms"):
            assert figures[name] > 0
        assert "ratio" in capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["inof"], "Did you mean 'info'? The commands are train, export, info, "),
            (["train", "hexdrive", "run"], "Built in are hex-drive"),
            (["train", "hex-drive", "run", "--method", "mamel"], "the methods are msr, maml"),
            (["train", "hex-drive", "absent", "--resume"], "no checkpoint at absent/last.safetensors"),
            (["export", "absent", "bundle"], "no checkpoint at absent"),
            (["evaluate", "absent"], "no checkpoint at absent"),
            (["evaluate", "absent", "--tasks", "0"], "--tasks is 0"),
            (["info", "absent"], "'absent' is not a folder"),
        ],
    )
    def test_names(self, arguments, named, tmp_path, monkeypatch, capsys) -> None:
        """What is not there is refused in one line that says what is."""
        monkeypatch.chdir(tmp_path)
        assert msr(*arguments) == 2
        assert named in refusal(capsys)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments", [["adapt"], ["sign", "bundle"], ["train", "hex-drive", "run", "--learner.width", "0"]]
    )
    def test_usage(self, arguments, capsys) -> None:
        """A missing argument or a value out of range is wrong usage."""
        assert msr(*arguments) == 2
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err

    @pytest.mark.parametrize("command", ["info", "adapt", "bench", "evaluate"])
    def test_damaged_bundle(self, command, bundle_path, samples, tmp_path, capsys) -> None:
        """One changed byte is found by every command that reads a bundle."""
        np.savez(tmp_path / "a.npz", **samples)
        with (bundle_path / "adapt.onnx").open("r+b") as file:
            file.write(b"x")
        assert msr(command, bundle_path, *([tmp_path / "a.npz"] if command == "adapt" else [])) == 2
        assert "adapt.onnx" in refusal(capsys)

    def test_nan_in_the_support(self, bundle_path, samples, tmp_path, capsys) -> None:
        """The refusal names the sample and the field."""
        samples["support_x"][2, 1] = np.nan
        np.savez(tmp_path / "a.npz", **samples)
        assert msr("adapt", bundle_path, tmp_path / "a.npz", "--save", tmp_path / "a.safetensors") == 2
        assert "support_x sample 2, field 'position'" in refusal(capsys)
        assert not (tmp_path / "a.safetensors").exists()

    @pytest.mark.parametrize("absent", ["support_x", "support_y", "query_x", "query_y"])
    def test_missing_array(self, absent, bundle_path, samples, tmp_path, capsys) -> None:
        """A support without its half, or a query without its half, is named."""
        del samples[absent]
        np.savez(tmp_path / "a.npz", **samples)
        assert msr("adapt", bundle_path, tmp_path / "a.npz") == 2
        assert f"not '{absent}'" in refusal(capsys)

    @pytest.mark.parametrize("kind", ["absent", "text", "cut", "array", "pickle"])
    def test_damaged_samples(self, kind, bundle_path, samples, tmp_path, capsys) -> None:
        """Whatever is no .npz file of arrays is refused, pickles included."""
        path = tmp_path / "a.npz"
        np.savez(
            path, allow_pickle=True, **(samples | {"support_x": np.array([None])} if kind == "pickle" else samples)
        )
        if kind == "absent":
            path.unlink()
        elif kind == "text":
            path.write_text("support_x")
        elif kind == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        elif kind == "array":
            with path.open("wb") as file:
                np.save(file, samples["support_x"])
        assert msr("adapt", bundle_path, path) == 2
        assert "a.npz" in refusal(capsys)

    def test_query_of_another_shape(self, bundle_path, samples, tmp_path, capsys) -> None:
        """query_y that does not go with query_x is named."""
        np.savez(tmp_path / "a.npz", **(samples | {"query_y": samples["query_y"][:2]}))
        assert msr("adapt", bundle_path, tmp_path / "a.npz") == 2
        assert "query_y has shape (2, 2), but (4, 2)" in refusal(capsys)

    def test_refused_update(self, bundle_path, samples, tmp_path, capsys) -> None:
        """An update that diverges is a failed check: code 1, nothing saved."""
        np.savez(tmp_path / "a.npz", **(samples | {"support_x": samples["support_x"] * np.float32(1e18)}))
        assert msr("adapt", bundle_path, tmp_path / "a.npz", "--save", tmp_path / "a.safetensors") == 1
        assert "not finite" in capsys.readouterr().out
        assert not (tmp_path / "a.safetensors").exists()


WITHOUT_TRAINING = textwrap.dedent(
    """
    import sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            root = name.partition(".")[0]
            if root in {"torch", "gymnasium", "mujoco", "onnx", "onnxscript", "rich", "tensorboard"}:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    sys.meta_path.insert(0, Missing())
    from msr_runtime.cli import main
    main()
    """
)


class TestRobot:
    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command in an interpreter that cannot import any training package."""
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_TRAINING, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def test_robots_commands(self, bundle_path, samples, tmp_path) -> None:
        """`--help`, `info`, `adapt` and `bench` need no training package."""
        np.savez(tmp_path / "a.npz", **samples)
        usage = self.run("--help")
        assert usage.returncode == 0
        assert all(f"  {name} " in usage.stdout for name in COMMANDS)
        for arguments in (
            ["info", bundle_path],
            ["verify", bundle_path],
            ["adapt", bundle_path, tmp_path / "a.npz"],
            ["bench", bundle_path],
        ):
            done = self.run(*arguments)
            assert done.returncode == 0, done.stderr

    def test_output_that_nobody_reads(self, bundle_path) -> None:
        """As `| head` leaves it: no error is made of it."""
        read, write = os.pipe()
        os.close(read)
        start = [sys.executable, "-c", WITHOUT_TRAINING, "info", str(bundle_path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(start, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False, env=environment)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b"")

    @pytest.mark.parametrize("arguments", [["train", "hex-drive", "run"], ["export", "run", "b"], ["evaluate", "b"]])
    def test_training_commands(self, arguments) -> None:
        """The others say what to install."""
        done = self.run(*arguments)
        assert done.returncode == 2
        assert 'pip install "msr-runtime[train]"' in done.stderr
        assert "Traceback" not in done.stderr
