"""When services are probed next, as the processes of a host know it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service_utils import ResilientServiceClient
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.store import StoreUnavailable
from service_utils.probe_times import ProbeTimes, probe_times_of
from service_utils.registry import ServiceRegistry
from service_utils.sharing import notes_of
from service_utils.testing import FakeClock
from tests.backend.waiting import eventually
from tests.forked import in_child


@pytest.fixture
def store(tmp_path: Path) -> SharedMemoryStore:
    """A store of two processes."""
    return SharedMemoryStore(tmp_path / "circuits")


def test_what_is_set_is_known_until_it_is_forgotten() -> None:
    """In one process, without a store."""
    times = ProbeTimes()
    assert times.get("chroma") is None
    times.set("chroma", 12.5)
    assert times.get("chroma") == 12.5
    times.forget("chroma")
    times.forget("chroma")
    assert times.get("chroma") is None


def test_another_process_knows(store: SharedMemoryStore) -> None:
    """The page may be drawn by any worker, and one of them probes."""
    times = probe_times_of(store)
    times.set("chroma", 12.5)

    def look() -> None:
        assert ProbeTimes(notes_of(store)).get("chroma") == 12.5

    in_child(look)
    times.forget("chroma")
    assert ProbeTimes(notes_of(store)).get("chroma") is None


def test_a_forked_child_begins_anew(store: SharedMemoryStore) -> None:
    """It probes nothing yet, and does not take its parent's word back."""
    times = probe_times_of(store)
    times.set("chroma", 12.5)
    times.set("git", 13.5)

    def forget() -> None:
        times.forget("chroma")

    in_child(forget)
    other = ProbeTimes(notes_of(store))
    assert (other.get("chroma"), other.get("git")) == (12.5, 13.5)


def test_all_clients_of_a_store_share_them(store: SharedMemoryStore) -> None:
    """One client's times do not drive out another's."""
    probe_times_of(store).set("chroma", 1.0)
    probe_times_of(store).set("git", 2.0)
    other = ProbeTimes(notes_of(store))
    assert (other.get("chroma"), other.get("git")) == (1.0, 2.0)


def test_the_soonest_have_room(store: SharedMemoryStore) -> None:
    """More services than a note can hold: those that are next are in it."""
    times = ProbeTimes(notes_of(store))
    for number in range(60):
        times.set(f"a-service-with-quite-a-long-name-{number:03}", float(number))
    other = ProbeTimes(notes_of(store))
    assert other.get("a-service-with-quite-a-long-name-000") == 0.0
    assert other.get("a-service-with-quite-a-long-name-059") is None


@pytest.mark.parametrize("value", [b"", b"nonsense", b"[]", b'{"chroma": "soon"}', b'{"chroma": null}'])
def test_what_cannot_be_read_is_not_known(value: bytes) -> None:
    """Of another version, or torn."""

    class Notes:
        def posted(self, _: str) -> bytes:
            return value

    assert ProbeTimes(Notes()).get("chroma") is None  # type: ignore[arg-type]


def test_a_store_that_is_away_holds_nobody_up() -> None:
    """It is only for show."""

    class Notes:
        def post(self, *_: object) -> None:
            raise StoreUnavailable("away")

        def posted(self, _: str) -> bytes:
            raise StoreUnavailable("away")

    times = ProbeTimes(Notes())  # type: ignore[arg-type]
    times.set("chroma", 1.0)
    assert times.get("chroma") == 1.0
    assert times.get("git") is None


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    """Closed after the test."""
    registry = ServiceRegistry()
    yield registry
    registry.close()


def test_without_probes_the_open_time_counts(registry: ServiceRegistry, fake_clock: FakeClock) -> None:
    """The first call after it is the probe."""
    client = ResilientServiceClient(
        "http://127.0.0.1:1",
        "Chroma",
        max_retries=1,
        failure_threshold=1,
        recovery_timeout=60.0,
        registry=registry,
        clock=fake_clock,
    )
    assert client.get_status()["next_probe_in"] is None
    with pytest.raises(OSError, match="refused"):
        client.get("/x")
    fake_clock.advance(20.0)
    assert client.get_status()["next_probe_in"] == 40.0


def test_with_probes_it_is_the_next_one(registry: ServiceRegistry) -> None:
    """Long before the open time is over, and no time is told when the circuit is closed again."""
    client = ResilientServiceClient(
        "http://127.0.0.1:1",
        "Chroma",
        max_retries=1,
        failure_threshold=1,
        recovery_timeout=60.0,
        health_path="/health",
        probe=True,
        registry=registry,
    )
    with pytest.raises(OSError, match="refused"):
        client.get("/x")
    eventually(lambda: client.get_status()["next_probe_in"] is not None)
    assert 0.0 <= client.get_status()["next_probe_in"] <= 7.5
    client.reset()
    assert client.get_status()["next_probe_in"] is None
