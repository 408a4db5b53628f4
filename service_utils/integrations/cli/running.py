"""What all commands share: how they find their desk, ask, answer and end.

Exit codes: 0 done, and all closed; 1 something is open, unhealthy, or not there; 2 it cannot be done.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import click

from service_utils.integrations.cli.face import Face, Trouble
from service_utils.integrations.cli.words import one_line

__all__ = [
    "FINE",
    "INTERRUPTED",
    "LONGEST_WAIT",
    "SICK",
    "WRONG",
    "Seat",
    "Seconds",
    "as_json_option",
    "confirmed",
    "drawn",
    "fail",
    "needed_reason",
    "progress",
    "reason_option",
    "runs",
    "say",
    "seat_in",
    "show",
    "showing_module",
]

FINE, SICK, WRONG = 0, 1, 2
INTERRUPTED = 130  # what shells say of a program that Ctrl-C has ended

Seat = Callable[[click.Context], Face]
"""Finds the desk when a command runs; it is kept in ``ctx.meta`` under this module's name."""

LONGEST_WAIT = 3600.0
"""The most seconds that a command may be told to wait for anything."""

Command = Callable[..., int]
Draw = Callable[[ModuleType], Any]


def seat_in(ctx: click.Context, seat: Seat) -> None:
    """Say where the commands below find their desk."""
    ctx.meta[__name__] = seat


def fail(words: str) -> int:
    """Say why it cannot be done."""
    click.echo(f"Error: {one_line(words)}", err=True)
    return WRONG


def showing_module() -> ModuleType:
    """The module that draws, which needs rich.

    Raises:
        Trouble: It is not installed.
    """
    try:
        from service_utils.integrations.cli import showing
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise Trouble("tables need rich: pip install 'service-utils[cli]', or use --json") from error
    return showing


def runs(command: Command) -> Callable[..., None]:
    """A command's body: finds the desk, and makes its result the exit code."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        ctx = click.get_current_context()
        ctx.exit(_code_of(command, ctx, options))

    return run


def _code_of(command: Command, ctx: click.Context, options: dict[str, Any]) -> int:
    _write_what_can_be_written()
    try:
        seat: Seat = ctx.meta[__name__]
        code = command(seat(ctx), **options)
        sys.stdout.flush()
    except Trouble as error:
        return fail(str(error))
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except (KeyboardInterrupt, click.Abort):
        click.echo("Aborted.", err=True)
        return INTERRUPTED
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception:
        # Python's own exit code after a traceback is 1, which says here that something is open.
        traceback.print_exc()
        return WRONG
    return code


def _write_what_can_be_written() -> None:
    """Where an encoding lacks the shapes of the states, the words are there all the same."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class Seconds(click.FloatRange):
    """A number of seconds. What is no number, or has no end, is refused: ``nan`` passes any range."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return number


as_json_option = click.option("--json", "as_json", is_flag=True, help="For machines: the whole answer.")


def reason_option(function: Any) -> Any:
    """The option that acts need; asked for on a terminal."""
    return click.option("--reason", help="Why; it is kept in the audit log. Asked for on a terminal.")(
        function
    )


def needed_reason(reason: str | None) -> str:
    """The reason, asked for on a terminal where it is left out.

    Raises:
        Trouble: It is needed, and nobody can be asked.
    """
    if reason is not None and reason.strip():
        return reason
    if not sys.stdin.isatty():
        raise Trouble("--reason: is needed")
    words: str = click.prompt("Reason", err=True, value_proc=_some_words)
    return words


def _some_words(text: str) -> str:
    if not text.strip():
        raise click.UsageError("A few words are needed.")
    return text


def confirmed(question: str, *, yes: bool) -> None:
    """Ask back before what cannot be undone.

    Raises:
        Trouble: The answer is no, or nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Trouble("--yes: is needed where nobody can be asked")
    if not click.confirm(question, err=True):
        raise Trouble("nothing was done")


def show(as_json: bool, answer: Any, draw: Draw) -> None:
    """Write an answer for machines, or have it drawn for people."""
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    picture = drawn(draw)
    showing_module().console().print(picture)


def drawn(draw: Draw) -> Any:
    """The picture of an answer.

    Raises:
        Trouble: rich is not installed, or the answer lacks what is to be drawn.
    """
    showing = showing_module()
    try:
        return draw(showing)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Trouble(
            f"the answer cannot be drawn ({type(error).__name__}: {error}). Is the app of another version? "
            "--json shows the answer as it is"
        ) from error


def say(as_json: bool, answer: Any, words: str) -> None:
    """The same for an answer that one sentence tells."""
    if as_json:
        show(True, answer, lambda showing: None)
    else:
        click.echo(words)


@contextmanager
def progress(words: str, steps: list[Any], quiet: bool) -> Iterator[Any]:
    """The steps one by one, with a bar on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield steps
        return
    showing_module()
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield progress.track(steps, description=words)
