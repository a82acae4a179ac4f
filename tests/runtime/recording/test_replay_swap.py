"""An adaptation beside the loop: its message tells which weights each action can come from, however threads run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msr_runtime import AdaptiveModel, Bundle
from msr_runtime.adaptation.online import OnlineAdapter
from msr_runtime.recording.messages import ADAPTATION
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder
from msr_runtime.recording.replay import ReplayReport, replay

OBS, OUT = 3, 2


class Acting(Recorder):
    """A recorder that lets the robot act between the message of an adaptation, the swap and the message of the swap.

    So it shows every order in which two threads can run, without a second thread.
    """

    def __init__(self, path: Path, model: AdaptiveModel) -> None:
        super().__init__(path, model)
        self.model, self.tick = model, 0

    def act(self) -> None:
        """One tick of the loop."""
        x = np.random.default_rng(self.tick).standard_normal(OBS).astype(np.float32)
        self.tick += 1
        self.observation(x)
        self.action(self.model.predict(x))

    def adaptation(self, *what: Any, **how: Any) -> None:
        """Act twice before the message, and twice after it."""
        for act in (self.act, self.act, lambda: super(Acting, self).adaptation(*what, **how), self.act, self.act):
            act()

    def swapped(self) -> None:
        """Act twice with the new weights before the message that they act, and twice after it."""
        for act in (self.act, self.act, super().swapped, self.act, self.act):
            act()


def replayed(path: Path, bundle: Path) -> ReplayReport:
    """Replay a file to the last bit."""
    return replay(Recording.open(path), AdaptiveModel.load(bundle), tolerance=0.0)


def kinds(path: Path) -> list[tuple[str, bool]]:
    """Kind of each message of `/adaptation`, and whether it is pending."""
    recording = Recording.open(path)
    return [(m.kind, m.pending) for m in map(recording.adaptation, recording.events(ADAPTATION))]


@pytest.mark.parametrize("start", ["v0", "accepted"])
def test_ticks_around_the_swap_replay_exactly(
    tmp_path: Path, bundle_path: Path, model: AdaptiveModel, random: Any, start: Any
) -> None:
    """Ticks before the swap act with the old weights, although the adaptation is recorded already."""
    with Acting(tmp_path / "a.mcap", model) as recorder:
        for seed in (0, 2, 4):
            result = model.adapt(random(seed, 5, OBS), random(seed + 1, 5, OUT), start=start, recorder=recorder)
            assert result.accepted
    assert kinds(tmp_path / "a.mcap") == [("adapt", True), ("swap", False)] * 3
    report = replayed(tmp_path / "a.mcap", bundle_path)
    assert (report.same, report.actions, report.adaptations, report.v_error) == (True, 24, 3, 0.0)


def test_a_refused_adaptation_is_not_pending(
    tmp_path: Path, bundle_path: Path, model: AdaptiveModel, random: Any
) -> None:
    """The old weights act on, and no swap is recorded."""
    x = 1e20 * random(0, 5, OBS)
    with Acting(tmp_path / "a.mcap", model) as recorder, np.errstate(over="ignore"):
        assert not model.adapt(x, x[:, :OUT], recorder=recorder).accepted
    assert kinds(tmp_path / "a.mcap") == [("adapt", False)]
    report = replayed(tmp_path / "a.mcap", bundle_path)
    assert (report.same, report.refused) == (True, 1)


def test_old_weights_are_not_excused_after_the_swap(
    tmp_path: Path, bundle_path: Path, model: AdaptiveModel, random: Any
) -> None:
    """And new ones not before the adaptation."""
    old, new = model.fork(), model.fork()
    new.adapt(random(0, 5, OBS), random(1, 5, OUT))
    with Acting(tmp_path / "a.mcap", model) as recorder:
        recorder.model = new
        recorder.act()
        recorder.model = model
        recorder.act()
        model.adapt(random(0, 5, OBS), random(1, 5, OUT), recorder=recorder)
        recorder.model = old
        recorder.act()
    report = replayed(tmp_path / "a.mcap", bundle_path)
    assert report.differing == 2


def test_a_lost_swap_is_made_up_by_the_next_change(
    tmp_path: Path, bundle_path: Path, model: AdaptiveModel, random: Any
) -> None:
    """Its message was dropped, for example. The weights act when the next adaptation begins, at the latest."""
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        for seed in (0, 2):
            x, y = random(seed, 5, OBS), random(seed + 1, 5, OUT)
            result = model.adapt(x, y, start="accepted")
            recorder.adaptation(x, y, result, model.v, "accepted", pending=True)
            recorder.observation(x[0])
            recorder.action(model.predict(x[0]))
    report = replayed(tmp_path / "a.mcap", bundle_path)
    assert (report.same, report.actions, report.adaptations, report.v_error) == (True, 2, 2, 0.0)


def test_the_online_adapter_records_before_the_swap(
    tmp_path: Path, bundle_path: Path, linear: Any, random: Any
) -> None:
    """The weights that act are never ones that the recording does not know yet."""
    model, truth = AdaptiveModel.load(bundle_path), linear.v0 + np.float32(0.2)
    known = [model.v]

    class Watching(Recorder):
        def adaptation(self, support_x: Any, support_y: Any, result: Any, v: Any, *more: Any, **how: Any) -> None:
            assert any(np.array_equal(model.v, each) for each in known)
            known.append(np.array(v))
            super().adaptation(support_x, support_y, result, v, *more, **how)

    with (
        Watching(tmp_path / "a.mcap", Bundle.open(bundle_path)) as recorder,
        OnlineAdapter(model, window=8, hz=1000, recorder=recorder) as online,
    ):
        number = 0
        while online.report().accepted < 3:
            x = random(number, OBS)
            recorder.observation(x)
            recorder.action(online.predict(x))
            online.observe(x, linear.predict(truth, x))
            number += 1
    assert len(known) >= 4
    assert replayed(tmp_path / "a.mcap", bundle_path).same
