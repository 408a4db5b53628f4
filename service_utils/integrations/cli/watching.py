"""The overview again and again: over itself on a terminal, picture by picture or line by line elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from service_utils.clock import SYSTEM
from service_utils.integrations.cli.face import Face, Trouble
from service_utils.integrations.cli.running import FINE, SICK, WRONG, drawn, showing_module
from service_utils.integrations.cli.words import one_line

__all__ = ["keep_watching", "lines_of_json", "screen"]

Frame = Callable[[Any, str], None]
"""Shows an overview, and since when it is stale and why; an empty text for a fresh one."""


def keep_watching(desk: Face, frame: Frame, *, interval: float, count: int | None) -> int:
    """Show the overview every ``interval`` seconds; the last one while there is no other.

    Returns:
        The exit code after ``count`` times: that of the last look. Without a count it goes on for ever.

    Raises:
        Trouble: There was none to begin with.
    """
    last: Any = None
    since = ""
    number = 0
    while True:
        try:
            last, since = desk.overview(), ""
        except Trouble as error:
            if last is None:
                raise
            since = since or f"{SYSTEM.now():%H:%M:%S} UTC: {one_line(str(error))}"
        frame(last, since)
        number += 1
        if count is not None and number >= count:
            return WRONG if since else SICK if last["sick"] else FINE
        SYSTEM.sleep(interval)


@contextmanager
def screen() -> Iterator[Frame]:
    """Where pictures go.

    Raises:
        Trouble: rich is not installed.
    """
    console = showing_module().console()
    from rich.live import Live
    from rich.text import Text

    if not sys.stdout.isatty():
        yield lambda answer, since: console.print(_picture(answer, since), Text())
        return
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda answer, since: live.update(_picture(answer, since), refresh=True)


def _picture(answer: Any, since: str) -> Any:
    from rich.console import Group
    from rich.text import Text

    picture = drawn(lambda showing: showing.overview_picture(answer))
    return Group(Text(f"Stale since {since}", style="bold red"), picture) if since else picture


def lines_of_json() -> Frame:
    """One line for each answer; that there is none is said once, on standard error."""
    told = ""

    def frame(answer: Any, since: str) -> None:
        nonlocal told
        if not since:
            click.echo(json.dumps(answer))
        elif since != told:
            click.echo(f"Stale since {since}", err=True)
        told = since

    return frame
