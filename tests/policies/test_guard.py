"""A breaker round a piece of code: call(), ``with`` and the decorator on ordinary functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    RateLimitedError,
    ServiceError,
    ServiceUnavailable,
    TokenError,
)
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock
from tests.policies.circuits import THRESHOLD, cooldown, fail, half_open_breaker, make_breaker, totals

Use = Callable[[CircuitBreaker, Callable[[], Any]], Any]


def by_call(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    return breaker.call(func)


def by_with(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    with breaker:
        return func()


def by_decorator(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    return breaker(func)()


def by_stack(breaker: CircuitBreaker, func: Callable[[], Any]) -> Any:
    with contextlib.ExitStack() as stack:
        stack.enter_context(breaker)
        return func()


every_way = pytest.mark.parametrize("use", [by_call, by_with, by_decorator, by_stack])


def raising(error: BaseException) -> Callable[[], Any]:
    def func() -> Any:
        raise error

    return func


@every_way
def test_success(fake_clock: FakeClock, use: Use) -> None:
    """What the code returns comes through, and counts as a success."""
    breaker = make_breaker(fake_clock)
    assert use(breaker, lambda: 42) == 42
    assert totals(breaker) == (1, 0, 0, 0)


@every_way
def test_exception_is_a_failure(fake_clock: FakeClock, use: Use) -> None:
    """An exception counts as a failure and reaches the caller as it is."""
    breaker = make_breaker(fake_clock)
    error = ZeroDivisionError("by zero")
    with pytest.raises(ZeroDivisionError) as caught:
        use(breaker, raising(error))
    assert caught.value is error
    assert totals(breaker) == (0, 1, 0, 0)
    assert breaker.get_stats()["last_error"] == "ZeroDivisionError"


@every_way
def test_failures_open_the_circuit(fake_clock: FakeClock, use: Use) -> None:
    """After enough failures the code is not run any more."""
    breaker = make_breaker(fake_clock)
    ran = []

    def func() -> None:
        ran.append(1)
        raise ConnectionResetError

    for _ in range(THRESHOLD):
        with pytest.raises(ConnectionResetError):
            use(breaker, func)
    with pytest.raises(CircuitOpenError):
        use(breaker, func)
    assert len(ran) == THRESHOLD
    assert totals(breaker) == (0, THRESHOLD, 0, 1)


@every_way
@pytest.mark.parametrize("kill", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_are_ignored(fake_clock: FakeClock, use: Use, kill: type[BaseException]) -> None:
    """Ctrl-C and its like say nothing about the service, and give the probe's place back."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.release(probe)
    with pytest.raises(kill):
        use(breaker, raising(kill()))
    assert totals(breaker) == (0, THRESHOLD, 2, 0)
    assert breaker.get_stats()["half_open_in_use"] == 0
    assert breaker.state == "half_open"


@every_way
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ServiceUnavailable("x"), Outcome.IGNORED),
        (CircuitOpenError("x", 1.0), Outcome.IGNORED),
        (BulkheadFullError("x"), Outcome.IGNORED),
        (RateLimitedError("x"), Outcome.IGNORED),
        (TokenError("x"), Outcome.IGNORED),
        (DeadlineExceeded("x", sent=False), Outcome.IGNORED),
        (DeadlineExceeded("x", sent=True), Outcome.FAILURE),
        (ServiceError("x"), Outcome.FAILURE),
        (ConnectionError("x"), Outcome.FAILURE),
    ],
)
def test_our_own_refusals_are_ignored(
    fake_clock: FakeClock, use: Use, error: Exception, outcome: Outcome
) -> None:
    """What we refused ourselves before anything was sent says nothing about the service."""
    breaker = make_breaker(fake_clock)
    with pytest.raises(type(error)):
        use(breaker, raising(error))
    assert totals(breaker) == (0, int(outcome is Outcome.FAILURE), int(outcome is Outcome.IGNORED), 0)


