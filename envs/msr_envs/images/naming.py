"""The name of a family with options: `omniglot`, or `omniglot:ways=20,turned=true`. `load_family` reads such names."""

import inspect
from collections.abc import Mapping


def full_name(family: type, name: str, given: Mapping[str, object]) -> str:
    """Return the name with every option that is not its default, so that figures under other options differ in name."""
    defaults = inspect.signature(family).parameters
    changed = [f"{option}={_text(value)}" for option, value in given.items() if value != defaults[option].default]
    return f"{name}:{','.join(changed)}" if changed else name


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
