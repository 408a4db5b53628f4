"""The git service over real HTTP: what its callers see, and what a stock git makes of its repositories."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.serving import make_server

from backend.services.git import create_app, files, lock
from service_utils.clock import SYSTEM, Clock
from service_utils.testing import FakeClock

TOKEN = "a-token-for-this-test"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git on this machine")


class Git:
    """A client of one running service, and the folders it works on."""

    def __init__(self, url: str, data: Path, projects: Path) -> None:
        self.url = url
        self.data = data
        self.projects = projects
        self.token: str | None = TOKEN

    def write(self, path: str, content: str | bytes, project: str = "p1") -> Path:
        file = self.projects / project / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def post(self, path: str, body: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, headers=self._headers(), timeout=30)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, headers=self._headers(), timeout=30)

    def snapshot(self, message: str = "Auto-save", project: str = "p1", **more: Any) -> dict[str, Any]:
        answer = self.post(f"/snapshot/{project}", {"message": message, **more})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def history(self, project: str = "p1") -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.get(f"/history/{project}").json()
        return entries

    def diff(self, sha: str, project: str = "p1") -> dict[str, Any]:
        answer = self.get(f"/diff/{project}/{sha}")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def stock(self, *arguments: str) -> str:
        """What a stock git prints of the repository; it has no complaints."""
        repository = str(self.data / "repos" / "p1.git")
        command = ["git", "--git-dir", repository, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    def _headers(self) -> dict[str, str]:
        return {} if self.token is None else {"X-INTERNAL-TOKEN": self.token}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def git(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Git]:
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)
    with running(tmp_path, clock) as git:
        yield git


@pytest.fixture
def git_in_real_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Git]:
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)
    with running(tmp_path, SYSTEM) as git:
        yield git


@contextmanager
def running(folder: Path, clock: Clock) -> Iterator[Git]:
    data, projects = folder / "git", folder / "projects"
    app = create_app(data, projects, clock=clock, lock_timeout=60)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Git(f"http://127.0.0.1:{server.server_port}", data, projects)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_snapshot_commits_the_files(git: Git) -> None:
    """The first snapshot of a project answers with a new commit that holds all its files."""
    git.write("notes.txt", "hello\n")
    git.write("deep/er/plan.md", "# Plan\n")
    made = git.snapshot("First")
    assert (made["changed"], made["files"], made["skipped"]) == (True, 2, [])
    assert len(made["sha"]) == 40
    (entry,) = git.history()
    assert (entry["sha"], entry["message"]) == (made["sha"], "First")


def test_an_unchanged_project_keeps_its_commit(git: Git) -> None:
    """A repeated snapshot finds nothing new and answers with the sha it had, so a retry does no harm."""
    git.write("notes.txt", "hello\n")
    first, again = git.snapshot("First"), git.snapshot("Second")
    assert again == {**first, "changed": False}
    assert len(git.history()) == 1


def test_files_come_change_and_go(git: Git) -> None:
    """Each snapshot after a change is a commit on the one before, newest first in the history."""
    git.write("a.txt", "one\n")
    first = git.snapshot("first")["sha"]
    git.write("a.txt", "two\n")
    git.write("b.txt", "new\n")
    second = git.snapshot("second")["sha"]
    (git.projects / "p1" / "a.txt").unlink()
    third = git.snapshot("third")
    assert third["files"] == 1
    assert [entry["sha"] for entry in git.history()] == [third["sha"], second, first]


def test_the_users_folder_stays_as_it_was(git: Git) -> None:
    """Nothing of git appears among the user's files."""
    git.write("a.txt", "one\n")
    git.snapshot()
    assert [path.name for path in (git.projects / "p1").rglob("*")] == ["a.txt"]


def test_an_empty_project_can_have_a_snapshot(git: Git) -> None:
    """A project whose folder is empty gets a commit with no files, and one without a folder a 404."""
    (git.projects / "p1").mkdir(parents=True)
    made = git.snapshot()
    assert (made["changed"], made["files"]) == (True, 0)
    assert git.snapshot()["changed"] is False
    assert git.post("/snapshot/p2", {"message": "m"}).status_code == 404


def test_a_missing_folder_is_not_recorded_as_a_deletion(git: Git) -> None:
    """When the project's folder is gone a snapshot is a 404, and the history is still there."""
    git.write("a.txt", "one\n")
    made = git.snapshot()
    shutil.rmtree(git.projects / "p1")
    assert git.post("/snapshot/p1", {"message": "m"}).status_code == 404
    assert [entry["sha"] for entry in git.history()] == [made["sha"]]


def test_an_unknown_project_leaves_nothing_behind(git: Git) -> None:
    """Asking for a snapshot of a project that does not exist makes no repository and no lock file."""
    git.post("/snapshot/nosuch", {"message": "m"})
    assert list((git.data / "repos").iterdir()) == []
    assert list((git.data / "locks").iterdir()) == []


