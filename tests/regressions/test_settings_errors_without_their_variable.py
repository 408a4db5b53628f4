"""Some bad settings were found late or by another name; some were read from the wrong place."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.config import ServiceConfig
from service_utils.policies.backoff import exponential
from service_utils.policies.breaker import BreakerConfig


def gathered(environ: dict[str, str], **defaults: Any) -> ServiceConfig:
    defaults.setdefault("default_url", "http://chroma:6003")
    return ServiceConfig.from_env("CHROMA", environ=environ, **defaults)


@pytest.mark.parametrize("url", ["chroma:6003", "ftp://chroma", "http://chroma/?a=1", "http://chroma:x"])
def test_bad_address(url: str) -> None:
    """A bad address in the environment is named by its variable."""
    with pytest.raises(ValueError, match=r"CHROMA_SERVER_URL='.+'"):
        gathered({"CHROMA_SERVER_URL": url})


def test_variable_that_does_not_go_with_the_code() -> None:
    """A value that is good in itself but not together with the code's limits is named by its variable."""
    limits = BreakerConfig(recovery_timeout=10, max_recovery_timeout=60)
    with pytest.raises(ValueError, match="CHROMA_RECOVERY_TIMEOUT='120': max_recovery_timeout=60"):
        gathered({"CHROMA_RECOVERY_TIMEOUT": "120"}, breaker=limits)
    with pytest.raises(ValueError, match="CIRCUIT_BREAKER_TIMEOUT='90': max_recovery_timeout=60"):
        gathered({"CIRCUIT_BREAKER_TIMEOUT": "90"}, breaker=limits)


@pytest.mark.parametrize("argument", ["retry", "breaker"])
def test_policy_of_a_wrong_type(argument: str) -> None:
    """A policy that is none is named by its argument."""
    with pytest.raises(TypeError, match=f"{argument}=5"):
        gathered({}, **{argument: 5})


def test_bad_number_of_attempts_in_code() -> None:
    """The argument is named as the caller wrote it."""
    with pytest.raises(ValueError, match="max_retries=0"):
        gathered({}, max_retries=0)


def test_profile_of_the_given_environment() -> None:
    """The profile is read where all other variables are."""
    assert gathered({"SERVICE_UTILS_PROFILE": "production"}).timeout == 15.0


def test_base_delay_above_the_usual_longest_delay() -> None:
    """A first delay that is asked for is the first delay, however long."""
    assert gathered({"API_RETRY_BASE_DELAY": "45"}).retry.backoff == exponential(base=45, cap=45)


def test_secrets_in_the_repr() -> None:
    """Settings print without the credentials that are among them."""
    config = gathered({"CHROMA_SERVER_URL": "http://u:s3cret@chroma"}, headers={"X-Key": "s3cret"})
    assert "s3cret" not in repr(config)
