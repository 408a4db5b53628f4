"""The projects' folders: entered without ever following a link."""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from backend.services.common import Refusal
from backend.services.filesystem.folders import LARGEST_FILE, ProjectFolders
from backend.services.filesystem.locks import NamedLocks
from backend.services.filesystem.receipts import Receipts
from backend.services.filesystem.saving import Save, Saver

LIBC = ctypes.CDLL(None, use_errno=True)


def open_files() -> int:
    """How many descriptors this process has, without those that only garbage of earlier tests holds."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
SECRET = b"outside of every project"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_bytes(SECRET)
    root = tmp_path / "projects"
    (root / "p" / "inner").mkdir(parents=True)
    (root / "p" / "inner" / "file.txt").write_text("inside")
    return root


@pytest.fixture
def folders(root: Path) -> ProjectFolders:
    return ProjectFolders(root)


@pytest.fixture
def saver(folders: ProjectFolders, tmp_path: Path) -> Saver:
    return Saver(folders, NamedLocks(tmp_path / "locks"), Receipts(tmp_path / "receipts.db"))


def status_of_read(folders: ProjectFolders, path: str, project: str = "p") -> int:
    with pytest.raises(Refusal) as refused:
        folders.read(project, path)
    return refused.value.status


def status_of_save(saver: Saver, path: str, project: str = "p") -> int:
    with pytest.raises(Refusal) as refused:
        saver.save(Save(project, path, "new"))
    return refused.value.status


def test_reading(folders: ProjectFolders) -> None:
    """A file is read whole, with its size and time."""
    stored = folders.read("p", "inner/file.txt")
    assert (stored.data, stored.info.size) == (b"inside", 6)
    assert folders.info("p", "inner/file.txt") == stored.info


@pytest.mark.parametrize(("project", "path"), [("p", "none"), ("p", "none/none"), ("q", "file.txt")])
def test_what_is_not_there(folders: ProjectFolders, project: str, path: str) -> None:
    """A file, folder or project that does not exist is a 404."""
    assert status_of_read(folders, path, project) == 404
    assert folders.info(project, path) is None


def test_a_folder_is_no_file(folders: ProjectFolders, saver: Saver) -> None:
    """A folder can neither be read nor replaced by a file."""
    assert status_of_read(folders, "inner") == 409
    assert status_of_save(saver, "inner") == 409
    assert folders.info("p", "inner") is None


def test_a_file_is_no_folder(folders: ProjectFolders, saver: Saver) -> None:
    """A path that leads through a file is a conflict."""
    assert status_of_read(folders, "inner/file.txt/x") == 409
    assert status_of_save(saver, "inner/file.txt/x") == 409


@pytest.mark.parametrize("target", ["../outside/secret.txt", "inner/file.txt", "nowhere"])
def test_a_link_in_the_place_of_a_file(
    root: Path, folders: ProjectFolders, saver: Saver, target: str
) -> None:
    """A symbolic link is never followed, wherever it leads; it is neither read nor replaced."""
    (root / "p" / "link").symlink_to(target)
    assert status_of_read(folders, "link") == 400
    assert status_of_save(saver, "link") == 400
    assert folders.info("p", "link") is None
    assert (root / "p" / "link").is_symlink()


@pytest.mark.parametrize("target", ["../../outside", "inner", "nowhere"])
def test_a_link_in_the_place_of_a_folder(
    root: Path, folders: ProjectFolders, saver: Saver, target: str
) -> None:
    """The same for a link on the way."""
    (root / "p" / "link").symlink_to(target)
    for path in ("link/secret.txt", "link/deep/er.txt"):
        assert status_of_read(folders, path) == 400
        assert status_of_save(saver, path) == 400


def test_a_link_in_the_place_of_a_project(root: Path, folders: ProjectFolders, saver: Saver) -> None:
    """The same for a link that would be a project."""
    (root / "link").symlink_to("../outside")
    assert status_of_read(folders, "secret.txt", "link") == 400
    assert status_of_save(saver, "secret.txt", "link") == 400
    with pytest.raises(Refusal):
        list(folders.files("link"))


def test_the_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    """The operator may put all projects elsewhere with a link."""
    (tmp_path / "link").symlink_to(root)
    assert ProjectFolders(tmp_path / "link").read("p", "inner/file.txt").data == b"inside"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_devices(
    root: Path, folders: ProjectFolders, saver: Saver, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe or a socket is refused at once: nobody waits for what it might say."""
    monkeypatch.chdir(root / "p")
    if kind == "pipe":
        os.mkfifo("device")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("device")
    assert status_of_read(folders, "device") == 400
    assert status_of_save(saver, "device") == 400
    assert status_of_read(folders, "device/x") == 400


