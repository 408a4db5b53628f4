"""Forked children that live on: each does what it is asked to, by name, until it is ended."""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["PATIENCE", "Child", "Orders", "until"]

Orders: TypeAlias = dict[str, Callable[..., Any]]

PATIENCE = 10.0  # real seconds; whoever hangs takes longer
_PAUSE = 0.002
_LENGTH = struct.Struct("<I")


def until(condition: Callable[[], Any], within: float = PATIENCE) -> Any:
    """What the condition returns as soon as that is true; its last word when so many seconds are over."""
    ends = time.monotonic() + within
    while True:
        found = condition()
        if found or time.monotonic() >= ends:
            return found
        time.sleep(_PAUSE)


class Child:
    """A forked process.

    Args:
        orders: What it can be asked to do, by name.
    """

    def __init__(self, orders: Orders) -> None:
        theirs, self._writing = os.pipe()
        self._reading, ours = os.pipe()
        tracer = sys.gettrace()
        sys.settrace(None)  # coverage has a lock of its own, which another thread may hold at this moment
        with warnings.catch_warnings():
            # That other threads run is what some of these tests are about.
            warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writing)
            os.close(self._reading)
            _serve(orders, theirs, ours)
        sys.settrace(tracer)
        os.close(theirs)
        os.close(ours)
        self._ended = False

    def ask(self, order: str, *arguments: Any) -> Any:
        """Have something done; what came of it is returned, or raised."""
        self.tell(order, *arguments)
        return self.hear()

    def tell(self, order: str, *arguments: Any) -> None:
        """Have something done; see :meth:`hear`."""
        _write(self._writing, (order, arguments))

    def hear(self) -> Any:
        """What came of an order."""
        result, error = _read(self._reading, PATIENCE)
        if error is not None:
            raise error
        return result

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Have it stand still, until it is sent a SIGCONT."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def kill(self) -> None:
        """``kill -9``; it is gone when this returns."""
        if not self._ended:
            self._ended = True
            self.signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def end(self) -> None:
        """Kill it, and close the pipes."""
        self.kill()
        os.close(self._writing)
        os.close(self._reading)


def _serve(orders: Orders, reading: int, writing: int) -> None:
    threading.settrace(None)  # type: ignore[arg-type]  # threads of the child, too, go without coverage's lock
    try:
        while (order := _read(reading, None)) is not None:
            name, arguments = order
            try:
                answer = orders[name](*arguments), None
            except BaseException as error:
                answer = None, error
            _write(writing, answer)
        os._exit(0)
    finally:
        os._exit(1)


def _write(descriptor: int, words: Any) -> None:
    data = pickle.dumps(words)
    os.write(descriptor, _LENGTH.pack(len(data)) + data)


def _read(descriptor: int, patience: float | None) -> Any:
    """What has been written.

    Raises:
        EOFError: The other side is gone.
        TimeoutError: It says nothing for too long.
    """
    length = _LENGTH.unpack(_bytes(descriptor, _LENGTH.size, patience))[0]
    return pickle.loads(_bytes(descriptor, length, patience))


def _bytes(descriptor: int, length: int, patience: float | None) -> bytes:
    data = b""
    while len(data) < length:
        if not select.select([descriptor], [], [], patience)[0]:
            raise TimeoutError("a forked child hangs")
        piece = os.read(descriptor, length - len(data))
        if not piece:
            raise EOFError("the other side is gone")
        data += piece
    return data


def force_open(path: str, name: str, *, close: bool = True) -> None:
    """What a spawned process does: open a circuit for all."""
    from service_utils.integrations.shared_memory import SharedMemoryStore
    from service_utils.policies.breaker import CircuitBreaker

    store = SharedMemoryStore(path)
    CircuitBreaker(name, store=store).force_open("by a spawned process")
    if close:
        store.close()
