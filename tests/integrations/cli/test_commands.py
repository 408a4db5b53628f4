"""The operators' commands, over HTTP and in the app's own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from click.testing import CliRunner, Result
from flask import Flask
from waitress.server import create_server

from service_utils import ResilientServiceClient
from service_utils.dead_letters import DeadLetterQueue, SQLiteDeadLetters
from service_utils.degradation import DegradationMonitor, rules_by_share
from service_utils.integrations.cli.main import cli
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.operating import AuditLog, SQLiteHistory
from service_utils.registry import ServiceRegistry
from tests.in_thread import in_thread
from tests.integrations.flask.operating import TOKEN, Operated, operated

ROOT = Path(__file__).parents[3]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    """An app whose operators have a token."""
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    with operated() as found:
        yield found


@pytest.fixture
def url(parts: Operated) -> Iterator[str]:
    """Where it is served."""
    server = create_server(parts.app, host="127.0.0.1", port=0, threads=2)
    with in_thread(server):
        yield f"http://127.0.0.1:{server.effective_port}"


def run(url: str, *arguments: str, **more: Any) -> Result:
    """A command over HTTP."""
    return CliRunner().invoke(cli, ["--url", url, "--as", "eve", *arguments], **more)


def asked(url: str, *arguments: str) -> Any:
    """The answer for machines."""
    result = run(url, *arguments, "--json")
    return json.loads(result.stdout)


class TestServices:
    def test_all_closed(self, url: str) -> None:
        """Code 0, one line each, nothing cut off in a pipe."""
        result = run(url, "services", "status")
        assert result.exit_code == 0, result.output
        assert [line.split()[:3] for line in result.stdout.splitlines()[1:]] == [
            ["chroma", "●", "closed"],
            ["git", "●", "closed"],
        ]

    def test_something_open(self, url: str, parts: Operated) -> None:
        """Code 1, for scripts."""
        parts.chroma.breaker.force_open("x")
        result = run(url, "services", "status")
        assert result.exit_code == 1
        assert "▲ forced open" in result.stdout

    def test_json_is_the_answer_of_the_api(self, url: str) -> None:
        """Stable, for machines."""
        found = asked(url, "services", "status")
        assert sorted(found) == ["open", "services"]
        assert found["services"]["chroma"]["failure_threshold"] == 2

    @pytest.mark.parametrize(
        ("act", "state"), [("force-open", "forced_open"), ("disable", "disabled"), ("reset", "closed")]
    )
    def test_acting(self, url: str, parts: Operated, act: str, state: str) -> None:
        """Done, with a name and a reason on record."""
        if act == "reset":
            parts.chroma.breaker.force_open("before")
        assert run(url, "services", act, "chroma", "--reason", "drill").exit_code == 0
        assert parts.chroma.breaker.state == state
        entry = parts.audit.entries()[0]
        assert (entry["who"], entry["why"], entry["target"]) == ("eve", "drill", "chroma")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["services", "reset", "chroma"], "--reason: is needed"),
            (["services", "reset", "chroma", "--reason", " "], "--reason: is needed"),
            (["services", "reset", "nobody", "--reason", "x"], "no service is named 'nobody'"),
            (["services", "explode"], "No such command"),
            (["dlq", "show", "nobody"], "no letter has the id"),
            (["dlq", "purge", "--reason", "x"], "--yes: is needed"),
            (["dlq", "retry-all"], "--yes: is needed"),
            (["dlq", "list", "--status", "gone"], "'gone' is not one of"),
            (["degradation", "set", "awful", "--reason", "x"], "'awful' is not one of"),
            (["degradation", "set", "minor"], "--reason: is needed"),
            (["services", "probe", "git"], "health_path"),
        ],
    )
    def test_what_cannot_be_done(self, url: str, parts: Operated, arguments: list[str], words: str) -> None:
        """Code 2, one line on standard error, nothing on standard output."""
        result = run(url, *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stdout == ""
        assert "Traceback" not in result.output
        assert parts.chroma.breaker.state == "closed"

    def test_probing_all(self, url: str) -> None:
        """One that is unhealthy makes code 1; one that cannot be asked says so."""
        result = run(url, "services", "probe")
        assert result.exit_code == 1
        assert "✗ unhealthy" in result.stdout
        assert "– not asked" in result.stdout

    def test_watching(self, url: str, parts: Operated) -> None:
        """Pictures one after the other where there is no terminal; the last one decides the code."""
        result = run(url, "services", "watch", "--count", "2", "--interval", "0.2")
        assert result.exit_code == 0
        assert result.stdout.count("Degradation: normal") == 2
        parts.chroma.breaker.force_open("x")
        assert run(url, "services", "watch", "--count", "1").exit_code == 1

    def test_watching_while_the_backend_goes_away(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last picture stays, and says since when."""
        from service_utils.integrations.cli.face import Trouble
        from service_utils.integrations.cli.remote import RemoteDesk

        answers = iter([RemoteDesk.overview, None])

        def overview(desk: RemoteDesk) -> dict[str, Any]:
            ask = next(answers)
            if ask is None:
                raise Trouble("it cannot be reached")
            return ask(desk)

        monkeypatch.setattr("service_utils.integrations.cli.main.RemoteDesk.overview", overview)
        result = run(url, "services", "watch", "--count", "2", "--interval", "0.2")
        assert result.exit_code == 2
        assert result.stdout.count("chroma") >= 2
        assert "Stale since" in result.stdout
        assert "cannot be reached" in result.stdout

    def test_what_services_say_steers_no_terminal(self, url: str, parts: Operated) -> None:
        """An error with escape sequences in it is shown without."""
        parts.chroma.breaker.force_open("x")
        letter = parts.letter(error="\x1b[2Jgone")
        result = run(url, "dlq", "show", letter)
        assert "\x1b" not in result.stdout
        assert "?[2Jgone" in result.stdout


