"""The project's own recordings are read as logs."""

from pathlib import Path

import numpy as np
import pytest

from msr_envs.logs import LogDescription, LogField, log_family
from msr_runtime import Bundle
from msr_runtime.errors import FamilyError
from msr_runtime.recording import Recorder


def test_the_samples_of_a_recording_are_rows(tmp_path: Path, ring_run: Path) -> None:
    bundle = Bundle.open(ring_run / "bundle")
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 0.5, (3, 12, 18)), rng.uniform(-0.1, 0.1, (3, 12, 2))
    for drive in range(3):
        with Recorder(tmp_path / f"flight_{drive}.mcap", bundle) as recorder:
            for each in range(12):
                recorder.sample(x[drive, each], y[drive, each])
    outputs = bundle.manifest.outputs
    said = LogDescription(
        files=("flight_*.mcap",),
        inputs=tuple(LogField(name=field.name, columns=(f"x.{field.name}",)) for field in bundle.manifest.inputs),
        outputs=tuple(LogField(name=field.name, columns=(f"y.{field.name}",)) for field in outputs),
    )
    family = log_family(said, tmp_path)
    assert family.task_names == ("flight_0", "flight_1", "flight_2")
    np.testing.assert_allclose(np.stack(family._x), x, rtol=1e-6)
    np.testing.assert_allclose(np.stack(family._y), y, rtol=1e-6)
    assert family.notes == ("3 drives with 36 samples", "columns that are not read: time, task")

    with Recorder(tmp_path / "flight_3.mcap", bundle):
        pass
    with pytest.raises(FamilyError, match=r"flight_3.mcap': it holds no samples"):
        log_family(said, tmp_path)
