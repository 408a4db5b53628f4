"""The rules and the example configuration of deploy/prometheus, as Prometheus' own tools see them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service_utils.integrations.prometheus import names
from service_utils.integrations.prometheus.names import Spec
from tests.deploy.tools import PROMETHEUS, ROOT, program

RULES = PROMETHEUS / "rules.yml"
TESTS = PROMETHEUS / "rules_test.yml"
ALERTS = [
    "CircuitBreakerFlapping",
    "CircuitBreakerOpen",
    "DeadLettersGrowing",
    "FrequentFallbacks",
    "HighAPIFailureRate",
    "NoTraffic",
    "RetryBudgetExhausted",
    "RetryStorm",
    "SystemDegraded",
]

PLACES = {
    "circuit-flapping",
    "circuit-stuck-open",
    "dead-letters-growing",
    "degradation",
    "frequent-fallbacks",
    "high-failure-rate",
    "no-traffic",
    "retry-storm",
}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_rules_are_valid() -> None:
    """Prometheus takes the file as it is."""
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    """promtool plays minutes of metrics and compares the alerts with what is written beside them."""
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    """Prometheus takes it, once the token's file is there."""
    token = tmp_path / "token"
    token.write_text("secret")
    text = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
    assert text.count("/etc/prometheus/backend-token") == 1
    (tmp_path / "rules.yml").write_text(RULES.read_text("utf-8"))
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/backend-token", str(token)))
    done = promtool("check", "config", config)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_shown_firing_and_silent(name: str) -> None:
    """Of every alert there is a moment at which it has to fire, and one at which it must not."""
    tests = yaml.safe_load(TESTS.read_text("utf-8"))["tests"]
    moments = [each for test in tests for each in test["alert_rule_test"] if each["alertname"] == name]
    assert {bool(each["exp_alerts"]) for each in moments} == {True, False}


def test_each_alert_says_what_to_do() -> None:
    """Severity, summary, description and the place in the runbook are there."""
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert sorted(alerts) == ALERTS
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert alert["annotations"]["runbook_url"].startswith("docs/runbook.md#"), name


def test_the_runbook_has_a_place_for_each_alert() -> None:
    """Who is woken by an alert finds what to do under the address it gives."""
    places = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in rules() if "alert" in rule}
    assert places == PLACES
    runbook = ROOT / "docs" / "runbook.md"
    if not runbook.exists():
        pytest.skip("docs/runbook.md is not written yet")
    headings = re.findall(r"^#+ (.+)$", runbook.read_text("utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each.lower()).strip().replace(" ", "-") for each in headings}
    named = set(re.findall(r'<a (?:id|name)="([^"]+)"', runbook.read_text("utf-8")))
    assert places - anchors - named == set()


def test_the_rules_use_metrics_that_exist() -> None:
    """A name that is misspelt gives no error, but an alert that never fires."""
    specs = [each for each in vars(names).values() if isinstance(each, Spec)]
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        known = [name for name in recorded if name in rule["expr"]]
        known += [each.name for each in specs if each.name in rule["expr"]]
        assert known, rule
