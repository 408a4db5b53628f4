"""Whatever becomes of the files behind shared state: calls go on, and soon all share one circuit again."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.torture.processes import Process, gang, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is shared so needs Linux")

_SECONDS = float(os.environ.get("TORTURE_SECONDS") or 4)
_SEED = int(os.environ.get("TORTURE_SEED") or secrets.randbelow(10**6))
_STORM = _SECONDS / 3
_CALLERS = 4
_PAUSE = 0.01  # seconds between two calls of one
_LONGEST = 0.7
_SHARED_WITHIN = 2.0
_LOOKED_AT_WITHIN = 0.3  # each process looks after the files every quarter of a second
_numbers = itertools.count()


class _Server(ThreadingHTTPServer):
    """Says nothing of callers that end in the middle of a request."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class _Service(BaseHTTPRequestHandler):
    """Answers 200, or 500 where it is said to be ill."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        self.send_response(500 if self.path == "/ill" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Host:
    """The callers of one host, and the files they share."""

    path: Path
    url: str
    callers: list[Process] = field(default_factory=list)

    def start(self) -> Process:
        """Another caller, which has not called yet."""
        order = {"path": str(self.path), "url": self.url, "pause": _PAUSE}
        log = self.path.with_name(f"caller {next(_numbers)}.log")
        return Process("caller", order, log)

    def replace(self, number: int) -> None:
        """``kill -9`` to one of them, and another in its place."""
        self.callers[number].bury()
        self.callers[number] = self.start()
        assert self.callers[number].hear() == "ready"

    def ask(self, order: str) -> list[Any]:
        """What each of them answers."""
        for each in self.callers:
            each.say(order)
        return [each.hear() for each in self.callers]

    def tell(self, number: int, order: str) -> Any:
        """What one of them answers."""
        self.callers[number].say(order)
        return self.callers[number].hear()

    def all_are(self, state: str) -> bool:
        return self.ask("state") == [state] * _CALLERS

    @property
    def mapped(self) -> Path:
        """The mapped file."""
        (found,) = (each for each in self.path.parent.glob("state.??????") if each.suffix != ".lock")
        return found

    def is_anchored(self) -> bool:
        """Whether there is one mapped file, and the small one that names it."""
        names = sorted(each.name for each in self.path.parent.glob("state*") if each.is_file())
        return names[:1] == ["state"] and len([each for each in names if each[6:] not in ("", "lock")]) == 1


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("tampering")
    server = _Server(("127.0.0.1", 0), _Service)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    host = Host(folder / "state", f"http://127.0.0.1:{server.server_port}")
    try:
        with gang() as processes:
            host.callers = processes
            processes += [host.start() for _ in range(_CALLERS)]
            assert [each.hear() for each in processes] == ["ready"] * _CALLERS
            yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _noise(path: Path, start: int = 0, byte: bytes | None = None) -> None:
    """Write over a file from there on, its length as it was."""
    length = path.stat().st_size - start
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(length).randbytes(length) if byte is None else byte * length)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"what somebody else had to say\n" * 100)
    other.rename(path)


def _by_a_directory(path: Path) -> None:
    while not path.is_dir():
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # somebody has put a file there already
            path.mkdir()


def _by_a_symlink(path: Path, target: str) -> None:
    other = path.with_name("other")
    path.with_name("elsewhere").write_bytes(b"not for you")
    other.symlink_to(target)
    other.rename(path)


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _all_gone(host: Host) -> None:
    for each in (host.mapped, host.path, _lock(host.path)):
        each.unlink()


TAMPERINGS: dict[str, Callable[[Host], object]] = {
    "deleted": lambda host: host.path.unlink(),
    "replaced by rename": lambda host: _replace(host.path),
    "truncated": lambda host: os.truncate(host.path, 0),
    "truncated to half": lambda host: os.truncate(host.path, host.path.stat().st_size // 2),
    "filled with noise": lambda host: _noise(host.path),
    "chmod 000": lambda host: host.path.chmod(0),
    "chmod 666": lambda host: host.path.chmod(0o666),
    "replaced by a directory": lambda host: _by_a_directory(host.path),
    "replaced by a symlink": lambda host: _by_a_symlink(host.path, "elsewhere"),
    "replaced by a symlink to nothing": lambda host: _by_a_symlink(host.path, "nowhere"),
    "lock deleted": lambda host: _lock(host.path).unlink(),
    "mapped file deleted": lambda host: host.mapped.unlink(),
    "mapped file chmod 666": lambda host: host.mapped.chmod(0o666),
    "mapped file filled with noise": lambda host: _noise(host.mapped),
    "mapped file filled with noise but for its header": lambda host: _noise(host.mapped, 4096),
    "mapped file filled with zeros": lambda host: _noise(host.mapped, 0, b"\0"),
    "mapped file filled with ones": lambda host: _noise(host.mapped, 0, b"\xff"),
    "mapped file filled with ones but for its header": lambda host: _noise(host.mapped, 4096, b"\xff"),
    "all deleted": _all_gone,
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_calls_go_on_and_the_circuit_is_shared_again(host: Host, tampering: str) -> None:
    """No call fails or waits for it, nobody dies, and what one finds out all know within two seconds."""
    assert until(host.is_anchored, _SHARED_WITHIN)
    assert until(lambda: host.all_are("closed"), _SHARED_WITHIN)
    host.ask("report")
    try:
        TAMPERINGS[tampering](host)
        assert host.tell(0, "trip") == "open"
        assert until(lambda: host.all_are("open"), _SHARED_WITHIN), host.ask("state")
        assert host.tell(1, "reset") == "closed"
        assert until(lambda: host.all_are("closed"), _SHARED_WITHIN), host.ask("state")
        _share(host)
        _complain(host, refused=True)
    finally:
        if host.path.is_dir():
            host.path.rmdir()


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_nobody_is_refused_because_of_it(host: Host, tampering: str) -> None:
    """Closed circuits stay closed, all the while that the files are put in order."""
    assert until(host.is_anchored, _SHARED_WITHIN)
    assert until(lambda: host.all_are("closed"), _SHARED_WITHIN)
    host.ask("report")
    try:
        TAMPERINGS[tampering](host)
        until(lambda: not host.all_are("closed"), _LOOKED_AT_WITHIN)
        _complain(host, refused=False)
        _share(host)
    finally:
        if host.path.is_dir():
            host.path.rmdir()


@pytest.mark.timeout(60 + 2 * _SECONDS)
def test_all_of_it_in_quick_succession(host: Host) -> None:
    """Whatever order it comes in, and before the last was put in order: in the end all share one circuit."""
    print(f"TORTURE_SEED={_SEED}")
    rolls, ends = random.Random(_SEED), time.monotonic() + _STORM
    host.ask("report")
    while time.monotonic() < ends:
        with contextlib.suppress(OSError, ValueError):  # what the last one did is not always undone yet
            TAMPERINGS[rolls.choice(list(TAMPERINGS))](host)
        host.tell(rolls.randrange(_CALLERS), rolls.choice(("trip", "reset", "state")))
        until(lambda: False, rolls.uniform(0.0, 0.1))
        if host.path.is_dir() and rolls.random() < 0.5:
            host.path.rmdir()
    if host.path.is_dir():
        host.path.rmdir()
    assert until(host.is_anchored, _SHARED_WITHIN)
    assert until(lambda: len(set(host.ask("state"))) == 1, _SHARED_WITHIN), host.ask("state")
    host.tell(0, "reset")
    assert until(lambda: host.all_are("closed"), _SHARED_WITHIN), host.ask("state")
    _share(host)
    _complain(host, refused=True)


@pytest.mark.parametrize("byte", [None, b"\xff"], ids=["noise", "ones"])
def test_who_comes_after_it_shares_too(host: Host, byte: bytes | None) -> None:
    """What members who have gone left in a spoilt file keeps nobody from coming, nor from calling."""
    assert until(host.is_anchored, _SHARED_WITHIN)
    spoilt = host.mapped
    _noise(spoilt, 0, byte)
    assert until(lambda: not spoilt.exists() and host.is_anchored(), _SHARED_WITHIN)
    _share(host)
    for number in range(_CALLERS - 2):
        host.replace(number)
    assert until(lambda: host.all_are("closed"), _SHARED_WITHIN), host.ask("state")
    _share(host)
    _complain(host, refused=True)


def _share(host: Host) -> None:
    """What one learns the others know at once, or within the two seconds for which things may be moving."""
    for number in range(_CALLERS):
        assert host.tell(number, "trip") == "open"
        assert until(lambda: host.all_are("open"), _SHARED_WITHIN), host.ask("state")
        assert host.tell(number - 1, "reset") == "closed"
        assert until(lambda: host.all_are("closed"), _SHARED_WITHIN), host.ask("state")


def _complain(host: Host, *, refused: bool) -> None:
    for each in host.ask("report"):
        assert each["calls"] > 0
        assert each["failed"] == []
        assert each["longest"] < _LONGEST
        assert refused or each["refused"] == 0
    for caller in host.callers:
        assert "Traceback" not in caller.log.read_text()
