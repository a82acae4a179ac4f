"""Reach points and follow a path by inverting a model of the arm: the closed-loop measure of the family.

The controller knows the arm only through the network, `predict`. Before each move, a damped Gauss-Newton search finds
the command after which the predicted fingertip is nearest to the target. It gets the slope from finite differences,
through batches of predictions. The controller does not see where the fingertip came to rest, so nothing hides the
errors of the model.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msr_envs.arm.body import JOINTS, MIDDLE, MOVE, RANGE
from msr_envs.arm.course import REACHES, Course
from msr_envs.arm.simulator import simulator
from msr_envs.arm.task import ArmTask
from msr_runtime.errors import InputError
from msr_runtime.task import Predict

_SIZE = len(JOINTS)
_ROUNDS = 5  # Gauss-Newton steps before each move
_OFFSET = 0.04  # rad, of the finite differences; wide, so that play and friction do not decide the slope
_DAMPINGS = np.array([1e-4, 1e-3, 1e-2, 1e-1])  # m2 / rad2: all are tried in each round, and the best result is kept
_POSTURE = 2e-4  # m2 / rad2: five joints put the fingertip there in many ways, and this chooses one near the middle
_ABSURD = 1e3  # m, much more than any arm reaches


class Drive(NamedTuple):
    """One course, driven."""

    targets: NDArray[np.float64]
    """`(moves, 3)`: where the fingertip should have been, relative to the base, m."""
    fingertips: NDArray[np.float64]
    """`(moves, 3)`: where it came to rest, m."""

    @property
    def errors(self) -> NDArray[np.float64]:
        """`(moves,)`: distance of the fingertip from its target after each move, m."""
        return np.linalg.norm(self.fingertips - self.targets, axis=-1)

    @property
    def reach_error(self) -> float:
        """Mean distance from the points to reach, m."""
        return float(self.errors[:REACHES].mean())

    @property
    def path_error(self) -> float:
        """Mean distance from the points of the path, m."""
        return float(self.errors[REACHES:].mean())


def drive(task: ArmTask, predict: Predict, course: Course) -> Drive:
    """Drive a course with the arm `task` in the simulator.

    Args:
        task: The arm. The controller does not see it.
        predict: The model: x `(batch, 11)`, see `model_inputs`, to the fingertip `(batch, 3)`, m.
        course: The course.

    """
    held, closed = course.start, np.zeros((1, 1))
    state = simulator().rest(task, np.append(held, 0.0)[None])
    fingertips = []
    for target in course.targets:
        command = choose_command(predict, held, target)
        old, new = (np.concatenate([each[None], closed], -1) for each in (held, command))
        state, seen = simulator().advance(task, state, old, new)
        fingertips.append(seen[0])
        held = command
    return Drive(course.targets, np.array(fingertips))


def choose_command(predict: Predict, held: NDArray, target: NDArray) -> NDArray[np.float64]:
    """Return the command `(5,)` in rad after which the predicted fingertip is nearest to the target.

    Args:
        predict: The model: x `(batch, 11)` to the fingertip `(batch, 3)`, m.
        held: The command `(5,)` that the arm holds now, rad.
        target: Where the fingertip should be, `(3,)`, m.

    """

    def residuals(commands: NDArray) -> NDArray:
        x = model_inputs(commands, commands - held)
        # The output of a network that diverged counts as very wrong. Infinity or NaN would spoil the linear algebra.
        predicted = np.clip(np.nan_to_num(predict(x).astype(np.float64), nan=_ABSURD), -_ABSURD, _ABSURD)
        return predicted - target

    def costs(commands: NDArray, residual: NDArray) -> NDArray:
        return np.square(residual).sum(-1) + _POSTURE * np.square(commands - rest).sum(-1)

    low, high = held - MOVE, held + MOVE
    low[1:], high[1:] = np.maximum(low[1:], MIDDLE[1:] - RANGE), np.minimum(high[1:], MIDDLE[1:] + RANGE)
    rest = np.append(held[0], MIDDLE[1:])
    command = held
    error = residuals(command[None])[0]
    cost = costs(command, error)
    offsets = _OFFSET * np.eye(_SIZE)
    for _ in range(_ROUNDS):
        ahead, behind = np.clip(command + offsets, low, high), np.clip(command - offsets, low, high)
        # One batch, of two predictions a joint, gives the whole Jacobian. At a bound the difference is one-sided.
        rise = np.subtract(*np.split(residuals(np.concatenate([ahead, behind])), 2))
        slope = rise.T / np.diag(ahead - behind)
        gradient = slope.T @ error + _POSTURE * (command - rest)
        curvature = slope.T @ slope + (_POSTURE + _DAMPINGS[:, None, None]) * np.eye(_SIZE)
        steps = np.linalg.solve(curvature, np.broadcast_to(gradient[:, None], (len(_DAMPINGS), _SIZE, 1)))[..., 0]
        candidates = np.clip(command - steps, low, high)
        residual = residuals(candidates)
        trial = costs(candidates, residual)
        best = int(np.argmin(trial))
        if not trial[best] < cost:
            break  # the next round would be the same
        command, cost, error = candidates[best], trial[best], residual[best]
    return command


def model_inputs(commands: NDArray, moves: NDArray) -> NDArray[np.float32]:
    """Return x `(..., 11)` of the family: heading of the base (cosine, sine), the other four joints, the move.

    Args:
        commands: The commands `(..., 5)` that the arm goes to, rad.
        moves: `(..., 5)`: these commands minus those from which it comes, rad.

    """
    base = commands[..., :1]
    return np.concatenate([np.cos(base), np.sin(base), commands[..., 1:], moves], -1).astype(np.float32)


def recovered_share(reference: NDArray, unadapted: NDArray, adapted: NDArray) -> float:
    """Return which share of the accuracy that was lost an adaptation gives back: 1 is all of it, 0 nothing.

    It is `1 - (adapted - reference) / (unadapted - reference)`, where each stands for the mean of its errors.

    Args:
        reference: Errors `(tasks,)` of a controller that knows the arm, m.
        unadapted: Errors `(tasks,)` without adaptation, on the same tasks.
        adapted: Errors `(tasks,)` after adaptation, on the same tasks.

    Raises:
        InputError: Without adaptation, the error is not above the reference's: nothing was lost.
    """
    known, before, after = (float(np.mean(errors)) for errors in (reference, unadapted, adapted))
    if not before > known:
        raise InputError(
            f"the mean error without adaptation is {before:.4g} and the reference's {known:.4g}, but it must be above "
            "it, or there was nothing to recover: check the order of the arguments (reference, unadapted, adapted)"
        )
    return 1 - (after - known) / (before - known)
