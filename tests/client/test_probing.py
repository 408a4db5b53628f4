"""Background probes: an open circuit is closed by the health path, not at the cost of a user's call."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
import requests

from service_utils import BreakerConfig, CircuitOpenError, CircuitState, DeadlineExceeded, TokenError
from service_utils.clock import SYSTEM
from service_utils.events import CircuitChanged
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.policies.record import Asking
from service_utils.policies.store import MemoryBreakerStore
from service_utils.testing import Answer, FakeClock, FaultServer, RecordedRequest, blackhole
from tests.client.conftest import MakeClient
from tests.forked import in_child
from tests.policies.sharing import Line

HEALTHY = "/health"


class Service:
    """Answers its health path and everything else as it is told."""

    def __init__(self, server: FaultServer) -> None:
        self.health, self.work = Answer(503), Answer(503)
        self.server = server
        server.handler = self.reply

    def reply(self, request: RecordedRequest) -> Answer:
        return self.health if request.path == HEALTHY else self.work

    def asked(self, path: str) -> int:
        return sum(1 for request in self.server.requests if request.path == path)


@pytest.fixture
def service(fault_server: FaultServer) -> Service:
    return Service(fault_server)


def until(true: Callable[[], object], what: str) -> None:
    for _ in range(4000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError(f"never: {what}")


def pass_time(
    clock: FakeClock, true: Callable[[], object], *, step: float = 1.0, most: float = 60.0
) -> float:
    """Let time pass, no faster than the probing thread can follow, until something is so. Returns seconds."""
    passed = 0.0
    while not true():
        assert passed < most, "never happened"
        until(lambda: clock.sleepers or true(), "the prober waits or is done")
        if not true():
            clock.advance(step)
            passed += step
    return passed


def fail(client, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(requests.HTTPError):
            client.get("/work")


@pytest.fixture
def probed(make_client: MakeClient, fault_server: FaultServer, service: Service):
    """A client whose circuit opens at the first failure, for 60 s."""
    return make_client(fault_server.url, max_retries=1, failure_threshold=1, health_path=HEALTHY, probe=True)


def test_a_service_that_is_well_again_gets_its_calls_back(probed, service: Service, fake_clock) -> None:
    """The circuit closes within seconds of the recovery, long before the recovery time, at no user's cost."""
    fail(probed)
    pass_time(fake_clock, lambda: service.asked(HEALTHY) >= 3)
    assert probed.state is CircuitState.OPEN
    service.health = service.work = Answer(200)
    assert pass_time(fake_clock, lambda: probed.state is CircuitState.CLOSED) <= 8.0
    assert service.asked("/work") == 1
    assert probed.get("/work").status_code == 200


def test_no_call_is_tried_while_the_service_is_probed(probed, service: Service, fake_clock) -> None:
    """Even long after the recovery time a call is refused, not sent to find out what the prober knows."""
    fail(probed)
    pass_time(fake_clock, lambda: service.asked(HEALTHY) >= 40, most=300)
    assert fake_clock.monotonic() > 120
    with pytest.raises(CircuitOpenError) as caught:
        probed.get("/work")
    assert caught.value.cooldown_remaining > 0
    assert service.asked("/work") == 1


def test_a_health_path_that_is_never_well_does_not_keep_a_circuit_open_for_ever(
    probed, service: Service, fake_clock
) -> None:
    """After ten recovery times a call is let through, and its success counts."""
    service.work = Answer(503)
    fail(probed)
    service.work = Answer(200)
    pass_time(fake_clock, lambda: fake_clock.monotonic() > 600 and fake_clock.sleepers, step=5.0, most=700)
    assert probed.get("/work").status_code == 200
    assert probed.state is CircuitState.CLOSED


