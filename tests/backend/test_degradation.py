"""How degraded the backend is when services are away."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from backend.clients import Clients
from backend.config import SERVICES, Settings
from backend.degradation import backend_rules
from service_utils.degradation import DegradationMonitor, Snapshot
from service_utils.events import CircuitState
from service_utils.testing import FakeClock

ALL = ("chroma", "filesystem", "billing", "git")


def level_without(*away: str) -> str:
    circuits = {name: CircuitState.OPEN if name in away else CircuitState.CLOSED for name in ALL}
    return backend_rules().assess(Snapshot(circuits)).level.label


@pytest.mark.parametrize(
    ("away", "level"),
    [
        ((), "normal"),
        (("chroma",), "minor"),
        (("git",), "minor"),
        (("filesystem",), "moderate"),
        (("chroma", "filesystem"), "moderate"),
        (("billing",), "severe"),
        (("chroma", "filesystem", "billing"), "severe"),
        (ALL, "critical"),
    ],
)
def test_level(away: tuple[str, ...], level: str) -> None:
    """Search degraded is minor, Filesystem away moderate, Billing away severe, all away critical."""
    assert level_without(*away) == level


def test_a_service_that_nobody_calls() -> None:
    """Where no call can open its circuit, the health check says that a service is away."""
    circuits = dict.fromkeys(ALL, CircuitState.CLOSED)
    health = dict.fromkeys(ALL, "unhealthy")
    assert backend_rules().assess(Snapshot(circuits, health)).level.label == "critical"


def test_the_rules_name_the_services_that_there_are() -> None:
    """No rule waits for a service that nobody calls, and none is forgotten."""
    assert backend_rules().services == {service.name for service in SERVICES}


def test_reasons_tell_what_users_miss() -> None:
    """Whoever looks at the level reads what does not work."""
    away = dict.fromkeys(("chroma", "billing"), CircuitState.OPEN)
    assert backend_rules().assess(Snapshot(away)).reasons == (
        "Billing away: no chat, no charges",
        "Chroma away: full-text search only, nothing is indexed",
    )


@pytest.fixture
def clients() -> Iterator[Clients]:
    """The backend's clients, an LLM server's among them."""
    config = {"LLM_SERVER_URL": "http://llm:8000/v1"}
    made = Clients.build(Settings.load(config), config)
    yield made
    made.registry.close()


def test_an_llm_server_is_not_missed(
    clients: Clients, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an LLM server the backend answers by itself, and is not degraded by that."""
    health = {"checks": dict.fromkeys(ALL, "healthy")}
    monitor = DegradationMonitor(
        clients.registry, backend_rules(), clock=fake_clock, health=SimpleNamespace(check_all=lambda: health)
    )
    clients.registry["llm"].breaker.force_open("drill")
    assert monitor.evaluate().label == "normal"
    assert monitor.get_status()["unknown"] == []
    clients.billing.breaker.force_open("drill")
    assert monitor.evaluate().label == "severe"
