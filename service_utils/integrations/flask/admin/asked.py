"""What a request of the admin API asks for: names and values of its query string or of its JSON body."""

from __future__ import annotations

import json
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

__all__ = ["Asked", "BadField"]

_LONGEST = 4096  # bytes of a body: it holds a reason and some words
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})


class BadField(BadRequest):
    """A field cannot be used.

    Attributes:
        field: Its name.
    """

    def __init__(self, field: str, words: str) -> None:
        super().__init__(f"{field}: {words}")
        self.field = field


class Asked:
    """The fields of the request of this moment. A field is taken from the body, else from the query string.

    Args:
        *known: The fields there are; any other is refused.

    Raises:
        BadField: There is another one, or one is there twice.
        BadRequest: The body is no JSON object.
        UnsupportedMediaType: The body is of another type.
    """

    def __init__(self, *known: str) -> None:
        self._fields: dict[str, Any] = {**_query(), **_body()}
        for name in self._fields:
            if name not in known:
                raise BadField(name[:100], f"there is no such field; there are: {', '.join(known) or 'none'}")

    def text(self, name: str) -> str | None:
        """Words, or None when there are none."""
        value = self._fields.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise BadField(name, "must be a string")
        return value

    def needed(self, name: str) -> str:
        """Words that have to be there."""
        value = self.text(name)
        if value is None or not value.strip():
            raise BadField(name, "is needed")
        return value

    def number(self, name: str) -> float | None:
        """A finite number that is not negative, or None when there is none."""
        value = self._fields.get(name)
        if value is None or value == "":
            return None
        try:
            number = float(value) if isinstance(value, str | int | float) else -1.0
        except (ValueError, OverflowError):
            number = -1.0
        if isinstance(value, bool) or not 0 <= number < float("inf"):
            raise BadField(name, "must be a number >= 0")
        return number

    def count(self, name: str, default: int) -> int:
        """A whole number."""
        number = self.number(name)
        if number is None:
            return default
        if number != int(number):
            raise BadField(name, "must be a whole number")
        return int(number)

    def flag(self, name: str) -> bool:
        """True or false; false when it is not there."""
        value = self._fields.get(name)
        word = str(value).lower()
        if value is None or word in _FALSE:
            return False
        if word not in _TRUE:
            raise BadField(name, "must be true or false")
        return True


def _query() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in request.args.lists():
        if len(values) > 1:
            raise BadField(name[:100], "is there more than once")
        found[name] = values[0]
    return found


def _body() -> dict[str, Any]:
    if request.method == "GET":
        return {}
    data = _limited()
    if not data:
        return {}
    if not request.is_json:
        raise UnsupportedMediaType("The body must be application/json.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("The body is no JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def _limited() -> bytes:
    """The body, of which no more is read than may be there, whether its length is said or not."""
    if (request.content_length or 0) > _LONGEST:
        raise RequestEntityTooLarge
    data = request.stream.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise RequestEntityTooLarge
    return data
