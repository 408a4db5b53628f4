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

from backend.services.billing.ledger import Ledger
from backend.services.billing.models import Capture, Deduction, Release, Reserve
from service_utils.testing import FakeClock

START = 1000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite3", starting_balance=START, clock=clock)
    yield ledger
    ledger.close()


@pytest.fixture
def file(ledger: Ledger, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The ledger's file in other hands, with a charge and a held reservation in it."""
    ledger.deduct(Deduction(user="alice", amount=100), "k1")
    ledger.reserve(Reserve(user="alice", amount=300), "k2")
    connection = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
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


def test_a_clock_set_back_revives_nothing(ledger: Ledger, clock: FakeClock) -> None:
    """Money of an expired reservation that was spent since cannot be captured when the clock is set back."""
    held = ledger.reserve(Reserve(user="alice", amount=START, ttl_seconds=10), "r")
    clock.advance(10)
    assert ledger.deduct(Deduction(user="alice", amount=START), "d").status == 200
    clock.set_now(datetime(2020, 1, 1, tzinfo=UTC))
    answer = ledger.capture(Capture(reservation_id=held.body["reservation_id"], amount=1), "c")
    assert (answer.status, answer.body["state"]) == (409, "expired")
    assert ledger.balance("alice", "USD")["balance"] == 0


def test_reservations_expire_while_the_service_is_down(tmp_path: Path, clock: FakeClock) -> None:
    """A reservation made before a restart expires at its own time after it."""
    path = tmp_path / "ledger.sqlite3"
    before = Ledger(path, starting_balance=START, clock=clock)
    before.reserve(Reserve(user="alice", amount=400, ttl_seconds=60), "r")
    before.close()
    clock.advance(59)
    after = Ledger(path, starting_balance=START, clock=clock)
    assert after.balance("alice", "USD")["held"] == 400
    clock.advance(1)
    assert after.balance("alice", "USD")["held"] == 0
    after.close()


def test_an_error_in_a_write_leaves_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """When keeping the answer fails the charge is undone with it, and the same key charges afterwards."""

    def broken(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    request = Deduction(user="alice", amount=100)
    with monkeypatch.context() as patch:
        patch.setattr("backend.services.billing.idempotency.keep", broken)
        with pytest.raises(sqlite3.OperationalError):
            ledger.deduct(request, "k")
    assert ledger.entries("alice", None, limit=10, after=0)["entries"] == []
    answer = ledger.deduct(request, "k")
    assert (answer.status, answer.replayed, answer.body["balance"]) == (200, False, START - 100)


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
        self.ledger = Ledger(self.folder / "ledger.sqlite3", starting_balance=START, clock=self.clock)
        self.balances: dict[str, int] = {}
        self.holds: dict[str, Hold] = {}
        self.keys = (f"key-{number}" for number in itertools.count())
        self.done: list[tuple[Any, Any, str, Any]] = []

    def teardown(self) -> None:
        self.ledger.close()
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
        if answer.status != 404:
            self.done.append((method, request, key, answer))
        return answer

    @rule(user=users, amount=amounts)
    def deduct(self, user: str, amount: int) -> None:
        enough = amount <= self.available(user)
        answer = self.write(self.ledger.deduct, Deduction(user=user, amount=amount))
        assert answer.status == (200 if enough else 402)
        if enough:
            self.balances[user] -= amount

    @rule(target=held, user=users, amount=amounts, ttl=st.integers(1, 60))
    def reserve(self, user: str, amount: int, ttl: int) -> str:
        enough = amount <= self.available(user)
        answer = self.write(self.ledger.reserve, Reserve(user=user, amount=amount, ttl_seconds=ttl))
        assert answer.status == (200 if enough else 402)
        if not enough:
            return "nosuch"
        reservation_id: str = answer.body["reservation_id"]
        self.holds[reservation_id] = Hold(user, amount, self.clock.monotonic() + ttl)
        return reservation_id

    @rule(reservation_id=held, amount=amounts)
    def capture(self, reservation_id: str, amount: int) -> None:
        hold = self.holds.get(reservation_id)
        answer = self.write(self.ledger.capture, Capture(reservation_id=reservation_id, amount=amount))
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
        answer = self.write(self.ledger.release, Release(reservation_id=reservation_id))
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
            shown = self.ledger.balance(user, "USD")
            assert (shown["balance"], shown["available"]) == (self.balances[user], self.available(user))
            entries = self.ledger.entries(user, "USD", limit=1000, after=0)["entries"]
            assert sum(entry["amount"] for entry in entries) == shown["balance"]
            assert shown["available"] >= 0


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
