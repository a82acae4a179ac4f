"""Write every published table and number anew from the stored results: `make tables`.

* Between `<!-- table: NAME -->` and `<!-- end -->` stands a table of `tables`, and where its figures come from.
* Between `<!-- picture: NAME -->` and `<!-- end -->` stands a picture of `pictures.py`, light or dark as the page is.
* Between `<!-- value: ... -->` and `<!-- /value -->` stands one number, inside a sentence. A page with such numbers and
  without their table says where they come from between `<!-- measured -->` and `<!-- end -->`. A value never begins a
  line: Markdown would end the paragraph there.

`--check` writes nothing and exits with 1 if a page differs.
"""

import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

import tyro
from pictures import RESULT_OF, TEXTS
from store import RESULTS, ROOT, Result, digest_of, is_current, read_result
from tables import PENDING, TABLES, VALUES, Lines

from msr_runtime.files import write_atomically

_TABLE = re.compile(r"<!-- table: (?P<name>[^>]*?) -->\n.*?<!-- end -->", re.DOTALL)
_VALUE = re.compile(r"<!-- value: (?P<name>[^>]*?) -->.*?<!-- /value -->", re.DOTALL)
_MEASURED = re.compile(r"<!-- measured -->\n.*?<!-- end -->", re.DOTALL)
_PICTURE = re.compile(r"<!-- picture: (?P<name>[^>]*?) -->\n.*?<!-- end -->", re.DOTALL)
_NAMES = {
    "python": "Python",
    "onnxruntime": "ONNX Runtime",
    "numpy": "NumPy",
    "mujoco": "MuJoCo",
    "jax": "JAX",
    "ai-edge-litert": "LiteRT",
    "iree-base-runtime": "IREE",
}


class PageError(ValueError):
    """A page names a table, a row, a column or a value that does not exist."""


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that may hold tables."""
    return [root / "README.md", root / "benchmarks" / "README.md", *sorted((root / "docs").rglob("*.md"))]


@dataclass
class Renderer:
    """Fills pages from stored results."""

    results: Mapping[str, Result]
    digest: Callable[[tuple[str, ...]], str]
    """The digest of the present code below some roots."""
    used: set[str] = field(default_factory=set)
    """The results that were named by any page."""

    @classmethod
    def of(cls, folder: Path = RESULTS) -> "Renderer":
        """Read every stored result."""
        return cls({path.stem: read_result(path) for path in sorted(folder.glob("*.json"))}, cache(digest_of))

    def page(self, text: str, where: str) -> str:
        """Return a page's text with every table, picture and number written anew.

        Args:
            text: The page as it is.
            where: Its path in the repository.

        Raises:
            PageError: If the page names something that does not exist.
        """
        try:
            if first := re.search(r"^\s*<!-- value: ([^>]*?) -->", text, re.MULTILINE):
                raise PageError(
                    f"value '{first[1]}' begins a line; put a word before it, or Markdown ends the paragraph"
                )
            sources = dict.fromkeys(
                source for match in _VALUE.finditer(text) for source in _value_sources(match["name"])
            )
            text = _TABLE.sub(lambda match: self._table_block(match["name"]), text)
            text = _PICTURE.sub(lambda match: self._picture_block(match["name"], where), text)
            text = _VALUE.sub(lambda match: self._value_block(match["name"]), text)
            return _MEASURED.sub(lambda _: f"<!-- measured -->\n\n{self.measured(*sources)}\n\n<!-- end -->", text)
        except PageError as error:
            raise PageError(f"{where}: {error}") from error

    def measured(self, *names: str) -> str:
        """Say where the figures of these results come from: one line for all that were measured alike."""
        commands: dict[str, list[str]] = {}
        for name in names:
            result = self._result(name)
            command = result["command"]
            commands.setdefault(self._measured(result), []).append(f"`{command[command.index('benchmarks/') :]}`")
        return "\n".join(f"* {measured} By {', '.join(scripts)}." for measured, scripts in commands.items())

    def lines(self, name: str) -> Lines:
        """Return a table's lines."""
        if name not in TABLES:
            raise PageError(f"there is no table '{name}'; benchmarks/tables has {', '.join(TABLES)}")
        table = TABLES[name]
        return table.lines(*(self._result(source)["rows"] for source in table.sources))

    def value(self, name: str) -> str:
        """Return one number: a cell of a table, `TABLE | ROW | COLUMN`, or one of `VALUES`."""
        if name in VALUES:
            return VALUES[name].text(*(self._result(source)["rows"] for source in VALUES[name].sources))
        table, row, column = _cell(name)
        lines = self.lines(table)
        for line in lines:
            if next(iter(line.values())) == row:
                if column not in line:
                    raise PageError(f"table '{table}' has no column '{column}'; its columns are {', '.join(line)}")
                return line[column].strip("*")
        raise PageError(f"table '{table}' has no row '{row}'; {'; '.join(next(iter(line.values())) for line in lines)}")

    def _table_block(self, name: str) -> str:
        if name in TABLES and self._pending(*TABLES[name].sources):
            return f"<!-- table: {name} -->\n\n<!-- end -->"
        section = f"{TABLES[name].section}\n\n" if name in TABLES and TABLES[name].section else ""
        measured = self.measured(*(TABLES[name].sources if name in TABLES else ()))
        return f"<!-- table: {name} -->\n\n{section}{as_markdown(self.lines(name))}\n\n{measured}\n\n<!-- end -->"

    def _value_block(self, name: str) -> str:
        return f"<!-- value: {name} -->{self.value(name)}<!-- /value -->"

    def _picture_block(self, name: str, where: str) -> str:
        if name not in TEXTS:
            raise PageError(f"there is no picture '{name}'; benchmarks/pictures.py has {', '.join(TEXTS)}")
        if self._pending(RESULT_OF[name]):
            return f"<!-- picture: {name} -->\n\n<!-- end -->"
        drawn = name in self._result(RESULT_OF[name])["pictures"]
        middle = f"\n{as_picture(name, where)}\n" if drawn else ""
        return f"<!-- picture: {name} -->\n{middle}\n<!-- end -->"

    def _pending(self, *names: str) -> bool:
        return any(name in PENDING and name not in self.results for name in names)

    def _result(self, name: str) -> Result:
        if name not in self.results:
            raise PageError(
                f"there is no benchmarks/results/{name}.json; the script that measures it has not stored it"
            )
        self.used.add(name)
        return self.results[name]

    def _measured(self, result: Result) -> str:
        commit = f"`{result['commit'][:7]}`{' with uncommitted changes' if result['changed'] else ''}"
        if is_current(result, self.digest):
            when = f"Measured at {commit} on {result['date'][:10]}."
            if result["confirmed"]:
                last = result["confirmed"][-1]
                when += f" Confirmed by short runs at `{last['commit'][:7]}` on {last['date'][:10]}."
        else:
            when = f"**Measured at {commit}, before the measured code changed; to be measured again.**"
            when += f" {'Copied from a table of' if result['transcribed'] else 'Measured on'} {result['date'][:10]}."
        versions = ", ".join(f"{_NAMES.get(key, key)} {value}" for key, value in result["versions"].items())
        return f"{when} {result['processor']}, {result['cores']} cores; {versions}."


