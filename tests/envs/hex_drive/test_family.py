"""HexDrive: simulator, tasks, symmetry, closed loop and environment."""

from collections.abc import Callable

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from msr_envs import check_family
from msr_envs.groups import random_action
from msr_envs.hex_drive.family import HexDrive, HexDriveEnv, HexTask, WeakThruster
from msr_envs.hex_drive.simulator import HexSimulator, simulator, thrust
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, ClosedLoopFamily, Predict, SymmetricFamily, width

STRONG = HexTask(gain=40.0, exponent=1.0, dead_band=0.0, cant=0.0, drag=0.5, mass=0.8)
ODD = HexTask(gain=22.0, exponent=1.7, dead_band=0.12, cant=0.8, drag=1.6, mass=1.3)
IMPLICITFAST = getattr(mujoco, "mjtIntegrator").mjINT_IMPLICITFAST  # noqa: B009  (invisible to a static checker)

RENDER = """
import numpy as np
from msr_envs.hex_drive.family import HexDriveEnv
env = HexDriveEnv(render_mode="rgb_array")
env.reset(seed=0)
first = env.render()
for _ in range(10):
    env.step(np.array([1, -1, 0, 0, 0, 0], np.float32))
second = env.render()
env.close()
assert first.shape == second.shape == (480, 480, 3) and first.dtype == np.uint8, first.shape
assert first.std() > 5 and (first != second).any(-1).sum() > 500
"""


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator for each use."""
    return np.random.default_rng(seed)


def inputs(count: int) -> NDArray[np.float64]:
    """Inputs `(count, 9)` from the whole wide region."""
    return generator(1).uniform([-1, -1, -2] + [-1] * 6, [1, 1, 2] + [1] * 6, (count, 9))


def asymmetry(simulation: HexSimulator, task: HexTask) -> float:
    """The largest violation of f(g x) = g f(x) over all group elements, relative to the largest output."""
    group, x = HexDrive().group(), inputs(40)
    y = simulation.twist_change(task, x)
    gaps = [simulation.twist_change(task, x @ g.T) - y @ h.T for g, h in zip(group.inputs, group.outputs, strict=True)]
    return float(np.abs(gaps).max() / np.abs(y).max())


@pytest.mark.parametrize("task", [STRONG, ODD])
def test_simulator_commutes_with_the_group(task: HexTask) -> None:
    """A turn by 60 degrees with a shift of the commands is an exact symmetry of every vehicle without a fault."""
    assert asymmetry(simulator(), task) < 1e-12


def test_the_symmetry_test_sees_a_poor_integrator() -> None:
    """The integrator `implicitfast` breaks the symmetry, and `asymmetry` shows it."""
    simulation = HexSimulator()
    simulation.model.opt.integrator = IMPLICITFAST
    assert asymmetry(simulation, ODD) > 1e-4


def test_a_weak_thruster_breaks_the_symmetry() -> None:
    """With one weak thruster, no turn is a symmetry of the task."""
    for seed in range(5):
        task = WeakThruster().draw_task(generator(seed))
        assert sorted(task.strengths)[1] == 1.0
        assert 0.4 <= min(task.strengths) <= 0.8
        assert asymmetry(simulator(), task) > 0.01


def test_thrust_law() -> None:
    """Thrust changes sign with the command, is zero in the dead band and follows the exponent outside it."""
    commands = np.array([0.1, -0.1, 1.0, -1.0, 0.62, 3.0])
    full, part = 22.0 * 0.88**1.7, 22.0 * 0.5**1.7
    np.testing.assert_allclose(thrust(ODD, commands), [0, 0, full, -full, part, full])


def test_thrusters_push_where_the_cant_says() -> None:
    """From rest, the first thruster pushes along (sin cant, cos cant) and turns the vehicle counter-clockwise."""
    x = np.zeros((1, 9))
    x[0, 3] = 0.3
    for cant in (-0.9, 0.0, 0.9):
        change = simulator().twist_change(STRONG._replace(cant=cant, gain=1.0), x)[0]
        assert np.arctan2(change[0], change[1]) == pytest.approx(cant, abs=0.01)
        assert change[2] > 0


def test_every_number_of_the_task_matters() -> None:
    """Each number changes the result. A task that was simulated before does not change it."""
    x = inputs(10)
    labels = simulator().twist_change(ODD, x)
    changes = {"gain": 30.0, "exponent": 1.2, "dead_band": 0.0, "cant": -0.4, "drag": 0.4, "mass": 0.8}
    for name, value in changes.items():
        assert np.abs(simulator().twist_change(ODD._replace(**{name: value}), x) - labels).max() > 0.01
    np.testing.assert_array_equal(simulator().twist_change(ODD, x), labels)


@pytest.mark.parametrize("family", [HexDrive(), WeakThruster()], ids=lambda family: family.name)
def test_family_contract(family: HexDrive) -> None:
    """Both families meet the protocols. Samples have the stated widths, are float32 and finite."""
    assert isinstance(family, ClosedLoopFamily)
    assert isinstance(family, SymmetricFamily)
    batch = family.sample(generator(), 3, 5, 8, "train")
    assert [part.shape for part in batch] == [(3, 5, 9), (3, 5, 3), (3, 8, 9), (3, 8, 3)]
    assert all(part.dtype == np.float32 and np.isfinite(part).all() for part in batch)
    assert (width(family.inputs), width(family.outputs)) == (9, 3)


def test_samples_stay_in_their_region() -> None:
    """Sector samples move forward with two thrusters. Wide queries move in any direction with six."""
    batch = HexDrive().sample(generator(), 20, 10, 40, "train")
    for x in (batch.support_x, batch.query_x[:, :20]):
        assert not x[..., 5:].any()
        assert np.abs(np.arctan2(x[..., 1], x[..., 0])).max() <= np.radians(20) + 1e-6
    wide = batch.query_x[:, 20:]
    assert (wide[..., 3:].std((0, 1)) > 0.5).all()
    assert np.abs(wide[..., :2].mean((0, 1))).max() < 0.1


def test_sampling_follows_generator_and_split() -> None:
    """Equal generators give equal batches of one split, and different tasks in different splits."""
    draws = {split: HexDrive().sample(generator(3), 2, 4, 4, split) for split in SPLITS}
    again = HexDrive().sample(generator(3), 2, 4, 4, "test")
    for one, other in zip(draws["test"], again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(draws["train"].support_x, draws["test"].support_x)
    assert not np.array_equal(draws["train"].support_x, draws["validation"].support_x)


def test_odd_query_counts_are_refused() -> None:
    """The two query sets have equal size, so the message asks for an even number."""
    with pytest.raises(FamilyError, match="queries is 5"):
        HexDrive().sample(generator(), 1, 2, 5, "train")


def test_augmented_samples_are_the_simulators_own() -> None:
    """For an augmented input, the simulator gives the augmented output."""
    family, x = HexDrive(), inputs(50)
    turned_x, turned_y = family.augment(generator(), x, simulator().twist_change(ODD, x))
    np.testing.assert_allclose(simulator().twist_change(ODD, turned_x), turned_y, atol=1e-12)
    again = random_action(family.group(), generator(), x, x[:, :3])
    np.testing.assert_array_equal(turned_x, again[0])


def test_true_model_tracks_the_figure_eight() -> None:
    """With the simulator's own model, a strong vehicle stays within a centimeter of the path."""
    family = HexDrive()
    path = family.fly(STRONG, family.true_model(STRONG), generator())
    assert path.positions.shape == path.reference.shape == (120, 2)
    assert path.error < 0.01
    assert np.abs(path.headings).max() < 0.1
    assert np.ptp(path.reference, axis=0) == pytest.approx([2.0, 1.0], abs=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_flights_with_useless_networks_end(value: float) -> None:
    """A network that gives NaN, infinity or zero flies badly. The error is finite, and there is no warning."""
    path = HexDrive().fly(STRONG, lambda x: np.full((len(x), 3), value, np.float32), generator())
    assert 0.05 < path.error < 100


def test_evaluate_compares_in_pairs() -> None:
    """Equal generators give equal supports and results for any controller. Splits have different tasks."""
    family, seen = HexDrive(), []

    def adapt(x: NDArray, y: NDArray) -> Predict:
        seen.append((x, y))
        return lambda query: np.zeros((len(query), 3), np.float32)

    reference = family.evaluate(None, generator(5), 2, "test")
    assert (reference.metric, reference.unit, reference.higher_is_better) == ("path error", "m", False)
    assert reference.values.shape == (2,)
    np.testing.assert_array_equal(reference.values, family.evaluate(None, generator(5), 2, "test").values)
    assert (family.evaluate(adapt, generator(5), 2, "test").values > reference.values).all()
    family.evaluate(adapt, generator(5), 2, "test")
    np.testing.assert_array_equal(seen[0][0], seen[2][0])
    np.testing.assert_array_equal(seen[1][1], seen[3][1])
    assert seen[0][0].shape == (10, 9)
    assert not seen[0][0][:, 5:].any()
    family.evaluate(adapt, generator(5), 1, "train")
    assert not np.array_equal(seen[0][0], seen[4][0])


@pytest.mark.parametrize("thrusters", [3, 8])
def test_any_number_of_thrusters(thrusters: int) -> None:
    """The group is that of the ring, an exact symmetry of every vehicle, and the true model flies as well."""
    family = HexDrive(thrusters)
    assert check_family(family).startswith(f"family 'hex-drive-{thrusters}' keeps the contract, group C{thrusters}\n")
    x = generator(1).uniform(-1, 1, (40, 3 + thrusters))
    y = simulator(thrusters).twist_change(ODD, x)
    turned_x, turned_y = family.augment(generator(), x, y)
    np.testing.assert_allclose(simulator(thrusters).twist_change(ODD, turned_x), turned_y, atol=1e-12)
    assert family.evaluate(None, generator(), 1, "test").values.max() < 0.05
    env = family.make_env()
    env.reset(seed=0)
    env.step(np.ones(thrusters, np.float32))
    env.close()


@pytest.mark.parametrize("thrusters", [2, 65])
def test_a_vehicle_has_neither_few_nor_very_many_thrusters(thrusters: int) -> None:
    """The message says how many."""
    with pytest.raises(FamilyError, match=r"thrusters is 2, but a ring has 3 or more|more than 64 elements"):
        HexDrive(thrusters)


def test_another_draw_task_changes_the_environment() -> None:
    """It draws as the family does."""
    env = WeakThruster().make_env()
    assert min(env.reset(seed=0)[1]["task"].strengths) < 0.9
    env.close()


def test_environment_passes_the_checker() -> None:
    """Gymnasium's own checker finds nothing. Its warnings are errors here."""
    check_env(HexDriveEnv(), skip_render_check=True)


def test_registered_environment_follows_the_family() -> None:
    """With a task, the environment moves as the family's simulator does, and is truncated after 12 s."""
    family = HexDrive()
    env = family.make_env(ODD)
    observation, info = env.reset(seed=0)
    assert info["task"] == ODD
    commands = np.array([0.5, -0.3, 0.8, 0.0, 0.2, -1.0], np.float32)
    label = family.true_model(ODD)(np.concatenate([observation[:3], commands])[None])[0]
    after, reward, terminated, truncated, _ = env.step(commands)
    np.testing.assert_allclose(after[:3] - observation[:3], label, atol=1e-5)
    assert float(reward) == pytest.approx(-np.linalg.norm(after[3:5]), rel=1e-5)
    steps = 1
    while not (terminated or truncated):
        _, _, terminated, truncated, _ = env.step(commands)
        steps += 1
    assert (steps, terminated) == (120, False)
    env.close()


def test_environment_draws_tasks_by_seed() -> None:
    """Without a task, each reset draws one. Equal seeds give equal tasks."""
    env = gymnasium.make("msr/HexDrive-v0")
    first, second, other = (env.reset(seed=seed)[1]["task"] for seed in (1, 1, 2))
    assert first == second != other
    assert env.reset(options={"task": STRONG})[1]["task"] == STRONG
    env.close()


def test_rendering(draw: Callable[[str], None]) -> None:
    """The picture shows that the vehicle moves."""
    draw(RENDER)
