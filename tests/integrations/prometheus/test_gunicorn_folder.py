"""The folder that a configuration of gunicorn has ready for its workers."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from service_utils.integrations.prometheus import gunicorn
from service_utils.integrations.prometheus.gunicorn import child_exit, metrics_folder

LEFT = ("counter_12.db", "histogram_12.db", "gauge_livesum_12.db")


@pytest.fixture(autouse=True)
def unlocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that has just been started, and ends with the test."""
    held: dict[Path, int] = {}
    monkeypatch.setattr(gunicorn, "_held", held)
    yield
    for descriptor in held.values():
        os.close(descriptor)


def leave(folder: Path) -> None:
    """What an earlier server leaves, and a file that is none of its."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*LEFT, "orders.db"):
        (folder / name).write_bytes(b"x")


def test_what_an_earlier_server_left_is_gone(tmp_path: Path) -> None:
    """A new server counts from zero; files of others in that folder stay."""
    folder = tmp_path / "var" / "metrics"
    leave(folder)
    assert metrics_folder(folder) == f"PROMETHEUS_MULTIPROC_DIR={folder}"
    assert {each.name for each in folder.iterdir()} == {"orders.db", "in-use.lock"}


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    """Parents included; a relative path becomes absolute."""
    metrics_folder(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


def test_a_reload_keeps_what_was_counted(tmp_path: Path) -> None:
    """gunicorn reads its configuration again at HUP, while the workers count on."""
    metrics_folder(tmp_path)
    leave(tmp_path)
    metrics_folder(tmp_path)
    assert (tmp_path / "counter_12.db").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """Who checks the configuration takes nothing from the server that runs, nor does its successor."""
    descriptor = os.open(tmp_path / "in-use.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    leave(tmp_path)
    metrics_folder(tmp_path)
    assert (tmp_path / "counter_12.db").exists()
    os.close(descriptor)


def test_the_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path it is the one of PROMETHEUS_MULTIPROC_DIR; without either there is none."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert metrics_folder() == f"PROMETHEUS_MULTIPROC_DIR={tmp_path}"
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    with pytest.raises(ValueError, match="folder=None"):
        metrics_folder()


def test_too_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a process that has loaded prometheus_client already the log says that it is of no use."""
    import prometheus_client  # noqa: F401

    with caplog.at_level(logging.WARNING):
        metrics_folder(tmp_path)
    assert "was loaded before" in caplog.text


def test_the_helper_does_not_load_the_library(tmp_path: Path) -> None:
    """A configuration imports it before the folder is known, and that must not decide the mode."""
    code = (
        "import sys; from service_utils.integrations.prometheus.gunicorn import metrics_folder;"
        f"metrics_folder({str(tmp_path)!r}); print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_worker_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gauges are gone, its counters stay; without a folder there is nothing to do."""
    leave(tmp_path)
    child_exit(None, SimpleNamespace(pid=12))
    assert (tmp_path / "gauge_livesum_12.db").exists()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    child_exit(None, SimpleNamespace(pid=12))
    assert not (tmp_path / "gauge_livesum_12.db").exists()
    assert (tmp_path / "counter_12.db").exists()


def test_the_package_has_nothing_else() -> None:
    """What is misspelt is an AttributeError, although the package loads its parts when they are asked for."""
    import service_utils.integrations.prometheus as package

    with pytest.raises(AttributeError, match="Metrix"):
        package.Metrix  # noqa: B018
