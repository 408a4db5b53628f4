"""What several processes see of one circuit: readers beside a writer, trips, the status; the thread."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Cell, Options, Report, Table, Target, ratio, rounds_of
from service_utils import (
    BreakerConfig,
    CircuitBreaker,
    CircuitOpenError,
    Outcome,
    ResilientServiceClient,
    ServiceRegistry,
)
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.record import CircuitRecord
from service_utils.policies.store import BreakerStore, StoreUnavailable

__all__ = ["FOR_EVER", "MICRO", "PATIENCE", "readers", "statuses", "thread", "trips"]

READERS, OTHERS, WORKERS = 16, 4, 4
CALLS = 25  # of each worker, before its status is asked for
FOR_EVER = 86400.0
PATIENCE = 60.0
GRACE = 5.0  # seconds that a reader has, after the last write, to see it
MICRO = 1e6
BEGUN, ENDED, AWAITED = "ready", "end", -1

Work = Callable[..., None]


@contextmanager
def processes(count: int, work: Work, *arguments: Any) -> Iterator[list[Any]]:
    """So many processes that do the same, each with a pipe; the pipes' other ends, when all are ready."""
    context = multiprocessing.get_context("forkserver")
    pipes = [context.Pipe() for _ in range(count)]
    running = [context.Process(target=work, args=(theirs, *arguments)) for _, theirs in pipes]
    try:
        for each, (_, theirs) in zip(running, pipes, strict=True):
            each.start()
            theirs.close()  # so that one that dies is noticed
        for ours, _ in pipes:
            if hear(ours) != BEGUN:
                raise RuntimeError("a process has not become ready")
        yield [ours for ours, _ in pipes]
        for each in running:
            each.join(PATIENCE)
    finally:
        for each in running:
            if each.is_alive():
                each.kill()


def hear(pipe: Any) -> Any:
    """What a process says; RuntimeError where it says nothing."""
    if not pipe.poll(PATIENCE):
        raise RuntimeError(f"a process has said nothing for {PATIENCE:.0f} s")
    return pipe.recv()


# -- many readers, one writer -----------------------------------------------------------------------------


def readers(report: Report, chosen: Options, folder: str) -> None:
    """Sixteen processes read as fast as they can while another one writes."""
    path = Path(folder, "read")
    context = multiprocessing.get_context("forkserver")
    going, last = context.Event(), context.RawValue("q", AWAITED)
    with closing(SharedMemoryStore(path)) as store, processes(READERS, _read, path, going, last) as pipes:
        going.set()
        writes, took = _write(store, chosen.pick(1, 5))
        last.value = writes
        found = [hear(pipe) for pipe in pipes]
    reads, torn, refused = (sum(each[at] for each in found) for at in (0, 2, 3))
    seen_last = sum(seen == writes for _, seen, _, _, _ in found)
    rows: list[tuple[str, Cell]] = [
        ("versions written", writes),
        ("reads", reads),
        ("writes a second", writes / took),
        ("reads a second, all together", sum(count / seconds for count, _, _, _, seconds in found)),
        ("torn or older than the one before", torn),
        ("readers that saw the last version", seen_last),
        ("reads refused by the store (StoreUnavailable)", refused),
        ("readers with refused reads", sum(each[3] > 0 for each in found)),
    ]
    report.tables.append(Table(f"{READERS} processes read while one writes", ("what", "figure"), rows))
    report.targets += [
        Target("torn records seen", float(torn), 0, 0),
        Target("readers that saw the last version", float(seen_last), READERS, READERS, at_least=True),
    ]
    if refused:
        report.notes.append(
            "A read is refused, and its circuit goes on alone, while the reader's own thread has not got the "
            "file's lock within its patience: here a writer never pauses, and all share the cores."
        )


def _write(store: SharedMemoryStore, seconds: float) -> tuple[int, float]:
    """Write one version after the other. Returns how many, and the seconds that took."""
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        number += 1
        store.change("read", partial(_numbered, number))
    return number, time.perf_counter() - began


def _numbered(number: int, record: CircuitRecord) -> CircuitRecord:
    """Two fields that belong together: a reader who finds them different has seen a torn record."""
    return record._replace(generation=number, open_until=float(number))


def _read(answer: Any, path: Path, going: Any, awaited: Any) -> None:
    """A reader: how much it has read, the last it saw, what was wrong, refused, and how long that took."""
    logging.disable(logging.CRITICAL)  # what it says of a file in use is counted
    store = SharedMemoryStore(path)
    store.read("read")
    answer.send(BEGUN)
    going.wait(PATIENCE)
    reads = last = bad = refused = 0
    began = time.perf_counter()
    over = began + PATIENCE
    while last != awaited.value and time.perf_counter() < over:
        if awaited.value != AWAITED:
            over = min(over, time.perf_counter() + GRACE)
        try:
            record = store.read("read")
        except StoreUnavailable:
            refused += 1
            continue
        reads += 1
        bad += record.generation < last or record.open_until != record.generation
        last = record.generation
    answer.send((reads, last, bad, refused, time.perf_counter() - began))
    store.close()


# -- a trip -----------------------------------------------------------------------------------------------


