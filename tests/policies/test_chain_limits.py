"""FallbackChain: priorities, time-outs, strategies that are skipped, and a deadline for all of them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service_utils.calls import Outcome
from service_utils.errors import BulkheadFullError, CircuitOpenError, DeadlineExceeded
from service_utils.http.context import bind_context, current_deadline, current_request_id, unbind_context
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.deadline import Deadline
from service_utils.policies.fallback import FallbackChain, Strategy, collect_degradations, mark_degraded
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import PATIENCE, together

AWAY = requests.ConnectionError("away")
SOON = 0.02  # real seconds that a strategy which hangs may take


class Hanging:
    """A strategy that hangs until the test lets it go; then all of its threads end."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls = 0

    def __call__(self, *args: Any) -> str:
        self.calls += 1
        self.released.wait(PATIENCE)
        return "late"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.released.set()


def canned(*args: Any) -> str:
    """What can be answered always."""
    return "canned"


def away(*args: Any) -> str:
    raise AWAY


def call(func: Callable[..., Any], *args: Any) -> Any:
    return func(*args)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread is about to do."""
    pause = threading.Event()
    for _ in range(PATIENCE * 1000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it never came")


def open_breaker() -> CircuitBreaker:
    breaker = CircuitBreaker("llm", failure_threshold=1, recovery_timeout=30, clock=FakeClock())
    breaker.record(breaker.acquire(), Outcome.FAILURE)
    return breaker


# -- priorities ---------------------------------------------------------------------------------------------


def test_lower_numbers_come_first() -> None:
    """Priorities order the strategies; plain callables have 0."""
    chain = FallbackChain(
        "answer", [Strategy("last", canned, priority=9), canned, Strategy("first", canned, priority=-1)]
    )
    assert chain.run()[1] == "first"
    assert [strategy.name for strategy in chain.strategies] == ["first", "canned", "last"]


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=8))
def test_equal_priorities_keep_the_order_of_the_list(priorities: list[int]) -> None:
    """The order is that of the priorities, and among equal ones that of the list."""
    given_order = [Strategy(str(n), canned, priority=priority) for n, priority in enumerate(priorities)]
    chain = FallbackChain("answer", given_order)
    keys = [(strategy.priority, int(strategy.name)) for strategy in chain.strategies]
    assert keys == sorted(keys)


# -- circuits -----------------------------------------------------------------------------------------------


def test_open_circuit_is_skipped() -> None:
    """A strategy whose circuit is open is not called."""
    called: list[int] = []
    chain = FallbackChain(
        "answer", [Strategy("llm", lambda: called.append(1), breaker=open_breaker()), canned]
    )
    with collect_degradations() as degraded:
        assert chain.run() == ("canned", "canned")
    assert (called, degraded) == ([], ["canned"])


def test_circuit_of_a_client_is_asked() -> None:
    """A client stands for its circuit."""

    class Client:
        breaker = open_breaker()

    chain = FallbackChain("answer", [Strategy("llm", canned, client=Client()), ("other", canned)])
    assert chain.run()[1] == "other"


def test_closed_circuit_lets_the_strategy_be_called() -> None:
    """A circuit that is closed, or whose open time is over, skips nothing."""
    chain = FallbackChain("answer", [Strategy("llm", canned, breaker=CircuitBreaker("llm")), away])
    assert chain.run() == ("canned", "llm")


def test_skipped_strategies_are_among_those_tried() -> None:
    """When all are skipped, the last one's refusal is raised, with the time to come back."""
    chain = FallbackChain("answer", [("gpt", away), Strategy("llm", canned, breaker=open_breaker())])
    with pytest.raises(CircuitOpenError) as caught:
        chain.run()
    assert [name for name, _ in caught.value.tried] == ["gpt", "llm"]
    assert caught.value.retry_after == 30


# -- what a strategy catches --------------------------------------------------------------------------------


def test_own_catch_comes_before_the_chains() -> None:
    """A strategy's catch= takes the place of the chain's."""

    def missing() -> str:
        raise KeyError("x")

    assert FallbackChain("answer", [Strategy("cache", missing, catch=KeyError), canned]).run()[1] == "canned"
    with pytest.raises(requests.ConnectionError):
        FallbackChain("answer", [Strategy("gpt", away, catch=KeyError), canned]).run()


