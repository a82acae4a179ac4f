"""ant: its symmetry is exact in the simulator, its samples are steps of it, and a better model walks better."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.testing import assert_allclose

from msr_envs import check_family
from msr_envs.ant import Ant, AntEnv
from msr_envs.ant.controller import trot, true_model
from msr_runtime.errors import InputError
from msr_runtime.task import field_slices

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def family() -> Ant:
    return Ant(tasks=(4, 2, 2), examples=40, workers=1)


@pytest.fixture
def ant() -> Iterator[AntEnv]:
    env = AntEnv()
    yield env
    env.close()


def test_keeps_the_contract(family: Ant) -> None:
    """In closed loop too."""
    said = check_family(family, closed_loop=True)
    assert "group C4" in said
    assert "hips shift by 1" in said
    assert "angular_velocity_change turns" in said


def test_a_turn_with_the_next_legs_is_a_symmetry_of_the_simulator(family: Ant, ant: AntEnv) -> None:
    """Three control periods with contacts, from states and tasks of all kinds, whatever the heading."""
    group, touched = family.group(), False
    for seed in range(4):
        task, action = Ant.draw_task(RNG(seed)), RNG(seed).uniform(-1, 1, 8).astype(np.float32)
        start, _ = ant.reset(seed=seed, options=task)
        ends = []
        for element, matrix in enumerate(group.inputs):
            x = matrix @ np.concatenate([start, action])
            ant.reset(options={**task, "state": x[:26], "heading": 0.7 * element})
            for _ in range(3):
                end = ant.step(x[26:].astype(np.float32))[0]
                touched |= bool(ant.data.ncon)
            ends.append(np.concatenate([end, x[26:]]))
        for matrix, end in zip(group.inputs, ends, strict=True):
            assert_allclose(end, matrix @ ends[0], atol=1e-6)
        assert np.abs(ends[0] - ends[1]).max() > 0.1
    assert touched


def test_legs_are_numbered_counter_clockwise_from_the_front_left(ant: AntEnv) -> None:
    """A positive hip turns its leg to the left, and a positive ankle lowers its foot."""
    ant.stand()
    feet = [ant.model.geom(f"{leg}_ankle_geom").id for leg in ("left", "right", "third", "fourth")]
    assert (np.sign(ant.data.geom_xpos[feet, :2]) == [[1, 1], [-1, 1], [-1, -1], [1, -1]]).all()
    pushed = ant.step(np.ones(8, np.float32))[0]
    assert (pushed[18:] > 0).all()


def test_an_episode_starts_from_an_observation(ant: AntEnv) -> None:
    """All but the place and the heading can be seen."""
    start, _ = ant.reset(seed=3)
    again, _ = ant.reset(options={"state": start})
    assert_allclose(again, start, atol=1e-12)


def test_the_true_model_predicts_each_step_and_leaves_the_episode_alone(ant: AntEnv) -> None:
    """It simulates beside the running episode, with the task's physics."""
    start, _ = ant.reset(seed=0, options=Ant.draw_task(RNG(0)))
    action = RNG(0).uniform(-1, 1, 8).astype(np.float32)
    predicted = ant.advance(start[None].repeat(2, 0), np.stack([action, -action]))
    moved = true_model(ant)(np.concatenate([start, action])[None].astype(np.float32))[0]
    seen = ant.step(action.astype(np.float32))[0]
    assert_allclose(predicted[0], seen, atol=1e-9)
    assert np.abs(predicted[1] - seen).max() > 0.1
    assert_allclose(moved, (seen - start)[[*range(4, 10), *range(18, 26)]], atol=1e-3)


def test_in_the_sector_the_front_legs_act(family: Ant) -> None:
    """And in the wide samples all legs do."""
    batch = family.sample(RNG(0), tasks=2, shots=10, queries=20, split="train")
    parts = field_slices(family.inputs)
    acting = np.stack([batch.query_x[..., parts[name]] for name in ("hip_commands", "ankle_commands")]) != 0
    assert (acting[:, :, :10] == [True, False, False, True]).all()
    assert acting[:, :, 10:].all()
    assert not batch.support_x[..., parts["hip_commands"]][..., 1:3].any()


class Slippery(Ant):
    """Ants on ice."""

    @staticmethod
    def draw_task(rng: np.random.Generator) -> dict[str, float]:
        return {**Ant.draw_task(rng), "friction": 0.01}


def test_a_subclass_draws_its_own_tasks() -> None:
    """In the samples and in the closed loop."""
    assert Slippery(tasks=(1, 1, 1)).task("test", 0)["friction"] == 0.01


def test_a_trot_needs_the_model_of_its_ant(ant: AntEnv) -> None:
    """With the true model it follows the gait better than with that of an ant of other physics."""
    other, heavy = AntEnv(), {"gear": 0.4, "armature": 2.0, "damping": 3.0}
    ant.set_task(heavy)
    errors = [trot(ant, true_model(model), RNG(0), steps=12).error for model in (ant, other)]
    other.close()
    assert errors[0] < 0.08
    assert errors[0] < 0.7 * errors[1]


def test_an_action_that_no_motor_can_follow_is_refused(ant: AntEnv) -> None:
    """Before it moves anything."""
    ant.reset(seed=0)
    with pytest.raises(InputError, match=r"ant: the action is \[nan.*8 finite numbers"):
        ant.step(np.full(8, np.nan))
