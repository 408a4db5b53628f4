"""``python -m service_utils --url http://host:5000 services status``: the commands over the admin API."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from service_utils.integrations.cli.face import Face, Trouble
from service_utils.integrations.cli.groups import GROUPS
from service_utils.integrations.cli.local import login_name
from service_utils.integrations.cli.remote import RemoteDesk
from service_utils.integrations.cli.running import INTERRUPTED, LONGEST_WAIT, WRONG, Seconds, seat_in

__all__ = ["main"]

_TOKEN = "ADMIN_TOKEN"
_HELP = """Look at the services of a running app, and act on them, over its admin API.

The token is that of the app's ADMIN_TOKEN. It is read from --token-file or from the environment and is no
argument: everybody on the machine can read the arguments of a process.

Dead letters in a file of this machine: python -m service_utils dead-letters --help
"""


@click.group(help=_HELP)
@click.option(
    "--url", envvar="SERVICE_UTILS_URL", show_envvar=True, help="Of the app, such as http://127.0.0.1:5000."
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Holds the admin token. [default: what ADMIN_TOKEN says]",
)
@click.option("--as", "operator", help="Who you are, for the audit log. [default: your login name]")
@click.option(
    "--timeout",
    type=Seconds(0, LONGEST_WAIT, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds until an answer must be there.",
)
@click.pass_context
def cli(
    ctx: click.Context, url: str | None, token_file: Path | None, operator: str | None, timeout: float
) -> None:
    def sit(_: click.Context) -> Face:
        if not url:
            raise Trouble("--url: is needed, or SERVICE_UTILS_URL: where is the app?")
        desk = RemoteDesk(url, _token(token_file), _name(operator), timeout)
        ctx.call_on_close(lambda: desk.__exit__(None, None, None))
        return desk

    seat_in(ctx, sit)


for each in GROUPS:
    cli.add_command(each)


def _token(file: Path | None) -> str:
    try:
        token = os.environ.get(_TOKEN, "").strip() if file is None else file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"--token-file={str(file)!r}: {error}") from None
    where = _TOKEN if file is None else f"--token-file={str(file)!r}"
    if not token:
        raise Trouble(f"{where}: holds no token. Set ADMIN_TOKEN, or name a file by --token-file")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Trouble(f"{where}: holds something that is no token")
    return token


def _name(operator: str | None) -> str:
    name = (operator or login_name()).strip()
    if not name.isascii() or not name.isprintable() or not 1 <= len(name) <= 200:
        raise Trouble(f"--as={name[:50]!r}: must be 1 to 200 ASCII characters on one line")
    return name


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns the exit code."""
    try:
        code = cli.main(list(arguments), prog_name="python -m service_utils", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return WRONG
    except click.Abort:
        click.echo("Aborted.", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else 0
