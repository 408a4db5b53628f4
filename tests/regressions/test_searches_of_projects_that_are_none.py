from __future__ import annotations

from pathlib import Path

import pytest

from backend.services.filesystem import search
from backend.services.filesystem.folders import ProjectFolders
from backend.services.filesystem.search import SearchIndex


def test_searching_ever_new_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searching a new project each time, whether it exists or not, does not fill the memory."""
    monkeypatch.setattr(search, "_COMPARISONS_REMEMBERED", 3)
    index = SearchIndex(tmp_path / "search.db", ProjectFolders(tmp_path / "projects"))

    for number in range(9):
        assert index.search(f"p{number}", "word", 1) == []

    assert list(index._compared) == ["p6", "p7", "p8"]
    index.close()
