"""``python -m backend`` as a user runs it: processes, signals, ports and what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from backend.run.parts import free_ports
from tests.backend.commands import END_WITHIN, NAMES, START_WITHIN, Command, fresh_environ, url
from tests.backend.waiting import eventually

Start = Callable[..., Command]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with free ports and an empty folder for data."""
    return fresh_environ(tmp_path)


@pytest.fixture
def start(environ: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts commands, and ends them with the test."""
    with ExitStack() as stack:
        count = iter(range(100))

        def begin(*arguments: str, **changes: str) -> Command:
            command = Command({**environ, **changes}, tmp_path / f"out{next(count)}", *arguments)
            stack.callback(command.close)
            return command

        yield begin


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits for its exit code to be fetched does not, where one can tell."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(") ")[2][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def elsewhere(*names: str) -> dict[str, str]:
    """Settings with which these services are not started here."""
    return {f"{name.upper()}_SERVER_URL": f"http://{name}.example" for name in names}


def test_a_part_that_is_killed_is_named_and_can_come_back(start: Start, environ: dict[str, str]) -> None:
    """The whole story: start, ask, kill Chroma, fallback, start Chroma by hand, Ctrl-C."""
    run = start(CHROMA_RECOVERY_TIMEOUT="0.3", API_RETRY_BASE_DELAY="0.01")
    run.wait_for("Ctrl-C stops everything.")
    pids = run.pids
    assert sorted(pids) == sorted(NAMES)

    token_file = Path(environ["VAR_DIR"], "run/token")
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert token_file.read_text() not in run.output
    admin_file = Path(environ["VAR_DIR"], "run/admin-token")
    assert f"sign in with the token in {admin_file}" in run.output
    assert stat.S_IMODE(admin_file.stat().st_mode) == 0o600
    assert admin_file.read_text() not in run.output
    bearer = {"Authorization": f"Bearer {admin_file.read_text()}"}
    config = requests.get(url(environ, "/admin/reliability/config"), headers=bearer, timeout=30)
    assert sorted(config.json()["services"]) == ["billing", "chroma", "filesystem", "git"]
    assert requests.get(url(environ, "/status"), timeout=30).status_code == 200

    examples = [line for line in run.output.splitlines() if line.startswith("  curl ")]
    assert len(examples) == 3
    for line in examples:
        *_, address, _, body = shlex.split(line)
        answer = requests.post(address, data=body, headers={"Content-Type": "application/json"}, timeout=30)
        assert answer.status_code == 200, answer.text

    os.kill(pids["chroma"], signal.SIGKILL)
    run.wait_for(f"chroma (pid {pids['chroma']}) was killed by SIGKILL; its last words:", END_WITHIN)
    run.wait_for("-m backend --only chroma --port", END_WITHIN)
    asked = {"project_id": "demo", "query": "refunds"}
    for _ in range(6):
        found = requests.post(url(environ, "/v1/api/search"), json=asked, timeout=30)
        assert (found.status_code, found.json()["source"]) == (200, "filesystem")
    run.wait_for("[Chroma Server] Circuit breaker OPEN (threshold reached: 5/5)", END_WITHIN)

    again = start("--only", "chroma")
    run.wait_for("chroma is back at", START_WITHIN)
    eventually(
        lambda: (
            requests.post(url(environ, "/v1/api/search"), json=asked, timeout=30).json()["source"] == "chroma"
        )
    )
    assert run.process.poll() is None

    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 0
    assert [name for name, pid in pids.items() if alive(pid)] == []
    assert not token_file.exists()
    assert not admin_file.exists()
    assert again.process.poll() is None
    again.process.terminate()
    assert again.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_everything_too(start: Start, number: signal.Signals) -> None:
    """A service manager's SIGTERM and a closed terminal end the run as Ctrl-C does."""
    run = start(**elsewhere("chroma", "filesystem", "billing"))
    run.wait_for("Ctrl-C stops everything.")
    pids = run.pids
    assert sorted(pids) == ["backend", "git"]
    assert "http://chroma.example" in run.output

    run.process.send_signal(number)

    assert run.wait() == 0
    assert [name for name, pid in pids.items() if alive(pid)] == []


def test_nothing_is_left_behind_by_a_run_that_is_killed(start: Start) -> None:
    """Even kill -9 of the run ends its parts."""
    run = start(**elsewhere("chroma", "filesystem", "git"))
    run.wait_for("Ctrl-C stops everything.")
    pids = run.pids

    run.process.kill()

    eventually(lambda: not any(map(alive, pids.values())), END_WITHIN)


def test_workers_of_a_production_run_are_one(start: Start, environ: dict[str, str]) -> None:
    """Under gunicorn four workers answer, with one status; kill -9 of the run ends them all, too."""
    run = start("--production", **elsewhere("chroma", "filesystem", "git"))
    run.wait_for("Ctrl-C stops everything.")
    pids = run.pids

    def workers() -> list[int]:
        status = requests.get(url(environ, "/v1/api/status/services"), timeout=30).json()
        return [each["pid"] for each in status["billing"]["workers"]]

    eventually(lambda: len(workers()) == 4, START_WITHIN)
    everybody = [*pids.values(), *workers()]
    assert Path(environ["VAR_DIR"], "circuits").exists()

    run.process.kill()

    eventually(lambda: not any(map(alive, everybody)), END_WITHIN)


def test_wrong_number_of_workers_is_told_without_a_stack_trace(start: Start) -> None:
    """The variable is named, and nothing is left running."""
    run = start("--production", WEB_CONCURRENCY="many", **elsewhere("chroma", "filesystem", "git", "billing"))
    assert run.wait() == 1
    assert "WEB_CONCURRENCY='many': must be a number of workers" in run.output
    assert "Traceback" not in run.output


def test_run_ends_when_its_last_part_has_died(start: Start) -> None:
    """With nothing left to run, the run says so and fails."""
    run = start(**elsewhere("chroma", "filesystem", "git", "billing"))
    run.wait_for("Ctrl-C stops everything.")

    os.kill(run.pids["backend"], signal.SIGTERM)

    assert run.wait() == 1
    assert "ended with exit code 0" in run.output
    assert run.output.endswith("nothing is left running\n")


@pytest.mark.parametrize("name", ["chroma", "backend"])
def test_port_in_use_is_one_line_and_nothing_is_started(
    start: Start, environ: dict[str, str], name: str
) -> None:
    """Whichever port is taken, the run says which, and starts none of the parts."""
    setting = "BACKEND_PORT" if name == "backend" else f"{name.upper()}_SERVER_URL"
    port = int(environ[setting].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        run = start()
        assert run.wait() == 1

    assert run.output == f"port {port} is in use: {name} cannot listen there (see {setting})\n"


def test_port_in_use_stops_a_single_part(start: Start, environ: dict[str, str]) -> None:
    """The same goes for --only."""
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        run = start("--only", "git", "--port", str(port))
        assert run.wait() == 1

    assert run.output == f"port {port} is in use: git cannot listen there (see --port)\n"


def test_second_run_on_the_same_data_is_refused(start: Start, environ: dict[str, str]) -> None:
    """Two runs never write to the same data."""
    first = start(**elsewhere("chroma", "filesystem", "git", "billing"))
    first.wait_for("Ctrl-C stops everything.")
    (port,) = free_ports(1)

    second = start(**elsewhere("chroma", "filesystem", "git", "billing"), BACKEND_PORT=str(port))

    assert second.wait() == 1
    assert second.output.startswith("another run is using ")


def test_part_that_cannot_start_is_named(start: Start, environ: dict[str, str]) -> None:
    """When one part dies at the start, the run says which and why, and stops the others."""
    folder = Path(environ["VAR_DIR"])
    folder.mkdir()
    (folder / "git").write_text("a file where a folder should be")

    run = start(**elsewhere("chroma", "filesystem"))

    assert run.wait() == 1
    assert re.search(r"^git \(pid \d+\) ended with exit code 1; its last words:$", run.output, re.MULTILINE)
    assert "Traceback" not in run.output
    assert "ready\n" not in run.output


def test_own_token_is_neither_replaced_nor_written(start: Start, environ: dict[str, str]) -> None:
    """A token that the user has set is the one in force, and stays out of files and output."""
    run = start(
        **elsewhere("chroma", "filesystem", "git"),
        INTERNAL_SERVICE_TOKEN="my-own-secret",
        ADMIN_TOKEN="my-own-word",
    )
    run.wait_for("Ctrl-C stops everything.")

    balance = environ["BILLING_SERVER_URL"] + "/balance/dev"
    assert requests.get(balance, headers={"X-INTERNAL-TOKEN": "my-own-secret"}, timeout=10).status_code == 200
    assert requests.get(balance, timeout=10).status_code == 401
    assert not Path(environ["VAR_DIR"], "run/token").exists()
    assert not Path(environ["VAR_DIR"], "run/admin-token").exists()
    bearer = {"Authorization": "Bearer my-own-word"}
    assert (
        requests.get(url(environ, "/admin/reliability/config"), headers=bearer, timeout=30).status_code == 200
    )
    assert "my-own-secret" not in run.output
    assert "my-own-word" not in run.output


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        (["--only", "chrome"], {}, "invalid choice: 'chrome'"),
        (["--only", "chroma", "--port", "70000"], {}, "'70000' is no port"),
        (["--port", "5001"], {}, "--port needs --only"),
        ([], {"BACKEND_PORT": "http"}, "BACKEND_PORT='http': must be a port, 1 to 65535"),
        ([], {"CHROMA_SERVER_URL": "http://127.0.0.1:99999"}, "CHROMA_SERVER_URL="),
        (["--only", "backend"], {"CHAT_RESERVE": "much"}, "CHAT_RESERVE='much': must be a whole number"),
        (["--only", "backend"], {"SERVICE_UTILS_PROFILE": "production"}, "INTERNAL_SERVICE_TOKEN is not set"),
        (
            ["--only", "backend"],
            {"SERVICE_UTILS_PROFILE": "production", "INTERNAL_SERVICE_TOKEN": "secret"},
            "profile production needs AUTH_JWT_SECRET",
        ),
        (["--only", "backend"], {"LOG_LEVEL": "LOUD"}, "LOG_LEVEL='LOUD'"),
    ],
)
def test_wrong_settings_are_told_without_a_stack_trace(
    start: Start, arguments: list[str], changes: dict[str, str], words: str
) -> None:
    """What cannot be started is explained, and the exit code says so."""
    run = start(*arguments, **changes)

    assert run.wait() in (1, 2)
    assert words in run.output
    assert "Traceback" not in run.output


