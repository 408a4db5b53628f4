"""The billing service over real HTTP: what its callers see."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.serving import make_server

from backend.services import common
from backend.services.billing import create_app
from backend.services.billing.app import starting_balance_from_env
from service_utils.testing import FakeClock

START = 1_000_000
TOKEN = "a-token-for-this-test"


class Billing:
    """A client of one running service."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.token: str | None = TOKEN

    def post(self, path: str, body: Any, key: str | None = "new") -> requests.Response:
        headers = self._headers()
        if key is not None:
            headers["Idempotency-Key"] = uuid.uuid4().hex if key == "new" else key
        return requests.post(self.url + path, json=body, headers=headers, timeout=20)

    def get(self, path: str, **params: Any) -> requests.Response:
        return requests.get(self.url + path, params=params, headers=self._headers(), timeout=20)

    def deduct(self, amount: int, key: str = "new", user: str = "alice") -> requests.Response:
        return self.post("/deduct_cost", {"user": user, "amount": amount, "currency": "USD"}, key)

    def reserve(self, amount: int, key: str = "new", **more: Any) -> requests.Response:
        return self.post("/reserve", {"user": "alice", "amount": amount, "currency": "USD", **more}, key)

    def capture(self, reservation: Any, amount: int, key: str = "new") -> requests.Response:
        return self.post("/capture", {"reservation_id": reservation, "amount": amount}, key)

    def release(self, reservation: Any, key: str = "new") -> requests.Response:
        return self.post("/release", {"reservation_id": reservation}, key)

    def balance(self, user: str = "alice") -> tuple[int, int, int]:
        body = self.get(f"/balance/{user}").json()
        return body["balance"], body["held"], body["available"]

    def entries(self, user: str = "alice") -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.get(f"/ledger/{user}", limit=1000).json()["entries"]
        return entries

    def _headers(self) -> dict[str, str]:
        return {} if self.token is None else {"X-INTERNAL-TOKEN": self.token}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def patience() -> float:
    """Seconds for which the service waits for another writer."""
    return common.BUSY_SECONDS


@pytest.fixture
def billing(
    tmp_path: Path, clock: FakeClock, patience: float, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Billing]:
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)
    monkeypatch.setattr(common, "BUSY_SECONDS", patience)
    app = create_app(tmp_path, starting_balance=START, clock=clock)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Billing(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()
    app.extensions["billing"].close()


def test_a_new_user_has_the_starting_balance_as_a_ledger_entry(billing: Billing) -> None:
    """Whoever looks for the first time finds the starting balance, and the entry it comes from."""
    assert billing.balance() == (START, 0, START)
    (grant,) = billing.entries()
    assert (grant["kind"], grant["amount"], grant["balance_after"]) == ("grant", START, START)


def test_a_charge_is_taken_off_the_balance(billing: Billing) -> None:
    """A charge answers with the new balance and stands in the ledger with its description."""
    body = {"user": "alice", "amount": 250, "currency": "USD", "description": "a search"}
    answer = billing.post("/deduct_cost", body)
    assert answer.status_code == 200
    assert (answer.json()["balance"], answer.json()["amount"]) == (START - 250, 250)
    last = billing.entries()[-1]
    assert (last["kind"], last["amount"], last["description"]) == ("charge", -250, "a search")
    assert last["id"] == answer.json()["entry_id"]


def test_currencies_are_apart(billing: Billing) -> None:
    """A charge in euros leaves the dollars alone, and USD is the currency when none is named."""
    billing.post("/deduct_cost", {"user": "alice", "amount": 5, "currency": "EUR"})
    billing.post("/deduct_cost", {"user": "alice", "amount": 7})
    assert billing.get("/balance/alice", currency="EUR").json()["balance"] == START - 5
    assert billing.balance()[0] == START - 7
    euros = billing.get("/ledger/alice", currency="EUR").json()["entries"]
    assert [entry["amount"] for entry in euros] == [START, -5]


def test_too_little_money_is_refused_with_the_amounts(billing: Billing) -> None:
    """Who cannot pay gets a 402 that says what is there and what would be needed, and is not charged."""
    answer = billing.deduct(START + 1)
    assert answer.status_code == 402
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["balance"], problem["available"], problem["needed"]) == (START, START, START + 1)
    assert {"title", "status", "detail", "request_id"} <= problem.keys()
    assert len(billing.entries()) == 1


