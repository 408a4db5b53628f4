"""The bulkhead: a bounded number of calls at once, first come, first served."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service_utils.clock import SYSTEM
from service_utils.errors import BulkheadFullError, DeadlineExceeded
from service_utils.events import BulkheadRejected
from service_utils.policies.bulkhead import Bulkhead, BulkheadConfig, Slot
from service_utils.policies.deadline import Deadline
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.one_stroke import interrupted
from tests.side_by_side import PATIENCE, together


def in_flight(bulkhead: Bulkhead) -> int:
    found: int = bulkhead.get_status()["in_flight"]
    return found


class Waiter:
    """A thread that wants a slot; ``slot`` or ``error`` is what it got."""

    def __init__(self, bulkhead: Bulkhead, deadline: Deadline | None = None) -> None:
        self.slot: Slot | None = None
        self.error: BaseException | None = None
        self._bulkhead, self._deadline = bulkhead, deadline
        waiting = bulkhead.get_status()["waiting"]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        poll(lambda: self.done or bulkhead.get_status()["waiting"] > waiting)

    def _run(self) -> None:
        try:
            self.slot = self._bulkhead.acquire(self._deadline)
        except BaseException as error:
            self.error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> Waiter:
        self._thread.join(PATIENCE)
        assert self.done
        return self


def poll(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(PATIENCE * 1000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it never came to that")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(auto_advance=False)


def test_as_many_as_there_are_slots() -> None:
    """So many callers get in, the next one is refused, and a slot that is given back is free again."""
    bulkhead = Bulkhead(2)
    first, _ = bulkhead.acquire(), bulkhead.acquire()
    with pytest.raises(BulkheadFullError, match="bulkhead: all 2 slots are taken") as caught:
        bulkhead.acquire()
    assert caught.value.service == "bulkhead"
    assert caught.value.retry_after is None
    first.release()
    assert bulkhead.acquire()
    assert in_flight(bulkhead) == 2


def test_a_slot_is_given_back_once() -> None:
    """A second release does not free the slot of somebody else."""
    bulkhead = Bulkhead(2)
    first, _ = bulkhead.acquire(), bulkhead.acquire()
    first.release()
    first.release()
    assert in_flight(bulkhead) == 1


def test_with_gives_back_on_every_path() -> None:
    """A block that raises leaves its slot as one that does not."""
    bulkhead = Bulkhead(1)
    for error in (ValueError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), bulkhead.acquire():
            raise error
    with bulkhead.acquire():
        assert in_flight(bulkhead) == 1
    assert in_flight(bulkhead) == 0


def test_who_waits_longest_goes_first(clock: FakeClock) -> None:
    """A slot goes to the waiting callers in the order in which they came."""
    bulkhead = Bulkhead(1, max_wait=10, clock=clock)
    slot = bulkhead.acquire()
    waiters = [Waiter(bulkhead) for _ in range(3)]
    for waiter in waiters:
        slot.release()
        found = waiter.join().slot
        assert found is not None
        slot = found
        assert [each.done for each in waiters] == [each.slot is not None for each in waiters]
    slot.release()
    assert bulkhead.get_status()["in_flight"] == bulkhead.get_status()["waiting"] == 0


def test_nobody_overtakes(clock: FakeClock) -> None:
    """A slot that comes free belongs to the first in the queue before he has noticed: no newcomer gets it."""
    bulkhead = Bulkhead(1, max_wait=10, clock=clock)
    slot = bulkhead.acquire()
    queued = Slot(bulkhead)
    assert not bulkhead._enter(queued)
    slot.release()
    assert bulkhead.get_status() == {
        "max_concurrent": 1,
        "max_wait": 10,
        "in_flight": 1,
        "waiting": 0,
        "rejected": 0,
    }
    with pytest.raises(DeadlineExceeded):
        bulkhead.acquire(Deadline(clock.monotonic(), clock))
    assert queued._arrived(0)


def test_a_waiter_leaves_when_its_time_is_over(clock: FakeClock) -> None:
    """After max_wait seconds in vain it is refused and has left the queue."""
    bulkhead = Bulkhead(1, max_wait=10, clock=clock)
    bulkhead.acquire()
    waiter = Waiter(bulkhead)
    clock.wait_for_sleepers(1)
    clock.advance(9.9)
    assert not waiter.done
    clock.advance(0.2)
    assert isinstance(waiter.join().error, BulkheadFullError)
    assert bulkhead.get_status()["waiting"] == 0


def test_a_waiter_leaves_when_its_deadline_passes(clock: FakeClock) -> None:
    """Whose deadline comes first has no use for a slot any more."""
    bulkhead = Bulkhead(1, max_wait=10, clock=clock)
    bulkhead.acquire()
    waiter = Waiter(bulkhead, Deadline.after(3, clock))
    clock.wait_for_sleepers(1)
    clock.advance(3)
    error = waiter.join().error
    assert isinstance(error, DeadlineExceeded)
    assert not error.sent
    assert bulkhead.get_status()["waiting"] == 0


def test_a_slot_that_comes_in_the_last_moment_is_taken(clock: FakeClock) -> None:
    """A slot that is handed over while its waiter gives up is not lost."""

    class TooLate(FakeClock):
        def wait(self, ready: Callable[[float], bool], seconds: float) -> bool:
            slot.release()  # handed over, but the waiter does not look again
            return False

    bulkhead = Bulkhead(1, max_wait=10, clock=TooLate())
    slot = bulkhead.acquire()
    assert bulkhead.acquire()
    assert in_flight(bulkhead) == 1


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_waiter_that_is_interrupted_leaves_nothing(handed_over: bool) -> None:
    """Ctrl-C while it waits: its place is gone, and a slot that had just come goes to the next."""

    class Interrupted(FakeClock):
        def wait(self, ready: Callable[[float], bool], seconds: float) -> bool:
            if handed_over:
                slot.release()
            raise KeyboardInterrupt

    bulkhead = Bulkhead(1, max_wait=10, clock=Interrupted())
    slot = bulkhead.acquire()
    with pytest.raises(KeyboardInterrupt):
        bulkhead.acquire()
    status = bulkhead.get_status()
    assert (status["in_flight"], status["waiting"]) == (0 if handed_over else 1, 0)


def test_a_release_that_is_interrupted_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between handing over and waking: the heir is woken before the signal goes on."""
    bulkhead = Bulkhead(1, max_wait=30)
    slot = bulkhead.acquire()
    waiter = Waiter(bulkhead)
    wake, calls = Slot._wake, iter([KeyboardInterrupt])

    def interrupted_once(heir: Slot) -> None:
        for error in calls:
            raise error
        wake(heir)

    monkeypatch.setattr(Slot, "_wake", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        slot.release()
    assert waiter.join().slot is not None


def test_taking_and_handing_over_are_done_at_one_stroke() -> None:
    """Between the lines that change owner and number no signal is looked at."""
    assert interrupted(Bulkhead._enter, "_free", "_epoch") == []
    assert interrupted(Bulkhead._hand_over_locked, "_waiting", "_epoch") == []


def test_a_slot_keeps_no_other_alive() -> None:
    """Whoever keeps a slot that he has given back does not keep all that came after it."""
    bulkhead = Bulkhead(1, max_wait=10)
    first = bulkhead.acquire()
    heir = Slot(bulkhead)
    bulkhead._enter(heir)
    first.release()
    gone = weakref.ref(heir)
    heir.release()
    del heir
    assert gone() is None


def test_a_deadline_is_no_number() -> None:
    """A number of seconds in its place is refused at once, not when the bulkhead is full one day."""
    with pytest.raises(TypeError, match="deadline=5"):
        Bulkhead(1).acquire(5)  # type: ignore[arg-type]


def test_an_event_tells_who_was_refused(clock: FakeClock) -> None:
    """Listeners hear of the limit, of those who wait, and how long this one had waited."""
    told: list[Any] = []
    bulkhead = Bulkhead(1, 10, name="git", label="Git Server", clock=FakeClock(), listeners=[told.append])
    bulkhead.acquire()
    with pytest.raises(BulkheadFullError, match="Git Server: the only slot is taken"):
        bulkhead.acquire()
    event = told[0]
    assert isinstance(event, BulkheadRejected)
    assert (event.service, event.name, event.max_concurrent) == ("Git Server", "git", 1)
    assert (event.waiting, event.waited, event.at) == (0, 10.0, 10.0)
    assert bulkhead.get_status()["rejected"] == 1


def test_a_function_in_a_bulkhead() -> None:
    """call() and the decorator hold a slot as long as the function runs."""
    bulkhead = Bulkhead(1)

    @bulkhead
    def nested(depth: int) -> int:
        """Goes in once more."""
        return in_flight(bulkhead) if depth == 0 else bulkhead.call(nested, depth - 1)

    assert nested(0) == 1
    assert bulkhead.call(in_flight, bulkhead) == 1
    assert nested.__doc__ == "Goes in once more."
    with pytest.raises(BulkheadFullError):
        nested(1)
    assert in_flight(bulkhead) == 0


def test_functions_that_would_not_run_inside() -> None:
    """Coroutine and generator functions are refused when they are decorated, not when they leak."""
    bulkhead = Bulkhead(1)

    async def later() -> None:
        await asyncio.sleep(0)

    def piecemeal() -> Iterator[int]:
        yield 1

    for func, what in ((later, "is async"), (piecemeal, "generator"), (3, "must be a function")):
        with pytest.raises(TypeError, match=what):
            bulkhead(func)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=what):
            bulkhead.call(func)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"max_concurrent": 0}, ValueError, "max_concurrent=0"),
        ({"max_concurrent": 1.5}, TypeError, "max_concurrent=1.5"),
        ({"max_concurrent": 1, "max_wait": -1}, ValueError, "max_wait=-1"),
        ({"max_concurrent": 1, "max_wait": float("inf")}, ValueError, "max_wait=inf"),
        ({"max_concurrent": 1, "name": ""}, ValueError, "name=''"),
        ({"max_concurrent": 1, "clock": 3}, TypeError, "clock=3"),
        ({"max_concurrent": 1, "listeners": [3]}, TypeError, "listeners: 3"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], named: str) -> None:
    """Each is refused by name and value."""
    with pytest.raises(error, match=named):
        Bulkhead(**arguments)


