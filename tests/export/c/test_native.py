"""A model that runs native code answers as ONNX Runtime does, and is refused where its code does not belong."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msr_runtime import AdaptiveModel
from msr_runtime.bundle.store import Bundle, write_bundle
from msr_runtime.cli.command import run
from msr_runtime.errors import BundleError, InputError

RULES: dict[str, dict[str, Any]] = {
    "gradient": {"method": "msr", "loss": "mse"},
    "steps apart": {"method": "msr", "loss": "huber", "step_rates": True},
    "classes": {"method": "msr", "loss": "cross_entropy"},
    "gauss-newton": {"method": "msr", "loss": "mse", "rule": "gauss-newton", "inner_steps": 2},
}


@pytest.fixture(scope="module")
def compiled(exporter: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a rule's name to its bundle, compiled once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("native") / "bundle"
            with torch.no_grad():
                exporter.write(exporter.exported(**RULES[name]), folder)
            assert run(["compile", str(folder)]) == 0
            made[name] = folder
        return made[name]

    return make


@pytest.mark.parametrize("name", RULES)
def test_it_answers_as_onnx_runtime(exporter: Any, compiled: Callable[[str], Path], name: str) -> None:
    """One x and many, adapted in one call and step by step, saved and restored."""
    path, (x, y) = compiled(name), exporter.draw(exporter.exported(**RULES[name]), 5)
    native, onnx = AdaptiveModel.load(path, engine="native"), AdaptiveModel.load(path)
    for model in (native, onnx):
        model.adapt(x, y, 3, start="v0")
    np.testing.assert_allclose(native.v, onnx.v, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(native.predict(x), onnx.predict(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(native.predict(x)[0], native.predict(x[0]))
    v, seen = native.v, []
    native.adapt(x, y, 3, check=lambda: seen.append(0))
    assert len(seen) >= 3
    np.testing.assert_array_equal(native.v, v)
    other = AdaptiveModel.load(path)
    other.restore_adaptation(native.dump_adaptation())
    np.testing.assert_array_equal(other.v, native.v)


def test_threads_share_no_workspace(exporter: Any, compiled: Callable[[str], Path]) -> None:
    """Forks that adapt at once learn what each learns alone."""
    model = AdaptiveModel.load(compiled("gradient"), engine="native")
    sets = [exporter.draw(exporter.exported(**RULES["gradient"]), 6, seed=seed) for seed in range(4)]
    wanted = [model._sessions.adapt(*each, 3, model._acting).predictor.tensors["v"].copy() for each in sets]
    wrong: list[int] = []

    def learn(which: int) -> None:
        for _ in range(200):
            found = model._sessions.adapt(*sets[which], 3, model._acting).predictor
            if not np.array_equal(found.tensors["v"], wanted[which]):
                wrong.append(which)

    threads = [threading.Thread(target=learn, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_does_not_belong_is_refused(exporter: Any, compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """A bundle without code for this processor, a library that was changed, too many samples, a NaN."""
    path = compiled("gradient")
    opened = Bundle.open(path)
    (library,) = (name for name in opened.files if name.endswith(".so"))
    for name, data in (("native.other.so", opened.files[library]), (library, b"no library")):
        files = {file: known for file, known in opened.files.items() if file != library} | {name: data}
        write_bundle(tmp_path / "changed", opened.manifest, files)
        with pytest.raises(BundleError, match=r"msr compile|compile it again"):
            AdaptiveModel.load(tmp_path / "changed", engine="native")
    model = AdaptiveModel.load(path, engine="native")
    x, y = exporter.draw(exporter.exported(**RULES["gradient"]), 300)
    with pytest.raises(InputError, match="at most 256"):
        model.adapt(x, y)
    with pytest.raises(InputError, match="finite"):
        model.predict(np.full(4, np.nan))
