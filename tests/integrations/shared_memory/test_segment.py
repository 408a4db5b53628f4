"""The files behind a store: whatever stands in their place, members soon share one file again."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore, layout
from service_utils.integrations.shared_memory.layout import SIZE, Damaged, Header
from service_utils.integrations.shared_memory.segment import Files, Segment, boot_id
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.record import Trip
from service_utils.policies.store import StoreUnavailable
from tests.forked import in_child
from tests.integrations.shared_memory.conftest import MakeChild, MakeStore
from tests.integrations.shared_memory.processes import until
from tests.side_by_side import together

SOON = 5.0  # seconds, for a busy machine
IN_TIME = 2.0  # members look after their file four times in one second
NAME = "billing"


@pytest.fixture
def closing() -> Iterator[Callable[[Segment], Segment]]:
    """Closes segments after the test."""
    with ExitStack() as segments:

        def close(segment: Segment) -> Segment:
            segments.callback(segment.close)
            return segment

        yield close


Closing = Callable[[Segment], Segment]


def mapped(path: Path) -> Path:
    """The mapped file."""
    (found,) = (each for each in path.parent.glob(f"{path.name}.??????") if len(each.suffix) == 7)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def header_of(path: Path) -> Header:
    return Header.unpacked(path.read_bytes()[:128])


# -- making --------------------------------------------------------------------------------------------


def test_what_is_made(path: Path, closing: Closing) -> None:
    """A small file that names the mapped one, and a lock; all are their owner's alone."""
    segment = closing(Files(path).find_or_make())
    assert segment.path == mapped(path)
    assert segment.path.stat().st_size == SIZE
    assert header_of(path) == header_of(segment.path) == segment.header
    assert segment.header.boot == boot_id()
    names = sorted(each.name for each in path.parent.iterdir())
    assert names == ["state", f"state.{segment.header.nonce:06x}", "state.lock"]
    assert {mode(each) for each in path.parent.iterdir()} == {0o600}


def test_whatever_the_umask(path: Path, closing: Closing) -> None:
    """Others may not read it even where new files are everybody's."""
    before = os.umask(0)
    try:
        closing(Files(path).find_or_make())
    finally:
        os.umask(before)
    assert {mode(each) for each in path.parent.iterdir()} == {0o600}


def test_its_folder_is_made(path: Path, closing: Closing) -> None:
    """Nobody has to make it before."""
    deep = path / "a" / "state"
    closing(Files(deep).find_or_make())
    assert mode(deep.parent) & 0o077 == 0


def test_room_is_taken_at_once(path: Path, closing: Closing) -> None:
    """A disk that gets full later cannot kill whoever writes to mapped memory."""
    segment = closing(Files(path).find_or_make())
    assert segment.path.stat().st_blocks * 512 >= SIZE


def test_the_next_one_finds_it(path: Path, closing: Closing) -> None:
    """What one writes the other reads."""
    one, other = (closing(Files(path).find_or_make()) for _ in range(2))
    assert one.header == other.header
    one.places[3].take(b"billing")
    assert other.places[3].name() == b"billing"


def test_old_files_are_removed(path: Path, closing: Closing) -> None:
    """Mapped files of the past do not fill the disk; what is not ours stays."""
    old = closing(Files(path).find_or_make())
    others = [path.with_name(name) for name in ("state.abcdef", "state.abcdefa", "other.abcdef")]
    for each in others:
        each.write_bytes(b"somebody else's")
    path.unlink()
    new = closing(Files(path).find_or_make())
    assert new.header.nonce != old.header.nonce
    assert mapped_nonces(path) == {new.header.nonce}
    assert all(each.exists() for each in others)


def mapped_nonces(path: Path) -> set[int]:
    """The nonces of all mapped files there are."""
    found = [each for each in path.parent.iterdir() if each.name.startswith(path.name + ".")]
    return {int(each.suffix[1:], 16) for each in found if each.stat().st_size == SIZE}


def test_threads_make_one(path: Path, make_store: MakeStore) -> None:
    """However many members come at one moment, all are in one file."""
    stores = [make_store() for _ in range(6)]
    together(len(stores), lambda index: stores[index].read(NAME))
    versions = {store.read(NAME).version for store in stores}
    assert versions == {header_of(path).first}
    assert mapped(path)


