"""The examples the project grew from, with `responses` in place of patched functions."""

from __future__ import annotations

import pytest
import requests
import responses

from service_utils import ResilientServiceClient, ServiceRegistry, ServiceUnavailable
from service_utils.testing import FakeClock


@responses.activate
def test_circuit_breaker_opens_after_failures(fake_clock: FakeClock) -> None:
    """Three failures open the circuit; the next request fails at once."""
    responses.post("http://failing-service:9999/test", body=requests.ConnectionError("Service down"))
    client = ResilientServiceClient(
        "http://failing-service:9999",
        failure_threshold=3,
        max_retries=1,
        clock=fake_clock,
        registry=ServiceRegistry(),
    )

    for _ in range(3):
        with pytest.raises(requests.ConnectionError, match="Service down"):
            client.post("/test")

    assert client.state.value == "open"
    with pytest.raises(ServiceUnavailable):
        client.post("/test")
    assert len(responses.calls) == 3


@responses.activate
def test_circuit_breaker_recovers(fake_clock: FakeClock) -> None:
    """After the recovery time a good answer closes the circuit."""
    url = "http://service:9999/test"
    down = responses.post(url, body=requests.ConnectionError())
    client = ResilientServiceClient(
        "http://service:9999",
        failure_threshold=2,
        recovery_timeout=1,
        max_retries=1,
        clock=fake_clock,
        registry=ServiceRegistry(),
    )
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            client.post("/test")
    assert client.state.value == "open"

    fake_clock.advance(1.1)
    responses.remove(down)
    responses.post(url, status=200)
    response = client.post("/test")

    assert response.status_code == 200
    assert client.state.value == "closed"


@responses.activate
def test_before_and_after(fake_clock: FakeClock) -> None:
    """`except ServiceUnavailable` first, `except requests.RequestException` second, as the guide has it."""
    responses.post("http://chroma:6003/query", status=503)
    client = ResilientServiceClient(
        "http://chroma:6003", "Chroma Server", 3, 10, 1, clock=fake_clock, registry=ServiceRegistry()
    )
    met: list[str] = []
    for _ in range(2):
        try:
            client.post("/query", json={"query_texts": ["what is AI?"]})
        except ServiceUnavailable:
            met.append("unavailable")
        except requests.RequestException:
            met.append("failed")

    assert met == ["failed", "unavailable"]
    assert len(responses.calls) == 3
