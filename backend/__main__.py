"""``python -m backend``: run everything, run one part (``--only``), or make a user's token (``token``)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from backend.auth import DEVELOPMENT_USER, issue_token
from backend.config import Settings
from backend.run.everything import run_everything
from backend.run.parts import NAMES, PortError, find_part
from backend.run.single import run_part
from backend.run.token import living_run_token
from service_utils.profiles import current_profile

_INTERRUPTED = 130  # what shells say of a program that Ctrl-C has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.only is None and options.port is not None:
        parser.error("--port needs --only")
    if options.command == "token":
        return _token(options.user, options.hours)
    try:
        if options.only is None:
            return run_everything(production=options.production)
        return _only(options.only, options.port, options.lifeline, production=options.production)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend",
        description="Run the backend and its four local services until Ctrl-C.",
    )
    parser.add_argument("--only", choices=NAMES, help="run one part in this terminal")
    parser.add_argument("--port", type=_port, help="where that part listens")
    parser.add_argument(
        "--production", action="store_true", help="serve the backend by gunicorn, with several workers"
    )
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command")
    token = commands.add_parser("token", help="print a token for a user, signed with AUTH_JWT_SECRET")
    token.add_argument("--user", required=True)
    token.add_argument("--hours", type=float, default=8.0, help="how long it is valid (default: 8)")
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 1 to 65535")
    return int(text)


def _only(name: str, port: int | None, lifeline: int | None, *, production: bool) -> int:
    os.environ.update(living_run_token(os.environ))
    try:
        part = find_part(name, os.environ)
        part = part if port is None else type(part)(part.name, port, "--port")
        run_part(part, lifeline, production=production)
    except PortError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _token(user: str, hours: float) -> int:
    try:
        settings = Settings.load()
        if settings.auth_jwt_secret is None and not settings.auth_jwt_public_key:
            _explain_missing_secret()
            return 1
        print(issue_token(settings, user, hours))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _explain_missing_secret() -> None:
    if current_profile().secrets_required:
        print("AUTH_JWT_SECRET is not set: there is nothing to sign a token with", file=sys.stderr)
    else:
        print(
            f"No token is needed: without AUTH_JWT_SECRET every user is {DEVELOPMENT_USER!r}", file=sys.stderr
        )


if __name__ == "__main__":
    sys.exit(main())
