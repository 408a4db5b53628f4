"""fail_open and fail_closed, the reasons they give, and how a degraded answer is marked."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import flask
import pytest
import requests

from service_utils.calls import CallRecord, EndReason, attach_call, call_of
from service_utils.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    RateLimitedError,
    ResponseTooLarge,
    ServiceError,
    ServiceUnavailable,
    TokenError,
)
from service_utils.events import Event, FallbackUsed, subscribe
from service_utils.policies.fallback import (
    collect_degradations,
    fail_closed,
    fail_open,
    mark_degraded,
    reason_of,
)
from service_utils.testing import FakeClock


def record(service: str = "Chroma Server", ended: EndReason = EndReason.ATTEMPTS_EXHAUSTED) -> CallRecord:
    """The record of a call of the client ``chroma``."""
    return CallRecord(
        service=service,
        name="chroma",
        method="GET",
        path="/query",
        attempts=(),
        idempotency_key=None,
        request_id=None,
        ended=ended,
    )


def response(status: int, url: str = "http://chroma:6003/query") -> requests.Response:
    """An answer with this status, as requests would give it."""
    made = requests.Response()
    made.status_code = status
    made.reason = "Reason"
    made.url = url
    return made


def with_status(status: int) -> requests.HTTPError:
    """What ``raise_for_status`` raises."""
    return requests.HTTPError(f"{status} Server Error", response=response(status))


@pytest.fixture
def events() -> Iterator[list[FallbackUsed]]:
    """Every FallbackUsed that is told while the test runs."""
    seen: list[FallbackUsed] = []

    def listener(event: Event) -> None:
        if isinstance(event, FallbackUsed):
            seen.append(event)

    unsubscribe = subscribe(listener)
    yield seen
    unsubscribe()


def full_text_search(query: str, limit: int = 10) -> str:
    """The second best search."""
    return f"text: {query} {limit}"


def failing(error: BaseException) -> Any:
    """A search that fails with this."""

    def search(query: str = "", limit: int = 10) -> str:
        raise error

    return search


def failing_async(error: BaseException) -> Any:
    """The same as a coroutine function."""

    async def search(query: str = "", limit: int = 10) -> str:
        raise error

    return search


# -- reasons


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CircuitOpenError("S", 1.0), "circuit open"),
        (BulkheadFullError("x"), "bulkhead full"),
        (RateLimitedError("x"), "rate limited"),
        (ServiceUnavailable("x"), "service unavailable"),
        (DeadlineExceeded("x"), "deadline exceeded"),
        (TokenError("x"), "no token"),
        (ResponseTooLarge("x"), "answer too large"),
        (requests.ReadTimeout("x"), "timeout"),
        (requests.ConnectTimeout("x"), "timeout"),
        (TimeoutError("x"), "timeout"),
        (requests.ConnectionError("x"), "connection failed"),
        (requests.exceptions.SSLError("x"), "connection failed"),
        (ConnectionRefusedError("x"), "connection failed"),
        (with_status(503), "status 503"),
        (with_status(404), "status 404"),
        (requests.HTTPError("no response"), "HTTPError"),
        (KeyError("x"), "KeyError"),
        (requests.exceptions.ChunkedEncodingError("x"), "ChunkedEncodingError"),
    ],
)
def test_reason(error: Exception, reason: str) -> None:
    """Each sort of failure has its words."""
    assert reason_of(error) == reason


# -- fail_open


def test_open_first_choice_answers(events: list[FallbackUsed]) -> None:
    """As long as the function answers, nothing happens."""

    @fail_open(fallback=failing(KeyError("never called")))
    def search(query: str) -> str:
        return f"vectors: {query}"

    with collect_degradations() as degraded:
        assert search("cats") == "vectors: cats"
    assert (degraded, events) == ([], [])


def test_open_fallback_answers_with_the_same_arguments() -> None:
    """When the function fails, the fallback is called with its arguments and its answer returned."""
    search = fail_open(fallback=full_text_search)(failing(requests.ConnectionError("away")))
    assert search("cats", limit=3) == "text: cats 3"


def test_open_marks_the_answer() -> None:
    """An answer of the fallback is marked as degraded, by the fallback's name."""
    search = fail_open(fallback=full_text_search)(failing(requests.ConnectionError("away")))
    with collect_degradations() as degraded:
        search("cats")
    assert degraded == ["full_text_search"]


