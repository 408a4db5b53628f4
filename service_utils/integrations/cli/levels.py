"""Commands for the level of degradation, and the reliability report."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import click

from service_utils.integrations.cli.face import Face, Trouble
from service_utils.integrations.cli.running import (
    FINE,
    SICK,
    Seconds,
    as_json_option,
    needed_reason,
    reason_option,
    runs,
    show,
)

__all__ = ["degradation", "reliability"]

_LEVELS = ("normal", "minor", "moderate", "severe", "critical")
_AN_HOUR = 3600.0


@click.group()
def degradation() -> None:
    """The level of degradation: look at it, set it, let the rules decide."""


def _draw_level(found: dict[str, Any]) -> Callable[[ModuleType], Any]:
    def draw(showing: ModuleType) -> Any:
        from rich.console import Group

        return Group(*showing.level_lines(found))

    return draw


@degradation.command("show")
@as_json_option
@runs
def show_level(desk: Face, as_json: bool) -> int:
    """Show the level and why; exit code 1 when it is not normal."""
    found = desk.level()
    show(as_json, found, _draw_level(found))
    return FINE if found["level"] == "normal" else SICK


@degradation.command("set")
@click.argument("level", type=click.Choice(_LEVELS))
@reason_option
@click.option(
    "--expires-in",
    type=Seconds(0, min_open=True),
    help=f"Seconds until the rules decide again.  [default: {_AN_HOUR:g}]",
)
@click.option("--no-expiry", is_flag=True, help="Instead of that: until it is cleared.")
@as_json_option
@runs
def set_level(
    desk: Face, level: str, reason: str | None, expires_in: float | None, no_expiry: bool, as_json: bool
) -> int:
    """Set the level by hand."""
    if no_expiry and expires_in is not None:
        raise Trouble("--expires-in and --no-expiry: only one of them can be")
    seconds = None if no_expiry else _AN_HOUR if expires_in is None else expires_in
    found = desk.set_level(level, needed_reason(reason), seconds)
    show(as_json, found, _draw_level(found))
    return FINE


@degradation.command("clear")
@click.option("--reason", default="cleared", show_default=True)
@as_json_option
@runs
def clear_level(desk: Face, reason: str, as_json: bool) -> int:
    """Let the rules decide again."""
    found = desk.clear_level(reason)
    show(as_json, found, _draw_level(found))
    return FINE


@click.group()
def reliability() -> None:
    """How the services have been doing."""


@reliability.command("report")
@as_json_option
@runs
def report(desk: Face, as_json: bool) -> int:
    """Show the report of the last day; exit code 1 when a circuit is open now."""
    found = desk.report()
    show(as_json, found, lambda showing: showing.report_picture(found))
    return SICK if found["summary"]["open"] else FINE
