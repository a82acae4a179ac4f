"""Episodes drawn on the training device: those of the family, with queries moved and support sets as stored."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from msr_envs.images import Images, Omniglot
from msr_runtime.errors import TrainingError
from msr_runtime.meta.evaluation.scores import score_all
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.training.augmentation import augment_queries
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.episodes import EpisodePool
from msr_runtime.meta.training.normalization import measure_normalization
from msr_runtime.meta.training.preparation import prepare
from msr_runtime.task import Adapt, Array, Predict, TaskBatch

FRESH = {"training_tasks": 1000, "samples_per_task": 64, "shots": 2, "queries": 3, "insist_on_augmentation": False}


@pytest.mark.parametrize("options", [{}, {"turned": True}, {"angle": "any", "flips": "none", "crop": 0.5}])
@pytest.mark.parametrize("family", [Omniglot, Images])
def test_a_batch_is_what_the_family_draws(image_file: Path, family: Any, options: dict[str, Any]) -> None:
    """For the same generator, up to rounding: the device draws from the distribution of validation and evaluation."""
    made = family(image_file, ways=4, size=7, **options)
    pool = EpisodePool(made)
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    for augment in (True, False):
        found = TaskBatch(*(tensor.numpy() for tensor in pool.draw(rng, 5, 2, 3, augment=augment)))
        wanted = made.sample(same, 5, 2, 3, "train")
        wanted = augment_queries(made, same, wanted) if augment else wanted
        assert np.array_equal(found.support_x, wanted.support_x)
        assert np.abs(found.query_x - wanted.query_x).max() < 1e-5
        assert np.array_equal(found.support_y, wanted.support_y)
        assert np.array_equal(found.query_y, wanted.query_y)


def test_support_sets_are_as_stored_and_queries_are_moved(image_file: Path) -> None:
    """Algorithm 2: the support set is never augmented, and each query is moved by a map of its own."""
    family = Omniglot(image_file, ways=5, size=8)
    stored = {image.tobytes() for image in family.images}
    support_x, _, query_x, _ = EpisodePool(family).draw(np.random.default_rng(0), 6, 3, 5)
    for images, kept in ((support_x, 1.0), (query_x, 0.0)):
        pictures = (images.flatten(0, 1) * 255).round().byte().numpy()
        assert np.mean([picture.tobytes() in stored for picture in pictures]) == kept


def test_each_process_gets_its_share_of_one_batch(image_file: Path) -> None:
    """The draws do not depend on how many processes share them."""
    pool = EpisodePool(Omniglot(image_file, ways=3, size=8))
    whole = pool.draw(np.random.default_rng(0), 5, 1, 4)
    shares = [pool.draw(np.random.default_rng(0), 5, 1, 4, share=part) for part in (slice(0, 3), slice(3, 5))]
    for tensor, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(tensor, torch.cat(parts))


def test_images_are_normalized_as_validation_is(image_file: Path) -> None:
    """The same center and scale per channel. A pool of another split draws from its classes."""
    family = Images(image_file, ways=3)
    normalization = measure_normalization(family, np.random.default_rng(0), family.group()).normalization
    raw, scaled = (EpisodePool(family, normalization=each, split="test") for each in (None, normalization))
    support_x, _, query_x, _ = raw.draw(np.random.default_rng(1), 30, 1, 2)
    for plain, found in zip((support_x, query_x), scaled.draw(np.random.default_rng(1), 30, 1, 2)[::2], strict=True):
        assert np.abs(normalization.normalize_x(plain.numpy()) - found.numpy()).max() < 1e-5
    classes = (support_x[..., 0, 0, 0] * 255).round().long()
    assert set(classes.flatten().tolist()) == set(range(24, 36))


def test_the_preparation_says_what_a_step_draws(image_file: Path) -> None:
    """8 images of each class, 6 of them in the support set, leave 2 queries in training and in validation."""
    family = Omniglot(image_file, ways=3, size=8, turned=True)
    settings = TrainSettings(shots=6, queries=15, validation_tasks=4)
    prepared = prepare(family, TrainConfig.of(family, "maml", LearnerConfig(width=4), settings), progress=False)
    said = str(prepared)
    assert "omniglot:ways=3,size=8,turned=true, group D2" in said
    assert "not tested: an image that is moved keeps its class" in said
    assert "new tasks in each step: 3 classes with 6 and 2 images as queries" in said
    assert "classes: 12 in train, 12 in validation, 12 in test, each also turned by 90°" in said
    assert "queries: turns within 30°" in said
    assert prepared.validation.query_x.shape == (4, 6, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training_tasks": 50}, "does not use the option training_tasks.*every outer step draws new tasks"),
        ({"samples_per_task": 8}, "does not use the option samples_per_task"),
        ({"shots": 8}, r"shots is 8, but each class of family 'omniglot:.*' has 8 images"),
        ({"noise": 0.1}, r"y of family 'omniglot:.*' is a label"),
        ({"switches": 0.5}, r"switches is 0.5.*episodes of 'omniglot:.*'"),
    ],
)
def test_settings_that_an_episode_has_no_use_for_are_refused(
    image_file: Path, changes: dict[str, Any], words: str
) -> None:
    """Before anything is drawn, by name."""
    family = Omniglot(image_file, ways=3, size=8)
    settings = TrainSettings.model_validate({"shots": 1, **changes})
    with pytest.raises(TrainingError, match=words):
        prepare(family, TrainConfig.of(family, "maml", LearnerConfig(), settings), progress=False)


class Interrupted(Omniglot):
    """Ctrl-C comes in the 23rd outer step."""

    calls = -1000

    def warps(self, rng: np.random.Generator, count: int) -> Any:
        """Draw as always, and count."""
        self.calls += 1
        if self.calls == 23:
            signal.raise_signal(signal.SIGINT)
        return super().warps(rng, count)


def test_a_resumed_run_computes_the_same_numbers(training, image_file: Path, tmp_path: Path) -> None:
    """Every step draws its episodes from a generator of its own."""
    whole = training.trainer(tmp_path / "whole", Omniglot(image_file, ways=3, size=8), **FRESH)
    whole.train()
    family = Interrupted(image_file, ways=3, size=8)
    half = training.trainer(tmp_path / "half", family, **FRESH)
    family.calls = 0
    assert half.train().step == 23
    resumed = training.trainer(tmp_path / "half", family, resume=True, **FRESH)
    assert resumed.train().finished
    for name, tensor in whole.learner.state_dict().items():
        assert torch.equal(tensor, resumed.learner.state_dict()[name]), name


def test_a_run_is_not_resumed_on_other_images(training, image_file: Path, tmp_path: Path) -> None:
    """The family's name is the same, and nothing else tells them apart."""
    training.trainer(tmp_path / "run", Omniglot(image_file, ways=3, size=8), **FRESH).train()
    other = dict(np.load(image_file))
    np.savez(tmp_path / "other.npz", **(other | {"images": other["images"] // 2}))
    with pytest.raises(TrainingError, match=r"begun on other images than family 'omniglot:ways=3,size=8'.*option file"):
        training.trainer(tmp_path / "run", Omniglot(tmp_path / "other.npz", ways=3, size=8), resume=True, **FRESH)


def test_methods_are_scored_on_the_same_episodes_without_repeated_images(image_file: Path) -> None:
    """Two methods see the same support sets and queries, as stored and moved; 8 images of a class give 6 queries."""
    family = Omniglot(image_file, ways=3, size=8)
    seen: dict[str, list[NDArray]] = {"one": [], "two": []}

    def watching(name: str) -> Adapt:
        def adapt(support_x: Array, _: Array) -> Predict:
            seen[name].append(support_x)

            def predict(x: Array) -> Array:
                seen[name].append(x)
                return np.zeros((len(x), 3), np.float32)

            return predict

        return adapt

    score_all(family, {name: watching(name) for name in seen}, np.random.default_rng(7), tasks=3, shots=2)
    assert all(map(np.array_equal, *seen.values()))
    support, upright, orbit = seen["one"][:3]
    assert len(support) == 2 * 3
    assert len({image.tobytes() for image in upright}) == len(upright) == len(orbit) == 6 * 3
