"""The registry: clients and breakers by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service_utils import (
    BreakerConfig,
    CircuitBreaker,
    ResilientServiceClient,
    ServiceRegistry,
    default_registry,
    get_circuit_breaker,
    get_circuit_stats,
    reset_all_circuits,
)
from tests.forked import in_child
from tests.side_by_side import in_thread, together

NOWHERE = "http://127.0.0.1:9"
MakeClient = Callable[..., ResilientServiceClient]


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry()
    yield registry
    registry.close()


@pytest.fixture
def make_client(registry: ServiceRegistry) -> MakeClient:
    """Makes clients of that registry, which is closed after the test."""

    def make(service_name: str, **options: Any) -> ResilientServiceClient:
        return ResilientServiceClient(
            options.pop("base_url", NOWHERE), service_name, registry=registry, **options
        )

    return make


@pytest.fixture
def process_registry(registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch) -> ServiceRegistry:
    """A registry of the process that no other test has used."""
    monkeypatch.setattr("service_utils.registry._default", registry)
    assert default_registry() is registry
    return registry


def test_empty(registry: ServiceRegistry) -> None:
    """A new registry holds nothing."""
    assert (registry.names(), registry.clients(), registry.status()) == ([], [], {})
    assert (registry.get_circuit_stats(), len(registry), list(registry)) == ({}, 0, [])
    assert repr(registry) == "<ServiceRegistry empty>"


def test_clients_enter_by_themselves(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """Each client is there under its short name, in the order in which they came."""
    chroma, billing = make_client("Chroma Server", name="chroma"), make_client("Billing")
    assert registry.names() == ["chroma", "billing"]
    assert registry.clients() == list(registry) == [chroma, billing]
    assert registry.get("chroma") is registry["chroma"] is chroma
    assert ("chroma" in registry, "git" in registry, len(registry)) == (True, False, 2)
    assert repr(registry) == "<ServiceRegistry chroma, billing>"


def test_unknown_name(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """get() answers None for a name that nobody has, [] says which there are."""
    assert registry.get("git") is None
    with pytest.raises(KeyError, match="none"):
        registry["git"]
    make_client("Chroma")
    with pytest.raises(KeyError, match="'git'; there are: chroma"):
        registry["git"]


def test_closed_clients_leave(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """A client that is closed is no longer there; closing it twice is no error."""
    client = make_client("Chroma")
    client.close()
    client.close()
    assert registry.names() == []


def test_namesake_takes_the_place(
    registry: ServiceRegistry, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The later client of a name is the one that is found; the earlier one's close leaves it there."""
    earlier = make_client("Chroma")
    later = make_client("Chroma")
    assert caplog.records == []
    earlier.close()
    assert registry.get("chroma") is later


