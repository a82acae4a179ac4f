"""Learning sample by sample while other threads predict or learn: nothing is torn, and nobody waits for ever."""

import threading

import numpy as np
import pytest

from msr_runtime import AdaptiveModel

X = np.random.default_rng(0).uniform(0, 1, (100, 18)).astype(np.float32)
Y = (X[:, 16:] * 0.5 - 0.2).astype(np.float32)
QUERY = X[0]
BOTH = pytest.mark.parametrize("filtering", ["onnx", "native"], indirect=True)
"""Runs a test in ONNX Runtime and in native code."""


def _learn(model: AdaptiveModel, first: int, end: int) -> AdaptiveModel:
    for x, y in zip(X[first:end], Y[first:end], strict=True):
        assert model.update(x, y).accepted
    return model


@BOTH
def test_predictions_are_never_torn(filtering: AdaptiveModel) -> None:
    """Each is that of the weights and of the belief between two updates, while another thread updates."""
    updates = 300
    sequence = filtering.fork()
    wanted = {sequence.predict(QUERY).tobytes()}
    wanted_std = {b"".join(part.tobytes() for part in sequence.predict(QUERY, std=True))}
    for index in range(updates):
        sequence.update(X[index % 100], Y[index % 100])
        wanted.add(sequence.predict(QUERY).tobytes())
        wanted_std.add(b"".join(part.tobytes() for part in sequence.predict(QUERY, std=True)))
    done, seen, seen_std = threading.Event(), set[bytes](), set[bytes]()

    def plain() -> None:
        while not done.is_set():
            seen.add(filtering.predict(QUERY).tobytes())

    def deviations() -> None:
        while not done.is_set():
            seen_std.add(b"".join(part.tobytes() for part in filtering.predict(QUERY, std=True)))

    threads = [threading.Thread(target=target) for target in (plain, deviations)]
    for thread in threads:
        thread.start()
    for index in range(updates):
        filtering.update(X[index % 100], Y[index % 100])
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= wanted
    assert seen_std <= wanted_std
    assert len(seen | seen_std) > 2


@BOTH
def test_a_large_batch_ends_however_often_another_thread_updates(filtering: AdaptiveModel) -> None:
    """Though each attempt takes longer than some updates."""
    batch, began, answered = np.tile(X, (40, 1)), threading.Event(), threading.Event()

    def predict() -> None:
        began.set()
        assert np.isfinite(filtering.predict(batch, std=True).total).all()
        answered.set()

    thread = threading.Thread(target=predict, daemon=True)
    thread.start()
    began.wait()
    for index in range(10_000):
        filtering.update(X[index % 100], Y[index % 100])
        if answered.wait(0.001):
            break
    assert answered.is_set()
    thread.join()


@BOTH
def test_threads_that_update_wait_for_each_other(filtering: AdaptiveModel) -> None:
    """Every sample counts: the covariance does not depend on who brought it."""
    alone = _learn(filtering.fork(), 0, 40).predict(QUERY, std=True).epistemic
    threads = [threading.Thread(target=_learn, args=(filtering, 10 * part, 10 * part + 10)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(filtering.predict(QUERY, std=True).epistemic, alone, rtol=0.2)
