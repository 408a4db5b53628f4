"""Old letters are removed by the worker, but not on the word of a clock that has jumped."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from service_utils.dead_letters import DeadLetterWorker

from .workshop import Workshop, shop

__all__ = ["shop"]

HOUR = 3600.0
WEEK = 7 * 24 * HOUR


def test_after_a_week_a_letter_is_removed_and_told(shop: Workshop) -> None:
    """It is purged, never silently."""
    old = shop.queue.add("nobody", "POST", "/old")
    shop.worker.run_once()
    shop.clock.advance(WEEK - HOUR)
    young = shop.queue.add("nobody", "POST", "/young")
    shop.worker.run_once()
    assert shop.events == []
    shop.clock.advance(HOUR + 1)

    shop.worker.run_once()

    assert shop.events == [(old, "purged", 0)]
    assert [letter.id for letter in shop.queue.list()] == [young]


def test_nothing_is_removed_in_the_first_hour(shop: Workshop) -> None:
    """A process that has just begun cannot know whether its clock is right."""
    shop.queue.add("nobody", "POST", "/a")
    shop.clock.set_now(shop.clock.now() + timedelta(days=8))
    worker = DeadLetterWorker(shop.queue, shop.registry, clock=shop.clock)

    worker.run_once()
    assert shop.queue.stats()["letters"] == 1
    shop.clock.advance(HOUR)
    worker.run_once()
    assert shop.queue.stats()["letters"] == 0


def test_a_clock_that_jumps_removes_nothing(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    """Set forward by a week, it makes nothing expire; once it has gone right for an hour it is believed."""
    shop.queue.add("nobody", "POST", "/a")
    shop.clock.advance(HOUR / 2)
    shop.clock.set_now(shop.clock.now() + timedelta(days=8))
    shop.clock.advance(HOUR / 2)
    with caplog.at_level(logging.WARNING, "service_utils"):
        shop.worker.run_once()
    assert "clock has jumped by 691200 s" in caplog.text
    assert shop.queue.stats()["letters"] == 1

    shop.clock.advance(HOUR)
    shop.worker.run_once()
    assert shop.queue.stats()["letters"] == 0
