"""The worker sends kept calls again: what goes out, and what becomes of the letter."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.dead_letters import LetterStatus
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.backoff import exponential
from service_utils.policies.breaker import BreakerConfig
from service_utils.policies.budget import RetryBudget
from service_utils.policies.bulkhead import Bulkhead
from service_utils.policies.deadline import Deadline
from service_utils.policies.retry import RetryPolicy
from service_utils.testing import Answer, FaultServer, blackhole, drop_reply, reset_connection

from .workshop import Workshop, shop

__all__ = ["shop"]


class Tokens:
    """Credentials whose number says how often they were refreshed."""

    def __init__(self, *, newer: bool = True) -> None:
        self.refreshed = 0
        self._newer = newer

    def headers(self, name: str) -> dict[str, str]:
        return {"X-INTERNAL-TOKEN": f"token-{self.refreshed}"}

    def refresh(self, name: str) -> bool:
        self.refreshed += 1
        return self._newer


def done(**some: int) -> dict[str, int]:
    nothing = dict.fromkeys(("leased", "delivered", "retried", "dead", "skipped", "lost"), 0)
    return {**nothing, **some}


def test_a_letter_is_sent_as_it_was_kept(shop: Workshop, fault_server: FaultServer) -> None:
    """Method, path, body, headers and idempotency key are those of the call that failed."""
    shop.client(fault_server)
    shop.queue.add(
        "git",
        "POST",
        "/snapshot/p1?deep=1",
        body=b"\x00binary\xff",
        headers={"Content-Type": "application/octet-stream", "X-Colour": "blue"},
        idempotency_key="first-and-only",
    )

    assert shop.worker.run_once() == done(leased=1, delivered=1)

    (request,) = fault_server.requests
    assert (request.method, request.target, request.body) == (
        "POST",
        "/snapshot/p1?deep=1",
        b"\x00binary\xff",
    )
    assert request.headers["Idempotency-Key"] == "first-and-only"
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert request.headers["X-Colour"] == "blue"
    assert shop.queue.list() == []
    assert [outcome for _, outcome, _ in shop.events] == ["delivered"]


def test_each_replay_carries_the_same_key_and_the_token_of_its_day(
    shop: Workshop, fault_server: FaultServer
) -> None:
    """The key is the first call's, the credentials are the client's own of now; none are stored."""
    tokens = Tokens()
    shop.client(fault_server, token_provider=tokens)
    letter = shop.queue.add(
        "git", "POST", "/a", json={"n": 1}, headers={"X-INTERNAL-TOKEN": "old", "Authorization": "Bearer old"}
    )
    fault_server.script(Answer(503), Answer(201))

    assert shop.worker.run_once() == done(leased=1, retried=1)
    tokens.refreshed = 7
    shop.clock.advance(10.0)
    assert shop.worker.run_once() == done(leased=1, delivered=1)

    first, second = fault_server.requests
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert [each.headers["X-INTERNAL-TOKEN"] for each in (first, second)] == ["token-0", "token-7"]
    assert "Authorization" not in first.headers
    assert [(id, outcome, attempts) for id, outcome, attempts in shop.events] == [
        (letter, "retried", 1),
        (letter, "delivered", 2),
    ]


def test_a_replay_is_one_attempt(shop: Workshop, fault_server: FaultServer) -> None:
    """The client's own retries are not for letters, whose turn comes again anyway."""
    shop.client(fault_server, max_retries=5)
    fault_server.default = Answer(503)
    shop.queue.add("git", "POST", "/a")

    shop.worker.run_once()

    assert len(fault_server.requests) == 1


def test_replays_pay_into_the_retry_budget_and_take_nothing(
    shop: Workshop, fault_server: FaultServer
) -> None:
    """Letters do not use up the retries of the users' calls."""
    budget = RetryBudget(ratio=0.5, capacity=10.0)
    while budget.try_withdraw():
        pass
    shop.client(fault_server, retry=RetryPolicy(budget=budget))
    fault_server.script(Answer(503))
    shop.queue.add("git", "POST", "/a")

    shop.worker.run_once()

    assert budget.balance == 0.5


def test_a_replay_may_take_half_of_the_lease(shop: Workshop, fault_server: FaultServer) -> None:
    """A service that does not answer is let go while the letter is certainly ours."""
    workshop = Workshop(lease_seconds=0.3)
    try:
        workshop.client(fault_server, timeout=30)
        fault_server.default = blackhole()
        letter = workshop.queue.add("git", "POST", "/a")

        assert workshop.worker.run_once() == done(leased=1, retried=1)
        assert workshop.letter(letter).attempts == 1
    finally:
        workshop.close()


