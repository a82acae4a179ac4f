"""`msr bench`: how long a bundle's predict and adapt take on this machine, beside a bare session's run."""

import gc
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from msr_runtime._onnxruntime import onnxruntime
from msr_runtime.bundle import PREDICT
from msr_runtime.commands.output import BundlePath, TrustedKeys, print_rows, write_json
from msr_runtime.model import AdaptiveModel
from msr_runtime.session import make_session

_BLOCKS, _CALLS, _ADAPTATIONS = 50, 200, 100
_STEPS = (1, 3, 5)
Key = TypeVar("Key", str, int)


def bench(bundle: BundlePath, /, json: Path | None = None, key: TrustedKeys = ()) -> int:
    """Time predict for one sample, adapted weights and all, against a bare session with constant weights; then adapt.

    The two are timed in turns, block by block, so that a machine that changes its pace changes both.

    Args:
        bundle: The bundle's folder.
        json: Write the figures to this file too.
        key: PEM files with Ed25519 public keys; one of them has to have signed the bundle.
    """
    model = AdaptiveModel.load(bundle, trusted_keys=key or None)
    golden = model.bundle.golden()
    session = make_session(model.bundle.files[PREDICT], PREDICT, ["CPUExecutionProvider"])
    x = np.ascontiguousarray(golden.x[0])
    feed, names = {"x": x[None]}, ["y"]  # the weights stay at their defaults: constants
    model.adapt(golden.support_x, golden.support_y)

    calls = {"predict": lambda: model.predict(x), "session": lambda: session.run(names, feed)}
    seconds = in_turns(calls, _BLOCKS, _CALLS)
    medians = {name: np.median(blocks, 1) for name, blocks in seconds.items()}
    p50 = {name: float(1e6 * np.median(blocks)) for name, blocks in seconds.items()}
    p99 = {name: float(1e6 * np.percentile(blocks, 99)) for name, blocks in seconds.items()}
    ratio = float(np.median(medians["predict"] / medians["session"]))

    adaptations = {
        steps: lambda steps=steps: model.adapt(golden.support_x, golden.support_y, steps) for steps in _STEPS
    }
    seconds = in_turns(adaptations, _ADAPTATIONS, 1)
    adapted = {steps: float(1e3 * np.median(blocks)) for steps, blocks in seconds.items()}

    shots = len(golden.support_x)
    machine = f"{platform.machine()}, onnxruntime {onnxruntime.__version__}, {', '.join(session.get_providers())}"
    rows = {
        "machine": machine,
        "predict": f"p50 {p50['predict']:.2f} µs, p99 {p99['predict']:.2f} µs",
        "bare session": f"p50 {p50['session']:.2f} µs, p99 {p99['session']:.2f} µs",
        "ratio": f"{ratio:.3f} (median over {_BLOCKS} blocks of predict's p50 over the session's)",
        **{f"adapt, {steps} steps": f"p50 {value:.3f} ms ({shots} shots)" for steps, value in adapted.items()},
    }
    print_rows(rows)
    if json:
        figures = {
            "bundle": model.bundle.digest,
            "family": model.manifest.name,
            "machine": machine,
            "calls": _BLOCKS * _CALLS,
            "predict_p50_us": p50["predict"],
            "predict_p99_us": p99["predict"],
            "session_p50_us": p50["session"],
            "session_p99_us": p99["session"],
            "predict_over_session": ratio,
            "shots": shots,
            **{f"adapt_{steps}_p50_ms": value for steps, value in adapted.items()},
        }
        write_json(json, figures)
    return 0


def in_turns(calls: Mapping[Key, Callable[[], object]], blocks: int, count: int) -> dict[Key, np.ndarray]:
    """Seconds of each call, `(blocks, count)`, the calls taking turns block by block after one warm-up block."""
    clock = time.perf_counter
    seconds = {key: np.empty((blocks + 1, count)) for key in calls}
    collected = gc.isenabled()
    gc.disable()  # a collection would be counted as the call that it fell into
    try:
        for block in range(blocks + 1):
            for key, call in calls.items():
                row = seconds[key][block]
                for index in range(count):
                    begin = clock()
                    call()
                    row[index] = clock() - begin
    finally:
        if collected:
            gc.enable()
    return {key: rows[1:] for key, rows in seconds.items()}
