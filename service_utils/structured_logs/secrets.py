"""Secrets are masked in whatever is logged: those that are in use, and what looks like one."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from service_utils.clock import SYSTEM, Clock

__all__ = ["MASK", "Secrets", "SecretsFilter"]

MASK = "***"

_REFRESH = 1.0  # seconds for which what was found in the environment and in files counts
_SHORTEST = 6  # characters: shorter ones would mask words that are no secrets
_LONGEST_FILE = 65536  # bytes
_DEPTH = 6  # of what an extra field holds

# Variables that hold secrets, and those that name a file with one.
_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|(?:TOKEN|SECRET|ACCESS|PRIVATE|SIGNING)_KEYS?|"
    r"CREDENTIALS?)(?:_PREVIOUS)?(?P<file>_FILE)?$"
)

# A look that costs little, before those that cost more.
_SUSPICIOUS = re.compile(
    r"://[^/\s]*@|eyJ|bearer|basic|authorization|token|cookie|passw|secret|api[-_]?key|signature",
    re.IGNORECASE,
)
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://)[^/\s@\"']*@"), rf"\1{MASK}@"),
    # Not in the middle of a word: a long text of such beginnings would be gone through from each of them.
    (re.compile(r"(?<![\w-])eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), MASK),
    (re.compile(r"\b(bearer|basic)\s+[\w+/=.~-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (
        re.compile(
            r"\b((?:proxy-)?authorization|x-internal-token|(?:set-)?cookie|x-api-key|api-key)"
            r"([\"']?\s*[:=]\s*[\"']?)(?!bearer |basic )[^\s\"',;}]+",
            re.IGNORECASE,
        ),
        rf"\1\2{MASK}",
    ),
    (
        re.compile(
            r"([?&;](?:access_?token|refresh_?token|id_?token|token|api_?key|key|secret|client_?secret|password|"
            r"passwd|sig|signature)=)[^&\s\"'#]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)


class Secrets:
    """Knows the secrets in use, and masks them: plain, percent-encoded, in base64 or as JSON escapes them.

    In use are the values of environment variables whose names say so (``INTERNAL_SERVICE_TOKEN``,
    ``ADMIN_TOKEN``, ``LLM_API_KEY``, whatever ends in ``_TOKEN``, ``_SECRET``, ``_PASSWORD``, ``_API_KEY``
    and their like), the contents of files that such variables name with ``_FILE`` at the end, and what is
    given here. They are looked up once a second at most, so that a rotation is followed. Besides, whatever
    looks like a secret is masked: credentials in addresses and query strings, ``Authorization`` and other
    telling headers, signed tokens (JWT).

    May be used from any thread.

    Args:
        more: Further secrets, or a function that returns them.
        environ: In place of ``os.environ``.
        clock: Where the time comes from.

    Raises:
        TypeError: ``more`` is neither a list of strings nor a function.
    """

    def __init__(
        self,
        more: Iterable[str] | Callable[[], Iterable[str]] = (),
        *,
        environ: Mapping[str, str] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        if isinstance(more, str | bytes) or not (callable(more) or isinstance(more, Iterable)):
            raise TypeError("secrets: must be a list of strings, or a function that returns one")
        given = None if callable(more) else tuple(more)
        if given is not None and not all(isinstance(each, str) for each in given):
            raise TypeError("secrets: must all be strings")
        self._more: Callable[[], Iterable[str]] = more if callable(more) else lambda: given or ()
        self._environ = os.environ if environ is None else environ
        self._clock = clock
        self._known: tuple[frozenset[str], re.Pattern[str] | None] = (frozenset(), None)
        self._until = float("-inf")
        self._files: dict[str, tuple[tuple[int, int], str]] = {}
        self._pattern()  # now: of two threads that log first, one would find nothing known yet

    def __repr__(self) -> str:
        return f"<Secrets: {len(self._known[0])} in use>"

    def mask(self, text: str) -> str:
        """The text without secrets."""
        pattern = self._pattern()
        if pattern is not None:
            text = pattern.sub(MASK, text)
        if _SUSPICIOUS.search(text) is not None:
            for shape, masked in _SHAPES:
                text = shape.sub(masked, text)
        return text

    def mask_all(self, value: Any, depth: int = _DEPTH) -> Any:
        """The same for all strings in lists, mappings and whatever else is not plain."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.mask(value)
        if depth and isinstance(value, Mapping):
            return {self.mask(str(key)): self.mask_all(each, depth - 1) for key, each in value.items()}
        if depth and isinstance(value, list | tuple | set | frozenset):
            return [self.mask_all(each, depth - 1) for each in value]
        return self.mask(as_text(value))

    def _pattern(self) -> re.Pattern[str] | None:
        now = self._clock.monotonic()
        if now >= self._until:
            self._until = now + _REFRESH  # before it is looked up: others need not do so meanwhile
            with contextlib.suppress(RuntimeError):  # the environment was changed while it was gone through
                values = frozenset(each for each in self._values() if len(each) >= _SHORTEST)
                if values != self._known[0]:
                    self._known = values, _pattern_of(values)
        return self._known[1]

    def _values(self) -> Iterator[str]:
        for name, value in list(self._environ.items()):
            match = _NAME.search(name)
            if match is None or not value:
                continue
            yield from _parts_of(self._content(value) if match["file"] else value)
        with contextlib.suppress(Exception):  # one that cannot say keeps no line from being written
            yield from (str(each) for each in self._more())

    def _content(self, path: str) -> str:
        """What a file holds, read again when it has changed."""
        try:
            stat = os.stat(path)
            mark = stat.st_mtime_ns, stat.st_size
            known = self._files.get(path)
            if known is None or known[0] != mark:
                with Path(path).open("rb") as file:
                    known = mark, file.read(_LONGEST_FILE).decode("utf-8", "replace")
                self._files[path] = known
            return known[1]
        except (OSError, ValueError):
            return ""


