"""The whole product in processes, with a network that fails between all its parts."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Self

import requests

from backend.auth import issue_token
from backend.config import Settings
from service_utils.testing import FaultProxy, faults
from tests.chaos.processes import HOST, Hatchery, Mortal

_SHOWN = (
    "/status",
    "/status/live",
    "/status/report",
    "/metrics",
    "/health/detailed",
    "/v1/api/status/services",
    "/v1/api/openapi.json",
    *(f"/admin/reliability/{each}" for each in ("overview", "circuit-breakers", "degradation", "dlq")),
    *(f"/admin/reliability/{each}" for each in ("reports/reliability", "config", "audit")),
)

SERVICES = ("billing", "chroma", "filesystem", "git")

_WORKERS = 2
_PAUSE = 0.02
_WITHIN = 600  # bytes: about what a request or an answer has
_ENVIRON = {
    "API_TIMEOUT": "0.3",
    "API_RETRY_MAX": "3",
    "API_RETRY_BASE_DELAY": "0.02",
    "CIRCUIT_BREAKER_TIMEOUT": "0.1",
    "REQUEST_DEADLINE": "2.5",
    "WEB_CONCURRENCY": str(_WORKERS),
    "BACKGROUND_WORK": "false",  # the postman does it, who can be killed by himself
    "PYTHONWARNINGS": "default",
}
_ENVIRON |= {
    f"{name.upper()}_{setting}": value
    for name in SERVICES
    for setting, value in (
        ("TIMEOUT", "0.3"), ("DEADLINE", "0.9"), ("MAX_RETRIES", "3"), ("RECOVERY_TIMEOUT", "0.1"),
        ("MAX_CONCURRENT", "16"),
    )
}  # fmt: skip


class World:
    """Backend, services and postman, each service and the backend behind a proxy of its own.

    Args:
        folder: For all data and logs.
        seed: Of all that is left to chance here.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self._stack = ExitStack()
        self._secret = secrets.token_hex(32)
        self._token = secrets.token_hex(16)
        self._previous = secrets.token_hex(16)
        self._admin = secrets.token_urlsafe(24)
        self._llm_key = f"sk-{secrets.token_urlsafe(24)}"
        self._llm_password = secrets.token_urlsafe(12)
        self._tickets: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def ledger(self) -> Path:
        """Billing's file."""
        return self.folder / "billing" / "billing.sqlite3"

    @property
    def letters(self) -> list[Path]:
        """The files of dead letters: those of the callers, and the backend's own."""
        return [self.folder / "callers.sqlite3", self.folder / "var" / "backend" / "dead_letters.sqlite3"]

    @property
    def internal_token(self) -> str:
        """What services show each other."""
        return self._token

    @property
    def proxies(self) -> dict[str, FaultProxy]:
        """All of them, by what they lead to."""
        return {**self.services, "backend": self.front}

    def ticket(self, user: str) -> str:
        """A user's token."""
        ticket = issue_token(Settings.load({"AUTH_JWT_SECRET": self._secret}), user, 1.0)
        self._tickets.add(ticket)
        return ticket

    @property
    def secrets(self) -> dict[str, str]:
        """All that nobody may read anywhere, by what it is; of users' tokens what makes them valid."""
        signatures = {
            f"ticket {number}": each.rpartition(".")[2] for number, each in enumerate(self._tickets)
        }
        return {
            "internal token": self._token,
            "previous internal token": self._previous,
            "secret of users' tokens": self._secret,
            "admin token": self._admin,
            "key of the LLM": self._llm_key,
            "password of the LLM": self._llm_password,
            **signatures,
        }

    def look_at_everything(self) -> None:
        """Have the backend show all it shows to operators, and keep that among the logs."""
        folder = self.folder / "shown"
        folder.mkdir()
        headers = {"Authorization": f"Bearer {self._admin}"}
        for number, path in enumerate(_SHOWN):
            answer = requests.get(f"http://{HOST}:{self.backend.port}{path}", headers=headers, timeout=30)
            assert answer.status_code == 200, path
            (folder / str(number)).write_bytes(answer.content + repr(answer.headers).encode())

    def break_the_network(self, rate: float) -> None:
        """From now on, such a share of all exchanges suffers, and a third of it of those with the backend."""
        for name, proxy in self.proxies.items():
            share = rate / 3 if proxy is self.front else rate
            proxy.random(f"{self.seed}:{name}", share, faults.some_of_each(pause=_PAUSE, within=_WITHIN))

    def heal(self) -> int:
        """Nothing suffers any more; how many exchanges did."""
        suffered = sum(each.fault.name != "nothing" for proxy in self.proxies.values() for each in proxy.log)
        for proxy in self.proxies.values():
            proxy.clear()
        return suffered

    def restart_billing(self, random: Random) -> None:
        """``kill -9``, a moment of nothing, and it is back."""
        self.billing.kill()
        self._pause(random.uniform(0.0, 0.1))
        self.billing.start()

    def kill_a_worker(self, random: Random) -> None:
        """``kill -9`` to a worker of the backend; gunicorn makes another."""
        self.backend.kill_a_child(random.randrange(_WORKERS))

    def restart_postman(self, _: Random) -> None:
        """``kill -9`` to who delivers the dead letters; another one takes over."""
        self.postman.kill()
        self.postman.start()

    def _pause(self, seconds: float) -> None:
        from service_utils.clock import SYSTEM

        SYSTEM.sleep(seconds)

    def _open(self, stack: ExitStack) -> None:
        environ = {**_ENVIRON, "INTERNAL_SERVICE_TOKEN": self._token, "AUTH_JWT_SECRET": self._secret}
        environ |= {
            "INTERNAL_SERVICE_TOKEN_PREVIOUS": self._previous,
            "ADMIN_TOKEN": self._admin,
            "LLM_API_KEY": self._llm_key,
            "LLM_SERVER_URL": f"http://eve:{self._llm_password}@{HOST}:1/v1",  # nobody is there
            "LLM_MODEL": "none",
            "LLM_MAX_RETRIES": "1",
        }
        environ["VAR_DIR"] = str(self.folder / "var")
        environ["PROJECTS_DIR"] = str(self.folder / "projects")
        hatchery = stack.enter_context(Hatchery(environ, self.folder))
        mortals = {name: self._service(hatchery, name) for name in SERVICES}
        self.billing = mortals["billing"]
        self.services = {
            name: stack.enter_context(FaultProxy((HOST, mortal.port))) for name, mortal in mortals.items()
        }
        self.backend = self._backend(hatchery)
        self.front = stack.enter_context(FaultProxy((HOST, self.backend.port)))
        self.postman = self._postman(hatchery)
        everybody = [*mortals.values(), self.backend, self.postman]
        for each in everybody:
            stack.callback(each.close)
            each.start()
        for each in everybody:
            each.wait_until_up()

    def _service(self, hatchery: Hatchery, name: str) -> Mortal:
        arguments = ["--port", "{port}", "--data", str(self.folder / name), "--threads", "8"]
        return Mortal(hatchery, name, f"backend.services.{name}:main", arguments)

    def _backend(self, hatchery: Hatchery) -> Mortal:
        arguments = [
            "tests.chaos.serving:app", "--bind", f"{HOST}:{{port}}", "--preload", "--workers", str(_WORKERS),
            "--worker-class", "gthread", "--threads", "12", "--log-level", "warning", "--no-control-socket",
        ]  # fmt: skip
        environ = {f"{name.upper()}_SERVER_URL": proxy.url for name, proxy in self.services.items()}
        return Mortal(hatchery, "backend", "gunicorn.app.wsgiapp:run", arguments, environ=environ)

    def _postman(self, hatchery: Hatchery) -> Mortal:
        urls = [f"{name}={proxy.url}" for name, proxy in self.services.items()]
        arguments = [*map(str, self.letters), "--", *urls]
        return Mortal(hatchery, "postman", "tests.chaos.postman:main", arguments, listens=False)
