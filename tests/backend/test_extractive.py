"""The answerer that needs neither network nor model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.extractive import NOTHING_FOUND, extract_answer
from backend.text import sentences

CONTEXT = [
    "Our shop opens at nine. It closes at six. Refunds are paid within 14 days!",
    "Parking is free on weekends.\nVisitors may park in the yard",
]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When are refunds paid?", "Refunds are paid within 14 days!"),
        ("Where can visitors park?", "Visitors may park in the yard Parking is free on weekends."),
        ("When does the shop close?", "It closes at six. Our shop opens at nine."),
    ],
)
def test_best_sentences_answer(question: str, answer: str) -> None:
    """The sentences that fit the question are quoted, the best ones first, whole."""
    assert extract_answer(question, CONTEXT) == answer


@pytest.mark.parametrize("question", ["What is the capital of France?", "What is it?", "???", ""])
def test_nothing_is_made_up(question: str) -> None:
    """Where nothing fits, that is what is said."""
    assert extract_answer(question, CONTEXT) == NOTHING_FOUND


def test_no_context_is_no_answer() -> None:
    """Without documents there is nothing to quote."""
    assert extract_answer("When are refunds paid?", []) == NOTHING_FOUND


def test_repeated_sentences_are_quoted_once() -> None:
    """The same sentence in several documents is said once."""
    assert extract_answer("refunds", ["Refunds are paid. Refunds are paid."] * 3) == "Refunds are paid."


def test_long_text_without_sentences_is_cut() -> None:
    """A text without an end of sentence does not become an endless answer."""
    assert len(extract_answer("apple", ["apple " * 10_000])) == 600


def test_sentences_end_at_marks_and_lines() -> None:
    """Abbreviations are split too often rather than too seldom; empty parts are dropped."""
    assert sentences("One. Two!\n\n- \nThree?  Four") == ["One.", "Two!", "Three?", "Four"]


@given(st.text(), st.lists(st.text(), max_size=5))
def test_any_question_gets_an_answer(question: str, context: list[str]) -> None:
    """No question and no context break it."""
    assert extract_answer(question, context)
