"""What the runtime costs: predict against a bare session with constant weights, adapt against torch's eager autograd.

All in one run, on one thread, taking turns; takes a run's folder (`msr train`), exports it and measures its bundle.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnx
import torch
import tyro
from results import write_json
from rich.console import Console
from rich.table import Table

from msr_envs.registry import load_family
from msr_export import export_bundle
from msr_runtime import AdaptiveModel
from msr_runtime.meta.checkpoint import load_checkpoint
from msr_runtime.meta.rules import GradientSteps
from msr_runtime.session import make_session

STEPS = (1, 3, 5)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    run: Path = Path("runs/demo/msr")
    """A run's folder or checkpoint."""
    rounds: int = 2000
    """Calls of predict in each turn's median; adapt gets a tenth."""
    json: Path | None = None
    """Where to write the rows."""


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.run)
    learner, normalization, config = checkpoint.learner, checkpoint.normalization, checkpoint.config
    family = load_family(config.family)
    shots = config.settings.shots
    with tempfile.TemporaryDirectory() as folder:
        out = export_bundle(
            learner,
            normalization,
            Path(folder) / "bundle",
            family=family,
            shots=shots,
            seed=config.seed,
            config_digest=checkpoint.digest,
        )
        model = AdaptiveModel.load(out)
    batch = family.sample(np.random.default_rng(0), 1, shots, 2 * len(family.query_sets), "test")
    support_x, support_y, x = batch.support_x[0], batch.support_y[0], batch.query_x[0, 0]
    model.adapt(support_x, support_y)
    bare = make_session(_constant_weights(model.bundle.files["predict.onnx"]), "predict", ("CPUExecutionProvider",))
    row = x[None]
    samples = [
        torch.from_numpy(array)
        for array in (normalization.normalize_x(support_x), normalization.normalize_y(support_y))
    ]
    eager_x = torch.from_numpy(normalization.normalize_x(row))
    start = {name: tensor.detach() for name, tensor in learner.start().items()}

    def eager_predict() -> None:
        with torch.no_grad():
            learner(start, eager_x)

    def eager_adapt(steps: int) -> None:
        """Adapt as a robot with torch would: plain autograd, no outer graph."""
        adapted = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
        for _ in range(steps):
            gradients = torch.autograd.grad(learner.support_loss(adapted, *samples), list(adapted.values()))
            with torch.no_grad():
                moved = zip(adapted.items(), gradients, strict=True)
                adapted = {n: (p - rates[n] * g).requires_grad_() for (n, p), g in moved}

    assert isinstance(learner.rule, GradientSteps)
    rates = {name: rate.detach() for name, rate in learner.rule.rates(0).items()}
    rows = _compare(
        "predict, one observation",
        {
            "bare session, constant weights": lambda: bare.run(None, {"x": row}),
            "AdaptiveModel": lambda: model.predict(x),
            "torch eager": eager_predict,
        },
        options.rounds,
    )
    for steps in STEPS:
        rows += _compare(
            f"adapt, steps: {steps}, shots: {shots}",
            {
                "AdaptiveModel": partial(model.adapt, support_x, support_y, steps=steps),
                "torch eager": partial(eager_adapt, steps),
            },
            options.rounds // 10,
        )
    table = Table(title=f"{config.method} on {config.family}: medians, and their ratio to the first of each group")
    for head in ("what", "who", "median µs", "ratio"):
        table.add_column(head, justify="left" if head in ("what", "who") else "right")
    for each in rows:
        table.add_row(each["what"], each["who"], f"{each['seconds'] * 1e6:.1f}", f"{each['ratio']:.2f}")
    Console().print(table)
    if options.json:
        write_json(options.json, rows)


class Timing(TypedDict):
    """One contender's median time."""

    what: str
    who: str
    seconds: float
    ratio: float


def _compare(what: str, calls: dict[str, Callable[[], object]], rounds: int) -> list[Timing]:
    """Time the calls in turn, round by round, so that whatever else the machine does strikes all alike."""
    seconds = np.empty((rounds, len(calls)))
    for turn in range(-rounds // 10, rounds):  # the negative rounds warm up
        for column, call in enumerate(calls.values()):
            began = time.perf_counter()
            call()
            seconds[max(turn, 0), column] = time.perf_counter() - began
    medians = np.median(seconds, axis=0)
    return [
        Timing(what=what, who=who, seconds=float(median), ratio=float(median / medians[0]))
        for who, median in zip(calls, medians, strict=True)
    ]


def _constant_weights(predict: bytes) -> bytes:
    """Take the weights off predict.onnx's inputs, so that ONNX Runtime may pre-pack them: the peer's best case."""
    model = onnx.load_from_string(predict)
    inputs = [each for each in model.graph.input if each.name == "x"]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model.SerializeToString()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