def test_a_health_path_that_is_well_while_calls_are_not(probed, service: Service, fake_clock) -> None:
    """When the circuit opens again right after a probe closed it, the next probe is believed only later."""
    fail(probed)
    service.health = Answer(200)
    pass_time(fake_clock, lambda: probed.state is CircuitState.CLOSED)
    fail(probed)
    assert pass_time(fake_clock, lambda: probed.state is CircuitState.CLOSED, most=90) >= 60.0
    fail(probed)
    assert pass_time(fake_clock, lambda: probed.state is CircuitState.CLOSED, most=150) >= 120.0


def test_as_many_probes_as_the_circuit_asks_for(
    make_client: MakeClient, fault_server: FaultServer, service: Service, fake_clock
) -> None:
    """With a success threshold one good answer does not close the circuit, and a bad one begins anew."""
    breaker = BreakerConfig(failure_threshold=1, success_threshold=3)
    client = make_client(fault_server.url, max_retries=1, breaker=breaker, health_path=HEALTHY, probe=True)
    fail(client)
    service.health = Answer(200)
    pass_time(fake_clock, lambda: service.asked(HEALTHY) >= 2)
    service.health = Answer(500)
    pass_time(fake_clock, lambda: service.asked(HEALTHY) >= 3)
    service.health = Answer(200)
    pass_time(fake_clock, lambda: client.state is CircuitState.CLOSED)
    assert service.asked(HEALTHY) == 6


def test_probes_are_told_as_a_recovery(
    make_client: MakeClient, fault_server: FaultServer, service: Service, fake_clock
) -> None:
    """Listeners see the same two changes as after a probe by a call."""
    seen: list[tuple[str, str, str]] = []

    def listen(event: object) -> None:
        if isinstance(event, CircuitChanged):
            seen.append((event.from_state, event.to_state, event.reason))

    client = make_client(
        fault_server.url,
        max_retries=1,
        failure_threshold=1,
        health_path=HEALTHY,
        probe=True,
        listeners=[listen],
    )
    fail(client)
    service.health = Answer(200)
    pass_time(fake_clock, lambda: len(seen) >= 3)
    assert seen == [
        ("closed", "open", "threshold reached: 1/1"),
        ("open", "half_open", "health probe answered"),
        ("half_open", "closed", "service recovered"),
    ]


def test_a_service_that_asked_to_be_left_alone_is(probed, service: Service, fake_clock) -> None:
    """No probe is sent before the Retry-After of the failure is over."""
    service.work = Answer(503, headers={"Retry-After": "40"})
    fail(probed)
    pass_time(fake_clock, lambda: service.asked(HEALTHY) >= 1)
    assert fake_clock.monotonic() >= 40


@pytest.mark.parametrize("end", ["close", "reset", "force_open", "disable"])
def test_probing_ends(probed, service: Service, fake_clock, end: str) -> None:
    """Nobody probes for a client that is closed, or for a circuit that a person has taken over."""
    fail(probed)
    until(lambda: fake_clock.sleepers, "the prober waits")
    if end == "close":
        probed.close()
    elif end == "reset":
        probed.reset()
    else:
        getattr(probed.breaker, end)("maintenance")
    asked = service.asked(HEALTHY)
    fake_clock.advance(30.0)
    name = f"probe-{probed.name}"
    until(lambda: name not in [thread.name for thread in threading.enumerate()], "its thread ends")
    assert service.asked(HEALTHY) == asked


def test_a_client_that_is_dropped_is_not_kept_alive(
    make_client: MakeClient, fault_server: FaultServer, service: Service, fake_clock, registry
) -> None:
    """The probing thread holds on to no client that nobody else has."""
    client = make_client(
        fault_server.url, max_retries=1, failure_threshold=1, health_path=HEALTHY, probe=True
    )
    fail(client)
    until(lambda: fake_clock.sleepers, "the prober waits")
    registry.remove(client)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    fake_clock.advance(30.0)


