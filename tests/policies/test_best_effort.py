"""best_effort: what may fail without harm to the rest."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from service_utils.calls import CallRecord, EndReason, Replay, attach_call
from service_utils.errors import CircuitOpenError
from service_utils.events import Event, FallbackUsed, subscribe
from service_utils.policies.fallback import Effort, best_effort, collect_degradations
from service_utils.testing import FakeClock

REPLAY = Replay(
    method="POST",
    path="/snapshot/p1?x=1",
    body=b'{"message": "auto-save"}',
    headers={"Content-Type": "application/json"},
    idempotency_key="key-1",
)


class Sink:
    """Dead letters kept in a list; fails when told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.letters: list[dict[str, Any]] = []

    def add(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        error: BaseException | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        if self.error is not None:
            raise self.error
        self.letters.append(
            {
                "service": service,
                "method": method,
                "path": path,
                "body": body,
                "headers": headers,
                "error": error,
                "idempotency_key": idempotency_key,
            }
        )
        return f"letter-{len(self.letters)}"


def away(replay: Replay | None = REPLAY) -> requests.ConnectionError:
    """The error of a client's failed write."""
    error = requests.ConnectionError("git is away")
    record = CallRecord(
        service="Git Server",
        name="git",
        method="POST",
        path="/snapshot/{id}",
        attempts=(),
        idempotency_key="key-1",
        request_id=None,
        ended=EndReason.ATTEMPTS_EXHAUSTED,
        _replay=lambda: replay,
    )
    attach_call(error, record)
    return error


@pytest.fixture
def events() -> Iterator[list[FallbackUsed]]:
    """Every FallbackUsed that is told while the test runs."""
    seen: list[FallbackUsed] = []

    def listener(event: Event) -> None:
        if isinstance(event, FallbackUsed):
            seen.append(event)

    unsubscribe = subscribe(listener)
    yield seen
    unsubscribe()


def test_success(events: list[FallbackUsed]) -> None:
    """A block that succeeds is ok, and nobody hears of it."""
    with best_effort("git snapshot") as effort:
        pass
    assert effort == Effort(ok=True, error=None, letter_id=None)
    assert events == []


def test_failure_is_swallowed() -> None:
    """A service that is away does not stop what comes after."""
    error = requests.ConnectionError("away")
    with best_effort("git snapshot") as effort:
        raise error
    assert (effort.ok, effort.error, effort.letter_id) == (False, error, None)


def test_failure_is_told(events: list[FallbackUsed]) -> None:
    """Listeners hear what was skipped, for which service and why."""
    with best_effort("git snapshot", clock=FakeClock(start=2.0)):
        raise away()
    assert events == [
        FallbackUsed(
            service="Git Server",
            name="git",
            at=2.0,
            pattern="best_effort",
            strategy="git snapshot",
            status="skipped",
            reason="connection failed",
            detail="git is away",
        )
    ]


def test_failure_without_a_service(events: list[FallbackUsed]) -> None:
    """An error that names no service is told under the name of the effort, or the service that was given."""
    with best_effort("git snapshot"):
        raise requests.ConnectionError("away")
    with best_effort("git snapshot", service="Git Server"):
        raise requests.ConnectionError("away")
    assert [(event.service, event.name) for event in events] == [
        ("git snapshot", "git-snapshot"),
        ("Git Server", "git-server"),
    ]


def test_is_no_degraded_answer() -> None:
    """Leaving a side job out does not degrade the answer."""
    with collect_degradations() as degraded, best_effort("git snapshot"):
        raise requests.ConnectionError("away")
    assert degraded == []


@pytest.mark.parametrize("error", [KeyError("x"), requests.exceptions.InvalidURL("x"), KeyboardInterrupt()])
def test_mistakes_pass(error: BaseException, events: list[FallbackUsed]) -> None:
    """Programming errors, the caller's own mistakes and Ctrl-C are not swallowed."""
    snapshot = best_effort("git snapshot")
    with pytest.raises(type(error)) as caught, snapshot as effort:
        raise error
    assert caught.value is error
    assert (effort.ok, effort.error) == (False, error)
    assert events == []


def test_catch() -> None:
    """With catch= exactly those exceptions are swallowed."""
    with best_effort("thumbnail", catch=(OSError, KeyError)) as effort:
        raise KeyError("x")
    assert not effort.ok
    with pytest.raises(requests.ConnectionError), best_effort("thumbnail", catch=KeyError):
        raise requests.ConnectionError("away")


def test_round_an_await() -> None:
    """The block may await."""

    async def snapshot() -> Effort:
        with best_effort("git snapshot") as effort:
            await asyncio.sleep(0)
            raise requests.ConnectionError("away")
        return effort

    assert asyncio.run(snapshot()).ok is False


def test_can_be_used_again() -> None:
    """One object serves any number of blocks, each with an effort of its own."""
    snapshot = best_effort("git snapshot")
    with snapshot as first:
        raise requests.ConnectionError("away")
    with snapshot as second:
        pass
    assert (first.ok, second.ok) == (False, True)


def test_blocks_of_one_object_inside_each_other() -> None:
    """A failure inside is the inner block's, and the outer one goes on."""
    snapshot = best_effort("git snapshot")
    with snapshot as outer:
        with snapshot as inner:
            raise requests.ConnectionError("away")
        after = True
    assert (inner.ok, outer.ok, after) == (False, True, True)


def test_blocks_of_two_objects_crossed() -> None:
    """Blocks of different objects may end in another order than they began, as in an exit stack."""
    first, second = best_effort("first"), best_effort("second")
    outer, inner = first.__enter__(), second.__enter__()
    error = requests.ConnectionError("away")
    assert first.__exit__(type(error), error, None) is True
    assert second.__exit__(None, None, None) is False
    assert (outer.ok, inner.ok) == (False, True)


def test_threads_share_an_object() -> None:
    """Threads in their blocks at the same time have efforts of their own."""
    snapshot = best_effort("git snapshot")
    barrier = threading.Barrier(6)
    efforts: dict[int, Effort] = {}

    def request(number: int) -> None:
        with snapshot as effort:
            efforts[number] = effort
            barrier.wait(20)
            if number % 2:
                raise requests.ConnectionError(str(number))

    threads = [threading.Thread(target=request, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [efforts[number].ok for number in range(6)] == [True, False] * 3
    assert [str(efforts[number].error) for number in (1, 3, 5)] == ["1", "3", "5"]


def test_tasks_share_an_object() -> None:
    """So have tasks whose blocks end in another order than they began."""
    snapshot = best_effort("git snapshot")

    async def request(number: int, rounds: int) -> Effort:
        with snapshot as effort:
            for _ in range(rounds):
                await asyncio.sleep(0)
            if number % 2:
                raise requests.ConnectionError(str(number))
        return effort

    async def main() -> list[Effort]:
        return list(await asyncio.gather(*(request(number, 6 - number) for number in range(6))))

    assert [effort.ok for effort in asyncio.run(main())] == [True, False] * 3


def test_a_block_left_in_another_context(events: list[FallbackUsed]) -> None:
    """A generator that is finished elsewhere still has its failure swallowed and told."""

    def steps() -> Iterator[int]:
        with best_effort("git snapshot"):
            yield 1
            raise requests.ConnectionError("away")
        yield 2

    generator = steps()
    rest: list[int] = []
    assert next(generator) == 1
    thread = threading.Thread(target=lambda: rest.extend(generator), daemon=True)
    thread.start()
    thread.join(20)
    assert rest == [2]
    assert [event.status for event in events] == ["skipped"]


# -- as a decorator


def test_decorated_function(events: list[FallbackUsed]) -> None:
    """A decorated function returns its result, or None where it would have failed."""

    @best_effort("git snapshot")
    def snapshot(project: str, *, fail: bool) -> str:
        """Take a snapshot."""
        if fail:
            raise requests.ConnectionError("away")
        return f"sha of {project}"

    assert snapshot("p1", fail=False) == "sha of p1"
    assert snapshot("p1", fail=True) is None
    assert (snapshot.__name__, snapshot.__doc__) == ("snapshot", "Take a snapshot.")
    assert [event.strategy for event in events] == ["git snapshot"]


def test_decorated_coroutine_function(events: list[FallbackUsed]) -> None:
    """A coroutine function stays one."""

    @best_effort("git snapshot")
    async def snapshot(fail: bool) -> str:
        await asyncio.sleep(0)
        if fail:
            raise requests.ConnectionError("away")
        return "sha"

    assert inspect.iscoroutinefunction(snapshot)
    assert asyncio.run(snapshot(False)) == "sha"
    assert asyncio.run(snapshot(True)) is None
    assert len(events) == 1


@pytest.mark.parametrize(("status", "swallowed"), [(200, False), (302, False), (404, True), (503, True)])
def test_decorated_function_with_a_response(status: int, swallowed: bool, events: list[FallbackUsed]) -> None:
    """A response of 400 or above is a failure there; below it is the result."""
    answer = requests.Response()
    answer.status_code = status
    result = best_effort("git snapshot")(lambda: answer)()
    assert result is (None if swallowed else answer)
    assert [event.reason for event in events] == ([f"status {status}"] if swallowed else [])


def test_decorated_mistakes_pass() -> None:
    """Programming errors inside decorated functions pass."""

    @best_effort("git snapshot")
    def broken() -> None:
        raise KeyError

    @best_effort("git snapshot")
    async def broken_async() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        broken()
    with pytest.raises(KeyError):
        asyncio.run(broken_async())


def test_decorated_functions_keep_dead_letters() -> None:
    """A failed call inside a decorated function is kept too, sync or async."""
    sink = Sink()

    @best_effort("git snapshot", dead_letters=sink)
    def snapshot() -> None:
        raise away()

    @best_effort("git snapshot", dead_letters=sink)
    async def snapshot_async() -> None:
        raise away()

    snapshot()
    asyncio.run(snapshot_async())
    assert len(sink.letters) == 2


def test_generator_functions_are_refused() -> None:
    """A generator function fails after the call is over."""

    def numbers() -> Any:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        best_effort("x")(numbers)


# -- dead letters


def test_failed_call_is_kept() -> None:
    """The client call that failed goes to the dead letters, as it was sent, under the client's name."""
    sink, error = Sink(), away()
    with best_effort("git snapshot", dead_letters=sink) as effort:
        raise error
    assert effort.letter_id == "letter-1"
    assert sink.letters == [
        {
            "service": "git",
            "method": "POST",
            "path": "/snapshot/p1?x=1",
            "body": b'{"message": "auto-save"}',
            "headers": {"Content-Type": "application/json"},
            "error": error,
            "idempotency_key": "key-1",
        }
    ]


@pytest.mark.parametrize(
    "error", [requests.ConnectionError("no call"), away(replay=None), CircuitOpenError("Git Server", 1.0)]
)
def test_nothing_to_keep(error: Exception, events: list[FallbackUsed]) -> None:
    """What is no write of a client, or cannot be sent again, is told and not kept."""
    sink = Sink()
    with best_effort("git snapshot", dead_letters=sink) as effort:
        raise error
    assert (effort.letter_id, sink.letters) == (None, [])
    assert [event.status for event in events] == ["skipped"]


def test_success_keeps_nothing() -> None:
    """A call that arrived is not kept."""
    sink = Sink()
    with best_effort("git snapshot", dead_letters=sink):
        pass
    assert sink.letters == []


def test_mistakes_are_not_kept() -> None:
    """A programming error is nothing to deliver later."""
    sink = Sink()
    with pytest.raises(KeyError), best_effort("git snapshot", dead_letters=sink):
        raise KeyError
    assert sink.letters == []


def test_a_sink_that_fails(events: list[FallbackUsed], caplog: pytest.LogCaptureFixture) -> None:
    """When the call cannot be kept, the sink's error is raised and the call's own is logged."""
    sink_error, error = OSError("disk full"), away()
    with (
        caplog.at_level(logging.ERROR, "service_utils"),
        pytest.raises(OSError, match="disk full") as caught,
        best_effort("git snapshot", dead_letters=Sink(sink_error)),
    ):
        raise error
    assert caught.value is sink_error
    assert caught.value.__context__ is error
    assert (
        "[Git Server] git snapshot failed (connection failed) and could not be kept for later: git is away"
        in caplog.messages
    )
    assert [event.status for event in events] == ["failure"]


# -- arguments


def test_bad_arguments() -> None:
    """Arguments that make no sense are refused by name and value."""
    bad: Any
    with pytest.raises(ValueError, match="name=''"):
        best_effort("")
    for bad in (None, 3):
        with pytest.raises(TypeError, match=f"name={bad}"):
            best_effort(bad)
    with pytest.raises(ValueError, match="service=''"):
        best_effort("x", service="")
    with pytest.raises(TypeError, match="catch="):
        best_effort("x", catch=KeyboardInterrupt)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dead_letters="):
        best_effort("x", dead_letters=[])  # type: ignore[arg-type]


def test_repr() -> None:
    """Somebody who prints it sees what it is for."""
    assert repr(best_effort("git snapshot")) == "best_effort('git snapshot')"
