"""Adapt a bundle to one robot from ten samples, then drive this robot at the bundle's own rate.

It shows `AdaptiveModel`, `check_robot`, `ActionGuard` and `ControlLoop` with a simulated ring-nav robot. `make demo`
makes the bundle.

Usage: python examples/control_loop.py runs/demo/bundle [RATE]

RATE is the control rate in Hz. The default is the rate in the bundle's manifest: 10 Hz, so a drive takes up to 25 s. A
simulated robot also accepts a higher one.
"""

import sys
import time

import numpy as np

from msr_envs.ring_nav import RingNav
from msr_runtime import ActionGuard, AdaptiveModel, ControlLoop, check_robot


def main(bundle: str, rate: float | None = None) -> bool:
    """Drive one episode; return whether the robot reached its goal."""
    # One robot: nobody has measured how its drive is mounted, how its sensors respond or how its operator drives.
    family, rng = RingNav(), np.random.default_rng(0)
    task = family.draw_task(rng)
    env = family.make_env(task)

    # Load the bundle, and check that it fits the robot: names, order, shapes, units, bounds and rate.
    model = AdaptiveModel.load(bundle)
    check_robot(model.bundle, family.inputs, family.outputs, family.rate_hz)
    hz = rate or model.manifest.rate_hz or family.rate_hz  # a bundle without a rate fits any

    # Adapt: the operator shows the right action for ten observations.
    support_x, support_y = family.demonstrate(rng, task, shots=10)  # (10, 18) and (10, 2)
    result = model.adapt(support_x, support_y)
    print(f"support loss {result.loss_before:.3f} -> {result.loss_after:.3f} in {result.seconds * 1e3:.1f} ms")

    # Act: one prediction per tick. The guard clips what overshoots the bounds, and holds what it refuses.
    observation, info = env.reset(seed=0)
    guard = ActionGuard(model.manifest.outputs, hz, max_age=2 / hz)
    try:
        with ControlLoop(hz=hz, ticks=250) as loop:
            for _ in loop:
                action = guard.act(model.predict, observation, time.monotonic())
                observation, _, terminated, truncated, info = env.step(action)
                if terminated or truncated:
                    break
    finally:
        env.step(np.zeros(2, np.float32))  # a robot that gets no command may keep the last one: stop it
    print(loop.report(), guard.report(), sep="\n")
    print("goal reached" if info["reached"] else "goal not reached")
    return bool(info["reached"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(float, sys.argv[2:]))
