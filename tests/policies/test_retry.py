"""RetryPolicy: whether there is another attempt, and after how long."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.policies import retry
from service_utils.policies.backoff import exponential, fibonacci, fixed, linear
from service_utils.policies.budget import RetryBudget
from service_utils.policies.retry import PER_CLIENT, RetryPolicy
from service_utils.policies.retrying import Retrying
from service_utils.testing import FakeClock

AT_ONCE = fixed(0)


class Flaky:
    """A function that fails so many times before it answers."""

    def __init__(self, failures: int, error: Callable[[], Exception] = lambda: KeyError("away")) -> None:
        self.failures = failures
        self.error = error
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.raised: list[Exception] = []

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        self.calls.append((args, kwargs))
        if len(self.calls) > self.failures:
            return "answer"
        self.raised.append(self.error())
        raise self.raised[-1]


class AskedToWait(Exception):
    """An error that says when to come back."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__("later")
        self.retry_after = retry_after


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Decide what chance draws."""
    return lambda value: monkeypatch.setattr(retry, "_uniform", lambda: value)


def test_defaults() -> None:
    """A policy without settings is the documented one."""
    policy = RetryPolicy()
    assert policy.max_attempts == 3
    assert policy.backoff == exponential(base=1.0, factor=2.0, cap=30.0)
    assert policy.jitter == 0.5
    assert policy.budget is PER_CLIENT
    assert policy.retry_methods is None
    assert policy.retry_statuses == {408, 429, 500, 502, 503, 504}
    assert policy.max_retry_after == 60.0
    assert policy.raise_on_status is True


def test_is_a_value() -> None:
    """Policies with the same settings are equal, and none can be changed."""
    assert RetryPolicy(max_attempts=4) == RetryPolicy(max_attempts=4) != RetryPolicy()
    assert len({RetryPolicy(), RetryPolicy()}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().max_attempts = 5  # type: ignore[misc]


def test_survives_copy_and_pickle() -> None:
    """A policy can go to another process, PER_CLIENT included."""
    policy = RetryPolicy(backoff=linear(), retry_methods={"GET"})
    assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == policy
    assert pickle.loads(pickle.dumps(policy)).budget is PER_CLIENT


def test_only_keywords() -> None:
    """Settings have names: nobody has to know their order."""
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[misc]


def test_per_client_reads_well() -> None:
    """PER_CLIENT prints as what it is and is the same object wherever it goes."""
    assert repr(PER_CLIENT) == "PER_CLIENT"
    assert (
        copy.copy(PER_CLIENT)
        is copy.deepcopy(PER_CLIENT)
        is pickle.loads(pickle.dumps(PER_CLIENT))
        is PER_CLIENT
    )


def test_methods_in_any_case() -> None:
    """Methods may be given in lower case and as any collection."""
    assert RetryPolicy(retry_methods=["get", "Put"]).retry_methods == frozenset({"GET", "PUT"})  # type: ignore[arg-type]


def test_statuses_in_any_collection() -> None:
    """Statuses may be given as any collection, and cannot change afterwards."""
    given_statuses = {500}
    policy = RetryPolicy(retry_statuses=given_statuses)
    given_statuses.add(200)
    assert policy.retry_statuses == frozenset({500})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", math.nan),
        ("max_retry_after", -1),
        ("max_retry_after", math.nan),
        ("retry_statuses", {99}),
        ("retry_statuses", {600}),
    ],
)
def test_out_of_range(field: str, value: Any) -> None:
    """A setting out of its range is refused by name and value."""
    with pytest.raises(ValueError, match=re.escape(f"{field}={value!r}")):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", True),
        ("max_attempts", 3.0),
        ("max_attempts", "3"),
        ("backoff", 2.0),
        ("jitter", "half"),
        ("jitter", True),
        ("budget", 0.5),
        ("budget", "PER_CLIENT"),
        ("retry_methods", "GET"),
        ("retry_methods", 1),
        ("retry_methods", {1}),
        ("retry_methods", {""}),
        ("retry_statuses", "500"),
        ("retry_statuses", 500),
        ("retry_statuses", {"500"}),
        ("retry_statuses", {True}),
        ("max_retry_after", None),
        ("raise_on_status", "no"),
    ],
)
def test_wrong_type(field: str, value: Any) -> None:
    """A setting of the wrong type is refused by name and value."""
    with pytest.raises(TypeError) as caught:
        RetryPolicy(**{field: value})
    assert f"{field}={value!r}" in str(caught.value)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_idempotent_methods_are_retried(method: str) -> None:
    """What does the same when done twice may be done twice."""
    assert RetryPolicy().may_retry(method, has_key=False, never_sent=False)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PURGE"])
@pytest.mark.parametrize(
    ("has_key", "never_sent", "retried"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_other_methods_need_a_key(method: str, has_key: bool, never_sent: bool, retried: bool) -> None:
    """A POST is repeated under an idempotency key, or when it never reached the service; else never."""
    assert RetryPolicy().may_retry(method, has_key=has_key, never_sent=never_sent) is retried


@pytest.mark.parametrize(
    ("method", "never_sent", "retried"),
    [
        ("GET", False, True),
        ("get", False, True),
        ("PUT", False, False),
        ("POST", False, False),
        ("POST", True, True),
    ],
)
@pytest.mark.parametrize("has_key", [True, False])
def test_chosen_methods_only(method: str, has_key: bool, never_sent: bool, retried: bool) -> None:
    """With a set of methods others are repeated only when they never reached the service, key or not."""
    assert (
        RetryPolicy(retry_methods={"GET"}).may_retry(method, has_key=has_key, never_sent=never_sent)
        is retried
    )


def test_delay_follows_the_backoff() -> None:
    """Without jitter the delays are those of the back-off."""
    policy = RetryPolicy(jitter=0)
    assert [policy.delay(number) for number in (1, 2, 3)] == [1.0, 2.0, 4.0]


def test_delay_is_jittered(draw: Callable[[float], None]) -> None:
    """The random part is taken off the delay."""
    draw(0.5)
    assert RetryPolicy(jitter=0.5).delay(3) == 3.0


@given(
    number=st.integers(1, 10**9),
    jitter=st.floats(0, 1),
    backoff=st.sampled_from([exponential(), linear(), fixed(5), fibonacci()]),
)
def test_delay_within_bounds(number: int, jitter: float, backoff: Callable[[int], float]) -> None:
    """A delay never leaves [back-off * (1 - jitter), back-off]."""
    delay = RetryPolicy(backoff=backoff, jitter=jitter).delay(number)
    assert backoff(number) * (1 - jitter) <= delay <= backoff(number)


@pytest.mark.parametrize(
    ("retry_after", "drawn", "delay"),
    [(10.0, 0.0, 10.0), (10.0, 1.0, 12.5), (10.0, 0.5, 11.25), (0.0, 0.5, 1.0), (0.5, 0.5, 1.0)],
)
def test_retry_after_is_a_lower_bound(
    draw: Callable[[float], None], retry_after: float, drawn: float, delay: float
) -> None:
    """We come back no earlier than asked to, up to a quarter later; a longer back-off stays."""
    draw(drawn)
    assert RetryPolicy(jitter=0, backoff=fixed(1)).delay(1, retry_after) == delay


@given(retry_after=st.floats(0, 60), number=st.integers(1, 20))
def test_retry_after_bounds(retry_after: float, number: int) -> None:
    """With Retry-After the delay lies between it and the larger of the back-off and 125 % of it."""
    delay = RetryPolicy().delay(number, retry_after)
    assert retry_after <= delay <= max(exponential()(number), retry_after * 1.25)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, -0.5, "1", None, True])
def test_a_backoff_that_returns_nonsense(value: Any) -> None:
    """A back-off of the user's own that returns no seconds is named in the error."""

    def strange(number: int) -> Any:
        return value

    with pytest.raises(ValueError, match=r"backoff=<function .*strange.*returned .* for retry 2"):
        RetryPolicy(backoff=strange).delay(2)


