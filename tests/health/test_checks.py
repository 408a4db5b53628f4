"""The ready-made checks: services, database, disk and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.health import HealthChecker, HealthStatus, checks, database, disk_space, memory
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


def test_a_service_whose_circuit_is_open(client: ResilientServiceClient) -> None:
    """A service that answers while calls to it are refused is degraded, and the check says why."""
    client.breaker.force_open("maintenance")
    checker = HealthChecker()
    checker.register_client(client)
    found = checker.check("chroma")
    assert found.status is HealthStatus.DEGRADED
    assert found.detail == "answers, but its circuit is forced open"


def test_all_clients_of_a_registry(client: ResilientServiceClient, registry: ServiceRegistry) -> None:
    """Those with a health path are checked, others are left out, or refused when named."""
    silent = ResilientServiceClient("http://127.0.0.1:9", name="silent", registry=registry)
    checker = HealthChecker()
    checker.register_clients(registry)
    assert checker.names() == ["chroma"]
    with pytest.raises(ValueError, match="has no health_path"):
        checker.register_client(silent)


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


@pytest.mark.parametrize(
    ("free", "status"), [(100, "healthy"), (39, "degraded"), (20, "degraded"), (19, "unhealthy")]
)
def test_disk_by_bytes(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    """Below the least room unhealthy, below twice that degraded."""
    found = SimpleNamespace(f_bavail=free, f_frsize=1024, f_blocks=1000)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    assert disk_space(".", min_free_bytes=20 * 1024, min_free_fraction=0.0)().status.value == status


@pytest.mark.parametrize(("free", "status"), [(201, "healthy"), (150, "degraded"), (99, "unhealthy")])
def test_disk_by_share(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    """On a large disk the share counts."""
    found = SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=1000)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    assert disk_space(".", min_free_bytes=0, min_free_fraction=0.1)().status.value == status


def test_the_real_disk(tmp_path: Path) -> None:
    """The disk under the tests is asked without an error, a folder that is not there with one."""
    assert "GiB free of" in disk_space(tmp_path, 0, 0.0)().detail
    with pytest.raises(FileNotFoundError):
        disk_space(tmp_path / "nowhere")()


@pytest.mark.parametrize(
    ("used", "status"), [(880, "healthy"), (899, "healthy"), (920, "degraded"), (960, "unhealthy")]
)
@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, used: int, status: str, version: int
) -> None:
    """The container's limit counts, and pages of files that can be dropped do not."""
    names = {
        1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
        2: ("memory.max", "memory.current", "memory.stat", ""),
    }[version]
    (tmp_path / "memory").mkdir()
    (tmp_path / names[0]).write_text("1000\n")
    (tmp_path / names[1]).write_text(f"{used + 30}\n")
    (tmp_path / names[2]).write_text(f"anon 5\n{names[3]}inactive_file 30\n")
    monkeypatch.setattr(checks, "_CGROUP", tmp_path)
    assert memory(0.95)().status.value == status


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str) -> None:
    """Without a limit the machine's memory counts."""
    (tmp_path / "memory.max").write_text(limit)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n")
    monkeypatch.setattr(checks, "_CGROUP", tmp_path)
    monkeypatch.setattr(checks, "_MEMINFO", meminfo)
    found = memory()()
    assert found.status is HealthStatus.HEALTHY
    assert found.detail.startswith("60% used")


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
    ],
)
def test_bad_limits(make: object, message: str) -> None:
    """A limit that makes no sense is named."""
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
