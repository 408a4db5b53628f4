"""``flask services …`` and its sisters: the operators' commands for the app that Flask has loaded."""

from __future__ import annotations

from collections.abc import Callable

import click
from flask import Flask
from flask.cli import with_appcontext

from service_utils.events import subscribe
from service_utils.integrations.cli.groups import GROUPS
from service_utils.integrations.cli.local import LocalDesk, login_name
from service_utils.integrations.cli.running import seat_in
from service_utils.operating import OperatorDesk, Recorder

__all__ = ["mount_commands"]

_ALONE = (
    "What is shown has {what} of this command alone: those of the running app are not shared between "
    "processes. Ask it by python -m service_utils --url …"
)


def mount_commands(app: Flask, desk: OperatorDesk, recorder: Recorder) -> None:
    """Give ``flask`` the commands of :mod:`service_utils.integrations.cli.groups`.

    Args:
        app: The app.
        desk: What they show and do.
        recorder: Keeps what they change for the history, as the app's own processes do with what they change.
    """
    for group in GROUPS:
        name = click.Option(["--as", "operator"], help="Who you are, for the audit log.")
        app.cli.add_command(
            click.Group(
                group.name,
                commands=group.commands,
                help=group.help,
                params=[name],
                callback=with_appcontext(_sit_at(desk, recorder)),
            )
        )


def _sit_at(desk: OperatorDesk, recorder: Recorder) -> Callable[..., None]:
    @click.pass_context
    def sit(ctx: click.Context, operator: str | None) -> None:
        def seat(_: click.Context) -> LocalDesk:
            local = LocalDesk(desk, operator or login_name())
            copies = local.copies(ctx.info_name or "")
            if copies is not None:
                click.echo(_ALONE.format(what=copies), err=True)
            unsubscribe = subscribe(recorder.note)
            ctx.call_on_close(recorder.flush)
            ctx.call_on_close(unsubscribe)
            return local

        seat_in(ctx, seat)

    return sit
