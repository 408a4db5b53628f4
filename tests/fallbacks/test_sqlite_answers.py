"""SQLiteAnswers: last good answers that survive restarts and are shared by the workers of a host."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from service_utils import ResilientServiceClient, StaleCache, call_of, collect_degradations, stale_age
from service_utils.fallbacks.packing import Packed, packed, unpacked
from service_utils.fallbacks.sqlite_answers import SQLiteAnswers
from service_utils.policies.fallback import Lasting
from service_utils.testing import Answer, FakeClock, FaultServer
from tests.forked import in_child
from tests.side_by_side import together

KEY = b"k" * 32
AWAY = requests.ConnectionError("away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "answers.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteAnswers]:
    made = SQLiteAnswers(path)
    yield made
    made.close()


@pytest.fixture
def other(path: Path) -> Iterator[SQLiteAnswers]:
    """The same file as another worker has it."""
    made = SQLiteAnswers(path)
    yield made
    made.close()


def cache_on(store: SQLiteAnswers, clock: FakeClock, **arguments: Any) -> StaleCache:
    return StaleCache(
        **{"ttl": 10, "stale_for": 60, "name": "shop", "clock": clock, "store": store} | arguments
    )


def away() -> Any:
    raise AWAY


def response(status: int = 200, body: bytes = b"good", **headers: str) -> requests.Response:
    made: Any = requests.Response()
    made.status_code, made.reason, made.url = status, "OK", "http://user:secret@shop/price?key=secret#part"
    made._content = body
    made.headers.update(headers)
    return made


# -- through a cache ----------------------------------------------------------------------------------------


def test_fresh_answer_of_another_worker(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock
) -> None:
    """What one worker has fetched is fresh for all of them."""
    cache_on(store, fake_clock).call("price", lambda: {"price": 7})
    assert cache_on(other, fake_clock).call("price", away) == {"price": 7}


def test_stale_answer_after_a_restart(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock
) -> None:
    """After a restart the last good answer stands in for a service that is away, and is marked."""
    cache_on(store, fake_clock).call("price", lambda: 7)
    fake_clock.advance(30)
    cache = cache_on(other, fake_clock)
    with collect_degradations() as degraded:
        assert cache.call("price", away) == 7
    assert degraded == ["shop"]
    assert (cache.get_status()["stale"], cache.get_status()["store"]) == (1, "ok")


def test_too_old_after_a_restart(store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock) -> None:
    """An answer that is too old stands in nowhere."""
    cache_on(store, fake_clock).call("price", lambda: 7)
    fake_clock.advance(70)
    with pytest.raises(requests.ConnectionError):
        cache_on(other, fake_clock).call("price", away)


def test_newer_answer_of_another_worker_wins(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock
) -> None:
    """Of a worker's own old answer and a newer one of another worker, the newer one stands in."""
    mine, theirs = cache_on(store, fake_clock), cache_on(other, fake_clock)
    mine.call("price", lambda: 7)
    fake_clock.advance(20)
    theirs.call("price", lambda: 8)
    fake_clock.advance(20)
    assert mine.call("price", away) == 8


def test_forgotten_by_another_worker(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock
) -> None:
    """What the service has taken away from one worker stands in at no other."""
    mine, theirs = cache_on(store, fake_clock), cache_on(other, fake_clock)
    mine.call("price", lambda: 7)
    fake_clock.advance(20)
    theirs.call("price", lambda: response(404))
    with pytest.raises(requests.ConnectionError):
        mine.call("price", away)


@pytest.mark.parametrize("forget", [lambda cache: cache.clear(), lambda cache: cache.forget("price")])
def test_cleared_by_another_worker(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock, forget: Any
) -> None:
    """Clearing one worker's cache clears what the others would stand in with; new answers are kept again."""
    mine, theirs = cache_on(store, fake_clock), cache_on(other, fake_clock)
    mine.call("price", lambda: 7)
    fake_clock.advance(20)
    forget(theirs)
    with pytest.raises(requests.ConnectionError):
        mine.call("price", away)
    fake_clock.advance(1)
    mine.call("price", lambda: 8)
    fake_clock.advance(20)
    assert theirs.call("price", away) == 8


def test_late_answer_does_not_come_back(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock
) -> None:
    """A call that began before another worker was told "no" brings no answer back into the file."""
    mine, theirs = cache_on(store, fake_clock), cache_on(other, fake_clock)

    def slow() -> int:
        fake_clock.advance(1)
        theirs.call("price", lambda: response(403))
        return 7

    mine.call("price", slow)
    fake_clock.advance(20)
    with pytest.raises(requests.ConnectionError):
        theirs.call("price", away)
    with pytest.raises(requests.ConnectionError):
        mine.call("price", away)


