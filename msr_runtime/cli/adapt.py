"""`msr adapt`: adapts a bundle to samples from a file. It needs no torch."""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from msr_runtime.adaptation.backend import Engine
from msr_runtime.adaptation.measured import NO_LIMITS
from msr_runtime.adaptation.model import AdaptiveModel
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.cli.npz import read_npz
from msr_runtime.cli.output import BundlePath, TrustedKeys, option, print_rows, require_folder
from msr_runtime.errors import InputError
from msr_runtime.inference.input_bounds import listed
from msr_runtime.task import Array


def adapt(
    bundle: BundlePath,
    samples: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SAMPLES.npz")],
    /,
    steps: Annotated[int | None, option("N", "as many as in meta-training")] = None,
    save: Annotated[Path | None, option("FILE.safetensors", "the adaptation is not saved")] = None,
    key: TrustedKeys = (),
    engine: Engine = "onnx",
) -> int:
    """Adapt a bundle to a support set and print the loss before and after.

    With a query set in the file, print the error on it before and after as well.

    Exit code: 0 if the update is accepted, 1 if it is refused.

    Args:
        bundle: The folder of the bundle.
        samples: An .npz file with the support set in raw units.
            support_x (shots, inputs); support_y (shots, outputs), or integer labels (shots,) for a classifier.
            Optional: a query set of other samples, query_x and query_y in the same layout.
        steps: Number of inner steps.
        save: Save the adaptation to this file. AdaptiveModel.load_adaptation reads it.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
        engine: What computes: ONNX Runtime, or the bundle's native code (`msr compile`), a program to trust.
    """
    arrays = _read_samples(samples)
    require_folder(save)
    model = AdaptiveModel.load(bundle, trusted_keys=key or None, engine=engine)
    query = (arrays["query_x"], arrays["query_y"]) if "query_x" in arrays else None
    before = _query_error(model, *query) if query else None
    result = model.adapt(arrays["support_x"], arrays["support_y"], steps)
    rows: dict[str, object] = {
        "support": f"{len(arrays['support_x'])} shots, {result.steps} steps, {1e3 * result.seconds:.2f} ms",
        "support loss": f"{result.loss_before:.4g} before, {result.loss_after:.4g} after",
    }
    if result.outside:
        rows["outside"] = f"{listed(result.outside)}: samples with a value outside the bounds of its field"
    if result.left_out:
        numbers = ", ".join(map(str, result.left_out))
        rows["left out"] = f"sample {numbers}, counted from 0: y outside its bounds, or spoiling the update"
    if result.few_samples:
        rows["few samples"] = result.few_samples
    if result.stuck:
        rows["stuck"] = f"{result.stuck}: look at what gives y"
    if query:
        kind = "share of wrong labels" if model.manifest.loss == "cross_entropy" else "relative squared error"
        rows["query error"] = f"{before:.4g} before, {_query_error(model, *query):.4g} after ({kind})"
    if not math.isnan(result.missed) and result.limits != NO_LIMITS:
        loss, move = result.limits
        rows["limits"] = f"{result.missed:.2g} times the nearer one (support loss {loss:.3g}, move of v {move:.3g})"
    rows["accepted"] = "yes" if result.accepted else f"no: {result.reason}"
    if save and result.accepted:
        model.save_adaptation(save)
        rows["saved"] = save
    print_rows(rows)
    return 0 if result.accepted else 1


def _read_samples(path: Path) -> dict[str, NDArray]:
    """Read an .npz file with a support set and, optionally, a query set."""
    if not path.is_file():
        raise InputError(f"there is no file '{path}'; name an .npz file with support_x and support_y")
    found = read_npz(path)
    wanted = ["support_x", "support_y"]
    if {"query_x", "query_y"} & found.keys():
        wanted += ["query_x", "query_y"]
    if absent := [name for name in wanted if name not in found]:
        raise InputError(
            f"samples '{path}' hold {sorted(found)} but not '{absent[0]}'; {', '.join(wanted)} are wanted: write them "
            "with np.savez by these names"
        )
    return found


def _query_error(model: AdaptiveModel, x: NDArray, y: NDArray) -> float:
    """Squared error divided by the mean square of y, each output in units of its scale; for labels, the share wrong."""
    predicted = model.predict(x)
    labels = model.manifest.loss == "cross_entropy"
    wanted = predicted.shape[:1] if labels else predicted.shape
    if y.shape != wanted:
        raise InputError(f"query_y has shape {y.shape}, but {wanted} is wanted, because query_x has shape {x.shape}")
    if labels:
        spec = model.sample_specs[1]._replace(name="query_y")
        spec.check_values(spec.convert(y))
    return float(np.mean(predicted.argmax(-1) != y)) if labels else _relative(model.manifest, predicted, y)


def _relative(manifest: Manifest, predicted: Array, y: NDArray) -> float:
    scale = np.asarray(manifest.normalization.output_scale)
    size = np.sum((y / scale) ** 2)
    return float(np.sum(((predicted - y) / scale) ** 2) / size) if size else float("nan")
