"""Snapshots as commits in a bare repository per project."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from dulwich.errors import NotGitRepository
from dulwich.file import FileLocked
from dulwich.objects import Commit, ObjectID, ShaFile
from dulwich.refs import Ref
from dulwich.repo import Repo

from backend.services.git import lock
from backend.services.git.diff import Diff, diff_trees
from backend.services.git.errors import UnknownCommitError, UnknownProjectError
from backend.services.git.files import Skipped, TreeWriter, opened
from service_utils.clock import SYSTEM, Clock

__all__ = ["Entry", "Repositories", "Snapshot"]

T = TypeVar("T")

LOCK_TIMEOUT = 15.0
"""Seconds a snapshot waits for others of its project; half of what the backend allows an attempt."""

_BRANCH = b"main"
_HEAD = Ref(b"refs/heads/" + _BRANCH)
_COMMITTER = b"git service <git@localhost>"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The outcome of a snapshot.

    Attributes:
        sha: The commit that holds the project's files as they are.
        changed: Whether it is new.
        files: How many files it holds.
        skipped: What of the folder it does not hold.
    """

    sha: str
    changed: bool
    files: int
    skipped: list[Skipped]


@dataclass(frozen=True, slots=True)
class Entry:
    """A commit in a history."""

    sha: str
    message: str
    author: str
    time: datetime


class Repositories:
    """The repositories of all projects, for any number of threads, and of processes on the same folders.

    A snapshot writes its objects first and moves the branch last, each by an atomic rename: killed at any
    moment, it leaves a repository that works, at worst with objects that nothing refers to.

    Args:
        data: Where the repositories and lock files are kept.
        projects: The folder of the projects' folders; read only.
        clock: Gives commits their time.
        lock_timeout: Seconds a snapshot waits for others of its project.
    """

    def __init__(
        self, data: Path, projects: Path, *, clock: Clock = SYSTEM, lock_timeout: float = LOCK_TIMEOUT
    ) -> None:
        self._repositories = data / "repos"
        self._locks = data / "locks"
        self._projects = projects
        self._clock = clock
        self._lock_timeout = lock_timeout
        self._repositories.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)

    def snapshot(self, project: str, message: str, author: str) -> Snapshot:
        """Commit the project's files as they are; unchanged since the last snapshot, that one is the answer.

        Raises:
            UnknownProjectError: The project has no folder.
            ProjectBusyError: Other snapshots of it took too long.
        """
        folder = self._projects / project
        with opened(folder):
            pass  # an unknown project leaves neither lock nor repository behind
        with (
            lock.held(self._locks / f"{project}.lock", timeout=self._lock_timeout, clock=self._clock),
            opened(folder) as descriptor,
            closing(self._opened_or_created(project)) as repo,
        ):
            return self._commit(repo, descriptor, message, author)

    def history(self, project: str, limit: int) -> list[Entry]:
        """The project's last commits, newest first.

        Raises:
            UnknownProjectError: The project has neither files nor commits.
        """
        repo = self._opened(project)
        if repo is None:
            return []
        with closing(repo):
            return [_entry(commit) for _, commit in zip(range(limit), _commits(repo), strict=False)]

    def diff(self, project: str, sha: str) -> Diff:
        """What a commit changed against the one before it.

        Raises:
            UnknownProjectError: The project has neither files nor commits.
            UnknownCommitError: It has no such commit.
        """
        repo = self._opened(project)
        if repo is None:
            raise UnknownCommitError(f"project {project} has no commits")
        with closing(repo):
            commit = _find_commit(repo, ObjectID(sha.encode()))
            if commit is None:
                raise UnknownCommitError(f"project {project} has no commit {sha}")
            parent = _find_commit(repo, commit.parents[0]) if commit.parents else None
            return diff_trees(repo.object_store, None if parent is None else parent.tree, commit.tree)

    def check(self) -> None:
        """Return if the repositories can be read and written.

        Raises:
            OSError: They cannot.
        """
        for folder in (self._repositories, self._locks):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(f"{folder} cannot be read and written")

    def _commit(self, repo: Repo, folder: int, message: str, author: str) -> Snapshot:
        writer = TreeWriter(lambda item: _store(repo, item))
        tree = writer.write(folder)
        head = _head(repo)
        if head is not None and head.tree == tree:
            return Snapshot(head.id.decode(), False, writer.files, writer.skipped)
        commit = self._new_commit(tree, head, message, author)
        _store(repo, commit)
        _move_branch(repo, head, commit)
        return Snapshot(commit.id.decode(), True, writer.files, writer.skipped)

    def _new_commit(self, tree: ObjectID, parent: Commit | None, message: str, author: str) -> Commit:
        commit = Commit()
        commit.tree = tree
        commit.parents = [] if parent is None else [parent.id]
        commit.author = author.encode()
        commit.committer = _COMMITTER
        commit.author_time = commit.commit_time = int(self._clock.now().timestamp())
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = message.encode() + b"\n"
        return commit

    def _path(self, project: str) -> Path:
        return self._repositories / f"{project}.git"

    def _opened(self, project: str) -> Repo | None:
        """The project's repository; None for a project that has files but no snapshot yet."""
        try:
            return Repo(str(self._path(project)))
        except NotGitRepository:
            if not (self._projects / project).is_dir():
                raise UnknownProjectError(f"there is no project {project}") from None
            return None

    def _opened_or_created(self, project: str) -> Repo:
        path = self._path(project)
        if not path.exists():
            _create(path)
        repo = Repo(str(path))
        # Else the power may fail between a branch on the disk and its objects still in memory.
        repo.object_store.fsync_object_files = True
        return repo


