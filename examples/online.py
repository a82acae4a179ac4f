"""Drive a robot while it keeps learning from its operator, who takes over when the guard refuses an action.

It shows `OnlineAdapter`, which adapts in a background thread, and `ActionGuard`, which checks every action, with a
simulated ring-nav robot. `make demo` makes the bundle.

Usage: python examples/online.py runs/demo/bundle [RATE]

RATE is the control rate in Hz. The default is the rate in the bundle's manifest: 10 Hz, so a drive takes up to 25 s. A
simulated robot also accepts a higher one.
"""

import sys
import time

import numpy as np

from msr_envs.ring_nav import RingNav
from msr_envs.ring_nav.operator import operator
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, OnlineAdapter


def main(bundle: str, rate: float | None = None) -> bool:
    """Drive one episode; return whether the robot reached its goal."""
    # One robot: nobody has measured how its drive is mounted, how its sensors respond or how its operator drives.
    family, rng = RingNav(), np.random.default_rng(0)
    task = family.draw_task(rng)
    env, operate = family.make_env(task), operator(task)

    # Ten samples are enough to begin with.
    model = AdaptiveModel.load(bundle)
    hz = rate or model.manifest.rate_hz or family.rate_hz  # a bundle without a rate fits any
    model.adapt(*family.demonstrate(rng, task, shots=10))

    # An action is sent if it is in bounds and its observation is younger than two ticks. Else the operator acts, and if
    # ten actions within a hundred ticks are refused, for the rest of the drive.
    observation, info = env.reset(seed=0)
    guard = ActionGuard(model.manifest.outputs, hz, max_age=2 / hz, fallback=lambda _: operate(observation))

    try:
        with OnlineAdapter(model, hz=hz / 2) as online, ControlLoop(hz=hz, ticks=250) as loop:
            for _ in loop:
                observed = time.monotonic()
                action = guard.act(online.predict, observation, observed)  # never waits for an adaptation
                online.observe(observation, operate(observation))  # learn what the operator would have done
                observation, _, terminated, truncated, info = env.step(action)
                if terminated or truncated:
                    break
    finally:
        env.step(np.zeros(2, np.float32))  # a robot that gets no command may keep the last one: stop it
    print(loop.report(), online.report(), guard.report(), sep="\n")
    print("goal reached" if info["reached"] else "goal not reached")
    return bool(info["reached"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(float, sys.argv[2:]))
