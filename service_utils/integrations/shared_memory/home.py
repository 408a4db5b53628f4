"""The file a process lives in at present: opened at first use, locked by writers, left when it is bad."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from service_utils.clock import SYSTEM
from service_utils.forks import guard
from service_utils.integrations.shared_memory.layout import Damaged, Place
from service_utils.integrations.shared_memory.locks import lock_file, unlock_file
from service_utils.integrations.shared_memory.members import Members
from service_utils.integrations.shared_memory.segment import Files, Segment
from service_utils.integrations.shared_memory.tenants import Tenant
from service_utils.policies.store import StoreUnavailable

__all__ = ["Home", "Locked"]

_logger = logging.getLogger("service_utils")

# Seconds that a caller waits for another process to end its few microseconds of writing: where that has many
# busy threads, each of them may hold it up for CPython's switch interval of 5 ms.
_PATIENCE = 0.25
_GLANCE = 0.02
_OPEN_PATIENCE = 0.5


class Home:
    """Where the tenants live. For any thread; a forked child has to move in by itself.

    Args:
        files: Finds the file.
        tenants: Gives all tenants there are.
        began: Called once in each process, when it moves in for the first time.

    Attributes:
        segment: The present file, or None.
        members: Its members.
        stuck: Whether another process has it locked and does not let go.
        doubted: The nonce of a file in which there is what cannot be ours; 0 for none.
        absences: How often somebody has found it away.
    """

    def __init__(
        self, files: Files, tenants: Callable[[], list[Tenant]], began: Callable[[], object]
    ) -> None:
        self._files = files
        self._tenants = tenants
        self._on_begin = began
        self._lock = threading.RLock()
        self._complained = False
        self._closed = False
        self.absences = 0
        self._begin_process()
        guard(self)

    def _begin_process(self) -> None:
        self.segment: Segment | None = None
        self.members: Members | None = None
        self.stuck = False
        self.doubted = 0
        self._held: Segment | None = None  # the file that is locked
        self._unsaid: deque[tuple[object, ...]] = deque()
        self._beginning = False
        self._moved = False  # whether it has been tried, be it in vain

    def _renew_in_child(self) -> None:
        """What is open belongs to the parent: closed here, so that its locks end with it."""
        segment = self.segment
        self._begin_process()
        for tenant in self._tenants():
            tenant.begin_in_child()
        if segment is not None:
            segment.close()

    @property
    def lock(self) -> threading.RLock:
        """What those who use :meth:`locked` hold round it; another one in a forked child."""
        return self._lock

    def begin(self) -> None:
        """Move in for the first time in this process; an interrupted one is done again by the next."""
        with self._lock:
            if self._moved or self._closed or self._beginning:
                return
            self._beginning = True
            try:
                self._on_begin()
                self._open()
                self._moved = True
            finally:
                self._beginning = False
        self.speak()

    def close(self) -> None:
        """Leave for good: tenants live nowhere, locks and descriptors are given up."""
        with self._lock:
            self._closed = True
            self._leave()

    def _leave(self) -> None:
        segment, self.segment, self.members = self.segment, None, None
        self.absences += 1
        for tenant in self._tenants():
            tenant.move_out()
        if segment is not None:
            segment.close()

    # -- living in it ---------------------------------------------------------------------------------

    def place_of(self, tenant: Tenant) -> Place:
        """Where a tenant lives.

        Raises:
            StoreUnavailable: Nowhere at present.
        """
        place = tenant.place
        if place is None:
            place = self._settle(tenant)
        if self.stuck:
            raise StoreUnavailable(f"{self._files.path} is locked by another process")
        return place

    def say(self, text: str, *arguments: object) -> None:
        """Have a warning logged, but not by whoever holds a lock: a log's handler may take its time."""
        self._unsaid.append((text, *arguments))

    def speak(self) -> None:
        """Log what there is to say; while somebody has the file locked, the store's thread does it later."""
        while self._unsaid and self.is_free:
            with suppress(IndexError):  # another thread has said it
                text, *arguments = self._unsaid.popleft()
                _logger.warning(text, *arguments)

    def _settle(self, tenant: Tenant) -> Place:
        if not self._moved:
            self.begin()  # or wait for the thread that is at it
        segment = self.segment
        if segment is None or tenant.no_room_in is segment:  # to be said at once, for it is said at each call
            raise StoreUnavailable(f"{self._files.path} cannot be used at present")
        try:
            with self._lock, self.locked(), self.doubting():
                if tenant.place is None and self.segment is not None:
                    self._move_in(tenant, self.segment)
                if tenant.place is None:
                    raise StoreUnavailable(f"{self._files.path} has no room for {tenant.name!r}")
                return tenant.place
        finally:
            self.speak()

    def _move_in(self, tenant: Tenant, home: Segment) -> None:
        found = tenant.find_place(home)
        if found is None or self.members is None:
            tenant.no_room_in = home
            tenant.move_out()
            text = "Shared state %s has no room for another %s, %r: it is not shared"
            self.say(text, self._files.path, type(tenant).__name__.lower(), tenant.name)
            return
        tenant.move_in(*found, self.members)

    def locked(self) -> Locked:
        """A block in which the file belongs to this process alone. To be entered with :attr:`lock`.

        Entering raises StoreUnavailable where there is no file, or another process does not let go.
        """
        return Locked(self)

    @property
    def is_free(self) -> bool:
        """Whether this process has not locked the file."""
        return self._held is None

    def take_file(self) -> Segment | None:
        """Lock the file, unless that is done already. Returns it if it was not."""
        segment = self.segment
        if segment is None:
            raise StoreUnavailable(f"{self._files.path} cannot be used at present")
        if self._held is not None:
            return None
        self._held = segment
        if not _locked(segment, _PATIENCE):
            self.stuck = True
            self.absences += 1
            self._complain("another process has it locked")
            raise StoreUnavailable(f"{self._files.path} is locked by another process")
        return segment

    def give_file(self, segment: Segment | None) -> None:
        """Unlock it, for whom :meth:`take_file` has locked it."""
        if segment is not None:
            self._held = None
            unlock_file(segment.descriptor)

    def doubt(self) -> None:
        """Have the present file replaced: there is in it what cannot be ours."""
        if self.segment is not None:
            self.doubted = self.segment.header.nonce

    @contextmanager
    def doubting(self) -> Iterator[None]:
        """Have the file replaced if what is found in it cannot be ours.

        Raises:
            StoreUnavailable: It was so.
        """
        try:
            yield
        except Damaged as error:
            self.doubt()
            raise StoreUnavailable(f"{self._files.path}: {error}") from None

    # -- moving ---------------------------------------------------------------------------------------

    def look(self) -> None:
        """See whether the file is still the one that all mean, and move if it is not."""
        with self._lock:
            if self._closed or not self._moved:
                return
            segment = self.segment
            if segment is None:
                self._open()
                return
            self._held = None  # should somebody have been interrupted in the wrong moment
            unlock_file(segment.descriptor)
            changed = self._files.anchor_changed() and not self._files.anchored(segment)
            if self.doubted or changed or not segment.is_whole():
                self._open(None if self.doubted else segment)
            elif not self.stuck or _locked(segment, _GLANCE):
                unlock_file(segment.descriptor)
                self._be_glad()

    def _open(self, keep: Segment | None = None) -> None:
        """Map the file that is there, or a new one, and move into it."""
        try:
            segment = self._files.find_or_make(keep, refused=self.doubted)
        except (OSError, Damaged) as error:
            why = str(error) if isinstance(error, Damaged) else (error.strerror or str(error))
            if keep is None:
                self._leave()
            self._complain(why, shared=keep is not None)
            return
        if segment is self.segment or self._enter(segment):
            self.doubted = 0
            self._be_glad()

    def _enter(self, segment: Segment) -> bool:
        """Move into a file, with all that is known. Returns whether that could be done."""
        old, self._held = self.segment, segment
        try:
            if not _locked(segment, _OPEN_PATIENCE):
                raise StoreUnavailable("another process has it locked")
            # Where it is the same file again what was counted in it is there, in the slot of one who is gone.
            if old is not None and (self.doubted or not old.is_ours() or old.header == segment.header):
                for tenant in self._tenants():
                    tenant.distrust()
            members = Members(segment)
            members.join(SYSTEM.now())
            self.segment, self.members = segment, members
            # Also those who live nowhere, for want of a file: they may have nothing to ask for a long time.
            for tenant in self._tenants():
                self._move_in(tenant, segment)
        except (Damaged, StoreUnavailable, OSError) as error:
            self.doubted = segment.header.nonce if isinstance(error, Damaged) else 0
            self._leave()
            segment.close()
            self._complain(str(error))
            return False
        except BaseException:
            self._leave()
            segment.close()
            raise
        finally:
            self._held = None
            if segment.descriptor >= 0:
                unlock_file(segment.descriptor)
            if old is not None:
                old.close()
        return True

    def _complain(self, why: str, *, shared: bool = False) -> None:
        """Say once what is wrong, and what comes of it."""
        if self._complained:
            return
        self._complained = True
        if shared:
            text = "Shared state %s cannot be put in order (%s): those who share it go on, others cannot join"
        else:
            text = "Shared state %s cannot be used (%s): each process has its own circuits until it can"
        self.say(text, self._files.path, why)

    def _be_glad(self) -> None:
        self.stuck = False
        if self._complained:
            self._complained = False
            self.say("Shared state %s is in use again", self._files.path)


class Locked:
    """A block with the file locked.

    No generator: one that is interrupted keeps what it holds for as long as somebody keeps the exception.
    Should an interrupt come at the very end of the block, :meth:`Home.look` unlocks the file.
    """

    __slots__ = ("_home", "_taken")

    def __init__(self, home: Home) -> None:
        self._home = home
        self._taken: Segment | None = None

    def __enter__(self) -> None:
        outermost = self._home.is_free
        try:
            self._taken = self._home.take_file()
        except BaseException:
            if outermost:
                self._home.give_file(self._home.segment)
            raise

    def __exit__(self, *_: object) -> None:
        self._home.give_file(self._taken)


def _locked(segment: Segment, patience: float) -> bool:
    try:
        return lock_file(segment.descriptor, patience)
    except OSError:
        return False
