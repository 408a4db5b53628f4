from __future__ import annotations

import time

import pytest

from backend.text import sentences


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0"])
def test_long_run_of_white_space(space: str) -> None:
    """A document with a long run of spaces does not stop the backend for minutes."""
    began = time.process_time()

    assert sentences(f"One.{space * 2}Two{space * 100_000}three.{space}\n{space}Four") == [
        "One.",
        f"Two{space * 100_000}three."[:600],
        "Four",
    ]

    assert time.process_time() - began < 2  # it was more than a minute
