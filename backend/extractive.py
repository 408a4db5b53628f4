"""The answerer of last resort: the sentences that fit the question best. No network, no model."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from backend.text import match_expression, sentences

__all__ = ["NOTHING_FOUND", "extract_answer"]

NOTHING_FOUND = "Nothing in this project's documents matches the question."

_MOST_SENTENCES = 3
_MOST_INDEXED = 2_000
_TABLE = "CREATE VIRTUAL TABLE sentences USING fts5(text, tokenize = 'porter unicode61 remove_diacritics 2')"


def extract_answer(question: str, context: Sequence[str]) -> str:
    """The best sentences of the context, best first, or the plain statement that nothing matches.

    Args:
        question: What was asked.
        context: Texts that may hold the answer.
    """
    expression = match_expression(question)
    known = list(dict.fromkeys(sentence for text in context for sentence in sentences(text)))
    if not expression or not known:
        return NOTHING_FOUND
    best = _ranked(expression, known[:_MOST_INDEXED])
    return " ".join(best) if best else NOTHING_FOUND


def _ranked(expression: str, known: Sequence[str]) -> list[str]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(_TABLE)
        db.executemany("INSERT INTO sentences VALUES (?)", ((sentence,) for sentence in known))
        rows = db.execute(
            "SELECT text FROM sentences WHERE sentences MATCH ? ORDER BY bm25(sentences), rowid LIMIT ?",
            (expression, _MOST_SENTENCES),
        ).fetchall()
    return [text for (text,) in rows]
