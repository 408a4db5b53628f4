"""The retry budget: retries are a share of the calls."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.policies.budget import RetryBudget
from tests.side_by_side import in_thread


def test_starts_full() -> None:
    """A new client may retry at once, as often as the bucket holds tokens."""
    budget = RetryBudget(ratio=0.5, capacity=3)
    assert [budget.try_withdraw() for _ in range(4)] == [True, True, True, False]
    assert budget.balance == 0.0


def test_defaults() -> None:
    """By default two calls pay for one retry, and ten retries are free."""
    budget = RetryBudget()
    assert (budget.ratio, budget.capacity, budget.balance) == (0.5, 10.0, 10.0)


def test_calls_pay_for_retries() -> None:
    """With ratio 0.5 an empty bucket allows one retry per two calls."""
    budget = RetryBudget(ratio=0.5, capacity=1)
    assert budget.try_withdraw()
    budget.deposit()
    assert not budget.try_withdraw()
    budget.deposit()
    assert budget.try_withdraw()


def test_rounding_costs_no_retry() -> None:
    """Ten calls at 0.1 pay for one retry, although 0.1 is no exact number to a computer."""
    budget = RetryBudget(ratio=0.1, capacity=1)
    budget.try_withdraw()
    for _ in range(10):
        budget.deposit()
    assert budget.try_withdraw()
    assert budget.balance == 0.0


def test_runs_over_at_capacity() -> None:
    """A long good time saves up no more than the bucket holds."""
    budget = RetryBudget(ratio=0.75, capacity=2)
    budget.try_withdraw()
    for _ in range(100):
        budget.deposit()
    assert budget.balance == 2.0


def test_a_full_bucket_keeps_nobody_waiting() -> None:
    """Calls of a client that is well pay in without waiting for each other."""
    budget = RetryBudget()
    with budget._lock:
        assert in_thread(budget.deposit)
    assert budget.balance == 10.0


def test_refusal_takes_nothing() -> None:
    """Being refused a retry does not cost the tokens that are there."""
    budget = RetryBudget(ratio=0.5, capacity=0.5)
    assert not budget.try_withdraw()
    assert budget.balance == 0.5


def test_zero_capacity_means_no_retries() -> None:
    """A bucket that holds nothing allows no retry, whatever is paid in."""
    budget = RetryBudget(ratio=1, capacity=0)
    budget.deposit()
    assert not budget.try_withdraw()


@pytest.mark.parametrize("argument", ["ratio", "capacity"])
@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, 10**400])
def test_out_of_range(argument: str, value: float) -> None:
    """A budget that means nothing is refused by argument and value."""
    with pytest.raises(ValueError, match=f"{argument}={value!r}"):
        RetryBudget(**{argument: value})


@pytest.mark.parametrize("argument", ["ratio", "capacity"])
@pytest.mark.parametrize("value", [True, "0.5", None])
def test_wrong_type(argument: str, value: Any) -> None:
    """What is no number is refused by argument and value."""
    with pytest.raises(TypeError, match=f"{argument}={value!r}"):
        RetryBudget(**{argument: value})


def test_repr_shows_the_balance() -> None:
    """Somebody who prints a budget sees how much is left."""
    budget = RetryBudget(ratio=0.5, capacity=4)
    budget.try_withdraw()
    assert repr(budget) == "RetryBudget(ratio=0.5, capacity=4.0, balance=3.000)"


def test_a_copy_is_a_bucket_of_its_own() -> None:
    """Copies and pickles begin with the same balance and share nothing."""
    budget = RetryBudget(capacity=4)
    budget.try_withdraw()
    twins = [copy.copy(budget), copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))]
    budget.try_withdraw()
    assert [(twin.ratio, twin.capacity, twin.balance) for twin in twins] == [(0.5, 4.0, 3.0)] * 3


@given(
    ratio=st.floats(0, 5),
    capacity=st.floats(0, 20),
    moves=st.lists(st.booleans(), max_size=200),
)
def test_never_negative_never_above_capacity(ratio: float, capacity: float, moves: list[bool]) -> None:
    """Whatever is paid in and taken out, the balance stays between zero and the capacity."""
    budget = RetryBudget(ratio, capacity)
    deposits = taken = 0
    for is_deposit in moves:
        if is_deposit:
            budget.deposit()
            deposits += 1
        else:
            taken += budget.try_withdraw()
        assert 0 <= budget.balance <= capacity
    assert taken <= capacity + deposits * ratio + 1e-6


def test_threads_take_no_token_twice() -> None:
    """However many threads ask at once, exactly the tokens that are there are given out."""
    budget = RetryBudget(ratio=0.0, capacity=500)
    taken = _in_threads(8, lambda: sum(budget.try_withdraw() for _ in range(100)))
    assert sum(taken) == 500
    assert budget.balance == 0.0


def test_threads_lose_no_deposit() -> None:
    """Every call's payment arrives, however many threads pay at once; and the rim holds."""
    budget = RetryBudget(ratio=0.5, capacity=1000)
    while budget.try_withdraw():
        pass

    def work() -> int:
        withdrawn = 0
        for number in range(200):
            budget.deposit()
            assert 0 <= budget.balance <= budget.capacity
            if number % 2:
                withdrawn += budget.try_withdraw()
        return withdrawn

    taken = _in_threads(8, work)
    assert sum(taken) + budget.balance == 8 * 200 * 0.5


def _in_threads(count: int, work: Any) -> list[int]:
    """Run the same work in so many threads that begin together; returns what each returned."""
    barrier = threading.Barrier(count)
    results: list[int] = []
    failures: list[BaseException] = []

    def run() -> None:
        barrier.wait(10)
        try:
            results.append(work())
        except BaseException as error:  # handed on to the test
            failures.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert len(results) == count
    return results


def test_a_retry_that_was_not_made_is_not_paid_for() -> None:
    """A refund puts its token back, and never more than the bucket holds."""
    budget = RetryBudget(ratio=0.5, capacity=2.0)
    budget.try_withdraw()
    budget.refund()
    assert budget.balance == 2.0
    budget.refund()
    assert budget.balance == 2.0
