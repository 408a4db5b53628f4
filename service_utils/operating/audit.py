"""Who did what, when and why: a log of what operators do, which is appended to and never rewritten."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from service_utils.clock import SYSTEM, Clock

__all__ = ["AuditEntry", "AuditLog", "Operator"]

_logger = logging.getLogger("service_utils.audit")

_LONGEST = 200  # characters of a name, an address or a reason
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KEPT = 500  # entries that a log without a file remembers
_BLOCK = 65536  # bytes read at once, from the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Somebody who may act on the services.

    Attributes:
        name: Who, as they say themselves: all operators share one token.
        address: Where the request came from; empty for a shell on the machine itself.

    Raises:
        ValueError: The name is empty, too long, or holds control characters.
        TypeError: It is no string.
    """

    name: str
    address: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", one_line("operator", self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One thing that was done, or tried.

    Attributes:
        at: When, in UTC.
        who: The operator's name.
        address: Where they came from.
        action: What, such as ``circuit.reset``.
        target: On what: a service, a letter's id, or a level.
        why: The reason given.
        outcome: ``done``, or how it failed.
        details: What else there is to it, such as how many letters.
    """

    at: datetime
    who: str
    address: str
    action: str
    target: str
    why: str
    outcome: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "at": self.at.isoformat(),
            "who": self.who,
            "address": self.address,
            "action": self.action,
            "target": self.target,
            "why": self.why,
            "outcome": self.outcome,
            **({"details": dict(self.details)} if self.details else {}),
        }


class AuditLog:
    """Keeps the entries, one JSON object per line. May be used from any thread and by several processes.

    Each entry also goes to the logger ``service_utils.audit``, whatever becomes of the file: an operator who
    has to act while the disk is full is not held up, and the entry is in the log.

    Args:
        path: The file; its folder is made when missing, and it is readable by its owner only. None keeps the
            last 500 entries in memory.
        clock: Where the time comes from.

    Raises:
        OSError: The folder or the file cannot be made.
    """

    def __init__(self, path: str | Path | None = None, *, clock: Clock = SYSTEM) -> None:
        self._path = None if path is None else Path(path).absolute()
        self._clock = clock
        self._recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(self._open())

    def __repr__(self) -> str:
        return f"AuditLog({str(self._path)!r})" if self._path else "AuditLog()"

    def record(
        self,
        operator: Operator,
        action: str,
        target: str,
        *,
        why: str,
        outcome: str = "done",
        details: Mapping[str, Any] | None = None,
    ) -> AuditEntry:
        """Keep an entry; returns it. A file that cannot be written is logged, with the entry."""
        entry = AuditEntry(
            at=self._clock.now(),
            who=operator.name,
            address=operator.address,
            action=action,
            target=_UNPRINTABLE.sub(" ", target)[:_LONGEST],
            why=why,
            outcome=outcome,
            details=details or {},
        )
        _logger.info(
            "%s by %s%s on %s: %s (%s)",
            action,
            entry.who,
            f" from {entry.address}" if entry.address else "",
            entry.target or "all",
            outcome,
            why,
            extra={"event": "audit", **{f"audit_{name}": value for name, value in entry.as_dict().items()}},
        )
        try:
            self._keep(entry.as_dict())
        except OSError as error:
            _logger.error("%s cannot be written (%s); the entry is: %s", self._path, error, entry.as_dict())
        return entry

    def entries(self, limit: int = 100) -> list[dict[str, Any]]:
        """The last entries, latest first. A line that a crash has cut off is left out.

        Raises:
            OSError: The file cannot be read.
        """
        if self._path is None:
            return list(self._recent)[: -limit - 1 : -1]
        found: list[dict[str, Any]] = []
        for line in self._lines_from_the_end():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    found.append(entry)
            if len(found) >= limit:
                break
        return found

    def _keep(self, entry: dict[str, Any]) -> None:
        if self._path is None:
            self._recent.append(entry)
            return
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        file = self._open()
        try:
            # With O_APPEND a write has its place to itself, in all processes. The line before it may have
            # been cut off by a crash or a full disk; that two find it so and begin a new one does no harm.
            head = b"" if _ends_a_line(file) else b"\n"
            written = os.write(file, head + line + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        if written < len(head) + len(line) + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        assert self._path is not None
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _lines_from_the_end(self) -> list[bytes]:
        file = self._open()
        try:
            end = os.fstat(file).st_size
            begin = max(end - 8 * _BLOCK, 0)
            lines = os.pread(file, end - begin, begin).split(b"\n")
        finally:
            os.close(file)
        return [line for line in reversed(lines if begin == 0 else lines[1:]) if line]


def _ends_a_line(file: int) -> bool:
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"


def one_line(name: str, text: object) -> str:
    """The text without blanks around it.

    Raises:
        ValueError: It is empty, longer than 200 characters, or has control characters.
        TypeError: It is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name}={text!r}: must be a string")
    words = text.strip()
    if not words or len(words) > _LONGEST or _UNPRINTABLE.search(words):
        raise ValueError(f"{name}={text[:300]!r}: must be 1 to {_LONGEST} characters on one line")
    return words
