"""The log lines, word for word."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from service_utils.calls import Attempt, CallRecord, EndReason, Outcome
from service_utils.events import (
    AttemptFailed,
    AttemptStarted,
    BulkheadRejected,
    CallFinished,
    CallsPaused,
    CircuitChanged,
    CircuitRejected,
    CircuitState,
    DeadLetterAdded,
    DeadLetterSettled,
    DegradationChanged,
    Event,
    FailureKind,
    FallbackUsed,
    LoadShed,
    RateLimited,
    RetryScheduled,
)
from service_utils.forks import Forks
from service_utils.logs import LoggingListener, seconds_in_words
from tests.forked import in_child
from tests.side_by_side import in_thread

WHO: dict[str, Any] = {"service": "Chroma Server", "name": "chroma", "at": 1.0}
ATTEMPT: dict[str, Any] = {**WHO, "method": "GET", "path": "/query", "number": 1, "max_attempts": 3}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything the package logs, debug lines too."""
    caplog.set_level(logging.DEBUG, "service_utils")
    return caplog


def failed(kind: FailureKind, detail: str, status: int | None = None) -> AttemptFailed:
    return AttemptFailed(**ATTEMPT, kind=kind, detail=detail, status=status, duration=0.5)


def finished(ended: EndReason, tried: int = 2, error_type: str | None = None) -> CallFinished:
    attempts = tuple(Attempt(n + 1, Outcome.FAILURE, 500, None, 0.1, 0.0) for n in range(tried))
    record = CallRecord("Chroma Server", "chroma", "GET", "/query", attempts, None, "r1", ended, 0.75)
    outcome = Outcome.SUCCESS if ended is EndReason.SUCCESS else Outcome.FAILURE
    return CallFinished(**WHO, record=record, outcome=outcome, max_attempts=3, error_type=error_type)


def changed(to_state: CircuitState, reason: str) -> CircuitChanged:
    return CircuitChanged(
        **WHO, from_state=CircuitState.CLOSED, to_state=to_state, reason=reason, generation=2
    )


def rejected(at: float, generation: int = 2, **who: str) -> CircuitRejected:
    return CircuitRejected(
        **{**WHO, **who, "at": at},
        state=CircuitState.OPEN,
        cooldown_remaining=30.0,
        generation=generation,
    )


def fallback(pattern: str, status: str, detail: str = "") -> FallbackUsed:
    return FallbackUsed(
        **WHO,
        pattern=pattern,
        strategy="full_text_search",
        status=status,
        reason="circuit open",
        detail=detail,
    )


