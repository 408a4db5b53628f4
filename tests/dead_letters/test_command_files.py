"""The command and files that are no queue: nothing is made or changed by looking."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from service_utils.dead_letters import DeadLetterQueue, SQLiteDeadLetters
from service_utils.dead_letters.command import main
from service_utils.storage import Database

LOOK = ["dead-letters", "list", "--file"]
RUN = ["dead-letters", "run", "--once", "--client", "git=http://127.0.0.1:9", "--file"]


@pytest.mark.parametrize("command", [LOOK, ["dead-letters", "stats", "--file"], RUN])
def test_another_ones_database_is_left_alone(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped path to a ledger gets no tables of ours."""
    path = tmp_path / "ledger.sqlite3"
    with closing(Database(path)) as ledger:
        ledger.migrate("ledger", ("CREATE TABLE entry (amount);",))
    before = tables(path)
    assert main([*command, str(path)]) == 2
    assert capsys.readouterr().err == f"{path}: is no queue of dead letters\n"
    assert tables(path) == before


def tables(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name FROM sqlite_master").fetchall()


@pytest.mark.parametrize("command", [LOOK, RUN])
def test_a_file_that_is_not_there_is_not_made(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has mistyped the name reads that there is none, instead of working on an empty queue."""
    path = tmp_path / "nope" / "nope.sqlite3"
    assert main([*command, str(path)]) == 2
    assert capsys.readouterr().err == f"{path}: there is no such file\n"
    assert not path.parent.exists()


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder is called one."""
    assert main([*LOOK, str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: is a directory\n"


def test_a_file_that_is_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any other file is refused with its name."""
    path = tmp_path / "notes.txt"
    path.write_text("letters to grandmother " * 50)
    assert main([*LOOK, str(path)]) == 2
    assert capsys.readouterr().err == f"{path}: file is not a database\n"


def test_a_worker_may_make_its_file(tmp_path: Path) -> None:
    """With --create a worker that comes up before the application makes the file."""
    path = tmp_path / "new.sqlite3"
    assert main([*RUN, str(path), "--create"]) == 0
    assert SQLiteDeadLetters.is_one(path)


def test_a_worker_without_a_token_is_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is turned away with 401 is dead at once, so that is said before."""
    assert main([*RUN, str(tmp_path / "new.sqlite3"), "--create"]) == 0
    assert "INTERNAL_SERVICE_TOKEN is not set: what git answers with 401 is dead at once" in caplog.text


def test_nothing_dead_to_be_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """retry-all is about dead letters, and says so where there are others."""
    path = tmp_path / "letters.sqlite3"
    with closing(SQLiteDeadLetters(path)) as store:
        DeadLetterQueue(store).add("git", "POST", "/a")
    assert main(["dead-letters", "retry-all", "--all", "--file", str(path)]) == 1
    assert capsys.readouterr().out == "There are no dead letters to be tried again.\n"
