"""What an operator sees on a terminal while something takes its time, or has gone."""

from __future__ import annotations

import signal

import pytest

from service_utils.testing import Answer, FaultServer
from tests.integrations.cli.test_terminal import terminal
from tests.integrations.flask.operating import Operated

OVERVIEW = {"sick": ["chroma"], "services": [{"name": "chroma", "state": "open"}]}


def test_the_app_goes_away_and_comes_back() -> None:
    """The last picture stays with "Stale since" on top, and a new one takes its place."""
    with FaultServer(default=Answer.json(OVERVIEW)) as server:
        watch = ["--url", server.url, "services", "watch", "--interval", "0.2"]
        with terminal(*watch, columns=200, ADMIN_TOKEN="x") as command:
            command.read_until("■ open")
            server.stop_listening()
            command.read_until("Stale since")
            command.read_until("Connection refused")
            command.text = ""
            command.read_until("■ open")  # drawn again, stale as it is
            server.default = Answer.json({"sick": [], "services": [{"name": "chroma", "state": "closed"}]})
            server.resume()
            command.read_until("● closed")
            command.process.send_signal(signal.SIGINT)
            assert command.wait() == 130
            assert "Traceback" not in command.text


def test_an_answer_that_cannot_be_drawn() -> None:
    """The terminal is given back before it is said."""
    with (
        FaultServer(default=Answer.json({"sick": [], "services": [7]})) as server,
        terminal("--url", server.url, "services", "watch", columns=200, ADMIN_TOKEN="x") as command,
    ):
        assert command.wait() == 2
        assert command.text.index("\x1b[?1049l") < command.text.index("cannot be drawn")


@pytest.mark.usefixtures("served")
class TestQuestions:
    def test_a_reason_of_blanks(self, served: Operated) -> None:
        """Is none: it is asked for again."""
        with terminal("services", "force-open", "chroma") as command:
            command.read_until("Reason")
            command.type("   \n")
            command.read_until("A few words are needed")
            command.type("fire drill\n")
            assert command.wait() == 0
        assert served.audit.entries()[0]["why"] == "fire drill"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["purge", "--reason", "x", "--service", "git"], "all letters of git. Remove"),
            (["purge", "--reason", "x", "--status", "dead"], "all dead letters of all services. Remove"),
            (["purge", "--reason", "x", "--older-than", "60"], "kept longer than 60 s. Remove"),
            (["retry-all"], "Have all dead letters of all services tried again?"),
        ],
        ids=["of a service", "in a status", "of an age", "retry-all"],
    )
    def test_they_tell_what_is_meant(self, served: Operated, arguments: list[str], words: str) -> None:
        """Which letters; Ctrl-D is no yes."""
        served.letter()
        with terminal("dlq", *arguments, columns=200) as command:
            command.read_until(words)
            command.type("\x04")
            assert command.wait() in (2, 130)
        assert served.audit.entries() == []
        assert served.queue.stats()["letters"] == 1


@pytest.mark.usefixtures("served")
class TestProgress:
    @pytest.mark.parametrize(
        ("arguments", "words", "code"),
        [
            (["services", "probe"], "Asking", 1),
            (["dlq", "purge", "--reason", "x", "--yes"], "Removing", 0),
            (["dlq", "retry-all", "--status", "pending", "--yes"], "Queueing", 0),
        ],
        ids=["probe", "purge", "retry-all"],
    )
    def test_long_work(self, served: Operated, arguments: list[str], words: str, code: int) -> None:
        """It is to be seen how far it is."""
        served.letter()
        with terminal(*arguments) as command:
            assert command.wait() == code
            assert words in command.text
            assert "100%" in command.text

    def test_none_beside_answers_for_machines(self, served: Operated) -> None:
        """A bar is for people."""
        with terminal("services", "probe", "--json") as command:
            command.wait()
            assert "Asking" not in command.text
