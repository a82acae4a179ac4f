"""Adapt a ring-nav bundle to one robot and drive it in its Gymnasium environment, at a fixed rate.

Usage: python examples/control_loop.py runs/demo/bundle [rate in Hz, default 100]
"""

import sys

import numpy as np

from msr_envs.ring_nav import RingNav
from msr_runtime import AdaptiveModel, ControlLoop


def main(bundle: str, hz: float = 100.0) -> bool:
    """Drive one episode; return whether the goal was reached."""
    family, rng = RingNav(), np.random.default_rng(0)
    task = family.draw_task(rng)  # stands for a robot whose mounting, sensor and operator nobody has measured
    support_x, support_y = family.demonstrate(rng, task, shots=10)  # ten moments of the operator at the wheel

    model = AdaptiveModel.load(bundle)
    result = model.adapt(support_x, support_y)
    print(f"support loss {result.loss_before:.3f} -> {result.loss_after:.3f} in {result.seconds * 1e3:.1f} ms")

    env = family.make_env(task)
    observation, info = env.reset(seed=0)
    with ControlLoop(hz=hz, ticks=250) as loop:
        for _ in loop:
            observation, _, terminated, truncated, info = env.step(model.predict(observation))
            if terminated or truncated:
                break
    print(loop.report())
    print("goal reached" if info["reached"] else "goal not reached")
    return bool(info["reached"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(float, sys.argv[2:]))