class TestDeadLetters:
    def test_looking(self, url: str, parts: Operated) -> None:
        """A list with the way on, one letter, its body when asked for."""
        ids = [parts.letter() for _ in range(2)]
        result = run(url, "dlq", "list", "--limit", "1")
        assert result.exit_code == 0
        assert ids[0] in result.stdout
        assert f"--after {ids[0]}" in result.stdout
        assert ids[1] in run(url, "dlq", "list", "--after", ids[0]).stdout
        assert run(url, "dlq", "list", "--service", "git").exit_code == 1
        assert "annika" not in run(url, "dlq", "show", ids[0]).stdout
        assert "annika" in run(url, "dlq", "show", ids[0], "--body").stdout

    def test_acting(self, url: str, parts: Operated) -> None:
        """Retried one by one or together, and purged; code 1 where there was nothing to do."""
        letter = parts.letter()
        assert run(url, "dlq", "retry", letter).exit_code == 0
        assert run(url, "dlq", "retry-all", "--yes").exit_code == 1
        assert asked(url, "dlq", "retry-all", "--status", "pending", "--yes") == {"letters": 1}
        assert run(url, "dlq", "purge", "--reason", "x", "--older-than", "60", "--yes").exit_code == 1
        result = run(url, "dlq", "purge", "--reason", "test data", "--yes")
        assert (result.exit_code, result.stdout) == (0, "1 letter removed for good.\n")
        assert parts.audit.entries()[0]["why"] == "test data"


class TestLevelAndReport:
    def test_the_level(self, url: str, parts: Operated) -> None:
        """Shown, set and cleared; code 1 while it is not normal."""
        assert run(url, "degradation", "show").exit_code == 0
        assert run(url, "degradation", "set", "severe", "--reason", "drill").exit_code == 0
        result = run(url, "degradation", "show")
        assert result.exit_code == 1
        assert "set by eve (drill)" in result.stdout
        assert run(url, "degradation", "clear").exit_code == 0
        assert (
            asked(url, "degradation", "set", "minor", "--reason", "x", "--no-expiry")["override"][
                "expires_in"
            ]
            is None
        )

    def test_the_report(self, url: str, parts: Operated) -> None:
        """Code 1 when a circuit is open now."""
        assert run(url, "reliability", "report").exit_code == 0
        parts.chroma.breaker.force_open("x")
        result = run(url, "reliability", "report")
        assert result.exit_code == 1
        assert "kept open by hand" in result.stdout


