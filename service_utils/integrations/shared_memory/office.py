"""The office of a host's leader: held by whoever has a lock that the kernel takes back when he dies."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import TypeAlias

from service_utils.forks import guard
from service_utils.integrations.shared_memory.locks import take
from service_utils.integrations.shared_memory.segment import Files

__all__ = ["Office"]

_logger = logging.getLogger("service_utils")

_LOCK = 1 << 20  # the number of the lock
_PATIENCE = 10.0  # seconds for which what is being begun or ended is waited for


Duty: TypeAlias = tuple[Callable[[], object], Callable[[], object]]
"""What a leader begins, and ends when it is no more."""


class Office:
    """One process's candidacy. Only the store's thread calls :meth:`seek`.

    What the leader does is begun and ended in a thread of its own, for that may take its time. What cannot
    be begun is tried again at the next look.

    Args:
        files: Where the file with the lock is.

    Attributes:
        wanted: Whether this process is a candidate.
        held: Whether it is the leader.
        candidates: What is to be begun when it becomes so, and ended when it is no more.
    """

    def __init__(self, files: Files) -> None:
        self.candidates: list[Duty] = []
        self._files = files
        self._descriptor = -1
        self._complained = False
        self._begin_process()
        guard(self)

    def _begin_process(self) -> None:
        self.wanted = self.held = False
        self._locked = False
        self._begun: list[Duty] = []
        self._failed: list[Duty] = []  # what could not be begun, and so is tried again
        self._thread: threading.Thread | None = None

    def _renew_in_child(self) -> None:
        """Be a candidate no more, until somebody stands in this process."""
        descriptor, self._descriptor = self._descriptor, -1
        self._begin_process()
        self.candidates = []
        if descriptor >= 0:
            _close(descriptor)

    def seek(self, *, alone: bool) -> None:
        """Take the office if it is free.

        Args:
            alone: Whether this process shares nothing at present, and so leads itself if there can be no
                lock.
        """
        if not self.wanted:
            return
        try:
            if self._descriptor >= 0 and not self._files.is_lock(self._descriptor):
                self._let_go()  # the file has been replaced: the others lock the new one
            if self._descriptor < 0:
                self._descriptor = self._files.open_lock()
            self._locked = self._locked or take(self._descriptor, _LOCK)
            self.held = self._locked
            self._complained = False
        except OSError as error:
            self.held = alone
            self._complain(error)
        self._serve()

    def leave(self) -> None:
        """Give it up, and stand no more. Returns when all that was begun has ended."""
        self.wanted = self.held = False
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)
        self._do_all()
        self._let_go()

    def _let_go(self) -> None:
        self.held = self._locked = False
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _close(descriptor)

    def _complain(self, error: OSError) -> None:
        if self._complained or self.held:
            return
        self._complained = True
        text = "Nobody can be chosen for what only one process of the host does, beside %s: %s"
        _logger.warning(text, self._files.path, error.strerror or error)

    def _serve(self) -> None:
        """Have begun what has not been begun yet, or ended all."""
        if len(self._begun) == (len(self.candidates) if self.held else 0):
            return
        if self._thread is not None and self._thread.is_alive():
            return  # it will see for itself, or we shall next time
        self._thread = threading.Thread(target=self._do_all, name="shared-state-duties", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads
            self._thread = None
            _logger.warning("What only one process of the host does cannot be begun or ended yet: %s", error)

    def _do_all(self) -> None:
        for duty in tuple(self.candidates):
            if not self.held or duty in self._begun:
                continue
            if _done(duty[0], quietly=duty in self._failed):
                self._begun.append(duty)
            elif duty not in self._failed:
                self._failed.append(duty)
        while not self.held and self._begun:
            _done(self._begun.pop()[1])


def _done(action: Callable[[], object], *, quietly: bool = False) -> bool:
    try:
        action()
    except Exception:
        level = logging.DEBUG if quietly else logging.ERROR
        text = "What only one process of the host does could not be begun or ended: %r"
        _logger.log(level, text, action, exc_info=True)
        return False
    return True


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
