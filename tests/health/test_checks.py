"""The ready-made checks: services, database, disk and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from service_utils import ResilientServiceClient, RetryPolicy, ServiceRegistry
from service_utils.events import CircuitState
from service_utils.health import (
    Finding,
    HealthChecker,
    HealthStatus,
    database,
    disk_space,
    memory,
    memory_use,
)
from service_utils.storage import Database
from service_utils.testing import Answer, FaultServer


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry()
    yield registry
    registry.close()


@pytest.fixture
def client(fault_server: FaultServer, registry: ServiceRegistry) -> ResilientServiceClient:
    return ResilientServiceClient(
        fault_server.url, "Chroma Server", name="chroma", health_path="/health", registry=registry
    )


def test_a_service(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A client's health path is asked once, and nothing is counted by it."""
    checker = HealthChecker(cache_seconds=0)
    checker.register_client(client)
    assert checker.check("chroma").status is HealthStatus.HEALTHY
    fault_server.default = Answer(503)
    found = checker.check("chroma")
    assert found.status is HealthStatus.UNHEALTHY
    assert found.detail == "Chroma Server: GET /health failed after 1 attempt: status 503"
    assert client.get_status()["requests"]["total"] == 0
    assert [request.path for request in fault_server.requests] == ["/health"] * 2


