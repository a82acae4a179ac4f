"""`msr info` and `msr adapt`: what a robot needs, without torch."""

import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from msr_runtime._onnxruntime import onnxruntime
from msr_runtime.bundle import Bundle, Manifest
from msr_runtime.commands.output import BundlePath, print_rows
from msr_runtime.errors import InputError
from msr_runtime.model import AdaptiveModel
from msr_runtime.task import Array, Field


def info(bundle: BundlePath, /) -> int:
    """Say what a bundle is, after every digest in it was checked.

    Args:
        bundle: The bundle's folder.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    parity, provenance = manifest.parity, manifest.provenance
    error = manifest.equivariance_error
    print_rows(
        {
            "bundle": f"{opened.path} ({opened.digest})",
            "family": manifest.name,
            "method": f"{manifest.method}, {manifest.filter_parameters} filter parameters, loss {manifest.loss}",
            **{f"input {field.name}": _describe(field) for field in manifest.inputs},
            **{f"output {field.name}": _describe(field) for field in manifest.outputs},
            "trained for": f"{manifest.shots} shots, {manifest.inner_steps} inner steps",
            "rate": "none" if manifest.rate_hz is None else f"{manifest.rate_hz:g} Hz",
            "group": manifest.group or "none",
            "equivariance": "not measured" if error is None else f"{error:.2e} relative error at v0",
            "parity": f"{parity.max_relative_error:.1e} relative error at most, {parity.tolerance:.0e} allowed",
            "graphs": f"opset {manifest.opset}, IR {manifest.ir_version}, onnxruntime {manifest.oldest_onnxruntime} "
            "or newer",
            "onnxruntime here": f"{onnxruntime.__version__}, built with "
            + ", ".join(onnxruntime.get_available_providers()),
            "configuration": f"{provenance.config_digest}, seed {provenance.seed}",
            "exported with": ", ".join(f"{name} {version}" for name, version in provenance.versions.items()),
            **{name: f"{len(opened.files[name])} bytes, sha256 {digest}" for name, digest in manifest.files.items()},
        }
    )
    return 0


def adapt(
    bundle: BundlePath,
    samples: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SAMPLES.npz")],
    /,
    steps: int | None = None,
    save: Path | None = None,
) -> int:
    """Adapt a bundle to samples and say what that did; exits with 1 if the update is refused.

    Args:
        bundle: The bundle's folder.
        samples: An .npz file with support_x (shots, obs) and support_y (shots, out) in raw units, and query_x and
            query_y of other samples if the error on them is wanted.
        steps: Inner steps; as many as in meta-training by default.
        save: Write the adaptation to this file, for AdaptiveModel.load_adaptation.
    """
    arrays = _read_samples(samples)
    model = AdaptiveModel.load(bundle)
    query = (arrays["query_x"], arrays["query_y"]) if "query_x" in arrays else None
    before = _query_error(model, *query) if query else None
    result = model.adapt(arrays["support_x"], arrays["support_y"], steps)
    rows: dict[str, object] = {
        "support": f"{len(arrays['support_x'])} shots, {result.steps} steps, {1e3 * result.seconds:.2f} ms",
        "support loss": f"{result.loss_before:.4g} before, {result.loss_after:.4g} after",
    }
    if query:
        kind = "share of wrong answers" if model.manifest.loss == "cross_entropy" else "relative squared error"
        rows["query error"] = f"{before:.4g} before, {_query_error(model, *query):.4g} after ({kind})"
    rows["accepted"] = "yes" if result.accepted else f"no: {result.reason}"
    if save and result.accepted:
        model.save_adaptation(save)
        rows["saved"] = save
    print_rows(rows)
    return 0 if result.accepted else 1


def _describe(field: Field) -> str:
    return f"{field.shape} {field.unit}, {field.low:g} to {field.high:g}"


def _read_samples(path: Path) -> dict[str, NDArray]:
    """The arrays of an .npz file, the support whole and the query whole or absent."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"samples '{path}' cannot be read as an .npz file ({error}); write it with np.savez"
        ) from error
    wanted = ["support_x", "support_y"]
    if {"query_x", "query_y"} & found.keys():
        wanted += ["query_x", "query_y"]
    if absent := [name for name in wanted if name not in found]:
        raise InputError(f"samples '{path}' hold {sorted(found)} but not '{absent[0]}'; {', '.join(wanted)} are wanted")
    return found


def _query_error(model: AdaptiveModel, x: NDArray, y: NDArray) -> float:
    """The squared error over the mean square of y, each output in units of its scale; for labels the share wrong."""
    predicted = model.predict(x)
    labels = model.manifest.loss == "cross_entropy"
    wanted = predicted.shape[:1] if labels else predicted.shape
    if y.shape != wanted:
        raise InputError(f"query_y has shape {y.shape}, but {wanted} is wanted to go with query_x {x.shape}")
    return float(np.mean(predicted.argmax(-1) != y)) if labels else _relative(model.manifest, predicted, y)


def _relative(manifest: Manifest, predicted: Array, y: NDArray) -> float:
    scale = np.asarray(manifest.normalisation.output_scale).reshape(predicted.shape[1:])
    size = np.sum((y / scale) ** 2)
    return float(np.sum(((predicted - y) / scale) ** 2) / size) if size else float("nan")
