"""SQLite files: shared, forked, migrated, full, removed, damaged."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from service_utils.storage import Database, Durability, StorageError, StorageFull
from tests.forked import in_child
from tests.side_by_side import together

SCRIPTS = ("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL);",)
NEXT = (*SCRIPTS, "ALTER TABLE note ADD COLUMN author TEXT;\nCREATE INDEX by_author ON note (author);")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "notes.db"


@pytest.fixture
def database(path: Path):
    database = Database(path)
    database.migrate("notes", SCRIPTS)
    yield database
    database.close()


def write(database: Database, text: str) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO note (text) VALUES (?)", (text,))


def texts(database: Database) -> list[str]:
    with database.read() as connection:
        return [text for (text,) in connection.execute("SELECT text FROM note ORDER BY id")]


def test_what_was_written_is_there(database: Database, path: Path) -> None:
    """What one block wrote another reads, also through an object and a connection of its own."""
    write(database, "a")
    other = Database(path)
    assert texts(database) == texts(other) == ["a"]
    other.close()


def test_files_are_private(database: Database, path: Path) -> None:
    """Nobody but the owner reads the database, its log, or looks into the folder made for them."""
    write(database, "a")
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"notes.db": 0o600, "notes.db-wal": 0o600, "notes.db-shm": 0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("durability", "number"), [(Durability.FULL, 2), (Durability.NORMAL, 1)])
def test_durability_is_sqlites(path: Path, durability: Durability, number: int) -> None:
    """The promise about power failures is the one SQLite is told to keep."""
    database = Database(path, durability=durability)
    with database.read() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


@pytest.mark.parametrize("error", [KeyError("k"), KeyboardInterrupt(), SystemExit()])
def test_a_block_that_raises_is_undone(database: Database, error: BaseException) -> None:
    """Whatever ends the block early, nothing of it is kept, and the next writer need not wait."""

    def fail() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO note (text) VALUES ('half')")
            raise error

    with pytest.raises(type(error)):
        fail()
    write(database, "whole")
    assert texts(database) == ["whole"]


def test_the_callers_own_mistakes_stay_what_they_are(database: Database) -> None:
    """A broken constraint says nothing about the file, so it is not made a StorageError."""
    with pytest.raises(sqlite3.IntegrityError), database.write() as connection:
        connection.execute("INSERT INTO note (text) VALUES (NULL)")
    with pytest.raises(FileNotFoundError), database.read():
        Path("/nowhere/at/all").read_text()


def test_writers_take_turns(database: Database) -> None:
    """Sixteen threads that write at once lose nothing."""
    together(16, lambda n: write(database, str(n)))
    assert sorted(texts(database), key=int) == [str(n) for n in range(16)]


def test_a_reader_sees_one_moment(database: Database) -> None:
    """A block of reads is not disturbed by what is committed meanwhile, and does not stop it."""
    with database.read() as connection:
        count = "SELECT count(*) FROM note"
        before = connection.execute(count).fetchone()
        write(database, "a")
        assert connection.execute(count).fetchone() == before == (0,)
    assert texts(database) == ["a"]


def test_another_writer_that_does_not_end(path: Path) -> None:
    """Who waits in vain for another writer is told so, with the name of the file."""
    database = Database(path, busy_timeout=0)
    with database.write(), pytest.raises(StorageError, match=r"notes\.db: database is locked") as caught:
        write(database, "a")
    assert caught.value.busy
    assert caught.value.path == path
    database.close()


def test_migration_from_the_version_before(database: Database, path: Path) -> None:
    """A file of the version before keeps its content and gets what is new, once."""
    write(database, "old")
    for _ in range(2):
        newer = Database(path)
        newer.migrate("notes", NEXT)
        with newer.write() as connection:
            connection.execute("UPDATE note SET author = 'x'")
        assert texts(newer) == ["old"]
        newer.close()


def test_a_file_of_a_newer_release_is_left_alone(path: Path, database: Database) -> None:
    """Code that does not know a file's version says so and changes nothing."""
    database.migrate("notes", NEXT)
    older = Database(path)
    with pytest.raises(StorageError, match=r"notes\.db: notes has version 2, .* up to 1"):
        older.migrate("notes", SCRIPTS)
    older.close()