def test_the_last_micro_unit_can_be_spent(billing: Billing) -> None:
    """A balance can be spent to zero and no further."""
    assert billing.deduct(START).json()["balance"] == 0
    assert billing.deduct(1).status_code == 402


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user": "alice"}, "amount"),
        ({"amount": 5}, "user"),
        ({"user": "alice", "amount": 0}, "amount"),
        ({"user": "alice", "amount": -5}, "amount"),
        ({"user": "alice", "amount": True}, "amount"),
        ({"user": "alice", "amount": 1.0}, "amount"),
        ({"user": "alice", "amount": "5"}, "amount"),
        ({"user": "alice", "amount": None}, "amount"),
        ({"user": "alice", "amount": 2**53}, "amount"),
        ({"user": "alice", "amount": 10**400}, "amount"),
        ({"user": "alice", "amount": 5, "currency": "usd"}, "currency"),
        ({"user": "alice", "amount": 5, "currency": "USD\n"}, "currency"),
        ({"user": "alice", "amount": 5, "currency": "EURO"}, "currency"),
        ({"user": "", "amount": 5}, "user"),
        ({"user": "a/b", "amount": 5}, "user"),
        ({"user": "a\u0000b", "amount": 5}, "user"),
        ({"user": "a" * 129, "amount": 5}, "user"),
        ({"user": 7, "amount": 5}, "user"),
        ({"user": "alice", "amount": 5, "description": "x" * 501}, "description"),
        ({"user": "alice", "amount": 5, "tip": 1}, "tip"),
        ([], "body"),
        ("text", "body"),
    ],
)
def test_a_wrong_body_is_refused_by_name(billing: Billing, body: Any, field: str) -> None:
    """A body that does not fit is a 400 naming the field, and charges nothing."""
    answer = billing.post("/deduct_cost", body)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert billing.entries() == []


def test_a_lone_surrogate_is_refused(billing: Billing) -> None:
    """A text that is no text (half a character) is a 400, not an accident."""
    answer = requests.post(
        billing.url + "/deduct_cost",
        data=b'{"user": "\\ud800", "amount": 5}',
        headers={"Content-Type": "application/json", "Idempotency-Key": "k", "X-INTERNAL-TOKEN": TOKEN},
        timeout=20,
    )
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/deduct_cost", "/reserve", "/capture", "/release"])
def test_every_write_asks_for_a_key(billing: Billing, path: str) -> None:
    """A write without Idempotency-Key is a 400 that names the header."""
    body = {"reservation_id": "r"} if path in ("/capture", "/release") else {"user": "alice"}
    if path != "/release":
        body = {**body, "amount": 5}  # type: ignore[dict-item]
    answer = billing.post(path, body, key=None)
    assert answer.status_code == 400
    assert answer.json()["field"] == "Idempotency-Key"
    assert "Idempotency-Key" in answer.json()["detail"]


@pytest.mark.parametrize("key", ["", "two words", "k" * 256])
def test_a_malformed_key_is_refused(billing: Billing, key: str) -> None:
    """A key that is no single visible word is a 400."""
    assert billing.deduct(5, key).status_code == 400


def test_a_repeated_key_charges_once(billing: Billing) -> None:
    """The repeat gets the first answer, marked as replayed, and nothing is charged again."""
    first, second = billing.deduct(100, "k1"), billing.deduct(100, "k1")
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert (second.status_code, second.json()) == (200, first.json())
    assert billing.balance()[0] == START - 100


