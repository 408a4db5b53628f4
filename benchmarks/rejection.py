"""What it costs to be refused by an open circuit: our whole client, our breaker alone, other breakers."""

# ruff: noqa: SIM105 - what is measured is a `try`; `contextlib.suppress` costs more than that

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import venvs
from benchmarks.common import Bar, Chart, Options, Report, Table, Target, options, ratio
from benchmarks.driving import Contender, Worker, measure, workers

NOWHERE = "http://127.0.0.1:9"
FOR_EVER = 86400.0
BARE, CLIENT = "bare raise and catch", "client.get(), circuit open"


class Refused(Exception):
    """What the bare function raises."""


def make(name: str, *_arguments: str) -> dict[str, Callable[[int], None]]:
    """The contenders of one environment, by kind; see worker.py. All loops are alike, the `try` in them."""
    kinds = {"ours": _ours, "pybreaker": _pybreaker, "circuitbreaker": _circuitbreaker}[name]()
    return {"bare": _bare, **kinds}


def _bare(count: int) -> None:
    def refuse() -> None:
        raise Refused("the circuit is open")

    for _ in range(count):
        try:
            refuse()
        except Refused:
            pass


def _ours() -> dict[str, Callable[[int], None]]:
    from service_utils import BreakerConfig, CircuitBreaker, CircuitOpenError, Outcome, ResilientServiceClient

    limits = BreakerConfig(failure_threshold=1, recovery_timeout=FOR_EVER)
    client = ResilientServiceClient(NOWHERE, "Nowhere", max_retries=1, deadline=30, breaker=limits)
    breaker = CircuitBreaker("alone", limits)
    breaker.record(breaker.acquire(), Outcome.FAILURE)
    try:
        client.get("/")
    except OSError:  # as every error of requests is; nobody listens at that port
        assert client.state.value == "open"

    def whole(count: int) -> None:
        get = client.get
        for _ in range(count):
            try:
                get("/items/42")
            except CircuitOpenError:
                pass

    def alone(count: int) -> None:
        acquire = breaker.acquire
        for _ in range(count):
            try:
                acquire()
            except CircuitOpenError:
                pass

    return {"client": whole, "breaker": alone}


def _pybreaker() -> dict[str, Callable[[int], None]]:
    import pybreaker

    breaker = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=FOR_EVER)
    breaker.open()

    def repeat(count: int) -> None:
        call = breaker.call
        for _ in range(count):
            try:
                call(_never)
            except pybreaker.CircuitBreakerError:
                pass

    return {"pybreaker": repeat}


def _circuitbreaker() -> dict[str, Callable[[int], None]]:
    import circuitbreaker

    guarded = circuitbreaker.circuit(failure_threshold=1, recovery_timeout=FOR_EVER)(_never)
    try:
        guarded()
    except Refused:
        pass

    def repeat(count: int) -> None:
        for _ in range(count):
            try:
                guarded()
            except circuitbreaker.CircuitBreakerError:
                pass

    return {"circuitbreaker": repeat}


def _never() -> None:
    raise Refused("this is called once, to open the circuit")


# By name: the worker that does it, and the kind there. Each is compared with the bare one of its own process.
ROWS = {
    BARE: ("ours", "bare"),
    "CircuitBreaker.acquire(), open": ("ours", "breaker"),
    CLIENT: ("ours", "client"),
    "circuitbreaker, open": ("circuitbreaker", "circuitbreaker"),
    "pybreaker, open": ("pybreaker", "pybreaker"),
}


def contenders(chosen: Options, tell: Callable[[str], None]) -> list[Contender]:
    """Who can take part; the others' breakers live together in one environment."""
    found = [Contender("ours", "benchmarks.rejection")]
    if chosen.peers and (python := venvs.python_of("breakers", chosen.venvs, tell)) is not None:
        others = ("pybreaker", "circuitbreaker")
        found += [Contender(name, "benchmarks.rejection", python=python) for name in others]
    return found


def run(chosen: Options) -> Report:
    """Measure everything."""
    report = Report("rejection", "What a refused call costs")
    tell = report.notes.append
    launches = 1 if chosen.rounds else chosen.pick(1, 3)
    rounds, seconds = chosen.rounds_or(10, 60) // launches, chosen.pick(5, 20) / 1000
    report.settings |= {"rounds": rounds * launches, "launches": launches, "CPU of a turn": f"{seconds} s"}
    costs: dict[tuple[str, str], list[float]] = {}
    for seed in range(launches):
        with workers(contenders(chosen, tell), seed, tell) as running:
            tasks: dict[tuple[str, str], tuple[Worker, str]] = {}
            for worker in running.values():
                report.versions |= worker.versions
                tasks |= {(worker.name, kind): (worker, kind) for kind in worker.kinds}
            for key, turns in measure(tasks, rounds=rounds, seconds=seconds, tell=tell).items():
                costs.setdefault(key, []).extend(turns)
    found = {name: costs[key] for name, key in ROWS.items() if key in costs}
    shares = {name: ratio(turns, costs[ROWS[name][0], "bare"]) for name, turns in found.items()}
    report.tables.append(
        Table(
            "CPU of a refused call, as a multiple of a bare raise and catch",
            ("what", "multiple", "ns of CPU"),
            [(name, shares[name], round(median(turns) * 1e9)) for name, turns in found.items()],
        )
    )
    report.charts.append(
        Chart(
            "rejection",
            "CPU of a call that an open circuit refuses",
            "multiple of a bare raise and catch",
            [Bar(name, share, ours=name == CLIENT) for name, share in shares.items()],
            line=1.0,
        )
    )
    report.targets.append(
        Target(
            "refusal by an open circuit, as a multiple of a bare raise and catch", shares.get(CLIENT), 6, 4
        )
    )
    return report


if __name__ == "__main__":
    chosen = options(__doc__)
    run(chosen).publish(chosen)
