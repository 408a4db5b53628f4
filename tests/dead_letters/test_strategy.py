"""What becomes of a letter after it was tried, by kind of failure."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service_utils.calls import Attempt, CallRecord, EndReason, Outcome, attach_call
from service_utils.dead_letters.strategy import (
    MAX_RESPONSE_BYTES,
    Dead,
    Decision,
    Delivered,
    Refresh,
    RetryLater,
    Unsent,
    decide_error,
    decide_handler_error,
    decide_response,
)
from service_utils.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    RateLimitedError,
    ResponseTooLarge,
    TokenError,
)
from service_utils.testing import FakeClock

CLOCK = FakeClock()


def answer(status: int, body: bytes = b"", **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content = body
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def decide(response: requests.Response, **more: object) -> Decision:
    said = {"has_key": True, "age": 10.0, "clock": CLOCK, **more}
    return decide_response(response, **said)  # type: ignore[arg-type]


def recorded(error: Exception, *causes: str) -> Exception:
    attempts = tuple(
        Attempt(number, Outcome.FAILURE, None, cause, 0.1, 0.0) for number, cause in enumerate(causes, 1)
    )
    attach_call(
        error, CallRecord("Git", "git", "POST", "/a", attempts, "k", "r", EndReason.ATTEMPTS_EXHAUSTED)
    )
    return error


@pytest.mark.parametrize("status", [200, 201, 202, 204, 303])
def test_an_answer_that_says_done_is_a_delivery(status: int) -> None:
    """What the service took is delivered, also when it says where the result is to be found."""
    assert decide(answer(status)) == Delivered()


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504, 507, 599])
def test_trouble_that_may_pass_is_tried_again(status: int) -> None:
    """A service that is busy or broken gets the letter again later."""
    assert decide(answer(status)) == RetryLater(f"status {status}", status)


def test_what_the_client_retries_the_worker_retries_too() -> None:
    """A status that the client's own policy calls transient is transient here."""
    assert decide(answer(425)) == Dead("status 425", 425)
    assert decide(answer(425), retry_statuses={425}) == RetryLater("status 425", 425)


def test_the_pause_a_service_asks_for_is_a_lower_bound() -> None:
    """Retry-After of a failed status travels with the decision, as seconds or as a date."""
    assert decide(answer(503, Retry_After="120")) == RetryLater("status 503", 503, 120.0)
    dated = answer(503, Retry_After="Mon, 01 Jan 2024 00:01:00 GMT")
    assert decide(dated) == RetryLater("status 503", 503, 60.0)


@pytest.mark.parametrize("status", [400, 402, 404, 405, 410, 415, 451])
def test_other_refusals_end_it_at_once(status: int) -> None:
    """Sending the same again would bring the same answer."""
    assert decide(answer(status, b"secret of the user")) == Dead(f"status {status}", status)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308])
def test_a_redirect_that_leads_elsewhere_is_no_delivery(status: int) -> None:
    """A letter that was sent elsewhere was not delivered, so somebody must look at it."""
    decision = decide(answer(status))
    assert isinstance(decision, Dead)
    assert (decision.status, decision.response) == (status, None)


@pytest.mark.parametrize("status", [409, 413, 422])
def test_what_is_wrong_with_the_letter_is_kept(status: int) -> None:
    """The service's complaint about the body stays with the letter, up to 64 KiB of it."""
    assert decide(answer(status, b'{"field": "amount"}')) == Dead(
        f"status {status}", status, b'{"field": "amount"}'
    )
    long = decide(answer(status, b"x" * (MAX_RESPONSE_BYTES + 1)))
    assert isinstance(long, Dead)
    assert long.response == b"x" * 64 * 1024


def test_forbidden_is_tried_with_fresh_credentials_once() -> None:
    """A 403 may be a stale token; after a refresh it is final."""
    assert decide(answer(403)) == Refresh()
    assert decide(answer(403), refreshed=True) == Dead("status 403", 403)


def test_unauthorized_is_final() -> None:
    """By the time a 401 is seen the client has refreshed its token and tried again."""
    assert decide(answer(401)) == Dead("status 401", 401)


def test_an_attempt_that_is_still_running_costs_nothing() -> None:
    """409 with Retry-After means that our own first attempt is being worked on."""
    running = answer(409, Retry_After="3")
    decision = decide(running)
    assert isinstance(decision, Unsent)
    assert (decision.at_least, decision.status) == (3.0, 409)
    assert decide(running, has_key=False) == Dead("status 409", 409, b"")