def settled(outcome: str, detail: str = "") -> DeadLetterSettled:
    return DeadLetterSettled(**WHO, letter_id="01J5", outcome=outcome, attempts=2, detail=detail)


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (AttemptStarted(**ATTEMPT), "DEBUG", "GET /query (attempt 1/3)"),
        (
            failed(FailureKind.CONNECTION, "Connection refused"),
            "WARNING",
            "Connection failed on attempt 1/3: Connection refused",
        ),
        (
            failed(FailureKind.BODY, "the body was cut off"),
            "WARNING",
            "Connection failed on attempt 1/3: the body was cut off",
        ),
        (
            failed(FailureKind.TIMEOUT, "no answer within 10 s"),
            "WARNING",
            "Timeout on attempt 1/3: no answer within 10 s",
        ),
        (failed(FailureKind.STATUS, "status 500", 500), "WARNING", "Server error 500 on attempt 1/3"),
        (failed(FailureKind.STATUS, "status 429", 429), "WARNING", "Server error 429 on attempt 1/3"),
        (
            failed(FailureKind.REFUSED, "no token"),
            "WARNING",
            "Attempt 1/3 given up: no token",
        ),
        (failed(FailureKind.CALLER, "bad header"), "WARNING", "Attempt 1/3 given up: bad header"),
        (RetryScheduled(**ATTEMPT, delay=1.0), "WARNING", "Retrying in 1s..."),
        (RetryScheduled(**ATTEMPT, delay=0.8749), "WARNING", "Retrying in 0.87s..."),
        (finished(EndReason.SUCCESS), "DEBUG", "✓ GET /query succeeded"),
        (finished(EndReason.ATTEMPTS_EXHAUSTED, 3), "ERROR", "✗ All 3 retry attempts failed"),
        (
            finished(EndReason.BUDGET_EXHAUSTED),
            "ERROR",
            "✗ Giving up after attempt 2/3 (budget exhausted)",
        ),
        (finished(EndReason.NOT_RETRYABLE, 1), "ERROR", "✗ Giving up after attempt 1/3 (not retryable)"),
        (finished(EndReason.DEADLINE), "ERROR", "✗ Giving up after attempt 2/3 (deadline)"),
        (finished(EndReason.CIRCUIT_OPENED), "ERROR", "✗ Giving up after attempt 2/3 (circuit opened)"),
        (finished(EndReason.HALF_OPEN, 1), "ERROR", "✗ Giving up after attempt 1/3 (half open)"),
        (finished(EndReason.REFUSED, 1), "ERROR", "✗ Giving up after attempt 1/3 (refused)"),
        (finished(EndReason.CALLER_ERROR, 1), "ERROR", "✗ Giving up after attempt 1/3 (caller error)"),
        (
            changed(CircuitState.OPEN, "threshold reached: 5/5"),
            "ERROR",
            "Circuit breaker OPEN (threshold reached: 5/5)",
        ),
        (
            changed(CircuitState.OPEN, "failure rate 60% >= 50%"),
            "ERROR",
            "Circuit breaker OPEN (failure rate 60% >= 50%)",
        ),
        (
            changed(CircuitState.FORCED_OPEN, "forced: maintenance"),
            "ERROR",
            "Circuit breaker OPEN (forced: maintenance)",
        ),
        (
            changed(CircuitState.HALF_OPEN, "recovery time is over"),
            "INFO",
            "Circuit breaker entering HALF_OPEN state",
        ),
        (
            changed(CircuitState.CLOSED, "service recovered"),
            "INFO",
            "Circuit breaker CLOSED (service recovered)",
        ),
        (changed(CircuitState.CLOSED, "reset by hand"), "INFO", "Circuit breaker CLOSED (reset by hand)"),
        (
            changed(CircuitState.DISABLED, "disabled: load test"),
            "WARNING",
            "Circuit breaker DISABLED (disabled: load test)",
        ),
        (rejected(at=1.0), "WARNING", "Circuit breaker OPEN - rejecting request"),
        (fallback("fail_open", "success"), "WARNING", "Fallback full_text_search used (circuit open)"),
        (fallback("chain", "success"), "WARNING", "Fallback full_text_search used (circuit open)"),
        (
            fallback("fail_open", "failure", "disk full"),
            "WARNING",
            "Fallback full_text_search failed (disk full)",
        ),
        (
            fallback("chain", "skipped", "its circuit is open"),
            "WARNING",
            "Fallback full_text_search skipped (its circuit is open)",
        ),
        (fallback("fail_closed", "skipped"), "WARNING", "full_text_search failed closed (circuit open)"),
        (fallback("best_effort", "skipped"), "WARNING", "Skipped full_text_search (circuit open)"),
        (
            DeadLetterAdded(**WHO, letter_id="01J5", method="POST", path="/snapshot/p1"),
            "WARNING",
            "Dead letter 01J5 added: POST /snapshot/p1",
        ),
        (settled("delivered"), "INFO", "Dead letter 01J5 delivered (attempt 2)"),
        (
            settled("retried", "Server error 503"),
            "WARNING",
            "Dead letter 01J5 not delivered (attempt 2), tried again later: Server error 503",
        ),
        (
            settled("dead", "Status 422"),
            "ERROR",
            "Dead letter 01J5 rests until somebody decides (attempt 2): Status 422",
        ),
        (
            settled("purged", "older than 7 days"),
            "WARNING",
            "Dead letter 01J5 purged (attempts 2): older than 7 days",
        ),
        (
            LoadShed(**WHO, route="/v1/api/chat", reason="full", retry_after=2.0),
            "WARNING",
            "Shedding load on /v1/api/chat (full), to come back in 2s",
        ),
    ],
)
def test_line(log: pytest.LogCaptureFixture, event: Event, level: str, line: str) -> None:
    """Every event has one line of exactly these words, at this level, after the service's name."""
    LoggingListener()(event)
    (record,) = log.records
    assert (record.name, record.levelname) == ("service_utils", level)
    assert record.getMessage() == f"[Chroma Server] {line}"


