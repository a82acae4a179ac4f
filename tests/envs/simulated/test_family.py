"""A task family from an environment: what its samples are, and what is refused."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose

from msr_envs import check_family
from msr_envs.simulated import (
    Change,
    Computed,
    EnvFamily,
    Expert,
    Phase,
    Policy,
    RandomActions,
    SmoothActions,
    SymmetricEnvFamily,
)
from msr_envs.symmetry import Vector, cyclic
from msr_runtime.errors import FamilyError, MsrError
from msr_runtime.families import CountedFamily
from msr_runtime.representation import Angle
from msr_runtime.task import Field

from .conftest import PERIOD, Cart, Point, draw, points

Make = Callable[..., EnvFamily]
RNG = np.random.default_rng


def family(env: Any = Point, **changes: Any) -> EnvFamily:
    """A small family of points."""
    return EnvFamily(**{"env": env, "task": draw, "tasks": (4, 2, 2), "examples": 20, "workers": 1} | changes)


def field(name: str, **more: Any) -> Field:
    return Field(**{"name": name, "shape": (2,), "unit": "m/s", "low": -5.0, "high": 5.0} | more)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"y": Expert(lambda observation, task: -task["mass"] * observation)},
        {"phases": {"near": Phase(options={"fastest": 0.1}), "wide": Phase(SmoothActions(), every=3)}},
        {"env": points, "through": "reset"},
        {"env": lambda mass: points(), "through": "make"},
        {
            "symmetry": cyclic(4),
            "observation": [field("velocity", representation=Vector())],
            "action": [field("push", representation=Vector())],
        },
    ],
)
def test_a_family_keeps_the_contract(changes: dict[str, Any]) -> None:
    """Whatever is gathered, and however a task reaches the environment."""
    assert "keeps the contract" in check_family(family(**changes))


def test_x_is_what_was_seen_and_done_and_y_is_what_it_changed() -> None:
    """By the equation of the environment, with one mass in each task."""
    x, y = family(functools.partial(Point, drag=0.0)).gathered("train")
    masses = PERIOD * x[..., 2:] / y
    assert_allclose(masses, masses[:, :1, :1, :1].repeat(20, 2).repeat(2, 3), rtol=1e-2)
    assert (masses.min(), masses.max()) >= (0.49, 0.49)


def test_each_way_of_a_task_into_the_environment_decides_its_robot() -> None:
    """As keyword arguments, as options, and as options of a row of a vector environment."""
    one_row = functools.partial(points, rows=1)
    for changes in ({}, {"through": "reset"}, *({"env": env, "through": "reset"} for env in (points, one_row))):
        mass = lambda steps: np.full((len(steps.action), 1), steps.task["mass"])  # noqa: E731
        masses = family(y=Computed(mass, [field("mass", shape=(1,))]), **changes).gathered("train")[1]
        x, y = family(**changes).gathered("train")
        assert_allclose(y, PERIOD * (x[..., 2:] / masses - 0.1 * x[..., :2]), atol=1e-6)
        assert len(np.unique(masses)) == 4


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_no_sample_joins_two_episodes(mode: AutoresetMode) -> None:
    """Whatever a vector environment does with a row that is done."""
    made = family(env=functools.partial(points, mode=mode, ends_at=0.9), through="reset")
    x, y = made.gathered("train")
    assert np.abs(y).max() <= PERIOD * (1 / 0.5 + 0.2)
    assert np.abs(x[..., :2]).max() <= 1.0


def test_splits_and_calls_share_nothing_they_must_not() -> None:
    """A support sample is no query; a task is in one split; queries repeat only when all were drawn."""
    made = family()
    batch = made.sample(RNG(0), tasks=4, shots=5, queries=15, split="train")
    for support, query in zip(batch.support_x, batch.query_x, strict=True):
        assert len(np.unique(np.concatenate([support, query]), axis=0)) == 20
    assert not np.isin(made.gathered("train")[0], made.gathered("test")[0]).any()
    with pytest.raises(FamilyError, match=r"20 support and 1 query samples.*has 20 in each phase.*raise `examples`"):
        made.sample(RNG(0), tasks=1, shots=20, queries=1, split="train")


def test_training_says_how_many_tasks_there_are() -> None:
    """A family that keeps its samples has so many tasks and no more: further ones are repeats."""
    made = family()
    assert isinstance(made, CountedFamily)
    assert [made.count_tasks(split) for split in ("train", "validation", "test")] == [4, 2, 2]


def test_phases_are_gathered_apart() -> None:
    """Supports come from the first phase, and each query set from its own."""
    still, wide = Phase(RandomActions(scale=(0, 1)), {"fastest": 0.1}), Phase()
    made = family(phases={"still": still, "wide": wide})
    batch = made.sample(RNG(0), tasks=2, shots=6, queries=12, split="test")
    assert (batch.support_x[..., 2] == 0).all()
    assert (batch.query_x[:, :6, 2] == 0).all()
    assert (batch.query_x[:, 6:, 2] != 0).all()
    assert made.examples == 40


def test_a_policy_acts_and_an_expert_says_what_is_right() -> None:
    """The noise moves the action that is taken, and not the label."""
    act = lambda observation, task: -0.1 * task["mass"] * observation  # noqa: E731
    made = family(y=Expert(act), phases={"all": Phase(Policy(act, noise=0.5))}, x=("observation", "action"))
    x, y = made.gathered("train")
    assert np.abs(x[..., 2:] - y).std() > 0.1
    assert [part.name for part in made.outputs] == ["action"]


def test_a_nominal_model_leaves_its_residual() -> None:
    """A point of 1 kg without drag is the model; a family of such points has nothing left over."""
    y = Change(nominal=lambda observation, action: PERIOD * action)
    made = family(env=functools.partial(Point, drag=0.0), task=lambda rng: {"mass": 1.0}, y=y)
    assert_allclose(made.gathered("train")[1], 0, atol=1e-6)
    assert made.outputs[0].name == "observation_residual"


@pytest.mark.parametrize(
    ("env", "name"),
    [
        (lambda mass: Point(mass), "point"),
        (lambda mass: points(), "row"),
        (functools.partial(Point, drag=0.0), "point"),
        (lambda mass: gymnasium.make("Pendulum-v1", g=mass), "pendulum"),
        (lambda mass: gymnasium.make_vec("Pendulum-v1", 2), "pendulum"),
    ],
)
def test_a_function_that_makes_an_environment_lends_no_name(env: Any, name: str) -> None:
    """The family is called after what it makes, unless a name is given."""
    assert family(env).name == name
    assert family(env, name="mine").name == "mine"


def test_a_simulator_on_a_gpu_gets_tensors_and_a_policy_columns() -> None:
    """One policy, which knows the mass, serves a task of its own in every row, and labels each task by itself."""
    act = lambda observation, task: -0.2 * task["mass"] * observation[:, :1]  # noqa: E731
    made = family(Cart, through="reset", phases={"all": Phase(Policy(act))}, y=Expert(act), x=("observation", "action"))
    x, y = made.gathered("train")
    assert_allclose(x[..., 2:], y, rtol=1e-5)
    assert len(np.unique((y / x[..., :1]).round(4))) == 4  # tasks


def test_what_is_no_maker_of_environments_is_refused() -> None:
    """Also rows that each get the arrays of all, as Gymnasium's own vector environments hand them on."""
    with pytest.raises(FamilyError, match=r"env is a Point that is made already.*give the class"):
        family(Point())
    made = family(lambda: gymnasium.make_vec("Pendulum-v1", 2), task=lambda rng: {"x_init": 1.0}, through="reset")
    with pytest.raises(FamilyError, match=r"one value a row.*name the single environment in its place"):
        made.gathered("train")


