"""The import of ONNX Runtime: telemetry is off, and a wrong installation is refused."""

import os
import subprocess
import sys
from pathlib import Path


def import_in(*, path: Path | None = None, before: str = "pass") -> str:
    """Import ONNX Runtime in a new interpreter and return the last line that it prints."""
    load = "import msr_runtime.inference._onnxruntime"
    code = f"import sys; {before}; {load}; import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_telemetry_is_off_by_default() -> None:
    """The variable that switches telemetry off is set before the import."""
    assert import_in() == "1"


def test_a_missing_onnxruntime_says_what_to_install() -> None:
    """The error names the extra for CPU and the extra for GPU."""
    message = import_in(before="sys.modules['onnxruntime'] = None")
    assert message.startswith("ImportError")
    assert "msr-runtime[cpu]" in message
    assert "msr-runtime[gpu]" in message


def test_what_one_of_two_uninstalled_builds_leaves_is_refused() -> None:
    """A package without content imports, and would fail later with an AttributeError."""
    message = import_in(before="import types; sys.modules['onnxruntime'] = types.ModuleType('onnxruntime')")
    assert message.startswith("ImportError: onnxruntime is installed, but parts of it are missing")
    assert "Uninstall both" in message


def test_two_onnxruntimes_are_refused(tmp_path: Path) -> None:
    """Both distributions write into one folder, so to install both is an error."""
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.30.0.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.30.0\n"
        (tmp_path / f"{name}-1.30.0.dist-info" / "METADATA").write_text(metadata)
    assert "uninstall both" in import_in(path=tmp_path)
