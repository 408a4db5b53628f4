"""SERVICE_UTILS_SHARED_STATE: the store of clients that are given none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.clock import SystemClock
from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.store import BreakerStore, MemoryBreakerStore
from service_utils.sharing import VARIABLE, host_counts, leader_of, notes_of, shared_store
from service_utils.testing import FakeClock
from tests.forked import in_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is shared so needs Linux")

MakeClient = Callable[..., ResilientServiceClient]


@pytest.fixture(autouse=True)
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The stores of a process that has none yet; all of them are closed after the test."""
    stores: dict[str, Any] = {}
    monkeypatch.setattr("service_utils.sharing._stores", stores)
    yield stores
    for store in stores.values():
        store.close()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the environment names."""
    monkeypatch.setenv(VARIABLE, f"memory:{tmp_path / 'state'}")
    return tmp_path / "state"


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """Makes clients, each in a registry of its own."""
    clients: list[ResilientServiceClient] = []

    def make(**options: Any) -> ResilientServiceClient:
        options = {"name": "billing", "registry": ServiceRegistry(), **options}
        clients.append(ResilientServiceClient("http://127.0.0.1:9", "Billing", **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


# -- good values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "  "], ids=["unset", "empty", "blank"])
def test_none_is_shared_by_default(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, value: str | None
) -> None:
    """A process that is told nothing keeps its circuits to itself."""
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert shared_store() is None
    client = make_client()
    assert client.store is client.breaker.store is None
    assert "workers" not in client.get_status()


def test_a_file(path: Path) -> None:
    """``memory:`` and a path make a store, and open nothing yet."""
    store = shared_store()
    assert isinstance(store, SharedMemoryStore)
    assert store.path == path
    assert not path.exists()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("  memory:{}/state\n", "{}/state"),
        ("memory:{}/a:b", "{}/a:b"),
        ("memory:{}/a b", "{}/a b"),
        ("memory:{}/größe", "{}/größe"),
    ],
    ids=["blanks", "colon", "space", "umlaut"],
)
def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, expected: str) -> None:
    """Whatever the name of the file is."""
    monkeypatch.setenv(VARIABLE, value.format(tmp_path))
    store = shared_store()
    assert isinstance(store, SharedMemoryStore)
    assert str(store.path) == expected.format(tmp_path)


def test_a_relative_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is below the working directory of the moment in which it is looked at first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "memory:var/state")
    store = shared_store()
    monkeypatch.chdir("/")
    assert isinstance(store, SharedMemoryStore)
    assert store.path == tmp_path / "var" / "state"


def test_clients_take_it(path: Path, make_client: MakeClient) -> None:
    """All of them the same one, and what one finds out the other knows."""
    one, two = make_client(), make_client()
    assert one.store is two.store is one.breaker.store is shared_store()
    one.breaker.force_open("maintenance")
    assert two.breaker.state is CircuitState.FORCED_OPEN
    assert path.exists()
    assert len(two.get_status()["workers"]) == 1


def test_a_store_that_is_given_counts(path: Path, make_client: MakeClient) -> None:
    """Whatever the environment says."""
    store = MemoryBreakerStore()
    assert make_client(store=store).store is store
    assert not path.exists()


def test_one_store_per_value(path: Path, stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for all who ask; another value is another store."""
    store = shared_store()
    assert shared_store() is shared_store(SystemClock()) is store
    monkeypatch.setenv(VARIABLE, f"memory:{path}-2")
    other = shared_store()
    assert other is not store
    assert isinstance(other, SharedMemoryStore)
    monkeypatch.delenv(VARIABLE)
    assert shared_store() is None
    monkeypatch.setenv(VARIABLE, f"memory:{path}")
    assert shared_store() is store
    assert len(stores) == 2


def test_a_forked_child_has_it_too(path: Path, make_client: MakeClient) -> None:
    """A client that was made before the fork shares with those made after it."""
    client = make_client()
    in_child(lambda: make_client().breaker.force_open("by the child"))
    assert client.breaker.state is CircuitState.FORCED_OPEN
    assert path.exists()


