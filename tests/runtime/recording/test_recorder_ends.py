"""A Recorder that falls behind, a process that ends, a disk that is full: the control loop never waits."""

import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader

from msr_runtime import AdaptiveModel, InputError
from msr_runtime.recording.messages import ACTION, OBSERVATION, RECORDER, SAMPLE
from msr_runtime.recording.reader import Recording
from msr_runtime.recording.recorder import Recorder

OBS, OUT = 3, 2
ROBOT = """
import sys, time
import numpy as np
from msr_runtime import AdaptiveModel
from msr_runtime.recording.recorder import Recorder

model = AdaptiveModel.load(sys.argv[1])
with Recorder(sys.argv[2], model) as recorder:
    while True:
        x = np.random.default_rng().normal(size=3)
        recorder.observation(x)
        recorder.action(model.predict(x))
        if written := recorder.report().written:
            print(written, flush=True)
        time.sleep(0.001)
"""


def _recorded_until(end: signal.Signals, bundle: Path, path: Path) -> int:
    """Let another process record until a signal ends it. Returns how many messages were on the disk before."""
    robot = subprocess.Popen(
        [sys.executable, "-c", ROBOT, bundle, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert robot.stdout is not None
    written = int(robot.stdout.readline())
    robot.send_signal(end)
    robot.communicate()
    return written


class TestQueue:
    def test_a_full_queue_drops_and_counts(
        self, tmp_path: Path, model: AdaptiveModel, random: Any, messages: Any, topic: Any
    ) -> None:
        """If messages come too fast, the file's counts and gaps in the sequence numbers show what is missing.

        The adaptation is not dropped, because adaptations have extra room in the queue.
        """
        x, y = random(0, 5, OBS), random(1, 5, OUT)
        result = model.adapt(x, y)
        with Recorder(tmp_path / "a.mcap", model.bundle, queue=8) as recorder:
            for number in range(20_000):
                recorder.observation(x[0])
                if number == 10_000:
                    recorder.adaptation(x, y, result, model.v)
        report = recorder.report()
        assert report.dropped > 0
        assert report.written + report.dropped == 20_001
        found = [m.sequence for _, c, m, _ in messages(tmp_path / "a.mcap") if c.topic == OBSERVATION]
        assert found == sorted(set(found))
        counts = topic(tmp_path / "a.mcap", RECORDER)[-1]
        others = {"action": 0, "sample": 0, "adaptation": 1, "online": 0, "loop": 0}
        assert counts["written"] == {"observation": len(found)} | others
        assert counts["dropped"]["observation"] == 20_000 - len(found) == report.dropped
        assert Recording.open(tmp_path / "a.mcap").dropped() == {"observation": report.dropped}
        assert str(report.dropped) in str(report)

    def test_threads_record_side_by_side(self, tmp_path: Path, model: AdaptiveModel, random: Any, topic: Any) -> None:
        """Two topics from two threads: the file holds every message once, in order per topic."""
        with Recorder(tmp_path / "a.mcap", model, queue=100_000) as recorder:

            def learn() -> None:
                for number in range(2000):
                    recorder.sample(random(0, OBS), np.full(OUT, number))

            learner = threading.Thread(target=learn)
            learner.start()
            for number in range(2000):
                recorder.observation(np.full(OBS, number))
            learner.join()
        assert recorder.report().dropped == 0
        assert [data["angle"][0] for data in topic(tmp_path / "a.mcap", OBSERVATION)] == list(range(2000))
        assert [data["y"]["force"][0] for data in topic(tmp_path / "a.mcap", SAMPLE)] == list(range(2000))

    def test_a_closed_recorder_drops(self, tmp_path: Path, model: AdaptiveModel, random: Any) -> None:
        """A message after `close` is counted as dropped, and closing twice is allowed."""
        recorder = Recorder(tmp_path / "a.mcap", model)
        recorder.observation(random(0, OBS))
        recorder.close()
        recorder.close()
        recorder.observation(random(0, OBS))
        report = recorder.report()
        assert (report.written, report.dropped, report.error) == (1, 1, None)

    def test_a_queue_needs_room(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """A refused queue size creates no file."""
        with pytest.raises(InputError, match="queue is 0"):
            Recorder(tmp_path / "a.mcap", model, queue=0)
        assert not (tmp_path / "a.mcap").exists()


class TestEndings:
    @pytest.mark.parametrize(("end", "finished"), [(signal.SIGKILL, False), (signal.SIGINT, True)])
    def test_a_process_that_ends_leaves_a_file_to_read(
        self, tmp_path: Path, bundle_path: Path, end: signal.Signals, finished: bool, messages: Any
    ) -> None:
        """After SIGKILL, everything that was on the disk can be read; after SIGINT, the file is complete."""
        path = tmp_path / "a.mcap"
        written = _recorded_until(end, bundle_path, path)
        recording = Recording.open(path)
        counts = Counter(event.topic for event in recording.events(OBSERVATION, ACTION))
        assert counts.total() >= written > 0
        assert recording.finished() == finished
        assert [recording.vector(event).shape for event in recording.events(ACTION)] == [(OUT,)] * counts[ACTION]
        if finished:
            assert len(messages(path)) > written

    def test_a_standard_reader_reads_what_a_killed_process_left(self, tmp_path: Path, bundle_path: Path) -> None:
        """In the order of the file, up to the place where it ends. The package's own default order gives nothing."""
        path = tmp_path / "a.mcap"
        written = _recorded_until(signal.SIGKILL, bundle_path, path)
        read: list[str] = []
        with path.open("rb") as file, pytest.raises(EndOfFile):  # noqa: PT012
            for _, channel, _ in NonSeekingReader(file).iter_messages(log_time_order=False):
                read.append(channel.topic)
        assert len(read) >= written
        assert {OBSERVATION, ACTION} <= set(read)
        with path.open("rb") as file, pytest.raises(EndOfFile):  # to sort by time it wants the whole file first
            next(iter(NonSeekingReader(file).iter_messages()))

    def test_a_file_that_is_deleted_is_noticed(
        self, tmp_path: Path, model: AdaptiveModel, random: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While it is written, and at its end. Nothing counts as written, since nobody can read it."""
        for name, wait in (("early.mcap", True), ("late.mcap", False)):
            with Recorder(tmp_path / name, model) as recorder:
                recorder.observation(random(0, OBS))
                (tmp_path / name).unlink()
                while wait and recorder.report().error is None:
                    time.sleep(0.01)
            report = recorder.report()
            assert (report.written, report.dropped) == (0, 1)
            assert f"{name}' was deleted while it was written" in str(report)
            assert f"{name}' was deleted while it was written" in caplog.text

    def test_a_file_that_is_cut_is_noticed(self, tmp_path: Path, model: AdaptiveModel, random: Any) -> None:
        """A rotation of logs may copy a file and cut it. The rest would be written behind a hole."""
        path = tmp_path / "a.mcap"
        with Recorder(path, model) as recorder:
            recorder.observation(random(0, OBS))
            path.write_bytes(b"")
        report = recorder.report()
        assert (report.written, report.dropped) == (0, 1)
        assert "a.mcap' was cut while it was written" in str(report)

    def test_a_recorder_that_cannot_begin_leaves_no_file(self, tmp_path: Path, model: AdaptiveModel) -> None:
        """Else the next try would be refused, since a recorder never overwrites a file."""
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
            with pytest.raises(OSError, match="too large"):
                Recorder(tmp_path / "a.mcap", model)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert not (tmp_path / "a.mcap").exists()

    def test_a_full_disk_ends_the_recording_and_not_the_loop(
        self, tmp_path: Path, model: AdaptiveModel, random: Any
    ) -> None:
        """If the file cannot grow, the loop continues, the loss is counted and the file is readable so far."""
        path = tmp_path / "a.mcap"
        recorder = Recorder(path, model)
        recorder.observation(random(0, OBS))
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        acted, rng = 0, np.random.default_rng(0)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limit[1]))
            while recorder.report().error is None:
                x = rng.standard_normal(OBS)
                recorder.observation(x)
                acted += len(model.predict(x)) > 0
                time.sleep(0.001)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        recorder.observation(random(0, OBS))
        recorder.close()
        report = recorder.report()
        assert report.written + report.dropped == acted + 2
        assert "too large" in str(report)
        recording = Recording.open(path)
        assert not recording.finished()
        assert sum(1 for _ in recording.events(OBSERVATION)) <= acted

    def test_an_error_on_the_recorders_thread_is_told(
        self, tmp_path: Path, model: AdaptiveModel, caplog: pytest.LogCaptureFixture, random: Any
    ) -> None:
        """Any error in the thread ends the recording: later calls still work, and what was on the disk can be read."""
        x, y = random(0, 5, OBS), random(1, 5, OUT)
        nothing: Any = SimpleNamespace(left_out=())  # not a result of `adapt`
        with Recorder(tmp_path / "a.mcap", model) as recorder:
            recorder.adaptation(x, y, nothing, model.v)
            recorder.observation(x[0])
        report = recorder.report()
        assert (report.written, report.dropped) == (0, 2)
        assert "AttributeError" in str(report)
        assert "AttributeError" in caplog.text
        assert Recording.open(tmp_path / "a.mcap").policy.bundle == model.bundle.digest

    def test_an_error_in_the_loop_still_closes_the_file(self, tmp_path: Path, model: AdaptiveModel, topic: Any) -> None:
        """The file holds the observation that caused the error, and the error reaches the caller."""
        x = np.array([0, np.nan, 0], np.float32)
        with pytest.raises(InputError, match="position"), Recorder(tmp_path / "a.mcap", model) as recorder:  # noqa: PT012
            recorder.observation(x)
            recorder.action(model.predict(x))
        assert Recording.open(tmp_path / "a.mcap").finished()
        assert topic(tmp_path / "a.mcap", OBSERVATION) == [{"position": [0, "NaN"], "angle": [0]}]
