"""A bundle's manifest: what it is, in one JSON file that a robot reads before it trusts anything else."""

import re
from typing import Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic import Field as Bounded

from msr_runtime.errors import BundleError
from msr_runtime.signing import SIGNATURE
from msr_runtime.task import Field, Figures, Loss

FORMAT_VERSION = 2
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
_FILE_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
)  # no separator and no leading dot: it cannot leave the folder
_GRAPH_NAMES = frozenset({"x", "y", "v", "v_next", "loss", "support_x", "support_y", "step"})


class _Frozen(BaseModel):
    # a figure that is infinite or NaN is written as a string, which reads back as the float (JSON has neither)
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Weight(_Frozen):
    """One folded weight: an extra input of every graph and, one inner step on, an output of adapt.onnx."""

    name: str
    """Its name in the graphs."""
    shape: tuple[PositiveInt, ...]


class Normalisation(_Frozen):
    """The scaling inside the graphs: they compute on `(x - center) / scale`. For reading only; never apply it again."""

    input_center: Figures
    input_scale: Figures
    output_center: Figures
    output_scale: Figures


class Parity(_Frozen):
    """How closely ONNX Runtime and torch agreed on random inputs when the bundle was written."""

    max_relative_error: float
    """The largest error seen, relative to the largest reference value."""
    tolerance: float
    """The largest error that would have been accepted; the self-test at load uses it too."""
    shots: tuple[PositiveInt, ...]
    batches: tuple[PositiveInt, ...]
    steps: tuple[PositiveInt, ...]


class Provenance(_Frozen):
    """Where the bundle came from."""

    config_digest: str
    """sha256 of the training configuration."""
    versions: dict[str, str]
    """Package name to version, at export."""
    seed: int
    created: str | None = None
    """ISO 8601 time, where one was wanted; without it the same checkpoint gives the same bytes."""


class Manifest(_Frozen):
    """What a bundle is: everything a robot has to know before it trusts the graphs."""

    format_version: int = FORMAT_VERSION
    name: str
    """The task family's name."""
    method: str
    """How it was meta-trained, for example `msr-full` or `anil-conv`."""
    files: dict[str, str] = {}
    """File name to sha256 in hex; `write_bundle` fills it."""
    inputs: tuple[Field, ...]
    """In this order, flattened, they are the network's input."""
    outputs: tuple[Field, ...]
    normalisation: Normalisation
    loss: Loss
    filter_parameters: PositiveInt
    """The length of `v`."""
    weights: tuple[Weight, ...]
    """In the order of the graphs' inputs."""
    shots: PositiveInt
    """Support samples of a task in meta-training."""
    inner_steps: int = Bounded(ge=1, le=10_000)
    """Steps of one adaptation in meta-training; the default on the robot."""
    rule: str
    """How a step moves v: `gradient`, `gauss-newton`, `ridge` or, to prototypes, `class-means`."""
    learned: dict[str, tuple[float, ...]]
    """What the rule learned beside U and v0, for example its inner rates; constants in adapt.onnx."""
    rate_hz: PositiveFloat | None
    """The control rate the model was trained for, in Hz."""
    opset: PositiveInt
    ir_version: PositiveInt
    oldest_onnxruntime: str
    """The oldest ONNX Runtime that loads the graphs, for example `1.18`."""
    group: str | None
    """The group the network was trained to carry, for example `C16`."""
    equivariance_error: float | None
    """Relative equivariance error of the network at `v0`; 0 is exact."""
    parity: Parity
    provenance: Provenance

    @model_validator(mode="after")
    def _check(self) -> Self:
        for side in ("inputs", "outputs", "weights"):
            names = [part.name for part in getattr(self, side)]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{side} are named {names}, but there must be at least one and no name twice")
        weights = {weight.name for weight in self.weights}
        if taken := (_GRAPH_NAMES | set(map(next_name, weights))) & weights:
            raise ValueError(f"a weight is named '{min(taken)}', which is one of the graphs' own names")
        for name, digest in self.files.items():
            if not _FILE_NAME.fullmatch(name) or name in (MANIFEST, MANIFEST_DIGEST, SIGNATURE):
                raise ValueError(f"file name {name!r} is not a plain name inside the folder")
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"the digest of '{name}' is {digest!r}, not 64 lower-case hex digits")
        return self

    def to_bytes(self) -> bytes:
        """The manifest as the indented JSON that a bundle holds."""
        return self.model_dump_json(indent=2).encode() + b"\n"


STEP = "step"
"""The input of adapt.onnx, int64 `(1,)`, that counts the steps from 0, where the rule learned numbers for each."""


def next_name(name: str) -> str:
    """The name of adapt.onnx's output for its input `name`, one inner step on: `v` becomes `v_next`."""
    return f"{name}_next"


class _Version(BaseModel):
    format_version: NonNegativeInt


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Read manifest.json of the bundle that `where` names in errors.

    Raises:
        BundleError: If it is malformed, or of another format version.
    """
    try:
        version = _Version.model_validate_json(raw).format_version
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{where}: {MANIFEST} has format version {version}, but this runtime reads {FORMAT_VERSION}; "
                f"{'update msr-runtime' if version > FORMAT_VERSION else 'export again'}"
            )
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BundleError(f"{where}: {MANIFEST} is malformed at {place}: {first['msg']}") from error
