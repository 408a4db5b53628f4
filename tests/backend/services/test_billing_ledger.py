"""The ledger itself: what its schema refuses, and its behaviour against a simple model."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from backend.services.billing import create_app, schema
from backend.services.billing.ledger import Ledger
from backend.services.billing.models import Capture, Deduction, Release, Reserve
from backend.services.common import RequestModel
from service_utils.idempotency import SharedTransaction
from service_utils.testing import FakeClock

START = 1000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@dataclass(frozen=True)
class Told:
    """What the service answered."""

    status: int
    body: dict[str, Any]
    replayed: bool


class Till:
    """The ledger by way of its routes, without a network in between."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        app = create_app(folder, starting_balance=START, clock=clock)
        self.ledger: Ledger = app.extensions["billing"]
        self._client = app.test_client()

    def deduct(self, request: Deduction, key: str) -> Told:
        return self._post("/deduct_cost", request, key)

    def reserve(self, request: Reserve, key: str) -> Told:
        return self._post("/reserve", request, key)

    def capture(self, request: Capture, key: str) -> Told:
        return self._post("/capture", request, key)

    def release(self, request: Release, key: str) -> Told:
        return self._post("/release", request, key)

    def _post(self, path: str, request: RequestModel, key: str) -> Told:
        answer = self._client.post(path, json=request.model_dump(), headers={"Idempotency-Key": key})
        return Told(answer.status_code, answer.get_json(), "Idempotency-Replayed" in answer.headers)


@pytest.fixture
def till(tmp_path: Path, clock: FakeClock) -> Iterator[Till]:
    till = Till(tmp_path, clock)
    yield till
    till.ledger.close()


@pytest.fixture
def file(till: Till, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The ledger's file in other hands, with a charge and a held reservation in it."""
    till.deduct(Deduction(user="alice", amount=100), "k1")
    till.reserve(Reserve(user="alice", amount=300), "k2")
    connection = sqlite3.connect(tmp_path / "billing.sqlite3", isolation_level=None)
    yield connection
    connection.close()


COLUMNS = "user, currency, number, kind, amount, balance, idempotency_key, created_at"
ENTRY = f"INSERT INTO ledger ({COLUMNS}) VALUES "
HOLD = "INSERT INTO reservations (id, user, currency, amount, state, created_at, expires_at) VALUES "
CAPTURE = f"""
INSERT INTO ledger ({COLUMNS}, reservation_id)
SELECT 'alice', 'USD', 3, 'capture', -100, 800, 'k3', 0, id FROM reservations
"""


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE ledger SET description = 'x'", "append-only"),
        ("DELETE FROM ledger", "append-only"),
        ("DELETE FROM reservations", "kept"),
        ("UPDATE reservations SET amount = 1", "settled once"),
        ("UPDATE reservations SET state = 'captured', captured = 301, settled_at = 1", "CHECK"),
        ("UPDATE reservations SET state = 'released'", "CHECK"),
        (ENTRY + "('alice', 'USD', 3, 'charge', -100, 850, 'k3', 0)", "follow"),
        (ENTRY + "('alice', 'USD', 4, 'charge', -100, 800, 'k3', 0)", "follow"),
        (ENTRY + "('alice', 'USD', 3, 'charge', -601, 299, 'k3', 0)", "held"),
        (ENTRY + "('bob', 'USD', 1, 'charge', -1, -1, 'k3', 0)", "held"),
        (ENTRY + "('alice', 'USD', 3, 'charge', -100, 800, 'k1', 0)", "UNIQUE"),
        (ENTRY + "('alice', 'USD', 3, 'charge', 100, 1000, 'k3', 0)", "CHECK"),
        (ENTRY + "('alice', 'USD', 3, 'charge', -1.5, 898.5, 'k3', 0)", "CHECK"),
        (ENTRY + "('alice', 'USD', 3, 'grant', 500, 1400, NULL, 0)", "CHECK"),
        (ENTRY + "('bob', 'USD', 1, 'grant', 9007199254740992, 9007199254740992, NULL, 0)", "CHECK"),
        (CAPTURE, "captures something else"),
        (HOLD + "('r', 'alice', 'USD', 601, 'held', 0, 1)", "not covered"),
        (HOLD + "('r', 'alice', 'USD', 0, 'held', 0, 1)", "CHECK"),
    ],
)
def test_the_file_refuses_what_must_never_be(file: sqlite3.Connection, statement: str, reason: str) -> None:
    """Even a bug, or a person with a shell, can neither rewrite the ledger nor spend what is not there."""
    with pytest.raises(sqlite3.IntegrityError, match=reason):
        file.execute(statement)


