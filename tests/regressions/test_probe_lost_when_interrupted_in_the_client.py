"""Ctrl-C while the client summed up a call kept the probe's slot until the probe expired."""

from __future__ import annotations

import pytest

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.call import Call
from service_utils.calls import Outcome
from service_utils.policies.breaker import BreakerConfig
from service_utils.testing import FakeClock, FaultServer


def test_interrupted_between_answer_and_result(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the signal strikes, the next call may probe."""
    clock = FakeClock()
    client = ResilientServiceClient(
        fault_server.url,
        breaker=BreakerConfig(failure_threshold=1, recovery_timeout=5),
        clock=clock,
        registry=ServiceRegistry(),
    )
    client.breaker.record(client.breaker.acquire(), Outcome.FAILURE)
    clock.advance(5)

    def interrupted(call: Call) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Call, "longest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.get("/a")

    assert client.breaker.get_stats()["half_open_in_use"] == 0
    assert client.get("/a").ok
