"""A breaker round a function: what call() and the decorator take, and what they leave as it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.testing import FakeClock
from tests.policies.circuits import make_breaker, totals


def test_arguments_come_through(fake_clock: FakeClock) -> None:
    """call() hands on all arguments, also those with names of its own."""
    breaker = make_breaker(fake_clock)

    def func(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    assert breaker.call(func, 1, 2, func=3, self=4) == ((1, 2), {"func": 3, "self": 4})


def test_decorated_function_keeps_its_face(fake_clock: FakeClock) -> None:
    """Name, docstring and signature stay those of the function."""

    def query(text: str, n: int = 3) -> str:
        """Look it up."""
        return text * n

    guarded = make_breaker(fake_clock)(query)
    assert (guarded.__name__, guarded.__doc__) == ("query", "Look it up.")
    assert inspect.signature(guarded) == inspect.signature(query)
    assert guarded("a", n=2) == "aa"


def test_decorator_with_rules_of_its_own(fake_clock: FakeClock) -> None:
    """@breaker(ignore=…, classify=…) holds for this function in place of the breaker's rules."""
    breaker = make_breaker(fake_clock, ignore=KeyError)

    @breaker(ignore=(OSError,))
    def func(error: Exception) -> None:
        raise error

    @breaker(classify=lambda error: Outcome.SUCCESS)
    def fine(error: Exception) -> None:
        raise error

    for call in (func, fine):
        for error in (OSError(), KeyError()):
            with pytest.raises(type(error)):
                call(error)
    assert totals(breaker) == (2, 1, 1, 0)


def test_decorator_with_empty_brackets(fake_clock: FakeClock) -> None:
    """@breaker() is @breaker."""
    breaker = make_breaker(fake_clock)
    assert breaker()(lambda: 1)() == 1
    assert totals(breaker) == (1, 0, 0, 0)


def test_decorated_method(fake_clock: FakeClock) -> None:
    """Methods can be decorated like functions; all objects share the circuit."""
    breaker = make_breaker(fake_clock)

    class Store:
        @breaker
        def load(self, fails: bool) -> Store:
            if fails:
                raise ConnectionResetError
            return self

    store = Store()
    assert store.load(False) is store
    with pytest.raises(ConnectionResetError):
        Store().load(True)
    assert totals(breaker) == (1, 1, 0, 0)


def test_partial_and_callable_object(fake_clock: FakeClock) -> None:
    """Anything that can be called can be guarded."""

    class Twice:
        def __call__(self, n: int) -> int:
            return 2 * n

    breaker = make_breaker(fake_clock)
    assert breaker.call(functools.partial(int, base=2), "101") == 5
    assert breaker(Twice())(21) == 42


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("func", [generator, async_generator, functools.partial(generator)])
def test_generator_functions_are_refused(fake_clock: FakeClock, func: Any) -> None:
    """A generator's body runs after the call has ended: guarding the call would guard nothing."""
    breaker = make_breaker(fake_clock)
    with pytest.raises(TypeError, match="generator"):
        breaker(func)
    with pytest.raises(TypeError, match="generator"):
        breaker.call(func)
    assert totals(breaker) == (0, 0, 0, 0)


@pytest.mark.parametrize("func", [5, "abs"])
def test_what_cannot_be_called(fake_clock: FakeClock, func: Any) -> None:
    """What cannot be called is refused at once, by name."""
    with pytest.raises(TypeError, match="func="):
        make_breaker(fake_clock)(func)


def test_bad_rules_of_a_decorator(fake_clock: FakeClock) -> None:
    """A decorator's rules are checked when it is made."""
    breaker = make_breaker(fake_clock)
    with pytest.raises(TypeError, match="ignore="):
        breaker(ignore="KeyError")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="classify="):
        breaker(classify=5)  # type: ignore[call-overload]