@every_way
@pytest.mark.parametrize("ignore", [LookupError, (ValueError, LookupError)])
def test_ignored_types(fake_clock: FakeClock, use: Use, ignore: Any) -> None:
    """Exceptions of the types named by ignore= count as nothing, subclasses included."""
    breaker = make_breaker(fake_clock, ignore=ignore)
    with pytest.raises(KeyError):
        use(breaker, raising(KeyError("x")))
    with pytest.raises(OSError, match="y"):
        use(breaker, raising(OSError("y")))
    assert totals(breaker) == (0, 1, 1, 0)


@every_way
@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Outcome.SUCCESS, (1, 0, 0, 0)),
        (Outcome.FAILURE, (0, 1, 0, 0)),
        (Outcome.IGNORED, (0, 0, 1, 0)),
        (None, (0, 1, 0, 0)),
    ],
)
def test_classify(
    fake_clock: FakeClock, use: Use, verdict: Outcome | None, expected: tuple[int, int, int, int]
) -> None:
    """classify= decides what an exception means; None leaves it to the usual rule."""
    asked: list[Exception] = []

    def classify(error: Exception) -> Outcome | None:
        asked.append(error)
        return verdict

    breaker = make_breaker(fake_clock, classify=classify)
    error = OSError("x")
    with pytest.raises(OSError, match="x"):
        use(breaker, raising(error))
    use(breaker, lambda: None)
    assert asked == [error]
    assert totals(breaker) == (expected[0] + 1, *expected[1:])


@every_way
def test_classify_is_not_asked_about_interrupts(fake_clock: FakeClock, use: Use) -> None:
    """What is no Exception, and what ignore= names, is settled before classify is asked."""
    breaker = make_breaker(fake_clock, classify=lambda error: Outcome.FAILURE, ignore=KeyError)
    for error in (KeyboardInterrupt(), KeyError()):
        with pytest.raises(type(error)):
            use(breaker, raising(error))
    assert totals(breaker) == (0, 0, 2, 0)


@every_way
def test_classify_with_a_bug(fake_clock: FakeClock, use: Use) -> None:
    """When classify itself fails the caller sees that, and the permit is given back uncounted."""

    def classify(error: Exception) -> Outcome:
        raise ZeroDivisionError

    breaker, probe = half_open_breaker(fake_clock, classify=classify)
    breaker.release(probe)
    with pytest.raises(ZeroDivisionError) as caught:
        use(breaker, raising(OSError("first")))
    assert isinstance(caught.value.__context__, OSError)
    assert totals(breaker) == (0, THRESHOLD, 2, 0)
    assert breaker.get_stats()["half_open_in_use"] == 0


@every_way
def test_retry_after_of_the_exception(fake_clock: FakeClock, use: Use) -> None:
    """An exception that says when to come again lengthens the open time."""
    breaker = make_breaker(fake_clock, failure_threshold=1)
    with pytest.raises(ServiceError):
        use(breaker, raising(ServiceError("busy", retry_after=42)))
    assert cooldown(breaker) == 42


@every_way
@pytest.mark.parametrize("retry_after", ["soon", None, object()])
def test_retry_after_that_is_no_number(fake_clock: FakeClock, use: Use, retry_after: Any) -> None:
    """Whatever else an exception calls retry_after is none of ours."""
    breaker = make_breaker(fake_clock, failure_threshold=1)
    error = OSError("busy")
    error.retry_after = retry_after  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="busy"):
        use(breaker, raising(error))
    assert breaker.state == "open"


def test_with_gives_the_breaker(fake_clock: FakeClock) -> None:
    """``with breaker as b`` names the breaker itself."""
    breaker = make_breaker(fake_clock)
    with breaker as inside:
        assert inside is breaker


def test_refused_with_block_is_not_entered(fake_clock: FakeClock) -> None:
    """A block that is refused leaves nothing behind that a later block could trip over."""
    breaker = make_breaker(fake_clock)
    fail(breaker, THRESHOLD)
    with pytest.raises(CircuitOpenError), breaker:
        pytest.fail("must not run")
    breaker.reset()
    with breaker:
        pass
    assert totals(breaker) == (1, THRESHOLD, 0, 1)
