"""Words and sentences: what the two local searches make of a user's text."""

from __future__ import annotations

import re

__all__ = ["match_expression", "sentences", "valid_text"]

_WORD = re.compile(r"\w+")
# No white space before the line end: looking for one after each space of a long run takes minutes.
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n")
_MOST_WORDS = 64
_LONGEST_SENTENCE = 600

_FUNCTION_WORDS = frozenset(
    "a about an and any are as at be been but by can could did do does for from had has have how i if "
    "in into is it its me my no not of on or our please should so tell than that the their them then "
    "there these they this to us was we were what when where which who whom whose why will with would "
    "you your".split()
)


def match_expression(text: str) -> str:
    """An FTS5 MATCH expression that finds any of the text's words, best matches being for bm25 to tell.

    Every word is quoted, so nothing a user writes is taken for FTS5 syntax. Words that stand in every text
    (the, is, what…) are left out. Empty when no word is left.
    """
    words = dict.fromkeys(word.lower() for word in _WORD.findall(text))
    telling = [word for word in words if word not in _FUNCTION_WORDS]
    return " OR ".join(f'"{word}"' for word in telling[:_MOST_WORDS])


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; a line end ends one too, and very long ones are cut."""
    parts = (part.strip() for part in _SENTENCE_END.split(text))
    return [part[:_LONGEST_SENTENCE] for part in parts if _WORD.search(part)]


def valid_text(text: str) -> str:
    """The text without halves of characters, which JSON can carry and neither UTF-8 nor SQLite takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