def test_open_tells_the_listeners(events: list[FallbackUsed]) -> None:
    """Listeners hear which fallback answered, for which service and why."""
    error = CircuitOpenError("Chroma Server", 5.0)
    attach_call(error, record())
    fail_open(fallback=full_text_search, clock=FakeClock(start=7.0))(failing(error))("cats")
    assert events == [
        FallbackUsed(
            service="Chroma Server",
            name="chroma",
            at=7.0,
            pattern="fail_open",
            strategy="full_text_search",
            status="success",
            reason="circuit open",
            detail="Chroma Server: circuit breaker is open, next try in 5.0 s",
        )
    ]


def test_open_service_from_the_call_record(events: list[FallbackUsed]) -> None:
    """An error of requests that left a client is told under the client's names."""
    error = requests.ConnectionError("away")
    attach_call(error, record(service="Vectors"))
    fail_open(fallback=full_text_search)(failing(error))("cats")
    assert (events[0].service, events[0].name) == ("Vectors", "chroma")


def test_open_service_from_the_response(events: list[FallbackUsed]) -> None:
    """So is the failed status of a client's response that the function raised itself."""
    failed = response(503)
    attach_call(failed, record())

    def search(query: str) -> str:
        failed.raise_for_status()
        return "never"

    fail_open(fallback=full_text_search)(search)("cats")
    assert (events[0].service, events[0].name, events[0].reason) == ("Chroma Server", "chroma", "status 503")


def test_open_failed_response_brings_its_call(events: list[FallbackUsed]) -> None:
    """The error a failed response is turned into carries the record of its call."""
    failed = response(503)
    attach_call(failed, record())
    search = fail_open(fallback=failing(KeyError("broken")), name="index")(lambda query: failed)
    with pytest.raises(KeyError) as caught:
        search("cats")
    assert call_of(caught.value.__context__) == record()
    assert (events[0].service, events[0].name) == ("Chroma Server", "chroma")


def test_open_without_a_service(events: list[FallbackUsed]) -> None:
    """An error that names no service is told under the name of the function."""
    fail_open(fallback=full_text_search)(failing(requests.ConnectionError("away")))("cats")
    assert (events[0].service, events[0].name) == ("search", "search")


def test_open_short_name_is_fit_for_labels(events: list[FallbackUsed]) -> None:
    """A service known by its display name alone gets a short one made of it."""
    fail_open(fallback=full_text_search)(failing(ServiceError("away", service="Chroma Server (EU)")))("cats")
    assert (events[0].service, events[0].name) == ("Chroma Server (EU)", "chroma-server-eu")


def test_open_name(events: list[FallbackUsed]) -> None:
    """A fallback without a telling name of its own can be given one."""
    search = fail_open(lambda *args: "text", name="text_index")(failing(requests.ConnectionError("away")))
    with collect_degradations() as degraded:
        assert search("cats") == "text"
    assert (events[0].strategy, degraded) == ("text_index", ["text_index"])


def test_open_partial_as_fallback(events: list[FallbackUsed]) -> None:
    """A partial goes by the name of its function, an object by that of its type."""

    class Cached:
        def __call__(self, query: str) -> str:
            return f"cached: {query}"

    away = failing(requests.ConnectionError("away"))
    assert fail_open(functools.partial(full_text_search, limit=1))(away)("cats") == "text: cats 1"
    assert fail_open(Cached())(away)("cats") == "cached: cats"
    assert [event.strategy for event in events] == ["full_text_search", "Cached"]


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_open_failed_response(events: list[FallbackUsed], status: int) -> None:
    """A response of 400 or above is a failure, though nothing was raised."""
    search = fail_open(fallback=full_text_search)(lambda query: response(status))
    assert search("cats") == "text: cats 10"
    assert events[0].reason == f"status {status}"


@pytest.mark.parametrize("status", [200, 204, 302, 399])
def test_open_good_response(status: int) -> None:
    """A response below 400 is an answer, redirects included."""
    answer = response(status)
    assert fail_open(fallback=full_text_search)(lambda query: answer)("cats") is answer


def test_open_failed_response_whatever_is_caught() -> None:
    """A failed response is one, also where only other exceptions are caught."""
    assert (
        fail_open(fallback=full_text_search, catch=KeyError)(lambda query: response(500))("cats")
        == "text: cats 10"
    )


