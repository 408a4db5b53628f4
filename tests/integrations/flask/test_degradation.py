"""Features that are turned off while an app is too degraded for them."""

from __future__ import annotations

import pytest
from flask import Flask

from service_utils import ServiceRegistry
from service_utils.degradation import DegradationLevel, DegradationMonitor, Rule
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.flask.degradation import (
    current_level,
    current_monitor,
    mount_degradation,
    requires_level,
)
from service_utils.testing import FakeClock

MINOR, MODERATE = DegradationLevel.MINOR, DegradationLevel.MODERATE


@requires_level(MODERATE)
def reports(year: int) -> str:
    """The reports of a year."""
    return f"reports of {year} at {current_level().label}"


@requires_level("minor")
async def exports() -> str:
    return "exported"


def make_monitor(clock: FakeClock, *rules: Rule) -> DegradationMonitor:
    return DegradationMonitor(ServiceRegistry(), rules or [Rule("severe", "billing")], clock=clock)


def make_app(monitor: DegradationMonitor | None, *, extension: bool = True) -> Flask:
    app = Flask("degraded")
    if extension:
        ServiceUtils(app, ServiceRegistry())
    if monitor is not None:
        mount_degradation(app, monitor)
    app.add_url_rule("/reports/<int:year>", view_func=reports)
    app.add_url_rule("/exports", view_func=exports)
    return app


@pytest.fixture
def monitor(fake_clock: FakeClock) -> DegradationMonitor:
    """A monitor of a system that is well."""
    return make_monitor(fake_clock)


@pytest.mark.parametrize(
    ("level", "status"), [("normal", 200), ("moderate", 200), ("severe", 503), ("critical", 503)]
)
def test_a_feature_is_off_above_its_level(monitor: DegradationMonitor, level: str, status: int) -> None:
    """At its level a feature still works, at a worse one it is turned off."""
    monitor.override(level, reason="drill", author="ada")
    response = make_app(monitor).test_client().get("/reports/2024")
    assert response.status_code == status
    if status == 200:
        assert response.text == f"reports of 2024 at {level}"


def test_the_answer_of_a_feature_that_is_off(monitor: DegradationMonitor) -> None:
    """The refusal is problem JSON that says it is degraded and when to come back, but not how bad it is."""
    monitor.override("severe", reason="secret plans", author="ada", expires_in=99.5)
    response = make_app(monitor).test_client().get("/reports/2024", headers={"X-Request-ID": "r1"})
    assert response.mimetype == "application/problem+json"
    assert response.headers["X-Degraded"] == "true"
    assert response.headers["Retry-After"] == "100"
    assert response.get_json() == {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "This feature is turned off at the moment.",
        "request_id": "r1",
    }


def test_nobody_knows_when_it_comes_back(monitor: DegradationMonitor) -> None:
    """Where only a person can say when it ends the answer names no time."""
    monitor.override("severe", reason="drill", author="ada", expires_in=None)
    assert "Retry-After" not in make_app(monitor).test_client().get("/reports/2024").headers


def test_the_wait_is_the_calm_time(fake_clock: FakeClock) -> None:
    """While a service is away callers need not come back before the calm time could be over."""
    registry = ServiceRegistry()
    breaker = registry.get_circuit_breaker("billing")
    monitor = DegradationMonitor(registry, [Rule("severe", "billing")], clock=fake_clock)
    client = make_app(monitor).test_client()
    breaker.force_open("drill")
    monitor.evaluate()
    assert client.get("/reports/2024").headers["Retry-After"] == "60"
    breaker.reset()
    monitor.evaluate()
    fake_clock.advance(59.9)
    assert client.get("/reports/2024").headers["Retry-After"] == "1"
    fake_clock.advance(0.2)
    monitor.evaluate()
    assert client.get("/reports/2024").status_code == 200


def test_an_override_that_expires_turns_the_feature_on(
    monitor: DegradationMonitor, fake_clock: FakeClock
) -> None:
    """Nobody has to do anything for a feature to come back when an override ends."""
    client = make_app(monitor).test_client()
    monitor.override("critical", reason="drill", author="ada", expires_in=10)
    assert client.get("/reports/2024").status_code == 503
    fake_clock.advance(10)
    assert client.get("/reports/2024").status_code == 200


def test_async_views(monitor: DegradationMonitor) -> None:
    """A coroutine can be turned off as any other view."""
    client = make_app(monitor).test_client()
    assert client.get("/exports").text == "exported"
    monitor.override(MODERATE, reason="drill", author="ada")
    assert client.get("/exports").status_code == 503


def test_a_guarded_view_keeps_its_name() -> None:
    """Endpoints and documentation are those of the view."""
    assert (reports.__name__, reports.__doc__) == ("reports", "The reports of a year.")


def test_several_apps_have_their_own_level(fake_clock: FakeClock) -> None:
    """One view in two apps goes by the level of the app that was asked."""
    first, second = make_monitor(fake_clock), make_monitor(fake_clock)
    apps = [make_app(each) for each in (first, second)]
    first.override("critical", reason="drill", author="ada")
    assert [app.test_client().get("/reports/1").status_code for app in apps] == [503, 200]


def test_an_app_without_the_extension(monitor: DegradationMonitor) -> None:
    """The guard needs nothing but a monitor."""
    monitor.override("critical", reason="drill", author="ada")
    response = make_app(monitor, extension=False).test_client().get("/reports/1")
    assert (response.status_code, response.mimetype) == (503, "application/problem+json")


def test_an_app_without_a_monitor(caplog: pytest.LogCaptureFixture) -> None:
    """A guarded view in an app without a monitor is a mistake, and the log says how to mend it."""
    response = make_app(None).test_client().get("/reports/1")
    assert response.status_code == 500
    assert "mount_degradation" not in response.text
    assert "'degraded' has no degradation monitor; give it one where it is made" in caplog.text
    assert "mount_degradation(app, monitor)" in caplog.text


def test_asking_an_app_without_a_monitor() -> None:
    """The level of an app that has none cannot be told."""
    app = make_app(None)
    with app.app_context(), pytest.raises(RuntimeError, match="mount_degradation"):
        current_level()


def test_the_monitor_of_an_app(monitor: DegradationMonitor) -> None:
    """Code that has an app finds its monitor."""
    with make_app(monitor).app_context():
        assert current_monitor() is monitor
        assert current_level() is DegradationLevel.NORMAL


def test_mounting_twice(monitor: DegradationMonitor, fake_clock: FakeClock) -> None:
    """The same monitor may be mounted again, another one may not."""
    app = make_app(monitor)
    mount_degradation(app, monitor)
    with pytest.raises(ValueError, match="has a degradation monitor already"):
        mount_degradation(app, make_monitor(fake_clock))


def test_mounting_what_is_no_monitor() -> None:
    """Anything else is refused."""
    with pytest.raises(TypeError, match="monitor=None"):
        mount_degradation(Flask("app"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("level", "error"), [("bad", ValueError), (reports, TypeError)])
def test_a_level_that_there_is_not(level: object, error: type[Exception]) -> None:
    """A slip, as leaving the brackets away, shows when the code is loaded."""
    with pytest.raises(error, match="level="):
        requires_level(level)  # type: ignore[arg-type]
