"""How answers look: tables by rich for people, JSON for machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from service_utils.clock import SYSTEM
from service_utils.integrations.cli.words import printable

__all__ = [
    "circuits_table",
    "console",
    "letter_lines",
    "letters_table",
    "level_lines",
    "overview_picture",
    "probes_table",
    "report_picture",
]

_ROOMY = 120  # columns of a terminal from which on all columns of the services have room
_WIDE = 400  # columns where no terminal sets a limit: nothing is cut off in a pipe

# State: shape, word, style. Whoever sees no colours has the word and the shape.
_STATES = {
    "closed": ("●", "closed", "green"),
    "open": ("■", "open", "bold red"),
    "half_open": ("◐", "half open", "yellow"),
    "forced_open": ("▲", "forced open", "bold magenta"),
    "disabled": ("○", "disabled", "dim"),
}
_HEALTH = {
    True: ("✓ healthy", "green"),
    False: ("✗ unhealthy", "bold red"),
    None: ("– not asked", "dim"),
}
_LEVELS = {
    "normal": "green",
    "minor": "yellow",
    "moderate": "yellow",
    "severe": "red",
    "critical": "bold red",
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


class _Console(Console):
    """A console that leaves it to the command what a reader who has gone means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Standard output: in colours on a terminal (unless ``NO_COLOR`` is set), plain and wide elsewhere."""
    plain = not sys.stdout.isatty()
    return _Console(
        force_terminal=False if plain else None,  # FORCE_COLOR would put escape sequences into files
        width=_WIDE if plain else None,
        no_color=True if plain else None,  # rich itself heeds NO_COLOR
        highlight=False,
        soft_wrap=plain,
        emoji=False,
        markup=False,
    )


def overview_picture(overview: Mapping[str, Any]) -> RenderableType:
    """Level, services, and the last changes."""
    parts: list[RenderableType] = []
    if overview.get("level") is not None:
        parts += [*level_lines(overview["level"]), Text()]
    parts.append(circuits_table({each["name"]: each for each in overview["services"]}))
    letters = overview.get("letters")
    if letters is not None:
        words = f"Dead letters: {letters['letters']} ({letters['pending']} waiting, {letters['dead']} dead)"
        parts += [Text(), Text(words, style="red" if letters["dead"] else "")]
    if overview.get("changes"):
        parts += [Text(), _changes_table(overview["changes"][:8])]
    return Group(*parts)


def circuits_table(services: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """One line each."""
    if not services:
        return Text("No service is registered.")
    columns = [each for each in _COLUMNS if not (each.only_wide and _is_narrow())]
    if not any("per_second" in each for each in services.values()):
        columns = [each for each in columns if not each.of_overview]
    table = _table(*(each.head for each in columns))
    table.add_column("LAST ERROR", overflow="fold", ratio=1)
    for name, status in services.items():
        error = _plain(status.get("last_error") or status.get("error"))
        table.add_row(*(each.cell(name, status) for each in columns), error)
    return table


def probes_table(probes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """How services answered."""
    table = _table("SERVICE", "HEALTH", "CIRCUIT", "STATUS", "TOOK")
    table.add_column("ERROR", overflow="fold", ratio=1)
    for each in probes:
        text, style = _HEALTH[each.get("healthy")]
        table.add_row(
            _safe(each["name"], style="bold"),
            Text(text, style=style),
            _state(each["state"]) if "state" in each else _plain(None),
            _plain(each.get("status")),
            _ms(each["seconds"] * 1000 if each.get("seconds") is not None else None),
            _plain(each.get("error")),
        )
    return table


def level_lines(level: Mapping[str, Any]) -> list[RenderableType]:
    """The level, since when, and why."""
    line = Text("Degradation: ")
    line.append(printable(level["level"]), style=_LEVELS.get(level["level"], ""))
    line.append(f", changed {_ago(level.get('since')).plain} ago")
    lines: list[RenderableType] = [line]
    override = level.get("override")
    if override is not None:
        left = override.get("expires_in")
        until = "until it is cleared" if left is None else f"for another {_span(left)}"
        lines.append(_safe(f"  set by {override['author']} ({override['reason']}), {until}"))
    lines += [_safe(f"  {each}") for each in level.get("reasons") or () if override is None]
    return lines


def letters_table(letters: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line each."""
    if not letters:
        return Text("No such letters.")
    table = _table("ID", "SERVICE", "WHAT", "STATUS", "TRIED", "KEPT")
    table.add_column("LAST ERROR", overflow="fold", ratio=1)
    for each in letters:
        table.add_row(
            _safe(each["id"]),
            _plain(each["service"]),
            _plain(f"{each['method']} {each['path']}".strip() or each["kind"]),
            _safe(each["status"], style="red" if each["status"] == "dead" else ""),
            _of(each["attempts"], each["max_retries"]),
            _ago(each["created_at"]),
            _plain(each["last_error"]),
        )
    return table


