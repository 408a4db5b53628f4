"""Settings of a service: environment of the service, environment of the process, code, profile."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.config import ServiceConfig
from service_utils.policies.backoff import exponential, fixed
from service_utils.policies.breaker import BreakerConfig
from service_utils.policies.bulkhead import Bulkhead, BulkheadConfig
from service_utils.policies.retry import RetryPolicy
from service_utils.profiles import PROFILES

URL = "http://chroma:6003"


def gathered(environ: dict[str, str] | None = None, **defaults: Any) -> ServiceConfig:
    defaults.setdefault("default_url", URL)
    return ServiceConfig.from_env("CHROMA", environ=environ or {}, **defaults)


def values(config: ServiceConfig) -> dict[str, Any]:
    """The five settings that have a place on every step of the ladder, or on most."""
    return {
        "timeout": config.timeout,
        "max_retries": config.retry.max_attempts,
        "failure_threshold": config.breaker.failure_threshold,
        "recovery_timeout": config.breaker.recovery_timeout,
    }


LADDER = [
    # setting, variable of the service, variable of the process
    ("timeout", "CHROMA_TIMEOUT", "API_TIMEOUT"),
    ("max_retries", "CHROMA_MAX_RETRIES", "API_RETRY_MAX"),
    ("failure_threshold", "CHROMA_FAILURE_THRESHOLD", "CIRCUIT_BREAKER_FAILURE_THRESHOLD"),
    ("recovery_timeout", "CHROMA_RECOVERY_TIMEOUT", "CIRCUIT_BREAKER_TIMEOUT"),
]
every_setting = pytest.mark.parametrize(("setting", "own", "common"), LADDER)


@every_setting
def test_order_of_precedence(setting: str, own: str, common: str) -> None:
    """The service's variable wins over the process's, that over the code, and that over the profile."""
    profile = getattr(PROFILES["development"], setting)
    assert values(gathered())[setting] == profile
    code: dict[str, Any] = {setting: 7}
    assert values(gathered(**code))[setting] == 7
    assert values(gathered({common: "8"}, **code))[setting] == 8
    assert values(gathered({own: "9", common: "8"}, **code))[setting] == 9
    assert values(gathered({own: "9"}))[setting] == 9


@every_setting
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_is_unset(setting: str, own: str, common: str, empty: str) -> None:
    """An empty variable leaves the next step to decide."""
    assert values(gathered({own: empty, common: "8"}))[setting] == 8
    assert values(gathered({own: empty, common: empty}, **{setting: 7}))[setting] == 7
    assert values(gathered({own: empty}))[setting] == getattr(PROFILES["development"], setting)


@every_setting
def test_one_setting_leaves_the_others_alone(setting: str, own: str, common: str) -> None:
    """Each variable says one thing."""
    for variable in (own, common):
        changed = values(gathered({variable: "9"}))
        assert {**changed, setting: None} == {**values(gathered()), setting: None}


@every_setting
def test_bad_values_are_named(setting: str, own: str, common: str) -> None:
    """A value that cannot be used is an error with the variable and the value in it."""
    for variable in (own, common):
        for value in ("ten", "0", "-1", "1,5", "5s", "nan", "inf", "1e999"):
            with pytest.raises(ValueError, match=f"^{variable}='{value}': must be"):
                gathered({variable: value})


@pytest.mark.parametrize(
    "variable",
    [
        "CHROMA_MAX_RETRIES",
        "API_RETRY_MAX",
        "CHROMA_FAILURE_THRESHOLD",
        "CIRCUIT_BREAKER_FAILURE_THRESHOLD",
    ],
)
@pytest.mark.parametrize("value", ["2.5", "3.0", "1e1", "+5", "٣", "9" * 30])
def test_numbers_of_calls_are_whole(variable: str, value: str) -> None:
    """Counts are plain whole numbers."""
    with pytest.raises(ValueError, match=variable):
        gathered({variable: value})


def test_times_may_have_fractions() -> None:
    """Times are seconds, with or without a fraction."""
    config = gathered(
        {"CHROMA_TIMEOUT": " 2.5 ", "CHROMA_RECOVERY_TIMEOUT": "0.25", "CHROMA_DEADLINE": "1e1"}
    )
    assert (config.timeout, config.breaker.recovery_timeout, config.deadline) == (2.5, 0.25, 10.0)


def test_deadline() -> None:
    """The deadline of a whole call comes from the service's variable or the code, else there is none."""
    assert gathered().deadline is None
    assert gathered(deadline=20).deadline == 20
    assert gathered({"CHROMA_DEADLINE": "9"}, deadline=20).deadline == 9.0
    with pytest.raises(ValueError, match="CHROMA_DEADLINE='soon'"):
        gathered({"CHROMA_DEADLINE": "soon"})


