"""A signal that came while a token or a subscription was being exchanged hung the thread it came to."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from service_utils.events import subscribe
from service_utils.http.tokens import INTERNAL_TOKEN_HEADER, EnvToken
from service_utils.testing import FakeClock


def run_with_signals(work: Callable[[], object], inside: CodeType, handler: Callable[[], object]) -> None:
    """Do the work in a thread of its own, the handler called before each line of that function.

    That is where Python runs signal handlers, too: between two steps of whatever the thread is at.
    """

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code is not inside:
            return None
        if event == "line":
            handler()
        return trace

    def traced() -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)

    thread = threading.Thread(target=traced, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_token_asked_for_while_it_is_read_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A signal handler may make a call of its own while the call it interrupts refreshes its token."""
    file = tmp_path / "token"
    file.write_text("old")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", str(file))
    clock = FakeClock()
    token = EnvToken(clock=clock)
    token.headers("s")
    file.write_text("new")
    seen: list[dict[str, str]] = []

    def handler() -> None:
        clock.advance(2)  # so that the file is due to be looked at
        seen.append(token.headers("s"))

    run_with_signals(lambda: token.refresh("s"), EnvToken.refresh.__code__, handler)

    assert seen
    assert seen[-1] == {INTERNAL_TOKEN_HEADER: "new"}


def test_listener_subscribed_while_another_is() -> None:
    """A signal handler may subscribe a listener, and take it back, while one is being subscribed."""
    ends: list[Callable[[], None]] = []

    def handler() -> None:
        subscribe(lambda _event: None)()

    run_with_signals(lambda: ends.append(subscribe(lambda _event: None)), subscribe.__code__, handler)

    assert len(ends) == 1
    ends[0]()
