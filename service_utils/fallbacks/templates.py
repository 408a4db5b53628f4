"""Canned answers: what is said when nobody is there who could think of something better."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from service_utils.policies.fallback import Strategy

__all__ = ["AnswerTemplates"]

Texts: TypeAlias = str | Mapping[str, str]
"""One text for every language, or one for each of several."""


class AnswerTemplates:
    """Answers by intent, in several languages, with placeholders. Immutable, for any thread.

    ::

        templates = AnswerTemplates(
            {"greeting": {"en": "Hello {name}!", "de": "Guten Tag, {name}!"}},
            default="I cannot answer that now. Please try again later.",
            values={"name": "there"},
        )
        templates.answer("greeting", language="de-AT", name="Ada")   # "Guten Tag, Ada!"

    It never fails: an unknown intent, and a text whose placeholders cannot all be filled, give the default.
    A text is looked for in the language asked for, then in that without its region (``de`` for ``de-AT``),
    then in the default language. What is filled in is text, whatever braces are in it.

    Args:
        templates: The texts by intent; one that is not for every language must have the default language.
        default: What is said otherwise.
        language: The default language.
        values: Placeholders that need not be given, and what they are then.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A text has a placeholder that is no plain name or a stray brace, a text is missing in the
            default language, or the default has a placeholder that ``values`` does not fill.
    """

    def __init__(
        self,
        templates: Mapping[str, Texts],
        *,
        default: Texts,
        language: str = "en",
        values: Mapping[str, object] | None = None,
    ) -> None:
        if not isinstance(templates, Mapping):
            raise TypeError(f"templates={templates!r}: must be a mapping of intents to texts")
        if not isinstance(language, str) or not language:
            raise ValueError(f"language={language!r}: must be a language such as 'en'")
        self._language = language.lower()
        self._values = dict(values or {})
        self._texts = {
            intent: self._checked(f"templates[{intent!r}]", templates[intent]) for intent in templates
        }
        self._default = self._checked("default", default)
        for text in self._default.values():
            missing = sorted(_placeholders("default", text) - self._values.keys())
            if missing:
                raise ValueError(
                    f"default={text!r}: values= must say what {missing[0]!r} is when it is not given"
                )

    @property
    def intents(self) -> tuple[str, ...]:
        """All that have an answer of their own."""
        return tuple(self._texts)

    def answer(self, intent: object, /, *, language: str | None = None, **values: object) -> str:
        """What to say.

        Args:
            intent: What the user wants; anything else than a known one gives the default.
            language: A language tag such as ``de`` or ``de-AT``.
            **values: What is filled in.
        """
        known = self._texts.get(intent) if isinstance(intent, str) else None
        given = {**self._values, **values}
        for texts in (known, self._default):
            text = None if texts is None else self._in_language(texts, language)
            if text is not None and _placeholders("text", text) <= given.keys():
                return text.format_map({name: str(value) for name, value in given.items()})
        raise AssertionError("the default can always be filled")

    __call__ = answer

    def strategy(
        self,
        name: str = "templates",
        *,
        intent: Callable[..., object] | None = None,
        language: Callable[..., str | None] | None = None,
        values: Callable[..., Mapping[str, object]] | None = None,
    ) -> Strategy:
        """The last resort of a :class:`~service_utils.policies.fallback.FallbackChain`.

        Args:
            name: The strategy's name.
            intent: Tells the intent; the run's first argument by default. All three are called with the
                arguments of the run.
            language: Tells the language.
            values: Tells what is filled in.
        """

        def answer(*args: Any, **kwargs: Any) -> str:
            wanted = intent(*args, **kwargs) if intent is not None else next(iter(args), None)
            spoken = None if language is None else language(*args, **kwargs)
            given = {} if values is None else dict(values(*args, **kwargs))
            given.pop("language", None)
            return self.answer(wanted, language=spoken, **given)

        return Strategy(name, answer, last_resort=True)

    def __repr__(self) -> str:
        return f"AnswerTemplates({list(self._texts)!r}, language={self._language!r})"

    def _checked(self, what: str, texts: object) -> dict[str, str]:
        """Texts by lower-case language; under "" the one for all."""
        found = {"": texts} if isinstance(texts, str) else texts
        if not isinstance(found, Mapping):
            raise TypeError(f"{what}={texts!r}: must be a text, or a mapping of languages to texts")
        for language, text in found.items():
            if not isinstance(language, str) or not isinstance(text, str):
                raise TypeError(f"{what}: {language!r}: {text!r}: must be a language and a text")
            _placeholders(what, text)
        checked = {language.lower(): text for language, text in found.items()}
        if "" not in checked and self._language not in checked:
            raise ValueError(f"{what}={texts!r}: must have a text in the default language {self._language!r}")
        return checked

    def _in_language(self, texts: Mapping[str, str], language: str | None) -> str:
        wanted = language.lower().replace("_", "-") if isinstance(language, str) else self._language
        for each in (wanted, wanted.partition("-")[0], self._language):
            if each in texts:
                return texts[each]
        return texts[""]


def _placeholders(what: str, text: str) -> set[str]:
    """The names in braces. Nothing but names: a format that looks into objects would show what is in them."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{what}={text!r}: {error}; a brace itself is written twice") from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError(f"{what}={text!r}: a placeholder must be a plain name, such as {{name}}")
    return {name for _, name, _, _ in parts if name is not None}
