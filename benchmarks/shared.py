"""What it costs to share a circuit with the other processes of the host, and that nobody loses anything."""

# ruff: noqa: SIM105 - what is measured is a `try`; `contextlib.suppress` costs more than that

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Bar, Chart, Options, Report, Table, Target, options, ratio
from benchmarks.driving import Contender, Worker, measure, workers
from benchmarks.machine import ROOT, enter_environment, environment, versions
from benchmarks.servers import Served, Servers
from benchmarks.shared_workers import FOR_EVER, MICRO, PATIENCE, readers, statuses, thread, trips
from service_utils import BreakerConfig, CircuitBreaker, CircuitOpenError, Outcome, ResilientServiceClient
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.store import BreakerStore, MemoryBreakerStore
from service_utils.registry import ServiceRegistry

NONE, MEMORY, SHARED = "no store", "MemoryBreakerStore", "SharedMemoryStore"
DISK = "SharedMemoryStore, temporary folder"
AGAIN = "no store, once more"
ALL = "all"
CLOSED, REFUSED, GET = "closed", "refused", "get"
WORDS = {
    CLOSED: "acquire and record, circuit closed",
    REFUSED: "refusal, circuit open",
    GET: "client.get(), whole",
}
RUNS, ENDED = "running", "ended"
NOWHERE = "http://127.0.0.1:9"

Loop = Callable[[int], None]
Costs = dict[tuple[str, str], list[float]]  # by kind of call and store


def make(name: str, folder: str, url: str, disk: str = "") -> dict[str, Loop]:
    """All kinds of calls with one store, or with each of them; see worker.py. All loops are alike."""
    if name != ALL:
        return _loops(_store(name, folder, disk), url)
    return {
        f"{kind}:{number}": work
        for number, each in enumerate(names(disk))
        for kind, work in _loops(_store(each, folder, disk), url).items()
    }


def names(disk: str) -> tuple[str, ...]:
    """The stores that are compared; the file on a disk only where there is one in memory, too."""
    return (NONE, MEMORY, SHARED, DISK) if disk else (NONE, MEMORY, SHARED)


def _loops(store: BreakerStore | None, url: str) -> dict[str, Loop]:
    limits = BreakerConfig(failure_threshold=1, recovery_timeout=FOR_EVER)
    passing = CircuitBreaker("passing", store=store)
    refusing = CircuitBreaker("refusing", limits, store=store)
    if refusing.state.value == "closed":  # else somebody else has opened it for all
        refusing.record(refusing.acquire(), Outcome.FAILURE)
    client = ResilientServiceClient(
        url, "Server", name="server", store=store, idempotency_keys=False, registry=ServiceRegistry()
    )
    good = Outcome.SUCCESS

    def closed(count: int) -> None:
        acquire, record = passing.acquire, passing.record
        for _ in range(count):
            record(acquire(), good, 0.001)

    def refused(count: int) -> None:
        acquire = refusing.acquire
        for _ in range(count):
            try:
                acquire()
            except CircuitOpenError:
                pass

    def get(count: int) -> None:
        ask = client.get
        for _ in range(count):
            ask("/items/42")

    return {CLOSED: closed, REFUSED: refused, GET: get}


def _store(name: str, folder: str, disk: str) -> BreakerStore | None:
    if name == NONE:
        return None
    if name == MEMORY:
        return MemoryBreakerStore()
    return SharedMemoryStore(Path(disk if name == DISK else folder, "circuits"))


# -- what a call costs ------------------------------------------------------------------------------------


def costs(report: Report, chosen: Options, folder: str, disk: str, served: Served) -> None:
    """All stores in turns: in one process, where nothing but the store differs, and each in its own.

    In one process the interpreter's caches in the code serve breakers with a store and without, so that each
    takes a little more; a whole GET varies more between processes than by what is looked for.
    """
    rounds, seconds = chosen.rounds_or(3, 11), chosen.pick(10, 30) / 1000
    known, gets, tell = names(disk), chosen.pick(1, 4), report.notes.append
    together: Costs = {}
    apart: Costs = {}
    contenders = [Contender(name, "benchmarks.shared", (folder, served.url, disk)) for name in (ALL, *known)]
    with workers(contenders, 0, tell) as running:
        for kind, longer, often in ((CLOSED, 1, 1), (REFUSED, 1, 1), (GET, 3, gets)):
            tasks: dict[tuple[str, str], tuple[Worker, str]] = {
                ("together", name): (running[ALL], f"{kind}:{number}") for number, name in enumerate(known)
            }
            tasks["together", AGAIN] = running[ALL], f"{kind}:0"
            if kind != GET:
                tasks |= {("apart", name): (running[name], kind) for name in known if name in running}
            found = measure(tasks, rounds=rounds * often, seconds=seconds * longer, tell=tell)
            for (where, name), turns in found.items():
                (together if where == "together" else apart)[kind, name] = turns
    report.settings |= {
        "rounds": f"{rounds} (of a GET {gets * rounds})",
        "CPU of a turn": f"{seconds} s (3 times)",
    }
    report.notes.append(f'"{AGAIN}" is the very same once more: what differs there is chance.')
    report.tables += [
        _costs_table("CPU of one call, all stores in one process", together),
        _costs_table("CPU of one call, each store in a process of its own", apart),
    ]
    report.charts.append(
        Chart(
            "shared",
            "CPU of a breaker's closed path",
            "µs",
            [Bar(name, median(together[CLOSED, name]) * MICRO, ours=name == SHARED) for name in known],
        )
    )
    more = _more(together[CLOSED, SHARED], together[CLOSED, NONE])
    report.targets.append(Target("µs more for the closed path with a SharedMemoryStore", more, 1.0, 0.3))