# -- time-outs ----------------------------------------------------------------------------------------------


def test_hung_strategy_costs_its_timeout_only(hanging: Hanging) -> None:
    """A strategy that hangs is left behind, and the next one answers."""
    clock = FakeClock()
    chain = FallbackChain("answer", [Strategy("gpt", hanging, timeout=5), canned], clock=clock)
    assert chain.run("why") == ("canned", "canned")
    assert clock.monotonic() == 5.0


def test_late_strategy_counts_as_timed_out(hanging: Hanging) -> None:
    """When nothing else is left, the caller gets a time-out that names the chain and the strategy."""
    chain = FallbackChain("answer", [Strategy("gpt", hanging, timeout=5)], clock=FakeClock(), catch=KeyError)
    with pytest.raises(DeadlineExceeded, match=r"^answer: gpt has not answered within 5\.00 s$") as caught:
        chain.run()
    assert isinstance(caught.value, requests.Timeout)
    assert caught.value.sent


def test_quick_strategy_answers_from_its_thread() -> None:
    """A strategy that is in time answers as without a time-out, and its exceptions are its own."""
    caller = threading.get_ident()
    chain = FallbackChain("answer", [Strategy("gpt", threading.get_ident, timeout=20)])
    assert chain.run()[0] != caller
    error = KeyError("mistake")

    def mistaken() -> str:
        raise error

    with pytest.raises(KeyError) as caught:
        FallbackChain("answer", [Strategy("gpt", mistaken, timeout=20), canned]).run()
    assert caught.value is error


def test_strategy_that_ends_the_program_does_so() -> None:
    """SystemExit in a strategy with a time-out reaches the caller, and nothing else is tried."""

    def leave() -> str:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        FallbackChain("answer", [Strategy("gpt", leave, timeout=20), canned]).run()
    assert caught.value.code == 3


def test_without_a_timeout_no_thread_is_begun() -> None:
    """A strategy without a time-out runs where its caller is."""
    assert FallbackChain("answer", [threading.get_ident]).run()[0] == threading.get_ident()


def test_context_is_carried_along() -> None:
    """A strategy with a time-out sees the caller's context variables, and marks his answer as degraded."""
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    token = bind_context(request_id="abc")

    def look() -> tuple[str, str | None]:
        mark_degraded("inner")
        variable.set("changed")
        return variable.get(), current_request_id()

    try:
        with collect_degradations() as degraded:
            assert FallbackChain("answer", [Strategy("gpt", look, timeout=20)]).run()[0] == ("changed", "abc")
    finally:
        unbind_context(token)
    assert (degraded, variable.get()) == (["inner"], "set")


def seconds_left() -> float | None:
    """What a client call has in this context."""
    deadline = current_deadline()
    return None if deadline is None else deadline.remaining()


def test_deadline_of_client_calls_is_lowered() -> None:
    """Client calls in a strategy know the time that it has; outside nothing is changed."""
    clock = FakeClock()
    chain = FallbackChain("answer", [Strategy("gpt", seconds_left, timeout=5)], clock=clock)
    # In this thread the fake clock would let the time-out pass at once, so another one asks.
    assert together(1, lambda _: (chain.run()[0], seconds_left())) == [(5.0, None)]


def test_earlier_deadline_stays() -> None:
    """A time-out never gives a call more time than the inbound request has."""
    clock = FakeClock()
    chain = FallbackChain("answer", [Strategy("gpt", seconds_left, timeout=5)], clock=clock)

    def inbound(_: int) -> Any:
        bind_context(request_id="abc", deadline=Deadline.after(2, clock))
        return chain.run()[0]

    assert together(1, inbound) == [2.0]


# -- threads that are left behind ---------------------------------------------------------------------------


def test_strategy_that_hangs_too_often_is_skipped(hanging: Hanging) -> None:
    """While as many calls as allowed hang, no further thread is begun; when one ends, the next is."""
    chain = FallbackChain(
        "answer", [Strategy("gpt", hanging, timeout=5), canned], max_hung=2, clock=FakeClock()
    )
    before = threading.active_count()
    for _ in range(5):
        assert chain.run()[1] == "canned"
    assert (hanging.calls, threading.active_count() - before) == (2, 2)
    assert chain.get_status()["strategies"]["gpt"]["hung"] == 2
    hanging.released.set()
    until(lambda: chain.get_status()["strategies"]["gpt"]["hung"] == 0)
    chain.run()
    assert hanging.calls == 3