def test_call_returns_the_answer() -> None:
    """A function that fails twice is called three times, with its arguments, and its answer is returned."""
    func = Flaky(2)
    assert RetryPolicy(backoff=AT_ONCE).call(func, 1, 2, key="value") == "answer"
    assert func.calls == [((1, 2), {"key": "value"})] * 3


def test_call_passes_every_keyword_on() -> None:
    """The function may have arguments of any name, also those that the policy's methods have."""
    func = Flaky(0)
    RetryPolicy().call(func, func=1, args=2, kwargs=3)
    assert func.calls == [((), {"func": 1, "args": 2, "kwargs": 3})]


def test_call_raises_the_last_exception() -> None:
    """When all attempts fail, the last one's very exception is raised, bare of wrappers."""
    func = Flaky(9)
    with pytest.raises(KeyError) as caught:
        RetryPolicy(backoff=AT_ONCE).call(func)
    assert caught.value is func.raised[-1]
    assert caught.value.__cause__ is None
    assert len(func.calls) == 3


def test_one_attempt_means_no_retry() -> None:
    """With max_attempts=1 the function is called once."""
    func = Flaky(9)
    with pytest.raises(KeyError):
        RetryPolicy(max_attempts=1).call(func)
    assert len(func.calls) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_pass(error: type[BaseException]) -> None:
    """Ctrl-C is no failure to retry."""
    calls = []

    def interrupted() -> None:
        calls.append(1)
        raise error

    with pytest.raises(error):
        RetryPolicy(backoff=AT_ONCE).call(interrupted)
    assert calls == [1]


