"""`OnlineAdapter` with an exported bundle, as a robot runs it: one adapter a stream, one step a tick."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msr_envs.registry import load_family
from msr_export import export_checkpoint
from msr_runtime import AdaptiveModel, OnlineAdapter
from msr_runtime.meta.training.checkpoint import load_checkpoint


class Deployed:
    """The adapter with its defaults, on ONNX Runtime.

    Args:
        run: The run whose best learner is exported, into the folder `bundle` beside its checkpoints.
        family: The family that it was trained on.

    """

    def __init__(self, run: Path, family: str) -> None:
        bundle = run / "bundle"
        if not bundle.exists():
            export_checkpoint(load_checkpoint(run), bundle, family=load_family(family))
        self.model = AdaptiveModel.load(bundle)

    def start(self, streams: int) -> None:
        self.adapters = [OnlineAdapter(self.model.fork()) for _ in range(streams)]
        self.tick = 0

    def predict(self, x: NDArray) -> NDArray:
        return np.stack([adapter.predict(each) for adapter, each in zip(self.adapters, x, strict=True)])

    def update(self, x: NDArray, y: NDArray) -> None:
        self.tick += 1
        for adapter, one_x, one_y in zip(self.adapters, x, y, strict=True):
            adapter.observe(one_x, one_y, at=0.1 * self.tick)
            adapter.step()
