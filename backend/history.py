"""Chat history: a file in the project's folder on the Filesystem service, and memory while that is away.

One JSON object per line, each with an id of its own: an append whose answer was lost may be repeated, and
whoever reads drops the second copy.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from backend.answers import accepted, member
from backend.models import HISTORY_PATH
from service_utils import FallbackChain, ResilientServiceClient
from service_utils.policies.fallback import Strategy

__all__ = ["ChatHistory", "HistoryEntry", "PendingEntries"]

_MOST_PER_PROJECT = 200
_MOST_PROJECTS = 500
# A project's entries go out in one save: whatever their characters, escaped they fit into one request.
_MOST_CHARACTERS_PER_PROJECT = 1_000_000
_MOST_CHARACTERS = 16_000_000
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One question and its answer."""

    user: str
    message: str
    answer: str
    answered_by: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())


class PendingEntries:
    """Entries that wait in memory until they can be written; the oldest are dropped when there are too many.

    Any thread may call it.

    Args:
        per_project: How many entries of one project are kept.
        projects: Of how many projects; those that wait longest go first.
        characters_per_project: How long the texts of one project may be, all together.
        characters: How long those of all projects may be.
    """

    def __init__(
        self,
        per_project: int = _MOST_PER_PROJECT,
        projects: int = _MOST_PROJECTS,
        *,
        characters_per_project: int = _MOST_CHARACTERS_PER_PROJECT,
        characters: int = _MOST_CHARACTERS,
    ) -> None:
        self._per_project = per_project
        self._projects = projects
        self._characters_per_project = characters_per_project
        self._characters = characters
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, deque[dict[str, Any]]] = OrderedDict()
        self._held = 0

    def add(self, project_id: str, entries: Iterable[dict[str, Any]]) -> None:
        """Keep entries, behind those that are there."""
        with self._lock:
            kept = self._entries.setdefault(project_id, deque())
            before = _length(kept)
            kept.extend(entries)
            length = _length(kept)
            while len(kept) > self._per_project or length > self._characters_per_project:
                length -= _length([kept.popleft()])
            self._held += length - before
            self._make_room_locked()

    def take(self, project_id: str) -> list[dict[str, Any]]:
        """The project's entries, oldest first; they are the caller's now."""
        with self._lock:
            taken = list(self._entries.pop(project_id, ()))
            self._held -= _length(taken)
            return taken

    def peek(self, project_id: str) -> list[dict[str, Any]]:
        """The project's entries, oldest first."""
        with self._lock:
            return list(self._entries.get(project_id, ()))

    def _make_room_locked(self) -> None:
        while len(self._entries) > self._projects or self._held > self._characters:
            _, dropped = self._entries.popitem(last=False)
            self._held -= _length(dropped)


def _length(entries: Iterable[dict[str, Any]]) -> int:
    """How many characters the texts of the entries have."""
    return sum(len(value) for entry in entries for value in entry.values() if isinstance(value, str))


class ChatHistory:
    """What was asked and answered in each project.

    Args:
        filesystem: The client of the Filesystem service.
        pending: Where entries wait while it is away.
    """

    def __init__(self, filesystem: ResilientServiceClient, pending: PendingEntries) -> None:
        self._filesystem = filesystem
        self._pending = pending
        self._chain = FallbackChain(
            "chat history", [Strategy("filesystem", self._append), Strategy("memory", self._pending.add)]
        )

    def append(self, project_id: str, entry: HistoryEntry) -> str:
        """Keep an entry, along with those that had to wait. Returns where: ``filesystem`` or ``memory``."""
        entries = [*self._pending.take(project_id), asdict(entry)]
        try:
            _, place = self._chain.run(project_id, entries)
        except BaseException:
            self._pending.add(project_id, entries)
            raise
        return place

    def read(self, project_id: str, limit: int) -> list[dict[str, Any]]:
        """The last entries, oldest first; those that wait in this process are marked ``"pending": true``.

        Raises:
            requests.RequestException: The Filesystem service is away, or would not say.
        """
        response = self._filesystem.post(
            "/read_file", json={"project_id": project_id, "file_path": HISTORY_PATH}
        )
        if response.status_code == _NOT_FOUND:
            written = []
        else:
            written = _parsed(member(accepted(response), "content", str))
        waiting = [{**entry, "pending": True} for entry in self._pending.peek(project_id)]
        known = {entry["id"]: entry for entry in [*waiting, *written]}
        ordered = sorted(known.values(), key=lambda entry: entry["at"])
        return ordered[-limit:]

    def _append(self, project_id: str, entries: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        body = {"project_id": project_id, "file_path": HISTORY_PATH, "content": lines, "append": True}
        accepted(self._filesystem.post("/save_file", json=body))


def _parsed(content: str) -> list[dict[str, Any]]:
    """The entries of the file; a line that an editor or a full disk has spoiled hides no other."""
    entries = []
    for line in content.split("\n"):  # other line separators may stand in a message as they are
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and isinstance(entry.get("at"), str):
            entries.append(entry)
    return entries