@pytest.mark.parametrize(
    ("worse", "level", "line"),
    [
        (True, "WARNING", "System degradation normal -> moderate (Filesystem is away)"),
        (False, "INFO", "System degradation moderate -> normal (Filesystem is away)"),
    ],
)
def test_degradation(log: pytest.LogCaptureFixture, worse: bool, level: str, line: str) -> None:
    """That the application can do less is a warning, that it can do more again is good news."""
    levels = ("normal", "moderate") if worse else ("moderate", "normal")
    event = DegradationChanged(
        **WHO, from_level=levels[0], to_level=levels[1], reason="Filesystem is away", worse=worse
    )
    LoggingListener()(event)
    (record,) = log.records
    assert (record.levelname, record.getMessage()) == (level, line)
    assert vars(record)["to_level"] == levels[1]


def test_a_flood_that_is_shed_is_told_once_a_second(log: pytest.LogCaptureFixture) -> None:
    """Shedding load must not become the load of the disk."""
    listener = LoggingListener()
    for at in (0.0, 0.1, 0.9, 1.5):
        listener(LoadShed(**{**WHO, "at": at}, route="/v1/api/chat", reason="full", retry_after=2.0))
    assert [record.getMessage().rpartition("in ")[2] for record in log.records] == ["2s", "2s (2 more)"]


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (
            AttemptStarted(**ATTEMPT),
            {"method": "GET", "path": "/query", "attempt": 1, "max_attempts": 3, "event": "AttemptStarted"},
        ),
        (
            failed(FailureKind.STATUS, "status 503", 503),
            {"status": 503, "error": "status 503", "duration": 0.5, "attempt": 1, "event": "AttemptFailed"},
        ),
        (RetryScheduled(**ATTEMPT, delay=1.5), {"delay": 1.5, "attempt": 1, "event": "RetryScheduled"}),
        (
            finished(EndReason.DEADLINE, error_type="DeadlineExceeded"),
            {
                "method": "GET",
                "path": "/query",
                "attempts": 2,
                "request_id": "r1",
                "ended": "deadline",
                "duration": 0.75,
                "error_type": "DeadlineExceeded",
                "event": "CallFinished",
            },
        ),
        (
            changed(CircuitState.OPEN, "threshold reached: 5/5"),
            {
                "from_state": "closed",
                "to_state": "open",
                "reason": "threshold reached: 5/5",
                "generation": 2,
                "event": "CircuitChanged",
            },
        ),
        (
            rejected(at=1.0),
            {"state": "open", "cooldown_remaining": 30.0, "unsaid": 0, "event": "CircuitRejected"},
        ),
        (
            fallback("chain", "failure", "disk full"),
            {"pattern": "chain", "strategy": "full_text_search", "status": "failure", "error": "disk full"},
        ),
        (
            DeadLetterAdded(**WHO, letter_id="01J5", method="POST", path="/snapshot/p1"),
            {"letter_id": "01J5", "method": "POST", "path": "/snapshot/p1"},
        ),
    ],
)
def test_fields_for_structured_logs(
    log: pytest.LogCaptureFixture, event: Event, fields: dict[str, object]
) -> None:
    """What the line says in words the record carries as fields, with the service and the client's name."""
    LoggingListener()(event)
    (record,) = log.records
    expected = {"service": "Chroma Server", "client": "chroma", **fields}
    assert {key: vars(record)[key] for key in expected} == expected


@pytest.mark.parametrize("ended", [EndReason.REFUSED, EndReason.DEADLINE, EndReason.CALLER_ERROR])
def test_a_call_without_attempts_has_no_line(log: pytest.LogCaptureFixture, ended: EndReason) -> None:
    """A call that was never tried did not fail after an attempt: its refusal has a line of its own."""
    LoggingListener()(finished(ended, tried=0))
    assert log.records == []


def test_an_unknown_event_has_no_line(log: pytest.LogCaptureFixture) -> None:
    """Events of other making pass by."""
    LoggingListener()(Event(**WHO))
    assert log.records == []


@pytest.mark.parametrize("event", [AttemptStarted(**ATTEMPT), finished(EndReason.SUCCESS)])
def test_debug_lines_are_off_by_default(caplog: pytest.LogCaptureFixture, event: Event) -> None:
    """Calls that go well leave no trace in a log at INFO."""
    caplog.set_level(logging.INFO, "service_utils")
    LoggingListener()(event)
    assert caplog.records == []


