"""When a client's attempts may be sent: its rate limit, and the pause that a Retry-After asks for."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests

from service_utils import (
    CircuitOpenError,
    RateLimit,
    RateLimitedError,
    RateLimiter,
    RetryBudget,
    RetryPolicy,
    call_of,
    fixed,
)
from service_utils.calls import EndReason
from service_utils.events import CallsPaused, RateLimited
from service_utils.testing import Answer, FakeClock, FaultServer
from tests.side_by_side import together

from .conftest import MakeClient

ONCE = RetryPolicy(max_attempts=1)


def busy(seconds: int, status: int = 429) -> Answer:
    return Answer(status, headers={"Retry-After": str(seconds)})


# -- the rate limit -------------------------------------------------------------------------------------


def test_calls_above_the_rate_wait_for_their_turn(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """After the burst, calls leave at the rate."""
    client = make_client(fault_server.url, rate_limit=RateLimit(rate=2, burst=3, max_wait=10))
    for _ in range(5):
        client.get("/x")
    assert fake_clock.slept == [0.5, 0.5]


def test_a_call_that_would_wait_too_long_is_refused(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A refusal says when it would have been the call's turn; nothing of it is sent, no circuit sees it."""
    events: list[Any] = []
    limit = RateLimit(rate=0.5, burst=1, max_wait=1.0)
    client = make_client(fault_server.url, rate_limit=limit, listeners=[events.append])
    client.get("/x")
    with pytest.raises(RateLimitedError) as caught:
        client.get("/x")
    assert caught.value.retry_after == pytest.approx(2.0)
    assert call_of(caught.value).ended is EndReason.REFUSED
    assert len(fault_server.requests) == 1
    assert fake_clock.slept == []
    status = client.get_status()
    assert status["requests"]["rejected"] == status["rate_limit"]["rejected"] == 1
    assert client.breaker.get_stats()["total"]["failed"] == 0
    assert [event.reason for event in events if isinstance(event, RateLimited)] == ["rate limit"]


def test_a_deadline_bounds_the_wait(make_client: MakeClient, fault_server: FaultServer) -> None:
    """Whoever cannot wait that long is told at once, not when his time is over."""
    client = make_client(fault_server.url, rate_limit=RateLimit(rate=1, burst=1, max_wait=60), deadline=0.5)
    client.get("/x")
    with pytest.raises(RateLimitedError):
        client.get("/x")


