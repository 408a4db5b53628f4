"""What the git service cannot do, in words for its callers."""

from __future__ import annotations

__all__ = ["GitServiceError", "ProjectBusyError", "UnknownCommitError", "UnknownProjectError"]


class GitServiceError(Exception):
    """Base of this service's own errors; the text may be shown to the caller."""


class UnknownProjectError(GitServiceError):
    """The project has neither files nor a history."""


class UnknownCommitError(GitServiceError):
    """The project has no such commit."""


class ProjectBusyError(GitServiceError):
    """Other snapshots of the same project took too long."""
