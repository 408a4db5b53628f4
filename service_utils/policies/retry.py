"""Retries: whether a failed attempt is followed by another, and after how long.

:class:`RetryPolicy` is a value; the client asks it what may be retried and how long to wait, and makes the
attempts itself. For callables that have nothing to do with HTTP there are ``policy.call(func, …)`` and
:func:`with_retry`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from service_utils.clock import Clock
from service_utils.policies.backoff import Backoff, apply_jitter, exponential, require_factor
from service_utils.policies.budget import RetryBudget
from service_utils.policies.checks import checked_clock, require_count, require_fraction, require_seconds
from service_utils.policies.retrying import Retrying

__all__ = ["IDEMPOTENT_METHODS", "PER_CLIENT", "PerClient", "RetryPolicy", "with_retry"]

P = ParamSpec("P")
T = TypeVar("T")

# RFC 9110, section 9.2.2: sent twice, these do what they do when sent once.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})

_BACKOFF = exponential(base=1.0, factor=2.0, cap=30.0)
_RETRY_AFTER_JITTER = 0.25
_uniform: Callable[[], float] = random.random  # a name of its own, for tests that want to know what is drawn


class PerClient(Enum):
    """The type of :data:`PER_CLIENT`: an enum, so that copies and pickles of it are itself."""

    PER_CLIENT = "PER_CLIENT"

    def __repr__(self) -> str:
        return self.value


PER_CLIENT: Final = PerClient.PER_CLIENT
"""Budget of a policy that several clients may share: each client makes a bucket of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """What is retried, how often and how fast. Immutable (but for the tokens in its budget), for any thread.

    Args:
        max_attempts: Attempts in all, the first included; 1 means no retries.
        backoff: From the number of the retry (1, 2, 3 …) to seconds; see
            :mod:`service_utils.policies.backoff`.
        jitter: Share of the delay, 0 to 1, of which a random part is taken off; 1 is full jitter, 0 none.
        budget: A :class:`RetryBudget`, ``PER_CLIENT`` for one that each client makes for itself, None for
            none.
        retry_methods: HTTP methods that are retried; None for all that a repeat cannot harm.
        retry_statuses: HTTP statuses that are worth another attempt.
        max_retry_after: The longest ``Retry-After`` in seconds that is waited for; a longer one ends the
            call.
        raise_on_status: Whether the last failed status is raised; False has the client return the response.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range.
    """

    max_attempts: int = 3
    backoff: Backoff = _BACKOFF
    jitter: float = 0.5
    budget: RetryBudget | PerClient | None = PER_CLIENT
    retry_methods: AbstractSet[str] | None = None
    retry_statuses: AbstractSet[int] = frozenset({408, 429, 500, 502, 503, 504})
    max_retry_after: float = 60.0
    raise_on_status: bool = True
    _own_budget: RetryBudget = field(default_factory=RetryBudget, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count("max_attempts", self.max_attempts)
        if not callable(self.backoff):
            raise TypeError(f"backoff={self.backoff!r}: must be a function from retry number to seconds")
        require_fraction("jitter", self.jitter)
        if not (self.budget is None or isinstance(self.budget, RetryBudget | PerClient)):
            raise TypeError(f"budget={self.budget!r}: must be a RetryBudget, PER_CLIENT or None")
        if self.retry_methods is not None:
            object.__setattr__(self, "retry_methods", _methods(self.retry_methods))
        object.__setattr__(self, "retry_statuses", _statuses(self.retry_statuses))
        require_seconds("max_retry_after", self.max_retry_after)
        if not isinstance(self.raise_on_status, bool):
            raise TypeError(f"raise_on_status={self.raise_on_status!r}: must be True or False")

    def may_retry(self, method: str, *, has_key: bool, never_sent: bool) -> bool:
        """Whether a repeat of this request can do no harm the caller has not agreed to.

        Args:
            method: The HTTP method.
            has_key: Whether the request carries an idempotency key.
            never_sent: Whether the failed attempt certainly never reached the service.
        """
        if never_sent:
            return True
        if self.retry_methods is None:
            return has_key or method.upper() in IDEMPOTENT_METHODS
        return method.upper() in self.retry_methods

    def delay(self, retry_number: int, retry_after: float | None = None) -> float:
        """Seconds to wait before a retry: the back-off less its jitter.

        Args:
            retry_number: 1 for the first retry.
            retry_after: Seconds the service asked for: a lower bound, with up to 25 % on top of it, so that
                those who were all told the same do not all come back at once.

        Raises:
            ValueError: The back-off function returned no finite number >= 0.
        """
        delay = self._backoff_delay(retry_number)
        if retry_after is None:
            return delay
        return max(delay, retry_after * (1.0 + _RETRY_AFTER_JITTER * _uniform()))

    def _backoff_delay(self, retry_number: int) -> float:
        seconds = self.backoff(retry_number)
        try:
            require_seconds("seconds", seconds)
        except (TypeError, ValueError):
            answer = f"returned {seconds!r} for retry {retry_number}, must return a finite number >= 0"
            raise ValueError(f"backoff={self.backoff!r}: {answer}") from None
        return apply_jitter(seconds, self.jitter, _uniform)

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with these arguments, again after any ``Exception``, as this policy says.

        A coroutine function gives a coroutine, whose retries happen when it is awaited. Of the policy's
        fields those that speak of HTTP play no part, but an exception with a number as its ``.retry_after``
        is heeded like the header: the delay is at least that long, and past ``max_retry_after`` there is no
        retry. With ``PER_CLIENT`` all calls by this policy object share one bucket.

        Returns:
            What the function returns.

        Raises:
            Exception: The function's last one, as it is.
            TypeError: ``func`` cannot be called, or is a generator function, of which nothing runs when it
                is called.
        """
        return Retrying(policy=self, budget=self._budget_for_callables()).call(func, *args, **kwargs)

    def _budget_for_callables(self) -> RetryBudget | None:
        return self._own_budget if self.budget is PER_CLIENT else self.budget


class _Default:
    """A default that can be told from the same value given by the caller, and that prints as that value."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _default(value: T) -> T:
    return cast(T, _Default(value))


@overload
def with_retry(func: Callable[P, T], /) -> Callable[P, T]: ...


@overload
def with_retry(
    max_attempts: int = 3,
    delay: float = 1.0,
    backoff: float = 2.0,
    *,
    max_delay: float = 30.0,
    jitter: float = 0.5,
    timeout: float | None = None,
    exceptions: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    policy: RetryPolicy | None = None,
    clock: Clock | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


def with_retry(
    max_attempts: int | Callable[P, T] = _default(3),  # noqa: B008 - made once is what it is for
    delay: float = _default(1.0),
    backoff: float = _default(2.0),
    *,
    max_delay: float = _default(30.0),
    jitter: float = _default(0.5),
    timeout: float | None = None,
    exceptions: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    policy: RetryPolicy | None = None,
    clock: Clock | None = None,
) -> Callable[P, T] | Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a function, sync or async, called again when it fails. ``@with_retry`` alone will do.

    The decorated function raises its last exception as it is. There is no retry budget unless the policy
    brings one. An exception with a number as its ``.retry_after`` makes the delay at least that long, or
    ends the retries when it is more than the policy's ``max_retry_after`` (60 s).

    Args:
        max_attempts: Attempts in all, the first included.
        delay: Seconds before the first retry.
        backoff: What the delay is multiplied by from one retry to the next, >= 1.
        max_delay: The longest delay in seconds that grows out of that.
        jitter: Share of each delay, 0 to 1, of which a random part is taken off.
        timeout: Seconds for everything, waiting included. No wait is begun that would overrun it. When they
            are up, the running attempt of an async function is cut with a ``TimeoutError``, if the clock is
            the machine's (an event loop's timers know no other); that of a sync function cannot be cut and
            ends when it ends.
        exceptions: What is retried: a type or a tuple of types. Everything else passes at once.
        policy: Instead of the five arguments that describe one (all but timeout, exceptions and clock).
        clock: Whose seconds count; the machine's by default.

    Raises:
        TypeError: An argument is of the wrong type, or what is decorated is no function that can be retried
            (a generator function cannot: calling it runs nothing of it).
        ValueError: An argument is out of its range, or ``policy`` comes together with one that it replaces.
    """
    if callable(max_attempts):
        return with_retry()(max_attempts)
    if timeout is not None:
        require_seconds("timeout", timeout, zero=False)
    plain = {
        "max_attempts": max_attempts,
        "delay": delay,
        "backoff": backoff,
        "max_delay": max_delay,
        "jitter": jitter,
    }
    chosen = _policy_from(plain) if policy is None else _policy_alone(policy, plain)
    return Retrying(
        policy=chosen,
        budget=chosen._budget_for_callables(),
        exceptions=_exception_types(exceptions),
        timeout=timeout,
        clock=checked_clock(clock),
    ).decorate


def _policy_from(plain: dict[str, Any]) -> RetryPolicy:
    values = {name: value.value if isinstance(value, _Default) else value for name, value in plain.items()}
    require_seconds("delay", values["delay"])
    require_factor("backoff", values["backoff"])
    require_seconds("max_delay", values["max_delay"])
    return RetryPolicy(
        max_attempts=values["max_attempts"],
        backoff=exponential(base=values["delay"], factor=values["backoff"], cap=values["max_delay"]),
        jitter=values["jitter"],
        budget=None,
    )


def _policy_alone(policy: object, plain: dict[str, Any]) -> RetryPolicy:
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"policy={policy!r}: must be a RetryPolicy")
    given = [f"{name}={value!r}" for name, value in plain.items() if not isinstance(value, _Default)]
    if given:
        raise ValueError(f"{', '.join(given)}: cannot be given together with policy=, which replaces it")
    return policy


def _exception_types(exceptions: object) -> tuple[type[Exception], ...]:
    types = exceptions if isinstance(exceptions, tuple) else (exceptions,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise TypeError(f"exceptions={exceptions!r}: must be an Exception type or a tuple of them")
    return types


def _methods(methods: object) -> frozenset[str]:
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise TypeError(f"retry_methods={methods!r}: must be a set of HTTP methods or None")
    collected = list(methods)
    for method in collected:
        if not isinstance(method, str) or not method.strip():
            raise TypeError(f"retry_methods={methods!r}: {method!r} is no HTTP method")
    return frozenset(method.upper() for method in collected)


def _statuses(statuses: object) -> frozenset[int]:
    if isinstance(statuses, str) or not isinstance(statuses, Iterable):
        raise TypeError(f"retry_statuses={statuses!r}: must be a set of HTTP statuses")
    collected = list(statuses)
    for status in collected:
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"retry_statuses={statuses!r}: {status!r} is no int")
        if not 100 <= status <= 599:
            raise ValueError(f"retry_statuses={statuses!r}: {status!r} is no HTTP status (100 to 599)")
    if type(statuses) is frozenset and all(type(status) is int for status in collected):
        return statuses  # the default, for one: each client's policy need not keep a set of its own
    return frozenset(int(status) for status in collected)
