"""Forks: no lock of this package is held in a child for ever, and no guarded state is torn.

``os.fork`` copies one thread and all memory. A lock that another thread held at that moment stays locked in
the child, with nobody to release it, and what that thread was changing stays half changed. Therefore whoever
keeps state behind a lock calls :func:`guard` once: before a fork every guarded lock is taken, so that no
other thread is in the middle of anything; in the parent they are released again, and in the child each thing
gets a new lock and may put right what belongs to one process only.

Guarded sections must be short and must not wait for each other. One that is not left in time is no reason to
hang: the fork goes on without it, and its lock is new in the child all the same.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["Forks", "guard", "in_child"]

_PATIENCE = 2.0  # seconds a fork waits for a section that somebody is in; they take microseconds

_logger = logging.getLogger("service_utils")

_Ref: TypeAlias = Callable[[], Any]  # a weak reference, or whatever else gives the thing or None


class _Thing(weakref.ref[Any]):
    """A weak reference that knows under what it is kept, so that all can share one callback."""

    __slots__ = ("key",)

    def __init__(self, thing: object, forget: Callable[[_Thing], object]) -> None:
        super().__init__(thing, forget)  # type: ignore[call-arg]
        self.key = id(thing)


class Forks:
    """What has to be done round a fork. Takes no lock of its own to be told: each step of it is one of C.

    Args:
        patience: Seconds that all locks together are waited for.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._things = things = dict[int, _Thing]()  # in the order in which they came, by identity
        self._forget = lambda reference: things.pop(reference.key, None)
        self._actions: dict[object, _Ref] = {}
        self._forking = threading.RLock()  # so that two threads that fork do not wait for each other
        self._taken: list[list[threading.RLock]] = []  # one list per fork: a signal handler may fork within

    def guard(self, thing: object) -> None:
        """See the function :func:`guard`."""
        self._things[id(thing)] = _Thing(thing, self._forget)

    def in_child(self, action: Callable[[], object]) -> None:
        """See the function :func:`in_child`."""
        key, actions = object(), self._actions
        if inspect.ismethod(action):
            # No WeakMethod: collected together with its object it complains on stderr.
            owner = weakref.ref(action.__self__, lambda _: actions.pop(key, None))
            actions[key] = functools.partial(_method_of, owner, action.__func__)
        else:
            actions[key] = lambda: action

    def before(self) -> None:
        """Have every guarded section empty."""
        self._forking.acquire()
        taken: list[threading.RLock] = []
        self._taken.append(taken)
        patience = self._patience
        for thing in self._alive():
            lock = getattr(thing, "_lock", None)
            if lock is None:
                continue
            if lock.acquire(timeout=patience):
                taken.append(lock)
            else:
                patience = 0.0  # the rest is taken where it can be had at once
        for thing in self._alive():
            _do(getattr(thing, "_prepare_fork", None))

    def after_in_parent(self) -> None:
        """Let the other threads go on."""
        for lock in reversed(self._taken.pop()):
            lock.release()
        self._forking.release()

    def after_in_child(self) -> None:
        """Give everything a new lock and have it put itself right. The old locks are nobody's."""
        self._forking = threading.RLock()
        self._taken.clear()
        things = self._alive()
        for thing in things:
            if hasattr(thing, "_lock"):
                thing._lock = threading.RLock()
        for thing in things:
            _do(getattr(thing, "_renew_in_child", None))
        for action in list(self._actions.values()):
            _do(action())

    def _alive(self) -> list[Any]:
        """The guarded things: a copy, since others may come and go at any moment."""
        things = [ref() for ref in list(self._things.values())]
        return [thing for thing in things if thing is not None]


def _method_of(owner: _Ref, function: Callable[..., object]) -> Callable[[], object] | None:
    """The method of a thing, if that is still there."""
    thing = owner()
    return None if thing is None else functools.partial(function, thing)


def _do(action: Callable[[], object] | None) -> None:
    """Do one thing's part; that it fails is no reason to leave the others undone."""
    if action is None:
        return
    try:
        action()
    except Exception:
        with contextlib.suppress(Exception):  # a logging handler that raises is nobody's business here
            _logger.exception("Could not be put right for a fork: %r", action)


_forks = Forks()


def guard(thing: object) -> None:
    """Have the lock and the state of a thing survive forks. Only a weak reference to it is kept.

    Args:
        thing: Keeps its lock, an ``RLock``, in ``_lock`` and looks there each time, if it has one. If it has
            a method ``_renew_in_child``, that is called in each child once all locks are new; and if it has a
            method ``_prepare_fork``, that is called before each fork once the locks are held.
    """
    _forks.guard(thing)


def in_child(action: Callable[[], object]) -> None:
    """Have a function called in each child, after all guarded things have been put right there.

    Args:
        action: Takes nothing. Of a bound method only a weak reference is kept.
    """
    _forks.in_child(action)


if hasattr(os, "register_at_fork"):  # pragma: no branch - where processes cannot fork there is nothing to do
    os.register_at_fork(
        before=_forks.before,
        after_in_parent=_forks.after_in_parent,
        after_in_child=_forks.after_in_child,
    )
