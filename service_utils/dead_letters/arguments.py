"""What ``python -m service_utils dead-letters`` understands."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from service_utils.dead_letters.letter import LetterStatus
from service_utils.dead_letters.queue import DeadLetterQueue

__all__ = ["Handlers", "make_parser"]

_Command: TypeAlias = Callable[[DeadLetterQueue, argparse.Namespace], int]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WIDE = ("service", "status", "older_than")  # what says which letters are meant, where --all does not


class Handlers(NamedTuple):
    """What is done for each command; the parser puts it into ``command`` of the options."""

    run: _Command
    list: _Command
    show: _Command
    retry: _Command
    retry_all: _Command
    purge: _Command
    stats: _Command


class _Parser(argparse.ArgumentParser):
    """One that asks back before all letters are meant."""

    asks = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, rest = super().parse_known_args(args, namespace)
        if self.asks and not (options.all or any(getattr(options, each, None) is not None for each in _WIDE)):
            self.error("which letters are meant? Give a filter, or --all")
        return options, rest


def make_parser(handlers: Handlers) -> argparse.ArgumentParser:
    """The parser. Wrong use ends the process with code 2."""
    parser = argparse.ArgumentParser(prog="python -m service_utils", description="Tools for operators.")
    tools = parser.add_subparsers(title="tools", required=True, metavar="dead-letters")
    letters = tools.add_parser(
        "dead-letters",
        help="calls and messages that could not be delivered",
        description="Look after calls and messages that could not be delivered.",
        epilog="Exit codes: 0 done; 1 nothing found, or refused; 2 wrong use or error.",
    )
    commands = letters.add_subparsers(
        title="commands", required=True, metavar="COMMAND", parser_class=_Parser
    )
    _add_run(commands, handlers.run)
    _add_list(commands, handlers.list)
    _add_show(commands, handlers.show)
    _add_retry(commands, handlers.retry)
    _add_retry_all(commands, handlers.retry_all)
    _add_purge(commands, handlers.purge)
    _add(commands, "stats", handlers.stats, "say how many letters there are, how old and how large")
    return parser


def _add(commands: Any, name: str, command: _Command, help: str) -> _Parser:
    parser: _Parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.set_defaults(command=command)
    parser.add_argument("--file", required=True, metavar="PATH", help="the SQLite file of the queue")
    parser.add_argument("--json", action="store_true", help="say it in JSON")
    return parser


def _add_run(commands: Any, command: _Command) -> None:
    parser = _add(commands, "run", command, "deliver letters until SIGTERM or Ctrl-C")
    parser.add_argument(
        "--client",
        action="append",
        required=True,
        type=_client,
        metavar="NAME=URL",
        help="where the letters for this service go; once for each service",
    )
    parser.add_argument(
        "--interval",
        type=_age,
        default=5.0,
        metavar="TIME",
        help="between two looks, such as 90, 30s or 5m (default: 5s)",
    )
    parser.add_argument(
        "--batch-size", type=_count, default=20, metavar="N", help="letters taken at once (default: 20)"
    )
    parser.add_argument(
        "--lease", type=_age, default=60.0, metavar="TIME", help="how long a letter is ours (default: 60s)"
    )
    parser.add_argument("--create", action="store_true", help="make the file if it is not there yet")
    parser.add_argument("--once", action="store_true", help="deliver one batch of each service, then end")


def _add_list(commands: Any, command: _Command) -> None:
    parser = _add(commands, "list", command, "list letters, oldest first")
    _add_filter(parser)
    parser.add_argument(
        "--limit", type=_count, default=100, metavar="N", help="how many at most (default: 100)"
    )
    parser.add_argument("--after", metavar="ID", help="begin behind this letter")


def _add_show(commands: Any, command: _Command) -> None:
    parser = _add(commands, "show", command, "show one letter")
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--body", action="store_true", help="its body and the kept answer, too: users' data")


def _add_retry(commands: Any, command: _Command) -> None:
    parser = _add(commands, "retry", command, "have one letter tried again at once")
    parser.add_argument("id", metavar="ID")
    _add_force(parser)


def _add_retry_all(commands: Any, command: _Command) -> None:
    parser = _add(
        commands,
        "retry-all",
        command,
        "have letters tried again at once, dead ones unless --status says otherwise",
    )
    _add_filter(parser)
    _add_force(parser)
    _add_all(parser)


def _add_purge(commands: Any, command: _Command) -> None:
    parser = _add(commands, "purge", command, "remove letters for good")
    _add_filter(parser)
    parser.add_argument(
        "--older-than", type=_age, metavar="TIME", help="only those kept longer ago, such as 7d"
    )
    _add_all(parser)


def _add_filter(parser: _Parser) -> None:
    parser.add_argument("--service", metavar="NAME", help="only of this service, or of this type of message")
    parser.add_argument("--status", choices=[each.value for each in LetterStatus], help="only in this status")


def _add_force(parser: _Parser) -> None:
    parser.add_argument("--force", action="store_true", help="also what is older than 30 days")


def _add_all(parser: _Parser) -> None:
    parser.add_argument("--all", action="store_true", help="without a filter: all of them")
    parser.asks = True


def _client(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not (name and url):
        raise argparse.ArgumentTypeError("is not NAME=URL")  # it may hold a password
    return name, url


def _age(text: str) -> float:
    number = text.rstrip("smhd")
    try:
        seconds = float(number) * _UNITS[text[len(number) :]]
    except (KeyError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90, 30s, 5m, 2h or 7d")
    return seconds


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)
