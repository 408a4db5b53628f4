"""What the backend is told from outside: its settings, and the declared table of the services it calls.

Every setting has the name of its environment variable. ``create_app(config)`` takes the same names in a
mapping, and what stands there wins over the environment.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service_utils.http.urls import BaseURL

__all__ = [
    "LLM_SERVERS",
    "MAX_CONCURRENT",
    "MAX_WAIT",
    "SERVICES",
    "LLMServer",
    "LLMSettings",
    "ServiceDefaults",
    "Settings",
]

MAX_CONCURRENT = 8
MAX_WAIT = 0.5

_CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefaults:
    """How the client of one service is built when the environment says nothing. Times are seconds.

    Attributes:
        prefix: Of its environment variables: ``CHROMA`` for ``CHROMA_SERVER_URL``, ``CHROMA_TIMEOUT``…
        title: Its display name, as in log lines.
        port: Of the local service, on 127.0.0.1.
        max_retries: Attempts of a call.
        timeout: Of one attempt.
        deadline: Of a whole call: short enough that a slow service leaves a request time for the others.
        failure_threshold: Consecutive failed calls that open the circuit.
        recovery_timeout: How long it stays open.
        max_concurrent: Calls under way at once from all workers together, so that a service that hangs holds
            no more of their threads than that.
        max_wait: How long a call waits for one of these places.
    """

    prefix: str
    title: str
    port: int
    max_retries: int
    timeout: float
    deadline: float
    failure_threshold: int
    recovery_timeout: float
    max_concurrent: int = MAX_CONCURRENT
    max_wait: float = MAX_WAIT

    @property
    def name(self) -> str:
        """The short name: ``chroma``."""
        return self.prefix.lower()

    @property
    def default_url(self) -> str:
        """Where the local service listens."""
        return f"http://127.0.0.1:{self.port}"


SERVICES = (
    ServiceDefaults(
        prefix="CHROMA",
        title="Chroma Server",
        port=6003,
        max_retries=3,
        timeout=15.0,
        deadline=8.0,
        failure_threshold=5,
        recovery_timeout=60.0,
    ),
    ServiceDefaults(
        prefix="FILESYSTEM",
        title="Filesystem Server",
        port=6002,
        max_retries=3,
        timeout=20.0,
        deadline=8.0,
        failure_threshold=5,
        recovery_timeout=60.0,
    ),
    ServiceDefaults(
        prefix="BILLING",
        title="Billing Server",
        port=6004,
        max_retries=2,
        timeout=5.0,
        deadline=6.0,
        failure_threshold=10,
        recovery_timeout=30.0,
    ),
    ServiceDefaults(
        prefix="GIT",
        title="Git Server",
        port=6005,
        max_retries=3,
        timeout=30.0,
        deadline=10.0,
        failure_threshold=5,
        recovery_timeout=90.0,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMServer:
    """One place of the LLM chain: where its settings come from.

    Attributes:
        prefix: Of the client's environment variables.
        title: Display name.
        url: Variable of the base URL, the part before ``/chat/completions``.
        model: Variable of the model's name.
        api_key: Variable of the bearer key.
    """

    prefix: str
    title: str
    url: str
    model: str
    api_key: str


LLM_SERVERS = (
    LLMServer(
        prefix="LLM", title="LLM Server", url="LLM_SERVER_URL", model="LLM_MODEL", api_key="LLM_API_KEY"
    ),
    LLMServer(
        prefix="LLM_FALLBACK",
        title="Fallback LLM Server",
        url="LLM_FALLBACK_URL",
        model="LLM_FALLBACK_MODEL",
        api_key="LLM_FALLBACK_API_KEY",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMSettings:
    """One configured LLM server.

    Attributes:
        server: Which place of the chain it takes.
        url: Base URL.
        model: Name of the model.
        api_key: Bearer key, or None for a server that asks for none.
    """

    server: LLMServer
    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The backend's own settings. Money is in integer micro-units of the currency (1 USD = 1,000,000).

    Attributes:
        var_dir: ``VAR_DIR``: where data are kept.
        workers: ``WEB_CONCURRENCY``: the processes among which the places of ``max_concurrent`` are shared.
        max_body_bytes: ``MAX_BODY_BYTES``: largest request body.
        background: ``BACKGROUND_WORK``: whether this process works off dead letters and watches the level of
            degradation.
        chat_max_requests: ``CHAT_MAX_REQUESTS``: chat requests under way at once in one process.
        documents_max_requests: ``DOCUMENTS_MAX_REQUESTS``: the same for uploads.
        request_deadline: ``REQUEST_DEADLINE``: seconds each request has.
        auth_jwt_secret: ``AUTH_JWT_SECRET``: HS256 secret of the users' tokens.
        auth_jwt_public_key: ``AUTH_JWT_PUBLIC_KEY``: instead of a secret, a PEM or the path of one.
        auth_jwt_audience: ``AUTH_JWT_AUDIENCE``: the ``aud`` the tokens must carry, if any.
        auth_jwt_issuer: ``AUTH_JWT_ISSUER``: the ``iss`` the tokens must carry, if any.
        llms: The LLM servers that have a URL, in the order in which they are asked.
        chat_reserve: ``CHAT_RESERVE``: what a chat message may cost at most; reserved before the answer is
            made.
        chat_base_price: ``CHAT_BASE_PRICE``: what each answer costs.
        chat_price_per_1k_tokens: ``CHAT_PRICE_PER_1K_TOKENS``: what an LLM's answer costs on top of that.
        chat_currency: ``CHAT_CURRENCY``: three capital letters.
    """

    var_dir: Path = Path("var")
    workers: int = 1
    max_body_bytes: int = 2**20
    background: bool = True
    chat_max_requests: int = 12
    documents_max_requests: int = 12
    request_deadline: float = 25.0
    auth_jwt_secret: str | None = field(default=None, repr=False)
    auth_jwt_public_key: str | None = field(default=None, repr=False)
    auth_jwt_audience: str | None = None
    auth_jwt_issuer: str | None = None
    llms: tuple[LLMSettings, ...] = ()
    chat_reserve: int = 50_000
    chat_base_price: int = 100
    chat_price_per_1k_tokens: int = 2_000
    chat_currency: str = "USD"

    def __post_init__(self) -> None:
        if not _CURRENCY.fullmatch(self.chat_currency):
            raise ValueError(f"CHAT_CURRENCY={self.chat_currency!r}: must be three capital letters")
        if self.chat_base_price > self.chat_reserve:
            raise ValueError(
                f"CHAT_BASE_PRICE={self.chat_base_price}: is more than CHAT_RESERVE={self.chat_reserve}"
            )

    @classmethod
    def load(cls, config: Mapping[str, Any] | None = None) -> Settings:
        """The settings of the environment, overridden by those in ``config``.

        Raises:
            ValueError: A value is no good; the message names the variable, and the value unless it is a
                secret.
        """
        values = {**os.environ, **(config or {})}
        given = {
            name: read(variable, values[variable])
            for name, (variable, read) in _READERS.items()
            if values.get(variable) not in (None, "")
        }
        return cls(llms=_llms(values), **given)


