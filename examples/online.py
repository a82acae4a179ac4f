"""Drive a ring-nav robot while it learns from its operator, who takes the wheel whenever the guard refuses an action.

Usage: python examples/online.py runs/demo/bundle [rate in Hz, default 100]
"""

import sys
import time

import numpy as np

from msr_envs.ring_nav import RingNav
from msr_envs.ring_nav_operator import operator
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, OnlineAdapter


def main(bundle: str, hz: float = 100.0) -> bool:
    """Drive one episode; return whether the goal was reached."""
    family, rng = RingNav(), np.random.default_rng(0)
    task = family.draw_task(rng)  # stands for a robot whose mounting, sensor and operator nobody has measured
    env, wheel = family.make_env(task), operator(task)
    observation, info = env.reset(seed=0)

    model = AdaptiveModel.load(bundle)
    model.adapt(*family.demonstrate(rng, task, shots=10))  # enough to set off
    guard = ActionGuard(
        model.manifest.outputs, hz, max_age=2 / hz, fallback=lambda _: wheel(observation), latch_after=50
    )
    with OnlineAdapter(model, hz=hz / 2) as online, ControlLoop(hz=hz, ticks=250) as loop:
        for _ in loop:
            seen, observation = time.monotonic(), observation.astype(np.float32)
            action = guard(online.predict(observation), seen)  # never waits for an adaptation
            online.observe(observation, wheel(observation))  # what the operator would have done
            observation, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                break
    print(loop.report(), online.report(), guard.report(), sep="\n")
    print("goal reached" if info["reached"] else "goal not reached")
    return bool(info["reached"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(float, sys.argv[2:]))