def test_open_status_that_raise_for_status_lets_pass(events: list[FallbackUsed]) -> None:
    """A status beyond all standards has failed as well."""
    assert fail_open(fallback=full_text_search)(lambda query: response(999))("cats") == "text: cats 10"
    assert events[0].reason == "status 999"


def test_open_answers_of_flask_are_answers() -> None:
    """What a route returns to its own callers is left alone, whatever its status."""
    answer = flask.Response("teapot", status=418)
    assert fail_open(fallback=full_text_search)(lambda query: answer)("cats") is answer


@pytest.mark.parametrize("result", [None, {"status_code": 500}, 500])
def test_open_other_results_are_answers(result: Any) -> None:
    """What is no response is an answer."""
    assert fail_open(fallback=full_text_search)(lambda query: result)("cats") == result


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), AttributeError("x"), OSError("x")])
def test_open_programming_errors_pass(error: Exception, events: list[FallbackUsed]) -> None:
    """Mistakes in the program are never hidden behind a fallback."""
    with pytest.raises(type(error)) as caught:
        fail_open(fallback=full_text_search)(failing(error))("cats")
    assert caught.value is error
    assert events == []


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.MissingSchema("x"),
        requests.exceptions.InvalidURL("x"),
        requests.exceptions.InvalidHeader("x"),
        requests.exceptions.InvalidJSONError("x"),
    ],
)
def test_open_callers_mistakes_pass(error: Exception) -> None:
    """Neither are a bad URL, a bad header or JSON that cannot be written."""
    with pytest.raises(type(error)):
        fail_open(fallback=full_text_search)(failing(error))("cats")


def test_open_what_the_client_calls_a_callers_mistake_passes() -> None:
    """An exception whose call record says it was the caller's own is one."""
    error = requests.RequestException("the generator broke")
    attach_call(error, record(ended=EndReason.CALLER_ERROR))
    with pytest.raises(requests.RequestException):
        fail_open(fallback=full_text_search)(failing(error))("cats")


def test_open_an_answer_that_is_no_json_is_caught() -> None:
    """A service that answers with something else than JSON has failed."""
    error = requests.exceptions.JSONDecodeError("x", "doc", 0)
    assert fail_open(fallback=full_text_search)(failing(error))("cats") == "text: cats 10"


def test_open_catch_replaces_the_default() -> None:
    """With catch= exactly those exceptions count, and no others."""
    for catch in (KeyError, (ValueError, KeyError)):
        search = fail_open(fallback=full_text_search, catch=catch)
        assert search(failing(KeyError("x")))("cats") == "text: cats 10"
        with pytest.raises(requests.ConnectionError):
            search(failing(requests.ConnectionError("away")))("cats")


def test_open_catch_may_name_the_callers_mistakes() -> None:
    """Who names them gets them."""
    search = fail_open(fallback=full_text_search, catch=requests.RequestException)
    assert search(failing(requests.exceptions.InvalidURL("x")))("cats") == "text: cats 10"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_open_interrupts_pass(error: type[BaseException]) -> None:
    """Ctrl-C is no failure of a service."""
    with pytest.raises(error):
        fail_open(fallback=full_text_search)(failing(error()))("cats")


def test_open_fallback_fails_too(events: list[FallbackUsed]) -> None:
    """When the fallback fails its exception is raised, with the first as context; no answer is marked."""
    first, second = requests.ConnectionError("away"), KeyError("index broken")
    search = fail_open(fallback=failing(second), name="index")(failing(first))
    with collect_degradations() as degraded, pytest.raises(KeyError) as caught:
        search("cats")
    assert caught.value is second
    assert caught.value.__context__ is first
    assert degraded == []
    assert [(event.status, event.strategy, event.reason, event.detail) for event in events] == [
        ("failure", "index", "connection failed", "'index broken'")
    ]


def test_open_fallback_with_a_failed_response(events: list[FallbackUsed]) -> None:
    """A fallback that returns a failed response has failed too."""
    search = fail_open(fallback=lambda query: response(502), name="copy")(
        failing(requests.ConnectionError("x"))
    )
    with pytest.raises(requests.HTTPError, match="502"):
        search("cats")
    assert events[0].status == "failure"


def test_open_fallbacks_can_be_stacked(events: list[FallbackUsed]) -> None:
    """The fallback may have a fallback."""
    second = fail_open(fallback=full_text_search)(failing(requests.ReadTimeout("slow")))
    search = fail_open(fallback=second, name="second")(failing(requests.ConnectionError("away")))
    with collect_degradations() as degraded:
        assert search("cats") == "text: cats 10"
    assert degraded == ["full_text_search", "second"]
    assert [event.reason for event in events] == ["timeout", "connection failed"]


