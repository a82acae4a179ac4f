"""`msr info`: describes a bundle and this machine."""

import os
import platform
from importlib import metadata
from typing import Annotated

import tyro

from msr_runtime.bundle.manifest import Manifest, Recursion, TrainingSamples
from msr_runtime.bundle.rejection import Rejection
from msr_runtime.bundle.store import Bundle
from msr_runtime.cli.output import BundlePath, print_rows
from msr_runtime.control.realtime import RealTime
from msr_runtime.errors import RealTimeError
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.device import CPU, CUDA, TENSORRT
from msr_runtime.inference.native import library_name
from msr_runtime.inference.providers import installed, why_inactive
from msr_runtime.task import image_layout

MaybeBundlePath = Annotated[BundlePath | None, tyro.conf.arg(metavar="[BUNDLE]", help_behavior_hint="(default: none)")]


def info(bundle: MaybeBundlePath = None, /) -> int:
    """Describe a bundle and this machine.

    The digests of all files in the bundle are checked first.

    The machine: versions, ONNX Runtime providers that start, cores, real-time scheduling.

    Args:
        bundle: The folder of the bundle. Without it, only the machine is described.
    """
    described = {} if bundle is None else _bundle(Bundle.open(bundle))
    print_rows(described | _machine())
    return 0


def describe_parity(bundle: Bundle) -> str:
    """Say how far ONNX Runtime was from torch at the export, and how far it might have been."""
    parity = bundle.manifest.parity
    allowed = parity.tolerance if bundle.manifest.recursion is None else bundle.stream().allowed(parity.tolerance)
    return f"{parity.max_relative_error:.1e} relative error at most, {allowed:.0e} allowed"


def _bundle(bundle: Bundle) -> dict[str, object]:
    manifest = bundle.manifest
    provenance = manifest.provenance
    error = manifest.equivariance_error
    oldest = f"onnxruntime {manifest.oldest_onnxruntime} or newer"
    return {
        "bundle": f"{bundle.path} ({bundle.digest})",
        "signature": "none" if bundle.signature is None else "Ed25519; `msr verify --key` checks it",
        "family": manifest.name,
        "method": f"{manifest.method}, rule {manifest.rule}, loss {manifest.loss}",
        "adapted numbers": manifest.filter_parameters,
        **{f"input {field.name}": field.describe() for field in manifest.inputs},
        **{f"output {field.name}": field.describe() for field in manifest.outputs},
        **({"image": layout} if (layout := image_layout(manifest.inputs)) else {}),
        "trained for": f"{_shots(manifest)} shots, {manifest.inner_steps} inner steps",
        **({"filter": _filter(found)} if (found := manifest.recursion) else {}),
        **({"trained with": _disturbance(samples)} if (samples := provenance.samples) else {}),
        "rate": "none" if manifest.rate_hz is None else f"{manifest.rate_hz:g} Hz",
        "group": manifest.group or "none",
        "equivariance": "not measured" if error is None else f"{error:.2e} relative error at v0",
        "parity": describe_parity(bundle),
        **(manifest.structure.describe() if manifest.structure else {}),
        "precision": manifest.rounding.describe() if manifest.rounding else "float32",
        "native code": _native(bundle),
        "size": f"{sum(map(len, bundle.files.values()))} bytes",
        "limits": _limits(manifest),
        **({"none of these": _rejection(found)} if (found := manifest.rejection) else {}),
        "graphs": f"opset {manifest.opset}, IR {manifest.ir_version}, {oldest}",
        "configuration": f"{provenance.config_digest}, seed {provenance.seed}",
        "exported with": ", ".join(f"{name} {version}" for name, version in provenance.versions.items()),
        **{name: f"{len(bundle.files[name])} bytes, sha256 {digest}" for name, digest in manifest.files.items()},
    }


def _native(bundle: Bundle) -> str:
    compiled = sorted(name for name in bundle.files if name.endswith(".so"))
    if library_name() in compiled:
        return "compiled for this processor"
    found = f"compiled for other processors alone ({', '.join(compiled)})" if compiled else "none"
    return f"{found}; `msr compile` makes it for this one"


def _shots(manifest: Manifest) -> str:
    samples = manifest.provenance.samples
    fewest = manifest.shots if samples is None else samples.fewest_shots
    return f"{manifest.shots}" if fewest == manifest.shots else f"{fewest} to {manifest.shots}"


def _filter(found: Recursion) -> str:
    fades = "nothing fades" if found.tau is None else f"learned numbers fade with {found.tau:.3g} s"
    gate = "no gate" if found.gate is None else f"gate at {found.gate:g} deviations"
    again = f"the first {found.relinearize} are linearized again" if found.relinearize else "none is linearized again"
    return f"{fades}, {gate}, {found.memory} samples count in the covariance, {again}"


def _limits(manifest: Manifest) -> str:
    found = manifest.validation
    if found is None:
        return "none: no update is refused for its support loss or its move"
    own = min(found.by_shots, key=lambda figures: abs(figures.shots - manifest.shots))
    return (
        f"support loss {own.usual_loss:.3g}, move of v {own.usual_move:.3g} with {own.shots} samples (up to "
        f"{own.largest_loss:.3g} and {own.largest_move:.3g} where they lie far apart), from {found.tasks} clean tasks"
    )


def _rejection(found: Rejection) -> str:
    pairs = ", ".join(f"{100 * point.known:g} % and {100 * point.unknown:.0f} %" for point in found.points)
    return f"images of taught and of other classes that are refused: {pairs}, from {found.tasks} tasks"


def _disturbance(samples: TrainingSamples) -> str:
    noise = f"noise {samples.noise:g}, {samples.outliers:.3g} outliers of {samples.outlier_size:g}, in scales of y"
    clean = not (samples.noise or samples.outliers)
    return f"{'clean samples' if clean else noise}, {'augmented' if samples.augmented else 'not augmented'} queries"


def _machine() -> dict[str, object]:
    built = onnxruntime.get_available_providers()
    return {
        "msr-runtime here": f"{metadata.version('msr-runtime')}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}",
        "onnxruntime here": installed(),
        **{name: _provider(name, built) for name in dict.fromkeys((CPU, CUDA, TENSORRT, *built))},
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "real time": _real_time(),
    }


def _provider(name: str, built: list[str]) -> str:
    if name not in built:
        return "not in this build"
    reason = why_inactive(name)
    return "starts" if reason is None else f"does not start ({reason})"


def _real_time() -> str:
    try:
        with RealTime():
            return "SCHED_FIFO and locked memory are granted"
    except RealTimeError as error:
        return str(error)