def test_refusal_of_a_strategy_that_hangs(hanging: Hanging) -> None:
    """The refusal says why, and is one of those that never reached anybody."""
    chain = FallbackChain("answer", [Strategy("gpt", hanging, timeout=5)], max_hung=1, clock=FakeClock())
    with pytest.raises(DeadlineExceeded):
        chain.run()
    with pytest.raises(BulkheadFullError, match="gpt is left out: 1 earlier calls of it still hang"):
        chain.run()


def test_threads_are_bounded_by_callers(hanging: Hanging) -> None:
    """However many runs there are, no more calls hang than are allowed and were under way at once."""
    chain = FallbackChain("answer", [Strategy("gpt", hanging, timeout=SOON), canned], max_hung=2)
    together(4, lambda _: [chain.run() for _ in range(10)])
    assert hanging.calls <= 2 + 4 - 1


def test_answers_are_not_kept() -> None:
    """A call that was in time leaves nothing behind, not even its answer."""

    class Reply:
        """Something that can be referred to weakly."""

    chain = FallbackChain("answer", [Strategy("gpt", Reply, timeout=20)])
    kept = weakref.ref(chain.run()[0])
    until(lambda: kept() is None)


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, the strategy is skipped."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    chain = FallbackChain("answer", [Strategy("gpt", canned, timeout=5), ("other", canned)], catch=KeyError)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    report = chain.run_report()
    assert (report.strategy, report.steps[0].outcome) == ("other", "skipped")


