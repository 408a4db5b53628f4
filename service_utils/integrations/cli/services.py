"""Commands for circuits: ``services status``, ``watch``, ``reset``, ``probe`` and their like."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import click

from service_utils.clock import SYSTEM
from service_utils.integrations.cli.face import Face, Trouble
from service_utils.integrations.cli.running import (
    FINE,
    SICK,
    WRONG,
    as_json_option,
    needed_reason,
    progress,
    reason_option,
    runs,
    show,
    showing_module,
)

__all__ = ["services"]


@click.group()
def services() -> None:
    """Circuits: look at them, and act on them."""


@services.command()
@as_json_option
@runs
def status(desk: Face, as_json: bool) -> int:
    """Show all services; exit code 1 when one is sick."""
    found = desk.circuits()
    show(as_json, found, lambda showing: showing.circuits_table(found["services"]))
    return SICK if found["open"] else FINE


@services.command()
@click.option("--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many pictures.")
@runs
def watch(desk: Face, interval: float, count: int | None) -> int:
    """Show level, services and changes, again and again, until Ctrl-C (exit code 130)."""
    showing = showing_module()
    sick = False
    with _screen(showing) as draw:
        last: Any = None
        since = ""
        number = 0
        while True:
            try:
                found = desk.overview()
                last, since, sick = showing.overview_picture(found), "", bool(found["sick"])
            except Trouble as error:
                if last is None:
                    raise
                since = since or f"{SYSTEM.now():%H:%M:%S} UTC: {error}"
            draw(last, since)
            number += 1
            if count is not None and number >= count:
                return WRONG if since else SICK if sick else FINE
            SYSTEM.sleep(interval)


@contextmanager
def _screen(showing: ModuleType) -> Iterator[Callable[[Any, str], None]]:
    """Where pictures go: over each other on a terminal, one after the other elsewhere."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = showing.console()

    def whole(picture: Any, since: str) -> Any:
        return Group(Text(f"Stale since {since}", style="bold red"), picture) if since else picture

    if not sys.stdout.isatty():
        yield lambda picture, since: console.print(whole(picture, since), Text())
        return
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda picture, since: live.update(whole(picture, since), refresh=True)


def _add_act(name: str, words: str) -> None:
    @services.command(name, help=words)
    @click.argument("name")
    @reason_option
    @as_json_option
    @runs
    def act(desk: Face, reason: str | None, as_json: bool, **place: str) -> int:
        service = place["name"]
        found = desk.act(service, name, needed_reason(reason))
        show(as_json, found, lambda showing: showing.circuits_table({service: found}))
        return FINE


_add_act("reset", "Close a circuit, and end the pause its service has asked for.")
_add_act("force-open", "Refuse all calls of a service, until it is reset.")
_add_act("disable", "Let all calls of a service through, until it is reset.")


@services.command()
@click.argument("name", required=False)
@as_json_option
@runs
def probe(desk: Face, name: str | None, as_json: bool) -> int:
    """Ask a service's health path, or those of all; exit code 1 when one is unhealthy."""
    if name is not None:
        found = [desk.probe(name)]
    else:
        found = []
        with progress("Asking", list(desk.circuits()["services"]), as_json) as names:
            for each in names:
                found.append(_probed(desk, each))
    show(as_json, found, lambda showing: showing.probes_table(found))
    return SICK if any(each["healthy"] is False for each in found) else FINE


def _probed(desk: Face, name: str) -> dict[str, Any]:
    try:
        return desk.probe(name)
    except Trouble as error:  # such as one without a health path
        return {"name": name, "healthy": None, "error": str(error)}
