"""The monitor: which level the application is at, since when and why, and an operator's word over it."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from service_utils import forks
from service_utils.clock import Clock
from service_utils.degradation.conditions import Snapshot
from service_utils.degradation.history import LevelChange, Override, checked_words
from service_utils.degradation.hysteresis import Hysteresis
from service_utils.degradation.level import DegradationLevel
from service_utils.degradation.rules import DegradationRules, Rule
from service_utils.degradation.shared import Findings, SharedLevel
from service_utils.degradation.sources import Circuits, HealthSource, Sources
from service_utils.degradation.standing import Standing
from service_utils.degradation.watch import Watch
from service_utils.events import DegradationChanged, Listener, notify
from service_utils.policies.checks import (
    checked_clock,
    checked_label,
    checked_listeners,
    require_count,
    require_seconds,
)
from service_utils.sharing import HostNotes

__all__ = ["DegradationMonitor"]

_HOUR = 3600.0


class DegradationMonitor:
    """Says how degraded an application is, from the states of its circuits and the results of its checks.

    The level gets worse as soon as a rule holds, and better once it has held no more for ``calm_seconds``
    (see :class:`~service_utils.degradation.hysteresis.Hysteresis`). It changes in :meth:`evaluate`, which
    :meth:`start` has a thread call: every ``interval`` seconds, whenever a circuit of this process changes
    its state, and when a calm time is over.

    A circuit that is open, but whose open time is over, counts as half open: who turned all features off
    that use a service would otherwise never learn that it is back. With ``probe=True`` on the client it is
    found out in the background, and such a circuit stays open until then.

    All methods may be called from any thread. No lock is held while rules, health checks or listeners run. A
    forked child goes on with the level and the override, and with a thread of its own if there was one.

    Each process has its own level, and an override is known to the process it was made in, unless they share
    both: with ``share`` one process of the host asks health and rules, all go by what it has found, and an
    override holds for all. That one process is found between :meth:`start` and :meth:`stop`.

    Args:
        registry: Where the circuits come from.
        rules: The rules, or several :class:`~service_utils.degradation.rules.Rule`.
        interval: Seconds between two looks of the thread.
        health: Where the results of health checks come from, or None. Asked in :meth:`evaluate`, and by the
            thread once per interval; while it raises, the results before it count.
        raise_after: Seconds for which a rule has to hold before the level gets worse.
        calm_seconds: Seconds for which it has to hold no more before the level gets better.
        listeners: Told of each :class:`~service_utils.events.DegradationChanged` before the listeners of the
            process are.
        clock: Where the time comes from.
        history_size: How many changes are remembered.
        name: The ``name`` of events.
        label: The ``service`` of events; default: the name.
        share: Where the processes of a host tell each other, such as a ``SharedMemoryStore``; None keeps all
            to this process.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument is of a wrong type.
    """

    def __init__(
        self,
        registry: Circuits,
        rules: DegradationRules | Iterable[Rule],
        *,
        interval: float = 30.0,
        health: HealthSource | None = None,
        raise_after: float = 0.0,
        calm_seconds: float = 60.0,
        listeners: Iterable[Listener] = (),
        clock: Clock | None = None,
        history_size: int = 100,
        name: str = "system",
        label: str | None = None,
        share: HostNotes | None = None,
    ) -> None:
        require_seconds("interval", interval, zero=False)
        require_seconds("raise_after", raise_after)
        require_seconds("calm_seconds", calm_seconds)
        require_count("history_size", history_size)
        self.name, self.label = checked_label(name, label)
        self.rules = _checked_rules(rules)
        self.interval = interval
        self.clock = checked_clock(clock)
        self.listeners = checked_listeners(listeners)
        self._sources = Sources(registry, health, self.rules)
        hysteresis = Hysteresis(raise_after, calm_seconds, self.clock.monotonic())
        self._standing = Standing(hysteresis, self.clock, (self.label, self.name), history_size)
        self._calm = f"calm for {calm_seconds:g}s"
        self._seen: tuple[Snapshot, datetime] | None = None
        self._lock = threading.RLock()
        self._watch: Watch | None = None
        self._stood_in: int | None = None
        self._shared = None if share is None else SharedLevel(share, self.clock, self._hear, interval)
        self._notes = share
        forks.guard(self)
        forks.in_child(self._begin_in_child)

    # -- reading ------------------------------------------------------------------------------------

    @property
    def level(self) -> DegradationLevel:
        """The level: an override's, else what the rules came to. An override ends at its moment, here too."""
        return self._up_to_date().level

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the level is what it is, worst first; empty at NORMAL.

        While it is calm but not yet better: what the rules said when they last came to this level.
        """
        return self._up_to_date().reasons()

    @property
    def since(self) -> datetime:
        """Since when the level is what it is, in UTC."""
        return self._up_to_date().since

    @property
    def active_override(self) -> Override | None:
        """The override that holds, or None."""
        return self._up_to_date().override

    @property
    def running(self) -> bool:
        """Whether it keeps itself up to date: between :meth:`start` and :meth:`stop`."""
        watch = self._watch
        return watch is not None and not watch.ended

    @property
    def shared(self) -> bool:
        """Whether it goes by what the processes of the host tell each other; see ``share``."""
        return self._shared is not None

    def history(self) -> list[LevelChange]:
        """The last changes, oldest first."""
        return self._up_to_date().history()

    def retry_after(self, level: DegradationLevel | str | int) -> float | None:
        """Seconds before which the level cannot be that good again; None where a person decides.

        0.0 when it is that good already. It may well take longer: nobody knows when a service comes back.

        Raises:
            ValueError: There is no such level.
        """
        wanted = DegradationLevel.parse(level)
        return self._up_to_date().retry_after(wanted)

    def get_status(self) -> dict[str, Any]:
        """A JSON-ready picture; times are ISO 8601 in UTC, durations seconds.

        ``computed_level`` is what the level is without the override, ``rules_level`` what the rules came to
        when they were last asked, ``unknown`` what the rules name and nobody has registered.
        """
        standing, seen = self._up_to_date().shown(), self._seen
        snapshot, at = seen if seen is not None else (Snapshot(), None)
        return {
            **standing,
            "circuits": {name: state.value for name, state in snapshot.circuits.items()},
            "health": dict(snapshot.health),
            "unknown": sorted(self._sources.unknown),
            "evaluated_at": None if at is None else at.isoformat(),
            "running": self.running,
        }

    def _up_to_date(self) -> Standing:
        """The standing, less an override whose time is over, and with that of another process."""
        shared = self._shared
        if shared is not None and shared.has_news:
            told: DegradationChanged | None = None
            with self._lock:
                news = shared.news()
                if news is not None:
                    override, author = news
                    told = (
                        self._standing.clear(author)[1] if override is None else self._standing.set(override)
                    )
            self._tell(told, elsewhere=True)
        self._tell(self._standing.expire(), elsewhere=self._follows)
        return self._standing

    def _take_over(self, override: Override | None, author: str) -> DegradationChanged | None:
        return self._standing.clear(author)[1] if override is None else self._standing.set(override)

    @property
    def _follows(self) -> bool:
        """Whether another process finds out the level."""
        return self._shared is not None and self._shared.follows

    # -- by hand ------------------------------------------------------------------------------------

    def override(
        self,
        level: DegradationLevel | str | int,
        *,
        reason: str,
        author: str,
        expires_in: float | None = _HOUR,
    ) -> Override:
        """Set the level by hand, whatever the rules say, until it is cleared or its time is over.

        A second override takes the first one's place.

        Args:
            level: The level, its name or its number.
            reason: Why; on one line of at most 200 characters.
            author: Who; the same.
            expires_in: Seconds, an hour if left out, lest it be forgotten; None: until it is cleared.

        Raises:
            ValueError: There is no such level, a text is empty, or ``expires_in`` is not above 0.
            TypeError: An argument is of a wrong type.
        """
        if expires_in is not None:
            require_seconds("expires_in", expires_in, zero=False)
        made = Override(
            level=DegradationLevel.parse(level),
            reason=checked_words("reason", reason),
            author=checked_words("author", author),
            at=self.clock.now(),
            expires_at=None if expires_in is None else self.clock.monotonic() + expires_in,
        )
        standing = self._up_to_date()
        with self._lock:  # so that all processes end with the word that came last
            told = standing.set(made)
            if self._shared is not None:
                self._shared.tell(made, made.author)
        self._tell(told)
        watch = self._watch
        if watch is not None:
            watch.ring()  # it has to know when the override ends
        return made

    def clear_override(self, *, author: str) -> bool:
        """Let the rules decide again. Returns whether there was an override.

        Raises:
            ValueError: ``author`` is empty.
            TypeError: It is no string.
        """
        name = checked_words("author", author)
        standing = self._up_to_date()
        with self._lock:
            cleared, told = standing.clear(name)
            if cleared and self._shared is not None:
                self._shared.tell(None, name)
        self._tell(told)
        return cleared

    # -- following the rules ------------------------------------------------------------------------

    def evaluate(self) -> DegradationLevel:
        """Ask health, circuits and rules now; returns the level then. Health and rules that fail are logged.

        Raises:
            Exception: Whatever the registry raises. A ``ServiceRegistry`` raises nothing.
        """
        self.look_at_all()
        return self.level

    def look_at_all(self) -> float | None:
        """The same for the thread; returns the moment at which the level will change by itself, or None."""
        if not self._follows:
            self._sources.ask_health()
        return self.look()

    def look(self) -> float | None:
        """The same without asking health anew: a circuit has changed, and that may not wait for checks."""
        number = self._standing.begin()
        findings = None if self._shared is None else self._shared.findings()
        if findings is not None:
            self._sources.take_health(findings.health)
        snapshot = self._sources.snapshot()
        if findings is None:
            findings = Findings(self.rules.assess(snapshot), snapshot.health)
        self._seen = snapshot, self.clock.now()
        told = self._up_to_date().take_in(number, findings.assessment, self._calm)
        self._tell(told, elsewhere=self._follows)
        if self._shared is not None and self._shared.leads:
            self._shared.publish(findings)
        return self._standing.next_change()

    def _tell(self, told: DegradationChanged | None, *, elsewhere: bool = False) -> None:
        if told is not None:
            notify(self.listeners, dataclasses.replace(told, elsewhere=True) if elsewhere else told)

    # -- the thread ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Keep the level up to date from now on, in a daemon thread; does nothing while it runs already.

        Raises:
            RuntimeError: The system gives us no more threads.
        """
        watch = Watch(self, self.clock, self.interval)
        try:
            with self._lock:
                if self.running:
                    return
                self._watch = watch
            watch.begin()
        except BaseException:
            watch.end()
            raise
        if self._shared is not None and self._shared.leads:
            watch.ring(all_of_it=True)
        if self._notes is not None and self._stood_in != os.getpid():
            self._stood_in = os.getpid()
            self._notes.stand(self._lead, self._follow)

    def _hear(self) -> None:
        """Another process has told something."""
        watch = self._watch
        if watch is not None:
            watch.ring()

    def _lead(self) -> None:
        self._be_leader(True)

    def _follow(self) -> None:
        self._be_leader(False)

    def _be_leader(self, leads: bool) -> None:
        watch = self._watch
        if self._shared is not None:
            self._shared.leads = leads
        if leads and watch is not None:
            watch.ring(all_of_it=True)

    def stop(self, timeout: float = 5.0) -> bool:
        """End the thread; :meth:`start` begins a new one. The level stays what it is.

        Args:
            timeout: Seconds to wait for a look that is under way.

        Returns:
            Whether the thread has ended. Where a listener stops the monitor from within it, it ends later.

        Raises:
            ValueError: ``timeout`` is negative.
        """
        require_seconds("timeout", timeout)
        with self._lock:
            watch, self._watch = self._watch, None
        if watch is None:
            return True
        watch.end()
        ended = watch.join(timeout)
        if self._shared is not None and self._shared.leads:
            self._shared.retract()
        return ended

    def _begin_in_child(self) -> None:
        """The parent's thread is not here, but its subscription is."""
        was_running, watch, self._watch = self.running, self._watch, None
        if self._shared is not None:
            self._shared.renew()
        if watch is not None:
            watch.end()
        if was_running:
            self.start()

    def __repr__(self) -> str:
        return f"<DegradationMonitor {self.name!r} {self._standing.level.label}>"


def _checked_rules(rules: DegradationRules | Iterable[Rule]) -> DegradationRules:
    if isinstance(rules, DegradationRules):
        return rules
    if isinstance(rules, str | Mapping) or not isinstance(rules, Iterable):
        raise TypeError(f"rules={rules!r}: must be DegradationRules, or Rules in a list")
    return DegradationRules(*rules)