def test_a_migration_that_fails_changes_nothing(database: Database, path: Path) -> None:
    """Half a migration is none."""
    with pytest.raises(StorageError, match="syntax error"):
        database.migrate("notes", (*SCRIPTS, "ALTER TABLE note ADD COLUMN a;", "NONSENSE;"))
    again = Database(path)
    again.migrate("notes", NEXT)
    again.close()


def test_components_share_a_file(database: Database) -> None:
    """Each component has a version of its own."""
    database.migrate("others", ("CREATE TABLE other (id INTEGER);", "DROP TABLE other;"))
    database.migrate("notes", NEXT)
    with database.read() as connection:
        found = dict(connection.execute("SELECT component, version FROM storage_versions"))
    assert found == {"notes": 2, "others": 2}


def test_many_processes_start_at_once(path: Path) -> None:
    """Workers that come up together make one file, and each script runs once."""
    code = (
        "import sys; from service_utils.storage import Database\n"
        "sys.stdin.readline(); database = Database(sys.argv[1])\n"
        f"database.migrate('notes', {NEXT!r})\n"
        "with database.write() as c: c.execute(\"INSERT INTO note (text) VALUES ('a')\")\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE) for _ in range(5)
    ]
    for worker in workers:
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    assert [worker.wait(30) for worker in workers] == [0] * 5
    for worker in workers:
        worker.stdin.close()
    database = Database(path)
    assert texts(database) == ["a"] * 5
    assert os.listdir(path.parent).count("notes.db") == 1
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]
    database.close()


def test_a_removed_file_is_made_again(database: Database, path: Path) -> None:
    """What is written after somebody has removed the file is in the file that is there then."""
    write(database, "lost with the file")
    for file in path.parent.iterdir():
        file.unlink()
    write(database, "a")
    other = Database(path)
    assert texts(other) == ["a"]
    other.close()


def test_a_removed_database_beside_its_old_log(database: Database, path: Path) -> None:
    """A log that was left behind does not come back to life in the new file."""
    write(database, "old")
    path.unlink()
    write(database, "new")
    assert texts(database) == ["new"]
    with database.read() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_no_database(path: Path) -> None:
    """A file that is something else is refused and left as it is."""
    path.parent.mkdir()
    path.write_bytes(b"letters to grandmother, not to be overwritten " * 99)
    with pytest.raises(StorageError, match=r"notes\.db: file is not a database"):
        Database(path)
    assert path.read_bytes().startswith(b"letters")


def test_a_folder_where_the_file_should_be(path: Path) -> None:
    """A path that leads to a folder is refused with its name."""
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match=r"notes\.db: unable to open"):
        Database(path)


def test_a_folder_that_cannot_be_made(path: Path) -> None:
    """A path through a file is refused with its name."""
    path.parent.write_text("in the way")
    with pytest.raises(StorageError, match=r"notes\.db: "):
        Database(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": ""}, "path=''"),
        ({"path": 7}, "path=7"),
        ({"busy_timeout": -1}, "busy_timeout=-1"),
        ({"busy_timeout": float("nan")}, "busy_timeout=nan"),
        ({"durability": "maybe"}, "'maybe'"),
    ],
)
def test_bad_arguments(path: Path, arguments: dict[str, object], message: str) -> None:
    """A wrong argument is named with its value, and no file is made."""
    with pytest.raises(ValueError, match=message):
        Database(**{"path": path, **arguments})
    assert not path.exists()