def test_another_logger_may_be_given(log: pytest.LogCaptureFixture) -> None:
    """The lines go to the logger of the user's choice."""
    LoggingListener(logging.getLogger("mine"))(RetryScheduled(**ATTEMPT, delay=2.0))
    (record,) = log.records
    assert record.name == "mine"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (2.0, "2s"), (0.5, "0.50s"), (1.234, "1.23s"), (60.0, "60s")]
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    """Whole seconds are told as such, others with two decimals."""
    assert seconds_in_words(seconds) == words


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of rejections, without what all lines say."""
    opening = "[Chroma Server] Circuit breaker OPEN - rejecting request"
    return [record.getMessage().removeprefix(opening) for record in log.records]


def test_rejections_of_one_second_are_one_line(log: pytest.LogCaptureFixture) -> None:
    """The first rejected request has a line, those of the next second are only counted."""
    listener = LoggingListener()
    for tenth in range(10):
        listener(rejected(at=5.0 + tenth / 10))
    assert lines(log) == [""]


def test_a_later_line_says_how_many_it_stands_for(log: pytest.LogCaptureFixture) -> None:
    """After a second the next rejection has a line again, with the number of those left out since."""
    listener = LoggingListener()
    for _ in range(38):
        listener(rejected(at=5.0))
    listener(rejected(at=6.0))
    listener(rejected(at=6.5))
    listener(rejected(at=7.5))
    assert lines(log) == ["", " (37 more)", " (1 more)"]
    assert [vars(record)["unsaid"] for record in log.records] == [0, 37, 1]


def test_rare_rejections_have_a_line_each(log: pytest.LogCaptureFixture) -> None:
    """Where nothing was left out, no line speaks of more."""
    listener = LoggingListener()
    for second in (5.0, 6.0, 8.0):
        listener(rejected(at=second))
    assert lines(log) == ["", "", ""]


def test_a_new_open_spell_begins_with_a_line(log: pytest.LogCaptureFixture) -> None:
    """When the circuit opens once more, its first rejection is told however soon it comes."""
    listener = LoggingListener()
    listener(rejected(at=5.0, generation=2))
    listener(rejected(at=5.1, generation=2))
    listener(rejected(at=5.2, generation=4))
    assert lines(log) == ["", ""]


def test_a_change_of_state_begins_a_new_count(log: pytest.LogCaptureFixture) -> None:
    """A circuit that closes and opens again owes nobody the old number, whatever its generation is called."""
    listener = LoggingListener()
    listener(rejected(at=5.0))
    listener(rejected(at=5.1))
    log.clear()
    listener(changed(CircuitState.CLOSED, "service recovered"))
    log.clear()
    listener(rejected(at=5.2))
    assert lines(log) == [""]


@pytest.mark.parametrize("who", [{"service": "Git Server"}, {"name": "chroma-2"}])
def test_each_client_has_its_own_count(log: pytest.LogCaptureFixture, who: dict[str, str]) -> None:
    """Two open circuits do not take each other's lines, even under the same display name."""
    listener = LoggingListener()
    for _ in range(3):
        listener(rejected(at=5.0))
        listener(rejected(at=5.0, generation=9, **who))
    assert len(log.records) == 2