def test_processes_make_one(path: Path, make_child: MakeChild) -> None:
    """The same of processes; they are given their word together."""

    def number() -> int:
        store = SharedMemoryStore(path)
        return store.read(NAME).version

    children = [make_child({"number": number}) for _ in range(4)]
    for child in children:
        child.tell("number")
    assert {child.hear() for child in children} == {header_of(path).first}
    assert mapped(path)


# -- what nobody lives in ------------------------------------------------------------------------------


def _by_a_symlink(path: Path) -> None:
    """The very file, but by way of a link."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _of_another_layout(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        header = header_of(path)
        patch.setattr(layout, "LAYOUT", layout.LAYOUT + 1)
        _put(path, header)


def _of_another_boot(path: Path) -> None:
    _put(path, Header(header_of(path).nonce, "0c1d3a0e-0000-4000-8000-00000000beef"))


def _of_another_nonce(path: Path) -> None:
    header = header_of(path)
    _put(path, Header(header.nonce ^ 1, header.boot))


def _put(path: Path, header: Header) -> None:
    with path.open("r+b") as file:
        file.write(header.packed())


def _noise(path: Path) -> None:
    length = path.stat().st_size
    path.write_bytes(secrets.token_bytes(length))


def _replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(b"what somebody else had to say")
    new.chmod(0o600)
    new.rename(path)


SPOILT: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "noise": _noise,
    "replaced": _replaced,
    "symlink": _by_a_symlink,
    "readable by all": lambda path: path.chmod(0o644),
    "writable by the group": lambda path: path.chmod(0o620),
    "another layout": _of_another_layout,
    "another boot": _of_another_boot,
    "another nonce": _of_another_nonce,
}
LONGER = {"longer": lambda path: os.truncate(path, SIZE + 4096)}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_anchor_that_is_not_trusted(path: Path, closing: Closing, spoil: Callable[[Path], object]) -> None:
    """Where nobody lives, a new file takes the place of the old one."""
    _is_replaced(path, closing, lambda: spoil(path))


@pytest.mark.parametrize("spoil", {**SPOILT, **LONGER}.values(), ids={**SPOILT, **LONGER})
def test_a_mapped_file_that_is_not_trusted(
    path: Path, closing: Closing, spoil: Callable[[Path], object]
) -> None:
    """The same of the file that the anchor names."""
    _is_replaced(path, closing, lambda: spoil(mapped(path)))


def _is_replaced(path: Path, closing: Closing, spoil: Callable[[], object]) -> None:
    old = closing(Files(path).find_or_make())
    spoil()
    with pytest.raises((Damaged, FileNotFoundError)):
        Files(path).find()
    new = closing(Files(path).find_or_make())
    assert new.header != old.header
    assert new.header == closing(Files(path).find()).header
    assert new.path.stat().st_size == SIZE
    assert all(stat.S_ISREG(each.lstat().st_mode) for each in (path, new.path))
    assert mode(path) == mode(new.path) == 0o600
    assert [place.name() for place in new.places] == [b""] * len(new.places)


def test_what_is_not_trusted_is_not_touched(path: Path, closing: Closing) -> None:
    """It is replaced by rename: what a link leads to, or another name of the file, stays as it is."""
    closing(Files(path).find_or_make())
    target = path.with_name("target")
    target.write_bytes(b"precious")
    path.unlink()
    path.symlink_to(target)
    closing(Files(path).find_or_make())
    assert target.read_bytes() == b"precious"
    assert not path.is_symlink()
    kept = path.with_name("kept")
    kept.write_bytes(b"precious")
    path.unlink()
    os.link(kept, path)
    closing(Files(path).find_or_make())
    assert kept.read_bytes() == b"precious"


def test_a_lock_that_others_may_open(path: Path, closing: Closing) -> None:
    """Whoever can open it could hold everybody up, so it is replaced, too."""
    lock = path.with_name("state.lock")
    lock.write_bytes(b"")
    lock.chmod(0o666)
    closing(Files(path).find_or_make())
    assert mode(lock) == 0o600


def test_a_fifo_in_the_way(path: Path, closing: Closing) -> None:
    """Nobody waits for somebody at the other end."""
    os.mkfifo(path, 0o600)
    closing(Files(path).find_or_make())
    assert stat.S_ISREG(path.lstat().st_mode)


# -- what members live in ------------------------------------------------------------------------------


@pytest.fixture
def circuits(make_store: MakeStore) -> tuple[CircuitBreaker, CircuitBreaker]:
    """One circuit as two members see it."""
    one, other = CircuitBreaker(NAME, store=make_store()), CircuitBreaker(NAME, store=make_store())
    _share(one, other)
    return one, other


def _share(one: CircuitBreaker, other: CircuitBreaker) -> None:
    """What either of them does, the other knows at once."""
    for this, that in ((one, other), (other, one)):
        this.force_open("to see")
        assert that.state is CircuitState.FORCED_OPEN
        this.reset()
        assert that.state is CircuitState.CLOSED


def _in_one_file(path: Path, *circuits: CircuitBreaker) -> bool:
    """Whether all live in the file that the anchor names."""
    try:
        nonce = header_of(path).nonce
    except (Damaged, OSError):
        return False
    homes = [circuit.store._home.segment for circuit in circuits]  # type: ignore[union-attr]
    return all(home is not None and home.header.nonce == nonce and home.is_whole() for home in homes)


def _is_in_order(path: Path) -> bool:
    return path.exists() and not path.is_symlink() and mode(path) == 0o600


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_members_write_the_anchor_anew(
    path: Path, circuits: tuple[CircuitBreaker, CircuitBreaker], spoil: Callable[[Path], object]
) -> None:
    """They go on in the file they have, share it all the while, and whoever comes finds it."""
    file = mapped(path)
    spoil(path)
    _share(*circuits)
    assert until(lambda: _is_in_order(path) and _in_one_file(path, *circuits), SOON)
    assert mapped(path) == file
    _share(*circuits)


CUT_OFF = ("empty", "truncated", "noise")  # the system kills whoever reads beyond the end of what is mapped
HIDDEN = ("symlink",)  # behind it members still have the file they know


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("how", [each for each in (*SPOILT, *LONGER) if each not in HIDDEN])
def test_members_move(
    path: Path, circuits: tuple[CircuitBreaker, CircuitBreaker], make_store: MakeStore, how: str
) -> None:
    """Where the mapped file is spoilt they soon share a new one, and what they know comes along."""
    circuits[0].force_open("before")
    assert circuits[1].state is CircuitState.FORCED_OPEN
    file = mapped(path)
    spoil = {**SPOILT, **LONGER}[how]
    if how in CUT_OFF:
        _put_a_copy_there(file, spoil)
    else:
        spoil(file)
    assert until(lambda: file not in _mapped_files(path) and _in_one_file(path, *circuits), SOON)
    assert [circuit.state for circuit in circuits] == [CircuitState.FORCED_OPEN] * 2
    assert CircuitBreaker(NAME, store=make_store()).state is CircuitState.FORCED_OPEN
    _share(*circuits)


def _put_a_copy_there(file: Path, spoil: Callable[[Path], object]) -> None:
    """Spoilt before it has the name: a good one a member might have mapped until then."""
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.chmod(0o600)
    spoil(copy)
    copy.replace(file)


def _mapped_files(path: Path) -> list[Path]:
    """What the anchor names, or would."""
    try:
        return [path.with_name(f"{path.name}.{header_of(path).nonce:06x}")]
    except (Damaged, OSError):
        return []


@pytest.mark.usefixtures("brisk")
def test_members_follow_who_comes(
    path: Path, circuits: tuple[CircuitBreaker, CircuitBreaker], make_store: MakeStore
) -> None:
    """Where only a newcomer mistrusts the file, those who live in it move to his, with what they know."""
    circuits[0].force_open("before")
    _by_a_symlink(mapped(path))
    newcomer = CircuitBreaker(NAME, store=make_store())
    assert until(lambda: newcomer.state is CircuitState.FORCED_OPEN, SOON)
    assert until(lambda: _in_one_file(path, newcomer, *circuits), SOON)
    _share(*circuits)
    _share(newcomer, circuits[0])


@pytest.mark.usefixtures("brisk")
def test_who_lived_nowhere_for_a_while(
    path: Path, circuits: tuple[CircuitBreaker, CircuitBreaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back in a file it shares all its circuits again, also those that had nothing to ask meanwhile."""
    quiet, other = circuits
    home = quiet.store._home  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(home._files, "find_or_make", _no_room)
        home.doubt()
        assert until(lambda: home.segment is None, SOON)
    assert until(lambda: _in_one_file(path, *circuits), SOON)
    other.force_open("meanwhile")
    assert quiet.state is CircuitState.FORCED_OPEN
    _share(*circuits)


