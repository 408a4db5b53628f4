"""One connection through a fault proxy: two streams of bytes, and what is done to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random

from service_utils.testing.exchanges import End, Exchange, OpenExchange
from service_utils.testing.faults import Flow
from service_utils.testing.replies import Ending

__all__ = ["ProxiedConnection"]

_BLOCK = 2**16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends a reset
_DRAINED_WITHIN = 1.0  # seconds for the caller to see the end of file and to close, too
_PACES_A_SECOND = 50


class _Over(Exception):
    """The connection is to end in this way, for this reason."""

    def __init__(self, ending: Ending, end: End) -> None:
        super().__init__(ending, end)
        self.ending = ending
        self.end = end


class _Course:
    """One message on its way along a flow."""

    def __init__(self, flow: Flow, random: Random) -> None:
        self._flow = flow
        self._random = random
        self._begun = False
        self._room = flow.cut_at
        self._held = b""

    async def pieces(self, data: bytes, *, whole: bool) -> AsyncIterator[bytes]:
        """What to pass on now that ``data`` has come, at its time.

        Raises:
            _Over: The flow is cut here.
        """
        flow = self._flow
        if not self._begun:
            self._begun = True
            await _pause(flow.delay + (self._random.uniform(0.0, flow.jitter) if flow.jitter else 0.0))
        if self._room is not None:
            data = data[: self._room]
            self._room -= len(data)
        if flow.when_whole and not whole:
            self._held += data
            return
        data, self._held = self._held + data, b""
        size, wait = _pace(flow, len(data))
        for start in range(0, len(data), size):
            yield data[start : start + size]
            await _pause(wait)
        if self._room == 0:
            raise _Over(flow.ending, End.FAULT)


class ProxiedConnection:
    """Passes on what comes, request by request.

    Args:
        client: The accepted socket, not blocking.
        upstream: Where the service is; the connection to it is made with the first byte for it.
        begin: Chooses what to do with the next exchange.
        note: Told of each exchange that is over.
    """

    def __init__(
        self,
        client: socket.socket,
        upstream: tuple[str, int],
        begin: Callable[[], OpenExchange],
        note: Callable[[Exchange], object],
    ) -> None:
        self._client = client
        self._upstream_address = upstream
        self._upstream: socket.socket | None = None
        self._reached = asyncio.Event()
        self._begin = begin
        self._note = note
        self._under_way: deque[OpenExchange] = deque()
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Until one of the three has had enough: the caller, the service or the fault."""
        end = End.STOPPED
        try:
            self._under_way.append(self._begin())
            over = await self._until_over()
            end = over.end
            self._note_rest(end)  # before the caller can know
            await self._finish(over.ending)
        finally:
            self._note_rest(end)
            for each in (self._client, self._upstream):
                if each is not None:
                    each.close()

    def _note_rest(self, end: End) -> None:
        while self._under_way:
            self._note(self._under_way.popleft().ended(end))

    async def _until_over(self) -> _Over:
        if self._under_way[0].fault.refused:
            return _Over(Ending.RESET, End.FAULT)
        pumps = [
            asyncio.create_task(_outcome(self._carry_responses())),
            asyncio.create_task(_outcome(self._carry_requests())),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # What the service said comes before the caller's leaving: it may have left because it had all.
            return next(each for each in pumps if each.done()).result()
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _carry_requests(self) -> None:
        data = await self._from_client()
        exchange = self._under_way[0]
        while True:
            data = await self._carry_request(exchange, data) or await self._from_client()
            exchange = self._begin()
            self._under_way.append(exchange)
            if exchange.fault.refused:
                raise _Over(Ending.RESET, End.FAULT)

    async def _carry_request(self, exchange: OpenExchange, data: bytes) -> bytes:
        """Pass one request on; what has come of the next one."""
        course = _Course(exchange.fault.request, exchange.random)
        while True:
            taken = exchange.request.feed(data)
            async for piece in course.pieces(data[:taken], whole=exchange.request.complete):
                if await self._to_upstream(piece):
                    exchange.request_bytes += len(piece)
            if exchange.request.complete:
                exchange.request_whole = True
                return data[taken:]
            data = await self._from_client()

    async def _carry_responses(self) -> None:
        await self._reached.wait()
        data = await self._from_upstream()
        while data:
            if self._under_way:
                data = await self._carry_response(self._under_way[0], data)
            else:
                await self._to_client(data)  # said without being asked, such as a 408 to an idle connection
                data = b""
            data = data or await self._from_upstream()
        raise _Over(Ending.CLOSE, End.UPSTREAM_LEFT)

    async def _carry_response(self, exchange: OpenExchange, data: bytes) -> bytes:
        """Pass one answer on; what has come of the next one."""
        course = _Course(exchange.fault.response, exchange.random)
        framing = exchange.answered()
        while True:
            taken = framing.feed(data)
            whole = framing.complete or (not data and framing.until_closed)
            async for piece in course.pieces(data[:taken], whole=whole):
                await self._to_client(piece)
                exchange.response_bytes += len(piece)
            if whole:
                self._under_way.popleft()
                self._note(exchange.ended(End.PASSED))
            if whole or not data:
                return data[taken:]
            data = await self._from_upstream()

    async def _from_client(self) -> bytes:
        try:
            data = await self._loop.sock_recv(self._client, _BLOCK)
        except OSError:
            data = b""
        if not data:
            raise _Over(Ending.CLOSE, End.CALLER_LEFT)
        return data

    async def _to_client(self, data: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._client, data)
        except OSError:
            raise _Over(Ending.CLOSE, End.CALLER_LEFT) from None

    async def _from_upstream(self) -> bytes:
        assert self._upstream is not None  # _reached says so
        try:
            return await self._loop.sock_recv(self._upstream, _BLOCK)
        except OSError:
            raise _Over(Ending.RESET, End.UPSTREAM_LEFT) from None

    async def _to_upstream(self, data: bytes) -> bool:
        """Whether it could be sent. If not, the service may still have answered: that decides."""
        upstream = self._upstream or await self._reach_upstream()
        try:
            await self._loop.sock_sendall(upstream, data)
        except OSError:
            return False
        return True

    async def _reach_upstream(self) -> socket.socket:
        with contextlib.suppress(OSError):
            found = await self._loop.getaddrinfo(*self._upstream_address, type=socket.SOCK_STREAM)
            for family, _, _, _, address in found:
                self._upstream = socket.socket(family)
                self._upstream.setblocking(False)
                self._upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with contextlib.suppress(OSError):
                    await self._loop.sock_connect(self._upstream, address)
                    self._reached.set()
                    return self._upstream
                self._upstream.close()
        raise _Over(Ending.RESET, End.UPSTREAM_AWAY)

    async def _finish(self, ending: Ending) -> None:
        if ending is Ending.HANG:
            await self._until_client_closes()
        elif ending is Ending.RESET:
            for each in (self._client, self._upstream):
                if each is not None:
                    with contextlib.suppress(OSError):  # it is gone already
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        else:
            await self._end_of_file()

    async def _end_of_file(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        # Closed with something unread, the connection would be reset: the caller has to close first.
        with contextlib.suppress(OSError, TimeoutError):
            self._client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_DRAINED_WITHIN):
                await self._until_client_closes()

    async def _until_client_closes(self) -> None:
        with contextlib.suppress(_Over):
            while True:
                await self._from_client()


async def _outcome(pump: Coroutine[None, None, None]) -> _Over:
    try:
        await pump
    except _Over as over:
        return over
    raise AssertionError("a pump ends by raising")


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _pace(flow: Flow, length: int) -> tuple[int, float]:
    """How many bytes to pass on at once, and how long to wait after them."""
    if flow.drip is not None:
        return flow.drip.size, flow.drip.every
    if flow.bytes_per_second is not None:
        size = max(1, min(_BLOCK, int(flow.bytes_per_second / _PACES_A_SECOND)))
        return size, size / flow.bytes_per_second
    return max(length, 1), 0.0
