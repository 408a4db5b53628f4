"""The backend's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.config import Settings


def test_defaults() -> None:
    """Without any setting the documented values are in force."""
    settings = Settings.load()

    assert (settings.var_dir, settings.max_body_bytes, settings.request_deadline) == (
        Path("var"),
        2**20,
        25.0,
    )
    assert settings.llms == ()


def test_config_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code says wins; an empty variable counts as unset."""
    monkeypatch.setenv("CHAT_RESERVE", "7000")
    monkeypatch.setenv("MAX_BODY_BYTES", "2000")
    monkeypatch.setenv("REQUEST_DEADLINE", "")

    settings = Settings.load({"CHAT_RESERVE": 8000})

    assert (settings.chat_reserve, settings.max_body_bytes, settings.request_deadline) == (8000, 2000, 25.0)


def test_llms_are_those_that_have_a_url() -> None:
    """Each place of the chain has its own URL, model and key; the keys are not shown."""
    settings = Settings.load(
        {"LLM_FALLBACK_URL": "http://b", "LLM_FALLBACK_MODEL": "small", "LLM_FALLBACK_API_KEY": "the-key"}
    )

    (only,) = settings.llms
    assert (only.server.prefix, only.url, only.model, only.api_key) == (
        "LLM_FALLBACK",
        "http://b",
        "small",
        "the-key",
    )
    assert "the-key" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_BODY_BYTES", "0"),
        ("MAX_BODY_BYTES", "1.5"),
        ("MAX_BODY_BYTES", "many"),
        ("REQUEST_DEADLINE", "0"),
        ("REQUEST_DEADLINE", "-1"),
        ("REQUEST_DEADLINE", "nan"),
        ("REQUEST_DEADLINE", "inf"),
        ("REQUEST_DEADLINE", "soon"),
        ("CHAT_RESERVE", "0"),
        ("CHAT_RESERVE", "9007199254740992"),
        ("CHAT_RESERVE", "99"),
        ("CHAT_BASE_PRICE", "0"),
        ("CHAT_PRICE_PER_1K_TOKENS", "-1"),
        ("CHAT_CURRENCY", "usd"),
        ("CHAT_CURRENCY", "DOLLARS"),
        ("VAR_DIR", 5),
        ("LLM_SERVER_URL", 5),
    ],
)
def test_bad_setting_is_named(name: str, value: Any) -> None:
    """The message says which variable is wrong."""
    with pytest.raises(ValueError, match=name):
        Settings.load({name: value})
