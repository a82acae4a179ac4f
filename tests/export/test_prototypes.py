"""Prototypes on the robot: what an adaptation to classes runs, and what it leaves out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, UpdateGuard
from msr_runtime.adaptation.inner_loop import InnerLoop
from msr_runtime.adaptation.update_guard import UNLIMITED, Refusal
from msr_runtime.cli.adapt import adapt
from msr_runtime.errors import InputError
from msr_runtime.inference.session import make_session
from msr_runtime.inference.state import State


def test_an_adaptation_runs_one_graph(exporter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """adapt.onnx gives the loss after the step too, so that no sample is embedded a second time by loss.onnx."""
    export = exporter.exported("protonets", "cross_entropy")
    frozen = export.frozen
    adapt, loss = (make_session(graph, "graph", ["CPUExecutionProvider"]) for graph in (frozen.adapt, frozen.loss))
    runs, run = [], type(adapt).run_with_iobinding
    monkeypatch.setattr(type(adapt), "run_with_iobinding", lambda *given: runs.append(given[0]) or run(*given))
    start = State({"v": frozen.v0, **frozen.weights})
    inner_loop, adapted = InnerLoop(adapt, loss, start), start.another()
    for seed in range(3):
        x, y = exporter.draw(export, 7, seed)
        end = inner_loop(x, y, 1, adapted)
        assert end.loss_before == pytest.approx(inner_loop.losses.mean(x, y, start), rel=1e-5)
        assert end.loss_after == pytest.approx(inner_loop.losses.mean(x, y, adapted), rel=1e-5)
        assert end.loss_after != pytest.approx(end.loss_before, rel=1e-3)
    assert runs == [adapt] * 3


def test_the_only_sample_of_a_class_is_never_left_out(exporter: Any) -> None:
    """An image that looks like those of another class misses the limit. Without it, the robot would lose the class."""
    export = exporter.exported("protonets", "cross_entropy")
    model = AdaptiveModel.load(exporter.bundle("protonets", "cross_entropy"))
    x, _ = exporter.draw(export, 10)
    x[1:5] = x[0] + 0.01 * (x[1:5] - x[0])
    labels = np.array([0, 0, 0, 0, 1])
    whole, without = (model.adapt(x[:n], labels[:n], guard=UNLIMITED).loss_after for n in (5, 4))
    assert without < 0.9 * whole
    strict = UpdateGuard(trust=np.inf, loss=0.95 * whole)
    result = model.adapt(x[:5], labels, guard=strict)
    assert (result.accepted, result.left_out, result.refusal) == (False, (), Refusal.POOR_FIT)
    assert result.loss_after == pytest.approx(whole, rel=1e-4)
    # with two samples of it, the one that looks like another class is left out
    two, labels = x[[0, 1, 2, 3, 9]], np.array([0, 0, 0, 1, 1])
    loss = model.adapt(two, labels, guard=UNLIMITED).loss_after
    result = model.adapt(two, labels, guard=UpdateGuard(trust=np.inf, loss=0.5 * loss))
    assert (result.accepted, result.left_out) == (True, (3,))
    # and where each class has one, nothing is tried at all
    result = model.adapt(x[:2], np.array([0, 1]), guard=UpdateGuard(trust=np.inf, loss=1e-9))
    assert (result.accepted, result.left_out) == (False, ())


def test_labels_of_queries_that_are_no_class_are_refused(exporter: Any, tmp_path: Path) -> None:
    """`msr adapt` would count them as wrong answers of the network."""
    export = exporter.exported("protonets", "cross_entropy")
    bundle, file = exporter.bundle("protonets", "cross_entropy"), tmp_path / "samples.npz"
    x, _ = exporter.draw(export, 4)
    labels = np.array([0, 1, 0, 1])
    np.savez(file, support_x=x, support_y=labels, query_x=x, query_y=labels + 1)
    with pytest.raises(InputError, match="query_y has labels 1 to 2, but 0 to 1 are wanted"):
        adapt(bundle, file)
