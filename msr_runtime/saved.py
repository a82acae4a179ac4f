"""An adaptation as bytes: safetensors of `v` and its folded weights, which name the bundle that they belong to."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load, save

from msr_runtime.bundle import Bundle, check_tensors
from msr_runtime.errors import BundleError
from msr_runtime.task import Array


def encode_adaptation(tensors: Mapping[str, Array], bundle: Bundle) -> bytes:
    """The bytes of "v" `(1, K)` and the weights folded from it, float32."""
    return save(dict(tensors), {"bundle": bundle.digest, "digest": _digest(tensors)})


def decode_adaptation(data: bytes, bundle: Bundle, where: str) -> dict[str, Array]:
    """The tensors that `encode_adaptation` was given, "v" first; `where` names them in errors.

    Raises:
        BundleError: If the bytes are damaged, of another bundle or hold a number that is not finite.
    """
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})  # `load` gives tensors alone
    except Exception as error:  # the parser's own error type
        raise BundleError(f"{where} cannot be read ({error}); it is damaged") from error
    if (seen := metadata.get("bundle")) != bundle.digest:
        raise BundleError(
            f"{where} was saved from bundle {seen}, but this one is {bundle.digest}; filter parameters mean nothing "
            "under another bundle: adapt again"
        )
    tensors = check_tensors(tensors, bundle.manifest, where)
    if metadata.get("digest") != (seen := _digest(tensors)):
        raise BundleError(
            f"{where}: its tensors have sha256 {seen}, but it names {metadata.get('digest')}; it is damaged"
        )
    return tensors


def _digest(tensors: Mapping[str, Array]) -> str:
    """sha256 over the tensors' names and bytes, in order of name."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return whole.hexdigest()
