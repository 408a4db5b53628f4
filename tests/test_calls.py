"""Call records: plain values that travel."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import requests

from service_utils.calls import Attempt, CallRecord, EndReason, Outcome, Replay, attach_call, call_of
from service_utils.errors import ServiceError

REPLAY = Replay(
    method="POST", path="/deduct?x=1", body=b'{"amount": 5}', headers={"A": "b"}, idempotency_key="k1"
)


def record(replay: Callable[[], Replay | None] | None = None, **changes: Any) -> CallRecord:
    """A record of two attempts."""
    fields: dict[str, Any] = {
        "service": "Billing Server",
        "name": "billing",
        "method": "POST",
        "path": "/deduct",
        "attempts": (
            Attempt(number=1, outcome=Outcome.FAILURE, status=503, error=None, duration=0.1, delay=0.0),
            Attempt(
                number=2,
                outcome=Outcome.FAILURE,
                status=None,
                error="Connection refused",
                duration=0.2,
                delay=1.0,
            ),
        ),
        "idempotency_key": "k1",
        "request_id": "r1",
        "ended": EndReason.ATTEMPTS_EXHAUSTED,
        "duration": 1.3,
        **changes,
    }
    return CallRecord(**fields) if replay is None else CallRecord(**fields, _replay=replay)


@pytest.mark.parametrize(
    ("value", "field"), [(record(), "ended"), (record().attempts[0], "outcome"), (REPLAY, "body")]
)
def test_is_frozen(value: object, field: str) -> None:
    """What has happened cannot be changed afterwards."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)


def test_records_compare_by_what_happened() -> None:
    """Two records with the same story are equal, whatever would make their replays."""
    assert record() == record(lambda: REPLAY)
    assert record() != record(duration=9.9)
    assert len({record(), record(lambda: REPLAY)}) == 1


def test_has_no_replay_unless_given() -> None:
    """A call that needs no second delivery has nothing to send again."""
    assert record().replay is None


def test_replay_is_made_when_asked_for() -> None:
    """Nobody pays for a replay that nobody reads."""
    made: list[int] = []

    def make() -> Replay:
        made.append(1)
        return REPLAY

    call = record(make)
    assert not made
    assert call.replay == REPLAY
    assert made


@pytest.mark.parametrize(
    "journey",
    [copy.copy, copy.deepcopy, *(lambda v, p=p: pickle.loads(pickle.dumps(v, p)) for p in range(6))],
    ids=["copy", "deepcopy", *(f"pickle protocol {protocol}" for protocol in range(6))],
)
@pytest.mark.parametrize("replay", [None, REPLAY])
def test_travels_with_its_replay(journey: Callable[[Any], Any], replay: Replay | None) -> None:
    """Through pickle and copy a record keeps its story and its replay, even one made by a closure."""
    original = record(lambda: replay)
    arrived = journey(original)
    assert arrived == original
    assert arrived.replay == replay


def test_repr_does_not_make_the_replay() -> None:
    """Printing a record shows the story, not the body that would be sent again."""

    def fail() -> Replay:
        raise AssertionError("nobody asked")

    assert "replay" not in repr(record(fail))


def test_call_of_a_response() -> None:
    """The record of a response is had by call_of()."""
    response = requests.Response()
    attach_call(response, record())
    assert call_of(response) == record()


def test_call_of_an_exception() -> None:
    """So is the record of any exception that left a client."""
    error = requests.ConnectionError("refused")
    attach_call(error, record())
    assert call_of(error) == record()


def test_attach_call_to_what_takes_no_attributes() -> None:
    """An exception with slots goes without a record, and is no error on top."""

    class Slotted:
        __slots__ = ()

    carrier = Slotted()
    attach_call(carrier, record())
    with pytest.raises(ValueError, match="no call record"):
        call_of(carrier)


@pytest.mark.parametrize("stranger", [requests.Response(), ValueError("mine"), None])
def test_call_of_a_stranger(stranger: object) -> None:
    """What did not come out of a client is refused, not answered with None."""
    with pytest.raises(ValueError, match="no call record"):
        call_of(stranger)


class CountingSource:
    """Tells a record, and how often it was asked for it."""

    def __init__(self) -> None:
        self.asked = 0

    def record(self) -> CallRecord:
        self.asked += 1
        return record()


def test_record_of_an_error_of_ours_is_made_when_it_is_read() -> None:
    """Nobody pays for a record that nobody reads, and whoever reads it twice sees the same one."""
    error, source = ServiceError("full"), CountingSource()
    attach_call(error, source)
    assert source.asked == 0
    assert error.call is call_of(error)
    assert source.asked == 1


@pytest.mark.parametrize("journey", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_record_that_was_never_read_travels_with_its_error(journey: Callable[[Any], Any]) -> None:
    """Through pickle and copy goes the record itself, not what would have made it."""
    error, source = ServiceError("full"), CountingSource()
    attach_call(error, source)
    twin = journey(error)
    assert source.asked == 1
    assert call_of(twin) == record()
    assert "_call_source" not in vars(twin)


def test_error_that_leaves_a_client_twice() -> None:
    """An error object that is raised in two calls tells of the later one."""
    error = ServiceError("full")
    attach_call(error, record())
    first = error.call
    attach_call(error, record(duration=9.9))
    assert (first, error.call) == (record(), record(duration=9.9))


def test_error_of_no_call() -> None:
    """An error of ours that never left a client has no record, and is no reason to fail."""
    assert ServiceError("made by hand").call is None


def test_call_of_a_foreign_call_attribute() -> None:
    """Somebody else's ``.call`` is not mistaken for a record."""
    response = requests.Response()
    response.call = "mine"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no call record"):
        call_of(response)


def test_end_reasons_are_the_words_of_the_contract() -> None:
    """The reasons are strings that dashboards may rely on."""
    assert {str(reason) for reason in EndReason} == {
        "success",
        "not_retryable",
        "attempts_exhausted",
        "budget_exhausted",
        "deadline",
        "circuit_opened",
        "half_open",
        "refused",
        "caller_error",
    }


def test_outcomes_are_the_words_of_the_contract() -> None:
    """So are the outcomes."""
    assert [str(outcome) for outcome in Outcome] == ["success", "failure", "ignored"]
