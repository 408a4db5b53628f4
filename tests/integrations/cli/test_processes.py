"""Commands and apps as processes of their own, as on a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from service_utils.integrations.cli.local import LocalDesk
from tests.integrations.cli.conftest import ROOT, Program
from tests.integrations.flask.operating import TOKEN, Operated, operated

APP = """
from flask import Flask
from service_utils import ResilientServiceClient
from service_utils.integrations.flask import ServiceUtils

app = Flask(__name__)
ResilientServiceClient("http://127.0.0.1:1", "Chroma Server", name="chroma")
ServiceUtils(app)
"""

SERVE = """
import sys
from waitress.server import create_server
from app import app

server = create_server(app, host="127.0.0.1", port=0, threads=2)
print(server.effective_port, flush=True)
server.run()
"""


class Site:
    """An app's folder and environment on a host."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "ADMIN_TOKEN": TOKEN, **environ}
        (folder / "app.py").write_text(APP)

    @contextmanager
    def served(self) -> Iterator[str]:
        """A process that serves it, and its address."""
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
            process.communicate()

    def flask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of flask's in a shell on the same host."""
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=50,
            check=False,
        )


def test_three_processes(tmp_path: Path, program: Program) -> None:
    """``SERVICE_UTILS_SHARED_STATE`` lets flask's command open the circuit of the app that others ask."""
    site = Site(tmp_path, SERVICE_UTILS_SHARED_STATE=f"memory:{tmp_path / 'state'}")
    with site.served() as url:
        assert program("--url", url, "services", "status", ADMIN_TOKEN=TOKEN).returncode == 0
        done = site.flask("services", "force-open", "chroma", "--reason", "from a shell")
        assert done.returncode == 0, done.stderr
        assert "of this command alone" not in done.stderr
        seen = program("--url", url, "services", "status", "--json", ADMIN_TOKEN=TOKEN)
        assert seen.returncode == 1
        assert json.loads(seen.stdout)["open"] == ["chroma"]
        assert (
            program(
                "--url", url, "services", "reset", "chroma", "--reason", "x", ADMIN_TOKEN=TOKEN
            ).returncode
            == 0
        )
        assert site.flask("services", "status").returncode == 0


def test_three_processes_that_share_nothing(tmp_path: Path, program: Program) -> None:
    """Flask's command refuses to act on its own copy, and the way it names works."""
    site = Site(tmp_path)
    site.environ.pop("SERVICE_UTILS_SHARED_STATE", None)
    with site.served() as url:
        done = site.flask("services", "force-open", "chroma", "--reason", "from a shell")
        assert done.returncode == 2
        assert "python -m service_utils --url" in done.stderr
        assert program("--url", url, "services", "status", ADMIN_TOKEN=TOKEN).returncode == 0
        act = ["--url", url, "services", "force-open", "chroma", "--reason", "x"]
        assert program(*act, ADMIN_TOKEN=TOKEN).returncode == 0
        assert program("--url", url, "services", "status", ADMIN_TOKEN=TOKEN).returncode == 1


class TestInFlask:
    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            (["services", "status"], "circuits"),
            (["reliability", "report"], "circuits"),
            (["degradation", "show"], "a level"),
            (["dlq", "list"], "dead letters"),
        ],
        ids=["services", "reliability", "degradation", "dlq"],
    )
    def test_a_copy_is_said_to_be_one(self, arguments: list[str], what: str) -> None:
        """Whatever is shown; standard output is for the answer alone."""
        with operated() as parts:
            result = parts.app.test_cli_runner().invoke(args=[*arguments, "--json"])
        assert f"has {what} of this command alone" in result.stderr
        json.loads(result.stdout)

    def test_letters_in_memory(self) -> None:
        """The advice is one that helps: no variable shares them."""
        with operated() as parts:
            result = parts.app.test_cli_runner().invoke(
                args=["dlq", "retry-all", "--yes", "--service", "chroma"]
            )
        assert result.exit_code == 2
        assert "keep them in a file" in result.stderr

    def test_ctrl_c_at_a_question(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Flask's own code for it would be 1, as for an open circuit."""

        def interrupted(desk: LocalDesk) -> None:
            raise click.Abort

        monkeypatch.setattr(LocalDesk, "circuits", interrupted)
        with operated() as parts:
            assert parts.app.test_cli_runner().invoke(args=["services", "status"]).exit_code == 130

    def test_apps_do_not_load_rich(self) -> None:
        """Nor does the help of its commands: it is for tables."""
        code = (
            "import sys\n"
            "sys.modules['rich'] = None\n"
            "from tests.integrations.flask.operating import operated\n"
            "with operated() as parts:\n"
            "    print(parts.app.test_cli_runner().invoke(args=['services', '--help']).exit_code)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
        )
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


class TestWithoutTheExtra:
    @pytest.mark.parametrize(("arguments", "code"), [(["services", "status"], 2), (["--help"], 0), ([], 2)])
    def test_what_to_install(self, arguments: list[str], code: int) -> None:
        """Both ways are told of, and which of them is missing something."""
        program = (
            "import sys; sys.modules['click'] = None\n"
            "from service_utils.__main__ import main\n"
            f"sys.exit(main({arguments!r}))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == code
        told = done.stdout + done.stderr
        assert "pip install 'service-utils[cli]'" in told
        assert "dead-letters" in told
        assert ("click is not installed" in told) == (arguments == ["services", "status"])
        assert "Traceback" not in told


def test_the_token_is_no_argument(served: Operated, program: Program) -> None:
    """There is no option for it: who lists processes would see it."""
    done = program("--help")
    assert "--token-file" in done.stdout
    assert "--token " not in done.stdout
    assert program("--token", TOKEN, "services", "status").returncode == 2
