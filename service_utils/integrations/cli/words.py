"""Words that came from elsewhere, such as from a server: they cannot steer the terminal."""

from __future__ import annotations

__all__ = ["one_line", "printable"]


def printable(text: str) -> str:
    """A text whose control characters, but for the ends of its lines, are question marks."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def one_line(text: str) -> str:
    """The same on one line."""
    return printable(" ".join(text.split()))