def test_from_env(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are made by the environment share as well."""
    monkeypatch.setenv("BILLING_SERVER_URL", "http://127.0.0.1:9")
    with ResilientServiceClient.from_env("BILLING", registry=ServiceRegistry()) as client:
        assert client.store is shared_store()
    assert not path.exists()


# -- what is not shared --------------------------------------------------------------------------------


def test_other_clocks_are_not_shared(path: Path, make_client: MakeClient, fake_clock: FakeClock) -> None:
    """Processes can share only the system's times: with a clock of a test there is no store."""
    assert shared_store(fake_clock) is None
    client = make_client(clock=fake_clock)
    assert client.store is None
    client.breaker.force_open("alone")
    assert make_client().breaker.state is CircuitState.CLOSED


def test_breakers_that_are_switched_off(
    path: Path, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CIRCUIT_BREAKER_ENABLED=false a process lets all pass, and does not have others do so."""
    enabled = make_client()
    monkeypatch.setenv("CIRCUIT_BREAKER_ENABLED", "false")
    disabled = make_client()
    assert disabled.breaker.state is CircuitState.DISABLED
    assert enabled.breaker.state is CircuitState.CLOSED
    enabled.breaker.force_open("maintenance")
    assert disabled.breaker.state is CircuitState.DISABLED
    disabled.breaker.acquire()
    disabled.breaker.reset()
    assert enabled.breaker.state is CircuitState.FORCED_OPEN
    assert disabled.get_status()["requests"]["total"] == 0


# -- bad values ----------------------------------------------------------------------------------------

BAD = [
    "memory",
    "memory:",
    "memory:/",
    "memory:/tmp/",
    "file:/tmp/state",
    "/tmp/state",
    "state",
    ":",
    "Memory:/x",
]


@pytest.mark.parametrize("value", BAD)
def test_a_bad_value(monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, value: str) -> None:
    """The error names the variable, what it says and what it should."""
    monkeypatch.setenv(VARIABLE, value)
    for ask in (shared_store, make_client):
        with pytest.raises(ValueError, match=r"memory:") as raised:
            ask()
        assert str(raised.value).startswith(f"{VARIABLE}={value!r}: ")


@pytest.mark.parametrize(
    "value",
    ["redis://user:s3cret@redis:6379/0", "rediss://:s3cret@redis/0", "redis:s3cret"],
    ids=["redis", "rediss", "short"],
)
def test_a_redis_url(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """There is no such store yet; the password that may be in it is not shown."""
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=rf"^{VARIABLE}: .*memory:<path> is$") as raised:
        shared_store()
    assert "s3cret" not in str(raised.value)


def test_another_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps the store from being made is said with the variable's name."""
    monkeypatch.setattr("service_utils.integrations.shared_memory.store.SUPPORTED", False)
    with pytest.raises(ValueError, match=rf"^{VARIABLE}='memory:{path}': .*needs Linux"):
        shared_store()


def test_a_bad_value_is_looked_at_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is kept."""
    good = f"memory:{path}"
    monkeypatch.setenv(VARIABLE, "nonsense")
    for _ in range(2):
        with pytest.raises(ValueError, match=VARIABLE):
            shared_store()
    monkeypatch.setenv(VARIABLE, good)
    assert shared_store() is not None


# -- what a store can ----------------------------------------------------------------------------------


def test_what_a_store_of_a_host_can(path: Path) -> None:
    """It adds up counts, has room for notes and chooses a leader."""
    store = shared_store()
    assert host_counts(store) is notes_of(store) is leader_of(store) is store
    assert path.parent.exists()


@pytest.mark.parametrize("store", [None, MemoryBreakerStore()], ids=["none", "in memory"])
def test_what_others_cannot(store: BreakerStore | None) -> None:
    """Whoever asks them is told so."""
    assert host_counts(store) is notes_of(store) is leader_of(store) is None


def test_it_is_loaded_only_where_it_is_wanted() -> None:
    """Integrations are at the edge of the package."""
    work = "import sys, service_utils; sys.exit('service_utils.integrations.shared_memory' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", work], timeout=30.0, check=False).returncode == 0
