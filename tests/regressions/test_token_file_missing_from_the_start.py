from __future__ import annotations

from pathlib import Path

import pytest

from backend.__main__ import main
from backend.run.parts import NAMES, free_ports


@pytest.mark.parametrize("part", NAMES)
def test_token_file_that_is_not_there(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped path of the token's file keeps a part from starting, instead of refusing every request."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", [])  # a service is run under a command line of its own

    with pytest.raises(SystemExit, match="1"):
        main(["--only", part, "--port", str(free_ports(1)[0])])

    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{part} cannot start: ")
    assert "INTERNAL_SERVICE_TOKEN_FILE" in last