def test_a_key_with_another_body_is_refused(billing: Billing) -> None:
    """The same key for another amount is a 422 and charges nothing."""
    billing.deduct(100, "k1")
    answer = billing.deduct(101, "k1")
    assert answer.status_code == 422
    assert "Idempotency-Replayed" not in answer.headers
    assert billing.balance()[0] == START - 100


def test_the_same_body_in_other_words_is_the_same_body(billing: Billing) -> None:
    """Leaving out a default does not make another request of it."""
    billing.post("/deduct_cost", {"user": "alice", "amount": 5, "currency": "USD"}, "k1")
    again = billing.post("/deduct_cost", {"amount": 5, "user": "alice"}, "k1")
    assert again.headers["Idempotency-Replayed"] == "true"


def test_two_users_may_choose_the_same_key(billing: Billing) -> None:
    """A key belongs to a user: another user's charge under the same key is a charge of its own."""
    billing.deduct(10, "k1", user="alice")
    billing.deduct(20, "k1", user="bob")
    assert (billing.balance("alice")[0], billing.balance("bob")[0]) == (START - 10, START - 20)


def test_a_refusal_is_an_answer_too(billing: Billing) -> None:
    """A repeated 402 is the first 402, with its amounts, although the balance has changed since."""
    first = billing.deduct(START + 1, "k1")
    billing.deduct(1)
    again = billing.deduct(START + 1, "k1")
    assert (first.status_code, again.status_code) == (402, 402)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["available"] == first.json()["available"] == START


def test_a_bad_request_does_not_use_up_its_key(billing: Billing) -> None:
    """After a 400 the corrected request goes through under the same key."""
    assert billing.deduct(0, "k1").status_code == 400
    assert billing.deduct(5, "k1").status_code == 200


