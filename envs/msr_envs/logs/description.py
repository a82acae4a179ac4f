"""What a log is made of: the files, the columns, the fields of x and y, the group and the splits, as one value.

A `LogDescription` is read from a small YAML file, or made in Python. It holds words and numbers only. Nothing in it is
ever run.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic import Field as Limits

from msr_envs.logs.needs import require_package
from msr_envs.symmetry import SymmetryGroup, cyclic, dihedral, mirror, product, yaw
from msr_runtime.errors import FamilyError
from msr_runtime.representation import Representation
from msr_runtime.task import Kind

LARGEST = 2**20
"""The largest YAML file that is read, in bytes. A description takes a few hundred."""

Share = Annotated[float, Limits(gt=0, lt=1)]


def _listed(value: Any) -> Any:
    """A single value stands for a list of one."""
    return (value,) if isinstance(value, str | int) else value


def _by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Texts = Annotated[Sequence[str], BeforeValidator(_listed), AfterValidator(tuple), Limits(min_length=1)]
"""One text or several. They are kept as a tuple."""
Numbers = Annotated[Sequence[NonNegativeInt], BeforeValidator(_listed), AfterValidator(tuple), Limits(min_length=1)]
"""One number or several. They are kept as a tuple."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mirror(_Part):
    """One mirror of the body."""

    kind: Literal["mirror"] = "mirror"
    axis: Literal["x", "y", "z"] = "y"
    """The axis that it negates: `y` swaps left and right, `x` front and back."""
    name: str = "mirror"
    """The name by which fields speak of it."""

    def group(self) -> SymmetryGroup:
        """Return the group."""
        return mirror(self.axis, self.name)


class Turns(_Part):
    """The turns by whole parts of a circle, and with `dihedral` the left-right mirror too."""

    kind: Literal["cyclic", "dihedral"]
    order: PositiveInt
    """How many turns make a full one."""

    def group(self) -> SymmetryGroup:
        """Return the group."""
        return (cyclic if self.kind == "cyclic" else dihedral)(self.order)


class Yaw(_Part):
    """Every turn about the vertical axis."""

    kind: Literal["yaw"] = "yaw"
    samples: PositiveInt = 8
    """How many evenly spaced turns stand for all of them, where matrices are needed."""
    mirrored: bool = False
    """Whether the left-right mirror belongs to the group."""

    def group(self) -> SymmetryGroup:
        """Return the group."""
        return yaw(self.samples, self.mirrored)


OneGroup = Annotated[Mirror | Turns | Yaw, Discriminator("kind"), BeforeValidator(_by_name)]
"""A group. Text stands for one without more: `mirror` or `yaw`."""


