"""The Markdown pages: links between them and into the code lead somewhere."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "deploy", "examples", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists, every anchor a heading of it."""
    assert [link for link in _links(page) if not _resolves(page, link)] == []


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("there.md", True),
        ("there.md#the-tour-5-minutes", True),
        ("#here", True),
        ("https://example.org/anything", True),
        ("gone.md", False),
        ("there.md#gone", False),
        ("#gone", False),
    ],
)
def test_a_broken_link_is_seen(link: str, found: bool, tmp_path: Path) -> None:
    """The check itself tells good links from bad ones."""
    (tmp_path / "there.md").write_text("# The `tour`: 5 minutes\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n[a link]({link}) and `[no](link.md)`\n```\n[none](either.md)\n```\n", "utf-8")

    assert _links(page) == [link]
    assert _resolves(page, link) is found


def _links(page: Path) -> list[str]:
    """The targets of all links of a page, those shown as code left out."""
    prose = _CODE.sub("", _FENCE.sub("", page.read_text("utf-8")))
    return _LINK.findall(prose)


def _resolves(page: Path, link: str) -> bool:
    if re.match(r"[a-z][a-z+.-]*:", link):  # elsewhere: not ours to check without a network
        return True
    name, _, anchor = link.partition("#")
    target = page.parent / unquote(name) if name else page
    return target.exists() and (not anchor or target.suffix != ".md" or unquote(anchor) in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text("utf-8")))
    anchors: set[str] = set()
    for heading in headings:
        slug, count = _slug(heading), 0
        while (name := f"{slug}-{count}" if count else slug) in anchors:
            count += 1
        anchors.add(name)
    return anchors


def _slug(heading: str) -> str:
    kept = (
        letter for letter in heading.lower() if letter in " -_" or unicodedata.category(letter)[0] in "LN"
    )
    return "".join(kept).replace(" ", "-")
