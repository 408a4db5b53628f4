"""Name resolution that ends in time.

``socket.getaddrinfo`` knows no time-out and cannot be interrupted, so names are looked up by a few daemon
threads, and whoever asked waits for them no longer than it may. A lookup that hangs is abandoned; it keeps
its thread until the operating system gives up.
"""

from __future__ import annotations

import contextlib
import copy
import socket
import threading
from typing import Any, TypeAlias

from service_utils.clock import SYSTEM
from service_utils.forks import in_child

__all__ = ["AddressInfo", "resolve"]

AddressInfo: TypeAlias = "tuple[Any, ...]"  # family, kind, protocol, canonical name, socket address
_Key: TypeAlias = "tuple[str, int, int]"

_MOST_THREADS = 4
_MOST_THREADS_OF_A_NAME = 2
_IDLE_SECONDS = 5.0  # after which a thread with nothing to do ends
# After which the next caller has the name looked up a second time: a datagram that was lost is noticed only
# after 5 s, and one lost datagram is no reason for the calls of all that time to fail.
_LATE_SECONDS = 1.0

_STOCK_GETADDRINFO = socket.getaddrinfo


def resolve(host: str, port: int, family: int, moment: float | None) -> list[AddressInfo]:
    """What ``socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)`` gives, by a certain moment.

    Equal lookups under way at the same time are one. Numeric addresses are not looked up and take no time.

    Args:
        host: A name or a numeric address.
        port: The port.
        family: An address family; ``socket.AF_UNSPEC`` for any.
        moment: When to give up, in seconds of ``SYSTEM.monotonic()``; None for never.

    Raises:
        TimeoutError: The moment has come.
        OSError: Whatever ``getaddrinfo`` raises, usually ``socket.gaierror``; each caller gets a copy.
    """
    key = (host, port, family)
    if moment is None or _is_numeric(host) or _pool.is_locked_here():
        return _look_up(key)
    return _pool.resolve(key, moment)


def _is_numeric(host: str) -> bool:
    if socket.getaddrinfo is not _STOCK_GETADDRINFO:
        return False  # a stand-in may take its time over anything
    kind, address = (socket.AF_INET6, host.partition("%")[0]) if ":" in host else (socket.AF_INET, host)
    try:
        socket.inet_pton(kind, address)
    except (OSError, ValueError):
        return False
    return True


def _look_up(key: _Key) -> list[AddressInfo]:
    host, port, family = key
    # Through the module, for the sake of all who replace it there.
    return list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))


class _Signal:
    """Wakes one thread. Other than an Event it may be set by whoever interrupts that very thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, and take that back; False when it was not in time."""
        return self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class _Lookup:
    """One lookup, shared by all who wait for it."""

    __slots__ = ("began", "error", "infos", "key", "over", "threads", "waiting")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.waiting: list[_Signal] = []
        self.threads = 0  # that are at it, or are to be
        self.began = 0.0
        self.over = False
        self.infos: list[AddressInfo] = []
        self.error: Exception | None = None

    def result(self) -> list[AddressInfo]:
        if self.error is None:
            return list(self.infos)
        raise _copy_of(self.error)


def _copy_of(error: Exception) -> Exception:
    """An exception raised in two threads would mix up their tracebacks."""
    try:
        copied: object = copy.copy(error)
    except Exception:  # its constructor wants something else than its args
        copied = error
    if isinstance(copied, Exception) and copied is not error:
        return copied
    return socket.gaierror(socket.EAI_FAIL, f"{type(error).__name__}: {error}")


