"""`EnvFamily`: a task family from a Gymnasium environment."""

import copy
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Number
from pathlib import Path
from typing import Any, Self

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from msr_envs.simulated.actions import Task
from msr_envs.simulated.gather import Make, Recipe, Through, Unit, draw_task, environments, task_generator, told
from msr_envs.simulated.phases import Phase
from msr_envs.simulated.progress import shown
from msr_envs.simulated.spaces import Described, Side, describe_space
from msr_envs.simulated.store import digest, read, write
from msr_envs.simulated.targets import Change, Target
from msr_envs.simulated.workers import gather_all
from msr_envs.splits import require_split
from msr_envs.symmetry import DeclaredSymmetry, SymmetryGroup
from msr_runtime.errors import FamilyError
from msr_runtime.files import local_path
from msr_runtime.task import SPLITS, Array, Field, Loss, Split, TaskBatch, output_shape, sample_shape

_WORTH = 4
"""A process is started for so many tasks or more: its start takes a second."""
_TESTED = 24
"""Training tasks of which more samples are gathered for the test of the symmetry."""


class EnvFamily:
    """The family of a simulator: its tasks are environments that differ in what `task` draws.

    The samples of a task are gathered when they are first asked for, and kept in memory. The same settings give the
    same samples, whatever the number of processes. With `symmetry`, this makes a `SymmetricEnvFamily`.

    Args:
        env: The name of an environment for `gymnasium.make`, or a function that makes one: a `gymnasium.Env`, which may
            be wrapped, or a `gymnasium.vector.VectorEnv`, which may run on a GPU. It gets the task as keyword
            arguments.
        task: Draws a task: names and values. They decide what the robot is; nobody tells them to the network.
        name: The family's name. None: made from the environment's, or from its class if it has no name.
        observation: The fields of an observation, in order, or their names and how many numbers each takes. None: one
            field, or one for each part of a Dict.
        action: The fields of an action, likewise.
        x: The names of the fields that make x. None: what `y` suggests.
        y: What y is: a `Change`, an `Expert`, or `Computed`.
        phases: How the samples of each query set are gathered, by its name. Samples of the first one make the support
            sets. The last one is the widest. None: random actions.
        symmetry: The symmetry group of the robot's body. Every field of x and y then needs a `representation`.
        tasks: How many tasks the splits train, validation and test have.
        examples: Samples of each task, in each phase. Training takes 64 for support sets and 64 others for queries,
            unless its settings say otherwise.
        seed: Seed of all tasks and samples.
        through: How a task reaches the environment. `make`: as keyword arguments, and each task has an environment of
            its own. `reset`: as options of `reset`. Then one environment serves all tasks, and each row of a vector
            environment has a task of its own: the options hold arrays `(rows, ...)`.
        workers: Processes that gather. None: one for each processor, or one if `env` makes a vector environment.
        cache: A folder in which the samples of whole splits are kept. They are gathered anew only after a setting, a
            function's file or the version of the simulator changed. None: every program gathers those that it needs.
        rate_hz: Control rate of the simulated robot, in Hz. Bundles keep it.

    Raises:
        FamilyError: The environment cannot be made, its spaces are no numbers, or the settings do not fit them.

    """

    loss: Loss = "mse"
    derives_outputs = True
    """The bounds of y come from spaces that were made for other things: a change within one step is small in them."""

    def __new__(cls, *args: Any, symmetry: SymmetryGroup | None = None, **more: Any) -> Self:  # noqa: ARG004
        """Make the kind of family that has a group, if one is given."""
        symmetric: Any = SymmetricEnvFamily if symmetry is not None and cls is EnvFamily else cls
        return super().__new__(symmetric)

    def __init__(
        self,
        env: Make,
        task: Callable[[np.random.Generator], Task],
        *,
        name: str | None = None,
        observation: Described | None = None,
        action: Described | None = None,
        x: Sequence[str] | None = None,
        y: Target | None = None,
        phases: Mapping[str, Phase] | None = None,
        symmetry: SymmetryGroup | None = None,
        tasks: tuple[int, int, int] = (300, 64, 100),
        examples: int = 128,
        seed: int = 0,
        through: Through = "make",
        workers: int | None = None,
        cache: str | Path | None = None,
        rate_hz: float | None = None,
    ) -> None:
        self.name: str = name or _name(env)
        phases, y = {"all": Phase()} if phases is None else phases, Change() if y is None else y
        _require_kinds(self.name, phases, y)
        self.query_sets: tuple[str, ...] = tuple(phases)
        _require_counts(self.name, tasks, examples, workers, seed)
        if through not in ("make", "reset"):
            raise FamilyError(f"family '{self.name}': through is '{through}', but it must be 'make' or 'reset'")
        self.tasks: dict[Split, int] = dict(zip(SPLITS, tasks, strict=True))
        """How many tasks each split has."""
        sides, rows, vector, called = self._probe(env, task, through, seed, observation, action)
        self.name = name or called
        own_tasks = vector and through == "reset"
        self._rows = rows if own_tasks else 1
        with told(self.name, lambda: "the description of x and y"):
            self.outputs: tuple[Field, ...] = y.fields(*sides)
            names = tuple(y.inputs(*sides) if x is None else x)
            self.inputs: tuple[Field, ...] = _found(names, sides)
        self._recipe = Recipe(
            self.name, env, task, through, own_tasks, tuple(phases.values()), *sides, names, y, seed, examples
        )
        self._workers = workers or (1 if vector else len(os.sched_getaffinity(0)))
        self._cache = None if cache is None else local_path(cache)
        if self._cache is not None and self._cache.exists() and not self._cache.is_dir():
            raise FamilyError(
                f"family '{self.name}': cache is the file '{cache}', but a folder is wanted; name another"
            )
        self._data: dict[Split, dict[int, tuple[Array, Array]]] = {}
        if symmetry is not None:
            self.symmetry = symmetry
        self.rate_hz = rate_hz

    @property
    def examples(self) -> int:
        """Samples of each task, over all phases together."""
        return self._recipe.examples * len(self.query_sets)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks of one split, and support and query samples of each.

        A task is drawn twice only after all of the split were drawn once. The support set comes from the first phase,
        and the queries in equal parts from all. Support and query sets share no sample. Queries repeat only if more
        are asked for than a task has.

        Returns:
            x `(tasks, shots or queries, *x)` and y `(tasks, shots or queries, *y)`, float32.

        Raises:
            FamilyError: `split` is unknown, the samples do not suffice, or gathering them fails.

        """
        require_split(self.name, split)
        held, sets = self._recipe.examples, len(self.query_sets)
        if queries % sets or shots + min(queries, 1) > held:
            raise FamilyError(
                f"family '{self.name}': {shots} support and {queries} query samples were asked for, but a task has "
                f"{held} in each phase, which support and queries share, and the queries must divide into {sets} equal "
                "parts, one a phase; raise `examples` of the family to 128, of which training takes 64 for support sets"
                f" and as many for queries, or take fewer: --settings.samples-per-task {max(1, held // 2)}"
            )
        rounds = -(-tasks // self.tasks[split])  # rounded up: each round draws every task once
        drawn = np.concatenate([rng.permutation(self.tasks[split]) for _ in range(rounds)])[:tasks]
        x, y = self._of_tasks(split, drawn)
        chosen = np.arange(tasks)[:, None]
        support, parts = None, []
        for phase in range(sets):
            order = rng.random((tasks, held)).argsort(axis=1)
            if support is None:
                support, order = order[:, :shots], order[:, shots:]
            part = order[:, np.arange(queries // sets) % order.shape[1]]
            parts.append((x[chosen, phase, part], y[chosen, phase, part]))
        query_x, query_y = (np.concatenate(part, 1) for part in zip(*parts, strict=True))
        return TaskBatch(
            *(
                part.reshape(*part.shape[:2], *shape)
                for part, shape in (
                    (x[chosen, 0, support], sample_shape(self.inputs)),
                    (y[chosen, 0, support], output_shape(self.outputs, self.loss)),
                    (query_x, sample_shape(self.inputs)),
                    (query_y, output_shape(self.outputs, self.loss)),
                )
            )
        )

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:  # noqa: ARG002
        """Return x and y unchanged: no symmetry was given."""
        return x, y

    def count_tasks(self, split: Split) -> int:
        """Return how many tasks a split has."""
        return self.tasks[split]

    def gathered(self, split: Split, tasks: Sequence[int] | None = None) -> tuple[Array, Array]:
        """Return all samples of tasks: x `(tasks, phases, examples, x)` and y. They are gathered if need be.

        Args:
            split: The split.
            tasks: Numbers of its tasks. None: all of them.

        """
        require_split(self.name, split)
        return self._of_tasks(split, np.arange(self.tasks[split]) if tasks is None else np.asarray(tasks))

    def at_least(self, examples: int) -> Self | None:
        """Return the family of the first tasks with more samples of each, for the test of the symmetry.

        They are gathered when they are asked for.
        """
        family = copy.copy(self)
        family._recipe = replace(self._recipe, examples=max(examples, self._recipe.examples))
        family.tasks = {**self.tasks, "train": min(_TESTED, self.tasks["train"])}
        family._data = {}
        return family

    def task(self, split: Split, index: int) -> Task:
        """Return what was drawn for a task of a split, for a closed loop. Its samples stand in the same row."""
        require_split(self.name, split)
        recipe = self._recipe
        return draw_task(self.name, recipe.task, task_generator(recipe.seed, split, index))

    def _of_tasks(self, split: Split, tasks: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return the samples of tasks, x `(tasks, phases, examples, x)` and y. They are gathered if need be."""
        held, path = self._data.setdefault(split, {}), self._path(split)
        count, rows = self.tasks[split], self._rows
        needed = {int(task) // rows for task in tasks}
        if path and not held:
            found, units = read(path, (count, len(self.query_sets), self._recipe.examples)), range(-(-count // rows))
            if found is None:
                self._gather(split, units)
                write(path, *self._joined(split, np.arange(count)))
            else:
                x, y = (np.split(part, range(rows, count, rows)) for part in found)
                held |= dict(zip(units, zip(x, y, strict=True), strict=True))
        self._gather(split, sorted(needed - set(held)))
        return self._joined(split, tasks)

    def _gather(self, split: Split, missing: Sequence[int]) -> None:
        units = [Unit(split, unit * self._rows, self._rows) for unit in missing]
        workers = max(1, min(self._workers, len(units) // _WORTH))
        gathering = gather_all(self._recipe, units, workers)
        label = f"{self.name}: gathering {len(units) * self._rows} {split} tasks"
        for index, x, y in shown(gathering, len(units), label):
            self._data[split][missing[index]] = x, y

    def _joined(self, split: Split, tasks: NDArray[np.int64]) -> tuple[Array, Array]:
        held, rows = self._data[split], self._rows
        x, y = (np.stack([held[int(task) // rows][side][int(task) % rows] for task in tasks]) for side in (0, 1))
        return x, y

    def _path(self, split: Split) -> Path | None:
        if self._cache is None:
            return None
        return self._cache / f"{self.name}-{split}-{digest(self._recipe, {split: self.tasks[split]})}.safetensors"

    def _probe(
        self,
        env: Make,
        task: Callable[[np.random.Generator], Task],
        through: Through,
        seed: int,
        observation: Described | None,
        action: Described | None,
    ) -> tuple[tuple[Side, Side], int, bool, str]:
        """Return the numbers of an observation and of an action, the environment's rows, whether it has rows, and its
        name.
        """
        drawn, again = (draw_task(self.name, task, task_generator(seed, "train", 0)) for _ in range(2))
        if any(isinstance(drawn[name], Number) and drawn[name] != again.get(name) for name in drawn):
            raise FamilyError(
                f"family '{self.name}': task(rng) drew {drawn}, and {again} from an equal generator; the likely cause "
                "is a random number from elsewhere than `rng` (np.random, random): draw all of them from rng"
            )
        with told(self.name, lambda: f"making the environment {_name(env)}"):
            made, vector = environments(env, drawn if through == "make" else {})
            try:
                sides = (
                    describe_space("observation", made.single_observation_space, observation),
                    describe_space("action", made.single_action_space, action),
                )
                return sides, made.num_envs, vector, _name_of_made(env, made)
            finally:
                made.close()


class SymmetricEnvFamily(DeclaredSymmetry, EnvFamily):
    """The family of a simulator whose robot has a symmetry. Its fields say how the group acts on them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if settings.get("symmetry") is None:
            raise FamilyError(
                f"family '{self.name}': no symmetry is given, but a SymmetricEnvFamily needs one, such as "
                "symmetry=mirror(); give it, or make an EnvFamily"
            )
        self.group()  # refuses fields that do not say how the group acts on them, before anything is simulated


def _found(names: Sequence[str], sides: tuple[Side, Side]) -> tuple[Field, ...]:
    known = [field for side in sides for field in side.fields]
    by_name = {field.name: field for field in known}
    if len(by_name) < len(known):
        twice = next(field.name for field in known if [each.name for each in known].count(field.name) > 1)
        raise FamilyError(f"observation and action both have a field '{twice}'; give each a name of its own")
    if unknown := [name for name in names if name not in by_name]:
        raise FamilyError(f"x names the field '{unknown[0]}', but there are {', '.join(by_name)}; name one of these")
    return tuple(by_name[name] for name in names)


def _require_kinds(family: str, phases: object, y: object) -> None:
    if not isinstance(phases, Mapping) or not phases or not all(isinstance(each, Phase) for each in phases.values()):
        raise FamilyError(
            f"family '{family}': phases is {phases!r}, but names and phases are wanted, such as "
            '{"all": Phase(RandomActions())}'
        )
    if not all(hasattr(y, member) for member in ("fields", "inputs", "compute")):
        raise FamilyError(
            f"family '{family}': y is {y!r}, but it must say what is learned: Change(\"a field\"), Expert(policy) or "
            "Computed(function, fields)"
        )


def _require_counts(family: str, tasks: Any, examples: int, workers: int | None, seed: Any) -> None:
    if not isinstance(seed, Integral) or int(seed) < 0:
        raise FamilyError(f"family '{family}': seed is {seed!r}, but a whole number of 0 or more is wanted")
    if not isinstance(tasks, tuple | list) or len(tasks) != len(SPLITS) or min(tasks) < 1:
        raise FamilyError(
            f"family '{family}': tasks is {tasks}, but three numbers of 1 or more are wanted: {', '.join(SPLITS)}"
        )
    if examples < 2:
        raise FamilyError(f"family '{family}': examples is {examples}, but a task needs 2: a sample and a query")
    if workers is not None and workers < 1:
        raise FamilyError(f"family '{family}': workers is {workers}, but it must be 1 or more")


def _name(env: Make) -> str:
    """Return a family's name: that of the environment, without its version, or that of the function that makes it."""
    env = env.func if isinstance(env, functools.partial) else env
    return _plain(env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__))


def _name_of_made(env: Make, made: VectorEnv) -> str:
    """Return a family's name, now that the environment is made: a function's own name, such as `make`, says little."""
    maker = env.func if isinstance(env, functools.partial) else env
    if isinstance(maker, str | type):
        return _name(env)
    rows = getattr(made.unwrapped, "envs", ())  # the environments behind a vector environment of Gymnasium's
    one = rows[0].unwrapped if rows else made.unwrapped
    return _plain(one.spec.id if one.spec else type(one).__name__)


def _plain(name: str) -> str:
    return name.rpartition("/")[2].partition("-v")[0].strip("<>").lower().replace("_", "-")