def test_call_of_a_coroutine_function() -> None:
    """A coroutine function gives a coroutine, retried when it is awaited."""
    calls = []

    async def fetch(value: int) -> int:
        calls.append(value)
        if len(calls) < 3:
            raise ConnectionError("away")
        return value

    coroutine = RetryPolicy(backoff=AT_ONCE).call(fetch, 7)
    assert calls == []
    assert asyncio.run(coroutine) == 7
    assert calls == [7, 7, 7]


def test_call_of_an_object_with_an_async_call() -> None:
    """An object whose ``__call__`` is a coroutine function is one too."""

    class Fetch:
        calls = 0

        async def __call__(self) -> str:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError("away")
            return "answer"

    assert asyncio.run(RetryPolicy(backoff=AT_ONCE).call(Fetch())) == "answer"


def test_cancelling_is_no_failure() -> None:
    """A cancelled task ends; it is not tried again."""
    calls = []

    async def fetch() -> None:
        calls.append(1)
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await RetryPolicy(backoff=AT_ONCE).call(fetch)

    asyncio.run(main())
    assert calls == [1]


def test_budget_ends_the_retries() -> None:
    """An empty bucket allows no retry: the exception of the attempt there was is raised."""
    budget = RetryBudget(ratio=0, capacity=1)
    policy = RetryPolicy(max_attempts=5, backoff=AT_ONCE, budget=budget)
    func = Flaky(9)
    with pytest.raises(KeyError):
        policy.call(func)
    assert len(func.calls) == 2
    assert budget.balance == 0


def test_each_call_pays_in_once() -> None:
    """A call pays for a share of a retry, whatever becomes of it."""
    budget = RetryBudget(ratio=0.5, capacity=10)
    for _ in range(4):
        budget.try_withdraw()
    policy = RetryPolicy(backoff=AT_ONCE, budget=budget)
    policy.call(Flaky(0))
    assert budget.balance == 6.5
    policy.call(Flaky(1))
    assert budget.balance == 6.0


def test_per_client_is_per_policy_for_callables() -> None:
    """Without a client, all calls by one policy share one bucket, and another policy has its own."""
    policy, other = (RetryPolicy(max_attempts=9, backoff=AT_ONCE) for _ in range(2))
    first, second, third = Flaky(99), Flaky(99), Flaky(99)
    for func, using in ((first, policy), (second, policy), (third, other)):
        with pytest.raises(KeyError):
            using.call(func)
    assert [len(func.calls) for func in (first, second, third)] == [9, 3, 9]


def test_no_budget() -> None:
    """With budget=None retries cost nothing."""
    policy = RetryPolicy(max_attempts=5, backoff=AT_ONCE, budget=None)
    for _ in range(20):
        func = Flaky(99)
        with pytest.raises(KeyError):
            policy.call(func)
        assert len(func.calls) == 5


def test_retry_after_that_is_too_long() -> None:
    """An error that asks for more patience than the policy has ends the call at once, and costs no token."""
    budget = RetryBudget(capacity=3)
    func = Flaky(9, lambda: AskedToWait(61))
    with pytest.raises(AskedToWait):
        RetryPolicy(budget=budget).call(func)
    assert len(func.calls) == 1
    assert budget.balance == 3


@pytest.mark.parametrize("retry_after", [None, "soon", math.nan, -5, True, object()])
def test_retry_after_that_says_nothing(retry_after: Any) -> None:
    """A ``retry_after`` that is no number of seconds is not heeded."""
    func = Flaky(1, lambda: AskedToWait(retry_after))
    assert RetryPolicy(backoff=AT_ONCE).call(func) == "answer"


@pytest.mark.parametrize("func", [None, 3, "name"])
def test_call_of_no_function(func: Any) -> None:
    """What cannot be called is refused."""
    with pytest.raises(TypeError, match="only functions"):
        RetryPolicy().call(func)


def test_generator_functions_are_refused() -> None:
    """Calling a generator function runs nothing of it, so it cannot be retried."""

    def numbers() -> Any:
        yield 1

    async def async_numbers() -> Any:
        yield 1

    for func in (numbers, async_numbers):
        with pytest.raises(TypeError, match="generator"):
            RetryPolicy().call(func)


def test_sleeps_only_between_attempts() -> None:
    """Three attempts have two waits between them, and none after the last."""
    clock = FakeClock()
    with pytest.raises(KeyError):
        Retrying(policy=RetryPolicy(jitter=0), budget=None, clock=clock).call(Flaky(9))
    assert clock.slept == [1.0, 2.0]
