"""The order in which the parts of a run are started."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from backend.run import supervisor as module
from backend.run.parts import NAMES, Part
from backend.run.supervisor import Supervisor

PARTS = [Part(name, 1, "NO_SETTING") for name in NAMES]


class Story:
    """Children that are ready when they are looked at for the third time, and what happened to them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._looks = dict.fromkeys(NAMES, 0)

    def child(self, part: Part, *_: object, **__: object) -> Story:
        self.events.append(f"start {part.name}")
        return self

    def ready(self, part: Part) -> bool:
        self._looks[part.name] += 1
        if self._looks[part.name] == 3:
            self.events.append(f"ready {part.name}")
        return self._looks[part.name] >= 3

    alive = True

    def terminate(self) -> None:
        pass

    def wait(self, _timeout: float) -> bool:
        return True


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    told = Story()
    monkeypatch.setattr(module, "Child", told.child)
    monkeypatch.setattr(module, "is_ready", told.ready)
    monkeypatch.setattr(module, "_POLL", 0.001)
    return told


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor({}, lambda *_: None) as made:
        yield made


def test_the_backend_comes_when_the_others_are_ready(story: Story, supervisor: Supervisor) -> None:
    """It looks at them as soon as it lives, and goes on without those that it does not find."""
    supervisor.start(PARTS)
    assert story.events[-2:] == ["start backend", "ready backend"]
    assert len(story.events) == 2 * len(PARTS)


def test_a_part_alone(story: Story, supervisor: Supervisor) -> None:
    supervisor.start([PARTS[0]])
    assert story.events == ["start backend", "ready backend"]


def test_stopped_while_the_others_start(story: Story, supervisor: Supervisor) -> None:
    stop = threading.Event()
    stop.set()
    supervisor.start(PARTS, stop)
    assert story.events == []
