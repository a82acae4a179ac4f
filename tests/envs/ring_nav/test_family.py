"""ring-nav: family, operator, closed loop and environment."""

import warnings
from dataclasses import fields, replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from msr_envs import check_family
from msr_envs.ring_nav.environment import (
    GOAL_DISTANCE,
    STEPS,
    RingNavEnv,
    World,
    draw_world,
    has_collided,
    move,
    nearness,
    observe,
)
from msr_envs.ring_nav.family import RingNav
from msr_envs.ring_nav.operator import RingTask, draw_tasks, operator, operator_command, turn
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, ClosedLoopFamily, Predict, SymmetricFamily

FAMILY = RingNav()


def _one_task(seed: int = 0) -> RingTask:
    return draw_tasks(np.random.default_rng(seed), 1)[0]


def test_meets_the_protocols() -> None:
    """The family has a group and can be measured in closed loop."""
    assert isinstance(FAMILY, SymmetricFamily)
    assert isinstance(FAMILY, ClosedLoopFamily)


@pytest.mark.parametrize("element", range(16))
def test_simulator_commutes_with_the_group(element: int) -> None:
    """In a turned world, the observation, the operator's command and the motion are turned, up to rounding."""
    rng = np.random.default_rng(element)
    task, world = draw_tasks(rng, 50), draw_world(rng, (50,))
    position = rng.uniform(-0.3, 0.3, (50, 2))
    angle, group = 2 * np.pi * element / 16, FAMILY.group()
    turned = World(turn(world.goal, angle), turn(world.centers, angle), world.radii)
    turned_position = position @ group.outputs[element].T
    x, turned_x = observe(task, world, position), observe(task, turned, turned_position)
    y, turned_y = operator_command(task, x), operator_command(task, turned_x)
    np.testing.assert_allclose(turned_x, x @ group.inputs[element].T, atol=1e-10)
    np.testing.assert_allclose(turned_y, y @ group.outputs[element].T, atol=1e-10)
    moved = move(task, position, y) @ group.outputs[element].T
    np.testing.assert_allclose(move(task, turned_position, turned_y), moved, atol=1e-10)


@pytest.mark.parametrize("beams", [5, 24])
def test_any_number_of_beams(beams: int) -> None:
    """The group is that of the ring, an exact symmetry of the operator, and the operator drives as well."""
    family, rng = RingNav(beams), np.random.default_rng(0)
    words = "turn by 15°: proximity shifts by 1, goal turns; of the outputs: velocity turns"
    assert check_family(family).startswith(f"family 'ring-nav-{beams}' keeps the contract, group C{beams}\n")
    assert (words in family.symmetry_in_words()) is (beams == 24)
    task = draw_tasks(rng, 30)
    x = observe(task, draw_world(rng, (30,)), rng.uniform(-0.3, 0.3, (30, 2)), beams)
    turned_x, turned_y = family.augment(rng, x, operator_command(task, x))
    np.testing.assert_allclose(operator_command(task, turned_x), turned_y, atol=1e-10)
    assert family.evaluate(None, rng, 3, "test").values.mean() > (0.6 if beams == 24 else 0.0)
    assert family.make_env().reset(seed=0)[0].shape == (beams + 2,)


@pytest.mark.parametrize("beams", [2, 65])
def test_a_ring_has_neither_few_nor_very_many_beams(beams: int) -> None:
    """The message says how many."""
    with pytest.raises(FamilyError, match=r"beams is 2, but a ring has 3 or more|more than 64 elements"):
        RingNav(beams)


class Straight(RingNav):
    """Operators that see no obstacle and drive straight to the goal, with a drive that is mounted straight."""

    def draw_task(self, rng: np.random.Generator) -> RingTask:
        task = super().draw_task(rng)
        return replace(task, mount=0 * task.mount, radial=0 * task.radial, swirl=0 * task.swirl)


def test_another_draw_task_changes_the_tasks_everywhere() -> None:
    """In training, in closed loop and in the environment."""
    family, adapted = Straight(), []

    def aside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.abs(x[..., 16] * y[..., 1] - x[..., 17] * y[..., 0])

    def adapt(x: np.ndarray, y: np.ndarray) -> Predict:
        adapted.append(aside(x, y).max())
        return lambda x: np.ones((len(x), 2), np.float32)

    batch = family.sample(np.random.default_rng(0), 5, 4, 10, "train")
    assert aside(batch.query_x, batch.query_y).max() < 1e-6
    family.evaluate(adapt, np.random.default_rng(0), 3, "test")
    assert len(adapted) == 3
    assert max(adapted) < 1e-6
    env = family.make_env().unwrapped
    assert isinstance(env, RingNavEnv)
    env.reset(seed=0)
    assert not env.task.radial.any()