def test_threads_count_together(log: pytest.LogCaptureFixture) -> None:
    """Many threads rejected at once make one line, and the next line counts all of them."""
    listener = LoggingListener()
    together = threading.Barrier(16)

    def reject() -> None:
        together.wait(10)
        for _ in range(100):
            listener(rejected(at=5.0))

    threads = [threading.Thread(target=reject) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    listener(rejected(at=6.0))
    assert lines(log) == ["", " (1599 more)"]


@pytest.mark.parametrize(("level", "wanted"), [("DEBUG", True), ("INFO", False), ("WARNING", False)])
def test_calls_that_go_well_are_wanted_at_debug_only(
    caplog: pytest.LogCaptureFixture, level: str, wanted: bool
) -> None:
    """As long as their lines would not be written, nobody needs to make such events."""
    caplog.set_level(level, "service_utils")
    assert LoggingListener().wants_routine() is wanted


WHOSE = ("Chroma Server", "chroma")


def crowded(at: float, **who: str) -> BulkheadRejected:
    return BulkheadRejected(**{**WHO, **who, "at": at}, max_concurrent=8, waiting=3, waited=0.5)


def held_back(at: float, reason: str = "rate limit", retry_after: float = 0.35) -> RateLimited:
    return RateLimited(**{**WHO, "at": at}, retry_after=retry_after, reason=reason)


def test_the_line_of_a_full_bulkhead(log: pytest.LogCaptureFixture) -> None:
    """Whoever finds no slot has a line that says how many there are and how many wait for one."""
    LoggingListener()(crowded(5.0))
    line = "[Chroma Server] Bulkhead full (8 slots taken, 3 waiting) - rejecting request"
    assert [(record.levelname, record.getMessage()) for record in log.records] == [("WARNING", line)]
    assert [vars(log.records[0])[name] for name in ("max_concurrent", "waiting", "waited")] == [8, 3, 0.5]


def test_the_lines_of_calls_held_back(log: pytest.LogCaptureFixture) -> None:
    """Calls that our own limit and that the service's wish hold back have lines that tell them apart."""
    listener = LoggingListener()
    listener(held_back(5.0))
    listener(held_back(5.0, "Retry-After", 4.0))
    listener(CallsPaused(**WHO, seconds=5.0))
    assert [record.getMessage() for record in log.records] == [
        "[Chroma Server] Calls are held back (rate limit), next one in 0.35s - rejecting request",
        "[Chroma Server] Calls are held back (Retry-After), next one in 4s - rejecting request",
        "[Chroma Server] Pausing all calls for 5s (Retry-After)",
    ]


def test_refusals_of_one_second_are_one_line(log: pytest.LogCaptureFixture) -> None:
    """A crowd before a bulkhead does not fill the disk: one line a second says how many there were."""
    listener = LoggingListener()
    for _ in range(38):
        listener(crowded(5.0))
    listener(crowded(5.5, service="Git Server"))
    listener(crowded(6.0))
    listener(held_back(6.0))
    assert [vars(record)["unsaid"] for record in log.records] == [0, 0, 37, 0]
    assert log.records[2].getMessage().endswith(" - rejecting request (37 more)")


def test_refusals_untold_are_the_parents_own(log: pytest.LogCaptureFixture) -> None:
    """A forked child does not tell of refusals that were its parent's."""
    listener = LoggingListener()
    listener(crowded(5.0))
    listener(crowded(5.1))
    listener._renew_in_child()
    listener(crowded(6.0))
    assert [vars(record)["unsaid"] for record in log.records] == [0, 0]


def test_rejections_counted_before_they_are_made(log: pytest.LogCaptureFixture) -> None:
    """For a second after a line about rejections the log wants no more than their number."""
    listener = LoggingListener()
    assert listener.hush(WHOSE, 2, 5.0) is None
    listener(rejected(at=5.0))
    for tenth in range(10):
        hush = listener.hush(WHOSE, 2, 5.0 + tenth / 10)
        assert hush is not None
        hush.unsaid += 1

    assert listener.hush(WHOSE, 2, 6.0) is None
    listener(rejected(at=6.0))
    assert lines(log) == ["", " (10 more)"]


def test_no_hush_for_others(log: pytest.LogCaptureFixture) -> None:
    """Another circuit, another open spell or a clock that runs behind is not hushed."""
    listener = LoggingListener()
    listener(rejected(at=5.0))
    assert listener.hush(("Chroma Server", "other"), 2, 5.1) is None
    assert listener.hush(WHOSE, 4, 5.1) is None
    assert listener.hush(WHOSE, 2, 4.9) is None
    assert listener.hush(WHOSE, 2, 5.1) is not None


def test_a_count_goes_on_in_the_next_second(log: pytest.LogCaptureFixture) -> None:
    """A rejection that is counted while the line is being written is told by the next line."""
    listener = LoggingListener()
    listener(rejected(at=5.0))
    hush = listener.hush(WHOSE, 2, 5.9)
    listener(rejected(at=6.0))
    assert hush is not None
    hush.unsaid += 1
    listener(rejected(at=7.0))
    assert lines(log) == ["", "", " (1 more)"]


def test_a_child_tells_its_own_rejections_only(log: pytest.LogCaptureFixture) -> None:
    """A forked child has none of its parent's rejections to tell, and no lock of it to wait for."""
    listener = LoggingListener()
    listener(rejected(at=5.0))
    listener(rejected(at=5.1))

    def child() -> list[str]:
        listener(rejected(at=5.2))
        assert in_thread(lambda: listener(rejected(at=6.3)))
        return lines(log)

    with listener._lock:
        assert in_child(child) == ["", " (1 more)"]
    listener(rejected(at=6.3))
    assert lines(log) == ["", " (1 more)"]


def test_a_count_that_ends_with_a_fork(log: pytest.LogCaptureFixture) -> None:
    """What a child does first: it lets go of what its parent has counted, and of nothing else."""
    listener, own = LoggingListener(), Forks()
    listener(rejected(at=5.0))
    listener(rejected(at=5.1))
    own.guard(listener)
    own.before()
    own.after_in_child()
    listener(rejected(at=5.2))
    listener(rejected(at=6.0))
    assert lines(log) == ["", " (1 more)"]
