"""Arrays of samples are checked against the manifest, and errors name what is wrong."""

from typing import Any

import numpy as np
import pytest

from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.sample_spec import SampleSpec
from msr_runtime.inference.session import make_session
from msr_runtime.inference.session_spec import read_spec
from msr_runtime.task import Field

LABELS = SampleSpec("support_y", (), np.dtype(np.int64), (), classes=3)


def checked(labels: Any) -> np.ndarray:
    """The labels after all checks."""
    array = LABELS.convert(labels)
    LABELS.check_batch(array)
    LABELS.check_values(array)
    return array


def test_a_side_must_fit_the_manifest(linear: Any, linear_files: dict[str, bytes]) -> None:
    """A graph with another width than the fields, or without the named input, is refused."""
    session = make_session(linear_files["predict.onnx"], "predict.onnx", ["CPUExecutionProvider"])
    with pytest.raises(BundleError, match="make 2 numbers"):
        read_spec(session, "x", linear.manifest().outputs)
    with pytest.raises(BundleError, match="no input 'z'"):
        read_spec(session, "z", ())


def test_a_spec_describes_one_input_of_a_graph(linear: Any, linear_files: dict[str, bytes]) -> None:
    """Shape and dtype come from the graph, the fields from the manifest."""
    session = make_session(linear_files["predict.onnx"], "predict.onnx", ["CPUExecutionProvider"])
    fields = linear.manifest().inputs
    assert read_spec(session, "x", fields) == SampleSpec("x", (3,), np.dtype(np.float32), fields)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0], [1]], r"support_y has shape \(2, 1\), but \(samples\).*one label per sample"),
        (np.zeros(0, np.int64), r"support_y has shape \(0,\), but .*at least one sample"),
        ([0, 3], "labels 0 to 3, but 0 to 2 are wanted"),
        ([-1, 0], "labels -1 to 0, but 0 to 2 are wanted"),
        ([0.0, 1.0], "dtype float64, but int64 is wanted, or integers"),
        (["a", "b"], "dtype <U1, but int64 is wanted"),
        ([[0], [0, 1]], "support_y is not an array"),
    ],
)
def test_labels_are_classes(labels: Any, message: str) -> None:
    """Labels that are not integers, not classes or not one per sample are refused."""
    with pytest.raises(InputError, match=message):
        checked(labels)


def test_good_labels_pass() -> None:
    """Every class is allowed, also in a smaller integer type."""
    labels = checked(np.array([0, 1, 2], np.int8))
    assert (labels.dtype, labels.tolist()) == (np.int64, [0, 1, 2])


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x[0], x[1]], tuple])
def test_masked_arrays_are_refused_by_name(wrap: Any) -> None:
    """The mask would be dropped, and the number below it would count as measured."""
    masked = np.ma.masked_invalid(np.array([[1.0, np.nan], [0.0, 0.0]], np.float32))
    spec = SampleSpec("support_x", (2,), np.dtype(np.float32), ())
    with pytest.raises(InputError, match="support_x is a masked array"):
        spec.convert(wrap(masked))


def test_an_image_with_its_channels_last_is_named() -> None:
    """The error says how to move them."""
    camera = SampleSpec("x", (3, 8, 6), np.dtype(np.float32), ())
    with pytest.raises(InputError, match=r"channels are last, so move them first: np.moveaxis\(x, -1, -3\)"):
        camera.check_batch(np.zeros((2, 8, 6, 3), np.float32))
    with pytest.raises(InputError, match=r"one label per sample$"):
        camera.check_batch(np.zeros((2, 3, 6, 8), np.float32))


def test_a_cameras_bytes_are_no_image_from_0_to_1() -> None:
    """They would be taken for an image 255 times as bright. Bytes of 0 and 1, or of other fields, are numbers."""
    image = Field(name="image", shape=(1, 2, 2), unit="1", low=0.0, high=1.0)
    spec = SampleSpec("x", (1, 2, 2), np.dtype(np.float32), (image,))
    bytes_ = np.array([[[0, 255], [1, 7]]], np.uint8)
    with pytest.raises(InputError, match=r"x holds pixels from 0 to 255.*'image' is from 0 to 1: divide them by 255"):
        spec.convert(bytes_)
    assert spec.convert(bytes_ // 255).max() == 1
    assert spec._replace(fields=(image.model_copy(update={"high": 255.0}),)).convert(bytes_).max() == 255
