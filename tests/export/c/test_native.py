"""A model that runs native code answers as ONNX Runtime does, and is refused where its code does not belong."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from msr_runtime import AdaptiveModel
from msr_runtime.bundle.signing import make_keys
from msr_runtime.bundle.store import NATIVE_SOURCE, Bundle, write_bundle
from msr_runtime.cli.command import run
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.native import compile_source

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
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("native") / "bundle"
            with torch.no_grad():
                exporter.write(exporter.exported(**RULES[name]), folder)
            assert run(["compile", str(folder)]) == 0
            made[name] = folder
        return made[name]

    return make


def _near(exporter: Any, model: AdaptiveModel, name: str) -> tuple[NDArray, NDArray]:
    """Samples near to what the network predicts, so that an untrained one fits them and its update is accepted."""
    x, y = exporter.draw(exporter.exported(**RULES[name]), 5)
    return (x, y) if y.ndim == 1 else (x, model.predict(x) + np.float32(0.02) * y)


@pytest.mark.parametrize(
    "name",
    ["gradient", *(pytest.param(name, marks=pytest.mark.slow) for name in ("steps apart", "classes", "gauss-newton"))],
)
def test_it_answers_as_onnx_runtime(exporter: Any, compiled: Callable[[str], Path], name: str) -> None:
    """One x and many, adapted in one call and step by step, saved and restored."""
    path = compiled(name)
    native, onnx = AdaptiveModel.load(path, engine="native"), AdaptiveModel.load(path)
    x, y = _near(exporter, onnx, name)
    v0 = onnx.v
    for model in (native, onnx):
        assert model.adapt(x, y, 3, start="v0").accepted
    assert not np.allclose(onnx.v, v0, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(native.v, onnx.v, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(native.predict(x), onnx.predict(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(native.predict(x)[0], native.predict(x[0]))
    v, seen = native.v, []
    assert native.adapt(x, y, 3, check=lambda: seen.append(0)).accepted
    assert len(seen) >= 3
    np.testing.assert_array_equal(native.v, v)
    other = AdaptiveModel.load(path)
    other.restore_adaptation(native.dump_adaptation())
    np.testing.assert_array_equal(other.v, native.v)


def test_threads_share_no_workspace(exporter: Any, compiled: Callable[[str], Path]) -> None:
    """Forks that adapt at once learn what each learns alone."""
    model = AdaptiveModel.load(compiled("gradient"), engine="native")
    sets = [exporter.draw(exporter.exported(**RULES["gradient"]), 6, seed=seed) for seed in range(4)]
    wrong: list[int] = []

    def learned(which: int) -> NDArray:
        x, y = sets[which]
        found = model._sessions.adapt(x, y, 3, model._acting).predictor
        assert found is not None
        return found.tensors["v"].copy()

    wanted = [learned(which) for which in range(4)]

    def learn(which: int) -> None:
        for _ in range(200):
            if not np.array_equal(learned(which), wanted[which]):
                wrong.append(which)

    threads = [threading.Thread(target=learn, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_does_not_belong_is_refused(exporter: Any, compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """A bundle without code for this processor, a library that is none or computes wrong, too many samples, a NaN."""
    path = compiled("gradient")
    opened = Bundle.open(path)
    (library,) = (name for name in opened.files if name.endswith(".so"))
    for name, data in (("native.other.so", opened.files[library]), (library, b"no library")):
        files = {file: known for file, known in opened.files.items() if file != library} | {name: data}
        write_bundle(tmp_path / "changed", opened.manifest, files)
        with pytest.raises(BundleError, match=r"msr compile|compile it again"):
            AdaptiveModel.load(tmp_path / "changed", engine="native")
    source = opened.files[NATIVE_SOURCE].replace(b"predict_graph(network, x + i *", b"predict_graph(network, x + 0 *")
    assert source != opened.files[NATIVE_SOURCE]
    write_bundle(tmp_path / "wrong", opened.manifest, {**opened.files, library: compile_source(source)})
    with pytest.raises(BundleError, match="golden example"):
        AdaptiveModel.load(tmp_path / "wrong", engine="native")
    AdaptiveModel.load(tmp_path / "wrong")
    model = AdaptiveModel.load(path, engine="native")
    x, y = exporter.draw(exporter.exported(**RULES["gradient"]), 300)
    with pytest.raises(InputError, match="at most 256"):
        model.adapt(x, y)
    with pytest.raises(InputError, match="finite"):
        model.predict(np.full(4, np.nan))


def test_learning_by_sample_is_refused(recursive_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both where it is loaded and where it is compiled, at once."""
    with pytest.raises(InputError, match="'recursive', which native code does not run: leave engine out"):
        AdaptiveModel.load(recursive_bundle, engine="native")
    capsys.readouterr()
    assert run(["compile", str(recursive_bundle)]) == 2
    assert "'recursive'" in capsys.readouterr().err


def test_other_engines_and_providers_are_refused(bundle: Path) -> None:
    """By name, before anything is loaded."""
    with pytest.raises(InputError, match=r"engine is 'fast', but one of \['onnx', 'native'\]"):
        AdaptiveModel.load(bundle, engine="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="runs on the CPU, but providers is"):
        AdaptiveModel.load(bundle, engine="native", providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(BundleError, match=r"has no native code for this processor.*`msr compile"):
        AdaptiveModel.load(bundle, engine="native")


def test_a_signed_bundle_stays_signed(
    compiled: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is compiled only with the key that signs it again. A wrong key leaves it as it was."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make_keys(private, public)
    bundle = tmp_path / "bundle"
    shutil.copytree(compiled("gradient"), bundle)
    Bundle.open(bundle).sign(private)
    before = Bundle.open(bundle, [public]).digest
    for options, wanted in (([], "is signed"), (["--sign", str(public)], "it is a public key")):
        assert run(["compile", str(bundle), *options]) == 2
        assert wanted in capsys.readouterr().err
        assert Bundle.open(bundle, [public]).digest == before
    assert run(["compile", str(bundle), "--key", str(public), "--sign", str(private)]) == 0
    AdaptiveModel.load(bundle, engine="native", trusted_keys=[public])
