"""One page per command: what `msr COMMAND --help` prints."""

import contextlib
import io
import os
from unittest import mock

from msr_runtime.cli.command import COMMANDS, run

_PAGE = """\
# msr {name}

{summary}.

```text
$ msr {name} --help
{help}
```
"""

_INDEX = """\
# Commands

`msr COMMAND --help` prints the same text in a terminal.

{rows}

Exit codes: 0 done, 1 a check failed (an update was refused, a signature is wrong, a replay differs), 2 wrong usage or
input, 130 interrupted.

```{{toctree}}
:hidden:

{names}
```
"""


def pages() -> dict[str, str]:
    """Path below `docs/reference/` to the page's text."""
    rows = "\n".join(f"* [`msr {name}`]({name}.md): {summary}" for name, (_, summary) in COMMANDS.items())
    written = {"commands/index.md": _INDEX.format(rows=rows, names="\n".join(COMMANDS))}
    for name, (_, summary) in COMMANDS.items():
        text = _PAGE.format(name=name, summary=summary[0].upper() + summary[1:], help=_help(name))
        written[f"commands/{name}.md"] = text
    return written


def _help(name: str) -> str:
    """The command's own help, as a terminal without colours shows it."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "92", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),  # how a parser ends after it has printed the help
    ):
        run([name, "--help"])
    text = "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
    if "usage" not in text.lower():
        raise RuntimeError(f"`msr {name} --help` printed no usage but {text!r}")
    return text
