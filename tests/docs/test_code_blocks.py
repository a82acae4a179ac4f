"""Every code block of README.md and docs/ is run, or says in a comment before it why it is not. No page is long.

A comment `<!-- run: ... -->` before a block changes how it is run: `no, REASON` leaves it out, `small` trains with few
steps and a small network, `exit N` wants another exit code than 0. The blocks of a page run in order. Python blocks
share their variables; an `invisible-code-block: python` comment sets up what a reader would have.
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from numpy.lib.npyio import NpzFile
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, RawFencedCodeBlockLexer

from msr_runtime.cli.command import run

ROOT = Path(__file__).parents[2]
GENERATED = (
    "docs/reference/api/",
    "docs/reference/commands/",
    "docs/reference/manifest.md",
    "docs/reference/metrics.md",
)
RUN = ("python", "bash", "console")
SHOWN = ("text", "json", "toml", "yaml", "ini", "dockerfile", "bibtex", "c")
SECONDS = 120
LONGEST = 150  # lines of a page, without code and tables

_FENCES = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))
_INVISIBLE = DirectiveInHTMLCommentLexer(directive="invisible-code-block", arguments="python")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!--\s*run:\s*(?P<how>[^>]*?)\s*-->\s*\Z")
_TRAIN = re.compile(r"\bmsr train\b(?:\\\n|[^#\n;|&])*")
_WORDS = r"([^\n\\#|&;<>$*`']|\\\n|'[^'\n]*')+\n?"
_NEEDS_TORCH = re.compile(rf"(msr (train|export|evaluate|info) {_WORDS}|python \w+\.py\n)+")
_FILE = re.compile(r"cat > \S+ <<'EOF'\n.*?^EOF\n", re.MULTILINE | re.DOTALL)
_HOW = re.compile(r"no, \S.{5,}|small|exit [1-9]\d*", re.DOTALL)


def pages() -> list[str]:
    """The pages that people write, as paths from the repository's root."""
    found = (path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
    return ["README.md", *(page for page in found if not page.startswith(GENERATED))]


def marks(document: Document, region: Region) -> str:
    """What the comment before the block says, or nothing."""
    mark = _MARK.search(document.text[: region.start])
    return mark["how"] if mark else ""


def run_here(script: str) -> tuple[int, str]:
    """Run commands of `msr` and programs, line by line, in this process: a new one would spend seconds on torch.

    Returns:
        The exit code of the last one that ran, and what all of them printed.
    """
    code, said = 0, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for line in script.replace("\\\n", " ").splitlines():
            command, *arguments = shlex.split(line)
            if code := run(arguments) if command == "msr" else run_program(arguments[0]):
                break
    return code, said.getvalue()


def run_program(file: str) -> int:
    """Run a program of the current folder as `python FILE` does, which can import the modules beside it."""
    known, here = set(sys.modules), str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning of a library is no fault of the page
            runpy.run_path(file, run_name="__main__")
    except Exception:  # noqa: BLE001  as Python does where a program fails
        traceback.print_exc()
        return 1
    finally:
        sys.path.remove(here)
        for name in set(sys.modules) - known:  # another page may have other modules of these names
            if (sys.modules[name].__dict__.get("__file__") or "").startswith(here):
                del sys.modules[name]
    return 0


def fences(document: Document) -> Iterator[Region]:
    """Every fenced block that is code, and not a directive of the site such as a note."""
    return (region for region in _FENCES(document) if not region.lexemes["language"].startswith("{"))


class Page:
    """A page that is parsed into blocks which run in `folder`."""

    def __init__(self, page: str, folder: Path, small: list[str]) -> None:
        """Read the page."""
        self._folder, self._small = folder, small
        self.document = Document.parse(str(ROOT / page), self._fenced, self._invisible)

    def _fenced(self, document: Document) -> Iterator[Region]:
        for region in fences(document):
            language, how = region.lexemes["language"].strip(), marks(document, region)
            if language not in RUN or how.startswith("no"):
                continue
            region.parsed = region.lexemes["source"]
            region.evaluator = PythonEvaluator() if language == "python" else self._shell
            yield region

    def _invisible(self, document: Document) -> Iterator[Region]:
        for region in _INVISIBLE(document):
            region.parsed, region.evaluator = region.lexemes["source"], PythonEvaluator()
            yield region

    def _shell(self, example: Example) -> str | None:
        """Run a block with bash; return what went wrong."""
        script, how = example.parsed, marks(self.document, example.region)
        if example.region.lexemes["language"].strip() == "console":  # the lines after `$ ` or, going on, `> `
            script = "\n".join(line[2:] for line in script.splitlines() if line[:2] in ("$ ", "> "))
        if how == "small":
            # after the page's own options, because the last one counts
            script = _TRAIN.sub(lambda command: " ".join([command[0].rstrip(), *self._small, ""]), script)
        wanted = int(how.removeprefix("exit ")) if how.startswith("exit ") else 0
        written = _FILE.match(script)
        commands = script[written.end() :] if written else script
        if _NEEDS_TORCH.fullmatch(commands):
            code, said = self._bash(written[0]) if written else (0, "")
            code, said = run_here(commands) if code == 0 else (code, said)
        else:
            code, said = self._bash(script)
        return None if code == wanted else f"{script}\nexit code {code}:\n{said}"

    def _bash(self, script: str) -> tuple[int, str]:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.mark.parametrize("page", pages())
def test_each_block_is_run_or_says_why_not(page) -> None:
    document = Document((ROOT / page).read_text("utf-8"), page)
    for region in fences(document):
        where = f"{page}:{document.text.count(chr(10), 0, region.start) + 1}"
        language, how = region.lexemes["language"].strip(), marks(document, region)
        assert language in (*RUN, *SHOWN), (
            f"{where}: the language is {language!r}, not one of {RUN} (run) or {SHOWN} (shown)"
        )
        assert not how or _HOW.fullmatch(how), f"{where}: 'run: {how}' is none of 'no, REASON', 'small' and 'exit N'"


@pytest.mark.parametrize("page", [page for page in pages() if page != "README.md"])
def test_a_page_is_no_longer_than_a_reader_likes(page) -> None:
    text = _CODE.sub("", (ROOT / page).read_text("utf-8"))
    prose = [line for line in text.splitlines() if line.strip() and not line.startswith("|")]
    assert len(prose) <= LONGEST, f"{page} has {len(prose)} lines of prose; split it"


@pytest.mark.usefixtures("few_tasks")
@pytest.mark.parametrize("page", pages())
def test_blocks_run(page, folder, small) -> None:
    document = Page(page, folder, small).document
    examples = list(document)
    if not examples:
        pytest.skip("the page has no block to run")
    try:
        for example in examples:
            example.evaluate()
    finally:
        # What a page leaves open would fail a later test.
        for value in document.namespace.values():
            if isinstance(value, NpzFile):
                value.close()
            elif isinstance(value, subprocess.Popen) and value.poll() is None:
                value.kill()
                value.wait()


def test_a_program_that_fails_is_found(folder) -> None:
    """Its modules are those beside it, and what it imported from there is forgotten."""
    (folder / "beside.py").write_text("ANSWER = 42\n")
    (folder / "right.py").write_text("import beside\nprint(beside.ANSWER)\n")
    (folder / "wrong.py").write_text("import beside\nbeside.QUESTION\n")
    assert run_here("python right.py\n") == (0, "42\n")
    code, said = run_here("python right.py\npython wrong.py\npython right.py\n")
    assert code == 1
    assert "has no attribute 'QUESTION'" in said
    assert said.count("42") == 1
    assert "beside" not in sys.modules


def test_a_block_that_fails_is_found(tmp_path, folder, small) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nls runs/demo/bundle\n```\n\n```bash\nls runs/nothing\n```\n")
    first, second = Page(str(page), folder, small).document
    first.evaluate()
    with pytest.raises(AssertionError, match="runs/nothing"):
        second.evaluate()


@pytest.mark.parametrize(
    ("how", "allowed"), [("no, needs Docker", True), ("no", False), ("later", False), ("exit 0", False)]
)
def test_a_block_is_left_out_only_with_a_reason(how, allowed) -> None:
    assert bool(_HOW.fullmatch(how)) is allowed


PAGE = """
<!--- invisible-code-block: python
from pathlib import Path
--->

```python
Path("x.txt").write_text("2")
```

```console
$ grep 2 x.txt
2
```

<!-- run: exit 1 -->

```bash
grep 3 x.txt
```

<!-- run: no, it would fail -->

```bash
false
```
"""


def test_blocks_of_a_page_share_their_variables_and_show_only_prompts(tmp_path, folder, small) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for example in Page(str(page), folder, small).document:
        example.evaluate()
