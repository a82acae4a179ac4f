"""How Sphinx builds the site; `make docs` calls it, and every warning is an error there."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))  # what writes the reference from the code

project = "msr-runtime"
version = release = installed("msr-runtime")
copyright = "the msr-runtime authors"  # the name that Sphinx reads # noqa: A001
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference_pages"]
exclude_patterns = ["_extensions"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4  # `page.md#a-heading` is a link that is checked
nitpicky = True
# A wrong public name of our own packages fails. A signature may also name a type that only its own file has.
_DEEPER = r"(msr_runtime\.meta|msr_runtime(?!\.meta)|msr_envs|msr_export|msr_c)(\.\w+){3,}"
nitpick_ignore_regex = [(r"py:.*", r"(?!msr_).*"), (r"py:(class|data)", rf"{_DEEPER}|.*\._\w+")]

# The name in `Discriminator("kind")` is read as a reference, and several classes have a `kind`. What is missing still
# fails.
suppress_warnings = ["ref.python"]
default_role = "code"  # docstrings write `name` in single backticks
autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": "model_config"}
autodoc_typehints = "signature"
python_maximum_signature_line_length = 90  # longer: one parameter per line
autodoc_class_signature = "mixed"
autoclass_content = "both"  # the arguments are described at __init__
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "msr-runtime"
html_sidebars = {page: [] for page in ("concepts", "architecture", "security", "limits")}  # they have no pages below
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 9,
    "show_prev_next": True,
    # the tables of the results are wide, and so leave no room for one
    "secondary_sidebar_items": {
        pages: [] if pages == "results/*" else ["page-toc"]
        for pages in ("*", "how-to/*", "tutorials/*", "reference/**", "results/*")
    },
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = ["assets/site"]
html_css_files = ["wide.css"]
html_show_sourcelink = False
html_copy_source = False
