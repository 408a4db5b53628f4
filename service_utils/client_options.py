"""A client's arguments, checked and turned into policy objects at construction."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import requests

from service_utils.clock import Clock
from service_utils.errors import TokenError
from service_utils.events import Listener
from service_utils.http.tokens import EnvToken, TokenProvider, check_declared_hosts, is_internal_host
from service_utils.http.transport import Timeout
from service_utils.http.urls import BaseURL
from service_utils.policies.breaker import BreakerConfig
from service_utils.policies.bulkhead import Bulkhead, BulkheadConfig
from service_utils.policies.checks import require_count, require_seconds
from service_utils.policies.rate_limit import RateLimit, RateLimiter
from service_utils.policies.retry import RetryPolicy
from service_utils.profiles import current_profile
from service_utils.registry import ServiceRegistry

__all__ = [
    "FAILURE_THRESHOLD",
    "MAX_RETRIES",
    "RECOVERY_TIMEOUT",
    "Who",
    "check_collaborators",
    "check_flags",
    "check_seconds",
    "check_timeout",
    "checked_headers",
    "pick_breaker",
    "pick_bulkhead",
    "pick_limiter",
    "pick_name",
    "pick_retry",
    "pick_tokens",
]


class _Default(int):
    """A default that can be told from the same number given by the caller: it is compared by identity."""


MAX_RETRIES = _Default(3)
FAILURE_THRESHOLD = _Default(5)
RECOVERY_TIMEOUT = _Default(60)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BETWEEN_WORDS = re.compile(r"[^a-z0-9]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def pick_name(name: str | None, service_name: str) -> str:
    """The short name: the one given, or the display name as a slug.

    Raises:
        TypeError: ``service_name`` is no string.
        ValueError: One of them cannot be used.
    """
    if not isinstance(service_name, str):
        raise TypeError(f"service_name={service_name!r}: must be a string")
    if not service_name.strip() or not service_name.isprintable():
        raise ValueError(f"service_name={service_name!r}: must be a printable name")
    if name is None:
        return _BETWEEN_WORDS.sub("-", service_name.lower()).strip("-")[:64].rstrip("-") or "service"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r}: must be 1 to 64 letters, digits, dots, dashes and underscores")
    return name


def pick_retry(max_retries: int, retry: RetryPolicy | None) -> RetryPolicy:
    """The retry policy: the object, or one made of the plain argument.

    Raises:
        TypeError: One of them is of the wrong type.
        ValueError: Both are given, or the number is below 1.
    """
    if retry is None:
        require_count("max_retries", max_retries)
        return RetryPolicy(max_attempts=int(max_retries))
    if not isinstance(retry, RetryPolicy):
        raise TypeError(f"retry={retry!r}: must be a RetryPolicy")
    if max_retries is not MAX_RETRIES:
        raise ValueError(f"max_retries={max_retries!r}: give it as max_attempts of retry=, which replaces it")
    return retry


def pick_breaker(
    failure_threshold: int, recovery_timeout: float, breaker: BreakerConfig | None, timeout: Timeout
) -> BreakerConfig:
    """The breaker's limits: the object, or one made of the plain arguments.

    A probe of a client may take as long as one attempt, so it expires after ``max(recovery_timeout, timeout +
    1)``.

    Raises:
        TypeError: One of them is of the wrong type.
        ValueError: Both ways are used, or a value is out of its range.
    """
    plain = {"failure_threshold": failure_threshold, "recovery_timeout": recovery_timeout}
    if breaker is None:
        breaker = BreakerConfig(
            failure_threshold=int(failure_threshold)
            if failure_threshold is FAILURE_THRESHOLD
            else failure_threshold,
            recovery_timeout=float(recovery_timeout)
            if recovery_timeout is RECOVERY_TIMEOUT
            else recovery_timeout,
        )
    elif not isinstance(breaker, BreakerConfig):
        raise TypeError(f"breaker={breaker!r}: must be a BreakerConfig")
    else:
        for argument, value in plain.items():
            if value is not FAILURE_THRESHOLD and value is not RECOVERY_TIMEOUT:
                raise ValueError(f"{argument}={value!r}: give it in breaker=, which replaces it")
    if breaker.half_open_timeout is not None:
        return breaker
    longest = sum(part or 0.0 for part in timeout) if isinstance(timeout, tuple) else timeout or 0.0
    return dataclasses.replace(breaker, half_open_timeout=max(breaker.recovery_timeout, longest + 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """For whom the policies of a client work: what they call it, whose time counts, who is told."""

    name: str
    label: str
    clock: Clock
    listeners: tuple[Listener, ...]

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of a policy."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def pick_bulkhead(
    bulkhead: Bulkhead | BulkheadConfig | int | str | None, pool_maxsize: int, who: Who
) -> Bulkhead | None:
    """The bulkhead: the object, or one made of a config, of a number of slots, or as large as the pool.

    Raises:
        TypeError: It is none of these.
        ValueError: The number is below 1, or the string is not ``"auto"``.
    """
    if bulkhead is None or isinstance(bulkhead, Bulkhead):
        return bulkhead
    if isinstance(bulkhead, BulkheadConfig):
        return Bulkhead(bulkhead.max_concurrent, bulkhead.max_wait, **who.arguments())
    if isinstance(bulkhead, str):
        if bulkhead != "auto":
            raise ValueError(f"bulkhead={bulkhead!r}: the only word it takes is 'auto'")
        return Bulkhead(pool_maxsize, **who.arguments())
    if isinstance(bulkhead, bool) or not isinstance(bulkhead, int):
        raise TypeError(
            f"bulkhead={bulkhead!r}: must be a number of calls, 'auto', a BulkheadConfig or a Bulkhead"
        )
    require_count("bulkhead", bulkhead)
    return Bulkhead(bulkhead, **who.arguments())


def pick_limiter(rate_limit: RateLimiter | RateLimit | float | None, who: Who) -> RateLimiter | None:
    """The rate limiter: the object, or one made of a limit or of calls per second.

    Raises:
        TypeError: It is none of these.
        ValueError: The number is not above 0.
    """
    if rate_limit is None or isinstance(rate_limit, RateLimiter):
        return rate_limit
    if isinstance(rate_limit, bool) or not isinstance(rate_limit, RateLimit | int | float):
        raise TypeError(f"rate_limit={rate_limit!r}: must be calls per second, a RateLimit or a RateLimiter")
    if not isinstance(rate_limit, RateLimit):
        try:
            rate_limit = RateLimit(rate=rate_limit)
        except ValueError as error:
            raise ValueError(f"rate_limit={rate_limit!r}: {error}") from None
    return RateLimiter(rate_limit.rate, rate_limit.burst, rate_limit.max_wait, **who.arguments())


def pick_tokens(
    provider: TokenProvider | EllipsisType | None, base: BaseURL, clock: Clock
) -> TokenProvider | None:
    """Who is asked for credentials: the given provider, none, or the environment for internal hosts alone.

    Raises:
        TypeError: The provider has no ``headers`` method.
        ValueError: The token in the environment cannot be used or read, profile ``production`` has none for
            an internal host, or ``INTERNAL_TOKEN_HOSTS`` holds what is no host name.
    """
    if provider is None:
        return None
    if not isinstance(provider, EllipsisType):
        if not callable(getattr(provider, "headers", None)):
            kind = type(provider).__name__  # whoever gives a token by mistake does not want to read it here
            raise TypeError(f"token_provider of type {kind}: must have a method headers(name)")
        return provider
    check_declared_hosts()
    if not is_internal_host(base.host):
        return None
    environment = EnvToken(clock=clock)
    try:
        token = environment.token()
    except TokenError as error:
        raise ValueError(str(error)) from None
    if token is None and current_profile().secrets_required:
        raise ValueError("INTERNAL_SERVICE_TOKEN is not set, and profile production sends no call without it")
    return environment


def check_timeout(timeout: Any) -> Timeout:
    """A number of seconds, or a ``(connect, read)`` tuple of them.

    Raises:
        TypeError: It is neither.
        ValueError: It is not a finite number above 0.
    """
    if timeout is None:
        raise TypeError(
            "timeout=None: must be a number of seconds; calls without a time-out hang with their service"
        )
    if isinstance(timeout, tuple):
        if len(timeout) != 2:
            raise ValueError(f"timeout={timeout!r}: must be (connect, read)")
        for part in timeout:
            if part is not None:
                require_seconds("timeout", part, zero=False)
        return timeout
    require_seconds("timeout", timeout, zero=False)
    return float(timeout)


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of every request; errors never show a value.

    Raises:
        TypeError: A name or value is no string.
        ValueError: A name or value cannot be sent.
    """
    if headers is not None and not isinstance(headers, Mapping):
        raise TypeError(f"headers of type {type(headers).__name__}: must be a mapping of names to values")
    given = dict(headers or {})
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers: {name!r} and its value must be strings")
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"headers: {name!r} is no header name")
        if value != value.strip() or any(char in value for char in "\r\n\0"):
            raise ValueError(f"headers: the value of {name!r} must not hold line breaks or space around it")
    return given


def check_flags(**flags: Any) -> None:
    """Require each to be True or False.

    Raises:
        TypeError: One of them is neither.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r}: must be True or False")


def check_seconds(**limits: Any) -> None:
    """Require each to be a number of seconds above 0, or None for no limit.

    Raises:
        TypeError: One of them is neither.
        ValueError: One of them is not finite, or not above 0.
    """
    for name, value in limits.items():
        if value is not None:
            require_seconds(name, value, zero=False)


def check_collaborators(*, session: Any, registry: Any, dead_letters: Any) -> None:
    """Require the objects that a client works with to be what they should be, where they are given.

    Raises:
        TypeError: One of them is not.
    """
    if session is not None and not isinstance(session, requests.Session):
        raise TypeError(f"session={session!r}: must be a requests.Session")
    if registry is not None and not isinstance(registry, ServiceRegistry):
        raise TypeError(f"registry={registry!r}: must be a ServiceRegistry")
    if dead_letters is not None and not callable(getattr(dead_letters, "add", None)):
        raise TypeError(f"dead_letters={dead_letters!r}: must have a method add()")
