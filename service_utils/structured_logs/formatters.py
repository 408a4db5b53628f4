"""A record as a line: of JSON for machines, of text for people; with the request's context, and masked."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from service_utils.http.context import bound_context
from service_utils.structured_logs.secrets import Secrets, extras_of

__all__ = ["JSONFormatter", "TextFormatter"]

_TEXT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
_TAKEN = frozenset({"timestamp", "level", "logger", "message", "process", "thread", "exception", "stack"})
_NONE = "-"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # all but the tabulator


class JSONFormatter(logging.Formatter):
    """One JSON object per line; whatever is logged, it is one line and valid JSON.

    ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``process`` and ``thread``; where there
    is a request ``request_id``, ``trace_id`` and ``span_id``; all that was given by ``extra=``; ``exception``
    and ``stack`` as text. An extra field of a name that is taken has ``extra_`` before it.

    Args:
        secrets: What is masked; None for those in use.
        fields: Put into each line, such as ``{"app": "shop"}``.
    """

    def __init__(self, secrets: Secrets | None = None, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._secrets = secrets if secrets is not None else Secrets()
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "process": record.process,
            "thread": record.threadName,
            **self._fields,
            **_context(),
        }
        for name, value in extras_of(record):
            if value is None or (value == _NONE and name in ("request_id", "trace_id")):
                continue  # what RequestContextFilter writes where there is none
            line[f"extra_{name}" if name in _TAKEN else name] = value
        if record.exc_info or record.exc_text:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(_valid(self._secrets.mask_all(line)), ensure_ascii=False, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A line for people. Line breaks and escapes in a message are shown as such; an exception follows below.

    Args:
        fmt: As :class:`logging.Formatter` takes it with ``%``; ``%(request_id)s`` and ``%(trace_id)s`` are
            there, and ``-`` outside of a request.
        secrets: What is masked; None for those in use.

    Raises:
        ValueError: ``fmt`` is no format.
    """

    def __init__(self, fmt: str | None = None, secrets: Secrets | None = None) -> None:
        super().__init__(fmt or _TEXT)
        self._secrets = secrets if secrets is not None else Secrets()

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without exception and stack."""
        context = _context()
        shown = logging.makeLogRecord(record.__dict__)
        shown.message = _CONTROL.sub(_escaped, _message(record))
        for name in ("request_id", "trace_id"):
            if getattr(record, name, None) is None:
                setattr(shown, name, context.get(name, _NONE))
        return super().formatMessage(shown)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the exception below it."""
        record.message = _message(record)
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        text = self.formatMessage(record)
        if record.exc_info or record.exc_text:
            text += "\n" + (record.exc_text or self.formatException(record.exc_info))  # type: ignore[arg-type]
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        return self._secrets.mask(text)


def _escaped(found: re.Match[str]) -> str:
    """What would begin a new line, or steer a terminal, as Python writes it."""
    return found[0].encode("unicode_escape").decode()


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """The message, also of a line whose arguments do not fit it: that is no reason to lose it."""
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!s} (arguments that do not fit: {record.args!r})"


def _context() -> dict[str, str]:
    bound = bound_context()
    found = {}
    if bound.request_id is not None:
        found["request_id"] = bound.request_id
    parts = (bound.trace or {}).get("traceparent", "").split("-")
    if len(parts) > 2:
        found["trace_id"], found["span_id"] = parts[1], parts[2]
    return found


def _valid(value: Any) -> Any:
    """JSON has no NaN and no infinity, and a lone surrogate can be written nowhere."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_valid(key): _valid(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_valid(each) for each in value]
    return value