def test_caches_apart(store: SQLiteAnswers, fake_clock: FakeClock) -> None:
    """Caches of different names have nothing to do with each other, nor have the ways to use one."""
    cache_on(store, fake_clock).call("price", lambda: 7)
    with pytest.raises(requests.ConnectionError):
        cache_on(store, fake_clock, name="bank").call("price", away)
    with pytest.raises(requests.ConnectionError):
        cache_on(store, fake_clock).cached(key=lambda: "price")(away)()


def keyed(number: int) -> Any:
    """A function of this module, so that other processes know it again."""
    if number < 0:
        raise AWAY
    return {"number": number}


def test_decorated_functions(store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock) -> None:
    """A function is known by its module and name; one made inside of another has none, and is not kept."""
    cache_on(store, fake_clock).cached(key=abs)(keyed)(3)
    assert cache_on(other, fake_clock).cached(key=abs)(keyed)(-3) == {"number": 3}
    cache_on(store, fake_clock).cached(key=lambda: "x")(lambda: 1)()
    assert store.counts()[0] == 1


@pytest.mark.parametrize("key", ["x", b"x", 1, True, 1.5, None, ("x", 1), ("x1",), ("x", ("1",)), ("x", "1")])
def test_keys_apart(store: SQLiteAnswers, fake_clock: FakeClock, key: Any) -> None:
    """Keys that are not the same are never taken for one another."""
    keys: list[Any] = ["x", b"x", 1, True, 1.5, None, ("x", 1), ("x1",), ("x", ("1",)), ("x", "1")]
    for each in keys:
        if each is not key:
            cache_on(store, fake_clock).call(each, lambda: "another's")
    with pytest.raises(requests.ConnectionError):
        StaleCache(0, 60, name="shop", clock=fake_clock, store=store).call((key, "own"), away)
    cache_on(store, fake_clock).forget(key)
    with pytest.raises(requests.ConnectionError):
        cache_on(store, fake_clock).call(key, away)


@pytest.mark.parametrize("key", [object(), ("x", object()), frozenset("x")])
def test_other_keys_stay_in_memory(store: SQLiteAnswers, fake_clock: FakeClock, key: Any) -> None:
    """A key that means nothing to another process keeps its answer in memory only."""
    cache = cache_on(store, fake_clock)
    cache.call(key, lambda: 7)
    assert cache.call(key, away) == 7
    assert store.counts() == (0, 0)
    cache.forget(key)
    assert cache.get_status()["store"] == "ok"


def test_clock_set_back(store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock) -> None:
    """An answer from the future is left alone, for nobody knows its age; the next one takes its place."""
    today = fake_clock.now()
    fake_clock.set_now(today.replace(year=today.year + 1))
    cache_on(store, fake_clock).call("price", lambda: 7)
    cache_on(store, fake_clock).forget("other")
    cache_on(store, fake_clock, name="bank").clear()
    fake_clock.set_now(today)
    for name, key in (("shop", "price"), ("shop", "other"), ("bank", "price")):
        with pytest.raises(requests.ConnectionError):
            cache_on(other, fake_clock, name=name).call(key, away)
        cache_on(store, fake_clock, name=name).call(key, lambda: 8)
        assert cache_on(other, fake_clock, name=name).call(key, away) == 8


def test_many_threads(store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock) -> None:
    """Workers and threads that write at once lose nothing and raise nothing."""
    caches = [cache_on(store, fake_clock), cache_on(other, fake_clock)]
    together(4, lambda n: [caches[n % 2].call((n, i), lambda i=i: i) for i in range(10)])
    assert store.counts()[0] == 40
    assert {cache.get_status()["store"] for cache in caches} == {"ok"}


def test_forked_child(store: SQLiteAnswers, fake_clock: FakeClock) -> None:
    """A forked worker shares the file with its parent."""
    cache = cache_on(store, fake_clock)
    cache.call("price", lambda: 7)
    assert in_child(lambda: (cache_on(store, fake_clock).call("price", away), cache.call("new", lambda: 8)))
    assert cache_on(store, fake_clock).call("new", away) == 8


