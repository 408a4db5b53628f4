"""A write that was accepted is applied exactly once, or lies among the dead letters for all to see."""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

import pytest

from tests.chaos.leaks import leaks
from tests.chaos.storm import BILLING_KILLS, POSTMAN_KILLS, rage
from tests.chaos.world import World

_CHARGES = int(os.environ.get("CHAOS_CHARGES") or 500)
_SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))


@pytest.mark.timeout(60 + _CHARGES)
@pytest.mark.skipif(sys.platform != "linux", reason="kills processes as Linux does")
def test_every_charge_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks, the ledger holds each charge once, and just those that it should hold."""
    print(f"CHAOS_SEED={_SEED}")
    with World(tmp_path, _SEED) as world:
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", world.internal_token)
        outcome = rage(world, _CHARGES)
        world.look_at_everything()
    found = leaks(tmp_path, world.secrets)
    print(outcome.summary())
    report = "\n".join([f"CHAOS_SEED={_SEED}", outcome.summary(), *outcome.complaints])
    assert not outcome.complaints, report
    assert found == []  # no secret in any log, store or page
    assert len(outcome.stories) == _CHARGES
    assert outcome.kills["billing"] == BILLING_KILLS
    assert outcome.kills["backend"] > 0
    assert outcome.kills["postman"] > POSTMAN_KILLS


def test_a_leak_is_seen(tmp_path: Path) -> None:
    """Plain, in an address, and in base64 of something longer."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "plain.log").write_text("x hunter2-hunter2 x")
    (tmp_path / "basic.log").write_bytes(base64.b64encode(b"user:hunter2-hunter2 and more"))
    (tmp_path / "clean.log").write_text("nothing")
    assert leaks(tmp_path, {"password": "hunter2-hunter2"}) == [
        "basic.log: password",
        "deep/plain.log: password",
    ]
