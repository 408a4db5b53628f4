"""The demo plays what it says, and fails when something else happens."""

from __future__ import annotations

import socket

import pytest

from backend import demo


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same story with shorter pauses."""
    monkeypatch.setattr(demo, "_RECOVERY", 1.0)
    monkeypatch.setitem(demo._TIMINGS, "CHROMA_RECOVERY_TIMEOUT", "1.0")
    monkeypatch.setitem(demo._TIMINGS, "API_RETRY_BASE_DELAY", "0.01")


def test_story_is_played_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Ingest, search, kill, fallback, open circuit, restart, recovery: exit code 0."""
    assert demo.main() == 0

    told = capsys.readouterr().out
    for words in (
        "indexed refunds, opening, parking",
        "[Chroma Server] Circuit breaker OPEN (threshold reached: 5/5)",
        "[Chroma Server] Circuit breaker CLOSED (service recovered)",
        "Chroma failed and came back, and every search was answered.",
    ):
        assert words in told


def test_part_that_cannot_start_fails_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there is no story to tell, the exit code says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        elsewhere = {
            f"{name}_SERVER_URL": f"http://{name}.example" for name in ("FILESYSTEM", "BILLING", "GIT")
        }
        environ = {**elsewhere, "CHROMA_SERVER_URL": f"http://127.0.0.1:{port}"}
        original = demo._environment
        monkeypatch.setattr(demo, "_environment", lambda folder: {**original(folder), **environ})

        assert demo.main() == 1

    assert f"port {port} is in use" in capsys.readouterr().out


def test_wrong_turn_fails_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Chroma that does not answer the first search spoils the story, and the demo admits it."""
    monkeypatch.setitem(demo._TIMINGS, "CHROMA_TIMEOUT", "0.000001")

    assert demo.main() == 1

    assert "The story went wrong: " in capsys.readouterr().out