def test_nearness_by_hand() -> None:
    """The beam ahead sees an obstacle at 1 m with radius 0.25 m at 0.75 m. No beam to the side or behind sees it."""
    world = World(np.array([4.0, 0.0]), np.array([[1.0, 0.0]]), np.array([0.25]))
    seen = nearness(world, np.zeros(2))
    assert seen[0] == pytest.approx(1 - 0.75 / 2)
    assert not seen[2:15].any()


def test_collision_by_hand() -> None:
    """The robot collides exactly when its circle overlaps that of the obstacle."""
    world = World(np.array([4.0, 0.0]), np.array([[1.0, 0.0]]), np.array([0.25]))
    assert has_collided(world, np.array([[0.54, 0.0], [0.56, 0.0]])).tolist() == [False, True]


def test_samples_have_the_contract_shapes() -> None:
    """Support and query samples are finite float32, within the bounds of the fields."""
    batch = FAMILY.sample(np.random.default_rng(0), 5, 10, 8, "train")
    assert [a.shape for a in batch] == [(5, 10, 18), (5, 10, 2), (5, 8, 18), (5, 8, 2)]
    for array in batch:
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
        assert np.abs(array).max() <= 1.0 + 1e-6
    assert batch.support_x[..., :16].min() >= 0.0


def test_samples_follow_the_generator_and_the_split() -> None:
    """Equal generators give equal samples of one split, and different tasks in different splits."""
    batches = {split: FAMILY.sample(np.random.default_rng(3), 4, 10, 8, split) for split in SPLITS}
    again = FAMILY.sample(np.random.default_rng(3), 4, 10, 8, "train")
    for first, second in zip(batches["train"], again, strict=True):
        np.testing.assert_array_equal(first, second)
    for split in ("validation", "test"):
        assert not np.any(batches["train"].support_y == batches[split].support_y)


def test_sector_is_a_sector_and_wide_is_wide() -> None:
    """Sector samples see nothing behind. Wide queries see goals and obstacles in all directions."""
    batch = FAMILY.sample(np.random.default_rng(1), 100, 10, 40, "train")
    for sector in (batch.support_x, batch.query_x[:, :20]):
        bearing = np.arctan2(sector[..., 17], sector[..., 16])
        assert np.abs(bearing).max() <= 0.4 + 1e-6
        # The largest bearing is 1 rad. The widest obstacle at contact adds 0.69 rad. Beam 5 is at 1.96 rad.
        assert not sector[..., 5:12].any()
    wide = batch.query_x[:, 20:]
    assert (wide[..., :16] > 0).mean((0, 1)).min() > 0.1
    assert np.abs(np.arctan2(wide[..., 17], wide[..., 16])).max() > 3.0


def test_odd_queries_and_unknown_splits_are_refused() -> None:
    """The message says what is wrong."""
    with pytest.raises(FamilyError, match="even"):
        FAMILY.sample(np.random.default_rng(0), 1, 10, 7, "train")
    with pytest.raises(FamilyError, match="holdout"):
        FAMILY.sample(np.random.default_rng(0), 1, 10, 8, "holdout")  # pyright: ignore[reportArgumentType]


def test_augmented_samples_still_follow_the_operator() -> None:
    """For an augmented observation, the operator gives the augmented command."""
    rng = np.random.default_rng(0)
    task = draw_tasks(rng, 30)
    x = observe(task, draw_world(rng, (30,)), rng.uniform(-0.3, 0.3, (30, 2)))
    turned_x, turned_y = FAMILY.augment(rng, x, operator_command(task, x))
    assert not np.allclose(turned_x, x)
    np.testing.assert_allclose(operator_command(task, turned_x), turned_y, atol=1e-10)


def test_operator_reaches_most_goals() -> None:
    """The operator drives well enough to be imitated."""
    result = FAMILY.evaluate(None, np.random.default_rng(0), 20, "test")
    assert result.values.shape == (20,)
    assert result.values.mean() >= 0.85


def test_operator_on_an_unknown_mounting_reaches_few_goals() -> None:
    """A controller that knows everything except the mounting does not arrive."""
    rng = np.random.default_rng(0)
    tasks = draw_tasks(rng, 20)
    reached = []
    for index in range(20):
        task = tasks[index]
        wrong = replace(task, mount=task.mount + np.pi * rng.uniform(0.5, 1.5))
        reached.append(FAMILY.drive(task, operator(wrong), rng, 6).reached.mean())
    assert np.mean(reached) <= 0.1


