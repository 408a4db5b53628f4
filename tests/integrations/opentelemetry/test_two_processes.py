"""One trace through two real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.backend.waiting import eventually

ROOT = Path(__file__).parents[3]
APP = Path(__file__).with_name("traced_app.py")
INBOUND = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """A process with the app; yields its address."""
    process = subprocess.Popen(
        [sys.executable, str(APP), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def chain() -> Iterator[tuple[str, str]]:
    """Two processes: the first calls the second."""
    with ExitStack() as stack:
        last = stack.enter_context(running())
        yield stack.enter_context(running(last)), last


def test_one_trace(chain: tuple[str, str]) -> None:
    """Caller, server, client, server: each is the parent of the next, and the failed attempt is an event."""
    first, last = chain
    answer = requests.get(f"{first}/work", headers={"traceparent": INBOUND}, timeout=30)
    assert answer.json() == {"done": True}

    def of(url: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"{url}/spans", timeout=30).json()
        return [span for span in found if span["name"] != "GET /spans"]

    eventually(lambda: len(of(first)) == 2 and len(of(last)) == 2)
    client, server = of(first)
    assert {span["trace"] for span in (*of(first), *of(last))} == {INBOUND.split("-")[1]}
    assert (server["kind"], server["parent"]) == ("SERVER", INBOUND.split("-")[2])
    assert (client["kind"], client["parent"]) == ("CLIENT", server["span"])
    assert client["attempts"] == [503, 200]
    assert [(span["kind"], span["parent"]) for span in of(last)] == [("SERVER", client["span"])] * 2
