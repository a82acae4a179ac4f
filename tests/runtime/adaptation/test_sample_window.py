"""SampleWindow: which samples enter, which are held out, and that every sample left out is counted by reason."""

from typing import Any

import numpy as np

from msr_runtime import AdaptiveModel
from msr_runtime.adaptation.sample_window import LeftOut, SampleWindow
from msr_runtime.bundle.manifest import Normalization
from msr_runtime.inference.input_bounds import InputBounds
from msr_runtime.inference.sample_spec import SampleSpec

ANY = InputBounds("y", (), None)
"""Bounds that everything is inside of."""


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def window(
    model: AdaptiveModel, size: int = 6, stride: int = 1, novelty: float | None = None, held_out: int = 0
) -> Any:
    """A sample window with these settings."""
    manifest = model.manifest
    return SampleWindow(model.sample_specs, manifest.normalization, model.bounds.y, size, stride, novelty, held_out)


def test_a_stride_takes_every_third_sample(model: AdaptiveModel) -> None:
    """The skipped samples are counted and not stored."""
    samples, x, y = window(model, stride=3), draw(1, 9, 3), draw(2, 9, 2)
    for each in zip(x, y, strict=True):
        samples.offer(*each)
    np.testing.assert_array_equal(samples.support.x, x[2::3])
    np.testing.assert_array_equal(samples.support.y, y[2::3])
    assert samples.left_out == {LeftOut.STRIDE: 6}


def test_only_what_is_new_enters(model: AdaptiveModel, linear: Any) -> None:
    """The distance is over x and y in the scales of the normalization, to support and held-out samples alike."""
    samples, x, y = window(model, novelty=0.1, held_out=2), draw(1, 3), draw(2, 2)
    scale = linear.x_scale, linear.y_scale
    samples.offer(x, y)
    samples.offer(x, y)
    samples.offer(x + 0.09 * scale[0], y + 0.09 * scale[1])
    assert samples.left_out == {LeftOut.NEAR: 2}
    samples.offer(x + 0.11 * scale[0], y + 0.11 * scale[1])  # the second to enter: it is held out
    samples.offer(x + 0.12 * scale[0], y + 0.12 * scale[1])
    assert samples.left_out == {LeftOut.NEAR: 3}
    samples.offer(x, y + scale[1])  # the same input with another output: the robot has changed
    assert len(samples.support.x) == 2
    assert samples.held_out
    assert len(samples.held_out.x) == 1


def test_the_oldest_sample_comes_first(model: AdaptiveModel) -> None:
    """Also in a full window, and after all but the newest were forgotten; held-out samples are forgotten with them."""
    samples, x, y = window(model, size=5, held_out=4), draw(1, 20, 3), draw(2, 20, 2)
    learned = np.flatnonzero(np.arange(1, 21) % 4)
    for index, each in enumerate(zip(x, y, strict=True)):
        samples.offer(*each)
        taught = learned[learned <= index][-5:]
        np.testing.assert_array_equal(samples.support.x, x[taught])
        np.testing.assert_array_equal(samples.support.y, y[taught])
    samples.keep_newest(3)
    np.testing.assert_array_equal(samples.support.x, x[learned[-3:]])
    assert samples.held_out is None
    samples.offer(x[0], y[0])
    np.testing.assert_array_equal(samples.support.y, y[[*learned[-3:], 0]])
    assert samples.entered == 21


def test_a_y_outside_its_bounds_does_not_enter(model: AdaptiveModel) -> None:
    """Neither the support set nor the judges get it. What x does outside is learned from."""
    samples, zero = window(model, held_out=2), np.zeros(2, np.float32)
    samples.offer(np.zeros(3, np.float32), zero + np.float32(11.5))  # of 10 N, and 5 % of the range are allowed
    samples.offer(np.array([0, 0, 4], np.float32), zero)  # of pi rad
    assert samples.left_out == {LeftOut.OUTSIDE: 1}
    assert samples.entered == 1


def test_labels_are_compared_as_labels() -> None:
    """For a classifier, the same input with another label is new. A label has no scale and is no outlier."""
    figures = Normalization(input_center=(0.0,), input_scale=(1.0,), output_center=(0.0,), output_scale=(1.0,))
    sides = SampleSpec("x", (1,), np.dtype(np.float32), ()), SampleSpec("y", (), np.dtype(np.int64), (), classes=10_001)
    samples = SampleWindow(sides, figures, ANY, 6, 1, 0.5, 0)
    for x, y in ((0.0, 0), (0.1, 0), (0.1, 10_000), (0.2, 10_000), (2.0, 0)):
        samples.offer(np.array([x], np.float32), np.array(y))
    np.testing.assert_array_equal(samples.support.y, [0, 10_000, 0])
    assert samples.left_out == {LeftOut.NEAR: 2}
    for label in (-1, 10_001):
        samples.offer(np.zeros(1, np.float32), np.array(label))
    assert samples.left_out == {LeftOut.NEAR: 2, LeftOut.NO_CLASS: 2}


def test_an_image_is_scaled_by_its_channels() -> None:
    """Center and scale have one number per channel, which applies to every pixel."""
    centers, scales = (((0.0,),), ((100.0,),)), (((1.0,),), ((10.0,),))
    figures = Normalization(input_center=centers, input_scale=scales, output_center=(0.0,), output_scale=(1.0,))
    sides = SampleSpec("x", (2, 3, 4), np.dtype(np.float32), ()), SampleSpec("y", (1,), np.dtype(np.float32), ())
    samples, image = SampleWindow(sides, figures, ANY, 6, 1, 0.5, 0), np.zeros((2, 3, 4), np.float32)
    near, new = image.copy(), image.copy()
    near[1] += 6  # 0.6 of the scale in half of the numbers
    new[0] += 6
    for each in (image, near, new):
        samples.offer(each, np.zeros(1, np.float32))
    np.testing.assert_array_equal(samples.support.x, [image, new])


def test_held_out_samples_and_support_cover_the_same_time(model: AdaptiveModel) -> None:
    """With `held_out=4`, one of four samples is held out, and both sets reach equally far back."""
    samples, x, y = window(model, size=6, held_out=4), draw(1, 40, 3), draw(2, 40, 2)
    assert not samples.held_out
    for each in zip(x, y, strict=True):
        samples.offer(*each)
    assert samples.held_out is not None
    assert {tuple(row) for row in samples.support.x.tolist()} == {
        tuple(x[i].tolist()) for i in range(32, 40) if i % 4 < 3
    }
    assert {tuple(row) for row in samples.held_out.x.tolist()} == {tuple(x[i].tolist()) for i in (35, 39)}