class TestOverHTTP:
    @pytest.mark.parametrize(
        ("options", "environ", "words"),
        [
            ([], {}, "SERVICE_UTILS_URL"),
            (["--url", "nonsense"], {"ADMIN_TOKEN": "x"}, "--url"),
            (["--url", "ftp://x"], {"ADMIN_TOKEN": "x"}, "--url"),
            (["--url", "http://user:hunter2@x"], {"ADMIN_TOKEN": "x"}, "--url"),
            (["--url", "http://127.0.0.1:1"], {}, "ADMIN_TOKEN"),
            (["--url", "http://127.0.0.1:1"], {"ADMIN_TOKEN": "a b"}, "is no token"),
            (["--url", "http://127.0.0.1:1", "--as", "a\nb"], {"ADMIN_TOKEN": "x"}, "--as="),
            (["--url", "http://127.0.0.1:1"], {"ADMIN_TOKEN": "x"}, "Connection refused"),
            (["--url", "http://127.0.0.1:1", "--token-file", "/nowhere"], {}, "does not exist"),
        ],
    )
    def test_wrong_use(self, options: list[str], environ: dict[str, str], words: str) -> None:
        """A line that names the option or variable; code 2."""
        result = CliRunner(env=environ).invoke(cli, [*options, "services", "status"])
        assert result.exit_code == 2
        assert words in result.stderr
        assert "hunter2" not in result.output
        assert "Traceback" not in result.output

    def test_the_token_may_be_in_a_file(self, url: str, tmp_path: Path) -> None:
        """It goes before the environment's; a wrong one is neither shown nor taken."""
        file = tmp_path / "token"
        options = ["--url", url, "--token-file", str(file), "services", "status"]
        file.write_text(f"{TOKEN}\n")
        assert CliRunner().invoke(cli, options).exit_code == 0
        file.write_text("hunter2")
        result = CliRunner().invoke(cli, options)
        assert result.exit_code == 2
        assert "The admin token is not valid" in result.stderr
        assert "hunter2" not in result.output

    def test_the_token_follows_no_redirect(self) -> None:
        """A server that sends us elsewhere gets no second request."""
        with responses.RequestsMock() as mock:
            mock.get(
                "http://app.test/admin/reliability/circuit-breakers",
                status=302,
                headers={"Location": "http://evil.test/"},
            )
            result = CliRunner(env={"ADMIN_TOKEN": "x"}).invoke(
                cli, ["--url", "http://app.test", "services", "status"]
            )
            assert result.exit_code == 2
            assert len(mock.calls) == 1

    @pytest.mark.parametrize(
        ("body", "kind"),
        [("<html>hello</html>", "text/html"), ("[]", "application/json"), ("{", "application/json")],
    )
    def test_another_server(self, body: str, kind: str) -> None:
        """What is no admin API is said to be none."""
        with responses.RequestsMock() as mock:
            mock.get("http://app.test/admin/reliability/circuit-breakers", body=body, content_type=kind)
            result = CliRunner(env={"ADMIN_TOKEN": "x"}).invoke(
                cli, ["--url", "http://app.test", "services", "status"]
            )
        assert result.exit_code == 2
        assert "is --url right?" in result.stderr