def test_standing_still_reaches_no_goal() -> None:
    """Without adaptation the best command is zero, which never arrives."""
    still = FAMILY.evaluate(
        lambda _x, _y: lambda x: np.zeros((len(x), 2), np.float32), np.random.default_rng(0), 3, "test"
    )
    assert not still.values.any()


def test_evaluation_is_paired() -> None:
    """Two controllers get the same supports and worlds, even if they drive differently."""
    seen: list[list[np.ndarray]] = []
    for speed in (0.0, 1.0):
        supports: list[np.ndarray] = []

        def adapt(x: np.ndarray, y: np.ndarray, speed: float = speed, supports: list[np.ndarray] = supports) -> Predict:
            supports.extend([x, y])

            def predict(x: np.ndarray) -> np.ndarray:
                if len(supports) % 3 == 2:
                    supports.append(x)
                return np.full((len(x), 2), speed, np.float32)

            return predict

        FAMILY.evaluate(adapt, np.random.default_rng(5), 3, "test")
        seen.append(supports)
    assert [a.shape for a in seen[0]] == [(10, 18), (10, 2), (6, 18)] * 3
    for first, second in zip(*seen, strict=True):
        np.testing.assert_array_equal(first, second)
    first, second = (FAMILY.evaluate(None, np.random.default_rng(5), 3, "test") for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)


def test_paths_start_at_the_origin_and_end_at_reached_goals() -> None:
    """The paths agree with the count of reached goals."""
    paths = FAMILY.drive(_one_task(), None, np.random.default_rng(0), 8)
    assert paths.positions.shape == (8, STEPS + 1, 2)
    assert not paths.positions[:, 0].any()
    np.testing.assert_allclose(np.hypot(*paths.world.goal.T), GOAL_DISTANCE)
    near = np.hypot(*(paths.positions[:, -1] - paths.world.goal).T) < 0.3
    np.testing.assert_array_equal(near, paths.reached)
    assert np.hypot(*np.moveaxis(np.diff(paths.positions, axis=1), -1, 0)).max() <= 0.1 + 1e-9


def test_worlds_start_clear() -> None:
    """No episode begins in a collision."""
    world = draw_world(np.random.default_rng(0), (2000,))
    assert not has_collided(world, np.zeros((2000, 2))).any()


@pytest.mark.parametrize("with_task", [False, True])
def test_environment_passes_gymnasiums_check(with_task: bool) -> None:
    """Gymnasium's own checker finds nothing. Its warnings are errors here."""
    env = (
        FAMILY.make_env(_one_task(), "rgb_array")
        if with_task
        else gymnasium.make("msr/RingNav-v0", render_mode="rgb_array")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_environment_is_truncated_after_its_registered_steps() -> None:
    """A robot that stands still is stopped after 25 s."""
    env = FAMILY.make_env(_one_task())
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(STEPS)]
    assert ends[-1] == (False, True)
    assert not any(truncated for _, truncated in ends[:-1])


def test_environment_drives_like_the_family() -> None:
    """The operator reaches goals in the environment. The rewards add up to the distance gained."""
    task, rewards, infos = _one_task(), [], []
    env = FAMILY.make_env(task)
    for seed in range(5):
        x, _ = env.reset(seed=seed)
        total, ended, info = 0.0, False, {}
        while not ended:
            x, reward, terminated, truncated, info = env.step(operator(task)(x[None])[0])
            total, ended = total + float(reward), terminated or truncated
        rewards.append(total)
        infos.append(info)
    assert sum(info["reached"] for info in infos) >= 3
    for total, info in zip(rewards, infos, strict=True):
        if info["reached"]:
            assert GOAL_DISTANCE - 0.3 < total <= GOAL_DISTANCE


def test_reset_takes_a_task() -> None:
    """A task in the options of `reset` replaces the drawn one."""
    env = RingNavEnv()
    task = _one_task(7)
    env.reset(seed=0, options={"task": task})
    assert all(np.array_equal(getattr(env.task, f.name), getattr(task, f.name)) for f in fields(task))


def test_picture_shows_the_robot_moving() -> None:
    """The picture changes after two steps. Without a render mode there is no picture."""
    task = _one_task()
    env = RingNavEnv(task, "rgb_array")
    x, _ = env.reset(seed=0)
    before = env.render()
    for _ in range(2):
        x, *_ = env.step(operator(task)(x[None])[0])
    after = env.render()
    assert before is not None
    assert after is not None
    assert before.shape == (256, 256, 3)
    assert np.any(before != after)
    assert RingNavEnv(task).render() is None
