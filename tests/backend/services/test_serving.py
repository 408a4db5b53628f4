"""A local service as a process: how it starts and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.services.serving import data_dir, projects_dir, service_parser

Spawn = Callable[..., Any]
SERVICES = ["chroma", "filesystem"]

SLOW_APP = """
import sys, pathlib
from backend.services.common import make_service_app, serve
from service_utils.clock import SYSTEM

def slow():
    pathlib.Path(sys.argv[1]).touch()
    while not pathlib.Path(sys.argv[2]).exists():
        SYSTEM.sleep(0.01)
    return "finished"

app = make_service_app("slow", ready=lambda: None, max_body=1000)
app.add_url_rule("/slow", "slow", slow)
app.add_url_rule("/echo", "echo", lambda: __import__("flask").request.get_data(), methods=["POST"])
serve(app, port=0, name="slow")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{path} never came")


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_cleanly(
    spawn: Spawn, tmp_path: Path, service: str, number: signal.Signals
) -> None:
    """A service prints its address in one line, answers there, and ends with code 0 on both signals."""
    running = spawn("-m", f"backend.services.{service}", "--port", "0", "--data", str(tmp_path))
    assert running.first_line.startswith(f"{service} listening on http://127.0.0.1:")
    assert running.get("/ready").json() == {"status": "ready", "service": service}
    running.process.send_signal(number)
    out, err = running.process.communicate(timeout=20)
    assert (running.process.returncode, out, err) == (0, "", "")


def test_a_running_request_is_finished_first(spawn: Spawn, tmp_path: Path) -> None:
    """A request that is being answered when the signal comes gets its answer."""
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    running = spawn("-c", SLOW_APP, str(begun), str(go_on))
    answers: list[str] = []
    caller = threading.Thread(target=lambda: answers.append(running.get("/slow").text))
    caller.start()
    wait_for(begun)
    running.process.send_signal(signal.SIGTERM)
    go_on.touch()
    caller.join(20)
    assert answers == ["finished"]
    assert running.process.wait(20) == 0


def test_a_body_without_a_length_is_limited_too(spawn: Spawn, tmp_path: Path) -> None:
    """A chunked body over the limit is a 413 in problem JSON."""
    running = spawn("-c", SLOW_APP, str(tmp_path / "a"), str(tmp_path / "b"))
    answer = running.session.post(f"{running.url}/echo", data=iter([b"x" * 900] * 2), timeout=20)
    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("service", SERVICES)
def test_a_port_in_use(tmp_path: Path, service: str) -> None:
    """A port in use is told in one line, and the code is 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(f"backend.services.{service}", "--port", port, "--data", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"{service} cannot listen on http://127.0.0.1:{port}: the port is in use\n"


def test_an_unknown_host(tmp_path: Path) -> None:
    """An address that is not ours is told in one line, and the code is 1."""
    done = run("backend.services.chroma", "--host", "192.0.2.1", "--port", "0", "--data", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("chroma cannot listen on http://192.0.2.1:0: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_data_folder_that_is_a_file(tmp_path: Path, service: str) -> None:
    """A data folder that cannot be used is told in one line, and the code is 1."""
    (tmp_path / "file").touch()
    done = run(f"backend.services.{service}", "--port", "0", "--data", str(tmp_path / "file"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{service} cannot start: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "option", [("--port", "x"), ("--port", "65536"), ("--port", "-1"), ("--threads", "0")]
)
def test_wrong_options_are_named(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends with the usage and names the option."""
    with pytest.raises(SystemExit) as ended:
        service_parser("chroma", 6003).parse_args(option)
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_the_defaults_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options a service listens on its own port of this machine, with its data below ./var."""
    options = service_parser("chroma", 6003).parse_args([])
    assert (options.host, options.port, options.data) == ("127.0.0.1", 6003, Path("var/chroma"))


def test_where_data_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """VAR_DIR moves all data, PROJECTS_DIR the projects alone; an empty variable is none."""
    monkeypatch.setenv("VAR_DIR", "/data")
    assert data_dir("chroma") == Path("/data/chroma")
    assert projects_dir() == Path("/data/filesystem/projects")
    assert projects_dir(Path("/other")) == Path("/other/projects")
    monkeypatch.setenv("PROJECTS_DIR", "/projects")
    assert projects_dir(Path("/other")) == Path("/projects")
    monkeypatch.setenv("PROJECTS_DIR", "")
    monkeypatch.setenv("VAR_DIR", "")
    assert projects_dir() == Path("var/filesystem/projects")


def test_several_addresses_of_a_name(spawn: Spawn, tmp_path: Path) -> None:
    """A service on localhost is reached whatever address the name has."""
    running = spawn(
        "-m", "backend.services.chroma", "--host", "localhost", "--port", "0", "--data", str(tmp_path)
    )
    assert requests.get(f"{running.url}/health", timeout=20).json()["service"] == "chroma"
