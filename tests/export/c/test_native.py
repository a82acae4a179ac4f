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

from msr_runtime import AdaptiveModel, OnlineAdapter
from msr_runtime.adaptation.update_guard import UNLIMITED
from msr_runtime.bundle.native import INTERFACE, interface_of
from msr_runtime.bundle.signing import make_keys
from msr_runtime.bundle.store import NATIVE_SOURCE, Bundle, write_bundle
from msr_runtime.cli.command import run
from msr_runtime.cli.compile import add_native
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.native import compile_source, library_name

RULES: dict[str, dict[str, Any]] = {
    "gradient": {"method": "msr", "loss": "mse"},
    "steps apart": {"method": "msr", "loss": "huber", "step_rates": True},
    "classes": {"method": "msr", "loss": "cross_entropy"},
    "gauss-newton": {"method": "msr", "loss": "mse", "rule": "gauss-newton", "inner_steps": 2},
}


@pytest.fixture(scope="module")
def native(
    exporter: Any, compiled: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function from a rule's name to its bundle, compiled once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("native") / "bundle"
            with torch.no_grad():
                exporter.write(exporter.exported(**RULES[name]), folder)
            made[name] = compiled(name.replace(" ", "-"), folder)
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
def test_it_answers_as_onnx_runtime(exporter: Any, native: Callable[[str], Path], name: str) -> None:
    """One x and many, adapted in one call and step by step, saved and restored."""
    path = native(name)
    fast, onnx = AdaptiveModel.load(path, engine="native"), AdaptiveModel.load(path)
    x, y = _near(exporter, onnx, name)
    v0 = onnx.v
    for model in (fast, onnx):
        assert model.adapt(x, y, 3, start="v0").accepted
    assert not np.allclose(onnx.v, v0, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fast.v, onnx.v, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fast.predict(x), onnx.predict(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(fast.predict(x)[0], fast.predict(x[0]))
    v, seen = fast.v, []
    assert fast.adapt(x, y, 3, check=lambda: seen.append(0)).accepted
    assert len(seen) >= 3
    np.testing.assert_array_equal(fast.v, v)
    other = AdaptiveModel.load(path)
    other.restore_adaptation(fast.dump_adaptation())
    np.testing.assert_array_equal(other.v, fast.v)


def test_threads_share_no_workspace(exporter: Any, native: Callable[[str], Path]) -> None:
    """Forks that adapt at once learn what each learns alone."""
    model = AdaptiveModel.load(native("gradient"), engine="native")
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


def test_what_does_not_belong_is_refused(exporter: Any, native: Callable[[str], Path], tmp_path: Path) -> None:
    """A bundle without code for this processor, a library that is none or computes wrong, too many samples, a NaN."""
    path = native("gradient")
    opened = Bundle.open(path)
    (library,) = (name for name in opened.files if name.endswith(".so"))
    for name, data in (("native.other.so", opened.files[library]), (library, b"no library")):
        files = {file: known for file, known in opened.files.items() if file != library} | {name: data}
        write_bundle(tmp_path / "changed", opened.manifest, files)
        with pytest.raises(BundleError, match=r"msr compile|compile it again"):
            AdaptiveModel.load(tmp_path / "changed", engine="native")
    source = opened.files[NATIVE_SOURCE].replace(b"predict_graph(network, x + i *", b"predict_graph(network, x + 0 *")
    assert source != opened.files[NATIVE_SOURCE]
    write_bundle(tmp_path / "wrong", opened.manifest, {**opened.files, library: compile_source(source, "cc")})
    with pytest.raises(BundleError, match=r"golden example.*`msr compile` with another --compiler"):
        AdaptiveModel.load(tmp_path / "wrong", engine="native")
    AdaptiveModel.load(tmp_path / "wrong")
    model = AdaptiveModel.load(path, engine="native")
    x, y = exporter.draw(exporter.exported(**RULES["gradient"]), 300)
    with pytest.raises(InputError, match="at most 256"):
        model.adapt(x, y)
    with pytest.raises(InputError, match=r"window is 300, .* at most 256 samples: .*`msr compile --shots 300`"):
        OnlineAdapter(model, window=300)
    with pytest.raises(InputError, match="finite"):
        model.predict(np.full(4, np.nan))


def test_it_learns_by_sample_as_onnx_runtime(native_recursive_bundle: Path) -> None:
    """More samples than are linearized again or kept, with pauses; a support set at once; saved and restored."""
    fast = AdaptiveModel.load(native_recursive_bundle, engine="native", time_constant=30.0)
    onnx = AdaptiveModel.load(native_recursive_bundle, time_constant=30.0)
    assert fast.sample_specs == onnx.sample_specs
    x, y = _of_ring(onnx, 90)
    for index, seconds in enumerate(np.resize([0.1, 4.0, 0.1, 70.0], 70)):
        wanted, seen = (model.update(x[index], y[index], float(seconds)) for model in (onnx, fast))
        assert seen.accepted == wanted.accepted
        np.testing.assert_allclose(seen.innovation, wanted.innovation, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(seen.variance, wanted.variance, rtol=1e-3)
    np.testing.assert_allclose(fast.v, onnx.v, rtol=1e-3, atol=1e-3)
    for one, other in zip(fast.predict(x[70:], std=True), onnx.predict(x[70:], std=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    for begin, end in ((fast, onnx), (onnx, fast)):
        end.restore_adaptation(begin.dump_adaptation())
        np.testing.assert_array_equal(end.v, begin.v)
        for model in (begin, end):
            for each in range(70, 80):
                model.update(x[each], y[each])
        np.testing.assert_allclose(end.v, begin.v, rtol=1e-3, atol=1e-3)
    many_x, many_y = np.resize(x, (600, *x.shape[1:])), np.resize(y, (600, *y.shape[1:]))  # more than a loss takes
    losses = [model.adapt(many_x, many_y, guard=UNLIMITED).loss_after for model in (fast, onnx)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"method": "msr", "relinearize": 0, "gate": None}, {"method": "cavia", "time_constant": 30.0}],
    ids=["nothing is linearized again", "a context"],
)
def test_other_filters_replay_their_stream(
    exporter: Any, compiled: Callable[[str, Path], Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Loading compares hundreds of updates with those of the export."""
    with torch.no_grad():
        exporter.write(exporter.exported(loss="mse", rule="recursive", memory=12, **settings), tmp_path / "bundle")
    model = AdaptiveModel.load(compiled(str(settings["method"]), tmp_path / "bundle"), engine="native")
    assert model.self_test() <= model.bundle.stream().allowed(model.manifest.parity.tolerance)


def _of_ring(model: AdaptiveModel, samples: int) -> tuple[NDArray, NDArray]:
    """Samples that are near to what a model predicts."""
    fields = model.manifest.inputs
    low, high = (np.concatenate([np.full(each.size, getattr(each, end)) for each in fields]) for end in ("low", "high"))
    rng = np.random.default_rng(0)
    x = rng.uniform(low, high, (samples, len(low))).astype(np.float32)
    return x, np.clip(1.3 * model.predict(x) + 0.05, -0.9, 0.9).astype(np.float32)


def test_more_samples_are_compiled_for(
    native: Callable[[str], Path], exporter: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other processors' libraries are dropped then. Fewer than the golden example has, or far too many, are refused."""
    bundle, opened = tmp_path / "bundle", Bundle.open(native("gradient"))
    write_bundle(bundle, opened.manifest, {**opened.files, "native.other.so": b"other"})
    for shots, wanted in (("2", "shots is 2, but the golden example"), (str(2**30), "counts up to 2147483647")):
        assert run(["compile", str(bundle), "--shots", shots]) == 2
        assert wanted in capsys.readouterr().err
    assert run(["compile", str(bundle)]) == 0
    assert "native.other.so" in Bundle.open(bundle).files
    assert run(["compile", str(bundle), "--shots", "300"]) == 0
    assert "native.other.so" not in Bundle.open(bundle).files
    x, y = exporter.draw(exporter.exported(**RULES["gradient"]), 300)
    models = AdaptiveModel.load(bundle, engine="native"), AdaptiveModel.load(bundle)
    fast, onnx = (model.adapt(x, y, guard=UNLIMITED) for model in models)
    assert fast.loss_after == pytest.approx(onnx.loss_after, rel=1e-4)


def test_a_source_of_another_version_is_written_again(native: Callable[[str], Path], tmp_path: Path) -> None:
    """Loading refuses its library, and names what to run."""
    opened = Bundle.open(native("gradient"))
    source, library = opened.files[NATIVE_SOURCE], library_name()
    assert interface_of(source) == INTERFACE
    assert interface_of(b"int one;") is None
    old = source.replace(b"] = {%d," % INTERFACE, b"] = {%d," % (INTERFACE - 1))
    files = {**opened.files, NATIVE_SOURCE: old, library: compile_source(old, "cc")}
    bundle = write_bundle(tmp_path / "bundle", opened.manifest, files)
    with pytest.raises(BundleError, match=rf"version {INTERFACE - 1}, but this runtime calls {INTERFACE}: run `msr"):
        AdaptiveModel.load(bundle, engine="native")
    AdaptiveModel.load(add_native(bundle, "cc"), engine="native")


def test_other_engines_and_providers_are_refused(bundle: Path) -> None:
    """By name, before anything is loaded."""
    with pytest.raises(InputError, match=r"engine is 'fast', but one of \['onnx', 'native'\]"):
        AdaptiveModel.load(bundle, engine="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="runs on the CPU, but providers is"):
        AdaptiveModel.load(bundle, engine="native", providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(BundleError, match=r"has no native code for this processor.*`msr compile"):
        AdaptiveModel.load(bundle, engine="native")


def test_a_signed_bundle_stays_signed(
    native: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is compiled only with the key that signs it again. A wrong key leaves it as it was."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make_keys(private, public)
    bundle = tmp_path / "bundle"
    shutil.copytree(native("gradient"), bundle)
    Bundle.open(bundle).sign(private)
    before = Bundle.open(bundle, [public]).digest
    for options, wanted in (([], "is signed"), (["--sign", str(public)], "it is a public key")):
        assert run(["compile", str(bundle), *options]) == 2
        assert wanted in capsys.readouterr().err
        assert Bundle.open(bundle, [public]).digest == before
    assert run(["compile", str(bundle), "--key", str(public), "--sign", str(private)]) == 0
    AdaptiveModel.load(bundle, engine="native", trusted_keys=[public])
