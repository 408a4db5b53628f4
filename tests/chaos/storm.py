"""The storm: everybody charges, the network breaks, processes are killed; then the calm, and the books."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from random import Random

from service_utils.clock import SYSTEM
from service_utils.dead_letters import DeadLetter, DeadLetterQueue, LetterStatus, SQLiteDeadLetters
from service_utils.policies.deadline import Deadline
from tests.chaos import postman
from tests.chaos.books import (
    Charge,
    Entry,
    Story,
    Told,
    Way,
    complaints_after_the_storm,
    complaints_in_the_end,
    read_ledger,
)
from tests.chaos.callers import Caller, make_charges
from tests.chaos.world import World

CALLERS = 16
RATE = 0.3
BILLING_KILLS = 10
WORKER_KILLS = 6
POSTMAN_KILLS = 3

_SETTLED_WITHIN = 30.0
_NO_MONEY = 402
_TRIES = 60


@dataclass
class Outcome:
    """What a storm left behind, and every complaint about it."""

    stories: list[Story]
    ledger: list[Entry]
    undelivered: set[str]
    suffered: int
    kills: dict[str, int]
    complaints: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """In figures, for people."""
        told = Counter(story.told.value for story in self.stories)
        taken = {entry.name for entry in self.ledger}
        unknown = [story for story in self.stories if story.told is Told.UNKNOWN]
        committed = sum(story.charge.name in taken for story in unknown)
        kept = [story for story in self.stories if story.told is Told.KEPT]
        delivered = sum(story.letter not in self.undelivered for story in kept)
        return (
            f"{len(self.stories)} charges, {self.suffered} exchanges with a fault, kills {self.kills}: "
            f"told charged {told['charged']}, told refused {told['refused']}, "
            f"unknown {len(unknown)} of which {committed} committed, "
            f"dead letters {len(kept)} of which {delivered} delivered; ledger {len(self.ledger)} entries"
        )


def rage(world: World, number: int) -> Outcome:
    """A storm of so many charges in a world, and everything settled afterwards."""
    random = Random(world.seed)
    charges = make_charges(number, random)
    queues = [DeadLetterQueue(SQLiteDeadLetters(file)) for file in world.letters]
    with closing(queues[0].store), closing(queues[1].store):
        world.break_the_network(RATE)
        stories = _charge_all(world, queues[0], charges, _blows(world, number, random))
        suffered = world.heal()
        world.billing.wait_until_up()
        world.postman.kill()
        outcome = Outcome(
            stories,
            read_ledger(world.ledger),
            {letter.id for letter in _undelivered(queues[0])},
            suffered,
            {each.name: each.kills for each in (world.billing, world.backend, world.postman)},
        )
        outcome.complaints += complaints_after_the_storm(stories, outcome.ledger, outcome.undelivered)
        outcome.complaints += _settle(world, queues, outcome)
    return outcome


Blow = Callable[[Random], object]


def _blows(world: World, number: int, random: Random) -> list[tuple[int, Blow]]:
    """After how many charges which process is killed, in this order."""
    blows: list[Blow] = [world.restart_billing] * BILLING_KILLS
    blows += [world.kill_a_worker] * WORKER_KILLS + [world.restart_postman] * POSTMAN_KILLS
    return sorted(((random.randrange(number * 9 // 10), blow) for blow in blows), key=lambda pair: pair[0])


def _charge_all(
    world: World, queue: DeadLetterQueue, charges: Sequence[Charge], blows: Iterable[tuple[int, Blow]]
) -> list[Story]:
    waiting: SimpleQueue[Charge] = SimpleQueue()
    for charge in charges:
        waiting.put(charge)
    stories: list[Story] = []
    seeds = Random(f"{world.seed}:callers")
    callers = [Caller(world, queue, Random(seeds.random())) for _ in range(CALLERS)]
    with _working([lambda caller=caller: _work(caller, waiting, stories) for caller in callers]) as busy:
        for mark, blow in blows:
            while len(stories) < mark and busy():
                SYSTEM.sleep(0.005)
            blow(seeds)
    for caller in callers:
        caller.close()
    return stories


def _work(caller: Caller, waiting: SimpleQueue[Charge], stories: list[Story]) -> None:
    while True:
        try:
            charge = waiting.get_nowait()
        except Empty:
            return
        stories.append(caller.charge(charge))


@contextmanager
def _working(work: Sequence[Callable[[], None]]) -> Iterator[Callable[[], bool]]:
    """Threads that do it; leaving the block waits for them. What one raises is raised there."""
    errors: list[BaseException] = []

    def run(part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(part,), daemon=True) for part in work]
    for thread in threads:
        thread.start()
    yield lambda: any(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _undelivered(queue: DeadLetterQueue) -> list[DeadLetter]:
    return queue.list(limit=100_000)


def _settle(world: World, queues: Sequence[DeadLetterQueue], outcome: Outcome) -> list[str]:
    """Ask again for what is unknown, deliver what is kept; what is wrong then."""
    wrong = _ask_again(world, queues[0], [each for each in outcome.stories if each.told is Told.UNKNOWN])
    wrong += _deliver(world, queues)
    after = read_ledger(world.ledger)
    return wrong + complaints_in_the_end(outcome.stories, outcome.ledger, after)


def _ask_again(world: World, queue: DeadLetterQueue, unknown: Sequence[Story]) -> list[str]:
    waiting: SimpleQueue[Story] = SimpleQueue()
    for story in unknown:
        waiting.put(story)
    wrong: list[str] = []

    def work(caller: Caller) -> None:
        while True:
            try:
                story = waiting.get_nowait()
            except Empty:
                caller.close()
                return
            again = caller.ask_again(story.charge, _TRIES)
            pending = (
                again.told is Told.UNKNOWN
                and story.charge.way is Way.CHAT
                and '"pending"' in again.answers[-1]
            )
            wanted = Told.CHARGED if story.charge.affordable else Told.REFUSED
            if again.told is not wanted and not pending:
                wrong.append(f"{story.charge.name} cannot be settled: {again} after {story}")

    callers = [Caller(world, queue, Random(index)) for index in range(CALLERS)]
    with _working([lambda caller=caller: work(caller) for caller in callers]):
        pass
    return wrong


def _deliver(world: World, queues: Sequence[DeadLetterQueue]) -> list[str]:
    """Have every letter delivered, the dead ones too, but those that the account has no money for."""
    registry = postman.clients({name: proxy.url for name, proxy in world.services.items()})
    workers = [postman.worker(queue, registry) for queue in queues]
    within = Deadline.after(_SETTLED_WITHIN)
    try:
        while (left := [(queue, each) for queue in queues for each in _undelivered(queue)]) and not (
            within.expired or all(_refused(letter) for _, letter in left)
        ):
            for queue, letter in left:
                if not _refused(letter):
                    queue.retry(letter.id)
            for worker in workers:
                worker.run_once()
            SYSTEM.sleep(0.05)
    finally:
        registry.close()
    return [f"a letter cannot be delivered: {letter}" for _, letter in left if not _refused(letter)]


def _refused(letter: DeadLetter) -> bool:
    """Whether Billing has said that there is not so much money; the books know of whom that is true."""
    return letter.status is LetterStatus.DEAD and letter.last_status == _NO_MONEY
