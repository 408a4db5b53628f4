"""The error tree: what catches what, and what survives a journey."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import requests
from requests import exceptions as rex

from service_utils import errors
from service_utils.calls import Attempt, CallRecord, EndReason, Outcome
from service_utils.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    RateLimitedError,
    ResponseTooLarge,
    ServiceError,
    ServiceUnavailable,
    TokenError,
    is_caller_error,
)

RECORD = CallRecord(
    service="Chroma Server",
    name="chroma",
    method="POST",
    path="/query",
    attempts=(Attempt(1, Outcome.FAILURE, 503, None, 0.5, 0.0),),
    idempotency_key="k1",
    request_id="r1",
    ended=EndReason.NOT_RETRYABLE,
    duration=0.5,
)

EXAMPLES: list[ServiceError] = [
    ServiceError("it failed", service="Chroma Server", retry_after=3.0),
    ServiceUnavailable("not sent", service="Chroma Server", retry_after=1.5),
    CircuitOpenError("Chroma Server", 12.5),
    CircuitOpenError("Chroma Server", 0.0, message="held open by an operator", retry_after=7.0),
    BulkheadFullError("16 calls are under way", service="Chroma Server", retry_after=0.1),
    RateLimitedError("10 calls a second", service="Chroma Server", retry_after=0.4),
    DeadlineExceeded("25 s are up", service="Chroma Server", sent=True),
    DeadlineExceeded("no time left", service="Chroma Server", retry_after=2.0, sent=False),
    TokenError("the token file is empty", service="Chroma Server"),
    ResponseTooLarge("more than 10 bytes", service="Chroma Server", limit=10),
]

JOURNEYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle protocol {protocol}": lambda error, protocol=protocol: pickle.loads(  # type: ignore[misc]
            pickle.dumps(error, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (ServiceError, [requests.RequestException]),
        (ServiceUnavailable, [ServiceError, requests.ConnectionError]),
        (CircuitOpenError, [ServiceUnavailable, requests.ConnectionError]),
        (BulkheadFullError, [ServiceUnavailable, requests.ConnectionError]),
        (RateLimitedError, [ServiceUnavailable, requests.ConnectionError]),
        (DeadlineExceeded, [ServiceError, requests.Timeout]),
        (TokenError, [ServiceError]),
        (ResponseTooLarge, [ServiceError]),
    ],
)
def test_is_caught_by_its_bases(kind: type[ServiceError], bases: list[type[Exception]]) -> None:
    """Code that catches what requests raises catches ours, each under the type that fits."""
    for base in (*bases, requests.RequestException, OSError):
        assert issubclass(kind, base)


@pytest.mark.parametrize("kind", [DeadlineExceeded, TokenError, ResponseTooLarge])
def test_only_refusals_are_service_unavailable(kind: type[ServiceError]) -> None:
    """``except ServiceUnavailable`` means that nothing was sent, so nothing else may be one."""
    assert not issubclass(kind, ServiceUnavailable)


def test_request_exception_is_that_of_requests() -> None:
    """``errors.RequestException`` is the class itself, no look-alike."""
    assert errors.RequestException is requests.RequestException


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_bases_get_the_message_alone(error: ServiceError) -> None:
    """``args`` and ``str`` have the sentence and nothing more, and nothing pretends to be an errno."""
    assert error.args == (str(error),)
    assert str(error)
    assert error.errno is None


@pytest.mark.parametrize("journey", JOURNEYS.values(), ids=list(JOURNEYS))
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_survives_with_its_fields(
    error: ServiceError, journey: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy, or what comes out of a pickle, is of the same type with the same message and fields."""
    monkeypatch.setattr(error, "call", RECORD)
    arrived = journey(error)
    assert type(arrived) is type(error)
    assert arrived is not error
    assert arrived.args == error.args
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
    assert arrived.call == RECORD


@pytest.mark.parametrize("journey", JOURNEYS.values(), ids=list(JOURNEYS))
def test_leaves_request_and_response_behind(journey: Callable[[Any], Any]) -> None:
    """Request and response may hold credentials and open files: they do not travel."""
    error = ServiceError("it failed", service="S")
    error.request = requests.Request("GET", "http://s/", headers={"Authorization": "secret"}).prepare()
    error.response = requests.Response()
    arrived = journey(error)
    assert arrived.request is None
    assert arrived.response is None
    assert b"secret" not in pickle.dumps(error)


def test_carries_no_request_or_response_of_itself() -> None:
    """An error of ours begins without both."""
    error = ServiceError("it failed")
    assert error.request is None
    assert error.response is None


def test_a_users_subclass_survives_too() -> None:
    """A subclass with a constructor of its own needs to do nothing for pickling."""
    arrived = pickle.loads(pickle.dumps(QuotaError(5)))
    assert type(arrived) is QuotaError
    assert (str(arrived), arrived.left, arrived.service) == ("quota exceeded by 5", 5, "Quota")


class QuotaError(ServiceError):
    """For the test above; pickle has to find it in the module."""

    def __init__(self, left: int) -> None:
        super().__init__(f"quota exceeded by {left}", service="Quota")
        self.left = left


def test_a_copy_is_the_waiters_own() -> None:
    """Who gets a copy of a shared failure can change its fields without anybody else noticing."""
    shared = TokenError("no token", service="S")
    own = copy.copy(shared)
    own.call = RECORD
    assert shared.call is None


def test_service_error_has_fields_without_arguments() -> None:
    """All fields are there even when nobody said anything."""
    error = ServiceError()
    assert (str(error), error.service, error.retry_after, error.call) == ("", "", None, None)


def test_circuit_open_error_speaks_of_its_circuit() -> None:
    """Service and cooldown are fields and in the sentence; the cooldown is the time to retry after."""
    error = CircuitOpenError("Chroma Server", 12.345)
    assert str(error) == "Chroma Server: circuit breaker is open, next try in 12.3 s"
    assert (error.service, error.cooldown_remaining, error.retry_after) == ("Chroma Server", 12.345, 12.345)


def test_circuit_open_error_takes_words_of_its_own() -> None:
    """Another sentence and another time to retry after replace the usual ones."""
    error = CircuitOpenError("S", 0.0, message="held open", retry_after=9.0)
    assert (str(error), error.cooldown_remaining, error.retry_after) == ("held open", 0.0, 9.0)


def test_deadline_exceeded_is_not_sent_unless_said() -> None:
    """``sent`` is false until somebody knows better."""
    assert DeadlineExceeded("late").sent is False


@pytest.mark.parametrize(
    "kind",
    [
        rex.MissingSchema,
        rex.InvalidSchema,
        rex.InvalidURL,
        rex.InvalidHeader,
        rex.InvalidJSONError,
        rex.UnrewindableBodyError,
        rex.StreamConsumedError,
        rex.URLRequired,
    ],
)
def test_callers_own_mistakes(kind: type[requests.RequestException]) -> None:
    """What requests raises for a bad argument is the caller's mistake."""
    assert is_caller_error(kind("bad"))


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.Timeout("late"),
        requests.HTTPError("500"),
        rex.ChunkedEncodingError("cut"),
        rex.ContentDecodingError("not gzip"),
        rex.JSONDecodeError("no JSON", "<html>", 0),
        ServiceError("ours"),
        ValueError("not of requests"),
    ],
)
def test_other_failures_are_not_the_callers(error: Exception) -> None:
    """What the service or the way to it did is not the caller's mistake, not even an answer without JSON."""
    assert not is_caller_error(error)
