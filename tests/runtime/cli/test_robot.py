"""`msr info`, `msr adapt` and `msr bench` as a user runs them, also without the training packages."""

import json
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, UpdateResult
from msr_runtime.bundle.store import Bundle
from msr_runtime.cli import bench
from msr_runtime.cli.command import COMMANDS
from msr_runtime.inference._onnxruntime import onnxruntime


@pytest.fixture
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """`msr bench` times 200 calls in place of 10,000."""
    monkeypatch.setattr(bench, "_BLOCKS", 10)
    monkeypatch.setattr(bench, "_CALLS", 20)


class TestInfo:
    def test_info(self, trained, capsys, msr) -> None:
        """`info` describes the bundle of a real run."""
        assert msr("info", trained / "bundle") == 0
        out = capsys.readouterr().out
        for part in (
            "push",
            "msr-full",
            "velocity",
            "m/s",
            "C4",
            "10 shots, 2 inner steps",
            "50 Hz",
            "adapt.onnx",
            "from 200 clean tasks",
            "on 100 validation tasks",
        ):
            assert part in out

    def test_info_of_a_filter(self, recursive_bundle, capsys, msr) -> None:
        """`info` says how it learns sample by sample."""
        assert msr("info", recursive_bundle) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("filter"))
        for part in ("nothing fades", "gate at 3 deviations", "64 samples", "the first 16 are linearized again"):
            assert part in line

    def test_the_parity_of_a_filter_is_compared_with_what_float32_allows(
        self, recursive_bundle, monkeypatch, capsys, msr
    ) -> None:
        """Rounding adds up over a stream: the allowed error is the one that the export held the graphs to."""
        stream = Bundle.open(recursive_bundle).stream()
        for rounding, allowed in ((0.0, "1e-05"), (1e-4, "5e-04")):
            monkeypatch.setattr(Bundle, "stream", lambda _, of=rounding: stream._replace(rounding=of))
            assert msr("info", recursive_bundle) == 0
            line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("parity"))
            assert line.endswith(f" relative error at most, {allowed} allowed")

    def test_info_of_the_machine(self, capsys, msr) -> None:
        """Without a bundle, `info` describes the machine: ONNX Runtime, every provider, cores and scheduling."""
        assert msr("info") == 0
        lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        assert onnxruntime.__version__ in lines["onnxruntime here"]
        assert lines["CPUExecutionProvider"].strip() == "starts"
        assert {"CUDAExecutionProvider", "TensorrtExecutionProvider", "cores", "real time"} <= lines.keys()
        assert "bundle" not in lines


class TestAdapt:
    def test_adapt(self, trained, tmp_path, capsys, msr) -> None:
        """The saved adaptation acts like the one in memory, and the query error is printed before and after."""
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

    def test_what_the_guard_found_is_said(self, trained, tmp_path, capsys, msr) -> None:
        """A y outside its bounds is left out, by its number; the limits stand there, and why an update is refused."""
        x = np.random.default_rng(1).normal(size=(10, 2)).astype(np.float32)
        y = np.float32(0.7) * x
        y[4] = 20.0  # of 8 N
        np.savez(tmp_path / "a.npz", support_x=x, support_y=y)
        assert msr("adapt", trained / "bundle", tmp_path / "a.npz") == 0
        lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        assert lines["left out"].strip().startswith("sample 4, counted from 0")
        assert "times the nearer one (support loss" in lines["limits"]
        y[:, 0] = 20.0
        np.savez(tmp_path / "a.npz", support_x=x, support_y=y)
        assert msr("adapt", trained / "bundle", tmp_path / "a.npz") == 1
        assert "no: 10 of 10 support samples have a y outside" in capsys.readouterr().out

    def test_nan_in_the_support(self, bundle_path, samples, tmp_path, refusal, msr) -> None:
        """The refusal of a NaN names the sample and the field."""
        samples["support_x"][2, 1] = np.nan
        np.savez(tmp_path / "a.npz", **samples)
        assert msr("adapt", bundle_path, tmp_path / "a.npz", "--save", tmp_path / "a.safetensors") == 2
        assert "support_x sample 2, field 'position'" in refusal()
        assert not (tmp_path / "a.safetensors").exists()

    def test_a_folder_to_save_in_that_does_not_exist(self, bundle_path, samples, tmp_path, refusal, msr) -> None:
        """It is named before anything is computed."""
        np.savez(tmp_path / "a.npz", **samples)
        assert msr("adapt", bundle_path, tmp_path / "a.npz", "--save", tmp_path / "none" / "a.safetensors") == 2
        assert f"there is no folder '{tmp_path / 'none'}'" in refusal()

    @pytest.mark.parametrize("absent", ["support_x", "support_y", "query_x", "query_y"])
    def test_missing_array(self, absent, bundle_path, samples, tmp_path, refusal, msr) -> None:
        """A support set or query set without its x or its y is refused by name."""
        del samples[absent]
        np.savez(tmp_path / "a.npz", **samples)
        assert msr("adapt", bundle_path, tmp_path / "a.npz") == 2
        assert f"not '{absent}'" in refusal()

    @pytest.mark.parametrize("kind", ["absent", "text", "cut", "array", "pickle"])
    def test_damaged_samples(self, kind, bundle_path, samples, tmp_path, refusal, msr) -> None:
        """A file that is not an .npz file of plain arrays is refused; pickles are never loaded."""
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
        assert "a.npz" in refusal()

    def test_query_of_another_shape(self, bundle_path, samples, tmp_path, refusal, msr) -> None:
        """A query_y whose shape does not fit query_x is refused by name."""
        np.savez(tmp_path / "a.npz", **(samples | {"query_y": samples["query_y"][:2]}))
        assert msr("adapt", bundle_path, tmp_path / "a.npz") == 2
        assert "query_y has shape (2, 2), but (4, 2)" in refusal()

    def test_refused_update(self, bundle_path, samples, tmp_path, capsys, msr) -> None:
        """A refused update exits with 1, and nothing is saved."""
        np.savez(tmp_path / "a.npz", **(samples | {"support_x": samples["support_x"] * np.float32(1e18)}))
        assert msr("adapt", bundle_path, tmp_path / "a.npz", "--save", tmp_path / "a.safetensors") == 1
        assert "not finite" in capsys.readouterr().out
        assert not (tmp_path / "a.safetensors").exists()


