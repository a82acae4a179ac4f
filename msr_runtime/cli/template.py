"""A robot of your own, whole: a family of simulated robots to train on, and the loop that drives the real one.

The robot has two driven wheels. Nobody has measured its motors, its tires, its load and its track. A network learns in
simulation how such robots move, and adapts to one of them from ten samples. All samples turn left. That the robot turns
right in the same way is its symmetry.

    msr train my_robot.py:MyRobot runs/my_robot
    msr export runs/my_robot runs/my_robot/bundle --family my_robot.py:MyRobot
    msr evaluate runs/my_robot/bundle --family my_robot.py:MyRobot --closed-loop-tasks 10
    msr samples my_robot.py:MyRobot samples.npz
    msr adapt runs/my_robot/bundle samples.npz
    python my_robot.py runs/my_robot/bundle

Change this file part by part until it is your robot. `msr train` says what is wrong before it trains.
"""

import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from msr_envs.symmetry import DeclaredSymmetry, Parts, Pseudoscalar, Scalar, mirror
from msr_runtime import AdaptiveModel, ControlLoop
from msr_runtime.task import SPLITS, Adapt, ClosedLoop, Field, Loss, Predict, Split, TaskBatch

HZ = 20.0
TICKS, MEASURED = 120, 20  # ticks of a drive; ticks between two measurements of speed and yaw rate, here by a camera
WHEELS = np.stack(np.meshgrid(*[np.linspace(-1, 1, 31)] * 2), -1).reshape(-1, 2)  # (961, 2): what can be commanded


class Robots:
    """The simulator: robots that differ in what nobody has measured."""

    def __init__(self, rng: np.random.Generator, robots: int) -> None:
        """Draw the robots."""
        self.motor = rng.uniform(4.0, 8.0, (robots, 1))  # m/s2, of one wheel at full command
        self.slip = rng.uniform(0.5, 2.5, (robots, 1))  # how soon more command gives no more force
        self.drag = rng.uniform(1.0, 4.0, (robots, 1))  # 1/s
        self.track = rng.uniform(0.2, 0.5, (robots, 1))  # m between the wheels

    def change(self, state: NDArray, wheels: NDArray) -> NDArray:
        """How speed (m/s) and yaw rate (rad/s) change in one tick; state and wheels are `(robots, samples, 2)`."""
        force = self.motor[..., None] * np.tanh(self.slip[..., None] * wheels)
        speed, yaw_rate = state[..., 0], state[..., 1]
        forward = force.sum(-1) - self.drag * speed * (1 + np.abs(yaw_rate) / 4)  # tires that turn rub
        turn = (force[..., 1] - force[..., 0]) / self.track - self.drag * yaw_rate
        return np.stack([forward, turn], -1) / HZ

    def samples(self, rng: np.random.Generator, samples: int, left: bool) -> tuple[NDArray, NDArray]:
        """Draw moments of a drive: x `(robots, samples, 4)` and y `(robots, samples, 2)`. Some turn left only."""
        state, wheels = rng.uniform(-1, 1, (2, len(self.motor), samples, 2))
        if left:
            state[..., 1], wheels = np.abs(state[..., 1]), np.sort(wheels)  # the right wheel is the faster one
        state *= [1.0, 3.0]
        return np.concatenate([state, wheels], -1).astype(np.float32), self.change(state, wheels).astype(np.float32)


