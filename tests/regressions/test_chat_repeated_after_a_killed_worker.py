"""A worker was killed after the capture, Billing was away at the repeat, and the next one charged again."""

from __future__ import annotations

import pytest
from flask import Flask

from backend.chat import Chat
from tests.backend.accounts import charges
from tests.backend.conftest import app, services, settings
from tests.backend.running import Services

__all__ = ["app", "services", "settings"]

ASK = {"project_id": "p", "message": "hello"}
KEY = {"Idempotency-Key": "k1"}


def ask(app: Flask) -> int:
    return app.test_client().post("/v1/api/chat", json=ASK, headers=KEY).status_code


def killed_in(app: Flask, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """As SIGKILL leaves it, with the lease run out: SystemExit passes whatever catches exceptions."""

    def die(*_arguments: object) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Chat, method, die)
        with pytest.raises(SystemExit):
            ask(app)
    store = app.extensions["backend"].replays
    before = store._now
    store._now = lambda: before() + 1000


def test_a_repeat_finds_the_capture(app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the killed worker has captured the repeat finds, and captures nothing."""
    killed_in(app, monkeypatch, "_written_down")
    assert ask(app) == 200
    assert len(charges(services)) == 1


def test_repeats_while_billing_is_away_keep_the_run(
    app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often Billing is away meanwhile, the last repeat still looks under the first one's keys."""
    killed_in(app, monkeypatch, "_written_down")
    services.billing.fail("/reserve")
    assert [ask(app) for _ in range(3)] == [503, 503, 503]
    services.billing.heal()
    assert ask(app) == 200
    assert len(charges(services)) == 1


def test_a_worker_killed_before_the_capture(
    app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Billing says that nothing was captured, the key is free for a new run, which is charged once."""
    killed_in(app, monkeypatch, "_make")
    assert charges(services) == []
    assert [ask(app), ask(app)] == [503, 200]
    assert len(charges(services)) == 1
