"""The commands of the page about dead letters can be typed as they stand there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from service_utils.dead_letters.arguments import make_parser
from service_utils.dead_letters.command import _HANDLERS

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"
PROGRAM = "python -m service_utils dead-letters "
COMMANDS = [
    line.partition(PROGRAM)[2]
    for line in PAGE.read_text("utf-8").splitlines()
    if PROGRAM in line and not line.startswith("`")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str) -> None:
    """Options and commands of the page are those of the program."""
    make_parser(_HANDLERS).parse_args(["dead-letters", *shlex.split(command)])


def test_there_are_commands() -> None:
    """The page has been read."""
    assert {command.split()[0] for command in COMMANDS} >= {"run", "list", "show", "stats", "retry"}