def test_an_attempt_that_never_ends_counts_after_an_hour() -> None:
    """A receiver that is stuck does not keep a letter going for ever."""
    decision = decide(answer(409, Retry_After="3"), age=3600.0)
    assert isinstance(decision, RetryLater)
    assert decision.at_least == 3.0


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [
        (CircuitOpenError("Git", 30.0), 30.0),
        (BulkheadFullError("full", service="Git"), 0.0),
        (RateLimitedError("too fast", service="Git", retry_after=2.5), 2.5),
        (TokenError("no credentials", service="Git"), 0.0),
        (DeadlineExceeded("no time is left", service="Git"), 0.0),
    ],
)
def test_our_own_refusal_is_no_attempt(refusal: Exception, seconds: float) -> None:
    """Nothing was sent, so nothing is counted against the letter."""
    decision = decide_error(refusal)
    assert isinstance(decision, Unsent)
    assert decision.at_least == seconds


def test_a_deadline_that_cut_an_attempt_is_one() -> None:
    """A service that does not answer, or cannot even be connected to in time, has been tried."""
    assert isinstance(decide_error(DeadlineExceeded("late", sent=True)), RetryLater)
    unconnected = recorded(DeadlineExceeded("late", sent=False), "could not connect in time")
    assert decide_error(unconnected) == RetryLater("could not connect in time")


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.Timeout("late"),
        requests.exceptions.ChunkedEncodingError("cut"),
        requests.exceptions.ContentDecodingError("what is this"),
        requests.exceptions.SSLError("certificate"),
        requests.TooManyRedirects("round and round"),
        ResponseTooLarge("too long", service="Git", limit=10),
        RuntimeError("a bug somewhere"),
    ],
)
def test_no_answer_is_tried_again(error: Exception) -> None:
    """Whatever the network did, the letter may do better later."""
    assert isinstance(decide_error(error), RetryLater)


def test_the_cause_is_told_in_the_words_of_the_call() -> None:
    """An operator reads why, not the repr of an object."""
    error = recorded(requests.ConnectionError("<urllib3 object at 0x1>"), "Connection refused")
    assert decide_error(error) == RetryLater("Connection refused")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("path='//evil.example': leads elsewhere"),
        TypeError("headers: must be strings"),
        requests.exceptions.InvalidURL("no host"),
        requests.exceptions.InvalidHeader("of the value 'hunter2'"),
    ],
)
def test_what_cannot_be_sent_is_dead_at_once(error: Exception) -> None:
    """A letter that is broken in itself is put away, and its contents are not quoted."""
    decision = decide_error(error)
    assert isinstance(decision, Dead)
    assert type(error).__name__ in decision.detail
    assert str(error) not in decision.detail


def handled(error: Exception) -> Decision:
    return decide_handler_error(error, clock=CLOCK, age=10.0)


def test_a_handler_that_raises_is_called_again_later() -> None:
    """Any exception of a handler may pass."""
    decision = handled(ValueError("no such number"))
    assert isinstance(decision, RetryLater)
    assert decision.detail == "ValueError: no such number"
    assert decision.at_least == 0.0


def test_a_handler_can_say_when() -> None:
    """A number of seconds on the exception is heeded; anything else there is not."""
    error = RuntimeError("busy")
    for said, heeded in [(90, 90.0), (float("nan"), 0.0), (-1, 0.0), ("soon", 0.0), (True, 0.0)]:
        error.retry_after = said  # type: ignore[attr-defined]
        decision = handled(error)
        assert isinstance(decision, RetryLater)
        assert decision.at_least == heeded


def test_a_handlers_call_decides_as_a_letter_of_its_own_would() -> None:
    """What a called service says of the message is heeded."""
    assert handled(requests.HTTPError(response=answer(400))) == Dead("status 400", 400)
    assert handled(requests.HTTPError(response=answer(403))) == Dead("status 403", 403)
    busy = answer(503, Retry_After="9")
    assert handled(requests.HTTPError(response=busy)) == RetryLater("status 503", 503, 9.0)
    assert isinstance(handled(CircuitOpenError("Git", 30.0)), Unsent)


@given(
    status=st.integers(100, 599),
    has_key=st.booleans(),
    age=st.floats(0, 1e7),
    refreshed=st.booleans(),
    retry_after=st.one_of(st.none(), st.text("0123456789abc, ", max_size=8)),
)
def test_every_answer_is_decided(
    status: int, has_key: bool, age: float, refreshed: bool, retry_after: str | None
) -> None:
    """No answer is without a decision, and only 2xx and 303 take a letter out of the queue."""
    response = answer(status) if retry_after is None else answer(status, Retry_After=retry_after)
    decision = decide(response, has_key=has_key, age=age, refreshed=refreshed)
    assert isinstance(decision, Delivered) == (200 <= status < 300 or status == 303)
    if refreshed:
        assert not isinstance(decision, Refresh)
    if isinstance(decision, RetryLater | Unsent):
        assert decision.at_least >= 0.0