def test_a_settled_reservation_never_comes_back(file: sqlite3.Connection) -> None:
    """Once released, a reservation can be neither captured nor held again."""
    file.execute("UPDATE reservations SET state = 'released', settled_at = 1")
    with pytest.raises(sqlite3.IntegrityError, match="settled once"):
        file.execute("UPDATE reservations SET state = 'held', settled_at = NULL")
    with pytest.raises(sqlite3.IntegrityError, match="settled once"):
        file.execute("UPDATE reservations SET state = 'captured', captured = 1")


def test_a_clock_set_back_revives_nothing(till: Till, clock: FakeClock) -> None:
    """Money of an expired reservation that was spent since cannot be captured when the clock is set back."""
    held = till.reserve(Reserve(user="alice", amount=START, ttl_seconds=10), "r")
    clock.advance(10)
    assert till.deduct(Deduction(user="alice", amount=START), "d").status == 200
    clock.set_now(datetime(2020, 1, 1, tzinfo=UTC))
    answer = till.capture(Capture(reservation_id=held.body["reservation_id"], amount=1), "c")
    assert (answer.status, answer.body["state"]) == (409, "expired")
    assert till.ledger.balance("alice", "USD")["balance"] == 0


def test_reservations_expire_while_the_service_is_down(tmp_path: Path, clock: FakeClock) -> None:
    """A reservation made before a restart expires at its own time after it."""
    before = Till(tmp_path, clock)
    before.reserve(Reserve(user="alice", amount=400, ttl_seconds=60), "r")
    before.ledger.close()
    clock.advance(59)
    after = Till(tmp_path, clock).ledger
    assert after.balance("alice", "USD")["held"] == 400
    clock.advance(1)
    assert after.balance("alice", "USD")["held"] == 0
    after.close()