class MyRobot(DeclaredSymmetry):
    """The family: x is the state and the command, y is the change of the state. A mirror swaps left and right."""

    name = "my-robot"
    symmetry = mirror()
    inputs = (
        Field(name="speed", shape=(1,), unit="m/s", low=-1.5, high=1.5, representation=Scalar()),
        Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-5, high=5, representation=Pseudoscalar()),
        Field(
            name="wheels",
            shape=(2,),
            unit="1",
            low=-1,
            high=1,
            names=("left", "right"),
            representation=Parts(cycles={"mirror": [("left", "right")]}),
        ),
    )
    outputs = (
        Field(name="speed_change", shape=(1,), unit="m/s", low=-1.2, high=1.2, representation=Scalar()),
        Field(name="yaw_rate_change", shape=(1,), unit="rad/s", low=-5, high=5, representation=Pseudoscalar()),
    )
    loss: Loss = "mse"
    query_sets = ("left", "everywhere")
    rate_hz = HZ

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw robots. The support set and the first half of the queries turn left."""
        rng = np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])  # splits share no robot
        robots = Robots(rng, tasks)
        x, y = robots.samples(rng, shots + queries // 2, left=True)
        wide_x, wide_y = robots.samples(rng, queries // 2, left=False)
        query_x, query_y = np.concatenate([x[:, shots:], wide_x], 1), np.concatenate([y[:, shots:], wide_y], 1)
        return TaskBatch(x[:, :shots], y[:, :shots], query_x, query_y)

    def evaluate(self, adapt: Adapt | None, rng: np.random.Generator, tasks: int, split: Split) -> ClosedLoop:
        """Drive a slalom with the network as the model of the robot. Without a network, drive with the true model."""
        rng = np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])
        errors = []
        for _ in range(tasks):
            robot = Robots(rng, 1)
            x, y = robot.samples(rng, 10, left=True)
            true_model: Predict = lambda x, robot=robot: robot.change(x[None, :, :2], x[None, :, 2:])[0]  # noqa: E731
            states = drive(adapt(x[0], y[0]) if adapt else true_model, robot, range(TICKS))
            goals = np.array([wanted(tick) for tick in range(TICKS)])
            errors.append(np.linalg.norm(path(states) - path(goals), axis=1).mean())
        return ClosedLoop("path error", "m", False, np.array(errors))


def wanted(tick: int) -> NDArray:
    """The slalom: speed in m/s and yaw rate in rad/s at a tick."""
    return np.array([0.6, 1.5 * np.cos(2 * np.pi * tick / 60)])


def act(predict: Predict, state: NDArray, goal: NDArray) -> tuple[NDArray, NDArray]:
    """Turn predictions into an action: of all commands, the one after which the state is nearest to the goal.

    Returns:
        The command, and the state that is expected after it.
    """
    x = np.concatenate([np.broadcast_to(state, WHEELS.shape), WHEELS], 1).astype(np.float32)
    expected = state + predict(x)
    best = np.argmin(np.sum(((expected - goal) * [1.0, 0.3]) ** 2, 1))  # 1 rad/s off is as bad as 0.3 m/s off
    return WHEELS[best], expected[best]


def drive(predict: Predict, robot: Robots, ticks: Iterable[int]) -> NDArray:
    """Drive the slalom from rest. Between two measurements, the network says what the state is.

    Returns:
        The true state after each tick, `(ticks, 2)`.
    """
    states = [np.zeros(2)]
    for tick in ticks:
        if tick % MEASURED == 0:
            believed = states[-1]
        wheels, believed = act(predict, believed, wanted(tick))
        states.append(states[-1] + robot.change(states[-1][None, None], wheels[None, None])[0, 0])
    return np.array(states[1:])


def path(states: NDArray) -> NDArray:
    """Return where speeds and yaw rates `(ticks, 2)` lead: positions `(ticks, 2)` in m."""
    heading = np.cumsum(states[:, 1]) / HZ
    return np.cumsum(states[:, :1] * np.stack([np.cos(heading), np.sin(heading)], 1), 0) / HZ


def main(bundle: str) -> None:
    """Adapt to a robot and drive it. A simulated one stands for yours: replace `robot`."""
    rng = np.random.default_rng()
    robot, model = Robots(rng, 1), AdaptiveModel.load(bundle)
    x, y = robot.samples(rng, 10, left=True)
    result = model.adapt(x[0], y[0])
    print(f"support loss {result.loss_before:.3g} before, {result.loss_after:.3g} after; accepted: {result.accepted}")
    with ControlLoop(hz=HZ, ticks=TICKS) as loop:
        drive(model.predict, robot, loop)
    print(loop.report())


if __name__ == "__main__":
    main(sys.argv[1])