def test_open_keeps_name_and_docstring() -> None:
    """The decorated function looks like the one it was."""

    @fail_open(fallback=full_text_search)
    def search(query: str, limit: int = 10) -> str:
        """Search."""
        return query

    assert (search.__name__, search.__doc__) == ("search", "Search.")
    assert list(inspect.signature(search).parameters) == ["query", "limit"]


def test_open_async_function_async_fallback(events: list[FallbackUsed]) -> None:
    """A coroutine function stays one, and its fallback may be one."""

    async def slow_search(query: str) -> str:
        await asyncio.sleep(0)
        return f"slow: {query}"

    search = fail_open(fallback=slow_search)(failing_async(requests.ConnectionError("away")))
    assert inspect.iscoroutinefunction(search)
    with collect_degradations() as degraded:
        assert asyncio.run(search("cats")) == "slow: cats"
    assert degraded == ["slow_search"]
    assert events[0].status == "success"


def test_open_async_function_sync_fallback() -> None:
    """Its fallback may be an ordinary function, or one that returns something to await."""
    away = failing_async(requests.ConnectionError("away"))

    async def slow_search(query: str) -> str:
        return f"slow: {query}"

    assert asyncio.run(fail_open(fallback=full_text_search)(away)("cats")) == "text: cats 10"
    assert (
        asyncio.run(fail_open(fallback=lambda query: slow_search(str(query)))(away)("cats")) == "slow: cats"
    )


def test_open_async_first_choice_answers() -> None:
    """A coroutine that succeeds is left alone."""

    @fail_open(fallback=full_text_search)
    async def search(query: str) -> str:
        return f"vectors: {query}"

    assert asyncio.run(search("cats")) == "vectors: cats"


