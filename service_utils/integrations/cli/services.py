"""Commands for circuits: ``services status``, ``watch``, ``reset``, ``probe`` and their like."""

from __future__ import annotations

from typing import Any

import click

from service_utils.integrations.cli.face import Face, NotThere, Trouble
from service_utils.integrations.cli.running import (
    FINE,
    LONGEST_WAIT,
    SICK,
    WRONG,
    Seconds,
    as_json_option,
    needed_reason,
    progress,
    reason_option,
    runs,
    show,
)
from service_utils.integrations.cli.watching import keep_watching, lines_of_json, screen

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
@click.option("--interval", type=Seconds(0.2, LONGEST_WAIT), default=2.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many pictures.")
@as_json_option
@runs
def watch(desk: Face, interval: float, count: int | None, as_json: bool) -> int:
    """Show level, services and changes, again and again, until Ctrl-C (exit code 130).

    With --json each answer is a line of its own.
    """
    if as_json:
        return keep_watching(desk, lines_of_json(), interval=interval, count=count)
    with screen() as frame:
        return keep_watching(desk, frame, interval=interval, count=count)


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
        one = desk.probe(name)
        show(as_json, one, lambda showing: showing.probes_table([one]))
        return FINE if one["healthy"] else SICK
    found, code = [], FINE
    with progress("Asking", list(desk.circuits()["services"]), as_json) as names:
        for each in names:
            answer, its_code = _probed(desk, each)
            found.append(answer)
            code = max(code, its_code)
    show(as_json, found, lambda showing: showing.probes_table(found))
    return code


def _probed(desk: Face, name: str) -> tuple[dict[str, Any], int]:
    """What is known of one of many, and what that means for the exit code."""
    try:
        found = desk.probe(name)
    except NotThere as error:  # such as one without a health path: it is not what was asked for
        return {"name": name, "healthy": None, "error": str(error)}, FINE
    except Trouble as error:
        return {"name": name, "healthy": None, "error": str(error)}, WRONG
    return found, FINE if found["healthy"] else SICK