def _costs_table(title: str, found: Costs) -> Table:
    return Table(
        title,
        ("call", "store", "best, µs", "median, µs", "more than without, µs", "times without"),
        [
            (
                WORDS[kind],
                name,
                min(turns) * MICRO,
                median(turns) * MICRO,
                _more(turns, found[kind, NONE]),
                ratio(turns, found[kind, NONE]),
            )
            for (kind, name), turns in found.items()
        ],
    )


def _more(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the differences, round by round, in microseconds."""
    return median(this - that for this, that in zip(these, those, strict=True)) * MICRO


# -- system calls -----------------------------------------------------------------------------------------


def system_calls(report: Report, chosen: Options, folder: str) -> None:
    """What the thread that calls asks of the system, for so many calls and twice as many."""
    count = chosen.pick(2_000, 200_000)
    shown = shutil.which("strace") is not None
    ask = _traced if shown else _noted
    found = {(how, calls): ask(folder, calls, how) for how in (RUNS, ENDED) for calls in (count, 2 * count)}
    report.tables.append(
        Table(
            f"System calls of the calling thread ({'strace' if shown else '/proc'}), closed path",
            (
                "calls of acquire and record",
                "but futex" if shown else "reads and writes",
                "futex" if shown else "waits (voluntary switches)",
            ),
            [(f"{calls:,}, the store's thread {how}", *counts) for (how, calls), counts in found.items()],
        )
    )
    all_ = max(other + (0 if how == RUNS else futex) for (how, _), (other, futex) in found.items())
    measured = all_ if shown else None
    report.targets.append(Target("system calls of calls through a closed circuit", measured, 0, 0))
    if not shown:
        report.notes.append("There is no strace here: /proc was asked instead, which counts that itself.")
    report.notes.append(
        "The store's own thread wakes 20 times a second and takes Python's lock from the one that calls, as "
        "any thread does: those are futexes. What the path itself asks for shows where that thread has ended."
    )


def _traced(folder: str, calls: int, how: str) -> tuple[int, int]:
    """What strace counts between two marks that the thread writes itself."""
    log = Path(folder, "strace")
    strace = ["strace", "-f", "-o", str(log)]
    _call_elsewhere([*strace, *_calling(folder, calls, how)])
    return _between_marks(log.read_text("utf-8", "replace").splitlines())


def _noted(folder: str, calls: int, how: str) -> tuple[int, int]:
    """What the system counts of a thread, where nobody can trace it."""
    made, waited = _call_elsewhere(_calling(folder, calls, how)).split()
    return int(made), int(waited)


def _calling(folder: str, calls: int, how: str) -> list[str]:
    return [sys.executable, __file__, "--calling", folder, str(calls), how]


def _call_elsewhere(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, check=True, timeout=PATIENCE, cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    return done.stdout


def _between_marks(lines: list[str]) -> tuple[int, int]:
    """The system calls of the thread, and those with which Python's threads take turns."""
    began = next(number for number, line in enumerate(lines) if '"calls begin"' in line)
    ended = next(number for number, line in enumerate(lines) if '"calls end"' in line)
    thread = lines[began].split()[0]
    own = [line for line in lines[began + 1 : ended] if line.split()[0] == thread]
    handed = sum("futex(" in line or "futex resumed" in line for line in own)
    return len(own) - handed, handed


def calling(folder: str, calls: str, how: str) -> None:
    """What is traced."""
    logging.disable(logging.CRITICAL)
    store = SharedMemoryStore(Path(folder, "circuits"))
    closed = _loops(store, NOWHERE)[CLOSED]
    closed(1000)
    if how == ENDED and store._keeper is not None:
        store._keeper.end()  # the circuit stays shared, nobody looks after it
    nowhere = os.open(os.devnull, os.O_WRONLY)
    before = _known_of_thread()
    os.write(nowhere, b"calls begin")
    closed(int(calls))
    os.write(nowhere, b"calls end")
    print(*(after - earlier for after, earlier in zip(_known_of_thread(), before, strict=True)))


def _known_of_thread() -> tuple[int, int]:
    """Reads and writes of this thread, and how often it has waited, as far as the system says."""
    found: dict[str, int] = {}
    for name in ("io", "status"):
        try:
            lines = Path("/proc/thread-self", name).read_text("utf-8").splitlines()
        except OSError:
            continue
        parts = [line.split() for line in lines]
        found |= {each[0]: int(each[1]) for each in parts if len(each) == 2 and each[1].isdigit()}
    made = found.get("syscr:", 0) + found.get("syscw:", 0)
    return made, found.get("voluntary_ctxt_switches:", 0)


def run(chosen: Options) -> Report:
    """Measure everything."""
    report = Report("shared", "One circuit for all processes of a host")
    report.versions = versions("service-utils")
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and os.access(memory, os.W_OK)
    report.settings["files in"] = str(memory if in_memory else "the folder for temporary files")
    report.settings["load before"] = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    with ExitStack() as stack:
        disk = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        folder = disk
        if in_memory:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=memory))
        served = stack.enter_context(Servers(python=chosen.python_server)).plain(0)
        costs(report, chosen, folder, disk if in_memory else "", served)
        system_calls(report, chosen, folder)
        thread(report, chosen, folder)
        statuses(report, chosen, folder, served.url)
        readers(report, chosen, folder)
        trips(report, chosen, folder)
    return report


if __name__ == "__main__":
    if "--calling" in sys.argv:
        calling(*sys.argv[sys.argv.index("--calling") + 1 :])
    else:
        chosen = options(__doc__)
        enter_environment()
        run(chosen).publish(chosen)
