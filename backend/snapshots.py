"""Snapshots of a project's files at the Git service: best effort, made up for when Git is back."""

from __future__ import annotations

import logging

from backend.answers import accepted, member
from service_utils import ResilientServiceClient, best_effort
from service_utils.dead_letters import DeadLetterError, DeadLetterQueue
from service_utils.storage import StorageError

__all__ = ["Snapshots"]

logger = logging.getLogger(__name__)


class Snapshots:
    """Commits that nobody waits for long.

    Args:
        git: The client of the Git service.
        dead_letters: Where those are kept that Git did not take.
    """

    def __init__(self, git: ResilientServiceClient, dead_letters: DeadLetterQueue) -> None:
        self._git = git
        self._dead_letters = dead_letters

    def take(self, project_id: str, message: str, author: str) -> str | None:
        """Commit the project's files. Returns the commit, or None when Git did not make one yet."""
        try:
            return self._take(project_id, message, author)
        except (DeadLetterError, StorageError) as error:
            # Whoever asked is told that there is no snapshot; that none is made later is for the operator.
            logger.error("A snapshot of project %s will not be made up for: %s", project_id, error)
            return None

    def _take(self, project_id: str, message: str, author: str) -> str | None:
        with best_effort("git snapshot", dead_letters=self._dead_letters):
            response = self._git.post(
                "/snapshot/{project_id}",
                path_params={"project_id": project_id},
                json={"message": message, "author": author},
            )
            return member(accepted(response), "sha", str)
        return None
