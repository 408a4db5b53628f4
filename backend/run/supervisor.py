"""All parts together: started, watched, and stopped as one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from backend.run.child import Child, Say, is_ready
from backend.run.parts import BACKEND, Part

__all__ = ["StartError", "Supervisor"]

_READY_WITHIN = 60.0
_STOPPED_WITHIN = 8.0
_POLL = 0.1


class StartError(Exception):
    """A part did not come up; the message says which and why."""


class Supervisor:
    """The children of a run. Leaving the ``with`` block stops them all.

    Args:
        environ: The environment of all of them.
        say: Told every line they print, with the name of the part.
        ready_within: Seconds a part may take to become ready.
        production: Whether the backend is to be served by gunicorn.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        say: Say,
        *,
        ready_within: float = _READY_WITHIN,
        production: bool = False,
    ) -> None:
        self._environ = environ
        self._production = production
        self._say = say
        self._ready_within = ready_within
        self._children: dict[str, Child] = {}
        # Never written to: the children read it, and its end tells them that we are gone.
        self._lifeline, self._held = os.pipe()

    def start(self, parts: Sequence[Part], stop: threading.Event | None = None) -> None:
        """Start parts and wait until all of them are ready, or until ``stop`` is set.

        The backend comes when the others are ready: it looks at them at once, and where it found nobody it
        would go on without them for half a minute.

        Raises:
            StartError: One died or took too long.
            OSError: One cannot be started.
        """
        services = [part for part in parts if part.name != BACKEND]
        for together in (services, [part for part in parts if part.name == BACKEND]):
            if stop is None or not stop.is_set():
                self._start_together(together, stop)

    def _start_together(self, parts: Sequence[Part], stop: threading.Event | None) -> None:
        for part in parts:
            self._children[part.name] = Child(
                part, self._environ, self._lifeline, self._say, production=self._production
            )
        waiting = list(parts)
        deadline = time.monotonic() + self._ready_within
        while waiting and not (stop is not None and stop.is_set()):
            waiting = [part for part in waiting if not self._came_up(part)]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(f"{part.name} ({part.url}/ready)" for part in waiting)
                raise StartError(f"not ready after {self._ready_within:.0f} s: {names}")
            time.sleep(_POLL if waiting else 0)

    def pid(self, name: str) -> int:
        """The process id of a part that was started here."""
        return self._children[name].pid

    def kill(self, name: str) -> None:
        """End a part at once, as ``kill -9`` does, and wait until it is gone."""
        child = self._children.pop(name)
        child.kill()
        child.wait(_STOPPED_WITHIN)

    @property
    def alive(self) -> list[str]:
        """The names of the parts that run."""
        return [name for name, child in self._children.items() if child.alive]

    def watch(
        self, stop: threading.Event, on_death: Callable[[Part, str], None], on_return: Callable[[Part], None]
    ) -> None:
        """Wait until ``stop`` is set or no part is left.

        Args:
            stop: Set by somebody else.
            on_death: Told of each part that dies, and why.
            on_return: Told of each dead part that somebody has started again by other means.
        """
        dead: dict[str, Part] = {}
        while self._children and not stop.wait(_POLL * 5):
            for child in [each for each in self._children.values() if not each.alive]:
                del self._children[child.part.name]
                dead[child.part.name] = child.part
                on_death(child.part, child.obituary())
            for part in [each for each in dead.values() if is_ready(each)]:
                del dead[part.name]
                on_return(part)

    def stop(self) -> None:
        """Ask all to end, and end those that do not within 8 s."""
        children = list(self._children.values())
        self._children.clear()
        for child in children:
            child.terminate()
        deadline = time.monotonic() + _STOPPED_WITHIN
        for child in children:
            if not child.wait(max(deadline - time.monotonic(), 0.1)):
                child.kill()
                child.wait(_STOPPED_WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            os.close(self._held)
            os.close(self._lifeline)

    def _came_up(self, part: Part) -> bool:
        child = self._children[part.name]
        if not child.alive:
            raise StartError(child.obituary())
        return is_ready(part)
