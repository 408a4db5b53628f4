"""Errors and addresses in words that may be kept and shown: one line, bounded, without credentials."""

from __future__ import annotations

import re

__all__ = ["describe_error", "shown_path"]

_LONGEST_ERROR = 500
_LONGEST_SEARCHED = 20_000  # characters of a text that are looked at: the rest is cut in any case

# A password may hold / ? # @, so all up to the last @ goes.
_OF_AN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s'\"<>]{0,300}@", re.IGNORECASE)
_OF_A_QUERY = re.compile(r"\?[^\s'\"<>)]*")
_COOKIES = re.compile(r"\b((?:set-)?cookie2?['\"]?\s*[=:]\s*).*", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"\b((?:proxy-)?authorization['\"]?\s*[=:,]\s*)"
    r"(?:b?'[^']*'|b?\"[^\"]*\"|[^\s,;'\"}]+(?:\s+[^\s,;'\"}]+)?)",
    re.IGNORECASE,
)
_SIGNED_TOKEN = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*")
_CREDENTIALS = re.compile(r"\b(basic|bearer|digest|negotiate)\s+[^\s,;'\"]+", re.IGNORECASE)
_SECRET = r"[\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key"
_SECRET += r"|authorization|credential|signature|pwd|session|jwt)[\w-]*"
_NAMED_SECRET = re.compile(
    rf"\b({_SECRET}['\"]?\s*[=:]\s*)(?:(?:basic|bearer|digest|negotiate)\s+\.\.\.|"
    r"b?'[^']*'|b?\"[^\"]*\"|[^\s,;'\"}]+)",
    re.IGNORECASE,
)
_PAIR = re.compile(rf"(b?['\"]{_SECRET}['\"]\s*,\s*)(?:b?'[^']*'|b?\"[^\"]*\")", re.IGNORECASE)
_SECRET_FIELD = re.compile(rf"([?&;](?:{_SECRET}|sig|code|auth|key)=)[^&;#]*", re.IGNORECASE)


def describe_error(error: BaseException | str | None) -> str | None:
    """What went wrong, in one line without credentials; at most 500 characters, all of them printable.

    An exception's type goes before its text, except where the text is a sentence of ours.
    """
    if error is None:
        return None
    text = " ".join(_text_of(error)[:_LONGEST_SEARCHED].split())
    if isinstance(error, BaseException) and not hasattr(error, "call"):
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    text = _OF_AN_ADDRESS.sub(r"\1", text)
    text = _COOKIES.sub(r"\1...", text)
    text = _AUTHORIZATION.sub(r"\1...", text)
    text = _SIGNED_TOKEN.sub("...", text)
    text = _CREDENTIALS.sub(r"\1 ...", text)
    text = _PAIR.sub(r"\1...", text)
    text = _NAMED_SECRET.sub(r"\1...", text)
    text = _OF_A_QUERY.sub("?...", text)
    text = "".join(each if each.isprintable() else "?" for each in text)
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 3] + "..."


def _text_of(error: BaseException | str) -> str:
    try:
        return str(error)
    except Exception:  # a bug in somebody's error is no reason to lose a letter
        return ""


def shown_path(path: str) -> str:
    """Path and query string for people: values that are secrets by their names are left out."""
    return _SECRET_FIELD.sub(r"\1...", path)
