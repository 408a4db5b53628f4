"""@idempotent: a route's effect happens once per key, its first answer is given again."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, Response, abort, jsonify, make_response, request, send_file, stream_with_context
from werkzeug.test import TestResponse

from service_utils.errors import CircuitOpenError
from service_utils.idempotency import (
    Answer,
    Began,
    IdempotencyStore,
    MemoryIdempotency,
    Question,
    SQLiteIdempotency,
)
from service_utils.integrations.flask import register_problem_handlers
from service_utils.integrations.flask.idempotency import Checked, idempotency_key, idempotent
from service_utils.storage import Database, StorageError
from service_utils.testing import FakeClock
from tests.side_by_side import together

DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[IdempotencyStore]:
    if request.param == "memory":
        yield MemoryIdempotency(clock=clock)
        return
    store = SQLiteIdempotency(Database(tmp_path / "records.db"), clock=clock)
    yield store
    store.close()


class Desk:
    """An app with one route, which counts how often it is carried out."""

    def __init__(self, store: Any, answer: Callable[[], Any] | None = None, **options: Any) -> None:
        self.done = 0
        self.answer = answer or (lambda: jsonify(done=self.done))
        self.app = Flask("desk")
        register_problem_handlers(self.app)

        @self.app.route("/orders", methods=["GET", "POST", "PUT"])
        @self.app.route("/orders/<name>", methods=["POST"])
        @idempotent(store, **options)
        def orders(name: str = "") -> Any:
            self.done += 1
            return self.answer()

    def post(self, key: str | None = "k", path: str = "/orders", **more: Any) -> TestResponse:
        return self.send("POST", key, path, **more)

    def send(self, method: str, key: str | None = "k", path: str = "/orders", **more: Any) -> TestResponse:
        headers = {**more.pop("headers", {}), **({} if key is None else {"Idempotency-Key": key})}
        return self.app.test_client().open(path, method=method, headers=headers, **more)


def is_replay(response: TestResponse) -> bool:
    return response.headers.get("Idempotency-Replayed") == "true"


def refused(response: TestResponse, status: int) -> dict[str, Any]:
    """The problem object of an answer with this status."""
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    body: dict[str, Any] = response.get_json()
    assert body["status"] == status
    return body


def test_a_repeat_gets_the_first_answer(store: IdempotencyStore) -> None:
    """Same key, same body: status, headers and bytes of the first, marked; nothing is done again."""
    answer = Response(b"\x00\xff", 201, {"Location": "/orders/1", "Content-Type": "application/x-order"})
    desk = Desk(store, lambda: answer)
    first, again = desk.post(json={"n": 1}), desk.post(json={"n": 1})
    assert desk.done == 1
    assert not is_replay(first)
    assert is_replay(again)
    assert (again.status_code, again.data) == (201, b"\x00\xff")
    assert again.headers["Location"] == "/orders/1"
    assert again.headers["Content-Type"] == first.headers["Content-Type"] == "application/x-order"
    assert again.headers["Content-Length"] == "2"


def test_headers_of_the_moment_are_not_given_again(store: IdempotencyStore) -> None:
    """Not those of one connection, one session or one request; several of one name stay several."""

    def answer() -> Response:
        response = make_response("ok")
        response.set_cookie("session", "secret")
        for name in ("X-Mine", "X-Hop", "Date", "Server", "X-Request-ID", "Keep-Alive", "Transfer-Encoding"):
            response.headers.add(name, "1")
        response.headers.add("X-Mine", "2")
        response.headers["Connection"] = "close, X-Hop"
        return response

    desk = Desk(store, answer)
    desk.post()
    again = desk.post()
    assert again.headers.getlist("X-Mine") == ["1", "2"]
    names = {name for name, _ in again.headers}
    assert names == {"Content-Type", "X-Mine", "Idempotency-Replayed", "Content-Length"}


def test_an_answer_without_content(store: IdempotencyStore) -> None:
    """A 204 comes back as a 204, without a type that it never had."""

    def answer() -> Response:
        response = Response(status=204)
        del response.headers["Content-Type"]
        return response

    desk = Desk(store, answer)
    desk.post()
    again = desk.post()
    assert (again.status_code, again.data, is_replay(again)) == (204, b"", True)
    assert "Content-Type" not in again.headers


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"n": 2}},
        {"data": b'{"n": 1}', "content_type": "text/plain"},
        {"json": {"n": 1}, "query_string": {"dry": "1"}},
        {},
    ],
)
def test_something_else_under_the_same_key(store: IdempotencyStore, other: dict[str, Any]) -> None:
    """Another body, type or query is a 422, and changes nothing about the first answer."""
    desk = Desk(store)
    desk.post(data=b'{"n": 1}', content_type="application/json")
    refused(desk.post(**other), 422)
    assert is_replay(desk.post(data=b'{"n": 1}', content_type="application/json"))
    assert desk.done == 1


def test_another_path_or_method_is_another_key(store: IdempotencyStore) -> None:
    """Keys are scoped by path and method: the same word elsewhere is a key of its own."""
    desk = Desk(store)
    for response in (desk.post(), desk.post(path="/orders/a"), desk.post(path="/orders/b"), desk.send("PUT")):
        assert not is_replay(response)
    assert desk.done == 4


def test_callers_have_keys_of_their_own(store: IdempotencyStore) -> None:
    """Nobody gets what another one was answered."""
    desk = Desk(store, caller=lambda: request.headers["X-User"])
    desk.post(headers={"X-User": "alice"})
    assert not is_replay(desk.post(headers={"X-User": "bob"}))
    assert is_replay(desk.post(headers={"X-User": "alice"}))


def test_a_caller_without_a_name_is_a_bug(store: IdempotencyStore) -> None:
    """No name would mean one key space for all nameless ones: 500, and nothing is done."""
    desk = Desk(store, caller=lambda: None)
    refused(desk.post(), 500)
    assert desk.done == 0


def test_a_missing_key_is_refused_where_it_is_required(store: IdempotencyStore) -> None:
    """400 that names the header; where it is not required the request is carried out each time."""
    desk = Desk(store)
    assert refused(desk.post(key=None), 400)["field"] == "Idempotency-Key"
    assert desk.done == 0
    free = Desk(store, required=False)
    assert [free.post(key=None).status_code for _ in range(2)] == [200, 200]
    assert free.done == 2


@pytest.mark.parametrize("key", ["", "two words", "k" * 256, '"half', "\x7f"])
@pytest.mark.parametrize("required", [True, False])
def test_a_malformed_key_is_refused(key: str, required: bool) -> None:
    """400, required or not: whoever sends a key relies on it."""
    desk = Desk(MemoryIdempotency(), required=required)
    body = refused(desk.post(key=key), 400)
    assert body["field"] == "Idempotency-Key"
    assert len(key) < 5 or key not in body["detail"]
    assert desk.done == 0


def test_quoted_or_bare(store: IdempotencyStore) -> None:
    """The string of the standard's draft and the bare word are one key, which the view can read."""
    desk = Desk(store, lambda: str(idempotency_key()))
    assert desk.post(key='"abc"').text == "abc"
    assert is_replay(desk.post(key="abc"))