def test_a_file_too_large_to_read(root: Path, folders: ProjectFolders) -> None:
    """A file that others have made too large is refused, and not read."""
    with (root / "p" / "large").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    assert status_of_read(folders, "large") == 422


def test_listing(root: Path, folders: ProjectFolders) -> None:
    """Listed are the files that can be asked for, in order; no links, no devices, no reserved names."""
    project = root / "p"
    (project / "z.txt").write_text("z")
    (project / ".git").mkdir()
    (project / ".git" / "config").write_text("")
    (project / ".saving-abc").write_text("")
    (project / "back\\slash").write_text("")
    (project / "empty").mkdir()
    (project / "link").symlink_to("../../outside")
    (project / "loop").symlink_to(".")
    os.mkfifo(project / "pipe")
    with open(os.fsencode(project) + b"/\xff\xfe", "w"):
        pass
    assert [path for path, _ in folders.files("p")] == ["inner/file.txt", "z.txt"]
    assert dict(folders.files("p"))["z.txt"].size == 1


def test_an_unknown_project_has_no_files(folders: ProjectFolders) -> None:
    """A project that nobody has saved to is like an empty one."""
    assert list(folders.files("q")) == []


@needs_proc
def test_listing_lets_go_of_its_folders(root: Path, folders: ProjectFolders) -> None:
    """A listing that is not read to its end leaves no folder open."""
    before = open_files()
    for _ in range(5):
        files = folders.files("p")
        next(files)
        files.close()
    assert open_files() <= before


@needs_proc
def test_refusals_leave_nothing_open(root: Path, folders: ProjectFolders, saver: Saver) -> None:
    """Whatever is refused, no descriptor stays open."""
    (root / "p" / "link").symlink_to("inner")
    status_of_save(saver, "inner")  # from now on the receipts keep a connection
    before = open_files()
    for path in ("none", "none/x", "inner", "inner/file.txt/x", "link", "link/x"):
        status_of_read(folders, path)
    for path in ("inner", "inner/file.txt/x", "link", "link/x"):
        status_of_save(saver, path)
    assert open_files() <= before


def exchange(one: Path, other: Path) -> None:
    """Swap two names in one step, so that neither is ever missing."""
    at_cwd, swap = -100, 2
    failed = LIBC.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), swap)
    assert not failed, os.strerror(ctypes.get_errno())


@pytest.mark.skipif(not hasattr(LIBC, "renameat2"), reason="only Linux swaps names in one step")
def test_a_folder_swapped_for_a_link_all_the_time(
    root: Path, folders: ProjectFolders, saver: Saver, tmp_path: Path
) -> None:
    """However quickly a folder is swapped for a link to the outside, nothing outside is read or written."""
    inner, link = root / "p" / "inner", root / "p" / "link"
    link.symlink_to("../../outside")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            exchange(inner, link)

    swapping = threading.Thread(target=swap)
    swapping.start()
    outcomes = set()
    try:
        for number in range(1500):
            with suppress(Refusal):
                outcomes.add(folders.read("p", "inner/file.txt").data)
            with suppress(Refusal):
                folders.read("p", "inner/secret.txt")
                outcomes.add(SECRET)
            with suppress(Refusal):
                saver.save(Save("p", f"inner/new-{number % 10}.txt", "new"))
    finally:
        done.set()
        swapping.join()
    assert outcomes == {b"inside"}
    assert [file.name for file in (tmp_path / "outside").iterdir()] == ["secret.txt"]