def test_killed_process(path: Path, other: SQLiteAnswers) -> None:
    """An answer is there although the process that fetched it was killed right afterwards."""
    code = f"""if True:
        import os, signal
        from service_utils.fallbacks import SQLiteAnswers
        from service_utils import StaleCache
        StaleCache(10, 60, name="shop", store=SQLiteAnswers({str(path)!r})).call("price", lambda: 7)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", code], timeout=50, check=False)
    assert done.returncode == -signal.SIGKILL
    assert StaleCache(10, 60, name="shop", store=other).call("price", away) == 7


# -- reads of a client --------------------------------------------------------------------------------------


@pytest.fixture
def shop(fault_server: FaultServer) -> FaultServer:
    headers = {"X-Number": "1", "Set-Cookie": "sid=c00kie", "X-Auth-Token": "c00kie", "ETag": '"1"'}
    fault_server.default = Answer(200, "good", headers)
    return fault_server


def client_of(server: FaultServer, **arguments: Any) -> ResilientServiceClient:
    return ResilientServiceClient(server.url, "Shop", max_retries=1, token_provider=None, **arguments)


def test_response_after_a_restart(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock, shop: FaultServer, path: Path
) -> None:
    """A response comes back with status, headers, body and its call, and tells its age."""
    bearer = {"Authorization": "Bearer t0ken"}
    with client_of(shop) as client:
        cache_on(store, fake_clock).get(client, "/price?key=query-s3cret", headers=bearer)
    fake_clock.advance(30)
    shop.default = Answer(503)
    with client_of(shop) as client, client_of(shop, session=requests.Session()) as signing:
        cache = cache_on(other, fake_clock)
        found = cache.get(client, "/price?key=query-s3cret", headers=bearer)
        with pytest.raises(requests.HTTPError):
            cache.get(client, "/price?key=query-s3cret", headers={"Authorization": "Bearer bob"})
        with pytest.raises(requests.HTTPError):
            cache.get(signing, "/price?key=query-s3cret", headers=bearer)
    assert (found.status_code, found.text, found.headers["X-Number"]) == (200, "good", "1")
    assert (found.url, stale_age(found)) == (f"{shop.url}/price", 30.0)
    assert (call_of(found).service, call_of(found).ended.value) == ("Shop", "success")
    raw = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert not any(secret in raw for secret in (b"t0ken", b"c00kie", b"query-s3cret"))


def test_sessions_that_were_given(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock, shop: FaultServer
) -> None:
    """A session may sign requests as anybody: its answers last only under the identity the caller tells."""

    def ask(at: SQLiteAnswers, **arguments: Any) -> requests.Response:
        with requests.Session() as session, client_of(shop, session=session) as client:
            answer: requests.Response = cache_on(at, fake_clock).get(client, "/price", **arguments)
            return answer

    ask(store)
    assert store.counts()[0] == 0
    ask(store, identity="alice")
    shop.default = Answer(503)
    assert ask(other, identity=lambda: "alice").text == "good"
    with pytest.raises(requests.HTTPError):
        ask(other, identity="bob")


# -- what is wrong with the file ----------------------------------------------------------------------------


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "in memory only" in each.getMessage()]


def use(cache: StaleCache, clock: FakeClock) -> None:
    """What a process does with a cache, all of it."""
    assert cache.call("price", lambda: 7) == 7
    clock.advance(20)
    assert cache.call("price", away) == 7
    cache.forget("price")
    cache.clear()
    assert cache.call("price", lambda: 8) == 8


def test_damaged_file(path: Path, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no database costs one warning, however often it is tried; the memory goes on."""
    path.parent.mkdir()
    path.write_bytes(b"this is no database " * 100)
    cache = cache_on(SQLiteAnswers(path), fake_clock)
    use(cache, fake_clock)
    fake_clock.advance(61)
    use(cache, fake_clock)
    [warning] = warnings_in(caplog)
    assert warning.startswith(f"[shop] Last good answers are kept in memory only: {path}: ")
    assert cache.get_status()["store"] == "failing"
    assert path.read_bytes().startswith(b"this is no database")