def test_open_async_programming_errors_pass() -> None:
    """Mistakes in a coroutine are not hidden either, and neither is its cancelling."""
    for error in (KeyError("x"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            asyncio.run(fail_open(fallback=full_text_search)(failing_async(error))("cats"))


def test_open_async_fallback_fails_too(events: list[FallbackUsed]) -> None:
    """When the fallback of a coroutine fails its exception is raised, with the first as context."""
    first = requests.ConnectionError("away")
    search = fail_open(fallback=failing_async(KeyError("broken")), name="index")(failing_async(first))
    with pytest.raises(KeyError) as caught:
        asyncio.run(search("cats"))
    assert caught.value.__context__ is first
    assert events[0].status == "failure"


def test_open_sync_function_async_fallback() -> None:
    """Nobody would await an async fallback of a sync function: refused when decorating."""

    async def slow_search(query: str) -> str:
        return query

    with pytest.raises(TypeError, match=r"fallback=.*is async"):
        fail_open(fallback=slow_search)(full_text_search)


@pytest.mark.parametrize("fallback", [None, "text", []])
def test_open_fallback_must_be_callable(fallback: Any) -> None:
    """A fallback that is a value is refused by argument and value."""
    with pytest.raises(TypeError, match="fallback="):
        fail_open(fallback=fallback)


@pytest.mark.parametrize(
    "pattern",
    [lambda catch: fail_open(full_text_search, catch=catch), lambda catch: fail_closed(catch=catch)],
)
@pytest.mark.parametrize("catch", ["KeyError", KeyboardInterrupt, BaseException, (KeyError, None), 3])
def test_catch_must_be_exceptions(pattern: Any, catch: Any) -> None:
    """What is no Exception type cannot be caught: refused by argument and value."""
    with pytest.raises(TypeError, match="catch="):
        pattern(catch)


@pytest.mark.parametrize(
    "pattern", [lambda name: fail_open(full_text_search, name=name), lambda name: fail_closed(name=name)]
)
def test_name_must_be_one(pattern: Any) -> None:
    """A name is a text with something in it."""
    with pytest.raises(ValueError, match="name=' '"):
        pattern(" ")
    with pytest.raises(TypeError, match="name=3"):
        pattern(3)


@pytest.mark.parametrize("pattern", [fail_open(full_text_search), fail_closed])
def test_generator_functions_are_refused(pattern: Any) -> None:
    """A generator function fails after the call is over, so guarding the call guards nothing."""

    def numbers() -> Any:
        yield 1

    async def async_numbers() -> Any:
        yield 1

    for func in (numbers, async_numbers):
        with pytest.raises(TypeError, match="generator"):
            pattern(func)


@pytest.mark.parametrize("pattern", [fail_open(full_text_search), fail_closed()])
def test_only_callables_are_decorated(pattern: Any) -> None:
    """What cannot be called cannot be decorated."""
    with pytest.raises(TypeError, match="decorates functions"):
        pattern("text")


def test_no_secrets_in_events(events: list[FallbackUsed]) -> None:
    """Passwords and keys in the URLs that requests quotes do not reach the listeners."""
    error = requests.ConnectionError(
        "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /q?api_key=hush&x=1 (x)"
    )
    fail_open(fallback=full_text_search)(failing(error))("cats")
    failed = response(500, "http://user:hush@chroma:6003/query?token=hush")
    fail_open(fallback=full_text_search)(lambda query: failed)("cats")
    assert not [event for event in events if "hush" in repr(event)]
    assert "/query" in events[1].detail


def test_an_error_without_words_is_told_by_its_type(events: list[FallbackUsed]) -> None:
    """An exception without a message still says something."""
    fail_open(fallback=full_text_search)(failing(requests.ConnectionError()))("cats")
    assert events[0].detail == "ConnectionError"


def test_broken_listeners_break_nothing() -> None:
    """A listener that raises does not cost the user the answer."""

    def broken(event: Event) -> None:
        raise RuntimeError("listener")

    unsubscribe = subscribe(broken)
    try:
        assert (
            fail_open(fallback=full_text_search)(failing(requests.ConnectionError("x")))("cats")
            == "text: cats 10"
        )
    finally:
        unsubscribe()


# -- fail_closed


def test_closed_answers_pass(events: list[FallbackUsed]) -> None:
    """As long as the function answers, nothing happens; with or without brackets."""
    for decorate in (fail_closed, fail_closed(), fail_closed(name="charge")):
        assert decorate(full_text_search)("cats", limit=2) == "text: cats 2"
    assert events == []


@pytest.mark.parametrize("status", [402, 404, 500])
def test_closed_responses_pass(status: int) -> None:
    """A response is an answer, whatever its status: the caller decides what a 402 means."""
    answer = response(status)
    assert fail_closed(lambda: answer)() is answer


@pytest.mark.parametrize(
    "error",
    [
        CircuitOpenError("Billing", 5.0),
        requests.ConnectionError("away"),
        DeadlineExceeded("late"),
        with_status(502),
    ],
)
def test_closed_raises_the_same_error(error: Exception) -> None:
    """The very exception of the client is raised, for the error handlers of the application."""
    with pytest.raises(type(error)) as caught:
        fail_closed(failing(error))()
    assert caught.value is error
    assert caught.value.__cause__ is None


def test_closed_tells_the_listeners(events: list[FallbackUsed]) -> None:
    """Listeners hear what was given up, for which service and why."""

    @fail_closed(clock=FakeClock(start=3.0))
    def charge() -> None:
        raise CircuitOpenError("Billing", 5.0)

    with pytest.raises(CircuitOpenError):
        charge()
    assert events == [
        FallbackUsed(
            service="Billing",
            name="billing",
            at=3.0,
            pattern="fail_closed",
            strategy="charge",
            status="failure",
            reason="circuit open",
            detail="Billing: circuit breaker is open, next try in 5.0 s",
        )
    ]


def test_closed_is_not_degraded() -> None:
    """An error is no degraded answer."""
    with collect_degradations() as degraded, pytest.raises(requests.ConnectionError):
        fail_closed(failing(requests.ConnectionError("away")))()
    assert degraded == []


def test_closed_wraps_what_it_was_told_to_catch(events: list[FallbackUsed]) -> None:
    """Another exception named in catch= becomes a ServiceError with that as its cause, without its words."""
    error = KeyError("table charges")
    with pytest.raises(ServiceError) as caught:
        fail_closed(catch=KeyError, name="ledger")(failing(error))()
    assert caught.value.__cause__ is error
    assert str(caught.value) == "ledger failed (KeyError)"
    assert (caught.value.service, caught.value.retry_after) == ("ledger", None)
    assert (events[0].strategy, events[0].reason, events[0].detail) == (
        "ledger",
        "KeyError",
        "'table charges'",
    )


@pytest.mark.parametrize(("hint", "retry_after"), [(7, 7), (0.5, 0.5), ("soon", None), (True, None)])
def test_closed_keeps_retry_after(hint: Any, retry_after: float | None) -> None:
    """An exception that says when to come back says so through its ServiceError."""
    error = LookupError("busy")
    error.retry_after = hint  # type: ignore[attr-defined]
    with pytest.raises(ServiceError) as caught:
        fail_closed(catch=LookupError)(failing(error))()
    assert caught.value.retry_after == retry_after


def test_closed_request_exceptions_in_catch_stay_themselves() -> None:
    """RequestException is never wrapped, also when a wider type is caught."""
    error = requests.ConnectionError("away")
    with pytest.raises(requests.ConnectionError) as caught:
        fail_closed(catch=OSError)(failing(error))()
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyError("x"), requests.exceptions.InvalidURL("x"), KeyboardInterrupt()])
def test_closed_mistakes_pass_untold(error: BaseException, events: list[FallbackUsed]) -> None:
    """Programming errors, the caller's own mistakes and Ctrl-C are not told as a service's failure."""
    with pytest.raises(type(error)) as caught:
        fail_closed(failing(error))()
    assert caught.value is error
    assert events == []