def test_the_clients_own_deadline_is_not_lengthened(shop: Workshop, fault_server: FaultServer) -> None:
    """Where the client allows less than half a lease, that holds."""
    shop.client(fault_server, timeout=30, deadline=2.5)
    shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, delivered=1)
    (request,) = fault_server.requests
    assert request.headers["X-Request-Timeout-Ms"] == "2500"


def test_nothing_of_the_callers_request_travels(shop: Workshop, fault_server: FaultServer) -> None:
    """A round begun within a request takes neither its id nor its deadline along."""
    shop.client(fault_server)
    shop.queue.add("git", "POST", "/a")
    token = bind_context(request_id="inbound", deadline=Deadline.after(0.0), trace={"tracestate": "a=b"})
    try:
        assert shop.worker.run_once() == done(leased=1, delivered=1)
    finally:
        unbind_context(token)

    (request,) = fault_server.requests
    assert request.headers["X-Request-ID"] != "inbound"
    assert "tracestate" not in request.headers


def test_letters_go_out_oldest_first(shop: Workshop, fault_server: FaultServer) -> None:
    """A service gets its letters in the order in which they were kept."""
    shop.client(fault_server)
    for number in range(30):
        shop.queue.add("git", "POST", f"/{number}")

    assert shop.worker.run_once() == done(leased=20, delivered=20)
    assert shop.worker.run_once() == done(leased=10, delivered=10)

    assert [each.path for each in fault_server.requests] == [f"/{number}" for number in range(30)]


def test_one_that_must_wait_holds_back_those_behind_it(shop: Workshop, fault_server: FaultServer) -> None:
    """Order is kept when a letter fails: the next one is not tried before it."""
    shop.client(fault_server)
    fault_server.script(Answer(503), Answer(200), Answer(200))
    first, second = (shop.queue.add("git", "POST", path) for path in ("/1", "/2"))

    assert shop.worker.run_once() == done(leased=2, retried=1, skipped=1)
    assert shop.worker.run_once() == done()
    assert (shop.letter(first).attempts, shop.letter(second).attempts) == (1, 0)
    shop.clock.advance(10.0)
    assert shop.worker.run_once() == done(leased=2, delivered=2)

    assert [each.path for each in fault_server.requests] == ["/1", "/1", "/2"]


def test_one_that_is_dead_holds_up_nobody(shop: Workshop, fault_server: FaultServer) -> None:
    """A letter that the service refuses for good makes room for the next."""
    shop.client(fault_server)
    fault_server.script(Answer(400), Answer(200))
    first, _ = (shop.queue.add("git", "POST", path) for path in ("/1", "/2"))

    assert shop.worker.run_once() == done(leased=2, delivered=1, dead=1)
    assert shop.letter(first).status is LetterStatus.DEAD
    assert shop.letter(first).last_status == 400


def test_after_max_retries_a_letter_rests(shop: Workshop, fault_server: FaultServer) -> None:
    """It is tried as often as was agreed, then it is dead and not sent again."""
    shop.client(fault_server)
    fault_server.default = Answer(503)
    letter = shop.queue.add("git", "POST", "/a", max_retries=3)

    for _ in range(5):
        shop.worker.run_once()
        shop.clock.advance(10.0)

    assert len(fault_server.requests) == 3
    found = shop.letter(letter)
    assert (found.status, found.attempts, found.last_status) == (LetterStatus.DEAD, 3, 503)
    assert [outcome for _, outcome, _ in shop.events] == ["retried", "retried", "dead"]


def test_pauses_grow_and_are_spread(fault_server: FaultServer) -> None:
    """A letter waits by the back-off, less the part that jitter takes off."""
    workshop = Workshop(backoff=exponential(base=100.0, factor=2.0, cap=1000.0), jitter=0.5)
    try:
        workshop.client(fault_server, failure_threshold=100)
        fault_server.default = Answer(503)
        letter = workshop.queue.add("git", "POST", "/a")
        workshop.worker.run_once()
        pause = workshop.due_in(letter)
        assert 50.0 <= pause <= 100.0
        workshop.clock.advance(pause + 0.001)
        workshop.worker.run_once()
        assert workshop.letter(letter).attempts == 2
        assert 100.0 <= workshop.due_in(letter) <= 200.0
    finally:
        workshop.close()


def test_a_pause_the_service_asks_for_is_kept(shop: Workshop, fault_server: FaultServer) -> None:
    """Retry-After makes the pause longer than the back-off, up to a quarter on top, and never shorter."""
    shop.client(fault_server)
    fault_server.script(Answer(503, headers={"Retry-After": "100"}))
    letter = shop.queue.add("git", "POST", "/a")

    shop.worker.run_once()

    assert 100.0 <= shop.due_in(letter) <= 125.0