def test_a_service_whose_circuit_is_open(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A service that answers while calls to it are refused is degraded; its circuit is left alone."""
    fault_server.script(*[Answer(500)] * 20)
    while client.state is CircuitState.CLOSED:
        with pytest.raises(requests.HTTPError):
            client.get("/query", retry=RetryPolicy(max_attempts=1))
    fault_server.clear()
    checker = HealthChecker()
    checker.register_client(client)
    found = checker.check("chroma")
    assert (found.status, found.detail) == (HealthStatus.DEGRADED, "answers, but its circuit is open")
    assert client.state is CircuitState.OPEN


def test_many_bad_probes_open_no_circuit(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """However often the health path fails, calls are still let through."""
    fault_server.default = Answer(500)
    checker = HealthChecker(cache_seconds=0)
    checker.register_client(client)
    assert {checker.check("chroma").status for _ in range(12)} == {HealthStatus.UNHEALTHY}
    assert client.state is CircuitState.CLOSED


def test_a_service_that_hangs(client: ResilientServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has less time than its check, so that the client can say what was wrong."""
    timeouts: list[float | None] = []

    def probe(timeout: float | None = None) -> requests.Response:
        timeouts.append(timeout)
        raise requests.Timeout("Chroma Server: GET /health timed out")

    monkeypatch.setattr(client, "probe", probe)
    checker = HealthChecker()
    checker.register_client(client, timeout=10.0)
    assert checker.check("chroma").detail == "Timeout: Chroma Server: GET /health timed out"
    assert timeouts == [9.0]


def test_a_service_that_is_not_to_be_asked(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Where somebody holds the circuit open by hand the service is left alone, and the check says so."""
    client.breaker.force_open("maintenance")
    checker = HealthChecker()
    checker.register_client(client)
    assert checker.check("chroma").status is HealthStatus.DEGRADED
    assert checker.check("chroma").detail == "not asked: its circuit is held open by hand"
    assert fault_server.requests == []


def test_all_clients_of_a_registry(client: ResilientServiceClient, registry: ServiceRegistry) -> None:
    """Those with a health path are checked, others are left out, or refused when named."""
    silent = ResilientServiceClient("http://127.0.0.1:9", name="silent", registry=registry)
    checker = HealthChecker()
    checker.register_clients(registry)
    assert checker.names() == ["chroma"]
    with pytest.raises(ValueError, match="has no health_path"):
        checker.register_client(silent)


def test_clients_that_come_and_go(
    client: ResilientServiceClient, registry: ServiceRegistry, fault_server: FaultServer
) -> None:
    """Clients made later are asked, too, closed ones no more, and one in another's place is a new one."""
    checker = HealthChecker()
    checker.register_clients(registry)
    later = ResilientServiceClient(fault_server.url, name="git", health_path="/up", registry=registry)
    assert list(checker.check_all().checks) == ["chroma", "git"]
    later.close()
    assert checker.names() == ["chroma"]
    client.close()
    ResilientServiceClient(fault_server.url, name="chroma", health_path="/new", registry=registry)
    assert checker.last().checks == {}
    checker.check_all()
    assert sorted(request.path for request in fault_server.requests) == ["/health", "/new", "/up"]


def test_a_check_in_a_clients_place(client: ResilientServiceClient, registry: ServiceRegistry) -> None:
    """A check registered by a client's name goes before it, and the client comes back when it is gone."""
    checker = HealthChecker(cache_seconds=0)
    checker.register("chroma", lambda: Finding(HealthStatus.DEGRADED, "read only"))
    checker.register_clients(registry)
    assert checker.check("chroma").detail == "read only"
    checker.unregister("chroma")
    assert checker.check("chroma").status is HealthStatus.HEALTHY


def test_a_database(tmp_path: Path) -> None:
    """A file that can be read is healthy, one that is damaged is not."""
    path = tmp_path / "a.db"
    with closing(Database(path)) as found:
        found.migrate("notes", ("CREATE TABLE note (a);",))
        checker = HealthChecker(cache_seconds=0)
        checker.register("database", database(found), required_for_ready=True)
        assert checker.ready().ready
        found.close()
        path.write_bytes(b"no database at all " * 300)
        (reason,) = checker.ready().reasons
        assert reason.startswith("database: StorageError: ")


def test_a_file_by_its_path(tmp_path: Path) -> None:
    """A file may be named, too; one that is not there is unhealthy, and is not made by looking for it."""
    path = tmp_path / "what? a name.db"
    checker = HealthChecker(cache_seconds=0)
    checker.register("database", database(path))
    assert checker.check("database").status is HealthStatus.UNHEALTHY
    assert not path.exists()
    Database(path).close()
    assert checker.check("database").status is HealthStatus.HEALTHY


def disk(**values: int) -> SimpleNamespace:
    """What the kernel says of a disk."""
    return SimpleNamespace(
        **{"f_flag": 0, "f_files": 10, "f_favail": 5, "f_frsize": 1, "f_blocks": 1000, **values}
    )


@pytest.mark.parametrize(
    ("free", "status"), [(100, "healthy"), (39, "degraded"), (20, "degraded"), (19, "unhealthy")]
)
def test_disk_by_bytes(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    """Below the least room unhealthy, below twice that degraded."""
    monkeypatch.setattr(os, "statvfs", lambda _path: disk(f_bavail=free, f_frsize=1024))
    assert disk_space(".", min_free_bytes=20 * 1024)().status.value == status


@pytest.mark.parametrize(("free", "status"), [(201, "healthy"), (150, "degraded"), (99, "unhealthy")])
def test_disk_by_share(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    """On a large disk the share counts."""
    monkeypatch.setattr(os, "statvfs", lambda _path: disk(f_bavail=free))
    assert disk_space(".", min_free_bytes=0, min_free_fraction=0.1)().status.value == status


@pytest.mark.parametrize(
    ("values", "status", "detail"),
    [
        ({"f_flag": os.ST_RDONLY}, "unhealthy", "the disk can only be read"),
        ({"f_favail": 0}, "unhealthy", "the disk has no inode left for another file"),
        ({"f_favail": 0, "f_files": 0}, "healthy", "0.0 GiB free of 0.0"),
    ],
)
def test_disks_that_take_no_file(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, int], status: str, detail: str
) -> None:
    """Room is no use on a disk that is mounted for reading, or that can name no other file."""
    monkeypatch.setattr(os, "statvfs", lambda _path: disk(f_bavail=900, **values))
    found = disk_space(".", min_free_bytes=1)()
    assert (found.status.value, found.detail) == (status, detail)


def test_the_real_disk(tmp_path: Path) -> None:
    """The disk under the tests is asked without an error, a folder that is not there with one."""
    assert "GiB free of" in disk_space(tmp_path, 0)().detail
    with pytest.raises(FileNotFoundError):
        disk_space(tmp_path / "nowhere")()


class Machine:
    """The files of a kernel below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n")

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def group(self, version: int, path: str, limit: object, used: int, droppable: int = 0) -> None:
        """Make a control group."""
        names, kind = {
            1: (("memory/", "limit_in_bytes", "usage_in_bytes"), "total_inactive_file"),
            2: (("", "max", "current"), "inactive_file"),
        }[version]
        folder = f"sys/fs/cgroup/{names[0]}{path}/memory"
        self.put(f"{folder}.{names[1]}", f"{limit}\n")
        self.put(f"{folder}.{names[2]}", f"{used}\n")
        self.put(f"{folder}.stat", f"anon 5\n{kind} {droppable}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(memory_use, "_ROOT", tmp_path)
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("used", "status"), [(880, "healthy"), (899, "healthy"), (920, "degraded"), (960, "unhealthy")]
)
@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_a_container(machine: Machine, used: int, status: str, version: int) -> None:
    """The container's limit counts, and pages of files that can be dropped do not."""
    machine.group(version, ".", 1000, used + 30, droppable=30)
    assert memory(0.95)().status.value == status


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_a_unit(machine: Machine, version: int) -> None:
    """Outside of containers the process's own group counts, and the tightest one of those around it."""
    machine.put("proc/self/cgroup", "5:pids:/other\n4:cpu,memory:/web.slice/api\n0::/web.slice/api\n")
    machine.group(version, "web.slice/api", 2000, 500)
    machine.group(version, "web.slice", 4000, 3960)
    machine.group(version, "other", 1000, 1000)
    found = memory()()
    assert (found.status, found.detail) == (HealthStatus.UNHEALTHY, "99% used of 0.0 GiB")


def test_memory_by_a_path_of_the_host(machine: Machine) -> None:
    """A container that is told its path on the host looks at what it can see."""
    machine.put("proc/self/cgroup", "0::/../../other\n")
    machine.group(2, ".", 1000, 300)
    machine.group(2, "../../other", 1000, 900)
    assert memory()().detail.startswith("30% used")


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), "0", "none of these"])
def test_memory_of_the_machine(machine: Machine, limit: str) -> None:
    """Without a limit, or with one beyond all memory there is, the machine's memory counts."""
    machine.group(2, ".", limit, 10)
    found = memory()()
    assert found.status is HealthStatus.HEALTHY
    assert found.detail.startswith("60% used")


@pytest.mark.parametrize("text", [None, "", "MemTotal: many kB\nMemAvailable: 1 kB\n"])
def test_a_system_that_does_not_tell(machine: Machine, text: str | None) -> None:
    """Elsewhere than on Linux nothing can be said, and that is no reason for an alarm."""
    (machine.root / "proc/meminfo").unlink()
    if text is not None:
        machine.put("proc/meminfo", text)
    found = memory()()
    assert (found.status, found.detail) == (
        HealthStatus.HEALTHY,
        "this system does not tell how much memory is used",
    )


def test_the_real_memory() -> None:
    """The memory under the tests is found."""
    assert "% used of" in memory(1.0)().detail


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: disk_space(".", min_free_bytes=-1), "min_free_bytes=-1"),
        (lambda: disk_space(".", min_free_bytes=0.5), "min_free_bytes=0.5"),
        (lambda: disk_space(".", min_free_fraction=2), "min_free_fraction=2"),
        (lambda: memory(-0.1), "max_used_fraction=-0.1"),
        (lambda: memory(0), "max_used_fraction=0"),
    ],
)
def test_bad_limits(make: object, message: str) -> None:
    """A limit that makes no sense is named."""
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
