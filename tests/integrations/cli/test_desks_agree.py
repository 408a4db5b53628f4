"""The desk in the process and the desk behind HTTP answer the same, and refuse the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waitress.server import create_server

from service_utils import ResilientServiceClient
from service_utils.dead_letters import DeadLetterQueue, SQLiteDeadLetters
from service_utils.degradation import DegradationMonitor, rules_by_share
from service_utils.integrations.cli.face import Face, NotThere, Trouble
from service_utils.integrations.cli.local import LocalDesk
from service_utils.integrations.cli.remote import RemoteDesk
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.registry import ServiceRegistry
from service_utils.testing import FakeClock
from tests.in_thread import in_thread
from tests.integrations.flask.operating import TOKEN, operated

LETTERS = 3


class Desks:
    """Both desks of one app; its clock stands still unless a test moves it."""

    def __init__(self, local: LocalDesk, remote: RemoteDesk, letters: list[str]) -> None:
        self.local: Face = local
        self.remote: Face = remote
        self.letters = letters


@pytest.fixture
def desks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desks]:
    """An app whose letters are in a file, and whose circuits and level are shared: both may act on it."""
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    registry = ServiceRegistry()
    store = SharedMemoryStore(tmp_path / "circuits")
    ResilientServiceClient(
        "http://127.0.0.1:1", "Chroma Server", name="chroma", registry=registry, store=store, health_path="/h"
    )
    ResilientServiceClient("http://127.0.0.1:1", "Git Server", name="git", registry=registry, store=store)
    queue = DeadLetterQueue(SQLiteDeadLetters(tmp_path / "letters"), registry=registry, clock=FakeClock())
    letters = [queue.add("chroma", "POST", "/x", json={"user": "annika"}) for _ in range(LETTERS)]
    with operated(
        dead_letters=queue, degradation=DegradationMonitor(registry, rules_by_share(), share=store)
    ) as parts:
        extension = parts.app.extensions["service_utils"]
        monkeypatch.setattr(extension, "_registry", registry)
        server = create_server(parts.app, host="127.0.0.1", port=0, threads=2)
        with (
            in_thread(server),
            RemoteDesk(f"http://127.0.0.1:{server.effective_port}", TOKEN, "eve") as remote,
        ):
            yield Desks(LocalDesk(extension.desk, "eve"), remote, letters)
    registry.close()


def shape(answer: Any) -> Any:
    """Names and kinds: numbers that time changes are not compared."""
    if isinstance(answer, dict):
        return {name: shape(each) for name, each in answer.items()}
    if isinstance(answer, list):
        return [shape(each) for each in answer]
    return type(answer).__name__ if isinstance(answer, int | float) else answer


LOOKS: dict[str, Callable[[Face, list[str]], Any]] = {
    "circuits": lambda desk, _: desk.circuits(),
    "overview": lambda desk, _: {**desk.overview(), "now": ""},
    "level": lambda desk, _: desk.level(),
    "letters": lambda desk, _: desk.letters(None, None, 2, None),
    "letters after one": lambda desk, ids: desk.letters("chroma", "pending", 50, ids[0]),
    "no letters": lambda desk, _: desk.letters("git", None, 50, None),
    "letter": lambda desk, ids: desk.letter(ids[0], body=False),
    "letter with body": lambda desk, ids: desk.letter(ids[0], body=True),
    "report": lambda desk, _: {**desk.report(), "generated_at": "", "since": ""},
}

ACTS: dict[str, Callable[[Face, list[str]], Any]] = {
    "force-open": lambda desk, _: desk.act("chroma", "force-open", "drill")["state"],
    "disable": lambda desk, _: desk.act("chroma", "disable", "drill")["state"],
    "reset": lambda desk, _: desk.act("chroma", "reset", "drill")["state"],
    "probe": lambda desk, _: {**desk.probe("chroma"), "seconds": 0},
    "set for a while": lambda desk, _: desk.set_level("severe", "drill", 60)["override"]["reason"],
    "set for ever": lambda desk, _: {**desk.set_level("minor", "drill", None)["override"], "at": ""},
    "clear": lambda desk, _: desk.clear_level("well")["override"],
    "retry": lambda desk, ids: desk.retry(ids[0], "drill", force=False),
    "retry all": lambda desk, _: desk.retry_all("chroma", "pending", "drill", force=True),
    "purge none": lambda desk, _: desk.purge("chroma", "dead", 3600.5, "drill"),
}

REFUSED: dict[str, Callable[[Face, list[str]], Any]] = {
    "unknown service": lambda desk, _: desk.act("nobody", "reset", "x"),
    "unknown client": lambda desk, _: desk.probe("nobody"),
    "no health path": lambda desk, _: desk.probe("git"),
    "unknown letter": lambda desk, _: desk.letter("nobody", body=False),
    "unknown letter to retry": lambda desk, _: desk.retry("nobody", "x", force=False),
    "unknown level": lambda desk, _: desk.set_level("awful", "x", 60),
    "unknown status": lambda desk, _: desk.letters(None, "gone", 50, None),
    "too many": lambda desk, _: desk.letters(None, None, 501, None),
    "a reason that is too long": lambda desk, _: desk.act("chroma", "reset", "x" * 300),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking(desks: Desks, look: Callable[[Face, list[str]], Any]) -> None:
    """``--json`` is the same wherever the command runs."""
    assert shape(look(desks.local, desks.letters)) == shape(look(desks.remote, desks.letters))


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_acting(desks: Desks, act: Callable[[Face, list[str]], Any]) -> None:
    """So is what an act answers, and both have it on record in the same words."""
    assert shape(act(desks.local, desks.letters)) == shape(act(desks.remote, desks.letters))
    actions = desks.local.report()["actions"][:2]
    words = [(each["who"], each["action"], each["target"], each["why"]) for each in actions]
    assert words[0] == words[1]
    assert words[0][0] == "eve"


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED)
def test_refusing(desks: Desks, ask: Callable[[Face, list[str]], Any]) -> None:
    """With the same words, and what is not there told from what is wrong."""
    with pytest.raises(Trouble) as here:
        ask(desks.local, desks.letters)
    with pytest.raises(Trouble) as there:
        ask(desks.remote, desks.letters)
    assert str(here.value) == str(there.value)
    assert isinstance(here.value, NotThere) == isinstance(there.value, NotThere)