class TestBench:
    def test_figures(self, bundle_path, tmp_path, capsys, msr) -> None:
        """`bench` prints and writes the durations of predict, a bare session, and adaptations with 1, 3 and 5 steps."""
        assert msr("bench", bundle_path, "--json", tmp_path / "bench.json") == 0
        (figures,) = json.loads((tmp_path / "bench.json").read_text())
        for name in ("predict_p50_us", "predict_p99_us", "session_p50_us", "predict_over_session", "adapt_5_p50_ms"):
            assert figures[name] > 0
        assert "ratio" in capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    @pytest.mark.usefixtures("few_calls")
    def test_a_filter_is_timed_by_sample(self, recursive_bundle, tmp_path, capsys, msr) -> None:
        """Updates and a prediction with deviations, in predicts; and an adaptation, whose samples count once."""
        assert msr("bench", recursive_bundle, "--json", tmp_path / "bench.json") == 0
        (figures,) = json.loads((tmp_path / "bench.json").read_text())
        for name in ("update_p50_us", "update_over_predict", "deviation_p99_us", "adapt_1_p50_ms"):
            assert figures[name] > 0
        assert figures["longest_update_p50_us"] > 2 * figures["update_p50_us"]  # it takes the time of 17
        assert "longest update" in capsys.readouterr().out

    @pytest.mark.usefixtures("few_calls")
    def test_no_refused_sample_is_timed(self, recursive_bundle, monkeypatch, msr) -> None:
        """What torch drew for the golden stream may lie outside the bounds of y."""
        stream, accepted = AdaptiveModel.load(recursive_bundle).bundle.stream(), list[bool]()
        monkeypatch.setattr(Bundle, "stream", lambda _: stream._replace(y=stream.y + 3))
        update = AdaptiveModel.update

        def seen(*sample: Any) -> UpdateResult:
            accepted.append((result := update(*sample)).accepted)
            return result

        monkeypatch.setattr(AdaptiveModel, "update", seen)
        monkeypatch.setattr(AdaptiveModel, "self_test", lambda _: 0.0)
        assert msr("bench", recursive_bundle) == 0
        assert all(accepted)


class TestWithoutTrainingPackages:
    def test_robots_commands(self, bundle_path, samples, tmp_path, run_without) -> None:
        """`--help`, `info`, `verify`, `adapt` and `bench` need no training package."""
        np.savez(tmp_path / "a.npz", **samples)
        usage = run_without("--help")
        assert usage.returncode == 0
        assert all(f"  {name} " in usage.stdout for name in COMMANDS)
        for arguments in (
            ["info", bundle_path],
            ["verify", bundle_path],
            ["adapt", bundle_path, tmp_path / "a.npz"],
            ["bench", bundle_path],
        ):
            done = run_without(*arguments)
            assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("arguments", [["train", "hex-drive", "run"], ["export", "run", "b"], ["evaluate", "b"]])
    def test_training_commands(self, arguments, run_without) -> None:
        """`train`, `export` and `evaluate` say what to install."""
        done = run_without(*arguments)
        assert done.returncode == 2
        assert 'pip install "msr-runtime[train]"' in done.stderr
        assert "Traceback" not in done.stderr
