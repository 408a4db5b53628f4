"""Settings: from the environment, the code and the profile, in this order of precedence.

``ServiceConfig.from_env("CHROMA", …)`` looks for each setting in ``CHROMA_<SETTING>``, then in the variable
that holds for all services of the process, then in the arguments of the code, then in the profile.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from service_utils.http.pool import POOL_MAXSIZE
from service_utils.http.urls import BaseURL
from service_utils.policies.backoff import Backoff, exponential
from service_utils.policies.breaker import BreakerConfig
from service_utils.policies.bulkhead import Bulkhead, BulkheadConfig
from service_utils.policies.checks import require_count
from service_utils.policies.retry import RetryPolicy
from service_utils.profiles import PROFILES, Profile, current_profile

__all__ = ["PROFILES", "Profile", "ServiceConfig", "current_profile"]

T = TypeVar("T")

_LONGEST_DELAY = 30.0  # seconds that back-off grows to, unless it begins above
_AUTO, _OFF = "auto", "off"  # words for a bulkhead
_PREFIX = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """What a client needs to know about one service, all settled.

    Attributes:
        base_url: Where it is.
        service_name: Display name.
        name: Short name.
        timeout: Seconds of one attempt, or ``(connect, read)``.
        deadline: Seconds of a whole call, or None.
        retry: The retry policy.
        breaker: The circuit breaker's limits.
        options: Further arguments of the client, as they were given.
    """

    base_url: str = field(repr=False)  # may hold a password
    service_name: str
    name: str
    timeout: float | tuple[float, float]
    deadline: float | None
    retry: RetryPolicy
    breaker: BreakerConfig
    options: Mapping[str, Any] = field(repr=False)  # may hold credentials

    @classmethod
    def from_env(
        cls,
        prefix: str,
        *,
        default_url: str | None = None,
        service_name: str | None = None,
        environ: Mapping[str, str] | None = None,
        **defaults: Any,
    ) -> Self:
        """Gather the settings of one service.

        Args:
            prefix: Of its variables, such as ``CHROMA``; in lower case it is the client's short name.
            default_url: Where the service is when ``<PREFIX>_SERVER_URL`` does not say.
            service_name: Display name; default: the prefix as a title.
            environ: In place of ``os.environ``.
            **defaults: Arguments of the client, taken where the environment is silent.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: A variable has a value that cannot be used (the message names it), there is no URL, or
                a plain argument stands beside the policy object that replaces it.
        """
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix={prefix!r}: must be upper-case letters, digits and underscores")
        _refuse_pairs(defaults)
        env = _Environment(os.environ if environ is None else environ, prefix)
        profile = current_profile(environ)
        timeout = env.number("TIMEOUT", "API_TIMEOUT")
        deadline = env.number("DEADLINE", None)
        bulkhead = env.slots("MAX_CONCURRENT")
        if bulkhead is not None:
            pool_maxsize = defaults.get("pool_maxsize", POOL_MAXSIZE)
            defaults["bulkhead"] = _bulkhead(bulkhead, defaults.get("bulkhead"), pool_maxsize)
        return cls(
            base_url=_base_url(env, default_url),
            service_name=service_name or prefix.replace("_", " ").title(),
            name=defaults.pop("name", None) or prefix.lower(),
            timeout=defaults.pop("timeout", profile.timeout)
            if timeout is None
            else _drop(defaults, "timeout", timeout),
            deadline=defaults.pop("deadline", None)
            if deadline is None
            else _drop(defaults, "deadline", deadline),
            retry=_retry(env, defaults, profile),
            breaker=_breaker(env, defaults, profile),
            options=defaults,
        )


class _Environment:
    """Reads the variables of one service; an empty one counts as unset."""

    def __init__(self, environ: Mapping[str, str], prefix: str) -> None:
        self._environ = environ
        self.prefix = prefix

    def text(self, setting: str) -> str | None:
        return self._environ.get(f"{self.prefix}_{setting}", "").strip() or None

    def number(self, setting: str, common: str | None) -> float | None:
        return self._parsed((f"{self.prefix}_{setting}", common), _seconds)

    def count(self, setting: str, common: str) -> int | None:
        return self._parsed((f"{self.prefix}_{setting}", common), _count)

    def slots(self, setting: str) -> int | str | None:
        return self._parsed((f"{self.prefix}_{setting}",), _slots)

    def common_number(self, variable: str) -> float | None:
        return self._parsed((variable,), _seconds_or_none)

    def named(self, setting: str, common: str) -> str:
        """The variable that :meth:`number` or :meth:`count` took its value from, with what it says."""
        own = f"{self.prefix}_{setting}"
        variable = own if self._environ.get(own, "").strip() else common
        return f"{variable}={self._environ.get(variable, '').strip()!r}"

    def _parsed(self, variables: tuple[str | None, ...], parse: Callable[[str], T]) -> T | None:
        for variable in variables:
            text = self._environ.get(variable, "").strip() if variable else ""
            if text:
                try:
                    return parse(text)
                except ValueError as error:
                    raise ValueError(f"{variable}={text!r}: {error}") from None
        return None


def _seconds(text: str) -> float:
    seconds = _seconds_or_none(text)
    if seconds == 0:
        raise ValueError("must be more than 0 seconds")
    return seconds


def _seconds_or_none(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError("must be a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError("must be a finite number of seconds >= 0")
    return seconds


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ValueError("must be a whole number >= 1")
    return int(text)


def _slots(text: str) -> int | str:
    word = text.lower()
    if word in (_AUTO, _OFF):
        return word
    try:
        return _count(text)
    except ValueError:
        raise ValueError(f"must be a whole number >= 1, {_AUTO!r} or {_OFF!r}") from None


def _base_url(env: _Environment, default_url: str | None) -> str:
    what, url = f"{env.prefix}_SERVER_URL", env.text("SERVER_URL")
    if url is None:
        if default_url is None:
            raise ValueError(f"{what} is not set, and there is no default_url")
        what, url = "default_url", default_url
    BaseURL.parse(url, what=what)
    return url


def _drop(defaults: dict[str, Any], key: str, value: T) -> T:
    defaults.pop(key, None)
    return value


def _refuse_pairs(defaults: Mapping[str, Any]) -> None:
    for policy, plain in (
        ("retry", ("max_retries",)),
        ("breaker", ("failure_threshold", "recovery_timeout")),
    ):
        for name in plain:
            if defaults.get(policy) is not None and name in defaults:
                raise ValueError(f"{name}={defaults[name]!r}: give it in {policy}=, which replaces it")


def _bulkhead(found: int | str, in_code: Any, pool_maxsize: Any) -> Any:
    """The client's argument: as many slots as the environment says, the rest as the code has it."""
    if found == _OFF:
        return None
    if isinstance(in_code, Bulkhead | BulkheadConfig):
        config = in_code.config if isinstance(in_code, Bulkhead) else in_code
        slots = found if isinstance(found, int) else pool_maxsize
        return dataclasses.replace(config, max_concurrent=slots)
    return found


