"""Threads for tests: all at one moment, or one beside this one. None is waited for longer than PATIENCE."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

PATIENCE = 20  # real seconds; a deadlock takes longer


def together(number: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of so many threads that begin at one moment returned; what one raised is raised here."""
    start = threading.Barrier(number, timeout=PATIENCE)
    results: list[Any] = [None] * number
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            start.wait()
            results[index] = work(index)
        except BaseException as error:  # handed on to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "deadlock"
    if errors:
        raise errors[0]
    return results


def in_thread(work: Callable[[], Any]) -> bool:
    """Whether the work ends in another thread while this one waits."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()