def test_a_retry_waits_once_for_the_larger_of_the_two(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Back-off and limit are not added up."""
    retry = RetryPolicy(backoff=fixed(1.0), jitter=0.0)
    limit = RateLimit(rate=0.1, burst=1, max_wait=60)
    client = make_client(fault_server.url, retry=retry, rate_limit=limit)
    fault_server.script(Answer(500), Answer(200))
    assert client.get("/x").status_code == 200
    assert fake_clock.slept == [pytest.approx(10.0)]
    fake_clock.advance(100)
    quick = make_client(fault_server.url, retry=retry, rate_limit=RateLimit(rate=10, burst=1), name="quick")
    fault_server.script(Answer(500), Answer(200))
    assert quick.get("/x").status_code == 200
    assert fake_clock.slept[1:] == [pytest.approx(1.0)]


def test_a_retry_without_room_ends_with_the_error_it_has(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """The limit refuses a retry, not the call, which ends with its answer and spends no budget."""
    budget = RetryBudget(ratio=0.0, capacity=5.0)
    retry = RetryPolicy(backoff=fixed(1.0), jitter=0.0, budget=budget)
    client = make_client(fault_server.url, retry=retry, rate_limit=RateLimit(rate=0.1, burst=1, max_wait=2))
    fault_server.default = Answer(503)
    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x")
    assert call_of(caught.value).ended is EndReason.REFUSED
    assert budget.balance == 5.0
    assert client.breaker.get_stats()["total"]["failed"] == 1


def test_a_spent_budget_gives_the_booking_back(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A retry that the budget forbids takes nothing from the rate."""
    retry = RetryPolicy(backoff=fixed(0.0), budget=RetryBudget(ratio=0.0, capacity=0.0))
    client = make_client(fault_server.url, retry=retry, rate_limit=RateLimit(rate=0.001, burst=2, max_wait=0))
    fault_server.script(Answer(503), Answer(200))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    assert client.get("/x").status_code == 200


def test_a_probe_does_not_wait(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Half open, a limit that would make it wait refuses the probe, which then counts as nothing."""
    limiter = RateLimiter(0.01, 1, 1000.0, clock=fake_clock)
    client = make_client(
        fault_server.url, rate_limit=limiter, retry=ONCE, failure_threshold=1, recovery_timeout=5
    )
    fault_server.script(Answer(500))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    fake_clock.advance(6)
    with pytest.raises(RateLimitedError):
        client.get("/x")
    assert client.state.value == "half_open"
    assert client.get_status()["half_open_in_use"] == 0
    assert fake_clock.slept == []
    fake_clock.advance(100)
    assert client.get("/x").status_code == 200
    assert client.state.value == "closed"


def test_a_circuit_that_opens_meanwhile_ends_the_wait(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Whoever waited for its turn while the circuit opened is refused by that, and sends nothing."""

    class OpensMeanwhile(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            client.breaker.force_open("maintenance")

    clock = OpensMeanwhile()
    client = make_client(fault_server.url, clock=clock, rate_limit=RateLimit(rate=1, burst=1, max_wait=5))
    client.get("/x")
    with pytest.raises(CircuitOpenError):
        client.get("/x")
    assert len(fault_server.requests) == 1


def test_the_rate_holds_behind_a_pause(make_client: MakeClient, fault_server: FaultServer) -> None:
    """Whoever had a turn before a pause needs another one behind it: the crowd does not leave all at once."""

    class PausedMeanwhile(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            for pause in pauses:
                client.gate.close(pause)

    clock, pauses = PausedMeanwhile(), iter([5.0])
    limiter = RateLimiter(1, 1, 100, clock=clock)
    client = make_client(fault_server.url, clock=clock, rate_limit=limiter)
    client.get("/x")
    client.get("/x")
    assert 6.0 <= clock.monotonic() <= 7.25
    assert limiter.book().delay == pytest.approx(1.0)


def test_a_retry_that_is_not_made_costs_nothing(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A circuit that opens while a retry waits takes nothing out of budget and rate."""

    class OpensMeanwhile(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            client.breaker.force_open("maintenance")

    clock, budget = OpensMeanwhile(), RetryBudget(ratio=0.0, capacity=5.0)
    limiter = RateLimiter(1, 2, 100, clock=clock)
    retry = RetryPolicy(backoff=fixed(0.1), jitter=0.0, budget=budget)
    client = make_client(fault_server.url, clock=clock, retry=retry, rate_limit=limiter)
    fault_server.default = Answer(503)
    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x")
    assert call_of(caught.value).ended is EndReason.CIRCUIT_OPENED
    assert budget.balance == 5.0
    assert limiter.book().delay == 0.0


def test_who_has_time_for_the_rest_of_a_pause_waits(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Near the end of a long pause its jitter refuses nobody who could wait for it."""
    client = make_client(fault_server.url, retry=ONCE)
    fault_server.script(busy(40))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    fake_clock.advance(39.5)
    assert client.get("/x", deadline=2).status_code == 200
    assert 0.5 <= fake_clock.slept[0] < 2.0


def test_reset_ends_a_pause(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """An operator who closes the circuit by hand opens the gate, too."""
    client = make_client(fault_server.url, retry=ONCE)
    fault_server.script(busy(40))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    client.reset()
    assert client.get("/x").status_code == 200
    assert fake_clock.slept == []


def test_an_interrupted_wait_gives_the_turn_back(make_client: MakeClient, fault_server: FaultServer) -> None:
    """Ctrl-C while a call waits for its turn leaves the turn to the next one."""

    class Interrupted(FakeClock):
        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

    clock = Interrupted()
    client = make_client(fault_server.url, clock=clock, rate_limit=RateLimit(rate=1, burst=1, max_wait=1.5))
    client.get("/x")
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            client.get("/x")
    assert client.get_status()["rate_limit"]["waiting"] == 0


@pytest.mark.parametrize(
    ("rate_limit", "error"), [(0, ValueError), (-1.0, ValueError), (True, TypeError), ("5/s", TypeError)]
)
def test_what_is_no_rate_limit(make_client: MakeClient, rate_limit: Any, error: type[Exception]) -> None:
    """A limit that cannot be kept is refused at construction, by name and value."""
    with pytest.raises(error, match=f"rate_limit={rate_limit!r}"):
        make_client(rate_limit=rate_limit)


def test_a_number_is_calls_per_second(make_client: MakeClient) -> None:
    """rate_limit=50 is a RateLimit with that rate and its defaults."""
    assert make_client(rate_limit=50).get_status()["rate_limit"]["rate"] == 50
    assert make_client(name="none").get_status()["rate_limit"] is None


# -- Retry-After ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_one_answer_pauses_every_call(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock, status: int
) -> None:
    """After a Retry-After the next call of the client waits, a little longer than was asked for."""
    events: list[Any] = []
    client = make_client(fault_server.url, retry=ONCE, listeners=[events.append])
    fault_server.script(busy(8, status))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    answer = client.get("/other")
    (waited,) = fake_clock.slept
    assert 8.0 <= waited <= 10.0
    assert call_of(answer).attempts[0].delay == waited
    assert [event.seconds for event in events if isinstance(event, CallsPaused)] == [8.0]


def test_other_answers_pause_nobody(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A 500 with Retry-After, or a 503 without, is the matter of one call."""
    client = make_client(fault_server.url, retry=ONCE)
    fault_server.script(busy(8, 500), Answer(503))
    for _ in range(2):
        with pytest.raises(requests.HTTPError):
            client.get("/x")
    client.get("/x")
    assert fake_clock.slept == []
    assert client.get_status()["retry_after_gate"]["closed"] is False


def test_who_cannot_wait_fails_at_once(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A call whose deadline is nearer than the end of the pause is told how long that lasts."""
    events: list[Any] = []
    client = make_client(fault_server.url, retry=ONCE, listeners=[events.append])
    fault_server.script(busy(8))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    fake_clock.advance(2)
    with pytest.raises(RateLimitedError) as caught:
        client.get("/x", deadline=3)
    assert caught.value.retry_after == pytest.approx(6.0)
    assert call_of(caught.value).ended is EndReason.REFUSED
    assert len(fault_server.requests) == 1
    assert fake_clock.slept == []
    assert [event.reason for event in events if isinstance(event, RateLimited)] == ["Retry-After"]
    assert client.get_status()["retry_after_gate"]["remaining"] == pytest.approx(6.0)


def test_the_call_itself_waits_once(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """The call that was turned away waits as its policy says, not once more for everybody's pause."""
    client = make_client(fault_server.url, retry=RetryPolicy(backoff=fixed(1.0), jitter=0.0))
    fault_server.script(busy(4), Answer(200))
    client.get("/x")
    (waited,) = fake_clock.slept
    assert 4.0 <= waited <= 5.0


def test_a_pause_is_bounded(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A service that asks for a day is heeded for max_retry_after seconds."""
    client = make_client(fault_server.url, retry=RetryPolicy(max_attempts=1, max_retry_after=20.0))
    fault_server.script(busy(86400))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    client.get("/x")
    assert 20.0 <= fake_clock.slept[0] <= 25.0


def test_a_pause_can_be_switched_off(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """With max_retry_after=0 no call waits for another one's Retry-After."""
    client = make_client(fault_server.url, retry=RetryPolicy(max_attempts=1, max_retry_after=0.0))
    fault_server.script(busy(30))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    client.get("/x")
    assert fake_clock.slept == []


def test_a_pause_that_is_asked_for_again_is_waited_out(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Whoever wakes from one pause into another does not knock meanwhile."""
    client = make_client(fault_server.url, retry=ONCE, failure_threshold=50)
    fault_server.script(busy(5))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    asked = iter([7])

    class AskedAgain(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            for again in asked:
                client.gate.close(again)

    clock = AskedAgain()
    client = make_client(fault_server.url, clock=clock, retry=ONCE, name="again")
    fault_server.script(busy(5))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    assert client.get("/x").status_code == 200
    first, second = clock.slept
    assert 5.0 <= first <= 6.25
    assert 7.0 <= second <= 8.75


def test_pauses_one_after_the_other_are_not_waited_out_for_ever(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """Without a deadline a call waits for the longest pause there is, and then fails."""

    class AskedAgain(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            client.gate.close(9.0)

    clock = AskedAgain()
    client = make_client(
        fault_server.url, clock=clock, retry=RetryPolicy(max_attempts=1, max_retry_after=20.0)
    )
    fault_server.script(busy(9))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    with pytest.raises(RateLimitedError):
        client.get("/x")
    assert clock.monotonic() <= 25.0
    assert len(fault_server.requests) == 1


def test_a_probe_does_not_knock_during_a_pause(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Half open, a pause that is not over yet refuses the probe without waiting and without counting."""
    client = make_client(fault_server.url, retry=ONCE, failure_threshold=1, recovery_timeout=5)
    fault_server.script(Answer(500))
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    fake_clock.advance(6)
    client.gate.close(10.0)
    with pytest.raises(RateLimitedError):
        client.get("/x")
    assert client.state.value == "half_open"
    assert fake_clock.slept == []
    fake_clock.advance(10.001)
    assert client.get("/x").status_code == 200


def test_sixty_four_threads_learn_it_from_one(make_client: MakeClient, fault_server: FaultServer) -> None:
    """After one 429 none of 64 threads whose time is short sends anything."""
    client = make_client(fault_server.url, retry=ONCE, clock=None)
    fault_server.script(busy(50))
    with pytest.raises(requests.HTTPError):
        client.get("/x")

    def call(_: int) -> str:
        try:
            client.get("/x", deadline=5)
        except RateLimitedError as error:
            return "told" if 0 < (error.retry_after or 0) <= 50 else "wrong"
        return "sent"

    assert together(64, call) == ["told"] * 64
    assert len(fault_server.requests) == 1
    assert threading.active_count() < 64
