"""Threads that came late to a failed refresh repeated their call in vain; a refresh could wait for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from service_utils.errors import TokenError
from service_utils.http.token_keeper import TokenKeeper


class Provider:
    def __init__(self, refresh: Callable[[], object]) -> None:
        self._refresh = refresh
        self.refreshed = 0

    def headers(self, name: str) -> dict[str, str]:
        return {"X-Token": "t"}

    def refresh(self, name: str) -> object:
        self.refreshed += 1
        return self._refresh()


def keeper_of(refresh: Callable[[], object]) -> tuple[TokenKeeper, Provider]:
    provider = Provider(refresh)
    return TokenKeeper(provider, "chroma", "Chroma Server"), provider


def test_late_to_a_refresh_that_brought_nothing() -> None:
    """A call turned away with old credentials is not repeated when the refresh meanwhile found no others."""
    keeper, provider = keeper_of(lambda: False)
    _, first = keeper.headers()
    _, second = keeper.headers()

    assert keeper.refresh(first, None) is False
    assert keeper.refresh(second, None) is False
    assert provider.refreshed == 1


def test_late_to_a_refresh_that_failed() -> None:
    """A thread that comes just after a failed refresh learns of the failure, in an error of its own."""

    def fail() -> None:
        raise OSError("away")

    keeper, provider = keeper_of(fail)
    _, version = keeper.headers()
    errors = []
    for _ in range(2):
        with pytest.raises(TokenError) as caught:
            keeper.refresh(version, None)
        errors.append(caught.value)

    assert provider.refreshed == 1
    assert errors[0] is not errors[1]
    assert all(isinstance(error.__cause__, OSError) for error in errors)


def test_refresh_that_calls_the_same_service() -> None:
    """A refresh whose own call is turned away does not wait for itself."""
    answers = []

    def again() -> None:
        answers.append(keeper.refresh(version, None))

    keeper, _ = keeper_of(again)
    _, version = keeper.headers()
    thread = threading.Thread(target=lambda: answers.append(keeper.refresh(version, None)), daemon=True)
    thread.start()
    thread.join(10)

    assert answers == [False, True]


def test_refresh_after_an_interrupted_one() -> None:
    """An interrupted refresh says nothing about the credentials: the next thread tries again."""
    interrupts = iter([True, False])

    def interrupt_once() -> None:
        if next(interrupts):
            raise KeyboardInterrupt

    keeper, provider = keeper_of(interrupt_once)
    _, version = keeper.headers()
    with pytest.raises(KeyboardInterrupt):
        keeper.refresh(version, None)

    assert keeper.refresh(version, None) is True
    assert provider.refreshed == 2