def test_same_port_twice_is_told(start: Start, environ: dict[str, str]) -> None:
    """Two parts at one port are found out before anything starts."""
    run = start(GIT_SERVER_URL=environ["CHROMA_SERVER_URL"])

    assert run.wait() == 1
    assert "is given to both chroma and git" in run.output


@pytest.mark.parametrize("mode", [[], ["--production"]], ids=["one", "workers"])
def test_log_lines_can_be_json(start: Start, environ: dict[str, str], mode: list[str]) -> None:
    """One object per line, with the id of the request that it was written for."""
    run = start(
        *mode,
        **elsewhere("chroma", "filesystem", "billing", "git"),
        LOG_FORMAT="json",
        API_RETRY_MAX="1",
        WEB_CONCURRENCY="2",
    )
    run.wait_for("Ctrl-C stops everything.")
    asked = {"project_id": "demo", "query": "refunds"}
    requests.post(url(environ, "/v1/api/search"), json=asked, headers={"X-Request-ID": "the-one"}, timeout=30)
    run.wait_for('"request_id":"the-one"')
    said = [line.partition("| ")[2] for line in run.output.splitlines() if line.startswith("backend ")]
    lines = [json.loads(line) for line in said if line.startswith("{")]
    found = next(line for line in lines if line.get("request_id") == "the-one")
    assert found["service"] == "Chroma Server"
    assert found["logger"].startswith("service_utils")