def test_reads_pass_by(store: IdempotencyStore) -> None:
    """A GET needs no key, and is carried out each time whatever it carries."""
    desk = Desk(store)
    assert not any(
        is_replay(desk.send(method, key)) for method in ("GET", "HEAD") for key in ("k", "k", None)
    )
    assert desk.done == 6


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize("raised", [True, False])
def test_a_refusal_is_an_answer_too(store: IdempotencyStore, status: int, raised: bool) -> None:
    """A repeat of a 4xx gets it again, whether the view returned it or aborted."""
    desk = Desk(store, lambda: abort(status) if raised else ("no", status))
    first, again = desk.post(), desk.post()
    assert (first.status_code, again.status_code, is_replay(again)) == (status, status, True)
    assert first.data == again.data
    assert desk.done == 1


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503])
@pytest.mark.parametrize("raised", [True, False])
def test_an_answer_of_the_moment_frees_the_key(status: int, raised: bool, store: IdempotencyStore) -> None:
    """After a 5xx, or a 4xx that says "not now", a repeat is carried out."""
    if raised and status == 425:
        return  # Werkzeug has no exception for it
    desk = Desk(store, lambda: abort(status) if raised else ("no", status))
    assert desk.post().status_code == status
    desk.answer = lambda: "done"
    again = desk.post()
    assert (again.text, is_replay(again), desk.done) == ("done", False, 2)