def test_base_delay() -> None:
    """API_RETRY_BASE_DELAY is the first delay of every service; 0 means no waiting."""
    assert gathered().retry.backoff == exponential(base=PROFILES["development"].retry_base_delay)
    assert gathered({"API_RETRY_BASE_DELAY": "2"}).retry.backoff == exponential(base=2)
    assert gathered({"API_RETRY_BASE_DELAY": "0"}).retry.backoff == exponential(base=0)
    with pytest.raises(ValueError, match="API_RETRY_BASE_DELAY='fast'"):
        gathered({"API_RETRY_BASE_DELAY": "fast"})


def test_address() -> None:
    """The address comes from the environment, else from the code."""
    assert gathered().base_url == URL
    assert gathered({"CHROMA_SERVER_URL": "https://other/api"}).base_url == "https://other/api"
    assert gathered({"CHROMA_SERVER_URL": " "}).base_url == URL


def test_no_address() -> None:
    """Without any address the error says which variable would give one."""
    with pytest.raises(ValueError, match="CHROMA_SERVER_URL is not set"):
        ServiceConfig.from_env("CHROMA", environ={})
    with pytest.raises(ValueError, match="default_url=''"):
        gathered(default_url="")


def test_names() -> None:
    """Display name and short name come from the prefix unless they are given."""
    config = ServiceConfig.from_env("LLM_FALLBACK", default_url=URL, environ={})
    assert (config.service_name, config.name) == ("Llm Fallback", "llm_fallback")
    config = gathered(service_name="Chroma Server", name="vectors")
    assert (config.service_name, config.name) == ("Chroma Server", "vectors")


@pytest.mark.parametrize("prefix", ["", "chroma", "9LIVES", "CHROMA-DB", "CHROMA ", None, 5])
def test_bad_prefix(prefix: Any) -> None:
    """A prefix is what a variable's name can begin with."""
    with pytest.raises(ValueError, match="prefix="):
        ServiceConfig.from_env(prefix, default_url=URL, environ={})


def test_policies_in_code_keep_what_the_environment_does_not_say() -> None:
    """A variable changes one field of a policy that the code gives; the rest stays."""
    retry = RetryPolicy(max_attempts=7, backoff=fixed(0.5), jitter=0.1, raise_on_status=False)
    breaker = BreakerConfig(failure_threshold=7, success_threshold=3, recovery_timeout=70)
    config = gathered(
        {"CHROMA_MAX_RETRIES": "2", "CIRCUIT_BREAKER_TIMEOUT": "9"}, retry=retry, breaker=breaker
    )
    assert config.retry.max_attempts == 2
    assert (config.retry.backoff, config.retry.jitter, config.retry.raise_on_status) == (
        fixed(0.5),
        0.1,
        False,
    )
    assert config.breaker == dataclasses.replace(breaker, recovery_timeout=9.0)


def test_policies_in_code_are_taken_as_they_are() -> None:
    """Where the environment says nothing the very policy objects of the code are used."""
    retry, breaker = RetryPolicy(max_attempts=7), BreakerConfig(failure_threshold=7)
    config = gathered(retry=retry, breaker=breaker)
    assert config.retry is retry
    assert config.breaker is breaker


