"""Errors in words that may be kept and shown: one line, bounded, without credentials."""

from __future__ import annotations

import re

__all__ = ["describe_error"]

_LONGEST_ERROR = 500

_OF_AN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]*@", re.IGNORECASE)
_OF_A_QUERY = re.compile(r"\?[^\s'\"<>)]*")
_CREDENTIALS = re.compile(r"\b(basic|bearer|digest|negotiate)\s+[^\s,;'\"]+", re.IGNORECASE)
_NAMED_SECRET = re.compile(
    r"\b([\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|authorization|cookie|credential)[\w-]*)"
    r"(['\"]?\s*[=:]\s*)(?:['\"][^'\"]*['\"]|[^\s,;'\"}]+)",
    re.IGNORECASE,
)


def describe_error(error: BaseException | str | None) -> str | None:
    """What went wrong, in one line without credentials; at most 500 characters.

    An exception's type goes before its text, except where the text is a sentence of ours.
    """
    if error is None:
        return None
    text = " ".join(str(error).split())
    if isinstance(error, BaseException) and not hasattr(error, "call"):
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    text = _OF_AN_ADDRESS.sub(r"\1", text)
    text = _NAMED_SECRET.sub(r"\1\2...", text)
    text = _CREDENTIALS.sub(r"\1 ...", text)
    text = _OF_A_QUERY.sub("?...", text)
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 3] + "..."
