"""FallbackChain: several ways to an answer, the best first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service_utils.errors import CircuitOpenError, ServiceError
from service_utils.events import Event, FallbackUsed, subscribe
from service_utils.policies.fallback import FallbackChain, Strategy, collect_degradations
from service_utils.testing import FakeClock


def primary(question: str) -> str:
    """The best answer."""
    return f"primary: {question}"


def secondary(question: str) -> str:
    """The second best answer."""
    return f"secondary: {question}"


def failing(error: BaseException) -> Any:
    """A strategy that fails with this."""

    def strategy(*args: Any, **kwargs: Any) -> str:
        raise error

    return strategy


def response(status: int) -> requests.Response:
    """An answer with this status."""
    made = requests.Response()
    made.status_code = status
    made.url = "http://llm/chat"
    return made


AWAY = requests.ConnectionError("away")


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


def test_first_choice(events: list[FallbackUsed]) -> None:
    """The first strategy that answers ends the run; nothing is degraded, nobody hears of it."""
    chain = FallbackChain("answer", [primary, secondary])
    with collect_degradations() as degraded:
        assert chain.run("why") == ("primary: why", "primary")
    assert (degraded, events) == ([], [])


def test_second_choice(events: list[FallbackUsed]) -> None:
    """When the first fails the second answers, and the answer is marked and told."""
    chain = FallbackChain("answer", [("gpt", failing(AWAY)), secondary], clock=FakeClock(start=4.0))
    with collect_degradations() as degraded:
        assert chain.run("why") == ("secondary: why", "secondary")
    assert degraded == ["secondary"]
    assert events == [
        FallbackUsed(
            service="answer",
            name="answer",
            at=4.0,
            pattern="chain",
            strategy="secondary",
            status="success",
            reason="connection failed",
            detail="away",
        )
    ]


def test_the_service_that_failed_is_named(events: list[FallbackUsed]) -> None:
    """Log lines and metrics name the service whose failure made the fallback necessary, where it is known."""
    FallbackChain("answer", [failing(CircuitOpenError("Chroma Server", 1.0)), secondary]).run("why")
    assert [event.service for event in events] == ["Chroma Server"]


def test_failed_fallbacks_are_told(events: list[FallbackUsed]) -> None:
    """Each later strategy that fails is told, too, with its own words."""
    chain = FallbackChain(
        "answer", [("gpt", failing(CircuitOpenError("GPT", 1.0))), ("local", failing(AWAY)), secondary]
    )
    assert chain.run("why")[1] == "secondary"
    assert [(event.strategy, event.status, event.reason) for event in events] == [
        ("local", "failure", "circuit open"),
        ("secondary", "success", "circuit open"),
    ]
    assert events[0].detail == "away"


def test_all_failed(events: list[FallbackUsed]) -> None:
    """When all fail the last exception is raised as it is, and knows what was tried."""
    first, last = AWAY, requests.ReadTimeout("slow")
    chain = FallbackChain("answer", [("gpt", failing(first)), ("local", failing(last))])
    with collect_degradations() as degraded, pytest.raises(requests.ReadTimeout) as caught:
        chain.run("why")
    assert caught.value is last
    assert caught.value.tried == (("gpt", first), ("local", last))  # type: ignore[attr-defined]
    assert degraded == []
    assert [event.status for event in events] == ["failure"]


def test_one_strategy_alone() -> None:
    """A chain of one either answers or fails."""
    assert FallbackChain("answer", [primary]).run("why") == ("primary: why", "primary")
    with pytest.raises(requests.ConnectionError):
        FallbackChain("answer", [failing(AWAY)]).run("why")


def test_arguments_are_passed_on() -> None:
    """Every strategy gets the arguments of the run."""
    chain = FallbackChain(
        "sum", [("first", failing(AWAY)), ("second", lambda *args, **kwargs: (args, kwargs))]
    )
    assert chain.run(1, 2, key=3) == (((1, 2), {"key": 3}), "second")


@pytest.mark.parametrize("status", [400, 404, 503])
def test_failed_response(status: int) -> None:
    """A response of 400 or above has failed; the next strategy is tried."""
    assert (
        FallbackChain("answer", [("gpt", lambda q: response(status)), secondary]).run("why")[1] == "secondary"
    )


@pytest.mark.parametrize("status", [200, 301, 304, 399])
def test_good_response(status: int) -> None:
    """A response below 400 is an answer, redirects included."""
    answer = response(status)
    assert FallbackChain("answer", [("gpt", lambda q: answer), secondary]).run("why") == (answer, "gpt")


def test_last_failed_response_is_raised() -> None:
    """When the last strategy returns a failed response, its HTTPError is raised with the response."""
    answer = response(503)
    with pytest.raises(requests.HTTPError, match="503") as caught:
        FallbackChain("answer", [("gpt", failing(AWAY)), ("local", lambda q: answer)]).run("why")
    assert caught.value.response is answer
    assert [name for name, _ in caught.value.tried] == ["gpt", "local"]  # type: ignore[attr-defined]


def test_failed_response_that_raises_nothing() -> None:
    """A response whose raise_for_status lets a failed status pass has failed all the same."""
    answer = response(599)
    answer.raise_for_status = lambda: None  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match="status 599") as caught:
        FallbackChain("answer", [("gpt", lambda q: answer)]).run("why")
    assert caught.value.response is answer


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), requests.exceptions.InvalidURL("x"), KeyboardInterrupt(), SystemExit()],
)
def test_mistakes_pass_at_once(error: BaseException, events: list[FallbackUsed]) -> None:
    """Programming errors, the caller's own mistakes and Ctrl-C end the run: no other strategy is tried."""
    called: list[int] = []
    chain = FallbackChain("answer", [("gpt", failing(error)), ("local", lambda q: called.append(1))])
    with pytest.raises(type(error)) as caught:
        chain.run("why")
    assert caught.value is error
    assert (called, events) == ([], [])


