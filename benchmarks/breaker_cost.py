"""What a circuit breaker costs a call that goes well, and one that it refuses: ours, others, and a lock."""

# ruff: noqa: SIM105 - what is measured is a `try`; `contextlib.suppress` costs more than that

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import venvs
from benchmarks.common import Bar, Chart, Options, Report, Table, Target, options, ratio
from benchmarks.driving import Contender, measure, workers

FOR_EVER = 86400.0
THREADS = (1, 2, 8, 64)
BLOCK = 2000  # calls; what it takes to wake 64 threads is little beside them
PEERS = ("circuitbreaker", "pybreaker", "purgatory")
EMPTY, LOCK, OURS = "empty function", "with lock", "acquire() and record()"

Loop = Callable[[int], None]
Costs = dict[tuple[str, str], list[float]]


def make(name: str, *_arguments: str) -> dict[str, Loop]:
    """The contenders of one environment, by kind; see worker.py. All loops are alike, the call in them."""
    loops = {
        "ours": _ours,
        "circuitbreaker": _circuitbreaker,
        "pybreaker": _pybreaker,
        "purgatory": _purgatory,
    }
    return {
        f"{what}x{number}": _by_team(loop, number)
        for what, loop in {"empty": _empty, "raise": _raise, **loops[name]()}.items()
        for number in THREADS
    }


def _by_team(loop: Loop, number: int) -> Loop:
    """The same in blocks of many, shared by so many threads that are all there before it begins."""
    if number == 1:
        return lambda count: loop(count * BLOCK)
    team: list[_Team] = []  # made when first needed, for most processes never need most of them

    def together(count: int) -> None:
        if not team:
            team.append(_Team(loop, number))
        team[0].work(count * BLOCK)

    return together


