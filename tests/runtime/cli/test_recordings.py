"""`msr replay` and `msr dataset` as a user runs them, and training on recordings."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.checking.family import check_family
from msr_envs.recorded import Recorded
from msr_runtime import AdaptiveModel, OnlineAdapter
from msr_runtime.bundle.store import Bundle
from msr_runtime.recording.recorder import Recorder
from msr_runtime.task import Field

OBS, OUT = 3, 2
Msr = Callable[..., int]


def record(path: Path, model: AdaptiveModel | Bundle, seed: int, samples: int, resets: tuple[int, ...] = ()) -> NDArray:
    """Record a robot whose force is its own matrix times (position, angle); return the inputs `(samples, 3)`."""
    rng = np.random.default_rng(seed)
    gain, x = rng.standard_normal((OBS, OUT)), rng.standard_normal((samples, OBS)).astype(np.float32)
    with Recorder(path, model) as recorder:
        for number, row in enumerate(x):
            if number in resets:
                recorder.reset()
            recorder.observation(row)
            if isinstance(model, AdaptiveModel):
                recorder.action(model.predict(row))
            recorder.sample(row, row @ gain)
    return x


class TestReplay:
    def test_the_same_bundle_exits_with_0(self, tmp_path: Path, bundle_path: Path, capsys: Any, msr: Msr) -> None:
        """The output says that the bundle is the recorded one."""
        record(tmp_path / "a.mcap", AdaptiveModel.load(bundle_path), 0, 20)
        assert msr("replay", tmp_path / "a.mcap", bundle_path) == 0
        out = capsys.readouterr().out
        for words in ("as recorded", "20 compared, 0 differ", "output force", "same\n"):
            assert words in out
        assert "cut short" not in out

    def test_another_bundle_that_acts_otherwise_exits_with_1(
        self, tmp_path: Path, bundle_path: Path, linear: Any, write: Callable[..., Path], capsys: Any, msr: Msr
    ) -> None:
        """Another bundle is compared too, and the first difference is printed; a large tolerance accepts it."""
        model = AdaptiveModel.load(bundle_path)
        record(tmp_path / "a.mcap", model, 0, 20)
        other = write(type(linear)(v0=linear.v0 + np.float32(0.01)).files())
        assert msr("replay", tmp_path / "a.mcap", other) == 1
        out = capsys.readouterr().out
        for words in (f"not the recorded one, {model.bundle.digest}", "20 differ", "UTC", "different\n"):
            assert words in out
        assert msr("replay", tmp_path / "a.mcap", other, "--tolerance", 10) == 0

    def test_messages_that_were_dropped_are_told(
        self, tmp_path: Path, bundle_path: Path, capsys: Any, msr: Msr
    ) -> None:
        """Dropped messages are printed, and the remaining ones are compared."""
        model = AdaptiveModel.load(bundle_path)
        row, action = np.zeros(OBS, np.float32), model.predict(np.zeros(OBS))
        with Recorder(tmp_path / "a.mcap", model, queue=8) as recorder:
            for _ in range(5000):
                recorder.observation(row)
                recorder.action(action)
        assert msr("replay", tmp_path / "a.mcap", bundle_path) == 0
        assert "of /action while recording" in capsys.readouterr().out

    def test_a_file_cut_short_is_compared_as_far_as_it_goes(
        self, tmp_path: Path, bundle_path: Path, capsys: Any, msr: Msr
    ) -> None:
        """The output says that the file was cut short."""
        path = tmp_path / "a.mcap"
        record(path, AdaptiveModel.load(bundle_path), 0, 20)
        path.write_bytes(path.read_bytes()[:-50])
        assert msr("replay", path, bundle_path) == 0
        assert "cut short" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments",
        [["absent.mcap", "{bundle}"], ["{file}"], ["{file}", "{bundle}", "--tolerance", "-1"], ["{file}", "x"]],
    )
    def test_wrong_usage_exits_with_2(
        self, tmp_path: Path, bundle_path: Path, arguments: list[str], capsys: Any, msr: Msr
    ) -> None:
        """A missing file or a wrong tolerance is refused before the comparison."""
        record(tmp_path / "a.mcap", AdaptiveModel.load(bundle_path), 0, 2)
        assert msr("replay", *(part.format(file=tmp_path / "a.mcap", bundle=bundle_path) for part in arguments)) == 2
        assert "verdict" not in capsys.readouterr().out


def test_without_mcap_the_extra_is_named() -> None:
    """Without mcap, `msr replay` and the Recorder say what to install."""
    blocked = "import sys; sys.modules['mcap'] = None; "
    command = "from msr_runtime.cli.command import run; sys.exit(run(['replay', 'a.mcap', 'bundle']))"
    for code, rest in ((2, command), (1, "import msr_runtime.recording.recorder")):
        ran = subprocess.run([sys.executable, "-c", blocked + rest], capture_output=True, text=True, check=False)
        assert ran.returncode == code
        assert 'pip install "msr-runtime[log]"' in ran.stderr.splitlines()[-1]


class TestDataset:
    def test_recordings_and_resets_make_tasks(self, tmp_path: Path, bundle_path: Path, capsys: Any, msr: Msr) -> None:
        """Three files and two resets give five tasks, all as long as the shortest, with evenly spread samples."""
        bundle, names = Bundle.open(bundle_path), [tmp_path / f"{name}.mcap" for name in "abc"]
        a = record(names[0], bundle, 0, 40)
        b = record(names[1], bundle, 1, 90, resets=(0, 30, 60))
        record(names[2], bundle, 2, 50)
        assert msr("dataset", *names, "--out", tmp_path / "robots.npz") == 0
        with np.load(tmp_path / "robots.npz") as file:
            x, y = file["x"], file["y"]
        assert (x.shape, y.shape, x.dtype) == ((5, 30, OBS), (5, 30, OUT), np.float32)
        np.testing.assert_array_equal(x[2], b[30:60])
        np.testing.assert_array_equal(x[0, [0, -1]], a[[0, -1]])
        assert "5 from 3 recordings" in capsys.readouterr().out

        family = Recorded(tmp_path / "robots.npz")
        check_family(family)
        assert (family.inputs, family.outputs) == (bundle.manifest.inputs, bundle.manifest.outputs)
        assert family.rate_hz == bundle.manifest.rate_hz == 100.0

    def test_short_tasks_can_be_left_out(self, tmp_path: Path, bundle_path: Path, capsys: Any, msr: Msr) -> None:
        """With --examples, shorter tasks are left out; samples that are not finite are counted and left out."""
        bundle = Bundle.open(bundle_path)
        record(tmp_path / "a.mcap", bundle, 0, 40)
        record(tmp_path / "b.mcap", bundle, 0, 10)
        with Recorder(tmp_path / "c.mcap", bundle) as recorder:
            recorder.sample([0, np.nan, 0], [0, 0])
        files = [tmp_path / f"{name}.mcap" for name in "abc"]
        assert msr("dataset", *files, "--out", tmp_path / "r.npz", "--examples", 20) == 0
        assert np.load(tmp_path / "r.npz")["x"].shape == (1, 20, OBS)
        out = capsys.readouterr().out
        for words in (
            "1 from 3 recordings, 1 too short",
            "at least 3 tasks",
            "50 finite samples in all; 1 are not finite",
        ):
            assert words in out
        assert msr("dataset", *files, "--out", tmp_path / "s.npz", "--examples", 41) == 2
        assert "no task has 41 examples, the longest has 40" in capsys.readouterr().err

    def test_labels_stay_labels(self, tmp_path: Path, write: Callable[..., Path], msr: Msr) -> None:
        """The dataset keeps integer labels and all classes of the manifest, unseen ones too."""
        outputs = (Field(name="class", shape=(OUT,), unit="1", low=0, high=1),)
        bundle = Bundle.open(write(loss="cross_entropy", outputs=outputs))
        with Recorder(tmp_path / "a.mcap", bundle) as recorder:
            for _ in range(4):
                recorder.sample(np.zeros(OBS), 0)
        assert msr("dataset", tmp_path / "a.mcap", "--out", tmp_path / "r.npz") == 0
        with np.load(tmp_path / "r.npz") as file:
            assert (file["y"].dtype, file["y"].shape) == (np.int64, (1, 4))
        assert Recorded(tmp_path / "r.npz").outputs == outputs

    def test_recordings_without_samples_or_of_other_robots_are_refused(
        self, tmp_path: Path, bundle_path: Path, write: Callable[..., Path], capsys: Any, msr: Msr
    ) -> None:
        """The refusal says what is missing or different, and no file is written."""
        with Recorder(tmp_path / "a.mcap", Bundle.open(bundle_path)) as recorder:
            recorder.observation(np.zeros(OBS))
        out = tmp_path / "r.npz"
        assert msr("dataset", tmp_path / "a.mcap", "--out", out) == 2
        assert "no finite message of /sample" in capsys.readouterr().err
        outputs = (Field(name="torque", shape=(OUT,), unit="N m", low=-10, high=10),)
        record(tmp_path / "b.mcap", Bundle.open(write(outputs=outputs)), 0, 5)
        assert msr("dataset", tmp_path / "a.mcap", tmp_path / "b.mcap", "--out", out) == 2
        assert "differ in their fields" in capsys.readouterr().err
        record(tmp_path / "c.mcap", Bundle.open(write(outputs=outputs, rate_hz=50.0)), 0, 5)
        assert msr("dataset", tmp_path / "b.mcap", tmp_path / "c.mcap", "--out", out) == 2
        assert "loss or rate" in capsys.readouterr().err
        assert msr("dataset", "--out", out) == 2
        assert msr("dataset", tmp_path / "b.mcap", "--out", out, "--examples", 0) == 2
        assert not out.exists()


@pytest.fixture
def robots(tmp_path: Path, bundle_path: Path, msr: Msr) -> Path:
    """A dataset from the recordings of ten robots."""
    files = [tmp_path / f"{number}.mcap" for number in range(10)]
    for number, file in enumerate(files):
        record(file, Bundle.open(bundle_path), number, 40)
    assert msr("dataset", *files, "--out", tmp_path / "robots.npz") == 0
    return tmp_path / "robots.npz"


def train(msr: Msr, data: Path, run: Path) -> int:
    """Train a few steps."""
    settings = {
        "steps": 10,
        "training-tasks": 16,
        "samples-per-task": 20,
        "queries": 16,
        "validation-tasks": 4,
        "validation-every": 10,
    }
    tiny = [part for name, value in settings.items() for part in (f"--settings.{name}", value)]
    return msr("train", data, run, *tiny, "--learner.width", 8, "--learner.depth", 1, "--learner.filters", 6)


def test_a_network_is_trained_on_what_robots_recorded(robots: Path, tmp_path: Path, msr: Msr) -> None:
    """Training works with fewer recorded tasks than it asks for, and every metric is finite."""
    assert train(msr, robots, tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines
    assert all(np.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))


@pytest.mark.slow
def test_the_way_of_the_data_closes(
    robots: Path, tmp_path: Path, bundle_path: Path, capsys: Any, monkeypatch: Any, msr: Msr
) -> None:
    """A bundle trained on recordings has the same fields; its own recording replays equal."""
    assert train(msr, robots, tmp_path / "run") == 0
    monkeypatch.chdir(tmp_path)
    assert msr("export", "run", "new") == 0
    assert re.search("^bundle +new$", capsys.readouterr().out, re.MULTILINE)
    assert Bundle.open(tmp_path / "new").manifest.inputs == Bundle.open(bundle_path).manifest.inputs
    record(tmp_path / "new.mcap", AdaptiveModel.load(tmp_path / "new"), 11, 30)
    assert msr("replay", tmp_path / "new.mcap", tmp_path / "new") == 0
    assert "as recorded" in capsys.readouterr().out


def test_a_time_constant_of_the_robot_is_given_again(recursive_bundle: Path, tmp_path: Path, msr: Msr) -> None:
    """A recording does not hold it, and without it all that fades is other than on the robot."""
    model = AdaptiveModel.load(recursive_bundle, time_constant=2.0)
    x = np.random.default_rng(0).uniform(0, 1, (20, 18)).astype(np.float32)
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        online = OnlineAdapter(model, recorder=recorder)
        for tick in range(20):
            recorder.observation(x[tick])
            recorder.action(online.predict(x[tick]))
            online.observe(x[tick], 0.5 * x[tick, 16:], at=0.5 * tick)
            online.step()
    replay = "replay", tmp_path / "a.mcap", recursive_bundle
    assert msr(*replay) == 1
    assert msr(*replay, "--time-constant", "2", "--tolerance", "0") == 0
