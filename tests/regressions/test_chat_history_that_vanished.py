from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from backend.history import PendingEntries, _parsed
from backend.models import DocumentsRequest


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_message_with_a_separator_of_lines(separator: str) -> None:
    """A message pasted from a web page, with a Unicode line separator in it, stands in the history."""
    entry = {"id": "1", "at": "2026-01-01", "message": f"one{separator}two"}

    assert _parsed(json.dumps(entry, ensure_ascii=False) + "\n") == [entry]


@pytest.mark.parametrize("path", ["chat_history.jsonl/a.txt", "Chat_History.JSONL/a/b.txt"])
def test_document_in_a_folder_called_like_the_history(path: str) -> None:
    """No document can make a folder where the chat history belongs, which could then never be read again."""
    with pytest.raises(ValidationError, match="where the chat history lies"):
        DocumentsRequest.model_validate_json(
            json.dumps({"project_id": "p", "documents": [{"text": "x", "file_path": path}]})
        )


def test_long_messages_that_wait() -> None:
    """After a long outage, what waits for the Filesystem service is never too large to be sent there."""
    pending = PendingEntries(characters_per_project=100)
    for number in range(9):
        pending.add("p", [{"id": str(number), "message": "x" * 29}])

    assert [entry["id"] for entry in pending.peek("p")] == ["6", "7", "8"]


def test_long_messages_of_many_projects_that_wait() -> None:
    """Messages that wait cannot fill the memory, however many projects they belong to."""
    pending = PendingEntries(characters=100)
    for number in range(9):
        pending.add(str(number), [{"id": str(number), "message": "x" * 29}])

    assert [number for number in range(9) if pending.peek(str(number))] == [6, 7, 8]

    assert pending.take("7") != []
    pending.add("9", [{"id": "9", "message": "x" * 29}])
    assert pending.peek("6") != []
