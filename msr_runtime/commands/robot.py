"""`msr adapt`: a bundle and samples in, an adaptation out, without torch."""

import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from msr_runtime.commands.output import BundlePath, TrustedKeys, print_rows
from msr_runtime.errors import InputError
from msr_runtime.manifest import Manifest
from msr_runtime.model import AdaptiveModel
from msr_runtime.task import Array


def adapt(
    bundle: BundlePath,
    samples: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SAMPLES.npz")],
    /,
    steps: int | None = None,
    save: Path | None = None,
    key: TrustedKeys = (),
) -> int:
    """Adapt a bundle to samples and say what that did; exits with 1 if the update is refused.

    Args:
        bundle: The bundle's folder.
        samples: An .npz file with support_x (shots, obs) and support_y (shots, out) in raw units, and query_x and
            query_y of other samples if the error on them is wanted.
        steps: Inner steps; as many as in meta-training by default.
        save: Write the adaptation to this file, for AdaptiveModel.load_adaptation.
        key: PEM files with Ed25519 public keys; one of them has to have signed the bundle.
    """
    arrays = _read_samples(samples)
    model = AdaptiveModel.load(bundle, trusted_keys=key or None)
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
    scale = np.asarray(manifest.normalisation.output_scale)
    size = np.sum((y / scale) ** 2)
    return float(np.sum(((predicted - y) / scale) ** 2) / size) if size else float("nan")
