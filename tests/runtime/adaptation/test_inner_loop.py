"""The inner loop on values with memory of their own, as on a GPU."""

from typing import Any

import numpy as np
import pytest

from msr_runtime.adaptation.inner_loop import InnerLoop
from msr_runtime.inference.device import Device
from msr_runtime.inference.session import make_session
from msr_runtime.inference.state import State

CPU = ("CPUExecutionProvider",)


def test_the_inner_loop_on_a_device_keeps_its_states_there(linear: Any, linear_files: dict[str, bytes]) -> None:
    """Each step reads the values of the step before on the device. Only the last state is copied back."""
    adapt, loss = (make_session(linear_files[f"{name}.onnx"], name, CPU) for name in ("adapt", "loss"))
    start = State(linear.start(), Device(copies=True))
    inner_loop, adapted, further = InnerLoop(adapt, loss, start), start.another(), start.another()
    rng = np.random.default_rng(0)
    for steps in (1, 2, 5):
        x, y = (rng.standard_normal((6, size)).astype(np.float32) for size in (3, 2))
        end = inner_loop(x, y, steps, adapted)
        np.testing.assert_allclose(adapted.tensors["v"], linear.adapt(x, y, steps), rtol=1e-4, atol=1e-5)
        assert end.loss_before == pytest.approx(linear.step(linear.v0, x, y)[1], rel=1e-4)
        assert end.loss_after == pytest.approx(linear.step(linear.adapt(x, y, steps), x, y)[1], rel=1e-4)
        inner_loop(x, y, 1, further, begin=adapted)
        np.testing.assert_allclose(further.tensors["v"], linear.adapt(x, y, steps + 1), rtol=1e-4, atol=1e-5)


def test_a_check_runs_before_each_step_and_may_end_the_adaptation(linear: Any, linear_files: dict[str, bytes]) -> None:
    """What the check raises comes out, and the next adaptation is not affected."""
    adapt, loss = (make_session(linear_files[f"{name}.onnx"], name, CPU) for name in ("adapt", "loss"))
    inner_loop, adapted = InnerLoop(adapt, loss, State(linear.start())), State(linear.start())
    x, y = (np.random.default_rng(0).standard_normal((6, size)).astype(np.float32) for size in (3, 2))
    steps: list[int] = []

    def check() -> None:
        steps.append(len(steps))
        if len(steps) == 8:
            raise KeyError("enough")

    inner_loop(x, y, 5, adapted, check=check)
    assert steps == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="enough"):
        inner_loop(x, y, 5, adapted, check=check)
    inner_loop(x, y, 5, adapted)
    np.testing.assert_allclose(adapted.tensors["v"], linear.adapt(x, y, 5), rtol=1e-4, atol=1e-5)


def test_the_losses_of_all_samples_take_one_run(
    linear: Any, linear_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is that of the sample alone. A run per sample would hold up a control loop in the same interpreter."""
    adapt, loss = (make_session(linear_files[f"{name}.onnx"], name, CPU) for name in ("adapt", "loss"))
    inner_loop, run, runs = InnerLoop(adapt, loss, State(linear.start())), type(loss).run, []
    x, y = (np.random.default_rng(0).standard_normal((6, size)).astype(np.float32) for size in (3, 2))
    monkeypatch.setattr(type(loss), "run", lambda *given: runs.append(1) or run(*given))
    start = State(linear.start())
    losses = inner_loop.losses.each(x, y, start)
    assert len(runs) == 1
    alone = [linear.step(linear.v0, x[each : each + 1], y[each : each + 1])[1] for each in range(6)]
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
    assert inner_loop.losses.mean(x, y, start) == pytest.approx(losses.mean(), rel=1e-6)