def test_catch() -> None:
    """With catch= exactly those exceptions lead on to the next strategy."""
    chain = FallbackChain("answer", [("cache", failing(KeyError("x"))), secondary], catch=KeyError)
    assert chain.run("why")[1] == "secondary"
    with pytest.raises(requests.ConnectionError):
        FallbackChain("answer", [("cache", failing(AWAY)), secondary], catch=KeyError).run("why")


def test_async_strategies(events: list[FallbackUsed]) -> None:
    """run_async awaits what has to be awaited and takes the rest as it is."""

    async def slow(question: str) -> str:
        await asyncio.sleep(0)
        raise AWAY

    async def fast(question: str) -> str:
        await asyncio.sleep(0)
        return f"fast: {question}"

    chain = FallbackChain(
        "answer", [slow, ("sync", failing(AWAY)), ("late", lambda q: fast(str(q))), primary]
    )
    with collect_degradations() as degraded:
        assert asyncio.run(chain.run_async("why")) == ("fast: why", "late")
    assert degraded == ["late"]
    assert [(event.strategy, event.status) for event in events] == [("sync", "failure"), ("late", "success")]


def test_async_run_of_a_sync_strategy() -> None:
    """A sync strategy may answer in run_async."""
    assert asyncio.run(FallbackChain("answer", [primary]).run_async("why")) == ("primary: why", "primary")


def test_async_all_failed() -> None:
    """run_async raises the last exception, with what was tried, and lets mistakes pass."""

    async def slow(question: str) -> str:
        raise AWAY

    async def broken(question: str) -> str:
        raise KeyError

    with pytest.raises(requests.ConnectionError) as caught:
        asyncio.run(FallbackChain("answer", [slow]).run_async("why"))
    assert caught.value.tried == (("slow", AWAY),)  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        asyncio.run(FallbackChain("answer", [broken, primary]).run_async("why"))


def test_cancelling_passes() -> None:
    """A cancelled run does not go on to the next strategy."""
    chain = FallbackChain("answer", [("gpt", failing(asyncio.CancelledError())), primary])

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await chain.run_async("why")

    asyncio.run(main())


