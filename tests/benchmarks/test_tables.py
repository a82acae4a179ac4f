"""No published figure can go stale: pages hold what the renderer makes of the stored results, and no other figures."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pictures
import pytest
from render import PageError, Renderer, differing, pages
from store import ROOT, read_result
from tables import PENDING, TABLES, families, orbit_errors
from tables.cells import MISSING
from tables.images import few_shot

FRONT = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "docs" / "index.md"]
RESULT_PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))
NUMBER = re.compile(r"(?<![\w.\-/])\d[\d.,]*")
FIGURE = re.compile(r"\d+\.\d+|\d[\d.,]* ?(?:%|ms\b|µs\b|times\b|cm\b|MiB\b|MB\b)")
ALLOWED = (
    r"Python 3\.\d+",
    r"\b20\d\d\b",  # years of papers
    r"16 range beams",
    r"Apache(-| License )2\.0",
    r"95 % interval",
    r"\b50, 99 or 99\.9 %",
    r"p50|p99\.9|p99",
)
"""What is no measured figure: versions, years, a robot's build, and how statistics are called."""

WAITING = [("table", "families/arm-gauss-newton"), ("picture", "drive-arm"), ("picture", "drive-ant")]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.of()


def test_every_page_holds_what_the_results_say(renderer: Renderer) -> None:
    """Blanks that were never filled in are caught as well."""
    differ = [str(page.relative_to(ROOT)) for page, _ in differing(renderer)]
    assert not differ, f"{differ} differ from benchmarks/results; run: make tables"


def test_every_result_and_every_table_is_on_a_page(renderer: Renderer) -> None:
    text = "\n".join(page.read_text() for page in pages())
    for page in pages():
        renderer.page(page.read_text(), str(page))
    assert renderer.used == set(renderer.results)
    assert set(re.findall(r"<!-- table: (.*?) -->", text)) == set(TABLES)


@pytest.mark.parametrize("page", FRONT, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_number_in_a_front_page_is_without_a_source(page: Path) -> None:
    found = list(_unsourced(page.read_text(), NUMBER))
    assert not found, f"{found} in {page.name} have no stored result: write them as values, see benchmarks/render.py"


@pytest.mark.parametrize("page", RESULT_PAGES, ids=lambda page: page.name)
def test_no_figure_in_a_page_of_results_is_without_a_source(page: Path) -> None:
    """Settings may stand there, which a reader needs; fractions, shares and times may not."""
    found = list(_unsourced(page.read_text(), FIGURE))
    assert not found, f"{found} in {page.name} have no stored result: write them as values, see benchmarks/render.py"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It takes 0.52 ms.", ["0.52"]),
        ("It takes <!-- value: x -->0.52<!-- /value --> ms, `0.3` s, in Python 3.11.", []),
        ("<!-- table: x -->\n| 0.5 |\n<!-- end -->\n| 0.7 |", ["0.7"]),
        ("```\n0.5\n```\n[one](a.md#1.5) of 1,200 with C16\n\n    x = 1.5\n", ["1,200"]),
    ],
)
def test_a_number_without_a_source_is_found(text: str, found: list[str]) -> None:
    assert list(_unsourced(text, NUMBER)) == found


def test_robots_that_are_trained_for_days_are_shown_once_they_are_stored(renderer: Renderer) -> None:
    """With their heading. Until then nothing stands there, and nothing fails."""
    page = "".join(f"<!-- {kind}: {name} -->\nold\n<!-- end -->\n" for kind, name in WAITING)
    without = {name: result for name, result in renderer.results.items() if name not in PENDING}
    empty = replace(renderer, results=without).page(page, "docs/results/page.md")
    assert empty == page.replace("old", "")
    stored = renderer.results["families-hex-drive-gauss-newton"] | {"pictures": {"drive-arm": {}}}
    filled = replace(renderer, results=without | dict.fromkeys(PENDING, stored)).page(page, "docs/results/page.md")
    assert "<!-- table: families/arm-gauss-newton -->\n\n## arm\n\nA table-top arm" in filled
    assert "| msr, gauss-newton |" in filled
    assert "![arm: the circle" in filled
    assert filled.count("drive-ant") == 1  # this result holds no such picture


def test_a_blank_in_place_of_a_number_is_replaced(renderer: Renderer) -> None:
    name = "families/hex-drive/cavia-over-gauss-newton"
    blank = f"It is <!-- value: {name} -->HEXCAVIA<!-- /value --> times ahead.\n\n<!-- measured -->\n<!-- end -->\n"
    written = renderer.page(blank, "docs/page.md")
    assert "HEXCAVIA" not in written
    assert renderer.value(name) in written
    assert "`benchmarks/families.py --store families-hex-drive`" in written
    assert renderer.page(written, "docs/page.md") == written


