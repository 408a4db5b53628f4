"""How commands end: exit code 1 says that something is open, so nothing else may end with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service_utils.integrations.cli.face import NotThere, Trouble
from service_utils.integrations.cli.main import cli
from service_utils.integrations.cli.remote import RemoteDesk
from service_utils.testing import Answer, FaultServer
from tests.integrations.cli.conftest import Program
from tests.integrations.flask.operating import Operated


def run(*arguments: str) -> Result:
    """A command over HTTP."""
    return CliRunner().invoke(cli, ["--as", "eve", *arguments])


class TestNumbers:
    @pytest.mark.parametrize("number", ["nan", "inf", "-1", "soon"])
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--timeout", "{}", "services", "status"],
            ["services", "watch", "--count", "1", "--interval", "{}"],
            ["degradation", "set", "minor", "--reason", "x", "--expires-in", "{}"],
            ["dlq", "purge", "--reason", "x", "--yes", "--older-than", "{}"],
        ],
        ids=["timeout", "interval", "expires-in", "older-than"],
    )
    def test_seconds(self, served: Operated, arguments: list[str], number: str) -> None:
        """What is no number of seconds is wrong use, and nothing is asked of the app."""
        served.letter()
        result = run(*(each.format(number) for each in arguments))
        assert result.exit_code == 2
        assert "Invalid value" in result.stderr
        assert served.monitor.level.label == "normal"
        assert served.queue.stats()["letters"] == 1

    def test_an_end_and_none(self, served: Operated) -> None:
        """A level cannot both expire and not."""
        result = run("degradation", "set", "minor", "--reason", "x", "--expires-in", "60", "--no-expiry")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "only one of them" in result.stderr
        assert served.monitor.level.label == "normal"

    def test_an_hour_if_nothing_is_said(self, served: Operated) -> None:
        """A level that somebody forgets does not stay for ever."""
        result = run("degradation", "set", "minor", "--reason", "x", "--json")
        assert json.loads(result.stdout)["override"]["expires_in"] == 3600


class TestProbing:
    def test_one(self, served: Operated) -> None:
        """For machines its answer is that of the admin API."""
        result = run("services", "probe", "chroma", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["healthy"] is False

    @pytest.mark.parametrize(
        ("trouble", "code"), [(Trouble("not answered"), 2), (NotThere("no health path"), 0)]
    )
    def test_those_that_could_not_be_asked(
        self, served: Operated, monkeypatch: pytest.MonkeyPatch, trouble: Trouble, code: int
    ) -> None:
        """A backend that has gone away is not taken for a healthy service."""

        def probe(desk: RemoteDesk, name: str) -> dict[str, Any]:
            if name == "git":
                raise trouble
            return {"name": name, "state": "closed", "healthy": True, "status": 200, "seconds": 0.1}

        monkeypatch.setattr(RemoteDesk, "probe", probe)
        result = run("services", "probe")
        assert result.exit_code == code
        assert "✓ healthy" in result.stdout
        assert str(trouble) in result.stdout


class TestOtherApps:
    @pytest.mark.parametrize(
        "arguments", [["services", "status"], ["reliability", "report"], ["dlq", "list"]]
    )
    def test_an_answer_of_another_version(
        self, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
    ) -> None:
        """What cannot be drawn is said to be that, without a traceback."""
        answer = {"services": {"a": 7}, "open": [], "summary": {"open": []}, "letters": [7], "next": None}
        monkeypatch.setenv("ADMIN_TOKEN", "x")
        with FaultServer(default=Answer.json({**answer, "stats": {}})) as server:
            result = run("--url", server.url, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "cannot be drawn" in result.stderr
        assert "Traceback" not in result.stderr

    def test_words_that_steer_a_terminal(self, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
        """A server's refusal, and names in its answers, come without escape sequences."""
        evil = "\x1b[2J\x9b1mgone"
        with FaultServer() as server:
            environ = {"ADMIN_TOKEN": "x", "SERVICE_UTILS_URL": server.url}
            server.script(Answer.json({"detail": evil}, status=409))
            refused = CliRunner(env=environ).invoke(cli, ["services", "status"], color=True)
            server.script(Answer.json({"services": {evil: {"state": evil}}, "open": []}))
            shown = CliRunner(env=environ).invoke(cli, ["services", "status"], color=True)
        assert refused.stderr == "Error: ?[2J?1mgone\n"
        assert "?[2J?1mgone" in shown.stdout
        assert "\x1b" not in shown.stdout

    def test_a_mistake_of_ours(self, served: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its traceback is shown, and the code is not that of an open circuit."""

        def broken(desk: RemoteDesk) -> dict[str, Any]:
            raise RuntimeError("who would have thought")

        monkeypatch.setattr(RemoteDesk, "circuits", broken)
        result = run("services", "status")
        assert result.exit_code == 2
        assert "who would have thought" in result.stderr


class TestManyLetters:
    def test_what_was_done_before_something_went_wrong(
        self, served: Operated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The operator learns that half of it is done."""
        served.letter()
        served.queue.add("git", "POST", "/x", json=1)
        purge = RemoteDesk.purge

        def sometimes(desk: RemoteDesk, service: str | None, *more: Any) -> dict[str, Any]:
            if service == "git":
                raise Trouble("the app has gone")
            return purge(desk, service, *more)

        monkeypatch.setattr(RemoteDesk, "purge", sometimes)
        result = run("dlq", "purge", "--reason", "x", "--yes")
        assert result.exit_code == 2
        assert "the app has gone (it was done with 1 letter of other services before)" in result.stderr
        assert served.queue.stats()["letters"] == 1

    def test_a_dot_is_no_letter(self, served: Operated) -> None:
        """And not all of them."""
        served.letter()
        result = run("dlq", "retry", ".")
        assert result.exit_code == 2
        assert served.audit.entries() == []


@pytest.mark.usefixtures("served")
class TestPipes:
    @pytest.mark.parametrize(
        "command",
        ["services watch --interval 0.2", "services watch --interval 0.2 --json", "dlq list --limit 500"],
    )
    def test_a_reader_that_has_seen_enough(self, served: Operated, program: Program, command: str) -> None:
        """``| head -1`` is no error, whatever is written."""
        for _ in range(400):
            served.letter(error="x" * 400)
        done = program(shell=f"$COMMAND {command} | head -1")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 1

    def test_an_encoding_without_shapes(self, program: Program) -> None:
        """The words are there all the same."""
        done = program("services", "status", PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert "? closed" in done.stdout

    @pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
    def test_no_colours_in_files(self, program: Program, variable: str) -> None:
        """Not even where an environment asks programs to colour."""
        done = program("services", "status", **{variable: "1"})
        assert "closed" in done.stdout
        assert "\x1b" not in done.stdout

    @pytest.mark.parametrize("arguments", [["dlq", "purge", "--reason", "x"], ["dlq", "retry-all"]])
    def test_nobody_to_be_asked(self, served: Operated, program: Program, arguments: list[str]) -> None:
        """Without a terminal nothing is done unless it was said to be meant."""
        served.letter()
        done = program(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--yes" in done.stderr
        assert served.audit.entries() == []


class TestWatching:
    def test_lines_for_machines(self, served: Operated) -> None:
        """One answer a line, as the admin API gives it."""
        result = run("services", "watch", "--json", "--count", "2", "--interval", "0.2")
        assert result.exit_code == 0
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert [each["sick"] for each in answers] == [[], []]

    def test_lines_while_the_app_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No answer is repeated as if it were new; that there is none is said once."""
        monkeypatch.setenv("ADMIN_TOKEN", "x")
        with FaultServer(default=Answer(503, "no")) as server:
            server.script(Answer.json({"sick": [], "services": []}))
            options = ["watch", "--json", "--count", "4", "--interval", "0.2"]
            result = run("--url", server.url, "services", *options)
        assert result.exit_code == 2
        assert len(result.stdout.splitlines()) == 1
        assert result.stderr.count("Stale since") == 1

    def test_no_app_to_begin_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is no last picture to stay: it ends at once."""
        monkeypatch.setenv("ADMIN_TOKEN", "x")
        result = run("--url", "http://127.0.0.1:1", "services", "watch")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Connection refused" in result.stderr
