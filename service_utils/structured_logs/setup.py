"""One call that sets up logging for a process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from service_utils.structured_logs.formatters import JSONFormatter, TextFormatter
from service_utils.structured_logs.secrets import Secrets

__all__ = ["configure_logging"]

_lock = threading.Lock()


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from those of others."""


def configure_logging(
    *,
    json: bool = True,
    level: int | str = logging.INFO,
    stream: TextIO | None = None,
    logger: str | None = None,
    secrets: Iterable[str] | Callable[[], Iterable[str]] = (),
    fields: Mapping[str, Any] | None = None,
    fmt: str | None = None,
) -> logging.Handler:
    """Write all log lines of the process as JSON or as text, with the request's context and without secrets.

    To be called once, at the start. Called again it takes its own earlier handler's place; handlers of others
    stay. See :class:`~service_utils.structured_logs.formatters.JSONFormatter` for the fields and
    :class:`~service_utils.structured_logs.secrets.Secrets` for what is masked.

    Args:
        json: JSON lines; False for text.
        level: The least level that is written: a name or a number.
        stream: Where to; None for standard error.
        logger: The logger whose lines these are, with all below it; None for the root.
        secrets: Further secrets to mask, or a function that returns them.
        fields: Put into each line of JSON, such as ``{"app": "shop"}``.
        fmt: Format of the text.

    Returns:
        The handler.

    Raises:
        ValueError: There is no such level, or ``fields`` or ``fmt`` do not go with ``json``.
        TypeError: An argument is of a wrong type.
    """
    if not isinstance(json, bool):
        raise TypeError(f"json={json!r}: must be True or False")
    if json and fmt is not None:
        raise ValueError(f"fmt={fmt!r}: is for text; give json=False")
    if not json and fields is not None:
        raise ValueError(f"fields={fields!r}: are for JSON")
    if stream is not None and not callable(getattr(stream, "write", None)):
        raise TypeError(f"stream={stream!r}: must have a method write()")
    number = _level(level)
    known = Secrets(secrets)
    handler = _Handler(stream)
    handler.setFormatter(JSONFormatter(known, fields) if json else TextFormatter(fmt, known))
    target = logging.getLogger(logger)
    with _lock:
        for each in [each for each in target.handlers if isinstance(each, _Handler)]:
            target.removeHandler(each)
        target.addHandler(handler)
        target.setLevel(number)
    return handler


def _level(level: object) -> int:
    if isinstance(level, str):
        number = logging.getLevelNamesMapping().get(level.upper())
        if number is None:
            known = ", ".join(logging.getLevelNamesMapping())
            raise ValueError(f"level={level!r}: must be one of {known}")
        return number
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f"level={level!r}: must be a name or a number")
    return level