def test_links_and_devices_are_left_out(git: Git, tmp_path: Path) -> None:
    """A symbolic link is never followed, to a file or to a folder, and the answer names what was left out."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("top secret")
    git.write("a.txt", "one\n")
    project = git.projects / "p1"
    (project / "link").symlink_to(secret / "key")
    (project / "folder").symlink_to(secret)
    os.mkfifo(project / "pipe")
    made = git.snapshot()
    assert made["files"] == 1
    assert {(each["path"], each["reason"]) for each in made["skipped"]} == {
        ("link", "symlink"),
        ("folder", "symlink"),
        ("pipe", "special"),
    }
    assert "secret" not in git.diff(made["sha"])["diff"]


def test_a_project_that_is_a_link_is_unknown(git: Git, tmp_path: Path) -> None:
    """A project's folder that is itself a link to somewhere else is a 404."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    git.projects.mkdir()
    (git.projects / "p1").symlink_to(elsewhere)
    assert git.post("/snapshot/p1", {"message": "m"}).status_code == 404


@pytest.mark.parametrize(
    "path", [".git/config", ".GIT/hooks/post-checkout", "a/.git/x", "git~1/x", ".g\u200cit/x", ".saving-0123"]
)
def test_names_that_git_or_the_filesystem_service_keep_are_left_out(git: Git, path: str) -> None:
    """What git would take for its own folder, or a save that is under way, goes into no snapshot."""
    git.write(path, "[core]\n")
    git.write("a.txt", "one\n")
    made = git.snapshot()
    assert made["files"] == 1
    assert [each["reason"] for each in made["skipped"]] == ["name"]


