"""``python -m service_utils dead-letters``: what it prints, and with what code it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service_utils.dead_letters import DeadLetterQueue, DeadLetterWorker, SQLiteDeadLetters
from service_utils.dead_letters.command import main
from service_utils.registry import ServiceRegistry
from service_utils.testing import Answer, FakeClock, FaultServer

ROOT = Path(__file__).parents[2]


class Shell:
    """Types commands and reads what they say."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def run(self, command: str, *arguments: str) -> tuple[int, str]:
        """Exit code and standard output."""
        code, out, _ = self.say(command, *arguments)
        return code, out

    def say(self, command: str, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        self._capsys.readouterr()
        try:
            code = main(["dead-letters", command, "--file", str(self.path), *arguments])
        except SystemExit as ended:
            code = int(str(ended.code))
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, command: str, *arguments: str) -> Any:
        """What it says in JSON."""
        return json.loads(self.run(command, "--json", *arguments)[1])


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[DeadLetterQueue]:
    queue = DeadLetterQueue(SQLiteDeadLetters(tmp_path / "letters.sqlite3"))
    yield queue
    queue.close()


@pytest.fixture
def shell(tmp_path: Path, queue: DeadLetterQueue, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "letters.sqlite3", capsys)


def make_dead(queue: DeadLetterQueue, service: str = "sms", payload: Any = "hello") -> str:
    """A message that was tried and rests."""

    def fail(_: Any) -> None:
        raise OSError("no such number")

    letter = queue.add_message(service, payload, max_retries=1)
    worker = DeadLetterWorker(queue, ServiceRegistry())
    worker.register(service, fail)
    assert worker.run_once()["dead"] == 1
    return letter


def test_letters_are_listed_as_a_table(queue: DeadLetterQueue, shell: Shell) -> None:
    """One line each, oldest first, under headings."""
    call = queue.add("git", "POST", "/snapshot/p1", json={"n": 1}, error=OSError("refused"))
    message = make_dead(queue)

    code, out = shell.run("list")

    head, first, second = out.splitlines()
    assert code == 0
    assert head.split() == ["ID", "SERVICE", "WHAT", "STATUS", "TRIED", "KEPT", "NEXT", "ERROR"]
    assert first.split()[:6] == [call, "git", "POST", "/snapshot/p1", "pending", "0/5"]
    assert first.endswith("OSError: refused")
    assert second.split()[:5] == [message, "sms", "message", "dead", "1/1"]


def test_letters_can_be_filtered(queue: DeadLetterQueue, shell: Shell) -> None:
    """By service, by status, so many, behind another one."""
    calls = [queue.add("git", "POST", f"/{number}") for number in range(3)]
    dead = make_dead(queue)

    assert [each["id"] for each in shell.json("list", "--service", "git")] == calls
    assert [each["id"] for each in shell.json("list", "--status", "dead")] == [dead]
    assert [each["id"] for each in shell.json("list", "--limit", "1", "--after", calls[0])] == [calls[1]]


def test_an_empty_list_says_so(shell: Shell) -> None:
    """Nothing found is code 1."""
    assert shell.run("list") == (1, "No such letters.\n")
    assert shell.run("list", "--json") == (1, "[]\n")


def test_one_letter_is_shown_in_full(queue: DeadLetterQueue, shell: Shell) -> None:
    """Its body only on demand: it is users' data."""
    letter = queue.add("git", "POST", "/a", json={"name": "Ada"}, headers={"X-Colour": "blue"})

    code, out = shell.run("show", letter)
    assert code == 0
    assert "path:             /a\n" in out
    assert "header:           X-Colour: blue\n" in out
    assert "Ada" not in out
    assert 'body (utf-8):\n{"name": "Ada"}' in shell.run("show", letter, "--body")[1]
    assert "body" not in shell.json("show", letter)
    assert shell.json("show", letter, "--body")["body"]["content"] == '{"name": "Ada"}'