def test_a_family_with_a_symmetry_needs_one() -> None:
    """A subclass that forgets it is told so."""
    with pytest.raises(FamilyError, match=r"no symmetry is given.*symmetry=mirror\(\)"):
        SymmetricEnvFamily(Point, draw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"steps": 0}, "steps is 0"), ({"every": 0}, "every is 0"), ({"every": 9, "steps": 3}, "every is 9 and steps 3")],
)
def test_a_phase_without_samples_is_refused(changes: dict[str, Any], message: str) -> None:
    """When it is written."""
    with pytest.raises(FamilyError, match=message):
        Phase(**changes)


class Compass(gymnasium.Env):
    """Turns by 90 degrees a step. The observation is an angle and a part that never changes."""

    def __init__(self) -> None:
        part = spaces.Box(-np.pi, np.pi, (1,), np.float64)
        self.observation_space = spaces.Dict({"heading": part, "still": spaces.Box(0.0, 0.0, (2,), np.float64)})
        self.action_space = spaces.Dict({"left": spaces.Box(-1, 1, (1,)), "right": spaces.Box(-1, 1, (2,))})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.heading = 3.0
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.heading = (self.heading + np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
        return self._observe(), 0.0, False, False, {}

    def _observe(self) -> dict[str, Any]:
        return {"heading": np.array([self.heading]), "still": np.zeros(2)}


def test_parts_of_a_dict_are_fields_and_angles_change_the_short_way() -> None:
    """Observations and actions may be dictionaries of arrays."""
    made = family(env=Compass, task=lambda rng: {})
    assert [part.name for part in made.inputs] == ["heading", "still", "left", "right"]
    heading = field("heading", shape=(1,), low=-np.pi, high=np.pi, wraps=2 * np.pi, representation=Angle())
    made = family(env=Compass, task=lambda rng: {}, observation=[heading, field("still")], y=Change("heading"))
    assert_allclose(made.gathered("train")[1], np.pi / 2, rtol=1e-6)
    assert made.outputs[0].representation is not None
    assert made.outputs[0].representation.kind == "pseudoscalar"


def test_environments_are_closed() -> None:
    """As many as were opened, also after an error."""
    Point.opened = Point.closed = 0
    family().gathered("test")
    with pytest.raises(FamilyError, match="failed with ZeroDivisionError"):
        family(y=Broken()).gathered("test")
    assert Point.opened == Point.closed > 2


def test_environments_that_end_before_they_give_a_sample_are_refused() -> None:
    """Each step ends its episode, and its observation is that of the next one."""
    ending = functools.partial(points, ends_at=0.0, mode=AutoresetMode.SAME_STEP)
    with pytest.raises(FamilyError, match=r"100 episodes in a row ended before they gave a sample, in test task 0"):
        family(ending, through="reset").gathered("test")


def test_a_task_can_be_made_again() -> None:
    """For a closed loop: the robot whose samples stand in that row."""
    mass = lambda steps: np.full((len(steps.action), 1), steps.task["mass"])  # noqa: E731
    made = family(y=Computed(mass, [field("mass", shape=(1,))]))
    assert_allclose(made.gathered("test")[1][:, 0, 0, 0], [made.task("test", index)["mass"] for index in range(2)])


class Broken(Change):
    """A target that fails."""

    def compute(self, *args: Any) -> Any:
        raise ZeroDivisionError("no y")


def test_the_test_of_the_symmetry_gets_more_samples_of_few_tasks() -> None:
    """The first tasks, with as many samples as the test asks for."""
    made = family(tasks=(30, 1, 1))
    more = made.at_least(100)
    assert more is not None
    assert more.gathered("train")[0].shape == (24, 1, 100, 4)
    assert made.gathered("train")[0].shape == (30, 1, 20, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "Pendulum-v1", "task": lambda rng: {"gee": 1}}, r"'pendulum': making.*gee.*keyword arguments"),
        ({"env": lambda mass: None}, r"returned a NoneType, but it must return a gymnasium.Env"),
        ({"env": "CartPole-v1", "task": lambda rng: {}}, r"'cartpole'.*Discrete\(2\).*TransformAction"),
        ({"task": lambda rng: 3}, r"'point': task\(rng\) returned 3, but it must return a dict"),
        ({"task": lambda rng: {"mass": 1 / 0}}, r"task\(rng\) failed with ZeroDivisionError.*test_family.py, line \d"),
        (
            {"observation": {"speed": 3}},
            r"has 2 numbers \(observation \(2,\)\), but `observation` describes 3: speed 3",
        ),
        ({"observation": {"action": 2}}, "both have a field 'action'"),
        ({"x": ("speed",)}, r"'point': x names the field 'speed', but there are observation, action"),
        ({"y": Change("speed")}, r"Change names the field 'speed', but the observation has observation"),
        ({"tasks": (4, 2)}, r"tasks is \(4, 2\), but three numbers"),
        ({"through": "options"}, "through is 'options', but it must be 'make' or 'reset'"),
        ({"symmetry": cyclic(4)}, "field 'observation'"),
        ({"cache": "s3://bucket/data"}, "is an address"),
        ({"examples": 1}, "examples is 1, but a task needs 2"),
        ({"workers": 0}, "workers is 0, but it must be 1 or more"),
        ({"tasks": 4}, "tasks is 4, but three numbers"),
        ({"seed": "one"}, "seed is 'one', but a whole number"),
        ({"y": "speed"}, r"y is 'speed', but it must say what is learned: Change\("),
        ({"phases": [Phase()]}, r"phases is \[Phase.*but names and phases are wanted"),
        ({"phases": {"all": RandomActions()}}, r"phases is .*RandomActions.*but names and phases are wanted"),
        ({"cache": __file__}, "cache is the file .*but a folder is wanted"),
        ({"task": lambda rng: {"mass": np.random.default_rng().uniform(1, 2)}}, r"task\(rng\) drew .*elsewhere than"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_simulated(changes: dict[str, Any], message: str) -> None:
    """With the thing, the value and the mend."""
    with pytest.raises(MsrError, match=message):
        family(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": Broken()}, r"gathering train task 0, mass 1\.\d+, failed with ZeroDivisionError: no y, in .*, line \d+"),
        ({"phases": {"all": Phase(RandomActions((1, 1, 1)))}}, r"scale has 3 numbers, but an action has 2"),
        ({"phases": {"all": Phase(Policy(lambda o, t: o[0]))}}, r"actions of the shape \(2,\).*\(1, 2\) is wanted"),
        ({"y": Computed(lambda steps: steps.action, [field("one", shape=(1,))])}, r"y has the shape \(20, 2\)"),
        ({"y": Change(nominal=lambda o, a: a[:, :1])}, r"nominal model gave the shape \(20, 1\)"),
        ({"y": Computed(lambda steps: steps.action / 0, [field("one")])}, "y holds -?inf in the task mass"),
        (
            {"env": functools.partial(Point, drag=1e308)},
            r"gave \[.*(inf|nan).*\] in 'observation' after \d+ steps",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_fails_while_gathering_names_the_task(changes: dict[str, Any], message: str) -> None:
    """And file and line, where the user's code fails."""
    with pytest.raises(FamilyError, match=message):
        family(**changes).gathered("train")
