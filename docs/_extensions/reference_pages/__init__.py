"""A Sphinx extension that writes the reference from the code before each build, so that the two cannot differ.

The pages go to `docs/reference/`, where git ignores them.
"""

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from reference_pages import api, commands, manifest, metrics
from reference_pages.docstrings import keep_colons, mark_code, use_aliases


def write_pages(app: Sphinx) -> None:
    """Write every generated page. A page whose text is the same keeps its date, and Sphinx does not read it again."""
    root = Path(app.srcdir) / "reference"
    pages = {root / name: text for part in (api, commands, manifest, metrics) for name, text in part.pages().items()}
    for folder in (root / "api", root / "commands"):
        for path in folder.rglob("*.md") if folder.exists() else ():
            if path not in pages:  # of a name that the code no longer has
                path.unlink()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Tell Sphinx when to write the pages."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", use_aliases)
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before Google sections are read, at 500
    app.connect("autodoc-process-docstring", keep_colons, priority=401)
    return {"parallel_read_safe": True}