def test_a_letter_that_is_not_there_is_code_1(shell: Shell) -> None:
    """Shown or retried: nothing is found."""
    for command in ("show", "retry"):
        code, out, err = shell.say(command, "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        assert (code, out) == (1, "")
        assert err == "no letter has the id '01ARZ3NDEKTSV4RRFFQ69G5FAV'\n"


def test_a_dead_letter_can_be_retried(queue: DeadLetterQueue, shell: Shell) -> None:
    """It waits again, with all its attempts before it."""
    letter = make_dead(queue)

    assert shell.run("retry", letter) == (0, "1 letter will be tried again.\n")
    found = queue.get(letter)
    assert found is not None
    assert (found.status.value, found.attempts) == ("pending", 0)


def test_an_old_letter_is_retried_by_force_only(shell: Shell, tmp_path: Path) -> None:
    """Its receiver may have forgotten the key by then."""
    clock = FakeClock()  # years ago
    store = SQLiteDeadLetters(tmp_path / "letters.sqlite3")
    letter = DeadLetterQueue(store, clock=clock).add("git", "POST", "/a")
    store.close()

    code, _, err = shell.say("retry", letter)
    assert code == 1
    assert "older than 30 days" in err
    assert shell.run("retry", letter, "--force")[0] == 0


def test_what_a_worker_has_in_hand_is_left_to_it(queue: DeadLetterQueue, shell: Shell) -> None:
    """It is being tried already."""
    letter = queue.add("git", "POST", "/a")
    queue.store.lease("git", now=queue.clock.now().timestamp(), seconds=60.0, limit=1)

    code, _, err = shell.say("retry", letter)
    assert (code, err) == (1, f"letter {letter} is in a worker's hand just now\n")


def test_all_dead_letters_can_be_retried(queue: DeadLetterQueue, shell: Shell) -> None:
    """Those of one service, or all of them."""
    make_dead(queue, "sms")
    make_dead(queue, "sms")
    make_dead(queue, "mail")

    assert shell.run("retry-all", "--service", "sms") == (0, "2 letters will be tried again.\n")
    assert shell.json("retry-all", "--all") == {"letters": 1}
    assert shell.run("retry-all", "--all") == (1, "There are no dead letters to be tried again.\n")


def test_letters_can_be_removed(queue: DeadLetterQueue, shell: Shell) -> None:
    """Those that are meant, and no others."""
    make_dead(queue)
    queue.add("git", "POST", "/a")

    assert shell.run("purge", "--older-than", "7d") == (1, "0 letters removed for good.\n")
    assert shell.run("purge", "--status", "dead") == (0, "1 letter removed for good.\n")
    assert queue.stats()["letters"] == 1
    assert shell.run("purge", "--all")[0] == 0
    assert queue.stats()["letters"] == 0


@pytest.mark.parametrize("command", ["purge", "retry-all"])
def test_nobody_means_all_letters_by_mistake(command: str, queue: DeadLetterQueue, shell: Shell) -> None:
    """Without a filter it asks back and does nothing."""
    make_dead(queue)

    code, out, err = shell.say(command)
    assert (code, out) == (2, "")
    assert "--all" in err
    assert queue.stats()["dead"] == 1


def test_the_numbers_of_the_queue(queue: DeadLetterQueue, shell: Shell) -> None:
    """In all and by service."""
    make_dead(queue)
    queue.add("git", "POST", "/a")

    code, out = shell.run("stats")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "letters: 2 of 100000"
    assert [line.split() for line in lines[-2:]] == [["git", "1", "0", "0"], ["sms", "0", "0", "1"]]
    assert shell.json("stats")["services"]["sms"]["dead"] == 1


def test_an_empty_queue_has_numbers_too(shell: Shell) -> None:
    """None is a number."""
    code, out = shell.run("stats")
    assert code == 0
    assert "oldest: -" in out


@pytest.mark.parametrize("command", ["list", "stats", "purge"])
def test_a_mistyped_file_is_not_made(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would look like an empty queue."""
    path = tmp_path / "leters.sqlite3"
    shell = Shell(path, capsys)
    arguments = ["--all"] if command == "purge" else []

    assert shell.say(command, *arguments) == (2, "", f"{path}: there is no such file\n")
    assert not path.exists()


def test_a_file_that_is_no_queue_is_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names it."""
    path = tmp_path / "notes.txt"
    path.write_text("this is no database, and it is long enough to be seen as none" * 20)
    code, out, err = Shell(path, capsys).say("list")
    assert (code, out) == (2, "")
    assert str(path) in err
    assert path.read_text().startswith("this is no database")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "--client"),
        (["run", "--client", "git"], "NAME=URL"),
        (["run", "--client", "git=ftp://here"], "ftp"),
        (["run", "--client", "git=http://here", "--interval", "0"], "is no time"),
        (["run", "--client", "git=http://here", "--batch-size", "x"], "is no number"),
        (["list", "--status", "lost"], "lost"),
        (["list", "--limit", "0"], "is no number"),
        (["purge", "--older-than", "soon"], "is no time"),
        (["show"], "ID"),
    ],
)
def test_wrong_use_is_code_2(arguments: list[str], said: str, queue: DeadLetterQueue, shell: Shell) -> None:
    """It says what is wrong."""
    code, out, err = shell.say(*arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_password_in_an_address_is_not_repeated(queue: DeadLetterQueue, shell: Shell) -> None:
    """Neither on the terminal nor in a log of it."""
    for address in ("hunter2", "=ftp://user:hunter2@here", "git=ftp://user:hunter2@here"):
        code, out, err = shell.say("run", "--client", address)
        assert code == 2
        assert "hunter2" not in out + err


def test_a_letter_cannot_steer_the_terminal(queue: DeadLetterQueue, shell: Shell) -> None:
    """Control characters of stored texts show as question marks."""
    queue.add("git", "POST", "/a", error="\x1b[2Jgone", body=b"\x1b[31mred")
    letter = queue.list()[0].id

    assert "\x1b" not in shell.run("list")[1]
    assert "\x1b" not in shell.run("show", letter, "--body")[1]


def test_one_round_from_a_shell(queue: DeadLetterQueue, shell: Shell, fault_server: FaultServer) -> None:
    """`run --once` delivers a batch of each service and says so: for cron, or to have a look."""
    fault_server.script(Answer(200), Answer(400))
    for step in range(2):
        queue.add("git", "POST", f"/{step}")

    code, out = shell.run("run", "--once", "--client", f"git={fault_server.url}")
    assert code == 0
    assert out.splitlines()[-1] == "Done: 1 delivered, 0 retried, 1 dead, 0 skipped, 0 lost."


def test_the_module_can_be_run(queue: DeadLetterQueue, shell: Shell) -> None:
    """`python -m service_utils` is the program, and a reader that has seen enough is no error."""
    for number in range(100):
        queue.add("git", "POST", f"/{number}")
    command = [sys.executable, "-m", "service_utils", "dead-letters", "list", "--file", str(shell.path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, text=False
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (0, b"")
