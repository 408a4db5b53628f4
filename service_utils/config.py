"""Settings: from the environment, the code and the profile, in this order of precedence.

``ServiceConfig.from_env("CHROMA", …)`` looks for each setting in ``CHROMA_<SETTING>``, then in the variable
that holds for all services of the process, then in the arguments of the code, then in the profile.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from service_utils.policies.backoff import exponential
from service_utils.policies.breaker import BreakerConfig
from service_utils.policies.retry import RetryPolicy
from service_utils.profiles import PROFILES, Profile, current_profile

__all__ = ["PROFILES", "Profile", "ServiceConfig", "current_profile"]

T = TypeVar("T")

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

    base_url: str
    service_name: str
    name: str
    timeout: float | tuple[float, float]
    deadline: float | None
    retry: RetryPolicy
    breaker: BreakerConfig
    options: Mapping[str, Any]

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
            ValueError: A variable has a value that cannot be used (the message names it), there is no URL, or
                a plain argument stands beside the policy object that replaces it.
        """
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix={prefix!r}: must be upper-case letters, digits and underscores")
        _refuse_pairs(defaults)
        env = _Environment(os.environ if environ is None else environ, prefix)
        profile = current_profile()
        base_url = env.text("SERVER_URL") or default_url
        if base_url is None:
            raise ValueError(f"{prefix}_SERVER_URL is not set, and there is no default_url")
        timeout = env.number("TIMEOUT", "API_TIMEOUT")
        deadline = env.number("DEADLINE", None)
        if env.text("MAX_CONCURRENT"):
            raise ValueError(
                f"{prefix}_MAX_CONCURRENT={env.text('MAX_CONCURRENT')!r}: bulkheads are not in this version"
            )
        return cls(
            base_url=base_url,
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
        self._prefix = prefix

    def text(self, setting: str) -> str | None:
        return self._environ.get(f"{self._prefix}_{setting}", "").strip() or None

    def number(self, setting: str, common: str | None) -> float | None:
        return self._parsed((f"{self._prefix}_{setting}", common), _seconds)

    def count(self, setting: str, common: str) -> int | None:
        return self._parsed((f"{self._prefix}_{setting}", common), _count)

    def common_number(self, variable: str) -> float | None:
        return self._parsed((variable,), _seconds_or_none)

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


def _retry(env: _Environment, defaults: dict[str, Any], profile: Profile) -> RetryPolicy:
    attempts = env.count("MAX_RETRIES", "API_RETRY_MAX")
    base = env.common_number("API_RETRY_BASE_DELAY")
    given: RetryPolicy | None = defaults.pop("retry", None)
    in_code = defaults.pop("max_retries", profile.max_retries)
    if given is None:
        return RetryPolicy(
            max_attempts=in_code if attempts is None else attempts,
            backoff=exponential(base=profile.retry_base_delay if base is None else base),
        )
    changes: dict[str, Any] = {} if attempts is None else {"max_attempts": attempts}
    if base is not None:
        changes["backoff"] = exponential(base=base)
    return dataclasses.replace(given, **changes)


def _breaker(env: _Environment, defaults: dict[str, Any], profile: Profile) -> BreakerConfig:
    threshold = env.count("FAILURE_THRESHOLD", "CIRCUIT_BREAKER_FAILURE_THRESHOLD")
    recovery = env.number("RECOVERY_TIMEOUT", "CIRCUIT_BREAKER_TIMEOUT")
    given: BreakerConfig | None = defaults.pop("breaker", None)
    in_code = {
        "failure_threshold": defaults.pop("failure_threshold", profile.failure_threshold),
        "recovery_timeout": defaults.pop("recovery_timeout", profile.recovery_timeout),
    }
    changes: dict[str, Any] = {}
    if threshold is not None:
        changes["failure_threshold"] = threshold
    if recovery is not None:
        changes["recovery_timeout"] = recovery
    if given is None:
        return BreakerConfig(**{**in_code, **changes})
    return dataclasses.replace(given, **changes)
