"""``python -m tests.torture.checker <json>``: reads all records again and again, and says what it saw.

It ends when its standard input does. What it says is one line of JSON: how often it has read, what was wrong,
and of each service when it has last begun to read an older generation, by the first newer one it saw.
"""

from __future__ import annotations

import hashlib
import json
import select
import sys
import time
from pathlib import Path
from typing import Any

from service_utils.events import CircuitState
from service_utils.integrations.shared_memory.layout import Damaged, Place
from service_utils.integrations.shared_memory.segment import Files, Segment
from service_utils.integrations.shared_memory.values import unpacked
from service_utils.policies.record import MAX_LEASES, CircuitRecord
from tests.torture.services import NOTE, SERVICES

_ROUNDS = 200  # between two looks at whether all is over
_MOST_WRONG = 20


class Seen:
    """What one reader has seen of one record."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.read = place.value.read
        self.number = -1
        self.data: bytes | None = None
        self.generation = 0
        self.began = 0.0  # when the last read began
        self.newer: list[tuple[int, float]] = []
        self.numbers = 0

    def look(self, wrong: list[str]) -> None:
        """Read once more."""
        began = time.monotonic()
        try:
            number, data = self.read()
        except Damaged as error:
            wrong.append(f"{self.name}: {error}")
            return
        if number == self.number:
            if data != self.data:
                wrong.append(f"{self.name}: two values of number {number:x}")
        else:
            self._learn(number, data, wrong)
        self.began = began

    def _learn(self, number: int, data: bytes | None, wrong: list[str]) -> None:
        self.numbers += 1
        if self.number >= 0 and (number < self.number or number >> 40 != self.number >> 40):
            wrong.append(f"{self.name}: {number:x} after {self.number:x}")
        self.number, self.data = number, data
        if data is None:
            return
        if self.name == NOTE:
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                wrong.append(f"{self.name}: a note that nobody has posted")
            return
        try:
            record = unpacked(number, data)
        except Damaged as error:
            wrong.append(f"{self.name}: {error}")
            return
        wrong += [f"{self.name}: {each}: {record}" for each in _wrong_with(self.name, record)]
        if record.generation < self.generation:
            wrong.append(f"{self.name}: generation {record.generation} after {self.generation}")
        if record.generation > self.generation:
            self.generation = record.generation
            self.newer.append((record.generation, self.began))


def _wrong_with(name: str, record: CircuitRecord) -> list[str]:
    most = min(SERVICES[name].half_open_max_calls, MAX_LEASES)
    tokens = [lease.token for lease in record.leases]
    state = record.state
    rules = {
        "open, but until when": state is not CircuitState.OPEN
        or record.open_until > (record.changed_at or 0),
        "opened never": state is not CircuitState.OPEN or record.opened > 0,
        "too many leases": len(tokens) <= most,
        "leases of another state": not tokens or state is CircuitState.HALF_OPEN,
        "tokens": tokens == sorted(set(tokens)) and max(tokens, default=0) <= record.last_token,
        "no time of change": record.generation == 0 or record.changed_at is not None,
        "two generations for one change": record.generation <= 2 * (record.version & (1 << 40) - 1),
    }
    return [name for name, holds in rules.items() if not holds]


def main(order: dict[str, Any]) -> None:
    """Read until told to stop."""
    segment = Files(Path(order["path"])).find()
    seen = [Seen(name, place) for name, place in _places(segment).items()]
    wrong: list[str] = []
    reads, looks, ends = 0, [each.look for each in seen], [sys.stdin]
    while not select.select(ends, [], [], 0)[0] and len(wrong) < _MOST_WRONG:
        for _ in range(_ROUNDS):
            for look in looks:
                look(wrong)
        reads += _ROUNDS * len(looks)
    said = {
        "reads": reads,
        "wrong": wrong,
        "numbers": sum(each.numbers for each in seen),
        "nonce": segment.header.nonce,
        "newer": {each.name: each.newer for each in seen},
        "cpu": time.process_time(),
    }
    print(json.dumps(said), flush=True)


def _places(segment: Segment) -> dict[str, Place]:
    """The records by name; they have been put there before."""
    named = {place.name().decode(): place for place in (*segment.places, *segment.notes)}
    return {name: named[name] for name in (*SERVICES, NOTE)}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
