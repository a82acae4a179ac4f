"""Record a drive in which the robot keeps learning, then replay the file and compare every action.

It shows `Recorder` and `replay` with a simulated ring-nav robot. `make demo` makes the bundle.

Usage: python examples/record.py runs/demo/bundle flight.mcap [RATE]

RATE is the control rate in Hz. The default is the rate in the bundle's manifest: 10 Hz, so a drive takes up to 25 s. A
simulated robot also accepts a higher one. The file `flight.mcap` must not exist yet.
"""

import sys
import time

import numpy as np
from numpy.typing import ArrayLike

from msr_envs.ring_nav import RingNav
from msr_envs.ring_nav.operator import operator
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, OnlineAdapter, Recorder, replay
from msr_runtime.recording import Recording
from msr_runtime.task import Array


def main(bundle: str, path: str, rate: float | None = None) -> bool:
    """Drive one episode; return whether the replay gives the actions of the drive."""
    # One robot: nobody has measured how its drive is mounted, how its sensors respond or how its operator drives.
    family, rng = RingNav(), np.random.default_rng(0)
    task = family.draw_task(rng)
    env, operate = family.make_env(task), operator(task)

    model = AdaptiveModel.load(bundle)
    hz = rate or model.manifest.rate_hz or family.rate_hz  # a bundle without a rate fits any
    model.adapt(*family.demonstrate(rng, task, shots=10))

    observation, _ = env.reset(seed=0)
    guard = ActionGuard(model.manifest.outputs, hz, max_age=2 / hz)
    with Recorder(path, model) as recorder:  # the file begins with the weights that act now
        try:
            with (
                OnlineAdapter(model, hz=hz / 2, recorder=recorder) as online,  # records samples and adaptations itself
                ControlLoop(hz=hz, ticks=250) as loop,
            ):

                def predict(x: ArrayLike) -> Array:
                    recorder.observation(x)  # some microseconds: another thread writes the file
                    action = online.predict(x)
                    recorder.action(action)  # before the guard limits it: a replay computes it again
                    return action

                for _ in loop:
                    action = guard.act(predict, observation, time.monotonic())
                    online.observe(observation, operate(observation))  # learn what the operator would have done
                    observation, _, terminated, truncated, _ = env.step(action)
                    if terminated or truncated:
                        break
        finally:
            env.step(np.zeros(2, np.float32))  # a robot that gets no command may keep the last one: stop it
        recorder.loop(loop.report())
    print(recorder.report())

    report = replay(Recording.open(path), AdaptiveModel.load(bundle))
    print(f"{report.actions} actions and {report.adaptations} adaptations replayed, {report.differing} actions differ")
    return report.same


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