def test_a_call_that_was_never_sent_frees_the_key(store: IdempotencyStore) -> None:
    """A service behind an open circuit has done nothing: the same key may try again."""

    def fail() -> Any:
        raise CircuitOpenError("Billing", 3.0)

    desk = Desk(store, fail)
    refused(desk.post(), 503)
    refused(desk.post(), 503)
    assert desk.done == 2


@pytest.mark.parametrize(
    "error", [requests.ConnectionError("away"), requests.ReadTimeout("late"), requests.HTTPError("500")]
)
def test_a_call_that_may_have_been_done_leaves_the_key_unknown(
    store: IdempotencyStore, error: Exception
) -> None:
    """What the view has done before and what that service has done nobody knows: it is not done again."""

    def fail() -> Any:
        raise error

    desk = Desk(store, fail)
    assert desk.post().status_code >= 500
    refused(desk.post(), 409)
    assert desk.done == 1


def test_an_exception_leaves_the_key_unknown(store: IdempotencyStore) -> None:
    """A 500 that nobody meant says nothing of what was done before it: 409, and no invitation to retry."""

    def fail() -> Any:
        raise ZeroDivisionError

    desk = Desk(store, fail)
    refused(desk.post(), 500)
    body = refused(again := desk.post(), 409)
    assert body["idempotency_state"] == "unknown"
    assert "Retry-After" not in again.headers
    assert desk.done == 1
    (lost,) = store.list_unknown()
    assert (lost.method, lost.path) == ("POST", "/orders")