def as_markdown(lines: Lines) -> str:
    """Write lines as a table in Markdown: names to the left, figures to the right."""
    heads = list(lines[0])
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *(list(line.values()) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def as_picture(name: str, where: str) -> str:
    """Show a picture: as the site's themes know it on its pages, and as GitHub knows it elsewhere.

    Args:
        name: One of `TEXTS`.
        where: The page's path in the repository.
    """
    folder = posixpath.relpath("docs/assets", posixpath.dirname(where) or ".")
    light, dark = (f"{folder}/{name}-{theme}.svg" for theme in ("light", "dark"))
    if where.startswith("docs/"):
        return f"![{TEXTS[name]}]({light}){{.only-light}}\n![{TEXTS[name]}]({dark}){{.only-dark}}"
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'  <img alt="{TEXTS[name]}" src="{light}">\n</picture>'
    )


def _cell(name: str) -> tuple[str, str, str]:
    parts = [part.strip() for part in name.split("|")]
    if len(parts) != 3:
        raise PageError(f"'{name}' is no value: wanted TABLE | ROW | COLUMN, or one of {', '.join(VALUES)}")
    return parts[0], parts[1], parts[2]


def _value_sources(name: str) -> tuple[str, ...]:
    if name in VALUES:
        return VALUES[name].sources
    table = TABLES.get(_cell(name)[0])
    return table.sources if table else ()


def differing(renderer: Renderer) -> Iterator[tuple[Path, str]]:
    """Yield every page that differs from the stored results, with the text that it should have."""
    for page in pages():
        text = page.read_text()
        if (wanted := renderer.page(text, str(page.relative_to(ROOT)))) != text:
            yield page, wanted


def main(check: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False) -> int:
    """Write the pages, or with `--check` only name those that differ."""
    try:
        changed = list(differing(Renderer.of()))
    except PageError as error:
        raise SystemExit(f"error: {error}") from error
    for page, text in changed:
        print(f"{'differs' if check else 'written'}: {page.relative_to(ROOT)}")
        if not check:
            write_atomically(page, text.encode())
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
