"""The Markdown pages and what is in them: code blocks, tables, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "deploy", "examples", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: The page.
        line: The line its code begins in.
        language: What stands behind the fence.
        mark: The comment on the line before the fence, which readers do not see; empty without one.
        code: Its text.
    """

    page: Path
    line: int
    language: str
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """The page's path below the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["mark"] or "",
            found["code"],
        )
        for found in _BLOCK.finditer(text)
    ]


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks, outside of fenced blocks."""
    return _CODE.findall(_BLOCK.sub("", page.read_text("utf-8")))


def table_rows(page: Path, heading: str = "") -> Iterator[list[str]]:
    """The cells of each row of the tables below a heading (of any level, up to the next one), heads left out.

    Args:
        page: The page.
        heading: The heading's text; empty for the whole page.
    """
    text = _BLOCK.sub("", page.read_text("utf-8"))
    if heading:
        _, found, text = text.partition(f"# {heading}\n")
        assert found, f"{name_of(page)} has no heading {heading!r}"
        text = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = text.splitlines()
    for line, following in pairwise([*lines, ""]):
        is_head = re.fullmatch(r"\|[|: -]+\|", following) is not None
        if line.startswith("|") and not is_head and re.fullmatch(r"\|[|: -]+\|", line) is None:
            # A bar within a cell is written \|.
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def code_in(cell: str) -> str:
    """The first code of a table's cell, or the cell itself where it has none."""
    found = _CODE.search(cell)
    return found[1] if found else cell
