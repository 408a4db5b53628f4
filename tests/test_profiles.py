"""Profiles: the defaults of development, testing and production."""

from __future__ import annotations

import dataclasses

import pytest

from service_utils.profiles import PROFILES, current_profile


def test_development_by_default() -> None:
    """Without a setting the profile is development."""
    assert current_profile().name == "development"


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_is_no_setting(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An empty variable is as good as none."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", text)
    assert current_profile().name == "development"


@pytest.mark.parametrize("name", ["development", "testing", "production"])
def test_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each profile goes by its name, however it is written."""
    for text in (name, name.upper(), f" {name.title()} "):
        monkeypatch.setenv("SERVICE_UTILS_PROFILE", text)
        assert current_profile() is PROFILES[name]


def test_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that is none is an error that names the variable, the value and the choice."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "prod")
    with pytest.raises(ValueError, match=r"SERVICE_UTILS_PROFILE='prod': .*development, testing, production"):
        current_profile()


def test_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping may stand in for the environment of the process."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "testing")
    assert current_profile({"SERVICE_UTILS_PROFILE": "production"}).name == "production"
    assert current_profile({}).name == "development"


def test_only_production_asks_for_secrets() -> None:
    """In production a missing secret is an error, elsewhere a warning."""
    assert [name for name, profile in PROFILES.items() if profile.secrets_required] == ["production"]


def test_testing_does_not_wait() -> None:
    """The profile for tests makes one retry and waits milliseconds."""
    profile = PROFILES["testing"]
    assert profile.max_retries == 2
    assert profile.retry_base_delay <= 0.01
    assert profile.recovery_timeout <= 0.1


def test_production_is_the_more_patient() -> None:
    """Production has longer time-outs and opens circuits more reluctantly than development."""
    development, production = PROFILES["development"], PROFILES["production"]
    assert production.timeout > development.timeout
    assert production.recovery_timeout > development.recovery_timeout
    assert production.failure_threshold >= development.failure_threshold


def test_profiles_cannot_be_changed() -> None:
    """A profile is a value that all clients share."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        current_profile().timeout = 1.0  # type: ignore[misc]