def test_interrupted_caller_leaves_the_call_behind(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a strategy is waited for ends the run; its call counts as hanging when its time is up."""
    clock = FakeClock()

    def interrupt(ready: Any, seconds: float) -> bool:
        raise KeyboardInterrupt

    chain = FallbackChain("answer", [Strategy("gpt", hanging, timeout=5), canned], clock=clock)
    monkeypatch.setattr(clock, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        chain.run()
    until(lambda: hanging.calls == 1)
    assert chain.get_status()["strategies"]["gpt"]["hung"] == 0
    clock.advance(5)
    assert chain.get_status()["strategies"]["gpt"]["hung"] == 1


def test_forked_child_has_no_hung_calls(hanging: Hanging) -> None:
    """In a forked child nothing hangs, and the strategy is tried anew."""
    chain = FallbackChain(
        "answer", [Strategy("gpt", hanging, timeout=5), canned], max_hung=1, clock=FakeClock()
    )
    chain.run()

    def look() -> Any:
        status = chain.get_status()["strategies"]["gpt"]
        return status["hung"], status["timeout"], chain.run_report().steps[0].outcome.value

    assert in_child(look) == (0, 0, "timeout")


# -- the chain's deadline -----------------------------------------------------------------------------------


def test_deadline_bounds_all_strategies_together(hanging: Hanging) -> None:
    """The second strategy has what the first has left; the others are skipped when nothing is."""
    clock = FakeClock()
    chain = FallbackChain(
        "answer",
        [Strategy("a", hanging, timeout=5), Strategy("b", hanging, timeout=5), Strategy("c", canned)],
        deadline=8,
        clock=clock,
    )
    with pytest.raises(DeadlineExceeded, match="answer: no time left for c") as caught:
        chain.run()
    steps = [(step.name, step.outcome.value, step.duration) for step in caught.value.report.steps]  # type: ignore[attr-defined]
    assert steps == [("a", "timeout", 5.0), ("b", "timeout", 3.0), ("c", "skipped", 0.0)]


def test_last_resort_answers_after_the_deadline(hanging: Hanging) -> None:
    """A last resort is called though the chain's time is up, in the caller's own thread."""
    chain = FallbackChain(
        "answer",
        [hanging, Strategy("sorry", threading.get_ident, last_resort=True)],
        deadline=8,
        clock=FakeClock(),
    )
    assert chain.run() == (threading.get_ident(), "sorry")


def test_deadline_of_a_client_call_counts_as_a_timeout() -> None:
    """A call that gave up because the strategy's time was up is a time-out, not some other failure."""
    clock = FakeClock()

    def gives_up() -> str:
        clock.advance(5)
        raise DeadlineExceeded("LLM: deadline exceeded", service="LLM", sent=True)

    chain = FallbackChain("answer", [Strategy("gpt", gives_up, timeout=5), canned], clock=clock)
    assert [step.outcome.value for step in chain.run_report().steps] == ["timeout", "success"]


# -- coroutines ---------------------------------------------------------------------------------------------


def test_late_coroutine_is_cancelled() -> None:
    """A coroutine that is late is cancelled, and the next strategy answers."""
    cancelled: list[bool] = []

    async def slow() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return "never"

    async def main() -> Any:
        answer = await FallbackChain("answer", [Strategy("gpt", slow, timeout=SOON), canned]).run_async()
        await asyncio.sleep(0)
        return answer, list(cancelled)

    assert asyncio.run(main()) == (("canned", "canned"), [True])


def test_coroutine_that_heeds_no_cancelling_is_left_behind() -> None:
    """A coroutine that goes on after being cancelled costs the chain no more, and counts as hanging."""

    async def main() -> Any:
        release = asyncio.Event()

        async def stubborn() -> str:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            raise requests.ConnectionError("nobody hears of it")

        chain = FallbackChain("answer", [Strategy("gpt", stubborn, timeout=SOON), canned], max_hung=1)
        first, second = await chain.run_report_async(), await chain.run_report_async()
        release.set()
        while chain.get_status()["strategies"]["gpt"]["hung"]:
            await asyncio.sleep(0)
        return [report.steps[0].outcome.value for report in (first, second)]

    assert asyncio.run(main()) == ["timeout", "skipped"]


def test_sync_strategy_with_a_timeout_does_not_block_the_loop(hanging: Hanging) -> None:
    """A sync strategy with a time-out runs beside the event loop, and what it returns may be awaitable."""

    async def answer(question: str) -> tuple[str, float | None]:
        return question, seconds_left()

    async def main() -> Any:
        late = await FallbackChain("a", [Strategy("gpt", hanging, timeout=SOON), canned]).run_async("why")
        chain = FallbackChain("b", [Strategy("gpt", functools.partial(call, answer), timeout=20)])
        return late, await chain.run_async("why")

    late, ((question, left), _) = asyncio.run(main())
    assert (late, question) == (("canned", "canned"), "why")
    assert left is not None
    assert 0 < left <= 20


def test_async_run_can_be_cancelled(hanging: Hanging) -> None:
    """Whoever cancels a run that waits for a strategy ends it, and nothing else is tried."""
    called: list[int] = []

    async def forever() -> None:
        await asyncio.Event().wait()

    async def main(strategy: Any) -> None:
        chain = FallbackChain("a", [Strategy("gpt", strategy, timeout=20), ("b", lambda: called.append(1))])
        task = asyncio.ensure_future(chain.run_async())
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for strategy in (forever, hanging):
        asyncio.run(main(strategy))
    assert called == []


# -- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"priority": 1.5}, TypeError, "priority=1.5"),
        ({"timeout": 0}, ValueError, "timeout=0"),
        ({"timeout": "5"}, TypeError, "timeout='5'"),
        ({"breaker": "llm"}, TypeError, "breaker='llm'"),
        ({"client": object()}, TypeError, "client=<object"),
        ({"breaker": CircuitBreaker("x"), "client": object()}, ValueError, "give one of them"),
        ({"catch": BaseException}, TypeError, "catch="),
        ({"last_resort": 1}, TypeError, "last_resort=1"),
    ],
)
def test_bad_strategies(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """A strategy is refused where it is made."""
    with pytest.raises(error, match=message):
        Strategy("llm", canned, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"deadline": 0}, ValueError), ({"max_hung": 0}, ValueError), ({"max_hung": 1.0}, TypeError)],
)
def test_bad_limits(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Limits that make no sense are refused where the chain is made."""
    with pytest.raises(error, match=f"{next(iter(arguments))}="):
        FallbackChain("answer", [canned], **arguments)
