"""SQLiteDeadLetters: the contract, and what only a file that outlives processes can be asked."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from service_utils.dead_letters import (
    DeadLetterQueue,
    DeadLetterQueueFull,
    MemoryDeadLetters,
    SQLiteDeadLetters,
)
from service_utils.dead_letters.letter import Lease, LetterStatus, new_letter_id
from service_utils.dead_letters.sqlite import MIGRATIONS
from service_utils.dead_letters.store import Delivered, Died, PutBack, Retried, Selection
from service_utils.storage import Database, StorageError, StorageFull
from tests.forked import in_child

from .store_contract import ALL, LIMITS, NOW, StoreContract, ids, letter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "letters.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteDeadLetters]:
    with closing(SQLiteDeadLetters(path)) as store:
        yield store


class TestSQLiteDeadLetters(StoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, path: Path) -> Iterator[SQLiteDeadLetters]:
        with closing(SQLiteDeadLetters(path)) as store:
            yield store


def intact(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- other processes --------------------------------------------------------------------------------

PHASES = """
import os, sys
from service_utils.dead_letters.sqlite import SQLiteDeadLetters
from service_utils.dead_letters.store import Delivered
from tests.dead_letters.store_contract import LIMITS, NOW, letter
path, phase = sys.argv[1:]
store = SQLiteDeadLetters(path)

def die(*_):
    os.kill(os.getpid(), 9)

class Dying:
    # Kills the process at the commit of the phase, before or after it.
    def __init__(self, connection): self._connection = connection
    def __getattr__(self, name): return getattr(self._connection, name)
    def execute(self, statement, *values):
        if statement == "COMMIT" and when == "before": die()
        result = self._connection.execute(statement, *values)
        if statement == "COMMIT": die()
        return result

def watch():
    take = store._database._take
    store._database._take = lambda: Dying(take())

what, when = phase.split()
if what == "add":
    watch(); store.add([letter(id="a")], LIMITS)
store.add([letter(id="a")], LIMITS)
if what == "lease":
    store._could_lease = lambda *_: True
    watch(); store.lease("git", now=NOW, seconds=60.0, limit=1)
