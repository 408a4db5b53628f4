"""AnswerTemplates: canned answers by intent and language."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service_utils import FallbackChain
from service_utils.fallbacks import AnswerTemplates

SORRY = "Please try again later."


@pytest.fixture
def templates() -> AnswerTemplates:
    return AnswerTemplates(
        {
            "greeting": {"en": "Hello {name}!", "de": "Guten Tag, {name}!", "de-AT": "Servus {name}!"},
            "price": "It costs {price}.",
        },
        default={"en": SORRY, "de": "Bitte später."},
        values={"name": "there"},
    )


@pytest.mark.parametrize(
    ("language", "answer"),
    [
        (None, "Hello Ada!"),
        ("de", "Guten Tag, Ada!"),
        ("DE-CH", "Guten Tag, Ada!"),
        ("de_at", "Servus Ada!"),
        ("fr", "Hello Ada!"),
    ],
)
def test_languages(templates: AnswerTemplates, language: str | None, answer: str) -> None:
    """The answer is in the language asked for, without its region if need be, else in the default one."""
    assert templates.answer("greeting", language=language, name="Ada") == answer


def test_one_text_for_all_languages(templates: AnswerTemplates) -> None:
    """A text without a language is for every language."""
    assert templates.answer("price", language="de", price=7) == "It costs 7."


def test_values_that_need_not_be_given(templates: AnswerTemplates) -> None:
    """A placeholder that is not given has its usual value."""
    assert templates.answer("greeting") == "Hello there!"


@pytest.mark.parametrize("intent", ["unknown", "price", None, 7, ["greeting"]])
def test_default(templates: AnswerTemplates, intent: Any) -> None:
    """What is unknown, and what cannot be filled, gives the default in the language asked for."""
    assert templates.answer(intent, language="de") == "Bitte später."


@given(st.text())
def test_values_are_text(value: str) -> None:
    """Whatever a user has written is filled in as it is, braces and all."""
    templates = AnswerTemplates({"echo": "<{text}> {{}}"}, default=SORRY)
    assert templates.answer("echo", text=value) == f"<{value}> {{}}"


def test_last_of_a_chain(templates: AnswerTemplates) -> None:
    """In a chain the arguments of the run say what is answered."""

    def away(question: str, user: str) -> str:
        raise requests.ConnectionError("away")

    last = templates.strategy(
        intent=lambda question, user: "greeting" if "hello" in question else None,
        language=lambda question, user: "de",
        values=lambda question, user: {"name": user, "language": "ignored"},
    )
    chain = FallbackChain("answer", [("llm", away), last])
    assert chain.run("hello", "Ada") == ("Guten Tag, Ada!", "templates")
    assert chain.run("why", "Ada") == ("Bitte später.", "templates")


def test_intent_is_the_first_argument(templates: AnswerTemplates) -> None:
    """Without a function that tells it, the intent is the first argument of the run."""
    chain = FallbackChain("answer", [templates.strategy("canned")], deadline=5)
    assert chain.run("greeting") == ("Hello there!", "canned")
    assert chain.run() == (SORRY, "canned")
    assert templates.intents == ("greeting", "price")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"templates": {"a": "{x.__class__}"}}, ValueError, "plain name"),
        ({"templates": {"a": "{0}"}}, ValueError, "plain name"),
        ({"templates": {"a": "{}"}}, ValueError, "plain name"),
        ({"templates": {"a": "{x!r}"}}, ValueError, "plain name"),
        ({"templates": {"a": "{x:>9}"}}, ValueError, "plain name"),
        ({"templates": {"a": "{x"}}, ValueError, "written twice"),
        ({"templates": {"a": {"de": "x"}}}, ValueError, "default language 'en'"),
        ({"templates": {"a": 1}}, TypeError, "must be a text"),
        ({"templates": {"a": {"en": 1}}}, TypeError, "a language and a text"),
        ({"templates": []}, TypeError, "templates="),
        ({"default": "{name}"}, ValueError, "what 'name' is"),
        ({"language": ""}, ValueError, "language="),
    ],
)
def test_bad_templates(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """A text that could fail, or could show what is in an object, is refused when it is given."""
    with pytest.raises(error, match=message):
        AnswerTemplates(**{"templates": {}, "default": SORRY} | arguments)