def _retry(env: _Environment, defaults: dict[str, Any], profile: Profile) -> RetryPolicy:
    changes: dict[str, Any] = {}
    attempts = env.count("MAX_RETRIES", "API_RETRY_MAX")
    if attempts is not None:
        changes["max_attempts"] = attempts
    base = env.common_number("API_RETRY_BASE_DELAY")
    if base is not None:
        changes["backoff"] = _backoff(base)
    given = defaults.pop("retry", None)
    in_code = defaults.pop("max_retries", profile.max_retries)
    if given is None:
        require_count("max_retries", in_code)
        given = RetryPolicy(max_attempts=in_code, backoff=_backoff(profile.retry_base_delay))
    elif not isinstance(given, RetryPolicy):
        raise TypeError(f"retry={given!r}: must be a RetryPolicy")
    return dataclasses.replace(given, **changes) if changes else given


def _backoff(base: float) -> Backoff:
    return exponential(base=base, cap=max(base, _LONGEST_DELAY))


def _breaker(env: _Environment, defaults: dict[str, Any], profile: Profile) -> BreakerConfig:
    changes: dict[str, Any] = {}
    threshold = env.count("FAILURE_THRESHOLD", "CIRCUIT_BREAKER_FAILURE_THRESHOLD")
    if threshold is not None:
        changes["failure_threshold"] = threshold
    recovery = env.number("RECOVERY_TIMEOUT", "CIRCUIT_BREAKER_TIMEOUT")
    if recovery is not None:
        changes["recovery_timeout"] = recovery
    given = defaults.pop("breaker", None)
    in_code = {
        "failure_threshold": defaults.pop("failure_threshold", profile.failure_threshold),
        "recovery_timeout": defaults.pop("recovery_timeout", profile.recovery_timeout),
    }
    if given is None:
        given = BreakerConfig(**in_code)
    elif not isinstance(given, BreakerConfig):
        raise TypeError(f"breaker={given!r}: must be a BreakerConfig")
    try:
        return dataclasses.replace(given, **changes) if changes else given
    except ValueError as error:  # the variable does not go with another field of the code's
        raise ValueError(f"{env.named('RECOVERY_TIMEOUT', 'CIRCUIT_BREAKER_TIMEOUT')}: {error}") from None
