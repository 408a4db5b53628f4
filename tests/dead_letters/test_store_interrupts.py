"""MemoryDeadLetters, when Ctrl-C comes at the worst of moments."""

from __future__ import annotations

import dis
import linecache
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest

from service_utils.dead_letters import LetterStatus, MemoryDeadLetters
from service_utils.dead_letters.store import Delivered, Died, PutBack, Retried
from tests.side_by_side import together

from .store_contract import ALL, LIMITS, NOW, ids, letter

_ROOMS = ("dead_letters/memory.py", "dead_letters/trays.py")
_TOOL = 3  # one of those that CPython leaves to anybody


class _Interrupter:
    """Raises KeyboardInterrupt before the n-th instruction of the store's own modules."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._before = sys.gettrace()

    def __enter__(self) -> _Interrupter:
        if sys.version_info >= (3, 12):  # its traces miss instructions
            monitoring = sys.monitoring
            monitoring.use_tool_id(_TOOL, "interrupts")
            monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, self._monitored)
            monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
        else:
            sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.version_info >= (3, 12):
            sys.monitoring.set_events(_TOOL, sys.monitoring.events.NO_EVENTS)
            sys.monitoring.register_callback(_TOOL, sys.monitoring.events.INSTRUCTION, None)
            sys.monitoring.free_tool_id(_TOOL)
        else:
            sys.settrace(self._before)

    def _monitored(self, code: CodeType, _: int) -> None:
        if code.co_filename.endswith(_ROOMS):
            self._instruction(sys._getframe(1))

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(_ROOMS):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self._instruction(frame)
        return self._step

    def _instruction(self, frame: FrameType) -> None:
        if not _at_a_lock(frame):
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt


def _at_a_lock(frame: FrameType) -> bool:
    """Whether a lock is just being taken or released: CPython lets no signal in between there."""
    number = frame.f_lineno
    idle = dis.opname[frame.f_code.co_code[frame.f_lasti]] == "NOP"  # ends a loop that ends a `with`
    if number is None or idle:  # an instruction of the compiler's own, on the way out
        return True
    return linecache.getline(frame.f_code.co_filename, number).lstrip().startswith("with ")


def _store() -> tuple[MemoryDeadLetters, list[Any]]:
    """Two letters in hand, one that rests and one of another service."""
    store = MemoryDeadLetters()
    batch = [letter("git", id=each, body=b"123") for each in "abc"]
    store.add([*batch, letter("billing", id="d")], LIMITS)
    leases = store.lease("git", now=NOW, seconds=60.0, limit=3)
    store.settle(leases[0], Died(error="e"))
    return store, leases[1:]


def _check(store: MemoryDeadLetters) -> None:
    """All that the store says of its letters is true of them, and they can be worked off in their order."""
    found = store.list(ALL, limit=99, after=None, now=NOW)
    said = store.stats(NOW)
    assert said["letters"] == len(found)
    assert said["bytes"] == sum(each.size for each in found)
    counts = Counter((each.service, each.status.value) for each in found)
    assert counts == Counter(
        {
            (service, status): number
            for service, by_status in said["services"].items()
            for status, number in by_status.items()
            if number
        }
    )
    for service in ("git", "billing"):
        leased = store.lease(service, now=NOW + 100, seconds=60.0, limit=99)
        open_ones = [
            each for each in found if each.service == service and each.status is not LetterStatus.DEAD
        ]
        assert ids(leased) == ids(open_ones)


@pytest.mark.parametrize(
    "step",
    [
        lambda store, _: store.add([letter("git", id="e"), letter("chroma", id="f")], LIMITS),
        lambda store, _: store.lease("billing", now=NOW, seconds=60.0, limit=9),
        lambda store, leases: store.extend(leases[0], now=NOW, seconds=90.0),
        lambda store, leases: store.settle(leases[0], Delivered()),
        lambda store, leases: store.settle(leases[0], Died(error="e", response=b"12")),
        lambda store, leases: store.settle(leases[0], Retried(next_attempt_at=NOW)),
        lambda store, leases: store.settle(leases[0], PutBack(next_attempt_at=NOW)),
        lambda store, _: store.requeue("a", ALL, NOW),
        lambda store, _: store.purge(ALL, NOW, 9),
    ],
    ids=["add", "lease", "extend", "delivered", "died", "retried", "put back", "requeue", "purge"],
)
def test_interrupted_anywhere(step: Callable[[MemoryDeadLetters, list[Any]], object]) -> None:
    """Wherever a step is broken off, no letter is lost, none is counted wrongly, and nobody hangs."""
    number, interrupted = 0, True
    while interrupted and number < 5000:
        number += 1
        store, leases = _store()
        interrupted = False
        with _Interrupter(number):
            try:
                step(store, leases)
            except KeyboardInterrupt:
                interrupted = True
        together(1, lambda _, store=store: _check(store))
    assert 30 < number < 5000
