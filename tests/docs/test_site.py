"""The site builds without a warning, its links lead somewhere, and it works in a real browser without a network."""

import functools
import importlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from msr_runtime.cli.command import COMMANDS

ROOT = Path(__file__).parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


class Links(HTMLParser):
    """What a page of HTML links to or loads, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        """Read the page."""
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag's addresses and its id."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.links += [values["href"]] if tag == "a" and "href" in values else []
        self.loads += [values[name] for name in ("src", "href") if tag not in ("a", "base") and name in values]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of the builder fails here."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "docs", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def html(site: Path) -> dict[Path, Links]:
    """Each page of the site, read; the theme's own templates lie among its static files."""
    return {path: Links(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def test_internal_links_and_anchors_lead_somewhere(site, html) -> None:
    broken = []
    for page, read in html.items():
        for link in (*read.links, *read.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                broken.append(f"{page.relative_to(site)}: {link}: there is no such file")
            elif target in html and unquote(parts.fragment) not in html[target].anchors:
                broken.append(f"{page.relative_to(site)}: {link}: there is no such anchor")
    assert not broken, "\n".join(broken)


def test_pages_load_nothing_from_other_hosts(site, html) -> None:
    foreign = [
        f"{page.relative_to(site)}: {load}" for page, read in html.items() for load in read.loads if "//" in load
    ]
    styles = [
        path for path in site.rglob("*.css") if re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text())
    ]
    assert not foreign
    assert not styles


@pytest.mark.parametrize("package", ["msr_runtime", "msr_runtime.meta", "msr_envs", "msr_export"])
def test_every_public_name_has_an_entry(html, package) -> None:
    anchors = set().union(*(read.anchors for read in html.values()))
    names = getattr(importlib.import_module(package), "__all__", ())
    assert [name for name in names if f"{package}.{name}" not in anchors] == []


def test_text_under_attributes_is_shown(site) -> None:
    manifest = (site / "reference/manifest.html").read_text("utf-8")
    assert "The length of" in manifest
    assert "msr_runtime.Manifest.filter_parameters" in (site / "reference/api/msr_runtime/bundle.html").read_text(
        "utf-8"
    )


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text("utf-8"))
    files = [link.partition("#")[0] for link in links if not urlsplit(link).scheme]
    assert [file for file in files if file and not (ROOT / file).exists()] == []


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The site on a port of the loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")  # not longer: while it is open, no other test can start an event loop
def browser() -> Iterator:
    """The system's Chromium, without a window."""
    if BROWSER is None:
        pytest.skip("no Chromium on PATH: on Debian, apt-get install chromium-headless-shell")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=BROWSER) as launched:
        yield launched


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """A fresh page; at the end it has met no error and asked no other host."""
    with browser.new_context(color_scheme="light") as context:
        opened = context.new_page()
        opened.set_default_timeout(30_000)
        troubles: list[str] = []
        opened.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.on(
            "request", lambda asked: None if asked.url.startswith((address, "data:")) else troubles.append(asked.url)
        )
        opened.on("response", lambda answer: troubles.append(answer.url) if answer.status >= 400 else None)
        yield opened
        assert troubles == []


def test_front_page_renders(page, address) -> None:
    page.goto(address)
    expect(page.locator("main h1")).to_contain_text("msr-runtime")


def test_every_command_is_two_clicks_from_the_front_page(page, address) -> None:
    page.goto(address)
    page.locator('main a[href="reference/commands/index.html"]').first.click()
    commands = page.url
    for name in COMMANDS:
        page.goto(commands)
        page.locator(f'main a[href="{name}.html"]').first.click()
        expect(page.locator("main h1")).to_contain_text(f"msr {name}")
        expect(page.get_by_role("main")).to_contain_text(f"usage: msr {name}")


def test_search_finds_the_orbit_error(page, address) -> None:
    page.goto(address)
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("searchbox").first.fill("orbit error")
    page.keyboard.press("Enter")
    page.locator("#search-results li a").first.click()
    expect(page.get_by_role("main")).to_contain_text(re.compile("orbit", re.IGNORECASE))


def test_dark_mode_switches(page, address) -> None:
    page.goto(address)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Color mode").click()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(colour) != light
