"""The fields and the JSON schema of `manifest.json`, from the class that reads and writes it."""

import json
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic._internal._repr import display_as_type
from sphinx.pycode import ModuleAnalyzer

from msr_runtime.bundle.manifest import FORMAT_VERSION, OLDEST_FORMAT, Manifest

_PAGE = """\
# Fields of manifest.json

The exporter writes format version {version}. The robot reads versions {oldest} to {version} and refuses every other.

{tables}

## JSON schema

```json
{schema}
```
"""


def pages() -> dict[str, str]:
    """Path below `docs/reference/` to the page's text."""
    models = dict.fromkeys(_with_parts(Manifest))
    schema = json.dumps(Manifest.model_json_schema(), indent=2)
    tables = "\n\n".join(map(_table, models))
    return {"manifest.md": _PAGE.format(version=FORMAT_VERSION, oldest=OLDEST_FORMAT, tables=tables, schema=schema)}


def _with_parts(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model, then each model that its fields hold, however deep inside tuples and unions."""
    yield model
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            annotation = waiting.pop()
            waiting.extend(getattr(annotation, "__args__", ()))
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from _with_parts(annotation)


def _table(model: type[BaseModel]) -> str:
    """A heading, the class's docstring and one row per field, with the text that follows the field in the code."""
    notes = ModuleAnalyzer.for_module(model.__module__).find_attr_docs()
    rows = []
    for name, field in model.model_fields.items():
        kind = display_as_type(field.annotation).replace("|", "\\|")
        note = " ".join(notes.get((model.__name__, name), ())).strip()
        default = "" if field.is_required() else f" Default: `{json.dumps(field.default, default=str)}`."
        rows.append(f"| `{name}` | `{kind}` | {note}{default} |")
    summary = " ".join((model.__doc__ or "").partition("Example:")[0].split())
    header = "| field | type | meaning |\n| --- | --- | --- |"
    return f"## {model.__name__}\n\n{summary}\n\n{header}\n" + "\n".join(rows)
