"""DeadLetterQueue: what is kept of a call or message, what is refused, and what people decide."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from service_utils import ResilientServiceClient, ServiceRegistry, best_effort
from service_utils.dead_letters import (
    DeadLetterQueue,
    DeadLetterQueueFull,
    LetterStatus,
    LetterTooOld,
    MemoryDeadLetters,
    SQLiteDeadLetters,
    UnknownLetter,
)
from service_utils.dead_letters.letter import describe_error, new_letter_id
from service_utils.dead_letters.store import DAY, Died
from service_utils.events import DeadLetterAdded, DeadLetterSettled
from service_utils.http.context import bind_context, unbind_context
from service_utils.testing import Answer, FakeClock, FaultServer
from tests.forked import in_child

SECRET = "s3cr3t-v4lue"


@pytest.fixture
def events() -> list[Any]:
    return []


@pytest.fixture
def queue(fake_clock: FakeClock, events: list[Any]) -> DeadLetterQueue:
    return DeadLetterQueue(MemoryDeadLetters(), clock=fake_clock, listeners=[events.append])


@pytest.fixture
def client(fault_server: FaultServer, queue: DeadLetterQueue, fake_clock: FakeClock) -> Iterator[Any]:
    """A client that fails at once, with a queue."""
    registry = ServiceRegistry()
    fault_server.default = Answer(503)
    yield ResilientServiceClient(
        fault_server.url,
        "Git Server",
        name="git",
        max_retries=1,
        dead_letters=queue,
        registry=registry,
        clock=fake_clock,
        headers={"X-Api-Key": SECRET},
    )
    registry.close()


# -- what is kept -----------------------------------------------------------------------------------


def test_a_call(queue: DeadLetterQueue, fake_clock: FakeClock) -> None:
    """Everything that sending it again needs is kept, and why it is here."""
    letter = queue.get(
        queue.add("git", "post", "/snapshot/p1?deep=1", json={"a": 1}, error=ValueError("no"), max_retries=7)
    )
    assert letter is not None
    assert (letter.kind, letter.service, letter.method, letter.path) == (
        "call",
        "git",
        "POST",
        "/snapshot/p1?deep=1",
    )
    assert json.loads(letter.body or b"") == {"a": 1}
    assert dict(letter.headers) == {"Content-Type": "application/json"}
    assert (letter.status, letter.attempts, letter.max_retries) == (LetterStatus.PENDING, 0, 7)
    assert letter.created_at == letter.next_attempt_at == fake_clock.now().timestamp()
    assert letter.last_error == "ValueError: no"
    assert letter.idempotency_key


def test_a_message(queue: DeadLetterQueue) -> None:
    """Any message is kept with its type and its payload."""
    letter = queue.get(queue.add_message("whatsapp_message", {"to": "49", "text": "hä?"}))
    assert letter is not None
    assert (letter.kind, letter.service, letter.method, letter.path) == (
        "message",
        "whatsapp_message",
        "",
        "",
    )
    assert letter.payload() == {"to": "49", "text": "hä?"}


def test_the_calls_own_key_is_kept(queue: DeadLetterQueue) -> None:
    """The key that the attempts carried travels with the letter, given by name or among the headers."""
    by_name = queue.get(queue.add("git", "POST", "/a", idempotency_key="k-1"))
    by_header = queue.get(queue.add("git", "POST", "/a", headers={"idempotency-key": "k-2"}))
    assert by_name is not None
    assert by_header is not None
    assert (by_name.idempotency_key, by_header.idempotency_key) == ("k-1", "k-2")
    assert dict(by_header.headers) == {}


def test_the_request_it_belongs_to(queue: DeadLetterQueue) -> None:
    """The id of the request under way is kept, so that its log lines can be found again."""
    token = bind_context(request_id="r-7")
    try:
        letter = queue.get(queue.add("git", "POST", "/a"))
    finally:
        unbind_context(token)
    assert letter is not None
    assert letter.request_id == "r-7"


@pytest.mark.parametrize(
    "header",
    [
        "Authorization",
        "authorization",
        "Cookie",
        "X-INTERNAL-TOKEN",
        "Proxy-Authorization",
        "X-Api-Key",
        "X-Session",
    ],
)
def test_credentials_are_not_kept(queue: DeadLetterQueue, header: str) -> None:
    """No credential lies in the store; the client has its own when the letter is sent."""
    letter = queue.get(queue.add("git", "POST", "/a", headers={header: SECRET, "X-Colour": "blue"}))
    assert letter is not None
    assert dict(letter.headers) == {"X-Colour": "blue"}


def test_nothing_secret_is_in_the_file(tmp_path: Path) -> None:
    """Neither headers nor error texts carry a credential onto the disk."""
    path = tmp_path / "letters.sqlite3"
    with closing(SQLiteDeadLetters(path)) as store:
        queue = DeadLetterQueue(store)
        error = requests.ConnectionError(f"https://user:{SECRET}@host/a?api_key={SECRET} Bearer {SECRET}")
        queue.add("git", "POST", "/a", headers={"Authorization": f"Bearer {SECRET}"}, error=error)
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"/a" in files
    assert SECRET.encode() not in files


def test_a_letter_shows_no_body(queue: DeadLetterQueue) -> None:
    """Bodies are users' data: they are shown to those who ask for them, and to nobody by accident."""
    letter = queue.get(queue.add("git", "POST", "/a", body=b"private \xff", headers={"X-A": "private"}))
    assert letter is not None
    assert "private" not in repr(letter)
    assert "body" not in letter.as_dict()
    assert letter.as_dict()["body_bytes"] == 9
    assert letter.as_dict(body=True)["body"] == {"encoding": "base64", "content": "cHJpdmF0ZSD/"}
    json.dumps(letter.as_dict(body=True))


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("nothing to say")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, None),
        ("  two\n lines ", "two lines"),
        (ValueError(), "ValueError"),
        (f"token={SECRET}; x", "token=...; x"),
        (f'{{"password": "{SECRET} and more"}}', '{"password": ...}'),
        (f"https://u:{SECRET}@h/p?key={SECRET}", "https://h/p?..."),
        (f"https://u:p@{SECRET}@h/p", "https://h/p"),
        (f"Authorization: Bearer {SECRET}", "Authorization: ..."),
        (f"Authorization: {SECRET}, x", "Authorization: ..., x"),
        (f"{{'Authorization': 'Basic {SECRET}', 'a': 1}}", "{'Authorization': ..., 'a': 1}"),
        (f"{{b'X-INTERNAL-TOKEN': b'{SECRET}'}}", "{b'X-INTERNAL-TOKEN': ...}"),
        (f"Cookie: a=b; sid={SECRET}", "Cookie: ..."),
        (f"sent with bearer {SECRET}.", "sent with bearer ..."),
        ("half \udcff a character\0", "half ? a character?"),
        (Unspeakable(), "Unspeakable"),
        ("x" * 600, "x" * 497 + "..."),
    ],
)
def test_errors_in_words(error: Any, said: str | None) -> None:
    """An error becomes one line without credentials, of bounded length."""
    assert describe_error(error) == said


