"""One refresh at a time, however many threads are turned away."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from service_utils.errors import TokenError
from service_utils.http.token_keeper import TokenKeeper
from service_utils.http.tokens import StaticToken
from tests.forked import in_child
from tests.side_by_side import PATIENCE, in_thread, together

THREADS = 50


class Provider:
    """Counts what it is asked; its token is the number of its refreshes."""

    def __init__(self, refresh: Callable[[], object] = lambda: None) -> None:
        self.asked: list[str] = []
        self.refreshes = 0
        self._refresh = refresh

    def headers(self, name: str) -> dict[str, str]:
        self.asked.append(name)
        return {"X-Token": str(self.refreshes)}

    def refresh(self, name: str) -> object:
        self.asked.append(name)
        answer = self._refresh()
        self.refreshes += 1
        return answer


def keeper_of(provider: Any) -> TokenKeeper:
    return TokenKeeper(provider, "chroma", "Chroma Server")


def turned_away(keeper: TokenKeeper) -> tuple[bool, str]:
    """What a call does that gets a 401: refresh, and look at the credentials again."""
    version = keeper.headers()[1]
    useful = keeper.refresh(version, None)
    return useful, keeper.headers()[0]["X-Token"]


def test_provider_learns_the_clients_name() -> None:
    """The provider is asked for the credentials of the client by its short name."""
    provider = Provider()
    keeper = keeper_of(provider)
    assert keeper.headers()[0] == {"X-Token": "0"}
    keeper.refresh(0, None)
    assert provider.asked == ["chroma", "chroma"]


def test_refresh_brings_new_credentials() -> None:
    """After a refresh the credentials are newer, and repeating the call makes sense."""
    keeper = keeper_of(Provider())
    assert turned_away(keeper) == (True, "1")
    assert turned_away(keeper) == (True, "2")


@pytest.mark.parametrize(("answer", "useful"), [(None, True), (True, True), (False, False), (0, True)])
def test_provider_may_say_that_there_is_nothing_newer(answer: object, useful: bool) -> None:
    """Only False from refresh() says that repeating the call is of no use."""
    keeper = keeper_of(Provider(lambda: answer))
    assert turned_away(keeper)[0] is useful


def test_provider_without_refresh() -> None:
    """A provider that cannot refresh is no error; the call is not repeated."""
    keeper = keeper_of(StaticToken("t"))
    _, version = keeper.headers()
    assert keeper.refresh(version, None) is False


def test_one_refresh_for_all_threads() -> None:
    """50 threads turned away at one moment make one refresh, and all get what it brought."""
    all_there = threading.Barrier(THREADS, timeout=PATIENCE)
    provider = Provider()
    keeper = keeper_of(provider)

    def work(_: int) -> tuple[bool, str]:
        version = keeper.headers()[1]
        all_there.wait()
        useful = keeper.refresh(version, None)
        return useful, keeper.headers()[0]["X-Token"]

    assert together(THREADS, work) == [(True, "1")] * THREADS
    assert provider.refreshes == 1


def test_threads_wait_for_the_refresh_under_way() -> None:
    """Who comes during a refresh waits for it instead of beginning another."""
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    provider = Provider(slow)
    keeper = keeper_of(provider)
    answers: list[tuple[bool, str]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(turned_away(keeper)), daemon=True) for _ in range(8)
    ]
    threads[0].start()
    assert begun.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()
    assert keeper.headers()[0] == {"X-Token": "0"}  # nobody who only reads has to wait
    assert answers == []
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [(True, "1")] * 8
    assert provider.refreshes == 1


def test_failed_refresh_fails_for_all() -> None:
    """Each thread gets an error of its own that names the service, the cause, and no secret."""
    all_there = threading.Barrier(THREADS, timeout=PATIENCE)

    def fail() -> None:
        raise ConnectionError("http://user:s3cret@auth")

    keeper = keeper_of(Provider(fail))

    def work(_: int) -> TokenError:
        version = keeper.headers()[1]
        all_there.wait()
        with pytest.raises(TokenError) as caught:
            keeper.refresh(version, None)
        return caught.value

    errors = together(THREADS, work)
    assert len({id(error) for error in errors}) == THREADS
    assert {str(error) for error in errors} == {"Chroma Server: no credentials (ConnectionError)"}
    assert {error.service for error in errors} == {"Chroma Server"}
    assert len({id(error.__cause__) for error in errors}) == 1
    assert len({id(error.__traceback__) for error in errors}) == THREADS


def test_failed_refresh_may_be_tried_again() -> None:
    """A call that sets out after a failed refresh may refresh again."""
    answers = iter([ConnectionError("away"), None])

    def fail_once() -> None:
        if (error := next(answers)) is not None:
            raise error

    keeper = keeper_of(Provider(fail_once))
    with pytest.raises(TokenError):
        turned_away(keeper)
    assert turned_away(keeper)[0] is True


def test_token_error_of_the_provider() -> None:
    """A TokenError that the provider raises keeps its words and learns the service's name."""

    def fail() -> None:
        raise TokenError("the vault is sealed", retry_after=30)

    keeper = keeper_of(Provider(fail))
    with pytest.raises(TokenError, match="the vault is sealed") as caught:
        turned_away(keeper)
    assert (caught.value.service, caught.value.retry_after) == ("Chroma Server", 30)


