"""ReadOnlyMode: reads pass, writes are refused or kept for later."""

from __future__ import annotations

import asyncio
import logging
import pickle
from typing import Any

import pytest

from service_utils import BreakerConfig, CircuitBreaker, FallbackChain, Outcome, collect_degradations
from service_utils.errors import ServiceUnavailable
from service_utils.fallbacks import ReadOnlyError, ReadOnlyMode
from service_utils.policies.fallback import Strategy
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import together


@pytest.fixture
def mode() -> ReadOnlyMode:
    return ReadOnlyMode("orders")


def test_by_hand(mode: ReadOnlyMode) -> None:
    """Writes pass until somebody enters the mode, and again when he has left it."""
    write = mode.writes(lambda: "written")
    assert write() == "written"
    mode.enter("moving house")
    with pytest.raises(ReadOnlyError, match=r"^orders: read-only \(moving house\)$") as caught:
        write()
    assert (caught.value.service, caught.value.reason, caught.value.retry_after) == (
        "orders",
        "moving house",
        30,
    )
    mode.leave()
    mode.leave()
    assert write() == "written"


def test_reads_pass(mode: ReadOnlyMode) -> None:
    """Reads are none of its business."""
    mode.enter("moving house")
    assert mode.run("read", str, 7) == "7"
    with pytest.raises(ReadOnlyError):
        mode.run("write", str, 7)
    with pytest.raises(ValueError, match="access='look'"):
        mode.run("look", str, 7)  # type: ignore[arg-type]


def test_blocks(mode: ReadOnlyMode) -> None:
    """A block that writes is not begun; the mode lasts until the last of overlapping blocks is over."""
    with mode.during("backup"):
        with mode.during("move"), pytest.raises(ReadOnlyError), mode.writing():
            raise AssertionError("written all the same")
        assert mode.reason == "backup"
    with mode.writing():
        assert not mode.active


def test_block_that_fails_leaves_the_mode(mode: ReadOnlyMode) -> None:
    """Whatever happens in its block, the mode is left."""
    with pytest.raises(KeyboardInterrupt), mode.during("backup"):
        raise KeyboardInterrupt
    assert not mode.active


def test_open_circuit() -> None:
    """Writes are refused while the circuit is open, and told when to come back; then one may try."""
    clock = FakeClock()
    breaker = CircuitBreaker("db", BreakerConfig(failure_threshold=1, recovery_timeout=20), clock=clock)
    mode = ReadOnlyMode("orders", breaker=breaker)
    assert not mode.active
    breaker.record(breaker.acquire(), Outcome.FAILURE)
    with pytest.raises(ReadOnlyError) as caught:
        mode.check()
    assert (mode.reason, caught.value.reason, caught.value.retry_after) == (
        "circuit open",
        "circuit open",
        20,
    )
    clock.advance(20)
    mode.check()


@pytest.mark.parametrize(("said", "reason"), [(False, None), (True, "degraded"), ("severe", "severe")])
def test_when(said: Any, reason: str | None) -> None:
    """Any other state, such as the level of degradation, can be asked."""
    mode = ReadOnlyMode("orders", when=lambda: said)
    assert (mode.reason, mode.active) == (reason, reason is not None)


def test_kept_for_later(mode: ReadOnlyMode) -> None:
    """Where there is another way for a write, it is taken, and the answer is marked as degraded."""
    write = mode.writes(otherwise=lambda order: f"queued {order}")(lambda order: f"written {order}")
    assert write(1) == "written 1"
    with mode.during("backup"), collect_degradations() as degraded:
        assert write(2) == "queued 2"
    assert degraded == ["orders"]
    assert mode.get_status() == {
        "name": "orders",
        "active": False,
        "reason": None,
        "refused": 0,
        "otherwise": 1,
    }


def test_async_writes(mode: ReadOnlyMode) -> None:
    """Async functions are guarded, too, with another way that is async or not."""

    async def write(order: int) -> str:
        return f"written {order}"

    async def keep(order: int) -> str:
        return f"queued {order}"

    async def main() -> list[Any]:
        answers = [await mode.writes(write)(1)]
        with mode.during("backup"):
            answers += [
                await mode.writes(otherwise=keep)(write)(2),
                await mode.writes(otherwise=str)(write)(3),
            ]
            with pytest.raises(ReadOnlyError):
                await mode.writes(write)(4)
        return answers

    assert asyncio.run(main()) == ["written 1", "queued 2", "3"]


def test_in_a_chain(mode: ReadOnlyMode) -> None:
    """A strategy that writes is skipped while the mode is on."""
    chain = FallbackChain(
        "save", [Strategy("database", lambda order: "db", breaker=mode), ("queue", lambda order: "queue")]
    )
    assert chain.run(1)[1] == "database"
    with mode.during("backup"):
        report = chain.run_report(1)
    assert report.strategy == "queue"
    assert report.steps[0].error == "orders: read-only (backup)"


def test_error_is_a_refusal() -> None:
    """The error is one of those that are answered with 503, and can be sent between processes."""
    error = pickle.loads(pickle.dumps(ReadOnlyError("orders", "backup", retry_after=3.0)))
    assert isinstance(error, ServiceUnavailable)
    assert (str(error), error.reason, error.retry_after) == ("orders: read-only (backup)", "backup", 3.0)


def test_log_lines(mode: ReadOnlyMode, caplog: pytest.LogCaptureFixture) -> None:
    """Each entering leaves a line, and so does the last leaving."""
    caplog.set_level(logging.INFO, "service_utils")
    mode.leave()
    with mode.during("backup"), mode.during("move"):
        pass
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "[orders] Read-only (backup)"),
        ("WARNING", "[orders] Read-only (move)"),
        ("INFO", "[orders] Writes pass again"),
    ]


def test_threads(mode: ReadOnlyMode) -> None:
    """Blocks of many threads do not end each other's, and every refusal is counted."""

    def work(_: int) -> None:
        for _ in range(20):
            with mode.during("backup"), pytest.raises(ReadOnlyError):
                mode.check()

    together(4, work)
    assert (mode.active, mode.get_status()["refused"]) == (False, 80)


def test_forked_child(mode: ReadOnlyMode) -> None:
    """A child goes on in the mode, and counts for itself."""
    mode.enter("backup")
    with pytest.raises(ReadOnlyError):
        mode.check()
    assert in_child(lambda: (mode.active, mode.get_status()["refused"])) == (True, 0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, ValueError),
        ({"breaker": 1}, TypeError),
        ({"when": True}, TypeError),
        ({"retry_after": -1}, ValueError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Bad arguments are refused at once."""
    with pytest.raises(error, match=f"{next(iter(arguments))}="):
        ReadOnlyMode(**{"name": "orders"} | arguments)


def test_wrong_use(mode: ReadOnlyMode) -> None:
    """A reason must be given, and only functions can be decorated."""
    with pytest.raises(ValueError, match="reason=''"):
        mode.enter("")
    with pytest.raises(TypeError, match="otherwise=1"):
        mode.writes(otherwise=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="generator"):
        mode.writes(lambda: (yield))
