"""Idempotency records in SQLite: processes, crashes, a transaction shared with the effect."""

from __future__ import annotations

import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service_utils.idempotency import (
    Answer,
    Question,
    Replay,
    Running,
    SQLiteIdempotency,
    Started,
    Unknown,
    fingerprint_of,
    record_id,
)
from service_utils.storage import Database, StorageError
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.idempotency.store_contract import ANSWER, DAY, StoreContract, asking

BEGIN = """
import sys
from service_utils.idempotency import Question, SQLiteIdempotency
from service_utils.storage import Database
store = SQLiteIdempotency(Database(sys.argv[1]))
question = Question("k", b"f")
print(type(store.begin(question)).__name__, question.token, flush=True)
sys.stdin.readline()
store.leave(question)
print("left", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> SQLiteIdempotency:
    return SQLiteIdempotency(database)


class TestSQLite(StoreContract):
    @pytest.fixture
    def store(self, database: Database, clock: FakeClock) -> SQLiteIdempotency:
        return SQLiteIdempotency(database, clock=clock)


class Other:
    """Another process that begins with the key ``k``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said, token = self.line().split()
        self.token = int(token)

    def line(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 30)
        assert readable, "the other process says nothing"
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.line() == "left"


@pytest.fixture
def other(path: Path) -> Iterator[Callable[[], Other]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> Other:
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return Other(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_another_process_that_is_killed_leaves_an_unknown_key(
    store: SQLiteIdempotency, other: Callable[[], Other]
) -> None:
    """While it lives, also suspended, its key is running; killed with SIGKILL, it is unknown at once."""
    process = other()
    assert process.said == "Started"
    assert store.begin(asking("k")) == Running()
    assert store.list_unknown() == []
    process.process.send_signal(signal.SIGSTOP)
    assert store.begin(asking("k")) == Running()
    assert store.settle("k", process.token, None, DAY) is False
    process.process.kill()
    process.process.wait()
    assert isinstance(found := store.begin(asking("k")), Unknown)
    assert found.token == process.token
    assert [each.record_id for each in store.list_unknown()] == ["k"]
    assert store.settle("k", process.token, None, DAY) is True
    again = asking("k")
    assert store.begin(again) == Started()
    store.leave(again)


def test_many_looks_at_another_process_take_nothing_from_it(
    store: SQLiteIdempotency, other: Callable[[], Other]
) -> None:
    """What is held stays held however often others look, and until its own process lets go."""
    store.begin(own := asking("own"))
    process = other()
    assert [store.begin(asking("k")) for _ in range(3)] == [Running()] * 3
    assert in_child(lambda: [store.begin(asking(key)) for key in ("k", "own")]) == [Running(), Running()]
    process.leave()
    assert isinstance(store.begin(asking("k")), Unknown)
    store.leave(own)
    assert isinstance(store.begin(asking("own")), Unknown)


def test_a_child_that_ends_takes_nothing_from_its_parent(store: SQLiteIdempotency, path: Path) -> None:
    """A fork in the middle of a request: the child has ended, the parent is still at it for all to see."""
    store.begin(question := asking())
    assert in_child(lambda: store.begin(asking())) == Running()
    second = SQLiteIdempotency(Database(path))
    assert second.begin(asking()) == Running()
    second.close()
    assert in_child(lambda: SQLiteIdempotency(Database(path)).begin(asking())) == Running()
    store.leave(question)


def test_a_link_leads_to_the_same_records(store: SQLiteIdempotency, path: Path, tmp_path: Path) -> None:
    """By whatever path a process comes to the file, it sees what is running."""
    (tmp_path / "link.db").symlink_to(path)
    store.begin(question := asking())
    linked = SQLiteIdempotency(Database(tmp_path / "link.db"))
    assert linked.begin(asking()) == Running()
    assert in_child(lambda: linked.begin(asking())) == Running()
    linked.close()
    store.leave(question)


def test_no_file_stays_open(store: SQLiteIdempotency, path: Path) -> None:
    """When nothing runs, the file of the locks is closed; it is empty and private."""
    store.begin(question := asking())
    assert store._holds._file is not None
    store.leave(question)
    assert store._holds._file is None
    holds = path.with_name("records.db-holds").stat()
    assert (holds.st_size, holds.st_mode & 0o777) == (0, 0o600)


def test_neither_key_nor_body_is_in_the_file(store: SQLiteIdempotency, path: Path) -> None:
    """What is kept of a question are digests; of an answer what has to be given again."""
    name = record_id("git", "POST", "/x", "secret-key")
    store.begin(
        question := Question(name, fingerprint_of("secret-key", [b"secret-body"]), "git", "POST", "/x")
    )
    store.finish(question, ANSWER, DAY)
    store.leave(question)
    store.close()
    assert b"secret" not in path.read_bytes()


def test_a_locked_file_begins_nothing(path: Path) -> None:
    """Another writer that does not end is an error, and nothing is left held."""
    database = Database(path, busy_timeout=0.05)
    store = SQLiteIdempotency(database)
    with database.write(), pytest.raises(StorageError):
        store.begin(question := asking())
    store.leave(question)
    again = asking()
    assert store.begin(again) == Started()
    store.leave(again)
    database.close()


def test_an_answer_that_cannot_be_kept_leaves_the_key_unknown(path: Path) -> None:
    """The disk fails after the effect: nobody runs it again, though its process lives."""
    database = Database(path, busy_timeout=0.05)
    store = SQLiteIdempotency(database)
    store.begin(question := asking())
    with database.write(), pytest.raises(StorageError):
        store.finish(question, ANSWER, DAY)
    store.leave(question)
    assert isinstance(store.begin(asking()), Unknown)
    database.close()


@pytest.mark.parametrize("given", [None, "records.db"])
def test_bad_arguments(given: object) -> None:
    """It wants a database, not a path."""
    with pytest.raises(TypeError, match="database="):
        SQLiteIdempotency(given)  # type: ignore[arg-type]


def note(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO effect VALUES (1)")


@pytest.fixture
def effects(database: Database) -> Callable[[], int]:
    database.migrate("effect", ["CREATE TABLE effect (n INTEGER);"])

    def count() -> int:
        with database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM effect").fetchone()[0])

    return count


def test_record_and_effect_are_one_commit(store: SQLiteIdempotency, effects: Callable[[], int]) -> None:
    """Both are there afterwards, and a repeat gets the answer."""
    shared = store.in_transaction()
    with shared.begin(question := asking()) as began:
        assert began == Started()
        note(shared.connection)
        shared.finish(question, ANSWER, DAY)
    assert effects() == 1
    with shared.begin(asking()) as began:
        assert began == Replay(ANSWER)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_neither_is_there_when_it_breaks_off(
    store: SQLiteIdempotency, effects: Callable[[], int], error: BaseException
) -> None:
    """Whatever ends the block before its end: no effect, and the key is free."""
    shared = store.in_transaction()

    def break_off() -> None:
        with shared.begin(question := asking()):
            note(shared.connection)
            shared.finish(question, ANSWER, DAY)
            raise error

    with pytest.raises(type(error)):
        break_off()
    assert effects() == 0
    with shared.begin(asking()) as began:
        assert began == Started()


def test_a_part_is_undone_and_the_rest_kept(store: SQLiteIdempotency, effects: Callable[[], int]) -> None:
    """An exception undoes what was written in its part; the answer to it can still be kept."""
    shared = store.in_transaction()

    def fail() -> None:
        with shared.undoing():
            note(shared.connection)
            raise ValueError("no")

    with shared.begin(question := asking()):
        with pytest.raises(ValueError, match="no"):
            fail()
        shared.finish(question, Answer(404), DAY)
    assert effects() == 0
    with shared.begin(asking()) as began:
        assert began == Replay(Answer(404))


def test_both_ways_see_the_same_records(store: SQLiteIdempotency) -> None:
    """What runs apart is running here, what was lost apart is unknown here, and can be taken over."""
    shared = store.in_transaction()
    store.begin(first := asking())
    with shared.begin(asking()) as began:
        assert began == Running()
    store.leave(first)
    with shared.begin(second := asking()) as began:
        assert isinstance(began, Unknown)
        assert shared.take_over(second, began.token) is True
        shared.finish(second, ANSWER, DAY)
    assert store.finish(first, Answer(500), DAY) is False
    assert store.begin(asking()) == Replay(ANSWER)


def test_no_transaction_no_connection(store: SQLiteIdempotency) -> None:
    """Outside of the block there is nothing to write to, nor in that of another store."""
    shared, stranger = store.in_transaction(), store.in_transaction()
    with pytest.raises(RuntimeError, match="only while"):
        _ = shared.connection
    with shared.begin(asking()), pytest.raises(RuntimeError, match="only while"):
        _ = stranger.connection
