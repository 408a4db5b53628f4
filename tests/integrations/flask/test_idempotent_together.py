"""@idempotent with record and effect in one SQLite transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, abort, jsonify
from werkzeug.test import TestResponse

from service_utils.idempotency import Question, SQLiteIdempotency, fingerprint_of, record_id
from service_utils.integrations.flask import register_problem_handlers
from service_utils.integrations.flask.idempotency import Checked, idempotent
from service_utils.storage import Database
from tests.side_by_side import together


class Shop:
    """An app whose route writes an order into the database of its records."""

    def __init__(self, database: Database, **options: Any) -> None:
        self.database = database
        database.migrate("orders", ["CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT UNIQUE);"])
        self.store = SQLiteIdempotency(database)
        self.records = self.store.in_transaction()
        self.then: Callable[[], Any] = lambda: jsonify(orders=self.written())
        self.app = Flask("shop")
        register_problem_handlers(self.app)
        self.app.add_url_rule(
            "/orders", view_func=idempotent(self.records, **options)(self.order), methods=["POST"]
        )

    def order(self) -> Any:
        self.records.connection.execute("INSERT INTO orders (item) VALUES (NULL)")
        return self.then()

    def written(self) -> int:
        return int(self.records.connection.execute("SELECT count(*) FROM orders").fetchone()[0])

    def orders(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])

    def post(self, key: str = "k") -> TestResponse:
        return self.app.test_client().post("/orders", headers={"Idempotency-Key": key})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "shop.db", busy_timeout=5)
    yield database
    database.close()


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


def is_replay(response: TestResponse) -> bool:
    return "Idempotency-Replayed" in response.headers


def test_the_effect_and_its_record_are_one(shop: Shop) -> None:
    """One order, and its answer for every repeat."""
    first, again = shop.post(), shop.post()
    assert (first.get_json(), again.get_json()) == ({"orders": 1}, {"orders": 1})
    assert (is_replay(first), is_replay(again), shop.orders()) == (False, True, 1)


@pytest.mark.parametrize("status", [409, 429, 500, 503])
@pytest.mark.parametrize("raised", [True, False])
def test_an_answer_that_is_not_kept_has_no_effect(shop: Shop, status: int, raised: bool) -> None:
    """A route that says "not now" after it wrote has written nothing, and may be tried again."""
    shop.then = lambda: abort(status) if raised else ("no", status)
    assert shop.post().status_code == status
    assert shop.orders() == 0
    shop.then = lambda: "done"
    assert (shop.post().text, shop.orders()) == ("done", 1)


@pytest.mark.parametrize("error", [ZeroDivisionError(), sqlite3.OperationalError("disk I/O error")])
def test_an_exception_leaves_nothing_and_the_key_free(shop: Shop, error: Exception) -> None:
    """A bug after the write: 500, no order, and the repeat is carried out."""

    def fail() -> Any:
        raise error

    shop.then = fail
    assert [shop.post().status_code for _ in range(2)] == [500, 500]
    assert shop.orders() == 0
    shop.then = lambda: "done"
    assert (shop.post().text, shop.orders()) == ("done", 1)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_interrupt_leaves_nothing_and_the_key_free(shop: Shop, error: BaseException) -> None:
    """A worker that is ended in the middle of the route: the same."""

    def fail() -> Any:
        raise error

    shop.then = fail
    with pytest.raises(type(error)):
        shop.post()
    shop.then = lambda: "done"
    assert (shop.post().text, shop.orders()) == ("done", 1)


def test_an_aborted_route_keeps_its_answer_and_undoes_its_effect(shop: Shop) -> None:
    """An exception that becomes a 404: nothing is written, the 404 is given again."""
    shop.then = lambda: abort(404)
    first, again = shop.post(), shop.post()
    assert (first.status_code, again.status_code, is_replay(again)) == (404, 404, True)
    assert shop.orders() == 0


def test_a_returned_refusal_keeps_what_was_written(shop: Shop) -> None:
    """An answer that the route itself made stands for what it did."""
    shop.then = lambda: ("too little money", 402)
    assert [shop.post().status_code for _ in range(2)] == [402, 402]
    assert shop.orders() == 1


def test_a_stream_that_breaks_leaves_nothing(shop: Shop) -> None:
    """The body belongs to the route: an exception in it undoes all."""

    def stream() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    shop.then = lambda: Response(stream())
    assert shop.post().status_code == 500
    assert shop.orders() == 0


def test_a_transaction_that_sqlite_gave_up(shop: Shop) -> None:
    """After an error that undoes everything, no answer is kept, whatever the app says to the exception."""

    def fail() -> Any:
        shop.records.connection.execute("ROLLBACK")
        raise LookupError

    shop.then = fail
    shop.app.register_error_handler(LookupError, lambda error: ("gone", 404))
    first, again = shop.post(), shop.post()
    assert (first.status_code, again.status_code, is_replay(again), shop.orders()) == (404, 404, False, 0)


def test_sixteen_at_once_wait_for_the_first(shop: Shop) -> None:
    """All get the same answer, fifteen of them as a repeat; there is one order."""
    answers = together(16, lambda _: shop.post())
    assert {response.status_code for response in answers} == {200}
    assert [is_replay(response) for response in answers].count(True) == 15
    assert shop.orders() == 1


def test_a_busy_file_is_a_503(tmp_path: Path) -> None:
    """While another writer has the file: 503 with Retry-After, and the key is free."""
    database = Database(tmp_path / "busy.db", busy_timeout=0.05)
    shop = Shop(database)
    with database.write():
        refused = shop.post()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert (shop.post().status_code, shop.orders()) == (200, 1)
    database.close()


def test_a_commit_that_fails_is_a_503(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be kept has not happened, and is not told as done."""

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("service_utils.idempotency.tables.answer_row", full)
        assert shop.post().status_code == 503
    assert shop.orders() == 0
    assert shop.post().get_json() == {"orders": 1}


@pytest.mark.parametrize(
    ("said", "text", "orders"),
    [
        (None, None, 0),
        (Checked.UNDECIDED, None, 0),
        (Checked.NOT_DONE, "done", 1),
        (("was done", 200), "was done", 0),
    ],
)
def test_what_was_lost_before_can_be_settled(
    database: Database, said: Any, text: str | None, orders: int
) -> None:
    """A key that was broken off apart from its effect is unknown here too; the route's check settles it."""
    shop = Shop(database, check=None if said is None else lambda: said)
    shop.then = lambda: "done"
    asked = fingerprint_of("k", [b"", b"", b""])
    lost = Question(record_id("", "POST", "/orders", "k"), asked, "", "POST", "/orders")
    shop.store.begin(lost)
    assert shop.post().get_json()["idempotency_state"] == "running"
    shop.store.leave(lost)
    answer = shop.post()
    assert (answer.status_code, answer.text) == (200, text) if text else answer.status_code == 409
    assert shop.orders() == orders
    assert is_replay(shop.post()) is (text is not None)