def test_a_catch_all_handler_does_not_hide_that(store: IdempotencyStore) -> None:
    """The app's own page for all exceptions is no word of the route either."""
    desk = Desk(store, lambda: 1 // 0)
    desk.app.register_error_handler(Exception, lambda error: ("sorry", 500))
    assert [desk.post().status_code for _ in range(2)] == [500, 409]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_interrupt_leaves_the_key_unknown(store: IdempotencyStore, error: BaseException) -> None:
    """A worker that is ended in the middle of a request: the same."""

    def fail() -> Any:
        raise error

    desk = Desk(store, fail)
    with pytest.raises(type(error)):
        desk.post()
    assert refused(desk.post(), 409)["idempotency_state"] == "unknown"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_interrupt_on_the_way_in_frees_the_key(error: BaseException) -> None:
    """Interrupted after the record was written and before the view: nothing was done."""

    class Interrupted(MemoryIdempotency):
        def begin(self, question: Question) -> Began:
            super().begin(question)
            raise error

    store = Interrupted()
    desk = Desk(store)
    with pytest.raises(type(error)):
        desk.post()
    assert store.list_unknown() == []
    assert desk.done == 0
    assert not store._records


def test_an_operator_settles_it(store: IdempotencyStore) -> None:
    """Found not done, the key is free; found done, its answer is given from then on."""
    desk = Desk(store, lambda: 1 // 0)
    desk.post("a")
    desk.post("b")
    a, b = store.list_unknown()
    assert store.settle(a.record_id, a.token, None, DAY)
    assert store.settle(b.record_id, b.token, Answer(201, (), b"was done"), DAY)
    desk.answer = lambda: "done now"
    assert {desk.post("a").text, desk.post("b").text} == {"done now", "was done"}
    assert desk.done == 3


def check_app(store: IdempotencyStore, said: Any) -> Desk:
    asked: list[str] = []
    desk = Desk(store, lambda: 1 // 0, check=lambda name="": asked.append(name) or said)
    desk.post(path="/orders/a")
    desk.answer = lambda: "done now"
    desk.asked = asked  # type: ignore[attr-defined]
    return desk


def test_the_routes_own_check_finds_it_done(store: IdempotencyStore) -> None:
    """The answer it gives is the first answer from then on; it is asked once, with the view's arguments."""
    desk = check_app(store, ("was done", 201))
    for _ in range(2):
        again = desk.post(path="/orders/a")
        assert (again.status_code, again.text, is_replay(again)) == (201, "was done", True)
    assert desk.asked == ["a"]  # type: ignore[attr-defined]
    assert desk.done == 1


def test_the_routes_own_check_finds_it_not_done(store: IdempotencyStore) -> None:
    """Then the repeat is carried out, and kept."""
    desk = check_app(store, Checked.NOT_DONE)
    first, again = desk.post(path="/orders/a"), desk.post(path="/orders/a")
    assert (first.text, is_replay(first), is_replay(again), desk.done) == ("done now", False, True, 2)


def test_the_routes_own_check_cannot_tell(store: IdempotencyStore) -> None:
    """Then the key stays unknown, and the check is asked again the next time."""
    desk = check_app(store, Checked.UNDECIDED)
    for _ in range(2):
        assert refused(desk.post(path="/orders/a"), 409)["idempotency_state"] == "unknown"
    assert desk.asked == ["a", "a"]  # type: ignore[attr-defined]


def test_a_check_that_fails_settles_nothing(store: IdempotencyStore) -> None:
    """A 503 of the check is passed on, and is not the first answer."""
    desk = check_app(store, ("ask again", 503))
    assert desk.post(path="/orders/a").status_code == 503
    assert len(store.list_unknown()) == 1


def test_sixteen_at_once_are_carried_out_once(store: IdempotencyStore) -> None:
    """Fifteen are told that the first is at it, and when to come again."""
    others: list[TestResponse] = []

    def answer() -> str:
        others.extend(together(15, lambda _: desk.post()))
        return "done"

    desk = Desk(store, answer)
    assert desk.post().text == "done"
    for response in others:
        assert refused(response, 409)["idempotency_state"] == "running"
        assert response.headers["Retry-After"] == "1"
    assert is_replay(desk.post())
    assert desk.done == 1


def test_sixteen_behind_a_barrier_are_carried_out_once(store: IdempotencyStore) -> None:
    """Whoever comes first: one is carried out, the rest get its answer or are told to come again."""
    desk = Desk(store)
    answers = together(16, lambda _: desk.post())
    assert desk.done == 1
    assert {response.status_code for response in answers} <= {200, 409}
    assert sum(response.status_code == 200 and not is_replay(response) for response in answers) == 1


def test_two_that_check_at_once_run_once(store: IdempotencyStore) -> None:
    """Both find that it was not done; one is let in."""
    desk = check_app(store, Checked.NOT_DONE)
    answers = together(8, lambda _: desk.post(path="/orders/a"))
    assert desk.done == 2
    assert sum(response.text == "done now" and not is_replay(response) for response in answers) == 1


def test_answers_are_kept_for_thirty_days(store: IdempotencyStore, clock: FakeClock) -> None:
    """After that the key is new."""
    desk = Desk(store)
    desk.post()
    clock.advance(30 * DAY - 1)
    assert is_replay(desk.post())
    clock.advance(1)
    assert not is_replay(desk.post())


def test_a_long_answer_is_not_kept(store: IdempotencyStore) -> None:
    """Its effect happens once all the same: a repeat is told that it was done, and with which status."""
    desk = Desk(store, lambda: (b"x" * 101, 201), max_answer=100)
    assert desk.post().data == b"x" * 101
    body = refused(again := desk.post(), 409)
    assert (body["idempotency_state"], body["first_status"]) == ("answered", 201)
    assert "Retry-After" not in again.headers
    assert desk.done == 1


@pytest.mark.parametrize("length", [10, 5000])
def test_a_streamed_answer(store: IdempotencyStore, length: int) -> None:
    """It arrives whole and is closed; when it is short enough a repeat gets it again."""
    closed: list[bool] = []

    def stream() -> Iterator[bytes]:
        try:
            for _ in range(length):
                yield b"line\n"
        finally:
            closed.append(True)

    desk = Desk(store, lambda: Response(stream_with_context(stream())), max_answer=1000)
    first = desk.post()
    assert first.data == b"line\n" * length
    assert closed == [True]
    again = desk.post()
    assert again.data == first.data if length == 10 else again.status_code == 409
    assert desk.done == 1


def test_a_stream_that_breaks_leaves_the_key_unknown(store: IdempotencyStore) -> None:
    """An exception while the body is made is one of the route."""

    def stream() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    desk = Desk(store, lambda: Response(stream()))
    refused(desk.post(), 500)
    assert refused(desk.post(), 409)["idempotency_state"] == "unknown"


def test_a_file_is_given_again(store: IdempotencyStore) -> None:
    """What send_file sends is kept like any other body."""
    desk = Desk(store, lambda: send_file(io.BytesIO(b"whole file"), mimetype="text/x-file"))
    assert desk.post().data == b"whole file"
    again = desk.post()
    assert (again.data, again.mimetype, is_replay(again)) == (b"whole file", "text/x-file", True)


def test_an_async_view(store: IdempotencyStore) -> None:
    """Coroutine views are carried out once as well."""
    app, done = Flask("async"), []

    @app.post("/a")
    @idempotent(store)
    async def view() -> str:
        done.append(idempotency_key())
        return "ok"

    client = app.test_client()
    for _ in range(2):
        assert client.post("/a", headers={"Idempotency-Key": "k"}).text == "ok"
    assert done == ["k"]


def test_the_view_reads_the_body_itself(store: IdempotencyStore) -> None:
    """Form, files and JSON are there for the view, though the body was read for its fingerprint."""
    desk = Desk(store, lambda: jsonify(request.form["a"] + request.files["f"].read().decode()))
    data = {"a": "1", "f": (io.BytesIO(b"2"), "f.txt")}
    assert desk.post(data=data, content_type="multipart/form-data").get_json() == "12"


def test_a_body_over_the_limit_uses_up_no_key(store: IdempotencyStore) -> None:
    """413 before anything is begun, also when the body does not announce its length."""
    desk = Desk(store)
    desk.app.config["MAX_CONTENT_LENGTH"] = 10
    refused(desk.post(data=b"x" * 11), 413)
    endless = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    refused(desk.post(input_stream=io.BytesIO(b"x" * 11), environ_overrides=endless), 413)
    assert not is_replay(desk.post(data=b"x"))


def test_a_fingerprint_of_ones_own(store: IdempotencyStore) -> None:
    """What a route says is the same, is; what it refuses before that uses up no key."""

    def meaning() -> bytes:
        if not request.is_json:
            abort(400)
        return str(request.get_json()["n"]).encode()

    desk = Desk(store, fingerprint=meaning)
    refused(desk.post(data=b"1"), 400)
    assert not is_replay(desk.post(json={"n": 1}))
    assert is_replay(desk.post(json={"n": 1, "note": "again"}))
    refused(desk.post(json={"n": 2}), 422)


class Failing(MemoryIdempotency):
    """A store whose file cannot be written from some moment on."""

    def __init__(self, fails: str) -> None:
        super().__init__()
        self.fails = fails

    def begin(self, question: Question) -> Began:
        if self.fails == "begin":
            raise StorageError("records.db: database is locked")
        return super().begin(question)

    def finish(self, question: Question, answer: Answer, keep_for: float) -> bool:
        if self.fails == "finish":
            raise StorageError("records.db: disk full")
        return super().finish(question, answer, keep_for)


def test_a_store_that_fails_lets_nobody_in() -> None:
    """Without a record nothing is carried out: 503 with Retry-After, that names no file."""
    desk = Desk(store := Failing("begin"))
    body = refused(again := desk.post(), 503)
    assert again.headers["Retry-After"] == "1"
    assert "records.db" not in str(body)
    assert desk.done == 0
    store.fails = ""
    assert desk.post().status_code == 200


def test_an_answer_that_cannot_be_kept_is_sent_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """The effect has happened and its caller is told so; the key is unknown, and a log line says so."""
    desk = Desk(Failing("finish"))
    assert desk.post().status_code == 200
    assert "POST /orders could not be kept" in caplog.text
    assert refused(desk.post(), 409)["idempotency_state"] == "unknown"
    assert desk.done == 1


@pytest.mark.parametrize(
    "options",
    [
        {"expires": 0},
        {"expires": "1"},
        {"max_answer": -1},
        {"caller": "me"},
        {"check": 1},
        {"fingerprint": 1},
    ],
)
def test_bad_arguments(options: dict[str, Any]) -> None:
    """A wrong argument is found where it is given, by name."""
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        idempotent(MemoryIdempotency(), **options)
    with pytest.raises(TypeError, match="store="):
        idempotent(sqlite3)  # type: ignore[arg-type]


def test_no_secret_is_logged(store: IdempotencyStore, caplog: pytest.LogCaptureFixture) -> None:
    """Neither key nor credentials nor body is in a log line or the list for operators."""
    caplog.set_level("DEBUG")
    desk = Desk(store, lambda: 1 // 0)
    desk.post(key="secret-key", data=b"secret-body", headers={"Authorization": "Bearer secret-token"})
    desk.post(key="secret-key", data=b"secret-body")
    assert "secret" not in caplog.text + repr(store.list_unknown())
