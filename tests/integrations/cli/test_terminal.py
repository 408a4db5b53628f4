"""The operators' commands on a terminal: questions, colours, a live picture, Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waitress.server import create_server

from tests.backend.waiting import eventually
from tests.in_thread import in_thread
from tests.integrations.flask.operating import TOKEN, Operated, operated

ROOT = Path(__file__).parents[3]
PATIENCE = 30.0


class Terminal:
    """A command with a terminal of its own, and what is to be read there."""

    def __init__(self, *arguments: str, columns: int = 100, **environ: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service_utils", *arguments],
            cwd=ROOT,
            env={**environment, "TERM": "xterm-256color", **environ},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, words: str) -> None:
        """Wait for words to appear."""
        ends = time.monotonic() + PATIENCE
        while words not in self.text:
            assert time.monotonic() < ends, self.text
            assert self._read(), self.text

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], 0.5)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def wait_until_it_waits(self) -> None:
        """Until it sleeps and works no more: a signal a moment before is not noticed by Python's readline."""
        seen: list[str] = []

        def idle() -> bool:
            seen.append(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2])
            states = [each.split() for each in seen[-5:]]
            return len(states) == 5 and all(
                each[0] == "S" and each[11:13] == states[0][11:13] for each in states
            )

        eventually(idle, within=PATIENCE)

    def type(self, text: str) -> None:
        """Answer a question."""
        os.write(self._ours, text.encode())

    def wait(self) -> int:
        """Read to the end; the exit code."""
        while self._read() and self.process.poll() is None:
            pass
        while select.select([self._ours], [], [], 0.1)[0] and self._read():
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(*arguments: str, columns: int = 100, **environ: str) -> Iterator[Terminal]:
    """A command that is ended with the block."""
    command = Terminal(*arguments, columns=columns, **environ)
    try:
        yield command
    finally:
        command.close()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    """An app whose operators have a token."""
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    with operated() as found:
        yield found


@pytest.fixture
def url(parts: Operated, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where it is served; the commands know it."""
    server = create_server(parts.app, host="127.0.0.1", port=0, threads=2)
    with in_thread(server):
        found = f"http://127.0.0.1:{server.effective_port}"
        monkeypatch.setenv("SERVICE_UTILS_URL", found)
        yield found


@pytest.mark.usefixtures("url")
class TestQuestions:
    def test_a_reason_is_asked_for(self, parts: Operated) -> None:
        """Where it is left out."""
        with terminal("--as", "eve", "services", "force-open", "chroma") as command:
            command.read_until("Reason")
            command.type("fire drill\n")
            assert command.wait() == 0
        assert parts.audit.entries()[0]["why"] == "fire drill"

    @pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 2, 1), ("\n", 2, 1)])
    def test_purging_asks_back(self, parts: Operated, answer: str, code: int, left: int) -> None:
        """And goes by the answer; no answer is a no."""
        parts.letter()
        with terminal("dlq", "purge", "--reason", "test data") as command:
            command.read_until("Remove them for good?")
            command.type(answer)
            assert command.wait() == code
        assert parts.queue.stats()["letters"] == left

    @pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")
    def test_ctrl_c_at_a_question(self, parts: Operated) -> None:
        """Nothing is done."""
        with terminal("services", "force-open", "chroma") as command:
            command.read_until("Reason")
            command.wait_until_it_waits()
            command.process.send_signal(signal.SIGINT)
            assert command.wait() == 130
        assert parts.chroma.breaker.state == "closed"


@pytest.mark.usefixtures("url")
class TestPictures:
    def test_states_have_colours(self, parts: Operated) -> None:
        """Beside word and shape; not with NO_COLOR."""
        parts.chroma.breaker.force_open("x")
        with terminal("services", "status") as command:
            assert command.wait() == 1
            assert "\x1b[1;35m▲ forced open" in command.text
        with terminal("services", "status", NO_COLOR="1") as command:
            command.wait()
            assert "▲ forced open" in command.text
            assert "35m" not in command.text

    def test_a_narrow_terminal(self, parts: Operated) -> None:
        """Fewer columns, but the state and the whole error are there."""
        with pytest.raises(OSError, match="refused"):
            parts.chroma.get("/x")
        with terminal("services", "status", columns=80) as command:
            command.wait()
            assert "REJECTED" not in command.text
            assert "● closed" in command.text
            assert "refused" in command.text
        with terminal("services", "status", columns=160) as command:
            command.wait()
            assert "REJECTED" in command.text

    def test_watching(self, parts: Operated) -> None:
        """Drawn over again when something changes, until Ctrl-C; the terminal is left as it was."""
        with terminal("services", "watch", "--interval", "0.2") as command:
            command.read_until("chroma")
            assert "forced open" not in command.text
            parts.chroma.breaker.force_open("x")
            command.read_until("forced open")
            command.process.send_signal(signal.SIGINT)
            assert command.wait() == 130
            assert "\x1b[?1049l" in command.text
            assert "Traceback" not in command.text

    def test_progress(self, parts: Operated) -> None:
        """Long work shows how far it is."""
        parts.letter()
        with terminal("dlq", "retry-all", "--status", "pending", "--yes") as command:
            assert command.wait() == 0
            assert "Queueing" in command.text
            assert "1 letter will be tried again" in command.text


def test_a_reader_that_has_seen_enough(url: str, parts: Operated) -> None:
    """`| head -1` is no error."""
    for _ in range(200):
        parts.letter(error="x" * 500)
    done = subprocess.run(
        f"{sys.executable} -m service_utils --url {url} dlq list --limit 200 --json | head -1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
