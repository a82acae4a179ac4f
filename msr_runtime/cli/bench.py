"""`msr bench`: the duration of predict, adapt and update on this machine, compared with ONNX Runtime alone."""

import gc
import platform
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from msr_runtime.adaptation.backend import Engine
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.arrays import FLOAT32
from msr_runtime.bundle.store import PREDICT, Bundle
from msr_runtime.cli.output import BundlePath, JsonPath, TrustedKeys, print_rows, require_folder, write_json
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.session import make_session
from msr_runtime.relinearization import due
from msr_runtime.task import Array

_BLOCKS, _CALLS, _ADAPTATIONS = 50, 200, 100
_STEPS = (1, 3, 5)
Key = TypeVar("Key", str, int)


def bench(bundle: BundlePath, /, json: JsonPath = None, key: TrustedKeys = (), engine: Engine = "onnx") -> int:
    """Time predict and adapt of a bundle on this machine.

    predict is timed for one sample, after an adaptation. adapt is timed for the shots of meta-training.

    A "bare session" is timed too: ONNX Runtime alone, with constant weights that cannot adapt.

    The session and predict take turns, so that a change of the machine's speed affects both.

    With the rule recursive, update and predict with deviations are timed too, in turns with predict.

    The longest update, which linearizes the first samples again, is timed as well.

    Args:
        bundle: The folder of the bundle.
        json: Write the figures to this file too.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
        engine: What computes: ONNX Runtime, or the bundle's native code (`msr compile`), a program to trust.
    """
    require_folder(json)
    opened = Bundle.open(bundle, key or None)  # a graph of it is run with every engine
    model = AdaptiveModel.load(opened, engine=engine)
    golden = model.bundle.golden()
    session = make_session(model.bundle.files[PREDICT], PREDICT, ["CPUExecutionProvider"])
    x = np.ascontiguousarray(golden.x[0])
    feed, names = {"x": x[None]}, ["y"]  # the weights are not fed, so the session uses the constants of the graph
    model.adapt(golden.support_x, golden.support_y)

    calls = {"predict": lambda: model.predict(x), "session": lambda: session.run(names, feed)}
    seconds = in_turns(calls, _BLOCKS, _CALLS)
    medians = {name: np.median(blocks, 1) for name, blocks in seconds.items()}
    p50 = {name: float(1e6 * np.median(blocks)) for name, blocks in seconds.items()}
    p99 = {name: float(1e6 * np.percentile(blocks, 99)) for name, blocks in seconds.items()}
    ratio = float(np.median(medians["predict"] / medians["session"]))

    by_sample = _by_sample(model) if model.manifest.recursion else {}
    adaptations = {
        steps: lambda steps=steps: model.adapt(golden.support_x, golden.support_y, steps, guard=UNLIMITED)
        for steps in ((1,) if by_sample else _STEPS)  # the rule recursive takes each sample once
    }
    seconds = in_turns(adaptations, _ADAPTATIONS, 1)
    adapted = {steps: float(1e3 * np.median(blocks)) for steps, blocks in seconds.items()}

    shots = len(golden.support_x)
    machine = f"{platform.machine()}, onnxruntime {onnxruntime.__version__}, {', '.join(session.get_providers())}"
    rows = {
        "machine": machine,
        "engine": engine,
        "predict": f"p50 {p50['predict']:.2f} µs, p99 {p99['predict']:.2f} µs",
        "bare session": f"p50 {p50['session']:.2f} µs, p99 {p99['session']:.2f} µs",
        "ratio": f"{ratio:.3f} (median over {_BLOCKS} blocks of predict's p50 over the session's)",
        **{name.replace("_", " "): _in_words(each) for name, each in by_sample.items()},
        **{f"adapt, {steps} steps": f"p50 {value:.3f} ms ({shots} shots)" for steps, value in adapted.items()},
    }
    print_rows(rows)
    if json:
        figures = {
            "bundle": model.bundle.digest,
            "family": model.manifest.name,
            "machine": machine,
            "engine": engine,
            "calls": _BLOCKS * _CALLS,
            "predict_p50_us": p50["predict"],
            "predict_p99_us": p99["predict"],
            "session_p50_us": p50["session"],
            "session_p99_us": p99["session"],
            "predict_over_session": ratio,
            "shots": shots,
            **{f"adapt_{steps}_p50_ms": value for steps, value in adapted.items()},
            **{f"{name}_{key}": value for name, figures in by_sample.items() for key, value in figures.items()},
        }
        write_json(json, figures)
    return 0


def _by_sample(model: AdaptiveModel) -> dict[str, dict[str, float]]:
    """Time what a bundle with the rule recursive does with one sample, and how many predicts that takes."""
    stream, fields = model.bundle.stream(), model.manifest.outputs
    low, high = (np.concatenate([np.full(each.size, getattr(each, end)) for each in fields]) for end in ("low", "high"))
    # A y outside its bounds would be refused, which takes no time.
    x, y = stream.x[0], np.clip(stream.y[0].reshape(-1), low, high).reshape(stream.y[0].shape).astype(FLOAT32)
    calls = {
        "predict": lambda: model.predict(x),
        "update": lambda: model.update(x, y),
        "deviation": lambda: model.predict(x, std=True),
    }
    seconds = in_turns(calls, _BLOCKS, _CALLS)
    if longest := _longest(model, x, y):
        seconds["longest_update"] = np.array(longest)[:, None]
    medians = {name: np.median(blocks, 1) for name, blocks in seconds.items()}
    return {
        name: {
            "p50_us": float(1e6 * np.median(seconds[name])),
            "p99_us": float(1e6 * np.percentile(seconds[name], 99)),
            "over_predict": float(np.median(medians[name] / medians["predict"])),
        }
        for name in seconds
        if name != "predict"
    }


def _in_words(found: Mapping[str, float]) -> str:
    return f"p50 {found['p50_us']:.1f} µs, p99 {found['p99_us']:.1f} µs, {found['over_predict']:.1f} predicts"


def _longest(model: AdaptiveModel, x: Array, y: NDArray) -> list[float]:
    """Time the update that linearizes most samples again, `_BLOCKS` times, in s. Empty if none does."""
    assert model.manifest.recursion is not None
    limit = model.manifest.recursion.relinearize
    if not (samples := max((count for count in range(limit + 1) if due(count, limit)), default=0)):
        return []
    seconds = []
    for _ in range(_BLOCKS):
        model.reset()
        for _ in range(samples - 1):
            model.update(x, y)
        begin = time.perf_counter()
        model.update(x, y)
        seconds.append(time.perf_counter() - begin)
    return seconds


def in_turns(calls: Mapping[Key, Callable[[], object]], blocks: int, count: int) -> dict[Key, np.ndarray]:
    """Time several functions, which take turns block by block.

    Args:
        calls: Name to function.
        blocks: Blocks per function. One more block at the start warms up and is not counted.
        count: Calls per block.

    Returns:
        Name to the duration of each call in s, `(blocks, count)`.
    """
    clock = time.perf_counter
    seconds = {key: np.empty((blocks + 1, count)) for key in calls}
    collected = gc.isenabled()
    gc.disable()  # a collection would be counted as part of the call in which it starts
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