@settings(max_examples=60, deadline=None)
@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_an_error_of_any_text_can_be_kept(before: str, after: str) -> None:
    """Whatever an error says round a secret, the letter can be kept, and the secret is not."""
    said = describe_error(f"{before} Authorization: Bearer {SECRET} {after}")
    assert said is not None
    assert SECRET not in said
    assert said.isprintable()
    assert len(said) <= 500
    assert said.encode()


def test_a_path_shows_no_secret(queue: DeadLetterQueue) -> None:
    """A key in the query string is sent again, but shown to nobody."""
    letter = queue.get(queue.add("git", "POST", f"/a?x=1&api_key={SECRET}&y=2"))
    assert letter is not None
    assert letter.path.endswith(f"api_key={SECRET}&y=2")
    assert letter.as_dict()["path"] == "/a?x=1&api_key=...&y=2"
    assert SECRET not in repr(letter)


def test_ids_of_one_moment_sort_as_they_were_made() -> None:
    """Letters added within one millisecond keep their order, also for someone who sorts them by id."""
    ids = [new_letter_id(1_800_000_000.0) for _ in range(200)]
    assert ids == sorted(set(ids))


def test_ids_of_a_forked_child_are_its_own() -> None:
    """Parent and child never give one id to two letters, even within the same millisecond."""
    new_letter_id(1_800_000_000.0)
    theirs = in_child(lambda: [new_letter_id(1_800_000_000.0) for _ in range(5)])
    assert not set(theirs) & {new_letter_id(1_800_000_000.0) for _ in range(5)}