def _no_room(*_: object, **__: object) -> Segment:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_who_could_not_move_at_once(
    path: Path, circuits: tuple[CircuitBreaker, CircuitBreaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moves later, also where the file that others have left is as good as it was."""
    slow, other = circuits
    home, old = slow.store._home, mapped(path)  # type: ignore[union-attr]
    copy = path.with_name("copy")
    with monkeypatch.context() as patch:
        patch.setattr(home._files, "find_or_make", _no_room)
        os.link(old, copy)
        other.store._home.doubt()  # type: ignore[union-attr]
        assert until(lambda: not old.exists(), SOON)
        os.link(copy, old)
        home.look()
    assert until(lambda: _in_one_file(path, *circuits), SOON)
    _share(*circuits)


def test_members_move_in_time(path: Path, circuits: tuple[CircuitBreaker, CircuitBreaker]) -> None:
    """Within a second or two, though nobody hastens them."""
    circuits[0].force_open("before")
    mapped(path).unlink()
    assert until(lambda: _in_one_file(path, *circuits), IN_TIME)
    assert [circuit.state for circuit in circuits] == [CircuitState.FORCED_OPEN] * 2


@pytest.mark.usefixtures("brisk")
def test_the_folder_is_gone(path: Path) -> None:
    """It is made anew, and all is as before."""
    deep = path / "state"
    stores = [SharedMemoryStore(deep) for _ in range(2)]
    try:
        one, two = (CircuitBreaker(NAME, store=store) for store in stores)
        one.force_open("before")
        assert two.state is CircuitState.FORCED_OPEN
        shutil.rmtree(path)
        assert until(lambda: _is_in_order(deep) and _in_one_file(deep, one, two), SOON)
        assert one.state is two.state is CircuitState.FORCED_OPEN
        _share(one, two)
    finally:
        for store in stores:
            store.close()


@pytest.mark.usefixtures("brisk")
def test_what_each_knows_comes_along(path: Path, make_store: MakeStore) -> None:
    """Counts, pauses and notes: they are in the new file as they were in the old one."""
    one, other = make_store(), make_store()
    one.read(NAME)
    other.read(NAME)
    one.post("level", b"severe")
    assert other.posted("level") == b"severe"
    paused = one.pause(NAME, 10**9, 30.0)
    one.pause("chroma", 10**9, 20.0)
    nonce = header_of(path).nonce
    mapped(path).unlink()
    assert until(lambda: header_of(path).nonce != nonce, SOON)
    assert until(lambda: other.read(NAME).version >> 40 == header_of(path).nonce, SOON)
    assert until(lambda: one.read(NAME).version >> 40 == header_of(path).nonce, SOON)
    third = make_store()
    for store in (one, other, third):
        assert store.posted("level") == b"severe"
        assert store.read(NAME)[7:] == paused[7:]
        assert store.read("chroma").pause_seconds == 20.0


@pytest.mark.usefixtures("brisk")
def test_a_new_file_is_of_a_new_incarnation(path: Path, store: SharedMemoryStore) -> None:
    """A number that was true in the old file is none in the new one, so nobody acts by what is over."""
    before = store.read(NAME)
    mapped(path).unlink()
    assert until(lambda: store.read(NAME).version != before.version, SOON)
    tripped = store.trip(NAME, before.version, Trip("too late", 1.0, 61.0, 1))
    assert tripped.state is CircuitState.CLOSED


@pytest.mark.usefixtures("brisk")
def test_the_old_memory_stays_readable(path: Path, store: SharedMemoryStore, closing: Closing) -> None:
    """Nobody writes over or cuts off what others may still have mapped."""
    store.read(NAME)
    old = closing(Files(path).find())
    length = os.fstat(old.descriptor).st_size
    path.unlink()
    mapped(path).unlink()
    assert until(lambda: path.exists() and mapped_nonces(path) - {old.header.nonce}, SOON)
    assert os.fstat(old.descriptor).st_size == length == SIZE
    assert old.places[0].name() == NAME.encode()


# -- where there can be none ---------------------------------------------------------------------------


class Disk:
    """What the system says to those who want a file."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self._path = path
        self._patch = patch

    def full(self) -> None:
        def fallocate(descriptor: int, start: int, length: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self._patch.setattr(os, "posix_fallocate", fallocate)

    def read_only(self) -> None:
        true_open = os.open

        def open_none(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            if str(path).startswith(str(self._path)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return true_open(path, flags, mode, **options)

        self._patch.setattr(os, "open", open_none)

    def forbidden(self) -> None:
        true_open = os.open

        def open_none(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            if str(path).startswith(str(self._path)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return true_open(path, flags, mode, **options)

        self._patch.setattr(os, "open", open_none)

    def directory(self) -> None:
        self._path.mkdir()

    def in_order(self) -> None:
        self._patch.undo()
        if self._path.is_dir():
            self._path.rmdir()


@pytest.fixture
def disk(path: Path) -> Iterator[Disk]:
    """A disk that is in order again after the test."""
    with pytest.MonkeyPatch.context() as patch:
        yield Disk(path, patch)


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("full", "No space left on device"),
        ("read_only", "Read-only file system"),
        ("forbidden", "Permission denied"),
        ("directory", "Is a directory"),
    ],
    ids=["full", "read-only", "forbidden", "directory"],
)
def test_each_has_its_own_circuit_meanwhile(
    path: Path, disk: Disk, make_store: MakeStore, lines: Callable[[], list[str]], what: str, why: str
) -> None:
    """One warning says why, breakers work, and when it is over all is shared, as another line says."""
    getattr(disk, what)()
    store, other = make_store(), make_store()
    with pytest.raises(StoreUnavailable):
        store.read(NAME)
    breakers = [CircuitBreaker(NAME, store=each, failure_threshold=1) for each in (store, other)]
    breakers[0].record(breakers[0].acquire(), Outcome.FAILURE)
    assert [each.state for each in breakers] == [CircuitState.OPEN, CircuitState.CLOSED]
    complaint = (
        f"WARNING Shared state {path} cannot be used ({why}): each process has its own circuits until it can"
    )
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            store.read(NAME)
        until(lambda: False, 0.01)
    assert lines() == [complaint] * 2  # one of each process
    disk.in_order()
    assert until(lambda: not store._home._complained and not other._home._complained, SOON)
    assert until(lambda: [each.state for each in breakers] == [CircuitState.OPEN] * 2, SOON)
    assert until(lambda: lines()[2:] == [f"WARNING Shared state {path} is in use again"] * 2, SOON), lines()
    _share(*breakers)


@pytest.mark.usefixtures("brisk")
def test_a_full_disk_is_nothing_to_those_who_have_a_file(
    path: Path, disk: Disk, circuits: tuple[CircuitBreaker, CircuitBreaker], lines: Callable[[], list[str]]
) -> None:
    """Its room has been taken from the beginning."""
    disk.full()
    _share(*circuits)
    until(lambda: False, 0.1)
    _share(*circuits)
    assert lines() == []


@pytest.mark.usefixtures("brisk")
def test_an_anchor_that_cannot_be_put_in_order(
    path: Path, disk: Disk, circuits: tuple[CircuitBreaker, CircuitBreaker], lines: Callable[[], list[str]]
) -> None:
    """Those who share go on; one line of each says that others cannot join."""
    path.unlink()
    disk.directory()
    assert until(lambda: len(lines()) == 2, SOON)
    assert all("those who share it go on, others cannot join" in line for line in lines())
    _share(*circuits)
    disk.in_order()
    assert until(lambda: lines()[2:], SOON)  # who has put it in order says so
    assert lines()[2] == f"WARNING Shared state {path} is in use again"
    assert _in_one_file(path, *circuits)


def test_a_full_disk_leaves_nothing_behind(path: Path, disk: Disk) -> None:
    """What was begun is removed, and its descriptors are closed."""
    disk.full()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            Files(path).find_or_make()
    assert [each.name for each in path.parent.iterdir()] == ["state.lock"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_member_that_cannot_map_says_so_in_its_own_process(path: Path, store: SharedMemoryStore) -> None:
    """A child that may not open the file does without; its parent's is as it was."""
    store.read(NAME)

    def alone() -> str:
        with pytest.MonkeyPatch.context() as patch:
            Disk(path, patch).forbidden()
            with pytest.raises(StoreUnavailable):
                store.read(NAME)
            breaker = CircuitBreaker(NAME, store=store)
            breaker.force_open("alone")
            return breaker.state.value

    assert in_child(alone) == "forced_open"
    assert store.read(NAME).state is CircuitState.CLOSED
