"""TimeLimit: ends the runs of its sessions when the time is over, and leaves the sessions themselves alone."""

from typing import Any

import numpy as np
import pytest

from msr_runtime.inference import make_session
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.limited import limited
from msr_runtime.inference.time_limit import TimeLimit

X = np.zeros((1, 3), np.float32)


@pytest.fixture
def session(linear: Any) -> onnxruntime.InferenceSession:
    """The session of a small graph."""
    return make_session(linear.predict_onnx(), "predict.onnx", ["CPUExecutionProvider"])


def test_within_the_time_nothing_changes(session: onnxruntime.InferenceSession) -> None:
    """The same result, by both ways to run; the timer ends with the `with`."""
    (wanted,) = session.run(None, {"x": X})
    with TimeLimit(3600.0) as limit:
        bounded = limited(session, limit)
        np.testing.assert_array_equal(bounded.run(None, {"x": X})[0], wanted)
        binding = bounded.io_binding()
        binding.bind_cpu_input("x", X)
        binding.bind_output("y")
        bounded.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], wanted)
        assert not limit.over
    limit._timer.join(60)
    assert not limit._timer.is_alive()
    assert not limit.over


@pytest.mark.parametrize("own_options", [False, True])
def test_after_the_time_every_run_ends(session: onnxruntime.InferenceSession, own_options: bool) -> None:
    """Also with options of the caller, as a GPU needs, whether they came before or come later."""
    early, late = (onnxruntime.RunOptions() if own_options else None for _ in range(2))
    with TimeLimit(0.01) as limit:
        bounded = limited(session, limit)
        if early:
            limit.watch(early)
        limit._timer.join(60)
        assert limit.over
        for options in (early, late):
            with pytest.raises(Exception, match="terminate"):
                bounded.run(None, {"x": X}, options)
    assert "the graph takes longer than the 0.01 s allowed" in limit.message("the graph")
    session.run(None, {"x": X})
