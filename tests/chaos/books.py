"""What callers were told, what the ledger says, and whether the two agree."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Way(StrEnum):
    """How a charge is asked for."""

    DEDUCT = "deduct"
    """By the backend's route for charges."""
    CHAT = "chat"
    """By a chat message, whose reservation is captured."""
    DIRECT = "direct"
    """By a client of Billing, whose failed calls are kept as dead letters."""


class Told(StrEnum):
    """What the caller knows in the end."""

    CHARGED = "charged"
    REFUSED = "refused"
    """Nothing was taken, for certain."""
    UNKNOWN = "unknown"
    """He was told so, or was told nothing."""
    KEPT = "kept"
    """It is among the dead letters."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge, with a name of its own, which stands in the ledger.

    Attributes:
        name: As the description of the entry; of a chat, the user's name.
        user: Who pays. Each chat has a user of its own, because its entry carries no description.
        amount: In micro-units; 0 where the chat decides.
        way: How it is asked for.
        tries: How often the caller tries under one key before giving up.
        affordable: Whether the account has that much.
    """

    name: str
    user: str
    amount: int
    way: Way
    tries: int = 1
    affordable: bool = True

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return f"key-{self.name}"


@dataclass(frozen=True, slots=True)
class Story:
    """What became of a charge, as its caller sees it.

    Attributes:
        charge: Which one.
        told: What he was told.
        entry: The entry's number in the ledger, if he was told.
        letter: The dead letter's id, if there is one.
        answers: What he got at each try, for people.
    """

    charge: Charge
    told: Told
    entry: int | None = None
    letter: str | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """Money taken, as Billing's file has it."""

    number: int
    user: str
    amount: int
    key: str
    name: str


def read_ledger(file: Path) -> list[Entry]:
    """All entries but the grants, read from the file behind Billing's back."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT id, user, -amount, idempotency_key, COALESCE(description, user) FROM ledger"
            " WHERE kind <> 'grant' ORDER BY id"
        )
        return [Entry(*row) for row in rows]


def balances(file: Path) -> dict[str, int]:
    """What Billing says each user has."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return dict(
            connection.execute(
                "SELECT user, balance FROM ledger AS a WHERE number ="
                " (SELECT MAX(number) FROM ledger AS b WHERE b.user = a.user)"
            )
        )


def complaints_after_the_storm(
    stories: Iterable[Story], ledger: Iterable[Entry], undelivered: Collection[str]
) -> list[str]:
    """What is wrong, a sentence each; nothing when every entry is accounted for and every promise kept.

    Args:
        stories: What the callers know.
        ledger: What Billing has written down.
        undelivered: Ids of the dead letters that are there still.
    """
    told = {story.charge.name: story for story in stories}
    taken: dict[str, list[Entry]] = {}
    for entry in ledger:
        taken.setdefault(entry.name, []).append(entry)
    wrong = _strangers(told, taken) + _repeated_keys(taken)
    for name, story in told.items():
        entries = taken.get(name, [])
        if len(entries) > 1:
            wrong.append(f"{name} was charged {len(entries)} times: {story}")
        wrong += _broken_promises(story, entries, undelivered)
    return wrong


def complaints_in_the_end(
    stories: Iterable[Story], before: Iterable[Entry], after: Iterable[Entry]
) -> list[str]:
    """What is wrong once every unknown charge was asked for again under its key and every letter delivered.

    Then there is exactly one entry for each charge that was not refused and that the account has the money
    for, and those of before are untouched.
    """
    stories, after = list(stories), list(after)
    counted = Counter(entry.name for entry in after)
    wrong = [f"{entry.name}: entry {entry.number} has changed or gone" for entry in set(before) - set(after)]
    for story in stories:
        due = int(story.told is not Told.REFUSED and story.charge.affordable)
        found = counted.pop(story.charge.name, 0)
        if found != due:
            wrong.append(f"{story.charge.name} was charged {found} times instead of {due}: {story}")
    wrong += [f"nobody asked for {name}, which was charged {count} times" for name, count in counted.items()]
    return wrong


def _strangers(told: Mapping[str, Story], taken: Mapping[str, list[Entry]]) -> list[str]:
    return [f"nobody asked for {name}: {taken[name]}" for name in taken.keys() - told.keys()]


def _repeated_keys(taken: Mapping[str, list[Entry]]) -> list[str]:
    keys = Counter((entry.user, entry.key) for entries in taken.values() for entry in entries)
    return [
        f"the key {key} of {user} charged {count} times" for (user, key), count in keys.items() if count > 1
    ]


def _broken_promises(story: Story, entries: list[Entry], undelivered: Collection[str]) -> list[str]:
    charge, name = story.charge, story.charge.name
    wrong = [
        f"{name}: {entry.amount} of {entry.user} was taken instead of {charge.amount} of {charge.user}"
        for entry in entries
        if entry.user != charge.user or charge.amount not in (0, entry.amount)
    ]
    if story.told is Told.CHARGED:
        if not entries:
            wrong.append(f"{name} is not in the ledger, and its caller was told that it was charged: {story}")
        elif story.entry not in (None, entries[0].number):
            wrong.append(f"{name} is entry {entries[0].number}, and its caller was told another: {story}")
    if story.told is Told.REFUSED and entries:
        wrong.append(f"{name} is in the ledger, and its caller was told that nothing was taken: {story}")
    if story.told is Told.KEPT and story.letter not in undelivered and not entries:
        wrong.append(f"{name} is neither in the ledger nor among the dead letters: {story}")
    return wrong