def test_nobody_can_put_a_letter_to_sleep_for_years(shop: Workshop, fault_server: FaultServer) -> None:
    """After a day the service is asked again, whatever it said."""
    shop.client(fault_server)
    fault_server.script(Answer(503, headers={"Retry-After": "9" * 30}))
    letter = shop.queue.add("git", "POST", "/a")

    shop.worker.run_once()

    assert shop.due_in(letter) == 86400.0


@pytest.mark.parametrize(
    "reply", [Answer(429), Answer(500), Answer(501), reset_connection(), Answer(200, "long").truncated(2)]
)
def test_trouble_that_may_pass_is_tried_again(reply: Any, shop: Workshop, fault_server: FaultServer) -> None:
    """The letter waits and then arrives."""
    shop.client(fault_server)
    fault_server.script(reply, Answer(200))
    shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, retried=1)
    shop.clock.advance(10.0)
    assert shop.worker.run_once() == done(leased=1, delivered=1)


def test_a_reply_that_was_lost_is_asked_for_again_under_the_same_key(
    shop: Workshop, fault_server: FaultServer
) -> None:
    """Delivery is at least once; a receiver that honours the key makes it exactly once."""
    shop.client(fault_server)
    seen: set[str] = set()

    def honour(request: Any) -> Answer:
        seen.add(request.headers["Idempotency-Key"])
        return Answer(200)

    fault_server.handler = honour
    fault_server.script(drop_reply())
    shop.queue.add("git", "POST", "/a")

    shop.worker.run_once()
    shop.clock.advance(10.0)
    assert shop.worker.run_once() == done(leased=1, delivered=1)
    assert (len(fault_server.requests), len(seen)) == (2, 1)


@pytest.mark.parametrize("status", [413, 422])
def test_what_is_wrong_with_the_letter_is_kept_with_it(
    status: int, shop: Workshop, fault_server: FaultServer
) -> None:
    """Whoever mends the letter reads what the service said, up to 64 KiB of it."""
    shop.client(fault_server)
    fault_server.script(Answer(status, b"field: amount" + b"." * 2**17))
    letter = shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, dead=1)

    found = shop.letter(letter)
    assert (found.status, found.last_status) == (LetterStatus.DEAD, status)
    assert found.last_response is not None
    assert found.last_response.startswith(b"field: amount")
    assert len(found.last_response) == 64 * 1024


def test_a_failed_status_that_the_client_raises_is_judged_the_same(
    shop: Workshop, fault_server: FaultServer
) -> None:
    """A client that raises for every 4xx keeps the answer, too."""
    shop.client(fault_server, raise_for_status=True)
    fault_server.script(Answer(422, b"no"))
    letter = shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, dead=1)
    assert shop.letter(letter).last_response == b"no"


@pytest.mark.parametrize("status", [401, 403])
def test_turned_away_it_is_sent_once_more_with_a_fresh_token(
    status: int, shop: Workshop, fault_server: FaultServer
) -> None:
    """A token that is out of date is refreshed, and that is no attempt of the letter."""
    shop.client(fault_server, token_provider=Tokens())
    fault_server.script(Answer(status), Answer(200))
    letter = shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, delivered=1)
    assert [each.headers["X-INTERNAL-TOKEN"] for each in fault_server.requests] == ["token-0", "token-1"]
    assert shop.events == [(letter, "delivered", 1)]


@pytest.mark.parametrize("status", [401, 403])
def test_turned_away_with_a_fresh_token_it_is_dead(
    status: int, shop: Workshop, fault_server: FaultServer
) -> None:
    """Once is enough."""
    shop.client(fault_server, token_provider=Tokens())
    fault_server.default = Answer(status)
    letter = shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, dead=1)
    assert len(fault_server.requests) == 2
    assert shop.letter(letter).last_status == status


@pytest.mark.parametrize("tokens", [None, Tokens(newer=False)])
def test_where_there_is_no_fresher_token_forbidden_is_final(
    tokens: Tokens | None, shop: Workshop, fault_server: FaultServer
) -> None:
    """Nothing is repeated that would be refused again."""
    shop.client(fault_server, token_provider=tokens)
    fault_server.default = Answer(403)
    shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, dead=1)
    assert len(fault_server.requests) == 1


def test_a_letter_that_cannot_be_sent_is_dead_at_once(shop: Workshop, fault_server: FaultServer) -> None:
    """A path that leads elsewhere reaches nobody."""
    shop.client(fault_server)
    letter = shop.queue.add("git", "POST", "/../../elsewhere")

    assert shop.worker.run_once() == done(leased=1, dead=1)
    assert fault_server.requests == []
    assert shop.letter(letter).status is LetterStatus.DEAD