def test_closed_async(events: list[FallbackUsed]) -> None:
    """A coroutine function stays one, answers and errors alike."""
    error = requests.ReadTimeout("slow")
    charge = fail_closed(failing_async(error))
    assert inspect.iscoroutinefunction(charge)
    with pytest.raises(requests.ReadTimeout) as caught:
        asyncio.run(charge())
    assert caught.value is error
    assert events[0].reason == "timeout"

    async def answer() -> str:
        return "charged"

    assert asyncio.run(fail_closed(answer)()) == "charged"
    with pytest.raises(ServiceError, match=r"search failed \(KeyError\)"):
        asyncio.run(fail_closed(catch=KeyError)(failing_async(KeyError("x")))())


def test_closed_inside_a_route() -> None:
    """Around a view the exception reaches the application's own error handler."""
    app = flask.Flask("test")

    @app.errorhandler(requests.RequestException)
    def unavailable(error: Exception) -> tuple[str, int]:
        return str(error), 503

    @app.get("/charge")
    @fail_closed
    def charge() -> str:
        raise requests.ConnectionError("billing is away")

    answer = app.test_client().get("/charge")
    assert (answer.status_code, answer.text) == (503, "billing is away")


# -- degradations


def test_marks_without_a_collector_are_lost() -> None:
    """Outside a request nobody collects, and nothing breaks."""
    mark_degraded("anything")
    with collect_degradations() as degraded:
        pass
    mark_degraded("afterwards")
    assert degraded == []


def test_a_collector_inside_another_fills_both() -> None:
    """A part that wants to know for itself does not hide it from the whole."""
    with collect_degradations() as outer:
        mark_degraded("before")
        with collect_degradations() as inner:
            mark_degraded("inside")
        mark_degraded("after")
    assert inner == ["inside"]
    assert outer == ["before", "inside", "after"]


def test_collectors_close_after_an_error() -> None:
    """An exception inside leaves no collector open."""
    with pytest.raises(KeyError), collect_degradations() as degraded:
        raise KeyError
    mark_degraded("later")
    assert degraded == []


def test_copies_of_the_context_share_the_list() -> None:
    """What a thread that was given the context marks counts for the request that started it."""
    with collect_degradations() as degraded:
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(mark_degraded, "in a thread"), daemon=True)
        thread.start()
        thread.join(20)
    assert degraded == ["in a thread"]


def test_tasks_share_the_list() -> None:
    """Tasks started inside count too."""

    async def part(name: str) -> None:
        await asyncio.sleep(0)
        mark_degraded(name)

    async def main() -> list[str]:
        with collect_degradations() as degraded:
            await asyncio.gather(part("one"), part("two"))
        return sorted(degraded)

    assert asyncio.run(main()) == ["one", "two"]


def test_requests_do_not_see_each_other() -> None:
    """Threads that collect at the same time collect their own."""
    barrier = threading.Barrier(4)
    collected: dict[str, list[str]] = {}

    def request(name: str) -> None:
        with collect_degradations() as degraded:
            barrier.wait(20)
            mark_degraded(name)
            barrier.wait(20)
            collected[name] = degraded

    threads = [threading.Thread(target=request, args=(str(n),), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert collected == {str(n): [str(n)] for n in range(4)}