lease, = store.lease("git", now=NOW, seconds=60.0, limit=1)
watch(); store.settle(lease, Delivered())
"""


@pytest.mark.parametrize(
    ("phase", "letters", "leased"),
    [
        ("add before", 0, 0),
        ("add after", 1, 0),
        ("lease before", 1, 0),
        ("lease after", 1, 1),
        ("settle before", 1, 1),
        ("settle after", 0, 0),
    ],
)
def test_killed_in_every_phase_of_a_letters_life(path: Path, phase: str, letters: int, leased: int) -> None:
    """Whenever a process is killed, the letter is wholly in the state before or wholly in the one after."""
    done = subprocess.run([sys.executable, "-c", PHASES, str(path), phase], check=False)
    assert done.returncode == -signal.SIGKILL
    with closing(SQLiteDeadLetters(path)) as store:
        found = store.stats(NOW)
        assert (found["letters"], found["leased"]) == (letters, leased)
        assert len(store.lease("git", now=NOW + 60, seconds=60.0, limit=9)) == letters
    assert intact(path)


def test_an_id_that_was_told_is_a_letter_that_is_there(path: Path) -> None:
    """Killed the moment after add has returned, a process has lost nothing."""
    code = (
        "import os, sys\n"
        "from service_utils.dead_letters import DeadLetterQueue, SQLiteDeadLetters\n"
        "queue = DeadLetterQueue(SQLiteDeadLetters(sys.argv[1]))\n"
        "for number in range(20): os.write(1, (queue.add('git', 'POST', f'/{number}') + '\\n').encode())\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, stdout=subprocess.PIPE)
    told = done.stdout.decode().split()
    assert len(told) == 20
    with closing(SQLiteDeadLetters(path)) as store:
        assert ids(store.list(ALL, limit=99, after=None, now=NOW)) == told


def test_processes_never_share_a_letter(path: Path, store: SQLiteDeadLetters) -> None:
    """Three processes that lease and deliver as fast as they can have each letter once, among them."""
    store.add([letter(service, id=new_letter_id(NOW)) for service in ("a", "b") for _ in range(60)], LIMITS)
    code = (
        "import os, sys\n"
        "from service_utils.dead_letters.sqlite import SQLiteDeadLetters\n"
        "from service_utils.dead_letters.store import Delivered\n"
        f"store, now = SQLiteDeadLetters(sys.argv[1]), {NOW}\n"
        "while store.stats(now)['letters']:\n"
        "    for name in ('a', 'b'):\n"
        "        for lease in store.lease(name, now=now, seconds=60.0, limit=7):\n"
        "            assert store.settle(lease, Delivered())\n"
        "            os.write(1, (lease.letter.id + '\\n').encode())\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) for _ in range(3)
    ]
    delivered = [line for worker in workers for line in worker.communicate(timeout=30)[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(delivered) == len(set(delivered)) == 120


def test_a_forked_child_uses_the_same_file(store: SQLiteDeadLetters) -> None:
    """A child sees its parent's letters, and the parent the child's."""
    store.add([letter(id="parent")], LIMITS)

    def child() -> list[str]:
        store.add([letter(id="child")], LIMITS)
        return ids(store.list(ALL, limit=9, after=None, now=NOW))

    assert in_child(child) == ["parent", "child"]
    assert ids(store.lease("git", now=NOW, seconds=60.0, limit=9)) == ["parent", "child"]


# -- room -------------------------------------------------------------------------------------------


def test_a_full_disk(path: Path) -> None:
    """No room is an error that names the file; what was in stays, and goes on when there is room again."""

    def fill() -> tuple[str, int, int, bool]:
        with closing(SQLiteDeadLetters(path)) as store:
            queue = DeadLetterQueue(store)
            queue.add("git", "POST", "/first", body=b"1")
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
            with pytest.raises(DeadLetterQueueFull) as caught:
                queue.add("git", "POST", "/large", body=b"2" * 500_000)
            during = queue.stats()["letters"]
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            queue.add("git", "POST", "/large", body=b"2" * 500_000)
            return caught.value.limit, during, queue.stats()["letters"], intact(path)

    assert in_child(fill) == ("disk", 1, 2, True)


def test_a_full_disk_while_letters_are_delivered(path: Path) -> None:
    """A letter that cannot be settled is an error, stays in hand, and is settled when there is room again."""

    def fill() -> tuple[int, bool, int, bool]:
        with closing(SQLiteDeadLetters(path)) as store:
            store.add([letter(id="a")], LIMITS)
            (lease,) = store.lease("git", now=NOW, seconds=60.0, limit=1)
            died = Died(error="status 422", response=b"2" * 60_000)
            room = _log(path).stat().st_size + 10_000
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            with pytest.raises(StorageFull):
                store.settle(lease, died)
            during = store.stats(NOW)["leased"]
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return during, store.settle(lease, died), store.stats(NOW)["dead"], intact(path)

    assert in_child(fill) == (1, True, 1, True)


def test_limits_hold_for_all_processes_together(path: Path) -> None:
    """Processes that add at the same time do not get past the limit together."""
    code = (
        "import sys\n"
        "from service_utils.dead_letters import DeadLetterQueue, DeadLetterQueueFull, SQLiteDeadLetters\n"
        "queue, kept = DeadLetterQueue(SQLiteDeadLetters(sys.argv[1]), max_letters=50), 0\n"
        "try:\n"
        "    while True: kept += bool(queue.add('git', 'POST', '/a'))\n"
        "except DeadLetterQueueFull: print(kept)\n"
    )
    adders = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert sum(int(adder.communicate(timeout=30)[0]) for adder in adders) == 50
    with closing(SQLiteDeadLetters(path)) as store:
        assert store.stats(NOW)["letters"] == 50


def test_a_lease_does_not_write_the_body_anew(path: Path, store: SQLiteDeadLetters) -> None:
    """What becomes of a large letter costs the disk little: its ten mebibytes stay where they are."""
    store.add([letter(body=b"x" * 10 * 2**20)], LIMITS)
    with store._database.write() as connection:
        before = connection.execute("PRAGMA page_count").fetchone()
    written = -_log(path).stat().st_size
    (lease,) = store.lease("git", now=NOW, seconds=60.0, limit=1)
    store.settle(lease, Died(error="status 422"))
    written += _log(path).stat().st_size
    with store._database.read() as connection:
        assert connection.execute("PRAGMA page_count").fetchone() == before
    assert written < 100_000


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def test_a_full_disk_is_told_with_the_file(path: Path) -> None:
    """An operator reads at once which file has no room."""

    def fill() -> str:
        with closing(SQLiteDeadLetters(path)) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            with pytest.raises(DeadLetterQueueFull) as caught:
                store.add([letter(body=b"2" * 500_000)], LIMITS)
            return str(caught.value)

    assert str(path) in in_child(fill)


def test_a_directory_without_rights_or_a_file_that_is_none(tmp_path: Path) -> None:
    """What cannot be used is said when the store is made."""
    with pytest.raises(StorageError, match=str(tmp_path)):
        SQLiteDeadLetters(tmp_path)


# -- versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_file_of_a_version_before(path: Path, version: int) -> None:
    """Letters of earlier versions are all there, counted, and can be delivered."""
    with closing(Database(path)) as database:
        database.migrate("dead_letters", MIGRATIONS[:version])
        with database.write() as connection:
            connection.executemany(
                "INSERT INTO dead_letters (id, kind, service, method, path, headers, idempotency_key, "
                "status, attempts, max_retries, created_at, next_attempt_at, size, body) VALUES "
                "(?, 'call', 'git', 'POST', '/a', '{}', 'k', ?, 2, 5, ?, ?, 5, ?)",
                [
                    ("rests", "dead", NOW, NOW, b"1"),
                    ("waits", "pending", NOW, NOW, b"\0\xff"),
                    ("bare", "pending", NOW, NOW, None),
                ],
            )
            connection.execute("UPDATE dead_letter_totals SET value = 7 WHERE name = 'token'")
    with closing(SQLiteDeadLetters(path)) as store:
        found = store.stats(NOW)
        assert (found["letters"], found["pending"], found["dead"], found["bytes"]) == (3, 2, 1, 15)
        leases = store.lease("git", now=NOW, seconds=60.0, limit=9)
        assert [(each.letter.id, each.letter.body) for each in leases] == [
            ("waits", b"\0\xff"),
            ("bare", None),
        ]
        assert leases[0].token > 7
        assert [store.settle(lease, Delivered()) for lease in leases] == [True, True]
        assert ids(store.list(ALL, limit=9, after=None, now=NOW)) == ["rests"]
    assert intact(path)


def test_a_file_of_a_newer_release(path: Path) -> None:
    """Code that does not know the file's version touches nothing in it."""
    with closing(Database(path)) as database:
        database.migrate("dead_letters", (*MIGRATIONS, "CREATE TABLE dead_letter_news (a);"))
    known = len(MIGRATIONS)
    with pytest.raises(StorageError, match=f"dead_letters has version {known + 1}, .* up to {known}"):
        SQLiteDeadLetters(path)