class _Pool:
    """The threads and what they have to do. No lock is held while a name is looked up or waited for."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._queued: dict[_Key, _Lookup] = {}  # in the order in which they came
        self._under_way: dict[_Key, _Lookup] = {}
        self._threads: set[threading.Thread] = set()
        self._idle: list[_Signal] = []

    def is_locked_here(self) -> bool:
        """Whether this thread is in a locked section, interrupted by a signal handler or a finalizer.

        That one must not wait for the pool: its threads cannot go on before it returns.
        """
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]

    def resolve(self, key: _Key, moment: float) -> list[AddressInfo]:
        """See the function :func:`resolve`."""
        signal = _Signal()
        try:
            lookup = self._join(key, signal)
            if not self._threads and not lookup.over:
                return _look_up(key)  # no thread can be started, as at the interpreter's end: better late
            while not lookup.over:
                left = moment - SYSTEM.monotonic()
                if left <= 0:
                    raise TimeoutError("name resolution timed out")
                signal.wait(left)
            return lookup.result()
        finally:
            self._leave(key, signal)

    def _join(self, key: _Key, signal: _Signal) -> _Lookup:
        """Wait with the others for a lookup under way, or see that one begins."""
        with self._lock:
            lookup = self._under_way.get(key) or self._queued.get(key) or _Lookup(key)
            lookup.waiting.append(signal)
            if self._wants_thread(lookup):
                lookup.threads += 1
                self._queued[key] = lookup
                self._summon_locked()
            return lookup

    def _wants_thread(self, lookup: _Lookup) -> bool:
        if lookup.key in self._queued or lookup.threads >= _MOST_THREADS_OF_A_NAME:
            return False
        return lookup.threads == 0 or SYSTEM.monotonic() - lookup.began > _LATE_SECONDS

    def _leave(self, key: _Key, signal: _Signal) -> None:
        """No longer wait. What nobody waits for and has not begun need not begin."""
        with self._lock:
            lookup = self._under_way.get(key) or self._queued.get(key)
            if lookup is None or signal not in lookup.waiting:
                return
            lookup.waiting.remove(signal)
            if not lookup.waiting and self._queued.pop(key, None) is not None:
                lookup.threads -= 1

    def _summon_locked(self) -> None:
        if self._idle:
            self._idle.pop().set()
            return
        if len(self._threads) >= _MOST_THREADS:
            return  # one of them will come to it, or nobody waits for it any more by then
        thread = threading.Thread(target=self._work, name="service-utils-resolver", daemon=True)
        try:
            self._threads.add(thread)
            thread.start()
        except BaseException as error:
            self._threads.discard(thread)
            if not isinstance(error, RuntimeError):  # there are too many, or the interpreter ends
                raise

    def _work(self) -> None:
        signal = _Signal()
        while (lookup := self._take(signal)) is not None:
            try:
                self._end(lookup, _look_up(lookup.key), None)
            except Exception as error:
                # Its traceback would lead back to the lookup.
                self._end(lookup, [], error.with_traceback(None))
            except BaseException:  # somebody wants the thread to end; those who wait need another word
                text = "name resolution was interrupted"
                self._end(lookup, [], socket.gaierror(socket.EAI_AGAIN, text))
            del lookup

    def _take(self, signal: _Signal) -> _Lookup | None:
        """The next lookup; None when there was none for long enough, and the thread is to end."""
        in_time = True
        while True:
            with self._lock:
                if signal in self._idle:
                    self._idle.remove(signal)
                if self._queued:
                    return self._begin_locked()
                if not in_time:
                    self._threads.discard(threading.current_thread())
                    return None
                self._idle.append(signal)
            in_time = signal.wait(_IDLE_SECONDS)

    def _begin_locked(self) -> _Lookup:
        key = next(iter(self._queued))
        lookup = self._under_way[key] = self._queued.pop(key)
        lookup.began = SYSTEM.monotonic()
        return lookup

    def _end(self, lookup: _Lookup, infos: list[AddressInfo], error: Exception | None) -> None:
        """Tell all who wait, unless another thread was faster."""
        with self._lock:
            if lookup.over:
                return
            self._queued.pop(lookup.key, None)
            self._under_way.pop(lookup.key, None)
            lookup.infos, lookup.error, lookup.over = infos, error, True
            for signal in lookup.waiting:
                signal.set()


_pool = _Pool()


def _start_anew() -> None:
    """A child has none of its parent's threads, and nobody in it waits for their lookups."""
    global _pool
    _pool = _Pool()


in_child(_start_anew)
