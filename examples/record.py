"""Record a ring-nav robot that learns from its operator while it drives, then replay the recording.

Usage: python examples/record.py runs/demo/bundle flight.mcap [rate in Hz, default 100]
"""

import sys

import numpy as np

from msr_envs.ring_nav import RingNav
from msr_envs.ring_nav_operator import operator
from msr_runtime import AdaptiveModel, ControlLoop, OnlineAdapter
from msr_runtime.recorder import Recorder
from msr_runtime.recording import Recording
from msr_runtime.replay import replay


def main(bundle: str, path: str, hz: float = 100.0) -> bool:
    """Drive one episode; return whether the replay does what the robot did."""
    family, rng = RingNav(), np.random.default_rng(0)
    task = family.draw_task(rng)  # stands for a robot whose mounting, sensor and operator nobody has measured
    env, wheel = family.make_env(task), operator(task)
    observation, _ = env.reset(seed=0)

    model = AdaptiveModel.load(bundle)
    model.adapt(*family.demonstrate(rng, task, shots=10))  # the file begins with what acts already
    with (
        Recorder(path, model) as recorder,
        OnlineAdapter(model, hz=hz / 2, recorder=recorder) as online,  # records what it observes, and each adaptation
        ControlLoop(hz=hz, ticks=250) as loop,
    ):
        for _ in loop:
            recorder.observation(observation)  # some microseconds: a thread of its own writes
            action = online.predict(observation)
            recorder.action(action)
            online.observe(observation, wheel(observation))
            observation, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        recorder.loop(loop.report())
    print(recorder.report())

    report = replay(Recording.open(path), AdaptiveModel.load(bundle))
    print(f"{report.actions} actions and {report.adaptations} adaptations replayed, {report.differing} actions differ")
    return report.same


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
