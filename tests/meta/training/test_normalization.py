"""Normalizing keeps the symmetry of the built-in families, and can be undone."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msr_envs.ant import Ant
from msr_envs.images import Images
from msr_envs.registry import FAMILIES, load_family
from msr_runtime.meta.training.normalization import measure_normalization, raw_units
from msr_runtime.meta.training.preparation import prepare
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field, Group, Loss, Split, SymmetricFamily, TaskBatch, field_slices


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _few_tasks(name: str) -> SymmetricFamily:
    """The built-in family of that name. The ant is slow to simulate, so its tasks repeat."""
    family = Ant(tasks=(8, 1, 1), workers=1) if name == "ant" else load_family(name)
    assert isinstance(family, SymmetricFamily)
    return family


@pytest.mark.parametrize("name", FAMILIES)
def test_commutes_with_the_group(name: str) -> None:
    """Turning and normalizing give the same result in either order, for every group element, on x and on y."""
    family = _few_tasks(name)
    group = family.group()
    scaling = measure_normalization(family, _rng(), group).normalization
    batch = family.sample(_rng(), 4, 1, 8 * len(family.query_sets), "train")
    for normalize, samples, matrices in (
        (scaling.normalize_x, batch.query_x, group.inputs),
        (scaling.normalize_y, batch.query_y, group.outputs),
    ):
        for matrix in matrices:
            np.testing.assert_allclose(normalize(samples @ matrix.T), normalize(samples) @ matrix.T, atol=2e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_brings_every_field_near_one_and_back(name: str) -> None:
    """The root mean square of every field is near one. Center and scale undo the step up to float32 rounding."""
    family = _few_tasks(name)
    scaling = measure_normalization(family, _rng(), None).normalization
    batch = family.sample(np.random.default_rng(1), 64, 1, 32 * len(family.query_sets), "train")
    x, y = family.augment(_rng(), batch.query_x, batch.query_y)
    for normalized, raw, center, scale, fields in (
        (scaling.normalize_x(x), x, scaling.input_center, scaling.input_scale, family.inputs),
        (scaling.normalize_y(y), y, scaling.output_center, scaling.output_scale, family.outputs),
    ):
        assert normalized.dtype == np.float32
        np.testing.assert_allclose(normalized * np.array(scale) + np.array(center), raw, rtol=1e-5, atol=1e-5)
        for part in field_slices(fields).values():
            assert 0.5 < np.sqrt(np.mean(normalized[..., part] ** 2)) < 2.0


class Pictures:
    """Images of two channels. The group turns them by quarters and exchanges the second and third output channel."""

    name = "pictures"
    inputs: tuple[Field, ...] = (Field(name="image", shape=(2, 4, 4), unit="1", low=-9.0, high=9.0),)
    outputs: tuple[Field, ...] = (Field(name="answer", shape=(3, 2, 2), unit="m", low=-99.0, high=99.0),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Noise. Each channel has its own center and size, and each pixel of the first channel its own center."""
        x = rng.normal(size=(tasks, shots + queries, 2, 4, 4)) * [[[1.0]], [[5.0]]] + [[[3.0]], [[-1.0]]]
        x[:, :, 0] += np.arange(16.0).reshape(4, 4)
        y = rng.normal(size=(tasks, shots + queries, 3, 2, 2)) * [[[1.0]], [[4.0]], [[8.0]]] + [
            [[0.0]],
            [[1.0]],
            [[3.0]],
        ]
        x, y = x.astype(np.float32), y.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Change nothing. Only the matrices of `group` say what the group does."""
        return x, y

    def group(self) -> Group:
        """A quarter turn of the image, and at the same time the exchange of two output channels."""
        turn = np.rot90(np.eye(32).reshape(2, 4, 4, 32), axes=(1, 2)).reshape(32, 32)
        swap = np.eye(12).reshape(3, 4, 12)[[0, 2, 1]].reshape(12, 12)
        powers = [(np.linalg.matrix_power(turn, i), np.linalg.matrix_power(swap, i)) for i in range(4)]
        inputs, outputs = (np.stack(side) for side in zip(*powers, strict=True))
        return Group("C4", inputs, outputs)


def test_an_image_has_one_center_and_one_scale_per_channel() -> None:
    """All pixels of a channel share them, and all samples and tasks do. JSON keeps them."""
    family = Pictures()
    scaling = measure_normalization(family, _rng(), None).normalization
    assert np.shape(scaling.input_center) == np.shape(scaling.input_scale) == (2, 1, 1)
    assert np.shape(scaling.output_center) == np.shape(scaling.output_scale) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(scaling.output_scale), [1, 4, 8], rtol=0.05)
    np.testing.assert_allclose(np.ravel(scaling.input_center), [10.5, -1.0], atol=0.2)
    batch = family.sample(_rng(), 3, 2, 500, "train")
    x, y = scaling.normalize(batch.query_x, batch.query_y)
    for normalized in (x, y):
        assert normalized.dtype == np.float32
        channels = np.moveaxis(normalized, 2, 0).reshape(normalized.shape[2], -1)
        np.testing.assert_allclose(channels.mean(1), 0.0, atol=0.1)
        np.testing.assert_allclose(channels.std(1), 1.0, rtol=0.1)
    np.testing.assert_allclose(scaling.normalize_x(batch.query_x[0, 0]), x[0, 0])
    np.testing.assert_allclose(scaling.raw_x(x), batch.query_x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scaling.raw_y(y), batch.query_y, rtol=1e-5, atol=1e-5)
    again = Normalization.model_validate_json(scaling.model_dump_json())
    assert again == scaling


def test_images_are_scaled_alike_before_and_after_a_quarter_turn() -> None:
    """Without a group, and also with a group that exchanges channels: these then have the same scale."""
    family = Pictures()
    group = family.group()
    x, y = (part[0] for part in family.sample(_rng(), 1, 1, 5, "train")[2:])
    alone = measure_normalization(family, _rng(), None).normalization
    np.testing.assert_array_equal(
        alone.normalize_x(np.rot90(x, axes=(2, 3))), np.rot90(alone.normalize_x(x), axes=(2, 3))
    )
    scaling = measure_normalization(family, _rng(), group).normalization
    for normalize, samples, matrices in (
        (scaling.normalize_x, x, group.inputs),
        (scaling.normalize_y, y, group.outputs),
    ):
        for matrix in matrices:

            def act(array: NDArray, matrix: NDArray = matrix) -> NDArray:
                return (array.reshape(len(array), -1) @ matrix.T).reshape(array.shape)

            np.testing.assert_allclose(normalize(act(samples)), act(normalize(samples)), atol=2e-6)
    assert np.ptp(np.ravel(alone.output_scale)[1:]) > 3


def test_labels_pass_as_they_are() -> None:
    """Labels are integers and have no mean or scale."""
    figures = {"input_center": (0.0,), "input_scale": (2.0,), "output_center": (0.0,) * 3, "output_scale": (1.0,) * 3}
    x, y = np.ones((2, 4, 1), np.float32), np.arange(8).reshape(2, 4) % 3
    normal_x, normal_y = Normalization.model_validate(figures).normalize(x, y)
    assert normal_y is y
    np.testing.assert_array_equal(normal_x, 0.5 * x)


def test_large_images_are_measured_on_fewer() -> None:
    """The number of samples is limited by memory, but each task has at least one."""

    class Large(Pictures):
        inputs = (Field(name="image", shape=(2, 200, 200), unit="1", low=-9.0, high=9.0),)
        asked = 0

        def sample(self, rng, tasks, shots, queries, split) -> TaskBatch:
            self.asked = tasks * queries
            x = rng.normal(size=(tasks, shots + queries, 2, 200, 200)).astype(np.float32)
            y = rng.normal(size=(tasks, shots + queries, 3, 2, 2)).astype(np.float32)
            return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    family = Large()
    scaling = measure_normalization(family, _rng(), None).normalization
    assert family.asked == 64
    np.testing.assert_allclose(scaling.input_scale, 1.0, rtol=0.05)


def test_a_field_that_never_changes_is_not_divided_by_nothing(training) -> None:
    """Its scale is its own size, it normalizes to zero, and it is named."""

    class Still(training.Plane):
        def augment(self, rng, x, y):  # noqa: ANN202
            return np.full_like(x, 3.0), y

    scaling, constant = measure_normalization(Still(), _rng(), None)
    assert scaling.input_scale == (3.0, 3.0)
    assert not scaling.normalize_x(np.full((5, 2), 3.0)).any()
    assert constant == ("x field 'push' element 0 (3 ± 0 N)", "x field 'push' element 1 (3 ± 0 N)")


def test_a_center_that_may_be_zero_is_zero() -> None:
    """A center that is only noise counts as zero, so that linear tasks stay linear. A clear center is kept."""
    rank1, pictures = load_family("rank1"), Pictures()
    scaling = measure_normalization(rank1, _rng(), None).normalization
    assert not np.any(scaling.input_center)
    assert not np.any(scaling.output_center)
    answer = np.ravel(measure_normalization(pictures, _rng(), None).normalization.output_center)
    assert answer[0] == 0
    np.testing.assert_allclose(answer[1:], [1, 3], atol=0.5)


class Sensors:
    """Numbers of x and y around their centers, each with its own spread. No symmetry, and nothing is augmented."""

    name = "sensors"
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def __init__(self, x: list[tuple[float, float]], fields: tuple[Field, ...] | None = None) -> None:
        self.x = np.array(x)
        whole = Field(name="x", shape=(len(x),), unit="1", low=-1e9, high=1e9)  # as recorded without names
        self.inputs: tuple[Field, ...] = fields or (whole,)
        self.outputs: tuple[Field, ...] = (Field(name="y", shape=(1,), unit="m", low=-9.0, high=9.0),)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Normal x, and normal y beside it."""
        x = rng.normal(self.x[:, 0], self.x[:, 1], (tasks, shots + queries, len(self.x))).astype(np.float32)
        y = rng.normal(size=(tasks, shots + queries, 1)).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Change nothing."""
        return x, y


KELVIN, PASCAL, FARAD, NORTHING = (300.0, 1.0), (101325.0, 58.0), (47e-12, 2e-12), (5.34e6, 60.0)


def test_each_number_has_its_own_scale_whatever_its_unit() -> None:
    """Kelvins, pascals, farads and a northing side by side in one field: none is constant, none too far from zero."""
    family = Sensors([KELVIN, PASCAL, FARAD, NORTHING])
    scaling, constant = measure_normalization(family, _rng(), None)
    np.testing.assert_allclose(scaling.input_center, [300, 101325, 47e-12, 5.34e6], rtol=1e-2)
    np.testing.assert_allclose(scaling.input_scale, [1, 58, 2e-12, 60], rtol=0.1)
    assert constant == ()
    assert scaling.far_from_zero(family.inputs, family.outputs) is None
    x = family.sample(_rng(), 8, 1, 64, "train").query_x
    np.testing.assert_allclose(scaling.normalize_x(x).std((0, 1)), 1.0, rtol=0.1)


def test_jitter_is_no_scale() -> None:
    """Neither around a value of its own, nor beside numbers of the same unit. It is named, with what it does."""
    metres = Field(name="place", shape=(3,), unit="m", low=-9.0, high=9.0)
    charge = Field(name="charge", shape=(2,), unit="1", low=0.0, high=1.0)
    family = Sensors([(0.0, 1.0), (0.0, 2e-8), (2.0, 0.0), (0.5, 2e-8), (0.0, 0.0)], (metres, charge))
    scaling, constant = measure_normalization(family, _rng(), None)
    assert [name.split(" (")[0] for name in constant] == [
        "x field 'place' element 1",
        "x field 'place' element 2",
        "x field 'charge' element 0",
        "x field 'charge' element 1",
    ]
    assert np.min(scaling.input_scale) >= 0.5
    assert constant[1].endswith("(2 ± 0 m)")
    still = Sensors([(0.0, 2e-8)], (Field(name="load", shape=(1,), unit="kg", low=0.0, high=5.0),))
    _, (named,) = measure_normalization(still, _rng(), None)
    assert named.startswith("x field 'load' (")
    assert named.endswith("± 2e-08 kg)")


def test_jitter_within_the_bounds_of_a_sensor_is_constant() -> None:
    """Twenty nanometres around 0.1 m, from a sensor for one metre. Bounds that say nothing make nothing constant."""
    still = Sensors([(0.1, 2e-8)], (Field(name="x", shape=(1,), unit="m", low=0.0, high=1.0),))
    scaling, constant = measure_normalization(still, _rng(), None)
    assert len(constant) == 1
    assert scaling.input_scale == (pytest.approx(0.1),)
    assert scaling.far_from_zero(still.inputs, still.outputs) is None
    wide = Sensors([(0.0, 1.0)], (Field(name="x", shape=(1,), unit="m", low=-3.4e38, high=3.4e38),))
    assert measure_normalization(wide, _rng(), None).normalization.input_scale == (pytest.approx(1.0, rel=0.1),)


@pytest.mark.parametrize("bound", [math.inf, 3.4e38])
def test_bounds_that_say_nothing_make_nothing_constant(bound: float) -> None:
    """Neither by name, nor so that a northing that changes too little is flattened and not refused."""
    metres = tuple(
        Field(name=name, shape=(1,), unit="m", low=low, high=bound)
        for name, low in (("far", -bound), ("near", 0.0), ("still", -bound))
    )
    family = Sensors([(5.34e6, 5.0), (2.0, 0.5), (3.0, 0.0)], metres)
    scaling, constant = measure_normalization(family, _rng(), None)
    assert [name.split(" (")[0] for name in constant] == ["x field 'still'"]
    assert "field 'far' of x lies around" in str(scaling.far_from_zero(family.inputs, family.outputs))


def test_altitude_beside_a_northing_is_not_constant() -> None:
    """An offset in one number of a field does not hide what changes in another."""
    family = Sensors([NORTHING, (3.0, 0.2)], (Field(name="place", shape=(2,), unit="m", low=-1e6, high=1e6),))
    scaling, constant = measure_normalization(family, _rng(), None)
    assert scaling.input_scale[1] == pytest.approx(0.2, rel=0.1)
    assert constant == ()


def test_a_group_ties_scales_and_nothing_else_does() -> None:
    """Numbers that the group mixes share a scale. A third number, which it leaves alone, has its own."""

    class Turned(Sensors):
        def group(self) -> Group:
            turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
            powers = np.stack([np.linalg.matrix_power(turn, i) for i in range(4)])
            return Group("C4", powers, np.ones((4, 1, 1)))

    family = Turned([(0.0, 1.0), (0.0, 2.0), (300.0, 5.0)])
    first, second, third = measure_normalization(family, _rng(), family.group()).normalization.input_scale
    assert first == second == pytest.approx(np.sqrt(2.5), rel=0.05)
    assert third == pytest.approx(5.0, rel=0.05)


def test_a_number_too_far_from_zero_is_named_with_its_steps() -> None:
    """A northing that changes by a metre: float32 has two steps for it."""
    family = Sensors([KELVIN, (5.34e6, 1.0)])
    scaling = measure_normalization(family, _rng(), None).normalization
    said = scaling.far_from_zero(family.inputs, family.outputs)
    assert said is not None
    for words in (
        "field 'x' element 1 of x lies around 5.34e+06 and varies by 1 only",
        "at most 1e+05",
        "steps of 0.6",
        "local origin",
    ):
        assert words in said


def test_raw_units_change_nothing(training) -> None:
    """With `normalize` off, a network that was trained elsewhere sees what the robot measures."""
    config = training.config(training.Plane(), normalize=False)
    found = prepare(training.Plane(), config, progress=False).normalization
    x = np.array([[3.0, -2.0]], np.float32)
    assert found == raw_units(training.Plane())
    assert np.array_equal(found.normalize_x(x), x)
    assert np.array_equal(found.raw_y(x), x)


def test_orders_of_pixels_normalize_as_their_matrices(image_file: Path) -> None:
    """A group of flips and turns gives the same center and scale in either form, of images and of vectors."""
    image = Images(image_file, ways=3, angle="quarter")
    vector: Any = SimpleNamespace(
        name="pixels",
        loss="mse",
        query_sets=("all",),
        sample=_pixels,
        augment=lambda _, x, y: (x, y),
        inputs=(Field(name="pixels", shape=(64,), unit="1", low=0, high=1),),
        outputs=(Field(name="mean", shape=(1,), unit="1", low=0, high=1),),
    )
    matrices = image.group()
    orders = matrices._replace(inputs=matrices.inputs.argmax(2))
    for family in (image, vector):
        group = [each._replace(outputs=np.ones((8, 1, 1))) for each in (matrices, orders)]
        first, second = (measure_normalization(family, np.random.default_rng(0), each) for each in group)
        for (_, figures), (_, others) in zip(first.normalization, second.normalization, strict=True):
            np.testing.assert_allclose(figures, others)


def _pixels(rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
    x = rng.random((tasks, shots + queries, 64), np.float32) * np.linspace(1, 2, 64, dtype=np.float32)
    y = x.mean(2, keepdims=True)
    return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])