def test_fifty_repeats_at_once_charge_once(billing: Billing) -> None:
    """Fifty threads sending one key together make one ledger entry, and all get the same answer."""
    barrier = threading.Barrier(50)

    def charge(_: int) -> requests.Response:
        barrier.wait(20)
        return billing.deduct(100, "k1")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(charge, range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 49
    assert [entry["kind"] for entry in billing.entries()] == ["grant", "charge"]


def test_charges_at_once_never_overdraw(billing: Billing) -> None:
    """Of twenty charges that start together only those go through for which there is money."""
    barrier = threading.Barrier(20)

    def charge(_: int) -> int:
        barrier.wait(20)
        return billing.deduct(START // 8).status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(charge, range(20)))
    assert (statuses.count(200), statuses.count(402)) == (8, 12)
    assert billing.balance()[0] == 0


def test_reserved_money_is_not_available(billing: Billing) -> None:
    """What is reserved stays in the balance, but neither a charge nor a second reservation can have it."""
    assert billing.reserve(START - 10).status_code == 200
    assert billing.balance() == (START, START - 10, 10)
    assert billing.deduct(11).status_code == 402
    assert billing.reserve(11).status_code == 402
    assert billing.deduct(10).status_code == 200


def test_capture_takes_the_cost_and_frees_the_rest(billing: Billing) -> None:
    """Capturing less than reserved charges that much and gives the rest back."""
    reservation = billing.reserve(1000).json()["reservation_id"]
    answer = billing.capture(reservation, 300)
    assert answer.status_code == 200
    assert (answer.json()["amount"], answer.json()["freed"]) == (300, 700)
    assert billing.balance() == (START - 300, 0, START - 300)
    last = billing.entries()[-1]
    assert (last["kind"], last["amount"], last["reservation_id"]) == ("capture", -300, reservation)


def test_capture_never_takes_more_than_is_reserved(billing: Billing) -> None:
    """More than the reservation holds is a 409, and the reservation still stands."""
    reservation = billing.reserve(1000).json()["reservation_id"]
    answer = billing.capture(reservation, 1001)
    assert (answer.status_code, answer.json()["reserved"]) == (409, 1000)
    assert billing.balance() == (START, 1000, START - 1000)


def test_a_repeated_capture_gets_the_first_answer(billing: Billing) -> None:
    """A capture whose answer was lost is sent again with its key and charges once."""
    reservation = billing.reserve(1000).json()["reservation_id"]
    first, again = billing.capture(reservation, 300, "c1"), billing.capture(reservation, 300, "c1")
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert billing.balance()[0] == START - 300


def test_a_second_capture_is_refused(billing: Billing) -> None:
    """A captured reservation cannot be captured again under another key."""
    reservation = billing.reserve(1000).json()["reservation_id"]
    billing.capture(reservation, 300)
    answer = billing.capture(reservation, 300)
    assert (answer.status_code, answer.json()["state"]) == (409, "captured")
    assert billing.balance()[0] == START - 300


def test_release_frees_all(billing: Billing) -> None:
    """A released reservation costs nothing, and releasing it again changes nothing."""
    reservation = billing.reserve(1000).json()["reservation_id"]
    first, again = billing.release(reservation), billing.release(reservation)
    assert (first.status_code, first.json()["freed"], first.json()["state"]) == (200, 1000, "released")
    assert (again.status_code, again.json()["freed"], again.json()["state"]) == (200, 0, "released")
    assert billing.balance() == (START, 0, START)


def test_released_money_cannot_be_captured(billing: Billing) -> None:
    """Capturing a released reservation is a 409 that says so."""
    reservation = billing.reserve(1000).json()["reservation_id"]
    billing.release(reservation)
    answer = billing.capture(reservation, 300)
    assert answer.status_code == 409
    assert "released" in answer.json()["detail"]


def test_captured_money_cannot_be_released(billing: Billing) -> None:
    """Releasing a captured reservation is a 409: the money is gone."""
    reservation = billing.reserve(1000).json()["reservation_id"]
    billing.capture(reservation, 1000)
    assert billing.release(reservation).status_code == 409
    assert billing.balance()[0] == START - 1000


def test_a_reservation_expires_by_itself(billing: Billing, clock: FakeClock) -> None:
    """After its time a reservation holds nothing; capturing it is a 409 saying so, releasing it is fine."""
    reservation = billing.reserve(START, ttl_seconds=30).json()["reservation_id"]
    clock.advance(29.9)
    assert billing.balance() == (START, START, 0)
    clock.advance(0.1)
    assert billing.balance() == (START, 0, START)
    answer = billing.capture(reservation, 300)
    assert (answer.status_code, answer.json()["state"]) == (409, "expired")
    assert "expired" in answer.json()["detail"]
    assert billing.release(reservation).json()["state"] == "expired"


def test_a_reservation_lives_two_minutes_by_default(billing: Billing, clock: FakeClock) -> None:
    """Without ttl_seconds a reservation holds for 120 seconds."""
    billing.reserve(10)
    clock.advance(119.9)
    assert billing.balance()[1] == 10
    clock.advance(0.1)
    assert billing.balance()[1] == 0


def test_expired_money_can_be_spent(billing: Billing, clock: FakeClock) -> None:
    """What an expired reservation held is there for the next charge, without anybody having cleaned up."""
    billing.reserve(START, ttl_seconds=1)
    clock.advance(1)
    assert billing.deduct(START).status_code == 200


@pytest.mark.parametrize("ttl", [0, -1, 86_401, 1.5, True, "60"])
def test_a_wrong_ttl_is_refused(billing: Billing, ttl: Any) -> None:
    """A life that is no whole number of seconds within a day is a 400."""
    answer = billing.reserve(10, ttl_seconds=ttl)
    assert (answer.status_code, answer.json()["field"]) == (400, "ttl_seconds")


def test_an_unknown_reservation_is_a_404(billing: Billing) -> None:
    """Neither capture nor release invents a reservation."""
    assert billing.capture("nosuch", 5).status_code == 404
    assert billing.release("nosuch").status_code == 404


def test_the_ledger_is_read_in_pages(billing: Billing) -> None:
    """Pages follow each other by the id of the last entry seen, until next_after is null."""
    for amount in range(1, 6):
        billing.deduct(amount)
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = billing.get("/ledger/alice", limit=4, after=after).json()
        seen += [entry["amount"] for entry in page["entries"]]
        after = page["next_after"]
    assert seen == [START, -1, -2, -3, -4, -5]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/ledger/alice?limit=0", "limit"),
        ("/ledger/alice?limit=1001", "limit"),
        ("/ledger/alice?after=-1", "after"),
        ("/ledger/alice?after=99999999999999999999", "after"),
        ("/ledger/alice?before=1", "before"),
        ("/balance/alice?currency=dollars", "currency"),
        ("/balance/a%20b", "user"),
    ],
)
def test_a_wrong_query_is_refused_by_name(billing: Billing, path: str, field: str) -> None:
    """A query that does not fit is a 400 naming the parameter."""
    answer = billing.get(path)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


