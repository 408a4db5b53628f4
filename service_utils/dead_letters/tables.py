"""Letters and numbers for people, as plain tables on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service_utils.dead_letters.letter import MESSAGE, DeadLetter

__all__ = ["letter_in_full", "letters_in_rows", "say", "stats_in_rows", "write_json"]

_LONGEST = 60  # characters of a cell; the whole text is in ``show``
_TIMES = ("created_at", "next_attempt_at")


def say(text: str) -> None:
    """Write lines. What letters hold cannot steer the terminal: it shows as ``?``."""
    sys.stdout.write("".join(each if each.isprintable() or each == "\n" else "?" for each in text) + "\n")


def write_json(value: object) -> None:
    """Write JSON for programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def letters_in_rows(letters: Sequence[DeadLetter]) -> None:
    """One line each."""
    if not letters:
        say("No such letters.")
        return
    head = ("ID", "SERVICE", "WHAT", "STATUS", "TRIED", "KEPT", "NEXT", "ERROR")
    _table([head, *(_cells(letter.as_dict()) for letter in letters)])


def _cells(letter: Mapping[str, Any]) -> tuple[str, ...]:
    what = "message" if letter["kind"] == MESSAGE else f"{letter['method']} {letter['path']}"
    return (
        letter["id"],
        letter["service"],
        what,
        letter["status"],
        f"{letter['attempts']}/{letter['max_retries']}",
        _moment(letter["created_at"]),
        _moment(letter["next_attempt_at"]),
        letter["last_error"] or "-",
    )


def letter_in_full(letter: DeadLetter, *, body: bool) -> None:
    """All that is known of one."""
    told = letter.as_dict(body=body)
    shown: dict[str, Any] = {
        name: _moment(value) if name in _TIMES else value for name, value in told.items()
    }
    contents = {name: shown.pop(name) for name in ("body", "last_response") if name in shown}
    headers = shown.pop("headers")
    for name, value in shown.items():
        say(f"{name + ':':<17} {'-' if value in (None, '') else value}")
    for name, value in headers.items():
        say(f"{'header:':<17} {name}: {value}")
    for name, content in contents.items():
        if content is not None:
            say(f"\n{name} ({content['encoding']}):\n{content['content']}")


def stats_in_rows(stats: Mapping[str, Any]) -> None:
    """The numbers of a queue, then those of its services."""
    age = stats["oldest_age_seconds"]
    say(f"letters: {stats['letters']} of {stats['max_letters']}")
    say(f"bytes: {stats['bytes']} of {stats['max_bytes']}")
    say(f"oldest: {'-' if age is None else _age(age)}")
    totals = stats["totals"]
    say(f"ever: {', '.join(f'{number} {name}' for name, number in totals.items())}")
    if stats["services"]:
        names = ("pending", "leased", "dead")
        rows = [
            (service, *(str(found[name]) for name in names)) for service, found in stats["services"].items()
        ]
        say("")
        _table([("SERVICE", *(name.upper() for name in names)), *rows])


def _table(rows: Iterable[Sequence[str]]) -> None:
    cut = [[cell if len(cell) <= _LONGEST else cell[: _LONGEST - 1] + "…" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    for row in cut:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _moment(iso: str | None) -> str:
    """Without fractions of a second; UTC, as the stored one."""
    return "-" if iso is None else iso[:19].replace("T", " ") + "Z"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} old"
    return f"{seconds:.0f} seconds old"
