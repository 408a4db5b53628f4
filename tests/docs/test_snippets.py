"""Every Python snippet of the pages runs as it stands there, in a network of services that are up or down.

A comment on the line before a snippet, which readers do not see, says what else it needs:

    <!-- down: chroma, git -->     these services refuse connections; all others answer
    <!-- prints -->                before a block of text right below a snippet: this is what it prints

Functions whose names begin with ``test_`` are called with the fixtures they ask for, as pytest would.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from service_utils import default_registry
from service_utils.clock import SystemClock
from service_utils.events import telling as events

from .pages import PAGES, Block, blocks

SERVICES = {"chroma": 6003, "filesystem": 6002, "billing": 6004, "git": 6005, "legacy": 8080, "llm": 8000}
ANSWERS: dict[str, Any] = {
    "/query": {"ids": [["refunds"]], "documents": [["Refunds are paid within 14 days."]]},
    "/deduct_cost": {"entry_id": 1, "balance": 900},
    "/snapshot/": {"sha": "0123456"},
}


def snippets() -> Iterator[tuple[Block, str | None]]:
    """Each Python snippet, and what it has to print, if its page says so."""
    for page in PAGES:
        found: list[Block | None] = [*blocks(page), None]
        for block, following in pairwise(found):
            if block is not None and block.language == "python":
                prints = following is not None and following.mark == "prints"
                yield block, following.code if following is not None and prints else None


SNIPPETS = list(snippets())


@contextmanager
def network(down: set[str]) -> Iterator[None]:
    """Services that answer everything, but for those that are down; this machine stays reachable."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add_passthru("http://127.0.0.1")
        for name, port in SERVICES.items():
            where = re.compile(rf"http://{name}:{port}/.*")
            for method in ("GET", "POST", "PUT", "DELETE"):
                if name in down:
                    mock.add(method, where, body=requests.ConnectionError("Connection refused"))
                else:
                    mock.add_callback(method, where, _answer, content_type="application/json")
        yield


def _answer(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
    answer = next((body for path, body in ANSWERS.items() if request.path_url.startswith(path)), {"ok": True})
    return 200, {}, requests.compat.json.dumps(answer)


@pytest.fixture
def process_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a snippet leaves in the process is gone after it, and nobody really waits between two attempts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SystemClock, "sleep", lambda _clock, _seconds: None)
    monkeypatch.setattr(events, "_subscribers", events._subscribers)
    yield
    default_registry().close()


@pytest.mark.usefixtures("process_as_it_was")
@pytest.mark.parametrize(("snippet", "shown"), SNIPPETS, ids=[str(snippet) for snippet, _ in SNIPPETS])
def test_snippet(
    snippet: Block,
    shown: str | None,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever pastes a snippet into Python sees it work."""
    names: dict[str, Any] = {"__name__": "snippet"}
    # The empty lines make the line numbers of a traceback those of the page.
    code = compile("\n" * (snippet.line - 1) + snippet.code, str(snippet.page), "exec")
    with network(_down(snippet)):
        exec(code, names)
        for name, test in names.items():
            if name.startswith("test_"):
                test(**{each: request.getfixturevalue(each) for each in inspect.signature(test).parameters})
    if shown is not None:
        assert capsys.readouterr().out == shown


def test_there_are_snippets() -> None:
    """The pages have been read."""
    assert len(SNIPPETS) > 10


def _down(snippet: Block) -> set[str]:
    if not snippet.mark:
        return set()
    what, _, named = snippet.mark.partition(": ")
    down = set(named.split(", "))
    assert what == "down", f"{snippet}: nobody knows the comment {snippet.mark!r}"
    assert down <= SERVICES.keys(), f"{snippet}: there is no such service"
    return down
