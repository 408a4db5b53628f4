"""The SQLite file that threads and processes share."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.services import database
from backend.services.database import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER NOT NULL)"
OPEN_AND_ADD = """
import sys, pathlib
from backend.services.database import Database
shared = Database(pathlib.Path(sys.argv[1]), "CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")
for n in range(20):
    with shared.writing() as connection:
        connection.execute("INSERT INTO numbers VALUES (?)", (n,))
"""


@pytest.fixture
def shared(tmp_path: Path) -> Database:
    return Database(tmp_path / "new" / "shared.db", SCHEMA)


def add(shared: Database, number: int) -> None:
    with shared.writing() as connection:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))


def count(shared: Database) -> int:
    with shared.reading() as connection:
        found: int = connection.execute("SELECT count(*) FROM numbers").fetchone()[0]
        return found


def test_a_failed_block_changes_nothing(shared: Database) -> None:
    """What a block wrote before it failed is undone, and the database goes on."""
    with pytest.raises(sqlite3.IntegrityError), shared.writing() as connection:
        connection.executemany("INSERT INTO numbers VALUES (?)", [(1,), (None,)])
    add(shared, 2)
    assert count(shared) == 1


def test_a_reader_sees_one_moment(shared: Database) -> None:
    """While a reader reads, others may write, and it does not see them."""
    with shared.reading() as connection:
        before = connection.execute("SELECT count(*) FROM numbers").fetchone()
        add(shared, 1)
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == before
    assert count(shared) == 1


def test_many_threads_write(shared: Database) -> None:
    """Writers wait for each other; none is lost."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: add(shared, number), range(160)))
    assert count(shared) == 160


def test_a_writer_that_waits_too_long(
    shared: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is kept out for too long fails, so that its caller can try again."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    impatient = Database(tmp_path / "new" / "shared.db", SCHEMA)
    with shared.writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
        add(impatient, 1)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Something else in the place of the database is told at the start."""
    (tmp_path / "shared.db").write_bytes(b"no database " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Database(tmp_path / "shared.db", SCHEMA)


def test_it_can_be_used_after_close(shared: Database) -> None:
    """Closing gives connections back; the next use opens them again."""
    add(shared, 1)
    shared.close()
    assert count(shared) == 1


def test_many_processes_begin_at_once(tmp_path: Path) -> None:
    """Processes that start together make one database, and all their writes are in it."""
    path = tmp_path / "shared.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_ADD, str(path)], stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    assert [process.communicate(timeout=50)[1] for process in processes] == [b""] * 6
    assert count(Database(path, SCHEMA)) == 120
