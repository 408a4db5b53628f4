"""CPU and instructions of one request: our client with everything on, a plain session, other clients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import instructions, venvs
from benchmarks.common import Bar, Chart, Options, Report, Table, Target, options, ratio
from benchmarks.driving import Contender, measure, workers
from benchmarks.servers import Served, Servers

BASE, OURS, FAST = "requests.Session", "ResilientServiceClient", "FastSession alone"
USUAL = "requests + pybreaker + tenacity"
CONTROL = "requests.Session in the peers' environment"

HERE = (
    "raw socket",
    "http.client",
    "urllib3 PoolManager",
    FAST,
    OURS,
    "requests.Session, trust_env=False",
    BASE,
    "requests.Session with urllib3 Retry",
)
PEERS = {
    "breakers": (USUAL, CONTROL),
    "httpx": ("httpx.Client",),
    "niquests": ("niquests.Session",),
    "pycurl": ("pycurl",),
}
KINDS = {
    "get": "GET",
    "post": "POST json",
    "read": "GET, answer used",
    "chunked": "GET, chunked answer",
    "tls": "GET over TLS",
}

Costs = dict[str, dict[str, list[float]]]  # kind -> contender -> seconds of CPU for one request, turn by turn


def contenders(chosen: Options, tell: Callable[[str], None]) -> list[Contender]:
    """Everybody who can take part."""
    found = [Contender(name, "benchmarks.contenders") for name in HERE]
    for family, names in PEERS.items() if chosen.peers else ():
        if (python := venvs.python_of(family, chosen.venvs, tell)) is not None:
            found += [Contender(name, "benchmarks.contenders", python=python) for name in names]
    return found


def at(served: Served, those: Sequence[Contender]) -> list[Contender]:
    """The contenders, told whom to call."""
    return [replace(each, arguments=(served.url, served.ca or "")) for each in those]


def cpu(chosen: Options, places: dict[str, Served], those: list[Contender], report: Report) -> Costs:
    """Seconds of CPU of every turn. Processes are started anew several times: their layout has its luck."""
    costs: Costs = {kind: {} for kind in KINDS}
    launches = 1 if chosen.rounds else chosen.pick(1, 3)
    rounds = chosen.rounds_or(10, 60) // launches
    seconds = 0.005 if chosen.rounds == 1 else chosen.pick(30, 50) / 1000
    report.settings |= {"rounds": rounds * launches, "launches": launches, "CPU of a turn": f"{seconds} s"}
    tell = _once(report.notes)
    for seed in range(launches):
        for where, served in places.items():
            with workers(at(served, those), seed, tell) as running:
                for worker in running.values():
                    report.versions |= worker.versions
                for kind in [kind for kind in KINDS if (kind == "tls") == (where == "tls")]:
                    sent = "get" if kind == "tls" else kind
                    tasks = {name: (each, sent) for name, each in running.items() if sent in each.kinds}
                    found = measure(tasks, rounds=rounds, seconds=seconds, tell=tell)
                    for name, turns in found.items():
                        costs[kind].setdefault(name, []).extend(turns)
    return costs


def counted(chosen: Options, places: dict[str, Served], those: list[Contender], report: Report) -> Costs:
    """Instructions of one request; the kinds that are not in the result have not been counted."""
    if not chosen.instructions or not instructions.available():
        report.notes.append("Instructions were not counted: no valgrind, or not asked for.")
        return {}
    tell = _once(report.notes)
    found: Costs = {}
    for kind in ("get",) if chosen.quick else ("get", "post", "tls"):
        if (served := places.get("tls" if kind == "tls" else "plain")) is not None:
            able = [each for each in those if not chosen.quick or each.name in (BASE, OURS, FAST, USUAL)]
            counts = instructions.count_all(at(served, able), "get" if kind == "tls" else kind, tell)
            found[kind] = {name: [float(count)] for name, count in counts.items()}
    return found


def shares(costs: Costs) -> dict[str, dict[str, float]]:
    """The costs as multiples of a plain session's, by kind and contender."""
    return {
        kind: {name: ratio(turns, by_name[BASE]) for name, turns in by_name.items()}
        for kind, by_name in costs.items()
        if BASE in by_name
    }


def _table(title: str, costs: Costs, what: str, scale: float) -> Table:
    """Contenders below each other, the cheapest GET first."""
    found = shares(costs)
    order = sorted(costs["get"], key=lambda name: found["get"][name])
    absolute = {name: sorted(turns)[len(turns) // 2] * scale for name, turns in costs["get"].items()}
    return Table(
        title,
        ("contender", *(KINDS[kind] for kind in found), what),
        [
            (
                name,
                *(found[kind].get(name) for kind in found),
                round(absolute[name], 1) if scale > 1 else int(absolute[name]),
            )
            for name in order
        ],
    )


def _targets(cpu_shares: dict[str, dict[str, float]], counts: Costs, costs: Costs) -> list[Target]:
    def of(kind: str) -> float | None:
        return cpu_shares.get(kind, {}).get(OURS)

    usual = costs["get"].get(USUAL)
    return [
        Target("CPU per GET, as a share of a plain Session", of("get"), 0.40, 0.20),
        Target("CPU per POST json, likewise", of("post"), 0.40, 0.20),
        Target("instructions per GET, likewise", shares(counts).get("get", {}).get(OURS), 0.35, 0.18),
        Target("CPU per GET over TLS, likewise", of("tls"), 0.45, 0.28),
        Target(
            "times less CPU than pybreaker + tenacity + requests",
            None if usual is None or OURS not in costs["get"] else ratio(usual, costs["get"][OURS]),
            2.5,
            5,
            at_least=True,
        ),
    ]


def _chart(kind: str, found: dict[str, float]) -> Chart:
    return Chart(
        f"http-cost-{kind}",
        f"CPU of one {KINDS[kind]}",
        "multiple of a plain requests.Session",
        [Bar(name, found[name], ours=name == OURS) for name in sorted(found, key=found.__getitem__)],
        line=1.0,
    )


def _once(notes: list[str]) -> Callable[[str], None]:
    """Notes what it is told, but nothing twice."""
    return lambda note: None if note in notes else notes.append(note)


def run(chosen: Options) -> Report:
    """Measure everything."""
    report = Report("http_cost", "What one request costs")
    tell = _once(report.notes)
    those = contenders(chosen, tell)
    with Servers(python=chosen.python_server) as servers:
        places = {"plain": servers.plain()}
        if (tls := servers.tls()) is not None:
            places["tls"] = tls
        else:
            tell("TLS was left out: there is no way to make a certificate here.")
        report.settings["server"] = places["plain"].kind
        costs = cpu(chosen, places, those, report)
        counts = counted(chosen, places, those, report)
    found = shares(costs)
    report.tables.append(
        _table("CPU of one request, as a multiple of a plain Session's", costs, "µs of CPU, GET", 1e6)
    )
    if counts:
        report.tables.append(_table("Instructions of one request, likewise", counts, "instructions, GET", 1))
    report.charts += [_chart(kind, found[kind]) for kind in ("get", "post", "tls") if kind in found]
    report.targets += _targets(found, counts, costs)
    return report


if __name__ == "__main__":
    chosen = options(__doc__)
    run(chosen).publish(chosen)