def test_file_that_gets_damaged(
    store: SQLiteAnswers, path: Path, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for one that is damaged while it is in use."""
    cache = cache_on(store, fake_clock)
    cache.call("other", lambda: 7)
    store.close()
    path.write_bytes(os.urandom(8192))
    use(cache, fake_clock)
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("obstacle", ["file", "folder"])
def test_nowhere_to_write(
    tmp_path: Path, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture, obstacle: str
) -> None:
    """A path that leads nowhere, or to a folder, costs one warning."""
    blocked = tmp_path / "blocked"
    if obstacle == "file":
        blocked.write_text("no folder")
    use(cache_on(SQLiteAnswers(blocked / "a.db" if obstacle == "file" else tmp_path), fake_clock), fake_clock)
    assert len(warnings_in(caplog)) == 1


def test_read_only_file(
    store: SQLiteAnswers, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """A file that may only be read costs one warning."""
    cache_on(store, fake_clock).call("other", lambda: 7)
    database: Any = store._database
    real = database._connect

    def connect() -> Any:
        connection = real()
        connection.execute("PRAGMA query_only = ON")
        return connection

    store._database.close()  # type: ignore[union-attr]
    monkeypatch.setattr(database, "_connect", connect)
    use(cache_on(store, fake_clock), fake_clock)
    assert len(warnings_in(caplog)) == 1


def test_full_disk(path: Path) -> None:
    """Where there is no room an answer is not kept, the caller feels nothing, and later ones are kept."""
    code = f"""if True:
        import json, logging, resource, signal
        from service_utils import StaleCache
        from service_utils.fallbacks import SQLiteAnswers
        from service_utils.testing import FakeClock
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        clock, store = FakeClock(), SQLiteAnswers({str(path)!r})
        cache = StaleCache(10, 600, name="shop", store=store, clock=clock)
        cache.call("first", lambda: 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
        assert cache.call("long", lambda: "x" * 400_000) == "x" * 400_000
        status = cache.get_status()["store"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        clock.advance(61)
        cache.call("later", lambda: 2)
        print(json.dumps([status, cache.get_status()["store"], store.counts()[0]]))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=50, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == ["failing", "ok", 2]
    assert done.stderr.count("in memory only") == 1


def test_what_was_forgotten_while_the_store_failed(
    store: SQLiteAnswers, other: SQLiteAnswers, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be forgotten in the file is forgotten there as soon as that can be used again."""
    mine = cache_on(store, fake_clock, stale_for=600)
    mine.call("price", lambda: 7)
    with monkeypatch.context() as failing:

        def fail(*arguments: Any) -> Any:
            raise sqlite3.OperationalError("away")

        failing.setattr(store, "forget", fail)
        mine.forget("price")
    fake_clock.advance(61)
    mine.call("other", lambda: 1)
    with pytest.raises(requests.ConnectionError):
        cache_on(other, fake_clock, stale_for=600).call("price", away)


def test_file_that_is_replaced(store: SQLiteAnswers, path: Path, fake_clock: FakeClock) -> None:
    """When somebody removes the file a new one takes its place, also for those who come later."""
    cache = cache_on(store, fake_clock, ttl=0)
    cache.call("price", lambda: 7)
    for each in path.parent.iterdir():
        each.unlink()
    for number in (8, 9, 10):
        fake_clock.advance(1)
        cache.call("price", lambda number=number: number)
    later = SQLiteAnswers(path)
    assert cache_on(later, fake_clock).call("price", away) == 10
    later.close()


# -- the store itself ---------------------------------------------------------------------------------------


def keep(store: SQLiteAnswers, key: bytes, answer: Any, at: float = 10.0, expires: float = 100.0) -> None:
    store.secret()
    store.keep("shop", key, Lasting(answer, at, at), expires)


def test_old_secret_in_a_new_file(store: SQLiteAnswers, path: Path) -> None:
    """Nothing is kept by keys under which nobody else would find it."""
    keep(store, KEY, 7)
    for each in path.parent.iterdir():
        each.unlink()
    store.keep("shop", KEY, Lasting(8, 11.0, 11.0), 100.0)
    assert store.counts() == (0, 0)


def test_private_file(store: SQLiteAnswers, path: Path) -> None:
    """The file and what SQLite puts beside it are for their owner alone."""
    keep(store, KEY, 7)
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


def test_oldest_make_room(path: Path) -> None:
    """More answers than allowed are never kept: the oldest go."""
    store = SQLiteAnswers(path, max_entries=3)
    for number in range(10):
        keep(store, b"%032d" % number, number, at=float(number))
    left = [number for number in range(10) if store.find("shop", b"%032d" % number)]
    store.close()
    assert left == [7, 8, 9]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 900), st.booleans()), max_size=15))
def test_bytes_bound(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]) -> None:
    """Whatever is kept and forgotten, the count of bytes is right and within its bound."""
    store = SQLiteAnswers(tmp_path_factory.mktemp("answers") / "a.db", max_bytes=2000, max_entries=4)
    for at, (key, length, forget) in enumerate(steps):
        if forget:
            store.secret()
            store.forget("shop", b"%032d" % key, float(at), at + 8.0)
        else:
            keep(store, b"%032d" % key, "x" * length, at=float(at), expires=at + 8.0)
        with store._opened().read() as connection:
            real = connection.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM answers").fetchone()
        assert store.counts() == real
        assert real[0] <= 4
        assert real[1] <= 2000
    store.close()


def test_too_long(path: Path) -> None:
    """An answer that is longer than all may be is not kept, and the one before is not true any more."""
    store = SQLiteAnswers(path, max_bytes=1000)
    keep(store, KEY, 7)
    keep(store, KEY, "x" * 1000, at=11.0)
    assert store.find("shop", KEY) is None
    store.close()


def test_expired_go(store: SQLiteAnswers) -> None:
    """Answers that nobody may use any more are cleared away."""
    keep(store, KEY, 7, expires=20.0)
    keep(store, b"x" * 32, 8, at=30.0)
    assert store.counts()[0] == 1


def test_given_secret(path: Path) -> None:
    """With a secret of the caller's there is none in the file, and other secrets find nothing."""
    store = SQLiteAnswers(path, secret=b"s" * 32)
    assert store.secret() == b"s" * 32
    clock = FakeClock()
    cache_on(store, clock).call("price", lambda: 7)
    assert b"s" * 32 not in path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()
    store.close()
    another = SQLiteAnswers(path, secret=b"t" * 32)
    with pytest.raises(requests.ConnectionError):
        cache_on(another, clock).call("price", away)
    another.close()


def test_secret_is_shared(path: Path) -> None:
    """Workers that start at once agree on one secret."""

    def secret(_: int) -> bytes:
        store = SQLiteAnswers(path)
        try:
            return store.secret()
        finally:
            store.close()

    assert len(set(together(4, secret))) == 1


def test_unreadable_row(store: SQLiteAnswers) -> None:
    """A row that makes no sense is no answer, and the next one takes its place."""
    keep(store, KEY, 7)
    with store._opened().write() as connection:
        connection.execute("UPDATE answers SET kind = 'pickle', body = ?", (b"cos\nsystem\n(S'true'\ntR.",))
    assert store.find("shop", KEY) is None
    keep(store, KEY, 8, at=11.0)
    assert store.find("shop", KEY) == Lasting(8, 11.0, 11.0)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_plain_values_come_back(value: Any) -> None:
    """Plain JSON comes back as it was, types and all."""
    kept = packed(value)
    assert kept is not None
    assert repr(unpacked(kept)) == repr(value)


def circle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    "value", [(1,), {1: 2}, b"x", float("nan"), {"a": {1}}, object(), [10**5000], circle()]
)
def test_other_values_are_not_kept(value: Any) -> None:
    """What would come back changed is not kept at all."""
    assert packed(value) is None


def test_response_comes_back() -> None:
    """Of a response everything comes back but what may be a credential."""
    kept = packed(response(body=b"\0\xff", **{"Set-Cookie": "a=b", "X-API-Key": "k", "Vary": "Accept"}))
    assert kept is not None
    assert "secret" not in kept.head
    again = unpacked(kept)
    assert (again.content, again.reason, again.url) == (b"\0\xff", "OK", "http://shop/price")
    assert dict(again.headers) == {"Vary": "Accept"}
    again.raise_for_status()


@pytest.mark.parametrize("head", ["", "[]", "{}", '{"status": "x"}', "null"])
def test_unreadable_responses(head: str) -> None:
    """Whatever stands in a file, reading it is no more than a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's own sentence, or ours
        unpacked(Packed("response", head, b""))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"path": ""}, ValueError),
        ({"path": 1}, ValueError),
        ({"max_entries": 0}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
        ({"secret": "text"}, TypeError),
        ({"secret": b"short"}, ValueError),
    ],
)
def test_bad_arguments(path: Path, arguments: dict[str, Any], error: type[Exception]) -> None:
    """Bad arguments are refused at once, and a secret is not quoted."""
    with pytest.raises(error, match=next(iter(arguments))) as caught:
        SQLiteAnswers(**{"path": path} | arguments)
    assert "short" not in str(caught.value)


def test_cache_needs_a_name(store: SQLiteAnswers) -> None:
    """A cache with a store needs a name of its own, and something that is a store."""
    with pytest.raises(ValueError, match="name='stale_cache'"):
        StaleCache(1, 1, store=store)
    with pytest.raises(TypeError, match="store="):
        StaleCache(1, 1, name="shop", store=object())  # type: ignore[arg-type]