def test_an_attempt_that_is_still_running_is_waited_for(shop: Workshop, fault_server: FaultServer) -> None:
    """409 with Retry-After costs no attempt, however often it comes within the hour."""
    shop.client(fault_server)
    fault_server.default = Answer(409, headers={"Retry-After": "7"})
    letter = shop.queue.add("git", "POST", "/a", max_retries=2)

    for _ in range(5):
        assert shop.worker.run_once() == done(leased=1, skipped=1)
        assert shop.due_in(letter) == 7.0
        shop.clock.advance(7.0)

    assert shop.letter(letter).attempts == 0
    assert shop.events == []


def test_an_attempt_that_runs_for_ever_is_given_up(shop: Workshop, fault_server: FaultServer) -> None:
    """A receiver that is stuck does not keep a letter going without end."""
    shop.client(fault_server)
    fault_server.default = Answer(409, headers={"Retry-After": "7"})
    letter = shop.queue.add("git", "POST", "/a", max_retries=2)
    shop.clock.advance(3600.0)

    shop.worker.run_once()
    shop.clock.advance(10.0)
    assert shop.worker.run_once() == done(leased=1, dead=1)
    assert shop.letter(letter).attempts == 2


# -- the circuit and our other refusals -------------------------------------------------------------


def test_an_open_circuit_is_left_alone(shop: Workshop, fault_server: FaultServer) -> None:
    """While a service is known to be away, letters are not even touched, and no attempt is counted."""
    client = shop.client(fault_server, recovery_timeout=60)
    letter = shop.queue.add("git", "POST", "/a")
    client.breaker.force_open("maintenance")
    assert shop.worker.run_once() == done()
    client.reset()
    fault_server.default = Answer(503)
    for _ in range(5):
        with pytest.raises(Exception, match="503"):
            client.post("/b", retry=RetryPolicy(max_attempts=1))

    assert shop.worker.run_once() == done()
    assert shop.letter(letter).attempts == 0
    assert client.get_status()["requests"]["rejected"] == 0


def test_one_letter_is_the_probe(shop: Workshop, fault_server: FaultServer) -> None:
    """When the circuit may be tried, one letter goes ahead; when it arrives, the others follow."""
    client = shop.client(fault_server, failure_threshold=1, recovery_timeout=60)
    letters = [shop.queue.add("git", "POST", f"/{number}") for number in range(3)]
    fault_server.script(Answer(503), Answer(503))

    assert shop.worker.run_once() == done(leased=3, retried=1, skipped=2)
    shop.clock.advance(60.0)
    assert shop.worker.run_once() == done(leased=1, retried=1)
    assert client.state.value == "open"
    shop.clock.advance(60.0)
    assert shop.worker.run_once() == done(leased=1, delivered=1)
    assert shop.worker.run_once() == done(leased=2, delivered=2)

    assert [each.path for each in fault_server.requests] == ["/0", "/0", "/0", "/1", "/2"]
    assert shop.queue.get(letters[0]) is None


def test_a_circuit_that_opens_between_is_no_attempt(shop: Workshop, fault_server: FaultServer) -> None:
    """The letter goes back until the circuit may be tried."""
    client = shop.client(fault_server, breaker=BreakerConfig(failure_threshold=1, recovery_timeout=60))
    letter = shop.queue.add("git", "POST", "/a")
    shop.worker._room = lambda name: 20  # type: ignore[method-assign]  # as if it had looked a moment before
    fault_server.script(Answer(503))
    with pytest.raises(Exception, match="503"):
        client.post("/b", retry=RetryPolicy(max_attempts=1))

    assert shop.worker.run_once() == done(leased=1, skipped=1)
    assert (shop.letter(letter).attempts, shop.due_in(letter)) == (0, 60.0)
    assert shop.events == []


def test_a_full_bulkhead_is_no_attempt_and_no_hot_loop(shop: Workshop, fault_server: FaultServer) -> None:
    """Users' calls go first; the letter is looked at again after the interval."""
    bulkhead = Bulkhead(1, 0.0)
    shop.client(fault_server, bulkhead=bulkhead)
    letter = shop.queue.add("git", "POST", "/a")

    with bulkhead.acquire():
        assert shop.worker.run_once() == done(leased=1, skipped=1)
        assert shop.worker.run_once() == done()
    assert (shop.letter(letter).attempts, shop.due_in(letter)) == (0, 5.0)
    shop.clock.advance(5.0)
    assert shop.worker.run_once() == done(leased=1, delivered=1)


def test_without_a_token_nothing_is_tried(shop: Workshop, fault_server: FaultServer) -> None:
    """Letters wait for credentials without using up their attempts."""

    class Broken:
        def headers(self, name: str) -> dict[str, str]:
            raise RuntimeError("the vault is closed")

    shop.client(fault_server, token_provider=Broken())
    letter = shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=1, skipped=1)
    assert shop.letter(letter).attempts == 0
    assert fault_server.requests == []