def test_no_room(path: Path) -> None:
    """A full disk is told as such; what was there stays, and writing goes on when there is room again."""

    def fill() -> list[object]:
        database = Database(path)
        database.migrate("notes", SCRIPTS)
        write(database, "before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
        with pytest.raises(StorageFull, match=r"notes\.db: .*no room left"):
            write(database, "x" * 400_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        write(database, "after")
        with database.read() as connection:
            check = connection.execute("PRAGMA integrity_check").fetchone()
        return [texts(database), check]

    assert in_child(fill) == [["before", "after"], ("ok",)]


def test_a_forked_child_opens_the_file_anew(database: Database) -> None:
    """Parent and child write to one file, each through connections of its own."""
    write(database, "parent")

    def child() -> list[str]:
        write(database, "child")
        return texts(database)

    assert in_child(child) == ["parent", "child"]
    write(database, "parent again")
    assert texts(database) == ["parent", "child", "parent again"]


def test_a_block_open_during_a_fork_is_the_parents(database: Database) -> None:
    """The child cannot commit what the parent has begun."""
    block = database.write()
    block.__enter__().execute("INSERT INTO note (text) VALUES ('a')")
    with pytest.raises(StorageError, match="belongs to the process that began it"):
        in_child(lambda: block.__exit__(None, None, None))
    block.__exit__(None, None, None)
    assert texts(database) == ["a"]


def test_a_childs_commits_last(database: Database, path: Path) -> None:
    """What a child commits is in the file, also when the parent has closed it and others come and go."""
    look = (
        "import sys; from service_utils.storage import Database\n"
        "database = Database(sys.argv[1])\n"
        "with database.read() as c: print(c.execute('SELECT count(*) FROM note').fetchone()[0])\n"
        "database.close()\n"
    )
    write(database, "parent")
    to_child, to_parent = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.read(to_child[0], 1)
            write(database, "first")
            os.write(to_parent[1], b"1")
            os.read(to_child[0], 1)
            write(database, "second")
        finally:
            os._exit(0)
    try:
        database.close()
        os.write(to_child[1], b"x")
        os.read(to_parent[0], 1)
        subprocess.run([sys.executable, "-c", look, str(path)], check=True, stdout=subprocess.DEVNULL)
        os.write(to_child[1], b"x")
    finally:
        os.waitpid(child, 0)
        for end in (*to_child, *to_parent):
            os.close(end)
    assert texts(database) == ["parent", "first", "second"]


def test_a_fork_waits_for_blocks_of_other_threads(database: Database) -> None:
    """A child that was forked beside a writing thread can write as soon as that one has."""
    inside, go = threading.Event(), threading.Event()

    def block() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO note (text) VALUES ('thread')")
            inside.set()
            go.wait(0.1)

    thread = threading.Thread(target=block)
    thread.start()
    inside.wait(20)

    def child() -> list[str]:
        write(database, "child")
        return texts(database)

    assert in_child(child) == ["thread", "child"]
    thread.join(20)


def test_a_fork_beside_a_block_that_has_to_connect(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that is just opening the file ends, instead of waiting for the fork that waits for it."""
    connect, connecting, go = database._connect, threading.Event(), threading.Event()

    def slowly() -> Any:
        connecting.set()
        go.wait(0.1)
        return connect()

    database.close()
    monkeypatch.setattr(database, "_connect", slowly)
    thread = threading.Thread(target=write, args=(database, "thread"))
    thread.start()
    connecting.wait(20)

    def child() -> list[str]:
        go.set()
        write(database, "child")
        return texts(database)

    assert in_child(child) == ["thread", "child"]
    thread.join(20)


def test_a_callers_wrong_statement_is_his_own(database: Database) -> None:
    """A statement with too few values says nothing about the file, either."""
    with pytest.raises(sqlite3.ProgrammingError), database.read() as connection:
        connection.execute("SELECT ?", ())


def test_a_block_that_does_not_end_before_a_fork(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block was open during the fork the child is told so, instead of losing what it writes."""
    monkeypatch.setattr("service_utils.storage._FORK_PATIENCE", 0.05)
    inside, go = threading.Event(), threading.Event()

    def block() -> None:
        with database.write():
            inside.set()
            go.wait(20)

    thread = threading.Thread(target=block)
    thread.start()
    inside.wait(20)
    try:
        with pytest.raises(StorageError, match="was in use when this process was forked"):
            in_child(lambda: write(database, "child"))
    finally:
        go.set()
        thread.join(20)
    write(database, "parent")
    assert texts(database) == ["parent"]


def test_kill_in_the_middle_of_a_write(path: Path) -> None:
    """A process killed between two commits leaves the first one whole and nothing of the second."""
    code = (
        "import os, sys; from service_utils.storage import Database\n"
        "database = Database(sys.argv[1])\n"
        f"database.migrate('notes', {SCRIPTS!r})\n"
        "with database.write() as c: c.execute(\"INSERT INTO note (text) VALUES ('kept')\")\n"
        "with database.write() as c:\n"
        "    c.execute(\"INSERT INTO note (text) VALUES ('half')\"); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    database = Database(path)
    assert texts(database) == ["kept"]
    write(database, "next")
    database.close()
