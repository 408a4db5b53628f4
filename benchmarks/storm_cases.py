"""The storms of storm.py: who calls which service for how long, and how they are simulated."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

from benchmarks.storm_clients import Client, NoRetries, Ours, PlainRetries, PybreakerAndTenacity
from benchmarks.storm_engine import Counts, Simulation, Steps
from benchmarks.storm_services import BrownOut, Failing, Service
from service_utils import BreakerConfig

__all__ = [
    "BROWN_OUT_BEGINS",
    "BROWN_OUT_ENDS",
    "HEADROOM",
    "POLICIES",
    "Crowd",
    "Storm",
    "recovered_after",
    "simulate",
    "simulate_all",
]

BROWN_OUT_BEGINS, BROWN_OUT_ENDS = 5, 20
HEADROOM = 4 / 3  # capacity of the service in the brown-out, in good times, as a multiple of the calls
ENOUGH = 0.99  # of the calls of each second: then it is well again
_LASTING = 5  # seconds; what is good for a shorter time at the end of a simulation proves nothing
_PART = 50  # processes that are simulated in one go, where they have nothing to do with each other

Make = Callable[[Simulation, Service, Counts, int], Client]


def _plain(kind: type[Client]) -> Make:
    return lambda simulation, service, counts, _: kind(simulation.clock, service, counts)


def _pybreaker(reset_timeout: float, *, retry_refusals: bool = True) -> Make:
    return lambda simulation, service, counts, _: PybreakerAndTenacity(
        simulation.clock, service, counts, reset_timeout=reset_timeout, retry_refusals=retry_refusals
    )


def _ours(recovery_timeout: float, window_size: int | None = None) -> Make:
    limits = None
    if window_size is not None:
        limits = BreakerConfig(window_size=window_size, recovery_timeout=recovery_timeout)
    return lambda simulation, service, counts, number: Ours(
        simulation.clock,
        service,
        counts,
        name=f"service-{number}",
        breaker=limits,
        recovery_timeout=recovery_timeout,
    )


# What makes the client of one process; the last argument is the number of the process.
POLICIES: dict[str, Make] = {
    "no retries": _plain(NoRetries),
    "3 attempts": _plain(PlainRetries),
    "pybreaker + tenacity, 60 s": _pybreaker(60),
    "pybreaker + tenacity, 10 s": _pybreaker(10),
    "pybreaker + tenacity, refusals final, 10 s": _pybreaker(10, retry_refusals=False),
    "ours, 60 s": _ours(60),
    "ours, 10 s": _ours(10),
    "ours, window of 100, 60 s": _ours(60, 100),
    "ours, window of 100, 10 s": _ours(10, 100),
}


@dataclass(frozen=True)
class Crowd:
    """Those who call: processes that know nothing of each other.

    Attributes:
        processes: How many.
        rate: Calls per second that each begins, at random moments.
    """

    processes: int
    rate: float

    def __str__(self) -> str:
        return f"{self.processes:,} x {self.rate:g}/s"


@dataclass(frozen=True)
class Storm:
    """One simulation.

    Attributes:
        policy: How the processes call; a name in `POLICIES`.
        crowd: Who calls.
        failing: The share of attempts that fail; None for the brown-out.
        seconds: How long new calls come.
        seed: Of everything that is random.
        slow_for: Seconds that the brown-out lasts, which ends at the same moment always.
    """

    policy: str
    crowd: Crowd
    failing: float | None
    seconds: int
    seed: int
    slow_for: int = BROWN_OUT_ENDS - BROWN_OUT_BEGINS


def simulate(storm: Storm, numbers: range | None = None) -> Counts:
    """Simulate a storm.

    Args:
        storm: Which one.
        numbers: Of the processes to simulate, where only some are wanted; None for all.
    """
    counts = Counts(storm.seconds)
    chosen = range(storm.crowd.processes) if numbers is None else numbers
    if storm.failing is None:
        capacity = HEADROOM * storm.crowd.processes * storm.crowd.rate
        together = BrownOut(capacity, BROWN_OUT_ENDS - storm.slow_for, BROWN_OUT_ENDS)
        _simulate(storm, chosen, together, counts)
        return counts
    for number in chosen:  # one by one: each finds the same service, whatever the others do
        draw = Random(f"failures of {number}, {storm.seed}").random
        _simulate(storm, range(number, number + 1), Failing(storm.failing, draw), counts)
    return counts


def _simulate(storm: Storm, numbers: range, service: Service, counts: Counts) -> None:
    """Simulate processes that call one service, beginning at zero."""
    with _quiet(), _seeded(f"jitter from {numbers.start}, {storm.seed}"):
        simulation = Simulation()
        for number in numbers:
            client = POLICIES[storm.policy](simulation, service, counts, number)
            gaps = Random(f"calls of {number}, {storm.seed}")
            simulation.begin(_calls(simulation, client, storm, gaps))
        simulation.run()


def _calls(simulation: Simulation, client: Client, storm: Storm, gaps: Random) -> Steps:
    """One process: begins calls and does not wait for their end, as a server with many threads."""
    clock, rate, seconds = simulation.clock, storm.crowd.rate, storm.seconds
    while True:
        yield gaps.expovariate(rate)
        if clock.time >= seconds:
            return
        simulation.begin(client.call())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Have no lines written about the circuits that open."""
    logger = logging.getLogger("service_utils")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Have the policies draw the same jitter again: they draw from the generator of the process."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def simulate_all(storms: Iterable[Storm], cores: int | None = None) -> dict[Storm, Counts]:
    """Simulate storms, in parts. How they are shared out makes no difference to the results.

    Args:
        storms: Which ones.
        cores: 1 does it in this process; None uses all there are.
    """
    tasks = [(storm, part) for storm in dict.fromkeys(storms) for part in _parts(storm)]
    tasks.sort(key=lambda task: -_work(*task))  # so that no long one is left at the end
    found: dict[Storm, Counts] = {}
    with contextlib.ExitStack() as stack:
        share_out: Callable[..., Iterable[Counts]] = map
        if (number := cores or _cores()) > 1:
            share_out = stack.enter_context(ProcessPoolExecutor(number)).map
        for (storm, _), counts in zip(tasks, share_out(_simulate_task, tasks), strict=True):
            found.setdefault(storm, Counts(storm.seconds)).add(counts)
    return found


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parts(storm: Storm) -> list[range]:
    whole = range(storm.crowd.processes)
    if storm.failing is None:
        return [whole]
    return [whole[begin : begin + _PART] for begin in range(0, len(whole), _PART)]


def _work(storm: Storm, part: range) -> float:
    return len(part) * storm.crowd.rate * storm.seconds


def _simulate_task(task: tuple[Storm, range]) -> Counts:
    return simulate(*task)


def recovered_after(counts: Counts) -> float:
    """Seconds from the end of the brown-out until the service is of use again.

    That is the first whole second from which on at least 99 % of the calls that begin in each second succeed,
    in this one and in all that follow. Calls that are refused have not succeeded.

    Returns:
        Infinity when there is no such second, or it lies within the last five.
    """
    bad = BROWN_OUT_ENDS - 1
    for second in range(BROWN_OUT_ENDS, counts.seconds):
        if counts.good[second] < ENOUGH * counts.calls[second]:
            bad = second
    well = bad + 1
    return math.inf if well > counts.seconds - _LASTING else well - BROWN_OUT_ENDS