def test_headers_that_cannot_be_had() -> None:
    """Whatever a provider raises is a TokenError to the call, without the words that may hold a secret."""

    class Broken:
        def headers(self, name: str) -> dict[str, str]:
            raise LookupError("no s3cret")

    with pytest.raises(TokenError, match=r"Chroma Server: no credentials \(LookupError\)") as caught:
        keeper_of(Broken()).headers()
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.service == "Chroma Server"


@pytest.mark.parametrize(
    "credentials",
    [None, "s3cret", [("X-Token", "s3cret")], {"X-Token": 5}, {"X Token": "s3cret"}, {"A": "s3cret\n"}],
)
def test_credentials_that_cannot_be_sent(credentials: Any) -> None:
    """Credentials that no request could carry are a TokenError that does not show them."""

    class Strange:
        def headers(self, name: str) -> Any:
            return credentials

    with pytest.raises(TokenError, match="Chroma Server: ") as caught:
        keeper_of(Strange()).headers()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("kill", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupted_refresh_frees_those_who_wait(kill: type[BaseException]) -> None:
    """When the thread at it is interrupted, those who wait learn of that instead of waiting for ever."""
    begun, go_on = threading.Event(), threading.Event()

    def interrupted() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        raise kill

    keeper = keeper_of(Provider(interrupted))
    _, version = keeper.headers()
    seen: list[BaseException] = []

    def work() -> None:
        try:
            keeper.refresh(version, None)
        except BaseException as error:  # handed on to the test
            seen.append(error)

    first = threading.Thread(target=work, daemon=True)
    first.start()
    assert begun.wait(PATIENCE)
    others = [threading.Thread(target=work, daemon=True) for _ in range(5)]
    for thread in others:
        thread.start()
    go_on.set()
    for thread in (first, *others):
        thread.join(PATIENCE)

    kinds = [type(error) for error in seen]
    assert kinds.count(kill) >= 1
    assert set(kinds) <= {kill, TokenError}
    assert len(kinds) == 6
    assert all("interrupted" in str(error) for error in seen if isinstance(error, TokenError))


@contextmanager
def refresh_under_way() -> Iterator[TokenKeeper]:
    """A keeper whose refresh another thread is at as long as the block runs."""
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(PATIENCE)

    keeper = keeper_of(Provider(slow))
    thread = threading.Thread(target=lambda: keeper.refresh(0, None), daemon=True)
    thread.start()
    assert begun.wait(PATIENCE)
    try:
        yield keeper
    finally:
        go_on.set()
        thread.join(PATIENCE)


def test_waiting_is_bounded() -> None:
    """Who has no time left does not wait for another thread's refresh."""
    with refresh_under_way() as keeper:
        assert keeper.refresh(0, 0.0) is False


def test_refresh_under_way_at_a_fork() -> None:
    """A child does not wait for a refresh that only its parent will finish: it makes its own."""
    with refresh_under_way() as keeper:
        assert in_child(lambda: (keeper.refresh(0, None), keeper.headers())) == (True, ({"X-Token": "1"}, 1))


def test_refresh_that_forks() -> None:
    """A provider that forks ends its refresh on both sides."""
    children: list[Any] = []

    def fork() -> None:
        if not children:
            children.append(in_child(lambda: keeper.headers()[0]))

    keeper = keeper_of(Provider(fork))
    assert keeper.refresh(0, None) is True
    assert children == [{"X-Token": "0"}]
    assert keeper.headers() == ({"X-Token": "1"}, 1)


def test_credentials_are_checked_whenever_they_change() -> None:
    """Good credentials do not vouch for the next ones, nor for those put into the same dict."""
    shared = {"X-Token": "good"}
    keeper = keeper_of(SimpleNamespace(headers=lambda name: shared))
    assert keeper.headers()[0] == keeper.headers()[0] == {"X-Token": "good"}
    shared["X-Token"] = "bad\nX-Admin: yes"
    for _ in range(2):
        with pytest.raises(TokenError, match="line break"):
            keeper.headers()


def test_no_lock_is_held_while_the_provider_works() -> None:
    """A provider may take its time: others get the credentials there are."""
    free: list[bool] = []
    keeper: TokenKeeper

    class Looking(Provider):
        def refresh(self, name: str) -> object:
            free.append(in_thread(keeper.headers))
            return super().refresh(name)

    keeper = keeper_of(Looking())
    turned_away(keeper)
    assert free == [True]