def test_namesake_of_another_address(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    """Two services by one name are probably a mistake: the log says so, without credentials."""
    make_client("Chroma", base_url="http://user:s3cret@one.example")
    make_client("Chroma", base_url="http://other.example")
    assert "takes the place of the one for http://one.example" in caplog.text
    assert "s3cret" not in caplog.text


def test_status(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """status() has each client's status under its name."""
    make_client("Chroma Server", name="chroma")
    make_client("Billing")
    status = registry.status()
    assert list(status) == ["chroma", "billing"]
    assert (status["chroma"]["service"], status["billing"]["state"]) == ("Chroma Server", "closed")


def test_status_that_fails(
    registry: ServiceRegistry,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One client whose status cannot be had does not hide the others'."""

    def fail() -> dict[str, Any]:
        raise ZeroDivisionError("s3cret")

    monkeypatch.setattr(make_client("Bad"), "get_status", fail)
    make_client("Good")
    status = registry.status()
    assert status["bad"] == {"service": "Bad", "name": "bad", "error": "ZeroDivisionError"}
    assert status["good"]["state"] == "closed"
    assert "get_status() failed" in caplog.text


def test_breaker_is_made_when_asked_for(registry: ServiceRegistry) -> None:
    """The breaker of a name is made once and is the same for all who ask."""
    breaker = registry.get_circuit_breaker("llm")
    assert registry.get_circuit_breaker("llm") is breaker
    assert (breaker.name, breaker.config) == ("llm", BreakerConfig())
    assert registry.names() == []


def test_breaker_of_a_client(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """By a client's name one gets the client's own breaker."""
    client = make_client("Chroma")
    assert registry.get_circuit_breaker("chroma") is client.breaker


def test_breaker_with_limits(registry: ServiceRegistry) -> None:
    """Limits hold for a new breaker; asking with the same ones again, or with none, is fine."""
    config = BreakerConfig(failure_threshold=2)
    breaker = registry.get_circuit_breaker("llm", config)
    assert breaker.config == config
    assert registry.get_circuit_breaker("llm", BreakerConfig(failure_threshold=2)) is breaker
    assert registry.get_circuit_breaker("llm") is breaker


def test_breaker_with_other_limits(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """Nobody gets a breaker with other limits than they asked for without being told."""
    registry.get_circuit_breaker("llm")
    make_client("Chroma")
    for name in ("llm", "chroma"):
        with pytest.raises(ValueError, match=f"{name}.+failure_threshold"):
            registry.get_circuit_breaker(name, BreakerConfig(failure_threshold=2))


@pytest.mark.parametrize("name", ["", None, 5])
def test_bad_breaker_name(registry: ServiceRegistry, name: Any) -> None:
    """A breaker has a name; nothing is made without one."""
    with pytest.raises(ValueError, match="name="):
        registry.get_circuit_breaker(name)
    assert registry.circuit_breakers() == {}


def test_circuit_stats(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """Statistics are those of all breakers, of clients and stand-alone ones."""
    make_client("Chroma")
    registry.get_circuit_breaker("llm").force_open("maintenance")
    stats = registry.get_circuit_stats()
    assert {name: each["state"] for name, each in stats.items()} == {"llm": "forced_open", "chroma": "closed"}


def test_reset_all(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """reset_all_circuits() closes them all, however they came to be open."""
    client = make_client("Chroma")
    llm = registry.get_circuit_breaker("llm")
    client.breaker.force_open("maintenance")
    llm.disable("experiment")
    registry.reset_all_circuits()
    assert (client.state, llm.state) == ("closed", "closed")


def test_close(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """close() closes the clients, forgets the breakers, and may be repeated."""
    make_client("Chroma")
    make_client("Billing")
    llm = registry.get_circuit_breaker("llm")
    registry.close()
    registry.close()
    assert (registry.names(), registry.get_circuit_stats()) == ([], {})
    assert registry.get_circuit_breaker("llm") is not llm


def test_functions_of_the_process(process_registry: ServiceRegistry) -> None:
    """The module's functions work on the registry of the process."""
    breaker = get_circuit_breaker("llm", BreakerConfig(failure_threshold=2))
    assert process_registry.get_circuit_breaker("llm") is breaker
    breaker.force_open("maintenance")
    assert get_circuit_stats()["llm"]["state"] == "forced_open"
    reset_all_circuits()
    assert breaker.state == "closed"


def test_client_without_a_registry_enters_that_of_the_process(process_registry: ServiceRegistry) -> None:
    """A client that is given no registry is found in that of the process."""
    with ResilientServiceClient(NOWHERE, "Chroma") as client:
        assert process_registry.get("chroma") is client
        assert get_circuit_breaker("chroma") is client.breaker
    assert process_registry.names() == []


def test_threads_get_one_breaker(registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for a new breaker at one moment, they all get the same."""

    def make_and_let_others_go_first(name: str, config: BreakerConfig | None) -> CircuitBreaker:
        time.sleep(0)
        return CircuitBreaker(name, config)

    monkeypatch.setattr("service_utils.registry.CircuitBreaker", make_and_let_others_go_first)
    breakers: list[CircuitBreaker] = together(32, lambda _: registry.get_circuit_breaker("llm"))
    assert set(breakers) == {breakers[0]}


def test_threads_come_and_go(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """Clients that come and go while others look disturb nobody."""

    def work(index: int) -> None:
        for _ in range(20):
            with make_client(f"Service {index}"):
                registry.status()
                registry.get_circuit_stats()

    together(8, work)
    assert registry.names() == []


def test_a_child_has_the_same_clients(registry: ServiceRegistry, make_client: MakeClient) -> None:
    """A forked child finds the parent's clients, even if another thread was just entering one."""
    make_client("Chroma")

    def child() -> list[str]:
        assert in_thread(lambda: registry.get_circuit_breaker("llm"))
        return [*registry.names(), *registry.circuit_breakers()]

    with registry._lock:
        assert in_child(child) == ["chroma", "llm", "chroma"]
    assert registry.names() == ["chroma"]
