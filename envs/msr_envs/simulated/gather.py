"""Gather the samples of tasks: make the environment, run episodes, and keep x and y of their steps."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from msr_envs.simulated.actions import Task
from msr_envs.simulated.phases import Phase
from msr_envs.simulated.spaces import Side, batch, like, numbers, rows
from msr_envs.simulated.targets import Target, Transitions
from msr_runtime.errors import FamilyError, MsrError, line_of_users_code
from msr_runtime.task import SPLITS, Array, Split

Make = str | Callable[..., gymnasium.Env | VectorEnv]
Through = Literal["make", "reset"]
_HANDED = "<dynamic-code>"
"""What cloudpickle calls the file of code that it hands from one process to another."""
_KEYWORDS = "correct the keyword arguments or the options that `task` draws"
_ROWS = (
    "the options hold an array for each number, one value a row, and a vector environment of Gymnasium's own hands the "
    "whole arrays to every row: name the single environment in its place, which is gathered in parallel as well"
)
_EMPTY = 100
"""So many episodes in a row may end before they give a sample."""


class Unit(NamedTuple):
    """What is gathered at once: one task, or as many as a vector environment has rows with tasks of their own."""

    split: Split
    first: int
    tasks: int


class _Step(NamedTuple):
    """One step of every row of the environment."""

    counts: NDArray[np.bool_]
    """`(rows,)`: whether the row's step is a sample."""
    observation: NDArray
    action: NDArray
    following: NDArray


@dataclass(frozen=True)
class Recipe:
    """All that decides the data of a family. A unit of it gives the same samples in any process."""

    name: str
    env: Make
    task: Callable[[np.random.Generator], Task]
    through: Through
    own_tasks: bool
    """Whether each row of a vector environment has a task of its own."""
    phases: tuple[Phase, ...]
    observation: Side
    action: Side
    x: tuple[str, ...]
    y: Target
    seed: int
    examples: int