def test_an_error_in_a_write_leaves_nothing(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """When keeping the answer fails the charge is undone with it, and the same key charges afterwards."""

    def broken(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    request = Deduction(user="alice", amount=100)
    with monkeypatch.context() as patch:
        patch.setattr(SharedTransaction, "finish", broken)
        assert till.deduct(request, "k").status == 503
    assert till.ledger.entries("alice", None, limit=10, after=0)["entries"] == []
    answer = till.deduct(request, "k")
    assert (answer.status, answer.replayed, answer.body["balance"]) == (200, False, START - 100)


def test_a_file_of_an_earlier_release_keeps_its_ledger(tmp_path: Path, clock: FakeClock) -> None:
    """Accounts and entries that were written before are all there; a key charges no second time."""
    old = sqlite3.connect(tmp_path / "billing.sqlite3")
    old.executescript(f"{schema.SCHEMA} CREATE TABLE answers (scope TEXT, key TEXT);")
    old.execute(ENTRY + "('alice', 'USD', 1, 'grant', 1000, 1000, NULL, 0)")
    old.execute(ENTRY + "('alice', 'USD', 2, 'charge', -100, 900, 'k', 0)")
    old.commit()
    old.close()
    till = Till(tmp_path, clock)
    assert till.ledger.balance("alice", "USD")["balance"] == 900
    assert till.deduct(Deduction(user="alice", amount=100), "k").status == 409
    assert till.deduct(Deduction(user="alice", amount=100), "k2").body["balance"] == 800
    till.ledger.close()


@pytest.mark.parametrize("balance", [-1, 2**53])
def test_a_starting_balance_out_of_range_is_refused(tmp_path: Path, balance: int) -> None:
    """A starting balance below zero, or too large for JSON readers, is a ValueError that names it."""
    with pytest.raises(ValueError, match=f"starting_balance={balance}"):
        Ledger(tmp_path / "ledger.sqlite3", starting_balance=balance)


@dataclass
class Hold:
    """What the model remembers of a reservation."""

    user: str
    amount: int
    expires: float
    state: str = "held"


users = st.sampled_from(["alice", "bob"])
amounts = st.integers(1, START + 50)


class LedgerAgainstModel(RuleBasedStateMachine):
    """Any order of charges, reservations, captures, releases, repeats and waits, against plain arithmetic."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.till = Till(self.folder, self.clock)
        self.balances: dict[str, int] = {}
        self.holds: dict[str, Hold] = {}
        self.keys = (f"key-{number}" for number in itertools.count())
        self.done: list[tuple[Any, Any, str, Any]] = []

    def teardown(self) -> None:
        self.till.ledger.close()
        shutil.rmtree(self.folder)

    def available(self, user: str) -> int:
        active = (hold.amount for hold in self.holds.values() if hold.user == user and self.active(hold))
        return self.balances.setdefault(user, START) - sum(active)

    def active(self, hold: Hold) -> bool:
        return hold.state == "held" and self.clock.monotonic() < hold.expires

    def write(self, method: Any, request: Any) -> Any:
        key = next(self.keys)
        answer = method(request, key)
        assert not answer.replayed
        if answer.status not in (404, 409):  # they tell of the moment, and use up no key
            self.done.append((method, request, key, answer))
        return answer

    @rule(user=users, amount=amounts)
    def deduct(self, user: str, amount: int) -> None:
        enough = amount <= self.available(user)
        answer = self.write(self.till.deduct, Deduction(user=user, amount=amount))
        assert answer.status == (200 if enough else 402)
        if enough:
            self.balances[user] -= amount

    @rule(target=held, user=users, amount=amounts, ttl=st.integers(1, 60))
    def reserve(self, user: str, amount: int, ttl: int) -> str:
        enough = amount <= self.available(user)
        answer = self.write(self.till.reserve, Reserve(user=user, amount=amount, ttl_seconds=ttl))
        assert answer.status == (200 if enough else 402)
        if not enough:
            return "nosuch"
        reservation_id: str = answer.body["reservation_id"]
        self.holds[reservation_id] = Hold(user, amount, self.clock.monotonic() + ttl)
        return reservation_id

    @rule(reservation_id=held, amount=amounts)
    def capture(self, reservation_id: str, amount: int) -> None:
        hold = self.holds.get(reservation_id)
        answer = self.write(self.till.capture, Capture(reservation_id=reservation_id, amount=amount))
        if hold is None:
            assert answer.status == 404
        elif not self.active(hold) or amount > hold.amount:
            assert answer.status == 409
        else:
            assert (answer.status, answer.body["freed"]) == (200, hold.amount - amount)
            hold.state = "captured"
            self.balances[hold.user] -= amount

    @rule(reservation_id=held)
    def release(self, reservation_id: str) -> None:
        hold = self.holds.get(reservation_id)
        answer = self.write(self.till.release, Release(reservation_id=reservation_id))
        if hold is None:
            assert answer.status == 404
        elif hold.state == "captured":
            assert answer.status == 409
        else:
            assert (answer.status, answer.body["freed"]) == (200, hold.amount if self.active(hold) else 0)
            hold.state = "released" if self.active(hold) else hold.state

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if not self.done:
            return
        method, request, key, first = data.draw(st.sampled_from(self.done))
        again = method(request, key)
        assert (again.status, again.body, again.replayed) == (first.status, first.body, True)

    @rule(data=st.data())
    def reuse_key(self, data: st.DataObject) -> None:
        if not self.done:
            return
        method, request, key, _ = data.draw(st.sampled_from(self.done))
        if "amount" in type(request).model_fields:
            other = request.model_copy(update={"amount": request.amount + 1})
            assert method(other, key).status == 422

    @invariant()
    def amounts_agree(self) -> None:
        for user in self.balances:
            shown = self.till.ledger.balance(user, "USD")
            assert (shown["balance"], shown["available"]) == (self.balances[user], self.available(user))
            entries = self.till.ledger.entries(user, "USD", limit=1000, after=0)["entries"]
            assert sum(entry["amount"] for entry in entries) == shown["balance"]
            assert shown["available"] >= 0


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