def _create(path: Path) -> None:
    """Make an empty repository; it appears under its name only when it is complete."""
    unfinished = path.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed here
    unfinished.mkdir()
    Repo.init_bare(str(unfinished), default_branch=_BRANCH).close()
    unfinished.rename(path)


def _store(repo: Repo, item: ShaFile) -> None:
    if not repo.object_store.contains_packed(item.id):
        _past_stale_locks(lambda: repo.object_store.add_object(item))


def _move_branch(repo: Repo, head: Commit | None, commit: Commit) -> None:
    def move() -> bool:
        if head is None:
            return repo.refs.add_if_new(_HEAD, commit.id)
        return repo.refs.set_if_equals(_HEAD, head.id, commit.id)

    if not _past_stale_locks(move):
        raise RuntimeError(f"{repo.path}: somebody else moved the branch during a snapshot")


def _past_stale_locks(action: Callable[[], T]) -> T:
    """Run what takes one of git's own lock files, which unlike ours outlive a killed process."""
    try:
        return action()
    except FileLocked as stale:
        # The project's lock is ours, so whoever left this one is dead.
        os.unlink(stale.lockfilename)
        return action()


def _head(repo: Repo) -> Commit | None:
    return next(_commits(repo), None)


def _commits(repo: Repo) -> Iterator[Commit]:
    """The commits of the branch, newest first."""
    sha = repo.refs.read_ref(_HEAD)
    while sha is not None:
        commit = repo.object_store[ObjectID(sha)]
        assert isinstance(commit, Commit)
        yield commit
        sha = commit.parents[0] if commit.parents else None


def _find_commit(repo: Repo, sha: ObjectID) -> Commit | None:
    try:
        found = repo.object_store[sha]
    except KeyError:
        return None
    return found if isinstance(found, Commit) else None


def _entry(commit: Commit) -> Entry:
    return Entry(
        sha=commit.id.decode(),
        message=commit.message.decode("utf-8", "replace").rstrip("\n"),
        author=commit.author.decode("utf-8", "replace"),
        time=datetime.fromtimestamp(commit.author_time, UTC),
    )
