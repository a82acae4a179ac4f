"""What a bundle says of clean tasks is refused where the robot could not look it up."""

from typing import Any

import pytest

from msr_runtime.bundle.familiarity import Familiarity
from msr_runtime.bundle.manifest import Manifest

TAIL = {"usual": 2.0, "slope": 0.3}
FAULTS = [{"samples": samples, "gain": TAIL, "offset": TAIL} for samples in (10, 20, 40)]


def known(**changes: Any) -> dict[str, Any]:
    """Return figures, some of them changed."""
    shots = [{"shots": shots, "surprise": TAIL} for shots in (1, 5)]
    usual = [{"samples": samples, "nis": 1.0} for samples in (1, 40)]
    figures = {"tasks": 4, "samples": 40, "window": 16, "largest": TAIL, "by_shots": shots, "usual": usual}
    return figures | {"faults": FAULTS} | changes


@pytest.mark.parametrize("name", ["usual", "by_shots", "faults"])
def test_figures_out_of_order_are_refused(name: str) -> None:
    """They are looked up by bisection."""
    assert Familiarity.model_validate(known()).faults
    figures = known()[name]
    for wrong in (figures[::-1], figures + figures[-1:]):
        with pytest.raises(ValueError, match=rf"{name} was measured after \[.*\] samples, but rising numbers"):
            Familiarity.model_validate(known(**{name: wrong}))


@pytest.mark.parametrize("samples", [1, 10**9])
def test_a_number_of_samples_that_is_no_window_is_refused(samples: int) -> None:
    """Of one sample, none would be left when the older half goes. Of a billion, the limits would fill the memory."""
    with pytest.raises(ValueError, match="samples"):
        Familiarity.model_validate(known(faults=[FAULTS[0] | {"samples": samples}]))


@pytest.mark.parametrize("shape", [(65,), (1, 2, 2)])
def test_faults_of_an_x_that_is_not_watched_are_refused(linear: Any, shape: tuple[int, ...]) -> None:
    """An image would end the adapting, and thousands of numbers would slow it down."""
    manifest = linear.manifest().model_dump() | {"familiarity": known()}
    assert Manifest.model_validate(manifest).familiarity
    field = {"name": "x", "shape": shape, "unit": "1", "low": 0, "high": 1}
    scaling = {f"input_{name}": [1.0] * 65 if len(shape) == 1 else [[[1.0]]] for name in ("center", "scale")}
    other = {"inputs": [field], "normalization": manifest["normalization"] | scaling}
    with pytest.raises(
        ValueError, match=rf"x has the shape \({shape[0]},.*watched only if it is a vector of at most 64"
    ):
        Manifest.model_validate(manifest | other)
