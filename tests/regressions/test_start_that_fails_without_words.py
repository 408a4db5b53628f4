from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backend.__main__ import main
from backend.run.parts import free_ports, local_parts


def test_address_that_is_no_url(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped address is told in one line that names the variable."""
    monkeypatch.setenv("CHROMA_SERVER_URL", "http://[")

    assert main([]) == 1

    assert capsys.readouterr().err == "CHROMA_SERVER_URL='http://[': is no URL\n"


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "http://[::1]:6003", "http://127.0.0.1:6003/vectors", "https://localhost:6003"],
)
def test_address_at_which_no_part_of_ours_would_listen(url: str) -> None:
    """A service whose address we do not listen at is not started: it could never be reached there."""
    parts = local_parts({"CHROMA_SERVER_URL": url})

    assert [part.name for part in parts] == ["filesystem", "billing", "git", "backend"]


@pytest.mark.parametrize(
    ("part", "name"),
    [("backend", "index.sqlite3"), ("backend", "replays.sqlite3"), ("billing", "billing.sqlite3")],
)
def test_damaged_file(
    part: str,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A damaged file keeps its part from starting, and one line says which part and which file."""
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", sys.argv)  # a service is run under a command line of its own
    damaged = tmp_path / part / name
    damaged.parent.mkdir()
    damaged.write_bytes(b"no database" * 100)

    with pytest.raises(SystemExit, match="1"):
        main(["--only", part, "--port", str(free_ports(1)[0])])

    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{part} cannot start: {damaged}: file is not a database"
