"""`--engine native` of the commands that load a bundle, and `msr export --native`."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, BundleError, PolicyServer
from msr_runtime.bundle.store import Bundle, write_bundle
from msr_runtime.recording.recorder import Recorder

Msr = Callable[..., int]
NATIVE = ("--engine", "native")


@pytest.fixture
def files(tmp_path: Path, linear: Any, bundle_path: Path) -> Path:
    """A folder with samples, a log and a recording of the reference's bundle."""
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    y = np.clip(linear.predict(linear.v0 + np.float32(0.2), x), -9, 9)
    np.savez(tmp_path / "samples.npz", support_x=x[:10], support_y=y[:10], query_x=x[10:], query_y=y[10:])
    np.savez(tmp_path / "log.npz", x=x, y=y, time=np.arange(40) / 10)
    model = AdaptiveModel.load(bundle_path)
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        for one in x:
            recorder.observation(one)
            recorder.action(model.predict(one))
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("adapt", "bundle", "samples.npz"),
        ("bench", "bundle"),
        ("evaluate", "bundle"),
        ("replay", "a.mcap", "bundle"),
        ("score", "log.npz", "bundle"),
        ("serve", "bundle", "--port", "0"),
    ],
)
def test_a_bundle_without_native_code_is_refused(
    files: Path, msr: Msr, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Every command names what makes it."""
    monkeypatch.chdir(files)
    assert msr(*command, *NATIVE) == 2
    assert "has no native code for this processor" in (said := capsys.readouterr().err)
    assert "run `msr compile " in said


def test_native_code_gives_the_same_figures(
    files: Path, bundle_path: Path, compiled: Callable[[str, Path], Path], msr: Msr, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ONNX Runtime: after adapting, over a log, and against a recording."""
    bundle, errors = compiled("linear", bundle_path), list[float]()
    for options in ((), NATIVE):
        assert msr("adapt", bundle, files / "samples.npz", *options) == 0
        said = capsys.readouterr().out
        errors.append(float(next(line for line in said.splitlines() if line.startswith("query error")).split()[4]))
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)
    for options in ((), NATIVE):
        assert msr("score", files / "log.npz", bundle, "--json", files / "score.json", *options) == 0
        errors.append(json.loads((files / "score.json").read_text())[0]["errors"]["adapted"])
    assert errors[3] == pytest.approx(errors[2], rel=1e-3)
    assert msr("replay", files / "a.mcap", bundle, *NATIVE) == 0


def test_info_names_the_processor_of_native_code(
    bundle_path: Path,
    compiled: Callable[[str, Path], Path],
    tmp_path: Path,
    msr: Msr,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is none, or it is for this processor, or for others alone."""
    native, moved = compiled("linear", bundle_path), Bundle.open(compiled("linear", bundle_path))
    files = {"native.moon-1.so" if name.endswith(".so") else name: data for name, data in moved.files.items()}
    other = write_bundle(tmp_path / "moon", moved.manifest, files).path
    for bundle, wanted in (
        (bundle_path, "none; `msr compile` makes it for this one"),
        (native, "compiled for this processor"),
        (other, "compiled for other processors alone (native.moon-1.so); `msr compile` makes it"),
    ):
        assert msr("info", bundle) == 0
        assert wanted in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("native code"))


def test_a_checkpoint_has_no_engine(tmp_path: Path, msr: Msr, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs in torch."""
    assert msr("evaluate", tmp_path, *NATIVE) == 2
    assert "--engine is native, but" in capsys.readouterr().err


def test_a_server_runs_native_code(bundle_path: Path, compiled: Callable[[str, Path], Path]) -> None:
    """A bundle without it is not served."""

    async def serve(bundle: Path) -> None:
        async with PolicyServer({"linear": bundle}, port=0, engine="native") as server:
            await server.load()

    asyncio.run(serve(compiled("linear", bundle_path)))
    with pytest.raises(BundleError, match="no native code"):
        asyncio.run(serve(bundle_path))


def test_an_export_asks_for_a_compiler_first(
    tmp_path: Path, msr: Msr, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it reads the checkpoint: an export takes long."""
    monkeypatch.setenv("PATH", "")
    assert msr("export", tmp_path, tmp_path / "bundle", "--native") == 2
    assert "there is no compiler 'cc'" in capsys.readouterr().err


@pytest.mark.slow
def test_an_export_compiles(trained: Path, tmp_path: Path, msr: Msr, capsys: pytest.CaptureFixture[str]) -> None:
    """With the code of `msr compile`. The C source is that of the bundle with native code."""
    family, bundle, folder = f"{trained / 'push.py'}:Push", tmp_path / "bundle", tmp_path / "c"
    assert msr("export", trained / "run", bundle, "--family", family, "--native", "--c", folder) == 0
    assert "native.c" in capsys.readouterr().out
    assert AdaptiveModel.load(bundle, engine="native").bundle.digest in (folder / "push.c").read_text()