def test_ids_sort_by_time() -> None:
    """Ids are 26 characters that sort by the time they were made."""
    ids = [new_letter_id(seconds) for seconds in (0.0, 1.0, 1.001, 1_800_000_000.0, 1e15)]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {26}
    assert len({new_letter_id(1.0) for _ in range(100)}) == 100


def test_many_at_once(queue: DeadLetterQueue, events: list[Any]) -> None:
    """A batch is kept as a whole, calls and messages in one, and each letter is told."""
    ids = queue.add_many(
        [
            {"service": "git", "method": "POST", "path": "/a", "json": {}},
            {"type": "mail", "payload": [1]},
        ]
    )
    assert [letter.id for letter in queue.list()] == ids
    assert [event.letter_id for event in events] == ids
    assert queue.add_many([]) == []


@pytest.mark.parametrize("body", [b"\0\xff", bytearray(b"\0\xff"), memoryview(b"\0\xff")])
def test_bytes_of_any_kind(queue: DeadLetterQueue, body: Any) -> None:
    """Binary bodies stay as they are."""
    letter = queue.get(queue.add("git", "PUT", "/a", body=body))
    assert letter is not None
    assert letter.body == b"\0\xff"


def test_the_callers_content_type_stands(queue: DeadLetterQueue) -> None:
    """JSON that the caller has named otherwise is sent under that name, once."""
    letter = queue.get(
        queue.add("git", "POST", "/a", json={}, headers={"content-type": "application/x+json"})
    )
    assert letter is not None
    assert dict(letter.headers) == {"content-type": "application/x+json"}


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "limit"),
    [
        ({"max_letters": 1}, "max_letters=1", "max_letters"),
        ({"max_bytes": 30}, "max_bytes=30", "max_bytes"),
        ({"max_body": 9}, "max_body=9: the body has 20 bytes", "max_body"),
    ],
)
def test_full(options: dict[str, int], message: str, limit: str) -> None:
    """A limit that is reached is an error that names it: nothing is dropped in silence."""
    queue = DeadLetterQueue(MemoryDeadLetters(), **options)
    with pytest.raises(DeadLetterQueueFull, match=message) as caught:
        queue.add_many([{"service": "git", "method": "POST", "path": "/a", "body": b"x" * 20}] * 2)
    assert caught.value.limit == limit
    assert queue.stats()["letters"] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"service": ""}, ValueError, "service=''"),
        ({"service": "a\nb"}, ValueError, "service="),
        ({"method": "GET"}, ValueError, "method='GET'"),
        ({"path": "a"}, ValueError, "path='a'"),
        ({"path": "//host/a"}, ValueError, "path='//host/a'"),
        ({"path": "/a\r\nX: y"}, ValueError, "control characters"),
        ({"path": "/\udcff"}, ValueError, "control characters"),
        ({"request_id": "a\nb"}, ValueError, "request_id="),
        ({"json": {1, 2}}, TypeError, "json of type set"),
        ({"json": float("nan")}, TypeError, "json of type float"),
        ({"json": {}, "body": b""}, ValueError, "both given"),
        ({"body": 7}, TypeError, "body of type int"),
        ({"headers": ["a"]}, TypeError, "headers of type list"),
        ({"headers": {"a": 1}}, TypeError, "headers: 'a'"),
        ({"idempotency_key": "a b"}, ValueError, "idempotency_key='a b'"),
        ({"headers": {"X-A": "b\r\nc"}}, ValueError, "X-A"),
        ({"headers": {b"X-A": "b"}}, TypeError, "headers: b'X-A'"),
        ({"max_retries": 0}, ValueError, "max_retries=0"),
        ({"max_retries": 2**70}, ValueError, "at most 1000000"),
    ],
)
def test_bad_letters(queue: DeadLetterQueue, arguments: dict[str, Any], error: Any, message: str) -> None:
    """A wrong argument is named with its value, and nothing is kept."""
    with pytest.raises(error, match=message):
        queue.add(**{"service": "git", "method": "POST", "path": "/a", **arguments})
    assert queue.stats()["letters"] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"store": {}}, TypeError, "store={}"),
        ({"max_letters": 0}, ValueError, "max_letters=0"),
        ({"max_bytes": -1}, ValueError, "max_bytes=-1"),
        ({"max_body": 0}, ValueError, "max_body=0"),
        ({"max_age": 0}, ValueError, "max_age=0"),
        ({"listeners": [7]}, TypeError, "listeners"),
        ({"clock": 7}, TypeError, "clock=7"),
    ],
)
def test_bad_queues(arguments: dict[str, Any], error: Any, message: str) -> None:
    """A queue that could not work is refused when it is made."""
    with pytest.raises(error, match=message):
        DeadLetterQueue(**{"store": MemoryDeadLetters(), **arguments})


