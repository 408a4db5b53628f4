"""How Sphinx builds the pages, those of the root and those of this folder: ``make docs``."""

from __future__ import annotations

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import service_utils

project = "service_utils"
author = "service_utils maintainers"
release = version = service_utils.__version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
# The sources are those of the whole checkout (``sphinx -c docs .``): links between all pages are links.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md"]
html_theme = "alabaster"
html_theme_options = {"description": "The resilient client for Python microservices", "page_width": "72rem"}
myst_heading_anchors = 4


def setup(app: Sphinx) -> None:
    """Show diagrams as they are written: drawing them takes a script of another host, or a browser."""
    app.add_lexer("mermaid", TextLexer)
