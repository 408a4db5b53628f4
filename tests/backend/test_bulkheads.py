"""The backend's bulkheads: a service that hangs does not hold every thread."""

from __future__ import annotations

from typing import Any

import pytest

from backend.clients import Clients
from backend.config import Settings
from service_utils import BulkheadFullError
from service_utils.testing import FaultServer
from tests.side_by_side import together


def built(**settings: Any) -> Clients:
    return Clients.build(Settings.load(settings), settings)


def slots(clients: Clients) -> dict[str, int]:
    return {name: status["bulkhead"]["max_concurrent"] for name, status in clients.registry.status().items()}


@pytest.mark.parametrize(("workers", "places"), [("1", 8), ("2", 4), ("3", 2), ("5", 1), ("100", 1)])
def test_the_workers_share_eight_places(workers: str, places: int) -> None:
    """Each service, LLM servers too, has eight places for all workers, and one per worker at least."""
    clients = built(WEB_CONCURRENCY=workers, LLM_SERVER_URL="http://llm:8000/v1")
    assert slots(clients) == dict.fromkeys(("chroma", "filesystem", "billing", "git", "llm"), places)
    clients.registry.close()


def test_an_operator_sets_the_places_of_a_worker() -> None:
    """GIT_MAX_CONCURRENT is what one worker has, whatever the number of workers."""
    clients = built(WEB_CONCURRENCY="4", GIT_MAX_CONCURRENT="3", CHROMA_MAX_CONCURRENT="off")
    assert clients.git.get_status()["bulkhead"] == {
        "max_concurrent": 3,
        "max_wait": 0.5,
        "in_flight": 0,
        "waiting": 0,
        "rejected": 0,
    }
    assert clients.chroma.get_status()["bulkhead"] is None
    clients.registry.close()


def test_a_number_of_workers_that_is_none() -> None:
    """WEB_CONCURRENCY that is no number ends the start by name and value."""
    with pytest.raises(ValueError, match="WEB_CONCURRENCY='many'"):
        Settings.load({"WEB_CONCURRENCY": "many"})


def test_a_hanging_git_holds_eight_threads(fault_server: FaultServer) -> None:
    """Of 24 threads that want something of a Git service that hangs, 16 are free again before it answers."""
    clients = built(GIT_SERVER_URL=fault_server.url)
    fault_server.hold()
    free = 0

    def call(_: int) -> str:
        nonlocal free
        try:
            return str(clients.git.get("/health").status_code)
        except BulkheadFullError:
            free += 1
            if free == 16:
                fault_server.release()
            return "refused"

    answers = together(24, call)
    assert answers.count("refused") == 16
    assert answers.count("200") == 8
    assert len(fault_server.requests) == 8
    clients.registry.close()