def test_run_refuses_async_strategies() -> None:
    """run() cannot await: it says so before anything is tried, whatever is caught."""
    called: list[int] = []

    async def slow(question: str) -> str:
        return question

    chain = FallbackChain("answer", [("gpt", lambda q: called.append(1)), slow], catch=Exception)
    with pytest.raises(TypeError, match=r"'slow' of 'answer' is async: use run_async"):
        chain.run("why")
    assert called == []


def test_ways_to_give_strategies() -> None:
    """Strategies may be callables, pairs and Strategy objects, in any iterable."""
    chain = FallbackChain("answer", iter([primary, ("second", secondary), Strategy("third", primary)]))
    assert [strategy.name for strategy in chain.strategies] == ["primary", "second", "third"]
    assert repr(chain) == "FallbackChain('answer', ['primary', 'second', 'third'])"


@pytest.mark.parametrize(
    ("name", "strategies", "message"),
    [
        ("", [primary], "name=''"),
        ("answer", [], r"strategies=\[\]"),
        ("answer", [primary, primary], "'primary' is the name of more than one"),
        ("answer", [("a", primary), ("b", primary), ("a", secondary)], "'a' is the name of more than one"),
        ("answer", [lambda: 1, lambda: 2], "'<lambda>' is the name of more than one"),
        ("answer", [("", primary)], "name=''"),
    ],
)
def test_bad_values(name: str, strategies: Any, message: str) -> None:
    """No name, no strategies or two of one name are refused when the chain is made."""
    with pytest.raises(ValueError, match=message):
        FallbackChain(name, strategies)


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        (None, "strategies=None"),
        (primary, "strategies=<function primary"),
        ("abc", "'a' must be a Strategy"),
        ([None], "None must be a Strategy"),
        ([("a", primary, 1)], "must be a pair"),
        ([("a", None)], "func=None: strategy 'a'"),
        ([(1, primary)], "name=1"),
    ],
)
def test_bad_types(strategies: Any, message: str) -> None:
    """What is no strategy is refused when the chain is made."""
    with pytest.raises(TypeError, match=message):
        FallbackChain("answer", strategies)


def test_bad_catch() -> None:
    """What is no Exception type cannot be caught."""
    with pytest.raises(TypeError, match="catch="):
        FallbackChain("answer", [primary], catch=KeyboardInterrupt)  # type: ignore[arg-type]


@given(outcomes=st.lists(st.sampled_from(["answer", "raise", "status"]), min_size=1, max_size=6))
def test_first_that_succeeds(outcomes: list[str]) -> None:
    """Whatever fails, and how: the first that succeeds answers, and only those up to it are called."""
    called: list[int] = []

    def strategy(number: int, outcome: str) -> Any:
        def run() -> Any:
            called.append(number)
            if outcome == "raise":
                raise requests.ConnectionError(str(number))
            return response(503) if outcome == "status" else number

        return run

    chain = FallbackChain("answer", [(str(n), strategy(n, outcome)) for n, outcome in enumerate(outcomes)])
    if "answer" in outcomes:
        winner = outcomes.index("answer")
        assert chain.run() == (winner, str(winner))
        assert called == list(range(winner + 1))
    else:
        with pytest.raises(requests.RequestException) as caught:
            chain.run()
        assert [name for name, _ in caught.value.tried] == [str(n) for n in called]  # type: ignore[attr-defined]
        assert len(called) == len(outcomes)


def test_threads_share_a_chain() -> None:
    """Runs at the same time do not see each other's failures."""
    barrier = threading.Barrier(6)

    def gpt(number: int) -> str:
        barrier.wait(20)
        if number % 2:
            raise requests.ConnectionError(str(number))
        return f"gpt {number}"

    chain = FallbackChain("answer", [gpt, ("local", lambda number: f"local {number}")])
    answers: dict[int, tuple[Any, str]] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.__setitem__(n, chain.run(n)), daemon=True)
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {n: (f"local {n}", "local") if n % 2 else (f"gpt {n}", "gpt") for n in range(6)}