def test_the_config_is_a_value() -> None:
    """The limits can be compared, and the bulkhead shows them."""
    assert Bulkhead(3, 1.5).config == BulkheadConfig(max_concurrent=3, max_wait=1.5)
    assert repr(Bulkhead(3)) == "<Bulkhead 'bulkhead' 0/3>"


def test_a_forked_child_has_all_slots() -> None:
    """Slots and waiting callers are the parent's; one held across the fork gives back nothing there."""
    bulkhead = Bulkhead(2, max_wait=30)
    held = [bulkhead.acquire() for _ in range(2)]
    waiter = Waiter(bulkhead)

    def child() -> list[int]:
        before = in_flight(bulkhead)
        mine = [bulkhead.acquire() for _ in range(2)]
        held[0].release()
        after = in_flight(bulkhead)
        for slot in mine:
            slot.release()
        return [before, after, in_flight(bulkhead), bulkhead.get_status()["waiting"]]

    assert in_child(child) == [0, 2, 0, 0]
    assert bulkhead.get_status()["waiting"] == 1
    held[0].release()
    assert waiter.join().slot is not None


def test_sixty_four_threads_and_four_slots() -> None:
    """There are never more inside than there are slots, all get in, and nothing is left taken."""
    bulkhead = Bulkhead(4, max_wait=PATIENCE)
    lock, inside, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        for _ in range(20):
            with bulkhead.acquire():
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    together(64, work)
    assert most <= 4
    assert bulkhead.get_status()["in_flight"] == bulkhead.get_status()["waiting"] == 0


