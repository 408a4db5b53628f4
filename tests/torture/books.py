"""What the workers of a storm have written down, and what is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tests.torture.services import OVERRULED, SERVICES

__all__ = ["Diaries", "complaints"]

_INDEX = (1 << 40) - 1


class Write(NamedTuple):
    """A change of a record that its author has been told of."""

    version: int
    generation: int
    state: str
    opened: int
    begun: float
    told: float


class Probe(NamedTuple):
    """Who may probe from when to when."""

    granted: float
    ends: float
    generation: int
    token: int


@dataclass
class Diaries:
    """All that the workers have written, by service."""

    calls: Counter[str] = field(default_factory=Counter)
    writes: dict[str, list[Write]] = field(default_factory=lambda: defaultdict(list))
    leases: dict[str, dict[int, Probe]] = field(default_factory=lambda: defaultdict(dict))
    doubles: list[str] = field(default_factory=list)
    away: int = 0
    points: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Diaries:
        """Read them; a last line that was not ended does not count."""
        diaries = cls()
        for path in paths:
            for line in path.read_text().split("\n")[:-1]:
                diaries._take(*line.split(" ", 2))
        return diaries

    def _take(self, kind: str, name: str, rest: str = "") -> None:
        words = rest.split()
        match kind:
            case "call":
                self.calls[name] += 1
            case "write":
                numbers = [int(each) for each in (*words[:2], words[3])]
                times = [float(each) for each in words[4:]]
                self.writes[name].append(Write(*numbers[:2], words[2], numbers[2], *times))
            case "lease":
                generation, token, granted, ends = (*map(int, words[:2]), *map(float, words[2:]))
                if token in self.leases[name]:
                    self.doubles.append(f"{name}: lease {token} was given twice")
                self.leases[name][token] = Probe(granted, ends, generation, token)
            case "report":
                probe = self.leases[name][int(words[0])]
                self.leases[name][probe.token] = probe._replace(ends=min(probe.ends, float(words[1])))
            case "away":
                self.away += 1
            case "dying":
                self.points[f"{name} {rest}".strip()] += 1


def complaints(diaries: Diaries, deaths: int, readers: Sequence[Any], survivor: Any) -> list[str]:
    """All that is wrong."""
    wrong = [f"reader {number}: {each}" for number, reader in enumerate(readers) for each in reader["wrong"]]
    wrong += diaries.doubles
    for name in SERVICES:
        found = [
            *_lost_writes(diaries.writes[name], deaths, survivor[name]),
            *_unseen_trips(name, diaries.writes[name], readers),
            *_crowded_probes(name, diaries),
            *_stuck(survivor[name]),
            *_lost_calls(diaries.calls[name], deaths, survivor["before"][name], survivor["after"][name]),
        ]
        wrong += [f"{name}: {each}" for each in found]
    if not survivor["folded"] or survivor["workers"] != [1] * len(SERVICES):
        wrong.append(f"the dead are not gone: {survivor}")
    return wrong


def _lost_writes(writes: list[Write], deaths: int, found: Any) -> list[str]:
    """Each number belongs to one change, and all but the last words of the dead are known."""
    wrong = []
    writes = sorted(writes)
    for one, next_one in pairwise(writes):
        if one.version == next_one.version:
            wrong.append(f"a change was lost: {one} and {next_one}")
        elif next_one.generation < one.generation or next_one.opened < one.opened:
            wrong.append(f"{next_one} after {one}")
        elif _is_skipped(one, next_one):
            wrong.append(f"no step leads from {one} to {next_one}")
    if len({each.version >> 40 for each in writes} | {found["version"] >> 40}) > 1:
        wrong.append("the file was replaced")
    last = max((each.version for each in writes), default=0)
    if found["version"] < last:
        wrong.append(f"version {last} was there, and is {found['version']} in the end")
    unknown = (found["version"] & _INDEX) - len({each.version for each in writes})
    if unknown > deaths:
        wrong.append(f"{unknown} changes by nobody, but only {deaths} have died")
    return wrong


def _is_skipped(one: Write, next_one: Write) -> bool:
    """Whether a circuit was opened that was open, or tried that was being tried."""
    follows = next_one.version == one.version + 1 and next_one.generation == one.generation + 1
    return follows and one.state == next_one.state and one.state in ("open", "half_open")


def _unseen_trips(name: str, writes: list[Write], readers: Sequence[Any]) -> list[str]:
    """Nobody who has begun to read after somebody was told of a spell has seen an earlier one."""
    wrong = []
    told: dict[int, float] = {}
    for each in sorted(writes):
        told.setdefault(each.generation, each.told)
    for reader in readers:
        newer = reader["newer"][name]
        for at, (generation, last_older) in enumerate(newer):
            before = newer[at - 1][0] if at else 0
            late = [each for each in told if before < each <= generation and told[each] < last_older]
            wrong += [f"generation {each} was still unseen {last_older - told[each]:f} s on" for each in late]
    return wrong


def _crowded_probes(name: str, diaries: Diaries) -> list[str]:
    """No two leases at once where only one may be out; what overrules a spell ends its leases."""
    if SERVICES[name].half_open_max_calls > 1:
        return []
    probes = sorted(diaries.leases[name].values())
    wrong = []
    for one, next_one in pairwise(probes):
        over = name in OVERRULED and one.generation != next_one.generation
        if next_one.granted < one.ends and not over:
            wrong.append(f"two probers at once: {one} and {next_one}")
    return wrong


def _stuck(found: Any) -> list[str]:
    wrong = [f"does not {each}: {found}" for each in ("close", "close again") if found[each] is None]
    return wrong if found["tripped"] else [*wrong, f"does not trip: {found}"]


def _lost_calls(noted: int, deaths: int, before: Any, after: Any) -> list[str]:
    """A call is noted just before it is counted, so that each of the dead may have one that was not."""
    wrong = []
    if not noted - deaths <= before["total"] <= noted:
        wrong.append(f"{noted} calls noted, {deaths} deaths, but counted: {before}")
    if not 0 <= before["begun"] - before["total"] <= deaths:
        wrong.append(f"more calls under way than have been killed: {before}, {deaths} deaths")
    if before != after:
        wrong.append(f"the counts of the dead, before and after they were added up: {before}, {after}")
    return wrong