# -- from clients -----------------------------------------------------------------------------------


def test_enqueue(client: ResilientServiceClient, queue: DeadLetterQueue, fault_server: FaultServer) -> None:
    """A call can be put into the queue without being tried, without the secrets of the client."""
    letter_id = client.enqueue("POST", "/snapshot/{id}", path_params={"id": "p 1"}, json={"a": 1})
    letter = queue.get(letter_id)
    assert letter is not None
    assert (letter.service, letter.path, letter.body) == ("git", "/snapshot/p%201", b'{"a": 1}')
    assert SECRET not in str(letter.as_dict(body=True))
    assert fault_server.requests == []


def test_best_effort(
    client: ResilientServiceClient, queue: DeadLetterQueue, fault_server: FaultServer
) -> None:
    """A call that failed on the way is kept with the key, the body and the id that it was sent with."""
    with best_effort("git snapshot", dead_letters=queue) as effort:
        client.post("/snapshot/p1", json={"a": 1})
    letter = queue.get(effort.letter_id or "")
    (sent,) = fault_server.requests
    assert letter is not None
    assert (letter.idempotency_key, letter.body) == (sent.headers["Idempotency-Key"], sent.body)
    assert letter.request_id == sent.headers["X-Request-ID"]
    assert letter.last_status == 503
    assert letter.last_error == "Git Server: POST /snapshot/p1 failed after 1 attempt: status 503"


def test_a_full_queue_is_not_hidden(client: ResilientServiceClient) -> None:
    """Where a failed call cannot be kept, best effort is over: the caller learns of it."""
    full = DeadLetterQueue(MemoryDeadLetters(), max_letters=1)
    full.add("git", "POST", "/a")
    with pytest.raises(DeadLetterQueueFull), best_effort("git snapshot", dead_letters=full):
        client.post("/snapshot/p1", json={})


def test_the_log_line(
    caplog: pytest.LogCaptureFixture, client: ResilientServiceClient, fake_clock: Any
) -> None:
    """An added letter is one line, with the display name where the client is known; no query is shown."""
    registry = ServiceRegistry()
    queue = DeadLetterQueue(MemoryDeadLetters(), registry=registry, clock=fake_clock)
    with caplog.at_level(logging.WARNING, "service_utils"):
        unknown = queue.add("git", "POST", "/snapshot/p1?user=7")
        registry.add(client)
        known = queue.add("git", "POST", "/snapshot/p1")
    assert [record.getMessage() for record in caplog.records] == [
        f"[git] Dead letter {unknown} added: POST /snapshot/p1",
        f"[Git Server] Dead letter {known} added: POST /snapshot/p1",
    ]


# -- looking and deciding ---------------------------------------------------------------------------


def rest(queue: DeadLetterQueue, letter_id: str) -> None:
    """Let a letter be dead."""
    letter = queue.get(letter_id)
    assert letter is not None
    now = queue.clock.now().timestamp()
    (lease,) = queue.store.lease(letter.service, now=now, seconds=60.0, limit=1)
    assert lease.letter.id == letter_id
    queue.store.settle(lease, Died(error="status 422"))


def test_retry(queue: DeadLetterQueue) -> None:
    """A letter that rested is tried at once."""
    letter_id = queue.add("git", "POST", "/a")
    rest(queue, letter_id)
    assert queue.retry(letter_id) is True
    letter = queue.get(letter_id)
    assert letter is not None
    assert (letter.status, letter.attempts) == (LetterStatus.PENDING, 0)


def test_retry_of_what_is_being_tried(queue: DeadLetterQueue) -> None:
    """A letter that a worker has in hand is left there."""
    letter_id = queue.add("git", "POST", "/a")
    queue.store.lease("git", now=queue.clock.now().timestamp(), seconds=60.0, limit=1)
    assert queue.retry(letter_id) is False


