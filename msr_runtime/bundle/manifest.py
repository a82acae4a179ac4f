"""The manifest of a bundle: one JSON file that describes it. The robot reads it before every other listed file."""

import math
import re
from itertools import pairwise
from typing import Any, Self

from pydantic import (
    BaseModel,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic import Field as Bounded
from pydantic_core import from_json

from msr_runtime.bundle.familiarity import Familiarity
from msr_runtime.bundle.frozen import Count, Frozen, Size
from msr_runtime.bundle.input_faults import MOST_INPUTS
from msr_runtime.bundle.rejection import Rejection
from msr_runtime.bundle.rounding import Rounding
from msr_runtime.bundle.signing import SIGNATURE
from msr_runtime.bundle.structure import Structure
from msr_runtime.errors import BundleError
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field, Loss, output_shape, sample_shape

FORMAT_VERSION = 7
"""The format version that is written."""
OLDEST_FORMAT = 2
"""The oldest format version that can be read. In it, the field `normalization` is called `normalisation`."""
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
# Without separators and leading dots, a name cannot point outside the folder.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_STEPS = 10_000  # inner steps of one adaptation
_MAX_FILES = 32  # each of them is read into memory
_MAX_NUMBERS = 2**24  # of one x or y; an image of 4096 x 4096
_GRAPH_NAMES = frozenset(
    {"x", "y", "v", "v_next", "loss", "loss_next", "losses", "support_x", "support_y", "step", "sums", "samples"}
)
_RECURSIVE_NAMES = frozenset(
    {"v_linearized", "rows", "decays", "new_rows", "innovation", "variance", "nis", "epistemic", "total"}
    | {"first_x", "first_y", "first_keep"}
)


class Weight(Frozen):
    """One folded weight. It is an input of every graph. adapt.onnx or update.onnx also returns what follows it."""

    name: str
    """The weight's name in the graphs."""
    shape: tuple[PositiveInt, ...]
    """The weight's shape."""


class Parity(Frozen):
    """How closely ONNX Runtime and torch agreed on support sets and queries, measured when the bundle was written."""

    max_relative_error: Size
    """The largest error seen, relative to the largest value that torch computed."""
    tolerance: float = Bounded(gt=0, lt=1)
    """The largest relative error allowed, at the export and in the self-test at load."""
    shots: tuple[PositiveInt, ...]
    """The sizes of the support sets that were compared."""
    batches: tuple[PositiveInt, ...]
    """The batch sizes that were compared."""
    steps: tuple[PositiveInt, ...]
    """The numbers of inner steps that were compared."""


class ShotFigures(Frozen):
    """What adapting to clean validation tasks led to, with one number of support samples."""

    shots: Count
    """Support samples per task."""
    usual_spread: Size
    """The largest spread of x in the support sets that are drawn as in meta-training. The spread is the variance of
    each normalized number over the samples, averaged over the numbers. A support set that is not wider counts as
    usual."""
    usual_loss: Size
    """The largest support loss after adapting, on normalized outputs, among the adaptations to usual support sets that
    helped."""
    usual_move: Size
    """The largest move of v among the same adaptations: `|v - v0| / |v0|`, or `|v|` where `v0` is zero."""
    largest_loss: Size
    """The largest support loss among all adaptations that helped. Wide support sets fit less closely."""
    largest_move: Size
    """The largest move of v among all adaptations that helped."""
    median_error: Size
    """The median error after adapting. It is relative: 1 is the error of always predicting zero. For a classifier it is
    the share of wrong labels. Where an adaptation is not finite, the error of `v0` counts."""
    high_error: Size
    """The 95th percentile of the same errors: one task in twenty is worse."""
    worse: float = Bounded(ge=0, le=1)
    """The share of tasks on which the adapted network was worse than the network at `v0`."""


class Validation(Frozen):
    """What adapting to clean validation tasks led to, measured in torch when the bundle was written.

    The robot takes its limits from here: see `UpdateGuard`.
    """

    tasks: PositiveInt
    """The number of tasks. The support sets come from the support set's own region and from the last query set."""
    error_at_v0: Size
    """The median error before adapting, in the same unit as `median_error`."""
    by_shots: tuple[ShotFigures, ...] = Bounded(min_length=1)
    """The figures by number of support samples, smallest number first."""


class Recursion(Frozen):
    """How a bundle with the rule `recursive` learns sample by sample. See `AdaptiveModel.update`."""

    memory: int = Bounded(ge=1, le=2**16)
    """How many samples count in the covariance of v: those that say most about v. The others count in v alone."""
    relinearize: int = Bounded(ge=0, le=2**10)
    """After 2, 3, 4, 6, 8, 12 samples and so on, up to this number, all samples so far are linearized again, at the v
    of that moment. 0: no sample is linearized again."""
    tick: float = Bounded(gt=0, allow_inf_nan=False)
    """The time between two samples of meta-training, in s: 1 / `rate_hz`. It is 1 where the data has no rate."""
    tau: float | None = Bounded(gt=0, allow_inf_nan=False)
    """The time constant, in s, with which v and its covariance return to what they were before the first sample. None:
    nothing is forgotten."""
    gate: float | None = Bounded(gt=0, allow_inf_nan=False)
    """A number of expected standard deviations. A larger error may be an outlier, and moves v only as much as an error
    of this size. None: every error counts in full."""


class TrainingSamples(Frozen):
    """What the samples of meta-training were like. The numbers are settings of the run (`TrainSettings`)."""

    augmented: bool
    """Whether the queries were moved by random group elements, so that the symmetry could be learned."""
    fewest_shots: PositiveInt
    """The smallest number of support samples per task. The largest number is `Manifest.shots`."""
    noise: Size
    """Standard deviation of the noise on y of the support samples, on normalized outputs."""
    outliers: float = Bounded(ge=0, le=1)
    """Share of the support samples whose y was wrong."""
    outlier_size: Size
    """How far off a wrong y was, on normalized outputs."""


class Provenance(Frozen):
    """The origin of the bundle."""

    config_digest: str
    """sha256 of the training configuration, in hex."""
    versions: dict[str, str]
    """Versions of the packages at the export, by package name."""
    seed: int
    """The seed of the meta-training."""
    samples: TrainingSamples | None = None
    """What the samples of meta-training were like. None if it is not known, as in bundles of format version 3 and
    older."""
    created: str | None = None
    """Time of the export, ISO 8601. The exporter leaves it out, so that one checkpoint always gives the same bytes."""


class Manifest(Frozen):
    """The description of a bundle: everything that a robot must know before it runs the graphs."""

    format_version: int = FORMAT_VERSION
    """The version of the bundle's format."""
    name: str
    """The name of the task family."""
    method: str
    """The method of meta-training, for example `msr-full` or `anil-conv`."""
    files: dict[str, str] = {}
    """sha256 of each file, in hex, by file name. `write_bundle` fills it in."""
    inputs: tuple[Field, ...]
    """The fields that are flattened and joined, in this order, into the network's input."""
    outputs: tuple[Field, ...]
    """The fields that are flattened and joined, in this order, in the network's output."""
    normalization: Normalization
    """The scaling that the graphs already apply to their inputs and outputs. It is here for reading only."""
    loss: Loss
    """The loss that an inner step reduces."""
    filter_parameters: PositiveInt
    """The length of the filter parameters `v`."""
    weights: tuple[Weight, ...]
    """The folded weights, in the order of the graphs' inputs."""
    shots: PositiveInt
    """Support samples per task in meta-training."""
    inner_steps: int = Bounded(ge=1, le=MOST_STEPS)
    """Inner steps per adaptation in meta-training. On the robot it is the default."""
    rule: str
    """The rule: `gradient`, `gauss-newton`, `ridge`, `recursive` (sample by sample), or `class-means` (v becomes the
    class means)."""
    learned: dict[str, tuple[float, ...]]
    """Numbers that the rule learned, for example its inner rates. The graphs hold them as constants."""
    recursion: Recursion | None = None
    """How the rule `recursive` learns sample by sample. None for other rules."""
    input_limit: float | None = Bounded(default=None, gt=0, allow_inf_nan=False)
    """How far outside its bounds a value may be, as a multiple of its field's range `high - low`. What is further
    outside is refused: no working sensor is that far off. None sets no limit, as in bundles of format version 3 and
    older."""
    rate_hz: float | None = Bounded(gt=0, allow_inf_nan=False)
    """The control rate of the training simulation, in Hz. None if the data has no rate."""
    opset: PositiveInt
    """The version of the ONNX operators in the graphs."""
    ir_version: PositiveInt
    """The version of the ONNX file format of the graphs."""
    oldest_onnxruntime: str
    """The oldest version of ONNX Runtime that loads the graphs, for example `1.18`."""
    group: str | None
    """The symmetry group of the task family, for example `C16`. None if it is not known."""
    equivariance_error: float | None
    """Relative equivariance error of the network at `v0`. Zero means exactly equivariant. None without a group."""
    parity: Parity
    """The agreement of ONNX Runtime with torch."""
    rounding: Rounding | None = None
    """How U and the layers that do not adapt are stored, and what that costs. None: as float32, and nothing was
    measured, as in bundles that are older than this field."""
    structure: Structure | None = None
    """Which rows and columns of U were left out to save work, and what that costs. None: U is as it was trained."""
    validation: Validation | None = None
    """What adapting to clean tasks led to. None if it was not measured, as in bundles of format version 3 and older."""
    familiarity: Familiarity | None = None
    """How much the samples of clean tasks surprise the rule `recursive`. None for other rules."""
    rejection: Rejection | None = None
    """How far images are from the prototypes of classes. None for other rules than `class-means`."""
    provenance: Provenance
    """The origin of the bundle."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for side in ("inputs", "outputs", "weights"):
            names = [part.name for part in getattr(self, side)]
            if not names or len(set(names)) < len(names):
                raise ValueError(
                    f"{side} are named {names}, but at least one is wanted, and no name may stand there twice"
                )
        weights = {weight.name for weight in self.weights}
        reserved = _GRAPH_NAMES | (_RECURSIVE_NAMES if self.recursion else frozenset())
        if taken := (reserved | set(map(next_name, weights))) & weights:
            raise ValueError(
                f"a weight is named '{min(taken)}', but that name belongs to another input or output of the graphs: "
                "rename the weight"
            )
        if self.recursion and self.inner_steps > 1:
            raise ValueError(
                f"inner_steps is {self.inner_steps}, but the rule '{self.rule}' takes each sample once, so 1 is wanted"
            )
        if self.recursion and self.loss == "cross_entropy":
            raise ValueError("the rule filters numbers, but the loss is 'cross_entropy', of classes")
        shapes = sample_shape(self.inputs), output_shape(self.outputs, self.loss)
        if (size := max(map(math.prod, shapes))) > _MAX_NUMBERS:
            raise ValueError(f"a sample has {size:.3g} numbers on one side, but at most {_MAX_NUMBERS} are allowed")
        if wrong := self.normalization.unfit(*shapes):
            raise ValueError(f"the normalization does not fit the fields: {wrong}")
        measured = [each.shots for each in self.validation.by_shots] if self.validation else []
        if any(next_one <= one for one, next_one in pairwise(measured)):
            raise ValueError(
                f"validation.by_shots has the shots {measured}, but each must be larger than the one before"
            )
        if self.familiarity and self.familiarity.faults and (len(shapes[0]) > 1 or math.prod(shapes[0]) > MOST_INPUTS):
            raise ValueError(
                f"familiarity.faults is there, but x has the shape {shapes[0]}, and its numbers are watched only if it "
                f"is a vector of at most {MOST_INPUTS}"
            )
        if self.rejection and (self.loss != "cross_entropy" or self.filter_parameters % shapes[1][0]):
            raise ValueError(
                f"rejection is of prototypes of {shapes[1][0]} classes, but the loss is '{self.loss}' and v has "
                f"{self.filter_parameters} numbers"
            )
        if len(self.files) > _MAX_FILES:
            raise ValueError(f"{len(self.files)} files are listed, but at most {_MAX_FILES} are allowed")
        for name, digest in self.files.items():
            if not _FILE_NAME.fullmatch(name) or name in (MANIFEST, MANIFEST_DIGEST, SIGNATURE):
                raise ValueError(
                    f"file name {name!r} is not a plain name inside the folder: use 1 to 100 letters, digits, '.', '_' "
                    f"or '-', a letter or digit first, and not {MANIFEST}, {MANIFEST_DIGEST} or {SIGNATURE}"
                )
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"the digest of '{name}' is {digest!r}, but 64 lower-case hex digits are wanted")
        return self

    @property
    def weight_entries(self) -> int:
        """How many numbers the folded weights hold together."""
        return sum(math.prod(weight.shape) for weight in self.weights)

    @property
    def belief_shape(self) -> tuple[int, int]:
        """Rows and columns of what the rule `recursive` keeps of its samples: `(memory * J, K)`; else `(0, K)`."""
        memory = self.recursion.memory if self.recursion else 0
        return memory * math.prod(output_shape(self.outputs, self.loss)), self.filter_parameters

    def to_bytes(self) -> bytes:
        """Return the bytes of manifest.json: the manifest as indented JSON."""
        return self.model_dump_json(indent=2).encode() + b"\n"


LOSSES = "losses"
"""Name of the output of loss.onnx that holds the loss of each sample, `(samples,)`.

Bundles of format version 4 and older do not have it."""
LOSS_AFTER = "loss_next"
"""Name of the output of adapt.onnx that holds the support loss after the step.

The graph has this output only if it is much cheaper there than by a run of loss.onnx, as for class means. Bundles of
format version 6 and older do not have it."""
STEP = "step"
"""Name of the input of adapt.onnx that holds the index of the inner step, from 0, int64 `(1,)`.

The graph has this input only if its rule learned separate numbers for each step."""


def next_name(name: str) -> str:
    """Return the name of the output of adapt.onnx, or of update.onnx, that belongs to its input `name`.

    The output holds the tensor after one inner step or update. For example, `v` becomes `v_next`.
    """
    return f"{name}_next"


class _Version(BaseModel):
    format_version: NonNegativeInt


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Parse the bytes of manifest.json. An older format that can still be read is converted to the present one.

    Args:
        raw: The bytes of manifest.json.
        where: The name of the bundle in error messages.

    Raises:
        BundleError: If the manifest is malformed, or its format version cannot be read.
    """
    try:
        document = from_json(raw)
        # The version comes first: another format may have any fields.
        version = _Version.model_validate(document).format_version
        if not OLDEST_FORMAT <= version <= FORMAT_VERSION:
            raise BundleError(
                f"{where}: {MANIFEST} has format version {version}, but this runtime reads {OLDEST_FORMAT} to "
                f"{FORMAT_VERSION}; {'update msr-runtime' if version > FORMAT_VERSION else 'export again'}"
            )
        return Manifest.model_validate(_upgrade(document, version))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BundleError(
            f"{where}: {MANIFEST} is malformed at {place}: {first['msg']}; it was edited, or another program wrote it: "
            "export again"
        ) from error
    except ValueError as error:
        raise BundleError(
            f"{where}: {MANIFEST} is malformed: it is not JSON ({error}); it is damaged or was edited: copy or export "
            "the bundle again"
        ) from error


def _upgrade(document: dict[str, Any], version: int) -> dict[str, Any]:
    """Return the document in the present format."""
    if version == FORMAT_VERSION:
        return document
    renamed = {"normalization" if key == "normalisation" else key: value for key, value in document.items()}
    if isinstance(recursion := renamed.get("recursion"), dict):
        renamed["recursion"] = {"relinearize": 0} | recursion
    return renamed | {"format_version": FORMAT_VERSION}
