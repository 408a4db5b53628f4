"""``make demo``: an outage from the first failure to the recovery, with real processes and quick timings.

It runs on free ports and with data of its own, and ends with 0 only if each step really happened.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from secrets import token_urlsafe
from typing import Any, NoReturn

import requests
from rich.console import Console
from rich.text import Text

from backend.config import SERVICES
from backend.run.parts import BACKEND, HOST, Part, free_ports, local_parts
from backend.run.supervisor import StartError, Supervisor

__all__ = ["Story", "StoryError", "main"]

_PROJECT = "demo"
_QUERY = "When are refunds paid?"
_DOCUMENTS = [
    {"id": "refunds", "text": "Refunds are paid within 14 days of the return. Shipping is not refunded."},
    {"id": "opening", "text": "The shop opens at nine and closes at six. On Sundays it stays closed."},
    {"id": "parking", "text": "Visitors park in the yard behind the shop. Parking is free on weekends."},
]
_RECOVERY = 4.0
_TIMINGS = {"CHROMA_RECOVERY_TIMEOUT": str(_RECOVERY), "API_RETRY_BASE_DELAY": "0.1", "LOG_LEVEL": "INFO"}
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH")
_PATIENCE = 20.0
_MOST_SEARCHES = 12
_REQUEST_TIMEOUT = 30.0


class StoryError(Exception):
    """Something did not happen as the story says."""


class Story:
    """The story, told to a console while it happens.

    Args:
        supervisor: Runs the parts; all of them are up.
        chroma: The part that is going to fail.
        url: Where the backend is.
        console: Who is told.
    """

    def __init__(self, supervisor: Supervisor, chroma: Part, url: str, console: Console) -> None:
        self._supervisor = supervisor
        self._chroma = chroma
        self._url = url
        self._console = console
        self._session = requests.Session()
        self._session.trust_env = False

    def play(self) -> None:
        """Play all of it.

        Raises:
            StoryError: It went another way.
            StartError: Chroma did not come up again.
            requests.RequestException: The backend did not answer.
        """
        with self._session:
            self._ingest()
            self._search_well()
            self._kill()
            self._fail_over()
            self._leave_alone()
            self._restart()
            self._recover()

    def _ingest(self) -> None:
        self._chapter("Ingest a few documents")
        body = {"project_id": _PROJECT, "documents": _DOCUMENTS}
        done = self._call("POST", "/v1/api/documents", body)
        self._expect(len(done["indexed"]) == len(_DOCUMENTS), f"indexed are only {done['indexed']}")
        self._tell(f"indexed {', '.join(done['indexed'])}; snapshot {str(done['snapshot'])[:10]}")

    def _search_well(self) -> None:
        self._chapter(f"Search: {_QUERY}")
        found = self._search()
        self._expect(found["source"] == "chroma", f"the answer came from {found['source']}")

    def _kill(self) -> None:
        self._chapter(f"Kill Chroma: kill -9 {self._supervisor.pid(self._chroma.name)}")
        self._supervisor.kill(self._chroma.name)

    def _fail_over(self) -> None:
        self._chapter("Search on: the files answer, and the circuit counts the failures")
        for _ in range(_MOST_SEARCHES):
            found = self._search()
            self._expect(found["degraded"] and found["source"] == "filesystem", "the fallback did not answer")
            if self._status()["state"] == "open":
                return
        self._fail("the circuit did not open")

    def _leave_alone(self) -> None:
        self._chapter("The circuit is open: Chroma is not even tried, and the answer comes at once")
        before = self._status()["requests"]
        found = self._search()
        after = self._status()["requests"]
        self._expect(found["degraded"], "the answer is not marked as degraded")
        self._expect(after["rejected"] == before["rejected"] + 1, "the call was not refused by the circuit")
        self._expect(after["failed"] == before["failed"], "Chroma was tried nevertheless")

    def _restart(self) -> None:
        self._chapter("Start Chroma again")
        self._supervisor.start([self._chroma])
        self._tell(f"ready, pid {self._supervisor.pid(self._chroma.name)}")

    def _recover(self) -> None:
        self._chapter("Search on: the circuit is probed in the background, and closes")
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self._search()["source"] == "chroma":
                self._expect(self._status()["state"] == "closed", "the circuit is not closed again")
                return
            time.sleep(1)
        self._fail("Chroma was not used again")

    def _search(self) -> dict[str, Any]:
        began = time.monotonic()
        found = self._call("POST", "/v1/api/search", {"query": _QUERY, "project_id": _PROJECT})
        took = (time.monotonic() - began) * 1000
        status = self._status()
        first = found["results"][0]["text"] if found["results"] else "nothing"
        degraded = "yes" if found["degraded"] else "no"
        failures = f"{status['failure_count']}/{status['failure_threshold']}"
        self._tell(
            f"{found['source']:<10}  degraded {degraded:<3}  {took:5.0f} ms  "
            f"circuit {status['state']:<9}  failures {failures}  “{first[:46]}”"
        )
        self._expect(first.startswith("Refunds"), f"the best result is {first!r}")
        return found

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._call("GET", "/v1/api/status/services")[self._chroma.name]
        return status

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self._session.request(method, self._url + path, json=body, timeout=_REQUEST_TIMEOUT)
        self._expect(response.status_code == 200, f"{path} answered {response.status_code}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer

    def _chapter(self, title: str) -> None:
        self._console.print()
        self._console.print(Text(title, style="bold"))

    def _tell(self, text: str) -> None:
        self._console.print(Text(f"  {text}"), soft_wrap=True)

    def _expect(self, happened: bool, otherwise: str) -> None:
        if not happened:
            self._fail(otherwise)

    def _fail(self, words: str) -> NoReturn:
        raise StoryError(words)


def main() -> int:
    """Play the story. Returns the exit code."""
    console = Console(highlight=False)

    def say(name: str, line: str) -> None:
        if name == BACKEND:
            console.print(Text(f"  {line}", style="dim"), soft_wrap=True)

    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        environ = _environment(folder)
        parts = local_parts(environ)
        by_name = {part.name: part for part in parts}
        console.print(Text(f"Starting {', '.join(by_name)}", style="bold"))
        try:
            with Supervisor(environ, say) as supervisor:
                supervisor.start(parts)
                Story(supervisor, by_name["chroma"], by_name[BACKEND].url, console).play()
        except (StoryError, StartError, requests.RequestException) as error:
            console.print(Text(f"\nThe story went wrong: {error}", style="bold red"), soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            return 130
    console.print(Text("\nChroma failed and came back, and every search was answered.", style="bold green"))
    return 0


def _environment(folder: str) -> dict[str, str]:
    """What the parts are told: nothing of the user's own settings, free ports, quick timings."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    ports = free_ports(len(SERVICES) + 1)
    urls = {f"{service.prefix}_SERVER_URL": f"http://{HOST}:{ports.pop()}" for service in SERVICES}
    own = {"BACKEND_PORT": str(ports.pop()), "VAR_DIR": folder, "INTERNAL_SERVICE_TOKEN": token_urlsafe(32)}
    return {**kept, **_TIMINGS, **urls, **own}


if __name__ == "__main__":
    sys.exit(main())