def test_a_file_that_is_too_large_is_left_out(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above the limit is named in the answer, and the others are committed."""
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
    git.write("small.txt", "0123456789")
    git.write("large.txt", "0123456789x")
    made = git.snapshot()
    assert (made["files"], made["skipped"]) == (1, [{"path": "large.txt", "reason": "too large"}])


def test_folders_without_end_are_left_out(git: Git) -> None:
    """A tree of folders deeper than any user's is cut off, not a crash."""
    git.write("/".join(["d"] * 80) + "/a.txt", "one\n")
    git.write("b.txt", "two\n")
    made = git.snapshot()
    assert made["files"] == 1
    assert [each["reason"] for each in made["skipped"]] == ["too deep"]


def test_an_unreadable_file_is_left_out(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the service may not read is named in the answer."""

    def forbid(name: str) -> None:
        if name == "a.txt":
            raise PermissionError(errno.EACCES, "Permission denied")

    git.write("a.txt", "one\n")
    git.write("b.txt", "two\n")
    before_each_open(monkeypatch, forbid)
    made = git.snapshot()
    assert (made["files"], made["skipped"]) == (1, [{"path": "a.txt", "reason": "unreadable"}])


def test_a_link_planted_at_the_last_moment_leads_nowhere(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or folder that becomes a link just before it is opened is left out."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("top secret")
    file, inner = git.write("a.txt", "one\n"), git.write("folder/key", "two\n")
    git.write("b.txt", "three\n")

    def swap(name: str) -> None:
        if name == "a.txt":
            file.unlink()
            file.symlink_to(secret / "key")
        elif name == "folder":
            shutil.rmtree(inner.parent)
            inner.parent.symlink_to(secret)

    before_each_open(monkeypatch, swap)
    made = git.snapshot()
    assert (made["files"], {each["reason"] for each in made["skipped"]}) == (1, {"changed"})


def test_a_file_deleted_at_the_last_moment_is_simply_gone(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is deleted while the snapshot runs is as if it had been deleted before."""
    file = git.write("a.txt", "one\n")
    git.write("b.txt", "two\n")
    before_each_open(monkeypatch, lambda name: file.unlink() if name == "a.txt" else None)
    made = git.snapshot()
    assert (made["files"], made["skipped"]) == (1, [])


def before_each_open(monkeypatch: pytest.MonkeyPatch, happens: Callable[[str], None]) -> None:
    """Let something happen just before a snapshot opens a file or folder of this name."""
    real_open = os.open

    def patched(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            happens(path)
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", patched)


def test_the_author_is_kept(git: Git) -> None:
    """A name alone, or with an address, is the commit's author; without one it is the service."""
    for number, author in enumerate(["Älice Ünal", "Bob <bob@example.org>"]):
        git.write("a.txt", str(number))
        git.snapshot(author=author)
    git.write("a.txt", "last")
    git.snapshot()
    assert [entry["author"] for entry in git.history()] == [
        "git service <git@localhost>",
        "Bob <bob@example.org>",
        "Älice Ünal <nobody@localhost>",
    ]


def test_commits_bear_the_time_of_their_snapshot(git: Git, clock: FakeClock) -> None:
    """The history says when each snapshot was made, in UTC."""
    git.write("a.txt", "one")
    git.snapshot()
    clock.advance(90)
    git.write("a.txt", "two")
    git.snapshot()
    assert [entry["time"] for entry in git.history()] == [
        "2024-01-01T00:01:30+00:00",
        "2024-01-01T00:00:00+00:00",
    ]


def test_the_history_can_be_limited(git: Git) -> None:
    """limit= gives the newest so many, 50 without it."""
    for number in range(52):
        git.write("a.txt", str(number))
        git.snapshot(f"number {number}")
    assert [entry["message"] for entry in git.get("/history/p1?limit=2").json()] == ["number 51", "number 50"]
    assert len(git.history()) == 50


def test_a_project_without_snapshots_has_an_empty_history(git: Git) -> None:
    """Files but no snapshot: an empty list; neither: a 404."""
    git.write("a.txt", "one")
    assert git.history() == []
    assert git.get("/history/nosuch").status_code == 404


def test_a_diff_shows_what_changed(git: Git) -> None:
    """The diff of a commit is against the one before it, in the words of a unified diff."""
    git.write("a.txt", "one\ntwo\nthree\n")
    git.snapshot()
    git.write("a.txt", "one\n2\nthree\n")
    git.write("b.txt", "new")
    found = git.diff(git.snapshot()["sha"])
    assert found["files"] == [{"path": "a.txt", "change": "modify"}, {"path": "b.txt", "change": "add"}]
    assert "-two\n+2\n" in found["diff"]
    assert "+new\n\\ No newline at end of file\n" in found["diff"]
    assert found["truncated"] is False


def test_the_first_diff_is_against_nothing(git: Git) -> None:
    """The diff of the first commit shows all files as added."""
    git.write("a.txt", "one\n")
    text = git.diff(git.snapshot()["sha"])["diff"]
    assert "--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1 @@\n+one\n" in text


def test_binary_files_are_named_only(git: Git) -> None:
    """A binary file is named in the diff, not dumped into it."""
    git.write("image.png", b"\x89PNG\0\0secret bytes")
    text = git.diff(git.snapshot()["sha"])["diff"]
    assert "Binary files /dev/null and b/image.png differ\n" in text
    assert "secret bytes" not in text


def test_a_diff_of_an_unknown_commit_is_a_404(git: Git) -> None:
    """Unknown shas, and shas of what is no commit, are not found; neither are those of unknown projects."""
    git.write("a.txt", "one\n")
    assert git.get("/diff/p1/" + "0" * 40).status_code == 404
    git.snapshot()
    assert git.get("/diff/p1/" + "0" * 40).status_code == 404
    blob = "5626abf0f72e58d7a153368ba57db4c673c0e171"  # what git calls "one\n"
    assert git.get(f"/diff/p1/{blob}").status_code == 404
    assert git.get("/diff/nosuch/" + "0" * 40).status_code == 404


@pytest.mark.parametrize("sha", ["HEAD", "0" * 39, "0" * 41, "G" * 40, "A" * 40, "..%2f..", "main"])
def test_a_malformed_sha_is_a_400(git: Git, sha: str) -> None:
    """A sha is 40 digits, nothing else reaches the repository."""
    git.write("a.txt", "one\n")
    answer = git.get(f"/diff/p1/{sha}")
    assert answer.status_code in (400, 404)
    if "%2f" not in sha:
        assert (answer.status_code, answer.json()["field"]) == (400, "sha")


@pytest.mark.parametrize("project", ["a.b", "a b", "..", "p" * 65, "%2e%2e", "p1.git", "é"])
def test_a_malformed_project_is_refused(git: Git, project: str) -> None:
    """A project id that is none never becomes a path."""
    for answer in (
        git.post(f"/snapshot/{project}", {"message": "m"}),
        git.get(f"/history/{project}"),
        git.get(f"/diff/{project}/" + "0" * 40),
    ):
        assert answer.status_code in (400, 404)
    assert list((git.data / "repos").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": "  \n"}, "message"),
        ({"message": "a\0b"}, "message"),
        ({"message": 7}, "message"),
        ({"message": "x" * 10_001}, "message"),
        ({"message": "m", "author": "Eve <a@b> <c@d>"}, "author"),
        ({"message": "m", "author": "Eve\nauthor Bob <b@c>"}, "author"),
        ({"message": "m", "author": "<a@b>"}, "author"),
        ({"message": "m", "author": " "}, "author"),
        ({"message": "m", "branch": "main"}, "branch"),
    ],
)
def test_a_wrong_body_is_refused_by_name(git: Git, body: dict[str, Any], field: str) -> None:
    """A snapshot request that does not fit is a 400 naming the field, and makes no commit."""
    git.write("a.txt", "one\n")
    answer = git.post("/snapshot/p1", body)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert git.history() == []


def test_a_wrong_limit_is_refused(git: Git) -> None:
    """A limit that is no number from 1 to 1000 is a 400."""
    git.write("a.txt", "one\n")
    for limit in ("0", "1001", "many"):
        assert git.get(f"/history/p1?limit={limit}").json()["field"] == "limit"


def test_only_health_is_open(git: Git) -> None:
    """Without the internal token everything but /health and /ready is a 401."""
    git.token = None
    assert git.get("/health").status_code == 200
    assert git.get("/ready").status_code == 200
    assert git.get("/history/p1").status_code == 401
    assert git.post("/snapshot/p1", {"message": "m"}).status_code == 401


def test_snapshots_at_once_make_one_straight_history(git_in_real_time: Git) -> None:
    """Twenty snapshots that start together follow each other, and none is lost."""
    git = git_in_real_time
    barrier = threading.Barrier(20)

    def change_and_snapshot(number: int) -> str:
        git.write(f"{number}.txt", str(number))
        barrier.wait(20)
        sha: str = git.snapshot(f"number {number}")["sha"]
        return sha

    with ThreadPoolExecutor(20) as pool:
        shas = set(pool.map(change_and_snapshot, range(20)))
    assert shas <= {entry["sha"] for entry in git.history()}
    assert git.snapshot()["changed"] is False
    assert git.snapshot()["files"] == 20


def test_a_busy_project_is_a_503_and_holds_up_no_other(git: Git, tmp_path: Path, clock: FakeClock) -> None:
    """While another process is at work on a project its snapshot is refused for now; others go through."""
    git.write("a.txt", "one\n", project="busy")
    git.write("a.txt", "one\n", project="free")
    with lock.held(git.data / "locks" / "busy.lock", timeout=1), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(git.post, "/snapshot/busy", {"message": "m"})
        clock.wait_for_sleepers(1)
        assert git.snapshot(project="free")["changed"] is True
        clock.advance(60)
        answer = waiting.result(30)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert git.snapshot(project="busy")["changed"] is True


def test_locks_left_by_a_killed_snapshot_are_overcome(git: Git) -> None:
    """Lock files of git's own, left where a process died, do not stop the next snapshot."""
    git.write("a.txt", "one\n")
    git.snapshot()
    repository = git.data / "repos" / "p1.git"
    (repository / "refs" / "heads" / "main.lock").write_text("half")
    blob = repository / "objects" / "f7" / "19efd430d52bcfc8566a43b2eb655688d38871.lock"  # of "two\n"
    blob.parent.mkdir(exist_ok=True)
    blob.write_text("half")
    git.write("a.txt", "two\n")
    made = git.snapshot()
    assert made["changed"] is True
    assert "+two\n" in git.diff(made["sha"])["diff"]


def test_a_repository_left_half_made_is_made_again(git: Git) -> None:
    """A first snapshot that was killed while it made the repository does not stop the next one."""
    half = git.data / "repos" / "p1.new"
    (half / "objects").mkdir(parents=True)
    git.write("a.txt", "one\n")
    assert git.snapshot()["changed"] is True
    assert not half.exists()


@needs_git
def test_a_stock_git_finds_nothing_wrong(git: Git, tmp_path: Path) -> None:
    """git fsck is content, and a clone holds the very files, with their modes."""
    git.write("a.txt", "one\n")
    git.write("sp ace/ünïcode.txt", "text")
    git.write("bin", bytes(range(256)))
    git.write("run.sh", "#!/bin/sh\n").chmod(0o755)
    git.snapshot("First\n\nwith a body", author="Bob <bob@example.org>")
    git.write("a.txt", "two\n")
    git.snapshot("Second")
    (git.projects / "p1" / "bin").unlink()
    git.snapshot("Third")
    git.stock("fsck", "--strict", "--full")
    assert git.stock("log", "--format=%s").split() == ["Third", "Second", "First"]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(git.data / "repos" / "p1.git"), str(clone)], check=True)
    shutil.rmtree(clone / ".git")
    assert tree_of(clone) == tree_of(git.projects / "p1")


@needs_git
def test_snapshots_go_on_after_a_stock_gc(git: Git) -> None:
    """git gc may pack the repository at any time; later snapshots and old diffs still work."""
    git.write("a.txt", "one\n")
    first = git.snapshot()["sha"]
    git.stock("gc", "-q", "--prune=now")
    assert git.snapshot()["changed"] is False
    assert git.stock("count-objects").startswith("0 objects")
    assert "+one\n" in git.diff(first)["diff"]
    git.write("a.txt", "two\n")
    assert git.snapshot()["changed"] is True
    git.stock("fsck", "--strict")
    assert len(git.history()) == 2


def tree_of(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Every file's content, and whether it may be run."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file()
    }
