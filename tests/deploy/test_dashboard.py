"""The dashboard and the recording rules before a real Prometheus, which scrapes a real backend under load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from backend.run.parts import free_ports
from tests.deploy.tools import PROMETHEUS, ROOT, program

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
NAMES = ("chroma", "filesystem", "billing", "git")
PATIENCE = 45.0
TOKEN = "the-token-of-prometheus"


def panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """The queries of the dashboard with its variables filled in, by the panel's title."""
    values = {"$job": ".*", "$service": ".*", "$__rate_interval": "20s"}
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, expression
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


def recorded() -> dict[str, str]:
    """The names of the recording rules."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))["groups"]
    return {rule["record"]: rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def until(what: Callable[[], Any], ends: float, *, why: Callable[[], object] = str) -> Any:
    """What comes to be true before a moment."""
    while not (found := what()):
        assert time.monotonic() < ends, why()
        time.sleep(0.2)
    return found


@contextlib.contextmanager
def process(command: list[str], folder: Path, name: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the test; what it says goes into a file."""
    with (folder / f"{name}.txt").open("wb") as said:
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(10.0)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


class Stand:
    """The backend under gunicorn, its services, and Prometheus."""

    def __init__(self, backend: str, prometheus: str, services: dict[str, subprocess.Popen[bytes]]) -> None:
        self.backend = backend
        self.prometheus = prometheus
        self.services = services

    def post(self, path: str, body: dict[str, Any]) -> None:
        with contextlib.suppress(requests.ConnectionError):
            requests.post(f"{self.backend}/v1/api{path}", json=body, timeout=20.0)

    def ask(self, expression: str) -> list[dict[str, Any]]:
        answer = requests.get(
            f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=10.0
        ).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]  # type: ignore[no-any-return]

    def says(self, expression: str) -> bool:
        """Whether anything comes of it that is a number."""
        return any(each["value"][1] != "NaN" for each in self.ask(expression))

    def search(self) -> None:
        self.post("/search", {"project_id": "demo", "query": "refunds"})

    def upload(self) -> None:
        document = {"id": "refunds", "text": "Refunds are paid within 14 days."}
        self.post("/documents", {"project_id": "demo", "documents": [document]})

    def check(self) -> None:
        with contextlib.suppress(requests.ConnectionError):  # whichever worker: each checks for itself
            requests.get(f"{self.backend}/health", headers={"Connection": "close"}, timeout=20.0)

    def kill(self, name: str) -> None:
        os.kill(self.services[name].pid, signal.SIGKILL)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    prometheus = program("prometheus")
    *ports, backend_port, prometheus_port = free_ports(len(NAMES) + 2)
    urls = {
        f"{name.upper()}_SERVER_URL": f"http://127.0.0.1:{port}"
        for name, port in zip(NAMES, ports, strict=True)
    }
    environ = {
        **urls,
        "BACKEND_PORT": str(backend_port),
        "VAR_DIR": str(tmp_path / "var"),
        "WEB_CONCURRENCY": "2",
        "BACKGROUND_WORK": "true",
        "API_RETRY_BASE_DELAY": "0.01",
        "INTERNAL_SERVICE_TOKEN": TOKEN,
        "ADMIN_TOKEN": TOKEN,
    }
    url, own = f"http://127.0.0.1:{backend_port}", f"http://127.0.0.1:{prometheus_port}"
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "--config",
        "python:backend.gunicorn_conf",
        "backend.app:app",
    ]
    with contextlib.ExitStack() as stack:
        services = {
            name: stack.enter_context(
                process([sys.executable, "-m", "backend", "--only", name], tmp_path, name, **environ)
            )
            for name in NAMES
        }
        stack.enter_context(process(gunicorn, tmp_path, "backend", **environ))
        command = [prometheus, f"--config.file={configured(tmp_path, url)}"]
        command += [f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={own[7:]}"]
        stack.enter_context(process(command, tmp_path, "prometheus"))
        yield Stand(url, own, services)


def configured(folder: Path, url: str) -> Path:
    """The example configuration, in a hurry and for this backend."""
    token = folder / "token"
    token.write_text(TOKEN)
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    scrape = config["scrape_configs"][0]
    scrape["authorization"]["credentials_file"] = str(token)
    scrape["static_configs"][0]["targets"] = [url.removeprefix("http://")]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


HAPPENED = {
    "successes": 'circuit_breaker_requests_total{service="chroma", outcome="success"} > 0',
    "failures": 'circuit_breaker_failures_total{service="chroma", error_type="connection"} > 0',
    "rejections": 'circuit_breaker_requests_total{service="chroma", outcome="rejected"} > 0',
    "retries": 'retry_attempts_total{service="chroma"} > 0',
    "fallbacks": 'fallback_usage_total{service="chroma", strategy="filesystem", status="success"} > 0',
    "dead letters": 'sum by (service) (dlq_messages_total{service="git"}) > 0',
    "attempts to deliver": 'dlq_processing_duration_seconds_count{service="git"} > 0',
    "an open circuit": 'circuit_breaker_state{service="chroma", state="open"} == 1',
    "degradation": "system_degradation_level > 0",
    "an alert": 'ALERTS{alertname="CircuitBreakerOpen", alertstate="pending"}',
}


def test_every_query_and_every_rule_has_something_to_say(stand: Stand, tmp_path: Path) -> None:
    """Under load, with all services and then without git and chroma, no panel and no rule stays empty."""
    ends = time.monotonic() + PATIENCE
    until(lambda: _is_up(f"{stand.backend}/health/live"), ends, why=lambda: _said(tmp_path, "backend"))
    until(lambda: _is_up(f"{stand.prometheus}/-/ready"), ends, why=lambda: _said(tmp_path, "prometheus"))
    until(lambda: stand.ask('circuit_breaker_state{state="closed"} == 1'), ends)
    stand.upload()
    stand.search()
    stand.kill("git")
    stand.upload()
    until(lambda: stand.ask(HAPPENED["attempts to deliver"]), ends, why=lambda: _said(tmp_path, "backend"))
    stand.kill("chroma")

    missing = {**queries(), **recorded(), **HAPPENED}
    while missing:
        assert time.monotonic() < ends, f"nothing comes of {missing}"
        stand.search()
        stand.check()
        missing = {name: each for name, each in missing.items() if not stand.says(each)}

    groups = requests.get(f"{stand.prometheus}/api/v1/rules", timeout=10.0).json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_the_dashboard_can_be_imported() -> None:
    """No two panels share a number or a place, and each asks the data source that was chosen."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
    variables = [each["name"] for each in dashboard["templating"]["list"]]
    assert variables == ["datasource", "job", "service"]


def _is_up(url: str) -> bool:
    try:
        return requests.get(url, timeout=5.0).ok
    except requests.ConnectionError:
        return False


def _said(folder: Path, name: str) -> str:
    return (folder / f"{name}.txt").read_text("utf-8")