def letter_lines(letter: Mapping[str, Any]) -> RenderableType:
    """All that is known of one."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in letter.items():
        if name in ("body", "last_response"):
            continue
        words = value
        if isinstance(value, Mapping):
            words = ", ".join(f"{key}: {each}" for key, each in value.items())
        table.add_row(_safe(name), _plain(words))
    parts: list[RenderableType] = [table]
    for name in ("body", "last_response"):
        content = letter.get(name)
        if content:
            head = _safe(f"{name} ({content['encoding']})", style="bold")
            parts += [Text(), head, _safe(content["content"])]
    return Group(*parts)


def report_picture(report: Mapping[str, Any]) -> RenderableType:
    """The services' days, and what deserves a look."""
    table = _table("SERVICE", "STATE", "CALLS", "SUCCESS", "OPENED", "OPEN FOR", "AVAILABLE", "MTTR")
    for name, each in report["services"].items():
        table.add_row(
            _safe(name, style="bold"),
            _state(each["state"]),
            _plain(each["requests"].get("total")),
            _share(each["success_rate"]),
            _plain(each["openings"]),
            Text(_span(each["open_seconds"])),
            _share(each["availability"]),
            _seconds(each["mttr_seconds"]),
        )
    since, until = (report[each][:16].replace("T", " ") for each in ("since", "generated_at"))
    parts: list[RenderableType] = [_safe(f"{since} to {until} UTC"), Text(), table]
    parts += [Text(), *(_safe(f"! {each}") for each in report["advice"])] if report["advice"] else []
    return Group(*parts)


def _changes_table(changes: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("AGO", "SERVICE", "FROM", "TO")
    table.add_column("WHY", overflow="fold", ratio=1)
    for each in changes:
        table.add_row(
            _ago(each["at"]),
            _plain(each["service"]),
            _plain(each["from"]),
            _state(each["to"]),
            _plain(each["reason"]),
        )
    return table


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


def _safe(text: str, style: str = "") -> Text:
    """What came from elsewhere cannot steer the terminal."""
    return Text(printable(text), style=style)


def _plain(value: Any) -> Text:
    return Text("–") if value is None or value == "" else _safe(str(value))


def _state(state: Any) -> Text:
    shape, word, style = _STATES.get(state, ("▲", str(state or "unknown"), "red"))
    return _safe(word if state in _LEVELS else f"{shape} {word}", style=_LEVELS.get(state, style))


def _of(count: Any, limit: Any) -> Text:
    return Text("–" if count is None else f"{count}/{limit}")


def _ms(value: float | None) -> Text:
    if value is None:
        return Text("–")
    return Text(
        f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
    )


def _share(value: float | None) -> Text:
    return Text("–" if value is None else f"{value:.2%}")


def _seconds(value: float | None) -> Text:
    return Text("–" if value is None else _span(value))


def _ago(moment: str | None) -> Text:
    if not moment:
        return Text("–")
    then = datetime.fromisoformat(moment)
    return Text(_span(max((SYSTEM.now() - then.astimezone(UTC)).total_seconds(), 0.0)))


def _span(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _is_narrow() -> bool:
    return sys.stdout.isatty() and console().width < _ROOMY


class _Column(NamedTuple):
    """A column of the services.

    Attributes:
        head: Its title.
        cell: What stands in it.
        only_wide: It is left out where there is no room.
        of_overview: It is known in overviews only.
    """

    head: str
    cell: Callable[[str, Mapping[str, Any]], Text]
    only_wide: bool = False
    of_overview: bool = False


_COLUMNS = (
    _Column("SERVICE", lambda name, _: _safe(name, style="bold")),
    _Column("STATE", lambda _, each: _state(each.get("state"))),
    _Column("FAILURES", lambda _, each: _of(each.get("failure_count"), each.get("failure_threshold"))),
    _Column("SINCE", lambda _, each: _ago(each.get("last_state_change"))),
    _Column("NEXT PROBE", lambda _, each: _seconds(each.get("next_probe_in"))),
    _Column("CALLS", lambda _, each: _plain((each.get("requests") or {}).get("total")), only_wide=True),
    _Column("REJECTED", lambda _, each: _plain((each.get("requests") or {}).get("rejected")), only_wide=True),
    _Column("P95", lambda _, each: _ms((each.get("latency_ms") or {}).get("p95")), only_wide=True),
    _Column("PER S", lambda _, each: _plain(each.get("per_second")), of_overview=True),
    _Column("ERRORS", lambda _, each: _share(each.get("error_rate")), of_overview=True),
)