def test_another_ones_database(path: Path) -> None:
    """Letters can lie in a file that others use, too, and closing the store leaves it open."""
    with closing(Database(path)) as database:
        store = SQLiteDeadLetters(database)
        store.add([letter(id="a")], LIMITS)
        store.close()
        with database.read() as connection:
            assert connection.execute("SELECT id FROM dead_letters").fetchall() == [("a",)]


# -- both stores tell one story ---------------------------------------------------------------------


class BothStores(RuleBasedStateMachine):
    """Whatever is done in whatever order, the file says what memory says."""

    @initialize()
    def begin(self) -> None:
        self.database = Database(BothStores.folder / f"{os.urandom(8).hex()}.db", durability="normal")
        self.stores = (MemoryDeadLetters(), SQLiteDeadLetters(self.database))
        self.now = NOW
        self.leases: list[tuple[Lease, Lease]] = []

    def both(self, ask: object) -> list[object]:
        first, second = (ask(store) for store in self.stores)  # type: ignore[operator]
        assert first == second
        return first

    @rule(service=st.sampled_from("ab"), wait=st.sampled_from([0.0, 20.0]))
    def add(self, service: str, wait: float) -> None:
        kept = letter(
            service, id=new_letter_id(self.now), created_at=self.now, next_attempt_at=self.now + wait
        )
        self.both(lambda store: store.add([kept], LIMITS))

    @rule(service=st.sampled_from("ab"), limit=st.integers(1, 3))
    def lease(self, service: str, limit: int) -> None:
        pair = [store.lease(service, now=self.now, seconds=60.0, limit=limit) for store in self.stores]
        assert ids(pair[0]) == ids(pair[1])
        self.leases.extend(zip(*pair, strict=True))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), what=st.sampled_from(["delivered", "retried", "put back", "died", "extend"]))
    def settle(self, data: st.DataObject, what: str) -> None:
        first, second = data.draw(st.sampled_from(self.leases))
        settlement = {
            "delivered": Delivered(),
            "retried": Retried(next_attempt_at=self.now + 30, error="e", status=503),
            "put back": PutBack(next_attempt_at=self.now),
            "died": Died(error="d", response=b"why"),
        }
        memory, file = self.stores
        if what == "extend":
            time = {"now": self.now, "seconds": 90.0}
            said = (memory.extend(first, **time), file.extend(second, **time))
        else:
            said = (memory.settle(first, settlement[what]), file.settle(second, settlement[what]))
        assert said[0] == said[1]

    @rule(seconds=st.sampled_from([1.0, 29.0, 61.0, -3.0, -1000.0, 100_000.0]))
    def time_passes_or_jumps(self, seconds: float) -> None:
        self.now += seconds

    @rule(status=st.sampled_from([None, *LetterStatus]), service=st.sampled_from([None, "a"]))
    def requeue(self, status: LetterStatus | None, service: str | None) -> None:
        selection = Selection(service=service, status=status)
        self.both(lambda store: store.requeue(None, selection, self.now))

    @rule(status=st.sampled_from([None, *LetterStatus]), limit=st.integers(1, 2))
    def purge(self, status: LetterStatus | None, limit: int) -> None:
        self.both(lambda store: store.purge(Selection(status=status), self.now, limit))

    @rule()
    def look(self) -> None:
        self.both(lambda store: store.stats(self.now))
        self.both(lambda store: store.waiting(self.now))
        self.both(lambda store: store.list(ALL, limit=99, after=None, now=self.now))

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.look()
            self.database.close()

    folder = Path()


def test_both_stores_tell_one_story(tmp_path: Path) -> None:
    """Random stories of adding, leasing, settling, deciding and jumping clocks end alike in both."""
    BothStores.folder = tmp_path
    case = BothStores.TestCase()
    case.settings = settings(
        max_examples=25,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    case.runTest()