def test_a_cell_is_named_by_table_row_and_column(renderer: Renderer) -> None:
    orbit = next(line["orbit"] for line in renderer.lines("families/ring-nav") if line["method"] == "msr")
    assert renderer.value("families/ring-nav | msr | orbit") == orbit.strip("*")


def test_methods_that_take_no_steps_stand_beside_the_others(renderer: Renderer) -> None:
    """Also where a result is older than the method: the other robot's cell is then empty."""
    older = [
        [row for row in renderer.results[name]["rows"] if row["method"] != "function-encoder"]
        for name in TABLES["families/orbit-errors"].sources
    ]
    rival = next(row for row in older[1] if row["method"].startswith("cavia")) | {"method": "function-encoder"}
    newer = [older[0], [*older[1], rival], *older[2:]]
    (alone,) = (line for line in families(newer[1]) if line["method"] == "function-encoder")
    (both,) = (line for line in orbit_errors(*newer) if line["method"] == "function-encoder")
    assert (both["ring-nav"], both["hex-drive"]) == (alone["orbit"], MISSING)
    assert len(orbit_errors(*newer)) == len(orbit_errors(*older)) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: families/moon -->\n<!-- end -->", "docs/page.md: there is no table 'families/moon'"),
        ("<!-- picture: moon -->\n<!-- end -->", "there is no picture 'moon'"),
        ("so <!-- value: demo | msr | colour -->1<!-- /value -->", "table 'demo' has no column 'colour'"),
        ("so <!-- value: demo | sam | orbit -->1<!-- /value -->", "table 'demo' has no row 'sam'"),
        ("so <!-- value: demo -->1<!-- /value -->", "'demo' is no value"),
        ("<!-- value: faults/tried -->1<!-- /value -->", "begins a line"),
    ],
)
def test_what_does_not_exist_is_named(renderer: Renderer, text: str, message: str) -> None:
    with pytest.raises(PageError, match=re.escape(message)):
        renderer.page(text, "docs/page.md")


def test_a_result_that_is_older_than_its_code_is_marked(renderer: Renderer) -> None:
    stored = renderer.results["faults"]
    result = stored | {"code": {"roots": ["x"], "digest": "today"}, "transcribed": False, "changed": False}
    one = replace(renderer, results={"faults": result}, digest=lambda _roots: "today")
    assert one.measured("faults").startswith(f"* Measured at `{stored['commit'][:7]}` on 20")
    old = replace(one, digest=lambda _roots: "another")
    assert "before the measured code changed; to be measured again" in old.measured("faults")


def test_pictures_are_drawn_from_the_stored_data() -> None:
    results = [read_result(path) for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    for name, data in (each for result in results for each in result["pictures"].items()):
        for theme in pictures.THEMES:
            file = pictures.ASSETS / f"{name}-{theme}.svg"
            assert f"data {pictures.fingerprint(data)}" in file.read_text(), f"{file.name} is old; run: make pictures"
            assert file.stat().st_size < 60_000


def _unsourced(text: str, pattern: re.Pattern[str]) -> Iterable[str]:
    """Numbers outside of code, links, and what the renderer writes."""
    for gone in (
        r"```.*?```",
        r"<!-- (table|picture): .*?<!-- end -->",
        r"<!-- measured -->.*?<!-- end -->",
        r"<!-- value: .*?<!-- /value -->",
        r"^ {4,}\S.*?$",
        r"`[^`\n]*`",
        r"\]\([^)]*\)",
        r"<[^>]*>",
        *ALLOWED,
    ):
        text = re.sub(gone, " ", text, flags=re.DOTALL | re.MULTILINE)
    for number in pattern.findall(text):
        yield number.rstrip(".,")


def test_columns_that_nobody_measured_are_left_out_where_the_paper_has_none() -> None:
    row = {
        "method": "protonets",
        "cell": "5x1",
        "accuracy": 0.8,
        "interval": 0.01,
        "steps": 9,
        "seconds": 1,
        "numbers": 9,
    }
    (line,) = few_shot([{"data": "photographs", **row}])
    assert [column for column in line if "way" in column] == ["5 way 1 shot"]
    ours, *paper = few_shot([{"data": "omniglot", **row}])
    assert all(each.keys() == ours.keys() for each in paper)
    assert len([column for column in ours if "way" in column]) == 4