def test_a_forked_child_probes_for_itself(
    make_client: MakeClient, fault_server: FaultServer, service: Service
) -> None:
    """A worker that was forked while the circuit was open finds the recovery by its own probes."""
    client = make_client(
        fault_server.url,
        max_retries=1,
        failure_threshold=1,
        recovery_timeout=1.0,
        health_path=HEALTHY,
        probe=True,
        clock=SYSTEM,
    )
    fail(client)
    service.health = Answer(200)

    def child() -> str:
        assert client.state is CircuitState.OPEN
        until(lambda: client.state is CircuitState.CLOSED, "closed")
        return client.state.value

    assert in_child(child) == "closed"


def test_without_the_switch_nobody_probes(
    make_client: MakeClient, fault_server: FaultServer, service: Service, fake_clock
) -> None:
    """A health path alone starts nothing."""
    client = make_client(fault_server.url, max_retries=1, failure_threshold=1, health_path=HEALTHY)
    fail(client)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("probe-")]
    assert fake_clock.sleepers == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"probe": True}, ValueError, "probe=True: needs a health_path"),
        ({"probe": "yes", "health_path": "/health"}, TypeError, "probe='yes'"),
    ],
)
def test_bad_arguments(make_client: MakeClient, options, error, message: str) -> None:
    """What cannot work is refused when the client is made."""
    with pytest.raises(error, match=message):
        make_client(**options)


# -- one probe by hand ------------------------------------------------------------------------------


def test_probe_counts_for_nothing(probed, service: Service) -> None:
    """A health check neither opens nor closes a circuit, whatever it finds."""
    with pytest.raises(requests.HTTPError, match="GET /health failed after 1 attempt: status 503"):
        probed.probe()
    assert probed.state is CircuitState.CLOSED
    service.health = Answer(200)
    probed.breaker.force_open("maintenance")
    response = probed.probe()
    assert response.status_code == 200
    assert response.call.path == "/health"
    assert probed.state is CircuitState.FORCED_OPEN
    assert probed.get_status()["requests"]["total"] == 0


def test_probe_has_its_own_time(probed, service: Service) -> None:
    """A probe is bounded by its time-out, not by what is left of the request that asks."""
    token = bind_context(deadline=Deadline.after(0.0))
    try:
        service.health = Answer(200)
        assert probed.probe().status_code == 200
    finally:
        unbind_context(token)
    service.server.handler = None
    service.server.script(blackhole())
    with pytest.raises(requests.Timeout) as caught:
        probed.probe(timeout=0.05)
    assert not isinstance(caught.value, DeadlineExceeded)


def test_probe_without_a_path(make_client: MakeClient) -> None:
    """Without a health path there is nothing to ask."""
    with pytest.raises(ValueError, match="probe\\(\\) needs a client made with health_path="):
        make_client().probe()


def test_probe_without_credentials(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A probe that gets no credentials is not sent, and says so."""

    class NoTokens:
        def headers(self, name: str) -> dict[str, str]:
            raise TokenError("the vault is sealed")

    client = make_client(fault_server.url, health_path=HEALTHY, token_provider=NoTokens())
    with pytest.raises(TokenError, match="vault is sealed"):
        client.probe()
    assert fault_server.requests == []


def test_probing_goes_on_when_a_store_is_back(
    make_client: MakeClient, fault_server: FaultServer, service: Service, fake_clock: FakeClock
) -> None:
    """The open spell has another number then; the circuit is closed by a probe all the same."""
    line = Line(MemoryBreakerStore())
    client = make_client(
        fault_server.url, max_retries=1, failure_threshold=1, health_path=HEALTHY, probe=True, store=line
    )
    line.cut()
    fail(client)
    pass_time(fake_clock, lambda: service.asked(HEALTHY) > 1)
    generation = client.breaker.generation
    line._store.override(
        client.breaker.name, CircuitState.CLOSED, "reset by hand", Asking(1, 0.0, client.breaker.config)
    )
    line.mend()
    assert client.breaker.state is CircuitState.OPEN
    assert client.breaker.generation != generation
    asked = service.asked(HEALTHY)
    pass_time(fake_clock, lambda: service.asked(HEALTHY) > asked)
    service.health = Answer(200)
    pass_time(fake_clock, lambda: client.breaker.state is CircuitState.CLOSED)
