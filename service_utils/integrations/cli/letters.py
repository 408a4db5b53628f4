"""Commands for dead letters: ``dlq list``, ``show``, ``retry``, ``retry-all``, ``purge``."""

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
    confirmed,
    needed_reason,
    progress,
    reason_option,
    runs,
    say,
    show,
)

__all__ = ["dlq"]

_STATUSES = ("pending", "leased", "dead")


@click.group()
def dlq() -> None:
    """Dead letters: look through them, have them tried again, remove them."""


_service = click.option("--service", help="Only of this service.")
_status = click.option("--status", type=click.Choice(_STATUSES), help="Only in this status.")


@dlq.command("list")
@_service
@_status
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--after", help="The id of the last letter of the page before.")
@as_json_option
@runs
def list_letters(desk: Face, as_json: bool, **chosen: Any) -> int:
    """Show letters, oldest first; exit code 1 when there are none of these."""
    found = desk.letters(**chosen)

    def draw(showing: ModuleType) -> Any:
        return showing.letters_table(found["letters"])

    show(as_json, found, draw)
    if found["next"] is not None and not as_json:
        click.echo(f"There are more: --after {found['next']}")
    return FINE if found["letters"] else SICK


@dlq.command("show")
@click.argument("letter_id", metavar="ID")
@click.option("--body", is_flag=True, help="Also the body, which is users' data; that you looked is kept.")
@as_json_option
@runs
def show_letter(desk: Face, letter_id: str, body: bool, as_json: bool) -> int:
    """Show all that is known of a letter."""
    found = desk.letter(letter_id, body=body)
    show(as_json, found, lambda showing: showing.letter_lines(found))
    return FINE


@dlq.command()
@click.argument("letter_id", metavar="ID")
@click.option("--force", is_flag=True, help="Even if it is so old that doing it twice cannot be ruled out.")
@click.option("--reason", default="asked for", show_default=True)
@as_json_option
@runs
def retry(desk: Face, letter_id: str, force: bool, reason: str, as_json: bool) -> int:
    """Have a letter tried again; exit code 1 when that is being done just now."""
    found = desk.retry(letter_id, reason, force=force)
    words = "will be tried again" if found["queued"] else "is being tried just now"
    say(as_json, found, f"Letter {letter_id} {words}.")
    return FINE if found["queued"] else SICK


@dlq.command("retry-all")
@_service
@click.option("--status", type=click.Choice(_STATUSES), default="dead", show_default=True)
@click.option("--force", is_flag=True, help="Even those so old that doing them twice cannot be ruled out.")
@click.option("--reason", default="asked for", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask back.")
@as_json_option
@runs
def retry_all(desk: Face, as_json: bool, yes: bool, **chosen: Any) -> int:
    """Have letters tried again; exit code 1 when there are none of these."""
    confirmed(f"Have all {_chosen(chosen)} tried again?", yes=yes)

    def one(service: str) -> int:
        done = desk.retry_all(service, chosen["status"], chosen["reason"], force=chosen["force"])
        return int(done["letters"])

    number = _for_each_service(desk, chosen["service"], one, as_json, "Queueing")
    say(as_json, {"letters": number}, f"{_letters(number)} will be tried again.")
    return FINE if number else SICK


@dlq.command()
@_service
@_status
@click.option("--older-than", type=Seconds(0), help="Only those kept longer than so many seconds.")
@reason_option
@click.option("--yes", is_flag=True, help="Do not ask back.")
@as_json_option
@runs
def purge(desk: Face, as_json: bool, yes: bool, reason: str | None, **chosen: Any) -> int:
    """Remove letters for good: what they were to do is not done."""
    why = needed_reason(reason)
    question = f"What these letters were to do will not be done: all {_chosen(chosen)}"
    confirmed(f"{question}. Remove them for good?", yes=yes)

    def one(service: str) -> int:
        return int(desk.purge(service, chosen["status"], chosen["older_than"], why)["letters"])

    number = _for_each_service(desk, chosen["service"], one, as_json, "Removing")
    say(as_json, {"letters": number}, f"{_letters(number)} removed for good.")
    return FINE if number else SICK


def _for_each_service(
    desk: Face, service: str | None, act: Callable[[str], int], quiet: bool, words: str
) -> int:
    """Many letters take a while: service by service, so that it is to be seen how far it is.

    Raises:
        Trouble: With what was done before, where that was something.
    """
    found = (
        [service] if service is not None else sorted(desk.letters(None, None, 1, None)["stats"]["services"])
    )
    done = 0
    with progress(words, found, quiet) as names:
        try:
            for each in names:
                done += act(each)
        except Trouble as error:
            if not done:
                raise
            raise Trouble(f"{error} (it was done with {_letters(done)} of other services before)") from error
    return done


def _chosen(chosen: dict[str, Any]) -> str:
    """Which letters, in words."""
    words = f"{chosen['status']} letters" if chosen["status"] else "letters"
    words += f" of {chosen['service'] or 'all services'}"
    age = chosen.get("older_than")
    return words if age is None else f"{words} that were kept longer than {age:g} s"


def _letters(number: int) -> str:
    return "1 letter" if number == 1 else f"{number} letters"
