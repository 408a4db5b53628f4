"""Snapshots of a project's files at the Git service: best effort."""

from __future__ import annotations

from backend.answers import accepted, member
from service_utils import ResilientServiceClient, best_effort

__all__ = ["Snapshots"]


class Snapshots:
    """Commits that nobody waits for long.

    Args:
        git: The client of the Git service.
    """

    def __init__(self, git: ResilientServiceClient) -> None:
        self._git = git

    def take(self, project_id: str, message: str, author: str) -> str | None:
        """Commit the project's files. Returns the commit, or None when Git did not make one."""
        with best_effort("git snapshot"):
            response = self._git.post(
                "/snapshot/{project_id}",
                path_params={"project_id": project_id},
                json={"message": message, "author": author},
            )
            return member(accepted(response), "sha", str)
        return None
