"""An app that was dropped left its database connections to the garbage collector."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest

from service_utils.storage import Database


def test_dropped_database_closes_its_connections(tmp_path: Path) -> None:
    """Nothing stays open when the last reference is gone."""
    database = Database(tmp_path / "a.sqlite3")
    with database.read() as connection:
        connection.execute("SELECT 1").fetchone()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del database
        gc.collect()

    with pytest.raises(Exception, match="closed"):
        connection.execute("SELECT 1")
