"""Quadrotor: tasks, samples and flights in wind."""

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs import check_family
from msr_envs.quadrotor import AdaptiveLaw, NoLaw, Pid, Quadrotor, QuadTask
from msr_envs.quadrotor.flight import STEPS, Weather, draw_weather, figure_eight
from msr_envs.quadrotor.laws import ModelLaw, thrust_command
from msr_envs.quadrotor.vehicle import GRAVITY, LARGEST_THRUST
from msr_runtime.errors import FamilyError
from msr_runtime.task import SPLITS, Predict

HEAVY = QuadTask(
    payload=0.3, efficiency=0.8, drag=1.2, lift=0.6, flapping=0.03, translation=0.003, inflow=0.03, ground=2.0
)


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator for each use."""
    return np.random.default_rng(seed)


def test_family_keeps_the_contract() -> None:
    """The checker finds nothing, and says in words what the fields declare."""
    words = check_family(Quadrotor())
    assert words.startswith("family 'quadrotor' keeps the contract, group D8\nturn by any angle")
    assert "mirror: air_velocity y → −y, tilt y → −y, thrust stays, height stays" in words
    assert Quadrotor().turns_freely


def test_samples_stay_in_their_region() -> None:
    """Sector samples are flown straight out and back. Wide queries are flown and tilted in any direction."""
    batch = Quadrotor().sample(generator(), 20, 10, 40, "train")
    for x in (batch.support_x, batch.query_x[:, :20]):
        for part in (x[..., :2], x[..., 3:5]):
            assert (np.abs(part[..., 1]) <= np.abs(part[..., 0]) * np.tan(np.radians(20)) + 1e-6).all()
            assert 0.3 < (part[..., 0] > 0).mean() < 0.7
    wide = batch.query_x[:, 20:]
    for part in (wide[..., :2], wide[..., 3:5]):
        turned = np.arctan2(part[..., 1], part[..., 0])
        assert (np.histogram(turned, 8, (-np.pi, np.pi))[0] > 20).all()
    for x, y in zip(batch.support_x, batch.support_y, strict=True):
        assert np.isfinite(x).all()
        assert np.abs(y).max() <= Quadrotor.outputs[0].high


def test_sampling_follows_generator_and_split() -> None:
    """Equal generators give equal batches of one split, and different tasks in different splits."""
    draws = {split: Quadrotor().sample(generator(3), 2, 4, 4, split) for split in SPLITS}
    for one, other in zip(draws["test"], Quadrotor().sample(generator(3), 2, 4, 4, "test"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(draws["train"].support_x, draws["test"].support_x)
    assert not np.array_equal(draws["train"].support_x, draws["validation"].support_x)


def test_odd_query_counts_are_refused() -> None:
    """The two query sets have equal size, so the message asks for an even number."""
    with pytest.raises(FamilyError, match="queries is 5"):
        Quadrotor().sample(generator(), 1, 2, 5, "train")


def test_the_reference_moves_as_its_velocity_says() -> None:
    """Velocity and acceleration are the derivatives of the position. The figure stays above the ground."""
    before, now, after = (figure_eight(np.arange(STEPS) + shift) for shift in (-0.01, 0.0, 0.01))
    for order in (0, 1):
        np.testing.assert_allclose((after[order] - before[order]) / (0.02 * 0.02), now[order + 1], atol=1e-3)
    assert now[0][:, 2].min() > 0.3


def test_the_thrust_is_one_that_the_vehicle_can_give() -> None:
    """It cancels the residual where it can, is never too steep or too strong, and always points up."""
    np.testing.assert_allclose(thrust_command(np.array([1.0, 0, 0]), np.array([0, 0.5, -1.0])), [1, -0.5, 10.81])
    for wanted in (np.array([90.0, -40, 0]), np.array([0.0, 0, -50]), np.array([5.0, 5, 90])):
        thrust = thrust_command(wanted, np.zeros(3))
        size = np.linalg.norm(thrust)
        assert thrust[2] > 0
        assert size <= LARGEST_THRUST + 1e-9
        assert np.linalg.norm(thrust[:2]) / size <= 0.7 + 1e-9


def test_each_law_flies_better_than_the_one_before() -> None:
    """In the same wind: the nominal model alone, an integral, an adaptive law, and the true model."""
    family, weather = Quadrotor(), draw_weather(generator(1))
    laws = [NoLaw(), Pid(), AdaptiveLaw(), ModelLaw(family.true_model(HEAVY))]
    flights = [family.fly(HEAVY, law, weather) for law in laws]
    errors = [flight.error for flight in flights]
    assert flights[0].positions.shape == flights[0].reference.shape == (STEPS, 3)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 5 * errors[-1]
    assert errors[-1] < 0.06


def test_a_calm_flight_of_the_nominal_vehicle_needs_no_law() -> None:
    """Without wind and with nothing unknown, the path follower alone stays within a few centimeters."""
    nominal = QuadTask(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert Quadrotor().fly(nominal, NoLaw(), Weather(np.zeros((STEPS, 3)), 1.0)).error < 0.03


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_flights_with_useless_networks_end(value: float) -> None:
    """A network that gives NaN or infinity flies badly. The error is finite, and there is no warning."""
    law = ModelLaw(lambda x: np.full((len(x), 3), value, np.float32))
    flight = Quadrotor().fly(HEAVY, law, draw_weather(generator()))
    assert 0.1 < flight.error < 100
    assert flight.positions[:, 2].min() > -0.5  # what hits the ground stays there


def test_evaluate_compares_in_pairs() -> None:
    """Equal generators give equal supports and winds for any controller, with and without samples."""
    family, seen = Quadrotor(), []

    def adapt(x: NDArray, y: NDArray) -> Predict:
        seen.append((x, y))
        return lambda query: np.zeros((len(query), 3), np.float32)

    reference = family.evaluate(None, generator(5), 2, "test")
    assert (reference.metric, reference.unit, reference.higher_is_better) == ("path error", "m", False)
    assert reference.values.shape == (2,)
    unadapted = family.evaluate(adapt, generator(5), 2, "test").values
    assert (unadapted > reference.values).all()
    np.testing.assert_array_equal(family.evaluate_law(NoLaw, generator(5), 2, "test").values, unadapted)
    assert seen[0][0].shape == (10, 7)
    assert np.abs(seen[0][0][:, 1]).max() < np.abs(seen[0][0][:, 0]).max()
    assert not np.array_equal(seen[0][1], seen[1][1])


def test_another_draw_task_changes_the_tasks_everywhere() -> None:
    """Samples, flights and the environment draw as the family does."""

    class Light(Quadrotor):
        def draw_task(self, rng: np.random.Generator) -> QuadTask:
            return super().draw_task(rng)._replace(payload=0.0, efficiency=1.0, ground=0.0, translation=0.0, inflow=0.0)

    y = Light().sample(generator(), 3, 2, 2, "train").support_y
    assert np.abs(y[..., 2]).max() < 0.3 * GRAVITY
    env = Light().make_env()
    assert env.reset(seed=0)[1]["task"].payload == 0.0
    env.close()
