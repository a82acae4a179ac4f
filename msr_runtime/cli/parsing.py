"""Rules for arguments of the commands, in place of tyro's own, whose messages name Python types and not options."""

import dataclasses
import functools
import itertools
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from msr_runtime.files import local_path


def complete(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the value that an option has when it stands alone: `--resume` is `--resume yes`."""
    full = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        full.append(argument)
        if argument in ALONE and following not in ALONE[argument]:
            full.append(ALONE[argument][0])
    return full


ALONE = {"--resume": ("yes", "auto", "no")}
"""Options whose value may be left out: the values, the one that is then meant first."""


def plain_parsing(arguments: Sequence[str] = ()) -> ConstructorRegistry:
    """Return the rules of all commands.

    Settings that are parsed with them know which of their options `arguments` give: `model_fields_set`.
    """
    registry = ConstructorRegistry()
    registry.primitive_rule(_number)
    registry.primitive_rule(_path)
    registry.primitive_rule(_optional)
    registry.struct_rule(functools.partial(_settings, given=frozenset(map(_field, arguments))))
    return registry


def _field(argument: str) -> str:
    """The field that an option sets: `--settings.no-augment` and `--settings.augment=x` both set `augment`."""
    return argument.partition("=")[0].rpartition(".")[2].replace("-", "_").removeprefix("no_")


def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type not in _NUMBERS:
        return None
    kind, (metavar, wanted) = info.type, _NUMBERS[info.type]

    def parse(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"{words[0]!r} is given, but {wanted} is wanted") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, kind) or (kind is float and isinstance(value, int)),
        str_from_instance=lambda value: [str(value)],
    )


_NUMBERS = {int: ("INT", "a whole number"), float: ("FLOAT", "a number")}


def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Refuse addresses in place of paths: `s3://...` would become a folder."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: local_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Parse an option that may be left out as one that may not. `None` stands for no number."""
    parts = [part for part in get_args(info.type) if part is not types.NoneType]
    if get_origin(info.type) not in (Union, types.UnionType) or len(parts) != 1 or len(get_args(info.type)) == 1:
        return None
    part = PrimitiveTypeInfo.make(parts[0], set(info.markers))
    inner = ConstructorRegistry.get_primitive_spec(part)
    if not isinstance(inner, PrimitiveConstructorSpec):
        return None

    def parse(words: list[str]) -> Any:
        return None if part.type in _NUMBERS and words == ["None"] else inner.instance_from_str(words)

    return dataclasses.replace(
        inner,
        instance_from_str=parse,
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
    )


def _settings(info: StructTypeInfo, given: frozenset[str]) -> StructConstructorSpec | None:
    """Name each option that has a wrong value, and what is wanted, in place of pydantic's own report."""
    if not (isinstance(info.type, type) and issubclass(info.type, BaseModel)) or info.markers is _ASKED:
        return None
    # asked again for tyro's own rule: the marker keeps this one from answering
    spec = ConstructorRegistry.get_struct_spec(dataclasses.replace(info, markers=_ASKED))
    if not isinstance(spec, StructConstructorSpec):
        return None

    def instantiate(**values: Any) -> Any:
        try:
            made = spec.instantiate(**values)
            return made.model_construct(_fields_set=given & type(made).model_fields.keys(), **dict(made))
        except ValidationError as error:
            # One error per option. An option that may have one of two types has an error of each: the one of the other
            # type comes first here, so that it is replaced.
            found = sorted(error.errors(include_url=False), key=lambda fault: not fault["type"].endswith("_type"))
            faults = {fault["loc"][:1]: fault for fault in found}
            raise ValueError("; ".join(map(_sentence, faults.values()))) from error

    fields = tuple(dataclasses.replace(field, helptext=_paragraph(field.helptext)) for field in spec.fields)
    return dataclasses.replace(spec, instantiate=instantiate, fields=fields)


def _paragraph(text: Any) -> str | None:
    """Join the lines of a docstring, which tyro would keep: the help wraps them to the terminal's width."""
    text = text() if callable(text) else text
    return text and " ".join(text.split())


_ASKED: tuple[Any, ...] = (object(),)


def _sentence(error: Any) -> str:
    if not error["loc"]:  # a rule about several options at once, whose words name them
        return error["msg"].removeprefix("Value error, ")
    name = str(error["loc"][0]).replace("_", "-")
    return f"{name} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
