"""FaultProxy: a TCP proxy on the loopback interface that damages what goes through it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self

from service_utils.testing.connections import HOST, Listener, bound_socket
from service_utils.testing.exchanges import Exchange, OpenExchange
from service_utils.testing.faults import Fault, Plan, nothing, some_of_each
from service_utils.testing.proxying import ProxiedConnection

__all__ = ["FaultProxy"]

_CLOSE_WITHIN = 5.0  # seconds for all connections to end; they have nothing to wait for then


@dataclass(frozen=True, slots=True)
class _Dice:
    seed: int | str
    rate: float
    faults: tuple[Plan, ...]

    def plan(self, random: Random) -> Plan | None:
        if random.random() >= self.rate:
            return None
        return random.choice(self.faults)


class FaultProxy:
    """Stands between a caller and a real service and breaks the network between them.

    It listens from its making on, at a free port of 127.0.0.1 that stays the same, and takes each connection
    on to ``upstream``::

        with FaultProxy(("127.0.0.1", 6004)) as proxy:
            proxy.script([faults.nothing(), faults.drop_reply()])
            requests.post(proxy.url + "/deduct_cost", ...)

    *One fault for each exchange*, which is a request and its answer, also where a connection is kept for
    several: it is the next of the script; once that is used up, one drawn at :meth:`random`; without that,
    ``default``. The fault for the first exchange of a connection is chosen when the connection is accepted,
    for each later one at the first byte of its request. So a connection on which no request comes uses up one
    fault, too. What is no HTTP/1.1, such as TLS, counts as one exchange that lasts as long as its connection.

    Once a caller closes its side, nobody waits for the answer any more: the connection to the service is
    closed. Once the service closes or resets its own, so does the proxy.

    All faults are in :mod:`service_utils.testing.faults`. Every method may be called from any thread.

    Args:
        upstream: Host and port of the service, as a pair or as ``"host:port"``.
        default: The fault when there is neither script nor chance.

    Attributes:
        default: See above; may be changed at any time.
        errors: What plans raised that were to make a fault, in order; leaving the ``with`` block raises the
            first of them.
        port: The port, the same for the proxy's whole life.

    Raises:
        ValueError: ``upstream`` is no host and port.
    """

    def __init__(self, upstream: str | tuple[str, int], *, default: Fault | None = None) -> None:
        self._upstream = _address(upstream)
        self.default: Fault = default if default is not None else nothing()
        self.errors: list[Exception] = []
        self._changed = threading.Condition()
        self._script: deque[Fault] = deque()
        self._dice: _Dice | None = None
        self._log: list[Exchange] = []
        self._exchanges = 0
        self._connections = 0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()  # touched by the loop's thread alone
        self._loop = asyncio.new_event_loop()
        self._reserved = bound_socket(0)  # the port stays ours while nobody listens on it
        self.port: int = self._reserved.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"fault-proxy-{self.port}", daemon=True)
        self._thread.start()
        self._listener: Listener | None = Listener(self.port, self._admit)

    @property
    def url(self) -> str:
        """``http://``, host and port, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def upstream(self) -> tuple[str, int]:
        """Host and port of the service. Set it when the service has moved: new connections lead there."""
        return self._upstream

    @upstream.setter
    def upstream(self, upstream: str | tuple[str, int]) -> None:
        self._upstream = _address(upstream)

    @property
    def log(self) -> list[Exchange]:
        """All exchanges that are over, in the order of their ends.

        An exchange that passed is noted a moment after its last byte: see :meth:`wait_for`.
        """
        with self._changed:
            return list(self._log)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._connections

    @property
    def pending(self) -> int:
        """How many faults of the script are left."""
        with self._changed:
            return len(self._script)

    def script(self, faults: Iterable[Fault]) -> None:
        """Add faults for the next exchanges, one each."""
        with self._changed:
            self._script.extend(faults)

    def random(self, seed: int | str, rate: float = 0.3, faults: Sequence[Plan] | None = None) -> None:
        """From now on, do something to some exchanges, by chance that can be repeated.

        Exchange ``n`` (its ``number`` in the log) has random numbers of its own, those of
        ``random.Random(f"{seed}:{n}")``: is the first of them below ``rate``, then ``choice(faults)`` is its
        fault; what makes a fault and its jitter draw from them next. So the same seed does the same to the
        same numbers, however many threads there are; which request of which thread gets which number is up
        to them.

        Args:
            seed: Any number or text.
            rate: The share of exchanges that something is done to, 0 to 1.
            faults: What may be done, faults or functions that make one with the ``Random`` they are given;
                None for :func:`~service_utils.testing.faults.some_of_each`.

        Raises:
            ValueError: ``rate`` is out of range, or there are no faults.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate!r}: must be from 0 to 1")
        chosen = tuple(some_of_each() if faults is None else faults)
        if not chosen:
            raise ValueError("faults=[]: must hold at least one")
        with self._changed:
            self._dice = _Dice(seed, rate, chosen)

    def clear(self) -> None:
        """Forget the rest of the script, the chance and the log; pass on whatever comes, but ``default``."""
        with self._changed:
            self._script.clear()
            self._dice = None
            self._log.clear()

    def wait_for(self, n: int, timeout: float = 5.0) -> list[Exchange]:
        """Block until the log holds at least ``n`` exchanges, and return it.

        Args:
            n: How many.
            timeout: Real seconds to wait at most.

        Raises:
            TimeoutError: There were fewer all the time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._log) >= n, timeout):
                raise TimeoutError(f"{len(self._log)} instead of {n} exchanges after {timeout} real seconds")
            return list(self._log)

    def stop_listening(self) -> None:
        """Refuse new connections, as a host on which nothing runs; the port stays taken, old ones go on."""
        with self._changed:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close(_CLOSE_WITHIN)

    def resume(self) -> None:
        """Accept connections again, at the same port.

        Raises:
            RuntimeError: The proxy was closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("a closed FaultProxy cannot resume")
            if self._listener is None:
                self._listener = Listener(self.port, self._admit)

    def disconnect(self) -> None:
        """Close every open connection at once, in use or idle."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(_CLOSE_WITHIN)

    def close(self) -> None:
        """Stop at once, whatever is under way, and give the port back. A second time does nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self.stop_listening()
        self._reserved.close()
        self.disconnect()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self.errors:
            raise self.errors[0]

    def __repr__(self) -> str:
        host, port = self._upstream
        return f"FaultProxy({self.url!r} -> {host}:{port})"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    def _admit(self, sock: socket.socket) -> None:
        """In the listener's thread: hand the connection to the loop's."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self._connections += 1
            number = self._connections
        self._loop.call_soon_threadsafe(self._start, sock, number)

    def _start(self, sock: socket.socket, number: int) -> None:
        task = self._loop.create_task(self._serve(sock, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Its own work; but a task that is cancelled before its first step does none.
        task.add_done_callback(lambda _: sock.close())

    async def _serve(self, sock: socket.socket, number: int) -> None:
        connection = ProxiedConnection(sock, self._upstream, lambda: self._begin(number), self._note)
        try:
            await connection.serve()
        except Exception as error:
            self.errors.append(error)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, connection: int) -> OpenExchange:
        with self._changed:
            self._exchanges += 1
            number, dice = self._exchanges, self._dice
            scripted = self._script.popleft() if self._script else None
        random = Random(f"{dice.seed if dice is not None else 0}:{number}")
        plan: Plan | None = scripted
        if plan is None and dice is not None:
            plan = dice.plan(random)
        fault = self.default if plan is None else plan if isinstance(plan, Fault) else plan(random)
        return OpenExchange(number, connection, fault, random)

    def _note(self, exchange: Exchange) -> None:
        with self._changed:
            self._log.append(exchange)
            self._changed.notify_all()


def _address(upstream: str | tuple[str, int]) -> tuple[str, int]:
    if isinstance(upstream, str):
        host, _, text = upstream.rpartition(":")
        port = int(text) if text.isdecimal() else -1
    else:
        host, port = upstream
    if not host or "/" in host or not 0 < port < 2**16:
        raise ValueError(f"upstream={upstream!r}: must be a host and a port")
    return host, port
