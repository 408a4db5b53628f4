"""Headers that can be sent: checked here, because requests and http.client quote secret values in errors."""

from __future__ import annotations

import re
from typing import Any

from requests.exceptions import InvalidHeader

__all__ = ["REQUEST_ID_HEADER", "TIME_LEFT_HEADER", "check_header"]

REQUEST_ID_HEADER = "X-Request-ID"
TIME_LEFT_HEADER = "X-Request-Timeout-Ms"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BROKEN = re.compile(r"\s.*|.*[\r\n\0].*", re.DOTALL)


def check_header(name: Any, value: Any) -> None:
    """Require a header that can travel as it is; the error never shows its value.

    Raises:
        TypeError: Name or value is neither text nor bytes.
        InvalidHeader: Name or value cannot be sent; it is a ValueError, too.
    """
    if not isinstance(name, str | bytes) or not isinstance(value, str | bytes):
        kind = type(value).__name__
        raise TypeError(f"headers: {name!r} and its value must be strings, the value is of type {kind}")
    text = name if isinstance(name, str) else name.decode("latin-1")
    if not _NAME.fullmatch(text):
        raise InvalidHeader(f"headers: {text!r} is no header name")
    try:
        content = (
            value.encode("latin-1").decode("latin-1") if isinstance(value, str) else value.decode("latin-1")
        )
    except UnicodeEncodeError:
        raise InvalidHeader(f"headers: the value of {text!r} must be Latin-1 text") from None
    if _BROKEN.fullmatch(content):
        raise InvalidHeader(f"headers: the value of {text!r} must hold no line break and begin with no space")