class TestInFlask:
    def test_looking(self, parts: Operated) -> None:
        """The app's own picture, with a warning that it is this process's."""
        result = parts.app.test_cli_runner().invoke(args=["services", "status"])
        assert result.exit_code == 0
        assert "chroma" in result.stdout
        assert "are not shared" in result.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ["services", "reset", "chroma", "--reason", "x"],
            ["degradation", "set", "minor", "--reason", "x"],
            ["degradation", "clear"],
            ["dlq", "purge", "--reason", "x", "--yes", "--service", "chroma"],
            ["dlq", "retry", "x"],
        ],
    )
    def test_nothing_is_done_to_a_copy(self, parts: Operated, arguments: list[str]) -> None:
        """What only this process would notice is refused, with the way that works."""
        result = parts.app.test_cli_runner().invoke(args=arguments)
        assert result.exit_code == 2
        assert "--url" in result.stderr
        assert parts.audit.entries() == []

    def test_what_is_shared_is_acted_on(self, tmp_path: Path) -> None:
        """Circuits, level and letters of all processes, and the act is on record."""
        app, audit = shared_app(tmp_path)
        queue = app.extensions["service_utils"].desk.dead_letters
        queue.add("chroma", "POST", "/x", json=1)
        runner = app.test_cli_runner()
        for arguments in (
            ["services", "--as", "eve", "force-open", "chroma", "--reason", "drill"],
            ["degradation", "set", "minor", "--reason", "x"],
            ["dlq", "purge", "--reason", "x", "--yes"],
        ):
            result = runner.invoke(args=arguments)
            assert result.exit_code == 0, result.output
        assert audit.entries()[-1]["who"] == "eve"
        assert queue.stats()["letters"] == 0
        app.extensions["service_utils"].registry.close()

    def test_another_process_acts_on_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """``flask services force-open`` in a shell opens the running app's circuit."""
        app, _ = shared_app(tmp_path)
        breaker = app.extensions["service_utils"].registry["chroma"].breaker
        (tmp_path / "app.py").write_text(
            "from pathlib import Path\n"
            "from tests.integrations.cli.test_commands import shared_app\n"
            f"app, _ = shared_app(Path({str(tmp_path)!r}))\n"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "flask", "--app", str(tmp_path / "app.py")),
                *("services", "force-open", "chroma", "--reason", "from a shell"),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert breaker.state == "forced_open"
        (change,) = app.extensions["service_utils"].desk.changes()
        assert (change["to"], change["name"]) == ("forced_open", "chroma")  # the page's timeline has it
        app.extensions["service_utils"].registry.close()

    def test_it_can_be_left_out(self) -> None:
        """No such commands then."""
        with operated(cli=False) as parts:
            assert parts.app.test_cli_runner().invoke(args=["services", "status"]).exit_code == 2

    def test_without_rich(self, parts: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tables say what to install; JSON needs nothing."""

        monkeypatch.setitem(sys.modules, "rich", None)
        for name in [
            each
            for each in sys.modules
            if each.startswith(("rich.", "service_utils.integrations.cli.showing"))
        ]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr("service_utils.integrations.cli.showing", raising=False)
        runner = parts.app.test_cli_runner()
        result = runner.invoke(args=["services", "status"])
        assert (result.exit_code, "service-utils[cli]" in result.stderr) == (2, True)
        assert runner.invoke(args=["services", "status", "--json"]).exit_code == 0


def shared_app(folder: Path) -> tuple[Flask, AuditLog]:
    """An app whose processes share all there is."""
    store = SharedMemoryStore(folder / "circuits")
    registry = ServiceRegistry()
    ResilientServiceClient(
        "http://127.0.0.1:1", "Chroma Server", name="chroma", registry=registry, store=store
    )
    audit = AuditLog(folder / "audit.jsonl")
    app = Flask("shared")
    ServiceUtils(
        app,
        registry,
        record=False,
        audit=audit,
        history=SQLiteHistory(folder / "history"),
        dead_letters=DeadLetterQueue(SQLiteDeadLetters(folder / "letters"), registry=registry),
        degradation=DegradationMonitor(registry, rules_by_share(), share=store),
    )
    return app, audit


class TestAsAProgram:
    @staticmethod
    def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """``python -m service_utils``."""
        return subprocess.run(
            [sys.executable, "-m", "service_utils", *arguments],
            cwd=ROOT,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def test_it_ends_with_the_code(self, url: str, parts: Operated) -> None:
        """0, 1 and 2, as a shell sees them."""
        assert self.program("--url", url, "services", "status").returncode == 0
        parts.chroma.breaker.force_open("x")
        assert self.program("services", "status", SERVICE_UTILS_URL=url).returncode == 1
        assert self.program("--url", "http://127.0.0.1:1", "services", "status").returncode == 2

    def test_alone_it_tells_of_both(self) -> None:
        """The commands over HTTP, and those on a file."""
        done = self.program()
        assert done.returncode == 2
        assert "--url" in done.stderr
        assert "dead-letters" in done.stderr
        assert "dead-letters" in self.program("--help").stdout

    def test_dead_letters_need_no_extra(self, tmp_path: Path) -> None:
        """Neither click nor rich is imported for them."""
        code = (
            "import sys; sys.modules['click'] = sys.modules['rich'] = None\n"
            "from service_utils.__main__ import main\n"
            f"print(main(['dead-letters', 'stats', '--file', {str(tmp_path / 'none')!r}]))\n"
            "print(main(['services', 'status']))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
        )
        assert done.stdout.split() == ["2", "2"], done.stderr
        assert "there is no such file" in done.stderr
        assert "service-utils[cli]" in done.stderr
