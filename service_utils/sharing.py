"""Shared state of a process: the store that clients use which are given none, as the environment says."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from service_utils.clock import SYSTEM, Clock, SystemClock
from service_utils.policies.store import BreakerStore, Cell, Told
from service_utils.status import HostCounts

__all__ = ["VARIABLE", "HostLeader", "HostNotes", "host_counts", "leader_of", "notes_of", "shared_store"]

VARIABLE = "SERVICE_UTILS_SHARED_STATE"

# By name: integrations are at the edge of the package, and only who wants one loads it.
_SCHEMES = {"memory": ("service_utils.integrations.shared_memory", "SharedMemoryStore")}

_stores: dict[str, BreakerStore] = {}


@runtime_checkable
class HostLeader(Protocol):
    """A store that chooses one of its members, for work that is to be done once."""

    def leads(self) -> bool:
        """Whether this process is the one; asking makes it a candidate. Costs nothing."""
        ...

    def stand(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        """Have one function called when this process becomes the leader, and the other when it is no more."""
        ...


class HostNotes(Protocol):
    """A store with room for small values, that also chooses a leader: a ``SharedMemoryStore``."""

    def watch(self, note: str, told: Told | None = None) -> Cell:
        """Where changes of a note show, and a method to be called soon after each."""
        ...

    def post(self, note: str, value: bytes) -> None:
        """Put a value where all processes find it."""
        ...

    def posted(self, note: str) -> bytes | None:
        """The value, or None."""
        ...

    def stand(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        """Have functions called when this process becomes the leader, and when it is no more."""
        ...


def shared_store(clock: Clock = SYSTEM) -> BreakerStore | None:
    """The store that ``SERVICE_UTILS_SHARED_STATE`` names, the same for all who ask; None when it names none.

    Args:
        clock: Of who asks. Processes can share only times of the system's clock; with any other there is no
            store but one that is given.

    Raises:
        ValueError: The variable cannot be used; the message says why.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if not value or not isinstance(clock, SystemClock):
        return None
    store = _stores.get(value)
    return _stores.setdefault(value, _made(value)) if store is None else store


def _made(value: str) -> BreakerStore:
    scheme, colon, rest = value.partition(":")
    if scheme not in _SCHEMES or not colon:
        if "redis" in scheme.lower():
            raise ValueError(f"{VARIABLE}: a Redis store is not in this version; memory:<path> is")
        shown = f"{scheme}:…" if "//" in value or "@" in value else value  # there may be a password in it
        raise ValueError(f"{VARIABLE}={shown!r}: must be memory:<path>")
    if not rest or "\0" in rest or rest.endswith("/"):
        raise ValueError(f"{VARIABLE}={value!r}: memory: needs the path of a file")
    module, name = _SCHEMES[scheme]
    make = getattr(importlib.import_module(module), name)
    try:
        return cast(BreakerStore, make(Path(rest)))
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{VARIABLE}={value!r}: {error}") from error


def host_counts(store: BreakerStore | None) -> HostCounts | None:
    """The store, if it also adds up counts."""
    return cast(HostCounts, store) if hasattr(store, "share_counts") else None


def notes_of(store: BreakerStore | None) -> HostNotes | None:
    """The store, if it also has room for notes."""
    return cast(HostNotes, store) if hasattr(store, "posted") else None


def leader_of(store: BreakerStore | None) -> HostLeader | None:
    """The store, if it also chooses a leader."""
    return store if isinstance(store, HostLeader) else None