def _llms(values: Mapping[str, Any]) -> tuple[LLMSettings, ...]:
    return tuple(
        LLMSettings(
            server=server,
            url=_address(server.url, values[server.url]),
            model=_text(server.model, values.get(server.model) or "default"),
            api_key=_text(server.api_key, values[server.api_key]) if values.get(server.api_key) else None,
        )
        for server in LLM_SERVERS
        if values.get(server.url)
    )


def _text(variable: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{variable}: must be text, not {type(value).__name__}")
    return value.strip()


def _address(variable: str, value: Any) -> str:
    url = _text(variable, value)
    BaseURL.parse(url, what=variable)
    return url


def _folder(variable: str, value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(variable, value))


_LARGEST = 2**53 - 1  # what every reader of JSON takes for the same number, and what Billing takes at all


def _whole(variable: str, value: Any, *, least: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if not least <= number <= _LARGEST:
        raise ValueError(f"{variable}={value!r}: must be a whole number, at least {least} and below 2**53")
    return number


def _positive(variable: str, value: Any) -> int:
    return _whole(variable, value, least=1)


def _not_negative(variable: str, value: Any) -> int:
    return _whole(variable, value, least=0)


def _seconds(variable: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"{variable}={value!r}: must be a number of seconds above 0")
    return seconds


_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _switch(variable: str, value: Any) -> bool:
    try:
        return _WORDS[str(value).strip().lower()]
    except KeyError:
        raise ValueError(f"{variable}={value!r}: must be true or false") from None


_READERS: Mapping[str, tuple[str, Callable[[str, Any], Any]]] = {
    "var_dir": ("VAR_DIR", _folder),
    "workers": ("WEB_CONCURRENCY", _positive),
    "max_body_bytes": ("MAX_BODY_BYTES", _positive),
    "background": ("BACKGROUND_WORK", _switch),
    "chat_max_requests": ("CHAT_MAX_REQUESTS", _positive),
    "documents_max_requests": ("DOCUMENTS_MAX_REQUESTS", _positive),
    "request_deadline": ("REQUEST_DEADLINE", _seconds),
    "auth_jwt_secret": ("AUTH_JWT_SECRET", _text),
    "auth_jwt_public_key": ("AUTH_JWT_PUBLIC_KEY", _text),
    "auth_jwt_audience": ("AUTH_JWT_AUDIENCE", _text),
    "auth_jwt_issuer": ("AUTH_JWT_ISSUER", _text),
    "chat_reserve": ("CHAT_RESERVE", _positive),
    "chat_base_price": ("CHAT_BASE_PRICE", _positive),
    "chat_price_per_1k_tokens": ("CHAT_PRICE_PER_1K_TOKENS", _not_negative),
    "chat_currency": ("CHAT_CURRENCY", _text),
}