def test_answers_are_kept_for_thirty_days(billing: Billing, clock: FakeClock) -> None:
    """Within 30 days a key is replayed; afterwards the ledger still knows it and refuses a second charge."""
    billing.deduct(100, "k1")
    clock.advance(30 * 86_400 - 1)
    assert billing.deduct(100, "k1").headers["Idempotency-Replayed"] == "true"
    clock.advance(1)
    assert billing.deduct(100, "k1").status_code == 409
    assert billing.balance()[0] == START - 100


def test_old_answers_are_dropped(billing: Billing, clock: FakeClock, tmp_path: Path) -> None:
    """Answers that are too old leave the file as new writes come in."""
    for number in range(6):
        billing.deduct(1, f"old-{number}")
    clock.advance(30 * 86_400)
    for number in range(4):
        billing.deduct(1, f"new-{number}")
    with sqlite3.connect(tmp_path / "billing.sqlite3") as connection:
        (kept,) = connection.execute("SELECT count(*) FROM idempotency_records").fetchone()
    connection.close()
    assert kept == 4


@pytest.mark.parametrize("patience", [0.05])
def test_a_busy_ledger_is_a_503_that_may_be_tried_again(billing: Billing, tmp_path: Path) -> None:
    """While another process holds the ledger a charge gets 503 with Retry-After; its key works afterwards."""
    other = sqlite3.connect(tmp_path / "billing.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        refused = billing.deduct(5, "k1")
    finally:
        other.close()
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    accepted = billing.deduct(5, "k1")
    assert accepted.status_code == 200
    assert "Idempotency-Replayed" not in accepted.headers


def test_reading_does_not_wait_for_a_writer(billing: Billing, tmp_path: Path) -> None:
    """While another process is writing, balances and ledgers of known users are still answered."""
    billing.deduct(5)
    other = sqlite3.connect(tmp_path / "billing.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert billing.balance()[0] == START - 5
        assert len(billing.entries()) == 2
        assert billing.get("/ready").status_code == 200
    finally:
        other.close()


def test_only_health_is_open(billing: Billing) -> None:
    """Without the internal token everything but /health and /ready is a 401."""
    billing.token = None
    assert billing.get("/health").status_code == 200
    assert billing.get("/ready").status_code == 200
    assert billing.get("/balance/alice").status_code == 401
    assert billing.deduct(5).status_code == 401
    billing.token = "wrong"
    assert billing.get("/ledger/alice").status_code == 401


def test_the_starting_balance_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """BILLING_STARTING_BALANCE is what a new user starts with; 1000 units of the currency when unset."""
    assert starting_balance_from_env() == 1_000_000_000
    monkeypatch.setenv("BILLING_STARTING_BALANCE", "0")
    assert starting_balance_from_env() == 0


@pytest.mark.parametrize("value", ["-1", "1.5", "lots", str(2**53), "1e9", "9" * 5000])
def test_a_wrong_starting_balance_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A starting balance that is no amount stops the service with the variable's name."""
    monkeypatch.setenv("BILLING_STARTING_BALANCE", value)
    with pytest.raises(ValueError, match="BILLING_STARTING_BALANCE"):
        starting_balance_from_env()