def _parts_of(value: str) -> Iterator[str]:
    """A secret; of a key set the keys in it."""
    text = value.strip()
    yield text
    if text[:1] not in "{[":
        return
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        keys = json.loads(text)
        for key in keys.get("keys", [keys]) if isinstance(keys, dict) else keys:
            yield from (str(key[name]) for name in ("k", "d") if name in key)


def _pattern_of(values: Iterable[str]) -> re.Pattern[str] | None:
    forms = {form for value in values for form in _forms_of(value)}
    if not forms:
        return None
    return re.compile("|".join(re.escape(each) for each in sorted(forms, key=len, reverse=True)))


def _forms_of(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    data = secret.encode("utf-8", "surrogatepass")
    for before in range(3):
        # Within a longer text its base64 begins at one of three places; the ends depend on the neighbours.
        coded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        inner = coded[-(-before * 8 // 6) : len(coded) - (1 if (before + len(data)) % 3 else 0)]
        if len(inner) >= _SHORTEST:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")


def as_text(value: object) -> str:
    """An object's ``str``, or what can be said of it where that fails."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"


class SecretsFilter(logging.Filter):
    """Masks secrets in records, for handlers of yours: message, arguments, extra fields, exception, stack.

    It changes the record, for all handlers that see it afterwards. Drops none.

    Args:
        secrets: What is masked; None for those in use.
    """

    def __init__(self, secrets: Secrets | None = None) -> None:
        super().__init__()
        self._secrets = secrets if secrets is not None else Secrets()

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask what the record holds."""
        mask = self._secrets.mask
        try:
            record.msg, record.args = mask(record.getMessage()), ()
        except Exception:  # wrong arguments: the handler says so, but not with what they hold
            record.msg, record.args = mask(as_text(record.msg)), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if record.exc_text:
            record.exc_text, record.exc_info = mask(record.exc_text), None
        if record.stack_info:
            record.stack_info = mask(record.stack_info)
        for name, value in extras_of(record):
            setattr(record, name, self._secrets.mask_all(value))
        return True


_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def extras_of(record: logging.LogRecord) -> list[tuple[str, Any]]:
    """What was given by ``extra=``, or by filters."""
    return [(name, value) for name, value in record.__dict__.items() if name not in _OWN]