def _groups(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


class LogField(_Part):
    """A field of x or y, made of columns.

    The columns are first compared (`difference`), then turned (`body_frame`), then taken apart (`cosine_sine`).
    """

    name: str
    """The field's name."""
    columns: Texts | None = None
    """The columns that it holds, in order, by name or by pattern: `joint_*`. A column that holds a list is all its
    numbers, and `state[2]` is one of them. Without it, the column of the field's name."""
    unit: str = "1"
    """The unit of the numbers as they become: those of `cosine_sine` have none."""
    low: float | None = None
    """The smallest value expected. Without it, the data says."""
    high: float | None = None
    """The largest value expected. Without it, the data says."""
    kind: Kind = "other"
    """What the numbers are."""
    wraps: PositiveFloat | None = None
    """One full turn, if the columns are angles that jump from one end to the other: 360 for degrees."""
    names: Annotated[Sequence[str], AfterValidator(tuple)] = ()
    """Names of the elements. Without them, those of the columns, if there are several."""
    representation: Representation | None = None
    """How the group acts on the field."""
    lags: Numbers = (0,)
    """How many rows before the present the values are taken, for x only. Each lag becomes a field of its own: `speed`
    for 0, and `speed_lag2` for 2."""
    difference: bool = False
    """Take the change. In y, it is the value at the horizon minus the present one. In x, it is the value minus the one
    of the row before. Changes of angles are the short way round."""
    cosine_sine: bool = False
    """Replace each angle by its cosine and its sine, which do not jump. The angles are in rad, or `wraps` says what a
    full turn is."""
    body_frame: str | None = None
    """The column with the yaw in rad, counter-clockwise. Each pair of columns is a vector x, y in the world's frame,
    and is turned by minus the present yaw: into the frame in which a symmetry of the body acts."""

    @model_validator(mode="after")
    def _check(self) -> "LogField":
        if len(set(self.lags)) < len(self.lags):
            raise ValueError(f"field '{self.name}': lags holds a number twice; name each once")
        if self.cosine_sine and (self.difference or self.body_frame):
            raise ValueError(
                f"field '{self.name}': cosine_sine cannot be combined with difference or body_frame; make two fields"
            )
        return self

    def sources(self) -> tuple[str, ...]:
        """Return the names and patterns of its columns."""
        return tuple(self.columns or (self.name,))


Fields = Annotated[Sequence[LogField], AfterValidator(tuple), Limits(min_length=1)]
"""The fields of one side. They are kept as a tuple."""


class LogSplit(_Part):
    """Which tasks belong to which split."""

    validation: Share | Texts = 0.1
    """The share of the tasks that validate, at least one, or their names or patterns of names."""
    test: Share | Texts = 0.1
    """The same for the tests."""
    train: Texts | None = None
    """Names or patterns of the tasks to train on. Without them, all others. With them, the rest is left out."""


class LogDescription(_Part):
    """A family made of logs.

    Example:
        >>> from msr_envs.logs import LogDescription, LogField
        >>> description = LogDescription(
        ...     files="logs/*.csv",
        ...     time="time",
        ...     horizon=1,
        ...     inputs=[LogField(name="speed", columns=["speed_left", "speed_right"], unit="m/s")],
        ...     outputs=[LogField(name="yaw_rate", unit="rad/s")],
        ...     shortest=128,
        ... )

    """

    files: Texts
    """The files, as paths or patterns such as `logs/*.csv`, or the folder of a LeRobot data set."""
    inputs: Fields
    """The fields of x, in order."""
    outputs: Fields
    """The fields of y, in order."""
    name: str = ""
    """The family's name. Without it, the name of the YAML file without its ending."""
    drive: str | None = None
    """The column that says to which drive a row belongs. Without it, each file is one drive, and each episode of a
    LeRobot data set."""
    task: str | None = None
    """The column that groups drives into tasks, such as the terrain or the robot. Without it, each drive is a task."""
    time: str | None = None
    """The column of the time in s. A step longer than `largest_step` is a dropout."""
    largest_step: PositiveFloat | None = None
    """The longest step of the time that is no dropout, in s. Without it, twice the usual step."""
    rate_hz: PositiveFloat | None = None
    """The rate of the rows in Hz. Without it, the time says, or the LeRobot data set."""
    horizon: NonNegativeInt = 0
    """How many rows after x its y stands. 0: both stand in one row."""
    query: Literal["after", "anywhere"] = "after"
    """Where queries come from. `after`: the support is a stretch of consecutive samples, and the queries follow it, as
    on the robot. `anywhere`: both are drawn from the whole task at random."""
    gap: NonNegativeInt = 0
    """Rows between what the support has seen and the first query. Needs `query: after`."""
    shortest: PositiveInt = 2
    """Samples that a drive needs. Drives with fewer are left out, and named."""
    split: LogSplit = LogSplit()
    """Which tasks belong to which split."""
    symmetry: Annotated[Sequence[OneGroup], BeforeValidator(_groups), AfterValidator(tuple)] = ()
    """The group of the body; several are a product. Every field then needs a `representation`."""
    loss: Literal["mse", "huber"] = "mse"
    """The loss."""

    @field_validator("loss", mode="before")
    @classmethod
    def _refuse_labels(cls, loss: Any) -> Any:
        if loss == "cross_entropy":
            raise ValueError(
                "cross_entropy needs labels, but a log is read as numbers, and no column is one of labels: consecutive "
                "rows mostly have one label, so that a support set would show one class. Write a .npz file with x "
                "(tasks, examples, numbers) and y (tasks, examples) of whole numbers from 0 on, in which each task "
                "has examples of every class"
            )
        return loss

    @model_validator(mode="after")
    def _check(self) -> "LogDescription":
        for field in self.outputs:
            if field.lags != (0,):
                raise ValueError(f"field '{field.name}': lags belong to inputs; for an output, the horizon says when")
            if field.difference and not self.horizon:
                raise ValueError(
                    f"field '{field.name}': difference is the change up to the horizon, but horizon is 0: set it to 1 "
                    "or more"
                )
        if self.gap and self.query == "anywhere":
            raise ValueError(f"gap is {self.gap}, but queries come from anywhere: leave out gap, or say query: after")
        return self

    def symmetry_group(self) -> SymmetryGroup | None:
        """Return the group of the body. None if nothing is said of it."""
        groups = [each.group() for each in self.symmetry]
        return product(*groups) if len(groups) > 1 else next(iter(groups), None)


def read_description(path: Path) -> LogDescription:
    """Read a description from a YAML file.

    Raises:
        FamilyError: PyYAML is not installed, or the file is missing, is no YAML, or holds something else than
            `LogDescription` says. The message names the entry.
    """
    yaml = require_package("yaml", "a YAML file")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise FamilyError(f"log description '{path}' cannot be read ({error}); correct the path") from error
    if len(text) > LARGEST:
        raise FamilyError(f"log description '{path}' is larger than {LARGEST} bytes, so it is something else")
    try:
        if (twice := _twice(yaml.compose(text, yaml.SafeLoader), set())) is not None:
            raise FamilyError(f"log description '{path}': the entry '{twice}' stands twice in one place; leave one out")
        read = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        raise FamilyError(f"log description '{path}' is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(read, dict):
        raise FamilyError(
            f"log description '{path}' holds {type(read).__name__}, but entries such as `files: logs/*.csv` are wanted"
        )
    try:
        return LogDescription.model_validate({"name": path.stem} | read)
    except ValidationError as error:
        raise FamilyError(f"log description '{path}': {_faults(error)}") from error


def _twice(node: Any, seen: set[int]) -> str | None:
    """Return a key that a mapping of the YAML holds twice: YAML would keep the last one in silence."""
    if id(node) in seen or not isinstance(getattr(node, "value", None), list):
        return None
    seen.add(id(node))
    pairs = [each if isinstance(each, tuple) else (None, each) for each in node.value]
    keys = [key.value for key, _ in pairs if key is not None and isinstance(key.value, str)]
    found = [key for key in keys if keys.count(key) > 1] + [_twice(value, seen) for _, value in pairs]
    return next((key for key in found if key is not None), None)


def _faults(error: ValidationError) -> str:
    """Return what is wrong, by entry. An unknown entry is answered with those that exist."""
    found = []
    # a misspelled entry is missing too: the one that is unknown tells more
    errors = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    for each in errors[:3]:
        *place, last = ["", *(str(part) for part in each["loc"])]
        where = ".".join([*place[1:], last])
        if each["type"] == "extra_forbidden":
            model = LogField if place[1:2] and place[1] in ("inputs", "outputs") else LogDescription
            model = LogSplit if place[1:2] == ["split"] else model
            close = get_close_matches(last, model.model_fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(model.model_fields)}"
            found.append(f"the entry '{where}' is unknown; {hint}")
        elif each["type"] == "missing":
            found.append(f"the entry '{where}' is missing")
        else:
            found.append(f"{where or 'it'}: {each['msg'].removeprefix('Value error, ')}")
    return "; ".join(found)