def test_sixty_four_threads_that_do_not_wait() -> None:
    """Whoever is refused leaves nothing behind, and those inside were never too many."""
    bulkhead = Bulkhead(3)
    barrier = threading.Barrier(64)

    def work(_: int) -> bool:
        try:
            slot = bulkhead.acquire()
        except BulkheadFullError:
            barrier.wait(PATIENCE)
            return False
        barrier.wait(PATIENCE)
        slot.release()
        return True

    assert together(64, work).count(True) == 3
    assert bulkhead.get_status()["rejected"] == 61
    assert in_flight(bulkhead) == 0


class BulkheadMachine(RuleBasedStateMachine):
    """A bulkhead beside the simplest one that does the same: lists of those inside and of those waiting.

    Threads that wait are played by entries of the queue, so that each step is over when it returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bulkhead = Bulkhead(3, max_wait=10, clock=SYSTEM)
        self.inside: list[Slot] = []
        self.queue: list[Slot] = []

    @rule()
    def come(self) -> None:
        slot = Slot(self.bulkhead)
        entered = self.bulkhead._enter(slot)
        assert entered == (len(self.inside) < 3)
        (self.inside if entered else self.queue).append(slot)

    @precondition(lambda self: self.inside)
    @rule(which=st.integers(0, 2))
    def go(self, which: int) -> None:
        slot = self.inside.pop(which % len(self.inside))
        slot.release()
        if self.queue:
            heir = self.queue.pop(0)
            assert heir._arrived(0)
            self.inside.append(heir)

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 9))
    def leave_the_queue(self, which: int) -> None:
        self.bulkhead._give_back(self.queue.pop(which % len(self.queue)))

    @precondition(lambda self: self.inside)
    @rule(which=st.integers(0, 2))
    def go_twice(self, which: int) -> None:
        slot = self.inside[which % len(self.inside)]
        self.go(which)
        slot.release()

    @invariant()
    def as_many_as_expected(self) -> None:
        status = self.bulkhead.get_status()
        assert (status["in_flight"], status["waiting"]) == (len(self.inside), len(self.queue))
        assert len(self.inside) <= 3
        assert not self.queue or len(self.inside) == 3


TestBulkheadMachine = BulkheadMachine.TestCase
TestBulkheadMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