class _Team:
    def __init__(self, loop: Loop, number: int) -> None:
        self._loop, self._share = loop, 0
        self._members = [(threading.Semaphore(0), threading.Semaphore(0)) for _ in range(number)]
        for begin, end in self._members:
            threading.Thread(target=self._run, args=(begin, end), daemon=True).start()

    def work(self, count: int) -> None:
        self._share = -(-count // len(self._members))
        for begin, _ in self._members:
            begin.release()
        for _, end in self._members:
            end.acquire()

    def _run(self, begin: threading.Semaphore, end: threading.Semaphore) -> None:
        while True:
            begin.acquire()
            self._loop(self._share)
            end.release()


def _nothing() -> None:
    """What is called, guarded or not."""


class Refused(Exception):
    """What the bare function raises."""


def _refuse() -> None:
    raise Refused("the circuit is open")


def _empty(count: int) -> None:
    for _ in range(count):
        _nothing()


def _raise(count: int) -> None:
    for _ in range(count):
        try:
            _refuse()
        except Refused:
            pass


def _ours() -> dict[str, Loop]:  # noqa: C901 - one loop beside the other
    from service_utils import BreakerConfig, CircuitBreaker, CircuitOpenError, Outcome

    closed = CircuitBreaker("closed")
    opened = CircuitBreaker("opened", BreakerConfig(failure_threshold=1, recovery_timeout=FOR_EVER))
    opened.record(opened.acquire(), Outcome.FAILURE)
    success = Outcome.SUCCESS
    lock = threading.Lock()

    def pass_(count: int) -> None:
        for _ in range(count):
            permit = closed.acquire()
            closed.record(permit, success)

    def call(count: int) -> None:
        for _ in range(count):
            closed.call(_nothing)

    def refuse(count: int) -> None:
        for _ in range(count):
            try:
                opened.acquire()
            except CircuitOpenError:
                pass

    def decide(count: int) -> None:
        for _ in range(count):
            opened.refused()

    def locked(count: int) -> None:
        for _ in range(count):
            with lock:
                pass

    return {"pass": pass_, "call": call, "refuse": refuse, "decide": decide, "lock": locked}


def _circuitbreaker() -> dict[str, Loop]:
    library = importlib.import_module("circuitbreaker")
    guarded = library.circuit()(_nothing)

    def call(count: int) -> None:
        for _ in range(count):
            guarded()

    return {"call": call}


def _pybreaker() -> dict[str, Loop]:
    breaker = importlib.import_module("pybreaker").CircuitBreaker()

    def call(count: int) -> None:
        for _ in range(count):
            breaker.call(_nothing)

    return {"call": call}


def _purgatory() -> dict[str, Loop]:
    breaker = importlib.import_module("purgatory").SyncCircuitBreakerFactory().get_breaker("closed")

    def call(count: int) -> None:
        for _ in range(count):
            with breaker:
                _nothing()

    return {"call": call}


# By name: whose it is, and the kind there.
CLOSED = {
    EMPTY: ("ours", "empty"),
    LOCK: ("ours", "lock"),
    OURS: ("ours", "pass"),
    "CircuitBreaker.call()": ("ours", "call"),
    **{name: (name, "call") for name in PEERS},
}
OPEN = {
    "bare raise and catch": ("ours", "raise"),
    "acquire(), with its error": ("ours", "refuse"),
    "refused(), the decision alone": ("ours", "decide"),
}


def contenders(chosen: Options, tell: Callable[[str], None]) -> list[Contender]:
    """Who can take part; the others' breakers live together in one environment."""
    found = [Contender("ours", "benchmarks.breaker_cost")]
    if chosen.peers and (python := venvs.python_of("breakers", chosen.venvs, tell)) is not None:
        here = venvs.families()["breakers"]
        found += [Contender(name, "benchmarks.breaker_cost", python=python) for name in PEERS if name in here]
    return found


def run(chosen: Options) -> Report:
    """Measure everything."""
    report = Report("breaker_cost", "What a circuit breaker costs")
    launches = 1 if chosen.rounds else chosen.pick(1, 3)
    rounds, seconds = chosen.rounds_or(5, 45) // launches, chosen.pick(5, 20) / 1000
    report.settings |= {"rounds": rounds * launches, "launches": launches, "CPU of a turn": f"{seconds} s"}
    costs: Costs = {}
    for seed in range(launches):
        with workers(contenders(chosen, report.notes.append), seed, report.notes.append) as running:
            tasks = {}
            for worker in running.values():
                report.versions |= worker.versions
                tasks |= {
                    (worker.name, kind): (worker, kind) for kind in worker.kinds if _shown(worker.name, kind)
                }
            measured = measure(tasks, rounds=rounds, seconds=seconds, tell=report.notes.append)
            for key, turns in measured.items():
                costs.setdefault(key, []).extend(turns)
    _report_closed(report, costs)
    _report_open(report, costs)
    return report


def _shown(name: str, kind: str) -> bool:
    what, _, number = kind.partition("x")
    return (name, what) in CLOSED.values() or ((name, what) in OPEN.values() and number == "1")


def _report_closed(report: Report, costs: Costs) -> None:
    """The calls that go well, by the number of threads."""
    kinds = {name: [(who, f"{what}x{number}") for number in THREADS] for name, (who, what) in CLOSED.items()}
    found = {name: [costs[key] for key in keys] for name, keys in kinds.items() if keys[0] in costs}
    one = found[EMPTY][0]
    report.tables.append(
        Table(
            "A call through a closed circuit, as a multiple of an empty function's call by one thread",
            ("what", *(f"{number} thread{'s' if number > 1 else ''}" for number in THREADS), "ns, 1 thread"),
            [
                (
                    name,
                    *(ratio(turns, one) for turns in by_threads),
                    round(median(by_threads[0]) / BLOCK * 1e9),
                )
                for name, by_threads in found.items()
            ],
        )
    )
    report.charts.append(
        Chart(
            "breaker_cost",
            "CPU of a call through a closed circuit",
            "multiple of an empty function's call",
            [Bar(name, ratio(turns[0], one), ours=name == OURS) for name, turns in found.items()],
            line=1.0,
        )
    )
    ours = found[OURS]
    crowd = ratio(ours[THREADS.index(8)], ours[0])
    report.targets += [
        Target("closed breaker, acquire + record, as a multiple of an empty call", ratio(ours[0], one), 8, 4),
        Target("the same by 8 threads, as a multiple of one", crowd, 1.5, 1.3),
    ]


def _report_open(report: Report, costs: Costs) -> None:
    """The calls that are refused."""
    found = {name: costs[who, f"{what}x1"] for name, (who, what) in OPEN.items()}
    bare = found["bare raise and catch"]
    report.tables.append(
        Table(
            "A refusal by an open circuit, as a multiple of a bare raise and catch",
            ("what", "multiple", "ns of CPU"),
            [(name, ratio(turns, bare), round(median(turns) / BLOCK * 1e9)) for name, turns in found.items()],
        )
    )


if __name__ == "__main__":
    chosen = options(__doc__)
    run(chosen).publish(chosen)