def test_retry_of_nothing(queue: DeadLetterQueue) -> None:
    """An id that nobody knows is an error that names it."""
    with pytest.raises(UnknownLetter, match="no letter has the id 'nobody'"):
        queue.retry("nobody")


def test_retry_of_an_old_letter(queue: DeadLetterQueue, fake_clock: FakeClock) -> None:
    """When receivers may have forgotten the key, only force sends a letter again."""
    letter_id = queue.add("git", "POST", "/a")
    rest(queue, letter_id)
    fake_clock.advance(30 * DAY + 1)
    with pytest.raises(LetterTooOld, match="older than 30 days"):
        queue.retry(letter_id)
    assert queue.retry_all() == 0
    assert queue.retry(letter_id, force=True) is True


def test_retry_all(queue: DeadLetterQueue, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """All dead ones of a service, but those that are too old, which is said."""
    old = queue.add("git", "POST", "/old")
    rest(queue, old)
    fake_clock.advance(31 * DAY)
    for service in ("git", "git", "billing"):
        rest(queue, queue.add(service, "POST", "/a"))
    assert queue.retry_all(service="git") == 2
    assert "older than 30 days" in caplog.text
    assert queue.retry_all(force=True) == 2


def test_purge(queue: DeadLetterQueue, fake_clock: FakeClock, events: list[Any]) -> None:
    """What is removed is told letter by letter, with the reason."""
    old = queue.add("git", "POST", "/old")
    fake_clock.advance(100.0)
    queue.add("git", "POST", "/new")
    assert queue.purge(older_than=50.0, reason="by hand") == 1
    (told,) = [event for event in events if isinstance(event, DeadLetterSettled)]
    assert (told.letter_id, told.outcome, told.detail) == (old, "purged", "by hand")
    assert queue.purge(service="git") == 1
    assert queue.purge() == 0


def test_purge_of_very_many(queue: DeadLetterQueue, caplog: pytest.LogCaptureFixture) -> None:
    """However many there are, all go, a batch at a time."""
    caplog.set_level(logging.CRITICAL, "service_utils")
    queue.add_many([{"service": "git", "method": "POST", "path": "/a"}] * 1001)
    assert queue.purge() == 1001
    assert queue.stats()["totals"]["purged"] == 1001


def test_letters_live_seven_days(queue: DeadLetterQueue, fake_clock: FakeClock, caplog: Any) -> None:
    """Old letters are removed by expire() alone, and each is a line in the log."""
    letter_id = queue.add("git", "POST", "/a")
    fake_clock.advance(7 * DAY)
    assert queue.expire() == 0
    fake_clock.advance(1.0)
    with caplog.at_level(logging.WARNING, "service_utils"):
        assert queue.expire() == 1
    assert f"Dead letter {letter_id} purged (attempts 0): older than 7 days" in caplog.text


def test_list(queue: DeadLetterQueue) -> None:
    """Filters by service and status; a status that does not exist is named with those that do."""
    letter_id = queue.add("git", "POST", "/a")
    queue.add("billing", "POST", "/a")
    rest(queue, letter_id)
    assert [letter.service for letter in queue.list(status="pending")] == ["billing"]
    assert [letter.id for letter in queue.list("git", LetterStatus.DEAD)] == [letter_id]
    assert len(queue.list(limit=1)) == 1
    with pytest.raises(ValueError, match="status='gone': must be one of pending, leased, dead"):
        queue.list(status="gone")
    with pytest.raises(ValueError, match="limit=0"):
        queue.list(limit=0)


def test_stats(queue: DeadLetterQueue, fake_clock: FakeClock) -> None:
    """Numbers for people and dashboards, JSON-ready."""
    queue.add("git", "POST", "/a", body=b"123")
    fake_clock.advance(5.0)
    found = queue.stats()
    assert found["letters"] == found["pending"] == 1
    assert found["oldest_age_seconds"] == 5.0
    assert (found["max_letters"], found["max_bytes"]) == (100_000, 2**30)
    json.dumps(found)


def test_events(queue: DeadLetterQueue, events: list[Any]) -> None:
    """Listeners of the queue hear of what is added."""
    letter_id = queue.add("git", "POST", "/a")
    (event,) = events
    assert isinstance(event, DeadLetterAdded)
    assert (event.letter_id, event.method, event.path, event.name) == (letter_id, "POST", "/a", "git")