def trips(report: Report, chosen: Options, folder: str) -> None:
    """How long a trip takes, and until when other processes let calls through."""
    logging.disable(logging.CRITICAL)
    count, path = chosen.pick(30, 200), Path(folder, "tripped")
    with closing(SharedMemoryStore(path)) as store:
        alone, shared = _tripping(None), _tripping(store)
        turns = rounds_of(
            count, {"none": lambda: _trip(alone)[1], "shared": lambda: _trip(shared)[1]}
        )  # while nobody else is there
        with processes(OTHERS, _follow, path) as pipes:
            crowded, delays = _followed(shared, pipes, count)
    by_row = {
        "a trip without a store": turns["none"],
        "a trip with a SharedMemoryStore, nobody else there": turns["shared"],
        f"a trip while {OTHERS} processes call all the time": crowded,
        "until a process that calls all the time refuses": delays,
    }
    report.tables.append(
        Table(
            f"A trip, and how soon {OTHERS} other processes refuse ({os.cpu_count()} cores)",
            ("what", "best, µs", "median, µs", "95 of 100, µs", "longest, µs"),
            [(what, *(each * MICRO for each in _shares(times))) for what, times in by_row.items()],
        )
    )
    report.targets.append(
        Target("ms until another process refuses, 95 of 100", _shares(delays)[2] * 1e3, 50, 5)
    )


def _tripping(store: BreakerStore | None) -> CircuitBreaker:
    return CircuitBreaker(
        "tripped", BreakerConfig(failure_threshold=1, recovery_timeout=FOR_EVER), store=store
    )


def _trip(breaker: CircuitBreaker) -> tuple[float, float]:
    """Let one failure open a circuit that is closed again afterwards. Returns when, and the seconds."""
    permit = breaker.acquire()
    began = time.monotonic()
    breaker.record(permit, Outcome.FAILURE)
    took = time.monotonic() - began
    breaker.reset()
    return began, took


def _followed(breaker: CircuitBreaker, pipes: Sequence[Any], count: int) -> tuple[list[float], list[float]]:
    """What trips take beside others, and after how many seconds each of these refuses."""
    costs, delays = [], []
    for _ in range(count):
        for pipe in pipes:
            pipe.send("watch")
        for pipe in pipes:
            hear(pipe)
        permit = breaker.acquire()
        began = time.monotonic()
        breaker.record(permit, Outcome.FAILURE)
        costs.append(time.monotonic() - began)
        delays += [hear(pipe) - began for pipe in pipes]
        breaker.reset()
    for pipe in pipes:
        pipe.send(ENDED)
    return costs, delays


def _follow(pipe: Any, path: Path) -> None:
    """Call until refused, and tell when that was."""
    logging.disable(logging.CRITICAL)
    store = SharedMemoryStore(path)
    breaker = _tripping(store)
    breaker.release(breaker.acquire())
    pipe.send(BEGUN)
    while pipe.recv() != ENDED:
        while breaker.state.value != "closed":
            pass
        pipe.send("watching")
        try:
            while True:
                breaker.release(breaker.acquire())
        except CircuitOpenError:
            pipe.send(time.monotonic())
    store.close()


def _shares(times: Sequence[float]) -> tuple[float, float, float, float]:
    ordered = sorted(times)
    return ordered[0], ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100], ordered[-1]


# -- the status -------------------------------------------------------------------------------------------


def statuses(report: Report, chosen: Options, folder: str, url: str) -> None:
    """What `get_status()` takes where it adds up what several workers have counted."""
    none, one, all_ = "no store", "SharedMemoryStore, 1 worker", f"SharedMemoryStore, {WORKERS} workers"
    path, count = Path(folder, "counted"), chosen.pick(20, 200)
    with (
        closing(SharedMemoryStore(Path(folder, "alone"))) as own,
        closing(SharedMemoryStore(path)) as store,
        processes(WORKERS - 1, _count, path, url) as pipes,
    ):
        clients = {name: _client(url, each) for name, each in ((none, None), (one, own), (all_, store))}
        for client in clients.values():
            for _ in range(CALLS):
                client.get("/items/42")
        turns = {name: _asking(client, count) for name, client in clients.items()}
        for turn in turns.values():
            turn()
        costs = rounds_of(chosen.rounds_or(3, 11), turns)
        seen = clients[all_].get_status()
        for pipe in pipes:
            pipe.send(ENDED)
    report.tables.append(
        Table(
            "CPU of one get_status()",
            ("where", "best, µs", "median, µs", "times without a store"),
            [
                (name, min(each) * MICRO, median(each) * MICRO, ratio(each, costs[none]))
                for name, each in costs.items()
            ],
        )
    )
    workers, requests = len(seen["workers"]), seen["requests"]["total"]
    report.notes.append(
        f"That status showed {workers} workers and {requests} requests; {WORKERS} workers had made "
        f"{WORKERS * CALLS}."
    )


def _client(url: str, store: BreakerStore | None) -> ResilientServiceClient:
    return ResilientServiceClient(url, "Server", name="server", store=store, registry=ServiceRegistry())


def _asking(client: ResilientServiceClient, count: int) -> Callable[[], float]:
    def turn() -> float:
        began = time.thread_time()
        for _ in range(count):
            client.get_status()
        return (time.thread_time() - began) / count

    return turn


def _count(pipe: Any, path: Path, url: str) -> None:
    """A worker that makes some calls, and lives on until it is no more needed."""
    store = SharedMemoryStore(path)
    client = _client(url, store)
    for _ in range(CALLS):
        client.get("/items/42")
    pipe.send(BEGUN)
    pipe.recv()
    store.close()


# -- the store's thread -----------------------------------------------------------------------------------


def thread(report: Report, chosen: Options, folder: str) -> None:
    """What a process with a store takes while it does nothing: all that its thread does."""
    seconds = chosen.pick(1, 3)
    with closing(SharedMemoryStore(Path(folder, "idle"))) as store:
        CircuitBreaker("idle", store=store).acquire()
        before = time.process_time()
        time.sleep(seconds)
        spent = (time.process_time() - before) / seconds
    report.tables.append(
        Table(
            "The store's own thread, in a process that does nothing",
            ("what", "figure"),
            [("ms of CPU a second", spent * 1e3), ("share of a core, %", spent * 100)],
        )
    )
