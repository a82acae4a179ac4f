"""Where a run computes. Nothing here needs a GPU."""

import pytest
import torch

from msr_runtime.meta.training.distributed import ALONE, Processes, processes


@pytest.mark.parametrize(("there", "joined"), [(True, Processes(device="cuda")), (False, ALONE)])
def test_one_process_uses_a_gpu_if_there_is_one(monkeypatch, there: bool, joined: Processes) -> None:
    """As several processes do. Without one it computes on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    with processes() as found:
        assert found == joined