class Gatherer:
    """Gathers units one after another. It keeps the environment open where tasks go through `reset`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._open: VectorEnv | None = None

    def gather(self, unit: Unit) -> tuple[Array, Array]:
        """Return x `(tasks, phases, examples, x)` and y `(tasks, phases, examples, y)`, float32.

        Raises:
            FamilyError: The environment or another part of the user's code fails, or gives what cannot be used.

        """
        recipe = self.recipe
        tasks, generators = [], []
        for index in range(unit.first, unit.first + unit.tasks):
            rng = task_generator(recipe.seed, unit.split, index)
            tasks.append(draw_task(recipe.name, recipe.task, rng))
            generators.append(rng)
        try:
            hint = _ROWS if recipe.own_tasks else _KEYWORDS
            with told(recipe.name, lambda: f"gathering {unit.split} task {unit.first}, {_shown(tasks[0])},", hint):
                envs = self._environments(tasks[0])
                found = [self._phase(envs, phase, tasks, generators[0], unit) for phase in recipe.phases]
        finally:
            if recipe.through == "make":
                self.close()
        x, y = (np.stack(part, 1).astype(np.float32) for part in zip(*found, strict=True))
        return x, y

    def close(self) -> None:
        """Close the environment."""
        envs, self._open = self._open, None
        if envs is not None:
            envs.close()

    def _environments(self, task: Task) -> VectorEnv:
        if self._open is None:
            self._open, _ = environments(self.recipe.env, task if self.recipe.through == "make" else {})
        return self._open

    def _phase(
        self, envs: VectorEnv, phase: Phase, tasks: list[Task], rng: np.random.Generator, unit: Unit
    ) -> tuple[NDArray, NDArray]:
        """Run episodes until every task has its samples: x `(tasks, examples, x)` and y."""
        recipe, shared = self.recipe, not self.recipe.own_tasks
        whole = tasks[0] if shared else _stacked(tasks)
        steps: list[_Step] = []
        counts, empty = np.zeros(len(tasks), int), 0
        while counts.min() < recipe.examples:
            before = counts.copy()
            for step in self._episode(envs, phase, whole, rng):
                steps.append(step)
                counts += step.counts.sum() if shared else step.counts
                if counts.min() >= recipe.examples:
                    break
            empty = empty + 1 if (counts == before)[counts < recipe.examples].any() else 0
            if empty >= _EMPTY:
                raise FamilyError(
                    f"family '{recipe.name}': {_EMPTY} episodes in a row ended before they gave a sample, in "
                    f"{unit.split} task {unit.first}, {_shown(tasks[0])}; let the environment run on "
                    "(terminate_when_unhealthy=False), start it elsewhere (Phase.options), or lower Phase.every"
                )
        counted, *values = (np.stack(part) for part in zip(*steps, strict=True))
        x, y = [], []
        for row, task in enumerate(tasks):
            mine = counted if shared else counted[:, row]
            kept = [(value if shared else value[:, row])[mine][: recipe.examples] for value in values]
            sample_x, sample_y = self._label(Transitions(kept[0], kept[1], kept[2], task))
            x.append(sample_x)
            y.append(sample_y)
        return np.stack(x), np.stack(y)

    def _episode(self, envs: VectorEnv, phase: Phase, task: Task, rng: np.random.Generator) -> Iterator[_Step]:
        """Run one episode of every row."""
        options = phase.draw_options(rng) | (dict(task) if self.recipe.through == "reset" else {})
        seed = int(rng.integers(2**31))
        start, _ = envs.reset(seed=seed, options=options or None)
        observation = rows(envs.single_observation_space, start, envs.num_envs)
        self._require_finite(observation, np.ones(envs.num_envs, bool), 0)
        act = phase.actions.start(
            rng, envs.num_envs, self.recipe.action, _columns(task) if self.recipe.own_tasks else task
        )
        mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        alive = np.ones(envs.num_envs, bool)
        for step in range(phase.steps):
            action = act(observation)
            result, _, terminated, truncated, _ = envs.step(like(start, batch(envs.single_action_space, action)))
            following = rows(envs.single_observation_space, result, envs.num_envs)
            done = (numbers(terminated) + numbers(truncated)).reshape(-1) > 0
            # In this mode the observation of a row that is done is the first one of its next episode.
            counts = alive & ~done if mode == AutoresetMode.SAME_STEP else alive
            self._require_finite(following, counts, step + 1)
            if step % phase.every == 0:
                yield _Step(counts, observation, action, following)
            alive = alive & ~done
            if not alive.any() or (mode == AutoresetMode.DISABLED and done.any()):
                return
            observation = following

    def _label(self, steps: Transitions) -> tuple[NDArray, NDArray]:
        recipe = self.recipe
        y = recipe.y.compute(steps, recipe.observation, recipe.action)
        sides = ((recipe.observation, steps.observation), (recipe.action, steps.action))
        found = {name: values[:, part] for side, values in sides for name, part in side.slices().items()}
        wanted = (recipe.examples, sum(field.size for field in recipe.y.fields(recipe.observation, recipe.action)))
        if y.shape != wanted:
            raise FamilyError(
                f"family '{recipe.name}': y has the shape {y.shape}, but {wanted} is wanted, one row per sample and "
                "the numbers of its fields; correct the function or its fields"
            )
        if not np.isfinite(y).all():
            raise FamilyError(
                f"family '{recipe.name}': y holds {y[~np.isfinite(y)][0]} in the task {_shown(steps.task)}, but "
                "every number must be finite; the likely cause is a division by zero in the function that computes y"
            )
        return np.concatenate([found[name] for name in recipe.x], 1), y

    def _require_finite(self, observation: NDArray, counts: NDArray, steps: int) -> None:
        if np.isfinite(observation).all():
            return
        for row in observation[counts]:
            for name, part in self.recipe.observation.slices().items():
                if not np.isfinite(row[part]).all():
                    raise FamilyError(
                        f"family '{self.recipe.name}': the environment gave {row[part].tolist()} in '{name}' after "
                        f"{steps} steps; the likely cause is a simulation that blew up: draw tasks from narrower "
                        "ranges, or take smaller actions (scale)"
                    )


def environments(env: Make, keywords: Task) -> tuple[VectorEnv, bool]:
    """Make the environment. One that is no vector environment becomes a vector environment of one row.

    The second value is whether it was one.
    """
    if isinstance(env, gymnasium.Env | VectorEnv):
        raise FamilyError(
            f"env is a {type(env).__name__} that is made already, but a name or a function that makes one is wanted: "
            "every process makes its own, with a task; give the class, or a function that ends with `return env`"
        )
    made = gymnasium.make(env, **keywords) if isinstance(env, str) else env(**keywords)
    if isinstance(made, VectorEnv):
        return made, True
    if not isinstance(made, gymnasium.Env):
        raise FamilyError(
            f"{getattr(env, '__name__', env)} returned a {type(made).__name__}, but it must return a gymnasium.Env or "
            "a gymnasium.vector.VectorEnv; end it with `return env`"
        )
    return SyncVectorEnv([lambda: made], copy=False), False  # `rows` copies


def task_generator(seed: int, split: Split, index: int) -> np.random.Generator:
    """Return the generator of one task: of what is drawn for it, and then of its samples."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def draw_task(family: str, draw: Callable[[np.random.Generator], Any], rng: np.random.Generator) -> Task:
    """Return what the user's function draws.

    Raises:
        FamilyError: It fails, or returns something else than names and values.
    """
    with told(family, lambda: "task(rng)"):
        task = draw(rng)
    if not isinstance(task, dict) or not all(isinstance(name, str) for name in task):
        raise FamilyError(
            f"family '{family}': task(rng) returned {task!r}, but it must return a dict of names and values: the "
            "keyword arguments of the environment, or its options for reset (through='reset')"
        )
    return task


@contextlib.contextmanager
def told(family: str, what: Callable[[], str], hint: str = _KEYWORDS) -> Iterator[None]:
    """Turn an error of the user's code into a FamilyError that names file and line."""
    try:
        yield
    except MsrError as error:
        text = str(error)
        raise type(error)(text if text.startswith("family '") else f"family '{family}': {text}") from error
    except Exception as error:
        line = _line(error)
        raise FamilyError(
            f"family '{family}': {what()} failed with {type(error).__name__}: {error}"
            + (f", in {line}" if line else f"; {hint}")
        ) from error


def _stacked(tasks: list[Task]) -> dict[str, Any]:
    return {name: np.stack([np.asarray(task[name]) for task in tasks]) for name in tasks[0]}


def _columns(task: Task) -> dict[str, Any]:
    """Make a column of each number, so that one policy serves a single task and a task in each row."""
    return {name: values[:, None] if values.ndim == 1 else values for name, values in task.items()}


def _shown(task: Task) -> str:
    values = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in task.items())
    return ", ".join(values)[:200] or "which has no numbers"


def _line(error: Exception) -> str | None:
    """Return file and line of the user's code, also of code that was handed from one process to another."""
    frames = [(frame.f_code.co_filename, frame.f_globals, line) for frame, line in walk_tb(error.__traceback__)]
    handed = [f"{names.get('__file__', 'your code')}, line {line}" for file, names, line in frames if file == _HANDED]
    return line_of_users_code(error) or (handed[-1] if handed else None)