@pytest.mark.parametrize(
    ("plain", "policy"),
    [
        ({"max_retries": 3}, {"retry": RetryPolicy()}),
        ({"failure_threshold": 3}, {"breaker": BreakerConfig()}),
        ({"recovery_timeout": 3}, {"breaker": BreakerConfig()}),
    ],
)
def test_plain_argument_beside_its_policy(plain: dict[str, Any], policy: dict[str, Any]) -> None:
    """A plain argument and the policy that replaces it cannot stand together."""
    with pytest.raises(ValueError, match=f"{next(iter(plain))}=3"):
        gathered(**plain, **policy)


def test_a_bulkhead_from_the_environment() -> None:
    """<PREFIX>_MAX_CONCURRENT says how many calls may be under way at once, or words for it."""
    variable = "CHROMA_MAX_CONCURRENT"
    assert gathered({variable: "5"}).options["bulkhead"] == 5
    assert gathered({variable: "AUTO"}).options["bulkhead"] == "auto"
    assert gathered({variable: "off"}, bulkhead=7).options["bulkhead"] is None
    assert gathered({}, bulkhead=7).options["bulkhead"] == 7
    assert "bulkhead" not in gathered({}).options


@pytest.mark.parametrize("bulkhead", [BulkheadConfig(max_concurrent=9, max_wait=0.5), Bulkhead(9, 0.5)])
def test_the_environment_sets_the_slots_alone(bulkhead: Any) -> None:
    """How long to wait for a slot stays what the code says."""
    found = gathered({"CHROMA_MAX_CONCURRENT": "5"}, bulkhead=bulkhead).options["bulkhead"]
    assert found == BulkheadConfig(max_concurrent=5, max_wait=0.5)
    found = gathered({"CHROMA_MAX_CONCURRENT": "auto"}, bulkhead=bulkhead, pool_maxsize=7).options["bulkhead"]
    assert found == BulkheadConfig(max_concurrent=7, max_wait=0.5)


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many", "1e3"])
def test_a_number_of_slots_that_is_none(text: str) -> None:
    """A limit that cannot be kept is refused by variable and value."""
    with pytest.raises(ValueError, match=f"CHROMA_MAX_CONCURRENT='{text}'"):
        gathered({"CHROMA_MAX_CONCURRENT": text})


def test_further_options_come_through() -> None:
    """Whatever else the code gives goes to the client as it is."""
    options = gathered(headers={"X-A": "1"}, pool_maxsize=5, timeout=3).options
    assert options == {"headers": {"X-A": "1"}, "pool_maxsize": 5}


def test_tuple_of_timeouts() -> None:
    """The code may give (connect, read); a variable replaces both."""
    assert gathered(timeout=(1, 5)).timeout == (1, 5)
    assert gathered({"API_TIMEOUT": "4"}, timeout=(1, 5)).timeout == 4.0


@pytest.mark.parametrize("name", list(PROFILES))
def test_profiles(name: str) -> None:
    """Where neither environment nor code speaks, the profile does."""
    config, profile = gathered({"SERVICE_UTILS_PROFILE": name}), PROFILES[name]
    assert values(config) == {
        "timeout": profile.timeout,
        "max_retries": profile.max_retries,
        "failure_threshold": profile.failure_threshold,
        "recovery_timeout": profile.recovery_timeout,
    }
    assert config.retry.backoff == exponential(base=profile.retry_base_delay)


def test_client_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client made by from_env() has its settings from the environment of the process."""
    monkeypatch.setenv("CHROMA_SERVER_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("CHROMA_TIMEOUT", "4")
    monkeypatch.setenv("CHROMA_MAX_RETRIES", "6")
    monkeypatch.setenv("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "8")
    registry = ServiceRegistry()
    with ResilientServiceClient.from_env(
        "CHROMA", default_url=URL, service_name="Chroma Server", registry=registry, recovery_timeout=33
    ) as client:
        assert registry.get("chroma") is client
        assert (client.base_url, client.service_name) == ("http://127.0.0.1:9/api", "Chroma Server")
        assert (client.timeout, client.retry.max_attempts) == (4.0, 6)
        limits = client.breaker.config
        assert (limits.failure_threshold, limits.recovery_timeout) == (8, 33)
