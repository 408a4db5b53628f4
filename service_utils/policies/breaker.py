"""The circuit breaker of the public interface: a circuit of its own, or one that it shares by a store."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.events import CircuitState, Listener
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.circuit import Circuit, Told
from service_utils.policies.guard import Classify
from service_utils.policies.local_breaker import LocalBreaker, check_result
from service_utils.policies.permit import OWN_REFERENCES, Leased, Permit, Report, Spell, references_to
from service_utils.policies.record import Asking, CircuitRecord, Lease
from service_utils.policies.refusal import Refusal, Shut
from service_utils.policies.shared_circuit import SharedCircuit
from service_utils.policies.store import BreakerStore, Cell, StoreUnavailable
from service_utils.policies.untold import Untold

__all__ = ["BreakerConfig", "CircuitBreaker", "CircuitState", "Outcome", "Permit", "Refusal"]

_CLOSED, _DISABLED = CircuitState.CLOSED, CircuitState.DISABLED
_TRIES = 8  # a trip meets another member's change so often at most; the next failure wishes for it again

_random: Callable[[], float] = random.random  # a name of its own, for tests that want to know what is drawn


class CircuitBreaker(LocalBreaker):
    """Decides whether calls go through, from the results it is told.

    **A closed circuit** counts successes and failures. By default ``failure_threshold`` failures in a row
    open it. With a window each result, a success too, is followed by a look at the window: when it holds
    ``minimum_requests`` and the share of failures or slow calls has reached its threshold, the circuit
    opens. Ignored results are not in the window, nor are those of probes. It is emptied when the circuit
    closes; while the circuit is open it stays as it was, to be looked at.

    **A half-open circuit** hands out at most ``half_open_max_calls`` permits at once, called probes; with
    ``half_open_quota=N`` also no more than there are results missing to N. What becomes of them:

    - A probe that *succeeded* is one of ``success_threshold`` that close the circuit. With a quota it is
      one of the N results. With the last of these the circuit opens if the share of failures or slow calls
      among them has reached its threshold, else it closes.
    - One that *failed* opens the circuit at once. With a quota it is one of the N results; the circuit
      stays half open until all are there.
    - A *slow* one counts by its outcome; only with a quota it matters that it was slow.
    - An *ignored* one (``Outcome.IGNORED``, :meth:`release`) counts for nothing, with a quota too. Its
      place is free again.
    - An *interrupted* one is an ignored one: ``call``, ``with`` and the decorator count whatever is no
      ``Exception`` (KeyboardInterrupt, SystemExit, a cancelled task, a killed greenlet) so. When the
      interrupt comes in :meth:`acquire` or :meth:`record` itself, the permit is given back, too; a result
      that was being recorded is then lost, or counted, but not twice.
    - An *expired* one, which has not reported within ``half_open_timeout``, failed at the moment its time
      was over, although that is noticed only at the next :meth:`acquire` or :meth:`record`. It opens the
      circuit, whose open time counts from that moment; of several the first does. With a quota each of them
      is one of the N results, a failed one, and slow as well if ``half_open_timeout`` is not below
      ``slow_call_seconds``; its place is free again, and if it was the last result missing, the circuit
      opens or closes as of that moment.
    - A *late* one changes nothing, neither states nor counts nor timers: a result after the probe's expiry,
      a second result, or one of a call, probe or not, that began before the circuit last changed its state
      or was reset. So what other probes still have to say when one of them, or a person, has ended the
      half-open spell is void.

    A failed probe doubles the next open time (``max_recovery_timeout``), and so does a failed quota, once.
    A Retry-After lengthens the open time if it comes with the failure that opens the circuit: with a quota
    the last result. In a forked child nothing is under way: it keeps the state, the failures in a row or
    the window, and the probes that have succeeded; of a quota it waits for N results of its own.

    **With a store** the circuit is one for all breakers of its name: what one of them learns holds for all as
    soon as they ask, and they share the probes, at most eight at once. Each counts its own results, and opens
    the circuit for all by its own experience. A probe is a lease then: when it is over, another member may
    probe, and the late word of the first is void. An interrupt in :meth:`acquire` may leave a lease behind,
    which then counts as a failed probe when its time is over. While the store is away each goes on alone.

    Args:
        name: Short name, fit for metric labels.
        config: The limits; or give the fields of :class:`BreakerConfig` as keyword arguments.
        store: Where the state is shared with other breakers of this name; None keeps it to this one.
        clock: Where the time comes from.
        listeners: Called with every event of this breaker, besides the listeners of the process.
        label: What log lines and errors call it; default: the name.
        ignore: Exception types that ``call``, ``with`` and the decorator count as nothing at all.
        classify: ``classify(exception) -> Outcome``, or None where the usual rule shall hold.
        **fields: Fields of :class:`BreakerConfig`, in place of ``config``.

    Raises:
        ValueError: A field is out of its range, or both ``config`` and fields are given.
        TypeError: An argument is of a wrong type or unknown.
    """

    _cell: Cell | None = None
    _seen: int | None = None

    def __init__(
        self,
        name: str,
        config: BreakerConfig | None = None,
        *,
        store: BreakerStore | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
        label: str | None = None,
        ignore: type[BaseException] | tuple[type[BaseException], ...] = (),
        classify: Classify | None = None,
        **fields: Any,
    ) -> None:
        if store is not None and not isinstance(store, BreakerStore):
            raise TypeError(f"store={store!r}: must be a BreakerStore")
        self.store = store
        self._followers: tuple[Callable[[CircuitRecord], object], ...] = ()
        self._open_to_all: Spell | None = None
        self._untold = Untold()
        super().__init__(
            name,
            config,
            clock=clock,
            listeners=listeners,
            label=label,
            ignore=ignore,
            classify=classify,
            **fields,
        )
        if store is not None and self._circuit.state is not _DISABLED:
            self._cell = store.cell(name, self.catch_up)  # what it says is read when somebody wants to know
            with self._lock:
                self._lay_out_locked()

    def _renew_in_child(self) -> None:
        self._seen = None
        self._untold = Untold()
        super()._renew_in_child()

    def _new_circuit(self) -> Circuit:
        if self.store is None:
            return super()._new_circuit()
        return SharedCircuit(self.name, self.label, self.config)

    @property
    def _shared(self) -> SharedCircuit:
        circuit = self._circuit
        assert isinstance(circuit, SharedCircuit)
        return circuit

    def _lay_out_locked(self) -> None:
        super()._lay_out_locked()
        if self._cell is not None:
            # Nobody passes without a look at the cell; successes are counted as ever.
            self._open_to_all, self._passing = self._passing, None
            failures, noted = self._circuit.failures(self._monotonic()), self._cell.failures
            noted[0] = failures
            noted[1] = self._circuit.spell.generation

    # -- following the others -------------------------------------------------------------------------

    def follow(self, follower: Callable[[CircuitRecord], object]) -> None:
        """Have a function told of each record this breaker learns of, one after the other.

        It is called with the breaker's lock, and so must not block nor ask the breaker anything.
        """
        with self._lock:
            self._followers = (*self._followers, follower)
            if self._cell is not None and not self._shared.alone:
                follower(self._shared.common)

    def catch_up(self) -> None:
        """Learn what other members have done to the circuit, and tell listeners; costs nothing if nothing."""
        cell = self._cell
        if cell is not None and cell.words[0] != self._seen:
            self._catch_up()

    def _catch_up(self) -> None:
        cell, store = self._cell, self.store
        if cell is None or store is None:
            return
        try:
            record = self._bring(store, store.read(self.name))
        except StoreUnavailable:
            if not self._shared.alone or self._seen is not None:
                self._go_alone()
        else:
            self._adopt(record, rejoins=True)

    def _bring(self, store: BreakerStore, record: CircuitRecord) -> CircuitRecord:
        """Tell a store that was away what has happened meanwhile, and then what was found out."""
        circuit = self._shared
        if not circuit.alone:
            return record
        record = self._untold.tell(store, self.name, record, self._asking, self._monotonic())
        for _ in range(_TRIES):
            with self._lock:
                trip = circuit.own_trip(self._monotonic())
            if trip is None or record.state is not _CLOSED:
                break
            record = store.trip(self.name, record.version, trip)
        return record

    def _tell_store(self, intent: Callable[[BreakerStore], CircuitRecord]) -> CircuitRecord | None:
        """Have the store do something, once it knows what it has missed. None where that cannot be."""
        store = self.store
        if self._cell is None or store is None:
            return None
        self.catch_up()
        if self._shared.alone:
            return None
        try:
            record = intent(store)
        except StoreUnavailable:
            self._go_alone()
            return None
        self._adopt(record)
        return record

    def _adopt(self, record: CircuitRecord, *, rejoins: bool = False) -> None:
        """Be as a record says; who has gone alone meanwhile only after the store has been told all."""
        told: Told = []
        with self._lock:
            circuit = self._shared
            if circuit.alone and not rejoins:
                return
            try:
                if circuit.follow(record, told):
                    for follower in self._followers:
                        follower(record)
                self._seen = circuit.common.version
                self._shut = None  # it knows how long the spell lasts
            finally:
                self._lay_out_locked()
        self._tell(told)

    def _go_alone(self) -> None:
        """The store is away; whoever calls next asks again."""
        now, told = self._monotonic(), list[Any]()
        with self._lock:
            if self._shared.alone and self._seen is None:
                return
            try:
                self._shared.go_alone(now, told)
                self._seen = None
                self._shut = None
            finally:
                self._lay_out_locked()
        self._tell(told)

    # -- asking and telling ---------------------------------------------------------------------------

    def _asking(self, now: float | None = None) -> Asking:
        return Asking(self._shared.me, self._monotonic() if now is None else now, self.config, _random())

    def _ask(self) -> Permit | Refusal:
        cell = self._cell
        if cell is None:
            return super()._ask()
        if cell.words[0] != self._seen:
            self._catch_up()
        spell = self._open_to_all
        if spell is not None:
            permit = self._spare
            self._spare, self._other = self._other, permit
            if references_to(permit) > OWN_REFERENCES:
                permit = self._other = Permit()
            permit.spell = spell
            return permit
        if self._shared.alone:
            return super()._ask()
        now, shut = self._monotonic(), self._shut
        if shut is None:
            with self._lock:
                if self._circuit.blocked(now):
                    shut = Shut(self._circuit.spell, self._circuit.state)
        if shut is not None and now < shut.until:
            return self._refuse(shut, now)
        return self._lease(now)

    def _lease(self, now: float) -> Permit | Refusal:
        """Ask the store for a probe."""
        store = self.store
        assert store is not None
        permit: Permit | None = None
        lease: Lease | None = None
        try:
            record, lease = store.lease_probe(self.name, self._asking(now))
            self._adopt(record)
            with self._lock:
                if lease is not None:
                    permit = self._shared.permit_for(lease, record)
                passing = self._open_to_all
                shut = self._shut or Shut(self._circuit.spell, self._circuit.state)
        except StoreUnavailable:
            self._go_alone()
            return super()._ask()
        except BaseException:  # interrupted, or killed in a listener: the caller never sees the permit
            if lease is not None:
                self._settle(lease.token, Report(Outcome.IGNORED), now)
            raise
        if permit is not None:
            return permit
        if lease is not None:  # another thread has found the store away, or the spell over
            self._settle(lease.token, Report(Outcome.IGNORED), now)
        if self._shared.alone:
            return super()._ask()
        if passing is not None:  # closed by another member just now
            permit = Permit()
            permit.spell = passing
            return permit
        return self._refuse(shut, now)

    def refused(self) -> Refusal | None:
        """Whether :meth:`acquire` would refuse now, which is then counted and told; no permit is taken.

        An open circuit whose time is over does not refuse: only ``acquire`` moves it on.

        Returns:
            None, or what :meth:`error_for` makes an error of.
        """
        if self._cell is not None:
            self.catch_up()
            if self._open_to_all is not None:
                return None
        return super().refused()

    def _record(self, permit: Permit, report: Report) -> None:
        if self._cell is None:
            super()._record(permit, report)
            return
        check_result(permit, report)
        self.catch_up()
        if isinstance(permit, Leased):
            self._report(permit, report)
            return
        super()._record(permit, report)
        if self._shared.wish is not None:
            self._trip()

    def _report(self, permit: Leased, report: Report) -> None:
        """A probe's result is for the store to judge; nothing is counted twice, whoever is interrupted."""
        now = self._monotonic()
        with self._lock:
            counts = self._shared.take_back(permit, report, now)
        if counts and not self._settle(permit.token, report, now):
            self._judge_alone(permit, report)

    def _settle(self, token: int, report: Report, now: float) -> bool:
        """Give a lease back. Returns whether there was a store to take it; else it is told when there is."""
        store = self.store
        if store is not None and not self._shared.alone:
            try:
                record = store.report(self.name, token, report, self._asking())
            except StoreUnavailable:
                self._go_alone()
            else:
                self._adopt(record)
                return True
        self._untold.keep_report(token, report, now)
        return False

    def _judge_alone(self, permit: Leased, report: Report) -> None:
        """The store went away while a probe was under way: what it found counts here."""
        told: Told = []
        now = self._monotonic()
        with self._lock:
            try:
                self._shared.judge_alone(permit, report, now, told)
            finally:
                self._lay_out_locked()
        self._tell(told)

    def _trip(self) -> None:
        """Tell the store that this member has found the service sick."""
        store = self.store
        assert store is not None
        for _ in range(_TRIES):
            with self._lock:
                wish, known = self._shared.wish, self._shared.common
            if wish is None:
                return
            try:
                record = store.trip(self.name, known.version, wish)
            except StoreUnavailable:
                self._go_alone()
                return
            self._adopt(record)

    def pause(self, until: float, seconds: float) -> None:
        """Tell the other members that the service has asked all callers to stay away until then.

        Args:
            until: On the monotonic clock.
            seconds: How long it has asked for.
        """
        if self._tell_store(lambda store: store.pause(self.name, until, seconds)) is not None:
            self._untold.drop_pause()
        elif self._cell is not None:
            self._untold.keep_pause(until, seconds)

    # -- probing in the background --------------------------------------------------------------------

    def hold_open(self, generation: int, seconds: float) -> bool:
        """Keep an open circuit from trying the service with a call, because somebody probes it otherwise.

        Args:
            generation: Of the open spell, as :class:`~service_utils.events.CircuitChanged` tells it.
            seconds: For how long from now; an open time that lasts longer stays as it is. Whoever probes does
                this again and again, so that calls are let through when it has died.

        Returns:
            Whether the circuit is still open in that spell.
        """
        until = self._monotonic() + seconds
        if self._tell_store(lambda store: store.hold(self.name, generation, until)) is not None:
            return self._circuit.state is CircuitState.OPEN and self.generation == generation
        return super().hold_open(generation, seconds)

    def recover(self, generation: int) -> bool:
        """Close an open circuit whose service has been found well, whatever is left of its open time.

        Args:
            generation: Of the open spell; in any other nothing is changed.

        Returns:
            Whether it was closed.
        """
        known = 0

        def intent(store: BreakerStore) -> CircuitRecord:
            nonlocal known
            known = self._shared.common.version
            return store.recover(self.name, generation, self._asking())

        record = self._tell_store(intent)
        if record is not None:
            return record.by == self._shared.me and record.version != known and record.state is _CLOSED
        return super().recover(generation)

    def _override(self, state: CircuitState, reason: str) -> None:
        if self._cell is None:
            super()._override(state, reason)
            return
        while (
            self._tell_store(lambda store: store.override(self.name, state, reason, self._asking())) is None
        ):
            if self._override_alone(state, reason):
                return
        self._untold.drop_word()

    def _override_alone(self, state: CircuitState, reason: str) -> bool:
        """Decide here, and tell the others later. Returns False if the store is back by now."""
        told: Told = []
        with self._lock:
            circuit, now = self._shared, self._monotonic()
            if not circuit.alone:
                return False
            self._untold.keep_word(state, reason, now, circuit.common.generation)
            try:
                circuit.override(state, reason, now, told)
            finally:
                self._lay_out_locked()
        self._tell(told)
        return True

    # -- reading --------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The state. Reading never changes it: an open circuit reads open until a permit is asked for."""
        cell = self._cell
        if cell is not None and cell.words[0] != self._seen:
            self._catch_up()
        return self._circuit.state

    @property
    def generation(self) -> int:
        """The number of the present spell in one state."""
        self.catch_up()
        return self._circuit.spell.generation

    def retry_after(self) -> float | None:
        """Seconds after which a call may get through; None when that is now, or depends on an operator."""
        self.catch_up()
        return super().retry_after()

    def get_stats(self) -> dict[str, Any]:
        """A JSON-ready picture of the breaker; times are ISO 8601 in UTC or None, durations seconds.

        ``failure_count`` is the number of failures in a row, or in the window where there is one. Of the
        window tell, besides, ``window_calls``, ``failure_rate`` and ``slow_call_rate``: shares from 0 to 1,
        None while it is empty or when there is none, and the latter without ``slow_call_seconds``.

        ``last_success`` is exact unless successes follow each other within microseconds: then it may be some
        of them behind. With a store the states, ``opened_count``, ``mttr_seconds`` and ``half_open_in_use``
        are those of all members, the other counts those of this one.
        """
        self.catch_up()
        return super().get_stats()

    def _agreed(self, now: float, today: datetime) -> tuple[float, datetime] | None:
        return None if self._cell is None or self.store is None else self.store.calendar(now, today)
