"""What every store of dead letters must do. A test module of a store has a class that inherits all this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service_utils.dead_letters.errors import DeadLetterQueueFull
from service_utils.dead_letters.letter import CALL, DeadLetter, Lease, LetterStatus, new_letter_id
from service_utils.dead_letters.store import (
    DeadLetterStore,
    Delivered,
    Died,
    Limits,
    PutBack,
    Retried,
    Selection,
)
from tests.side_by_side import together

NOW = 1_800_000_000.0
LIMITS = Limits(max_letters=1000, max_bytes=2**26)
ALL = Selection()


def letter(service: str = "git", **fields: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "id": new_letter_id(NOW),
        "kind": CALL,
        "service": service,
        "method": "POST",
        "path": "/snapshot",
        "created_at": NOW,
        "next_attempt_at": NOW,
    }
    return DeadLetter(**{**values, **fields})


def ids(letters: list[Any]) -> list[str]:
    return [each.letter.id if isinstance(each, Lease) else each.id for each in letters]


class StoreContract:
    """All tests of the contract; ``store`` is the store under test, empty."""

    @pytest.fixture
    def store(self) -> DeadLetterStore:
        raise NotImplementedError

    @pytest.fixture
    def keep(self, store: DeadLetterStore) -> Callable[..., list[DeadLetter]]:
        """Keeps letters one after the other and returns them."""

        def keep(*letters: DeadLetter) -> list[DeadLetter]:
            for each in letters:
                store.add([each], LIMITS)
            return list(letters)

        return keep

    def lease(self, store: DeadLetterStore, service: str = "git", **options: Any) -> list[Lease]:
        return store.lease(service, **{"now": NOW, "seconds": 60.0, "limit": 10, **options})

    # -- keeping ------------------------------------------------------------------------------------

    def test_what_is_kept_comes_back_as_it_was(self, store: DeadLetterStore) -> None:
        """Every field, headers and bytes of all values included."""
        kept = letter(
            path="/snapshot/p%201?deep=1&x=é",
            body=bytes(range(256)) * 40,
            headers={"Content-Type": "application/octet-stream", "X-Ü": "ß"},
            idempotency_key="k-1",
            request_id="r-1",
            max_retries=9,
            last_error="status 503",
            last_status=503,
        )
        store.add([kept], LIMITS)
        assert store.get(kept.id, NOW) == kept

    def test_ten_mebibytes(self, store: DeadLetterStore) -> None:
        """The largest body that a queue takes by default comes back byte by byte."""
        body = bytes(range(256)) * (10 * 2**20 // 256)
        store.add([letter(id="large", body=body)], LIMITS)
        found = store.get("large", NOW)
        assert found is not None
        assert found.body == body

    @pytest.mark.parametrize("body", [None, b""])
    def test_no_body_is_no_empty_body(self, store: DeadLetterStore, body: bytes | None) -> None:
        """A request without a body is sent again without one."""
        store.add([letter(id="a", body=body)], LIMITS)
        found = store.get("a", NOW)
        assert found is not None
        assert found.body == body

    def test_nobody_knows_it(self, store: DeadLetterStore) -> None:
        """A letter that is not there is None."""
        assert store.get("nobody", NOW) is None

    @pytest.mark.parametrize(
        ("limits", "limit"),
        [
            (Limits(max_letters=2, max_bytes=1000), "max_letters"),
            (Limits(max_letters=100, max_bytes=60), "max_bytes"),
        ],
    )
    def test_more_than_the_limit_is_refused(
        self, store: DeadLetterStore, keep: Any, limits: Limits, limit: str
    ) -> None:
        """All of a batch or nothing is kept, and the error names the limit."""
        keep(letter(body=b"x" * 20))
        batch = [letter(body=b"x" * 20), letter(body=b"x" * 20)]
        with pytest.raises(DeadLetterQueueFull, match=f"{limit}=") as caught:
            store.add(batch, limits)
        assert caught.value.limit == limit
        assert store.stats(NOW)["letters"] == 1
        store.add(batch[:1], limits)

    def test_room_that_is_free_again_is_used(self, store: DeadLetterStore, keep: Any) -> None:
        """What has been delivered or purged counts no more."""
        limits = Limits(max_letters=1, max_bytes=1000)
        store.add([letter(body=b"x")], limits)
        (lease,) = self.lease(store)
        store.settle(lease, Delivered())
        store.add([letter(body=b"y")], limits)
        store.purge(ALL, NOW, 10)
        store.add([letter(body=b"z")], limits)

    def test_limits_hold_for_all_threads_together(self, store: DeadLetterStore) -> None:
        """Sixteen threads that add at the same moment do not get past the limit."""
        limits = Limits(max_letters=5, max_bytes=10_000)

        def add(_index: int) -> bool:
            try:
                store.add([letter()], limits)
            except DeadLetterQueueFull:
                return False
            return True

        assert sum(together(16, add)) == 5
        assert store.stats(NOW)["letters"] == 5

    def test_threads_that_add_at_the_same_moment(self, store: DeadLetterStore) -> None:
        """Every letter of every thread is there, each thread's in its order."""
        batches = [[letter(f"s{index}") for _ in range(5)] for index in range(8)]

        def add(index: int) -> None:
            for each in batches[index]:
                store.add([each], LIMITS)

        together(8, add)
        assert store.stats(NOW)["totals"]["added"] == 40
        for index, batch in enumerate(batches):
            assert ids(self.lease(store, f"s{index}")) == ids(batch)

    # -- leasing ------------------------------------------------------------------------------------

    def test_oldest_first(self, store: DeadLetterStore, keep: Any) -> None:
        """Letters come in the order in which they were added, whatever their ids and times say."""
        kept = keep(letter(id="c", created_at=NOW), letter(id="a", created_at=NOW - 9), letter(id="b"))
        assert ids(self.lease(store)) == ids(kept) == ["c", "a", "b"]

    def test_a_batch_of_several_keeps_its_order(self, store: DeadLetterStore) -> None:
        """Those added together come in the order they stood in."""
        batch = [letter() for _ in range(20)]
        store.add(batch, LIMITS)
        assert ids(self.lease(store, limit=20)) == ids(batch)

    def test_one_hand_at_a_time(self, store: DeadLetterStore, keep: Any) -> None:
        """While letters of a service are leased nobody else gets any of that service."""
        keep(letter(), letter())
        (lease,) = self.lease(store, limit=1)
        assert self.lease(store) == []
        assert store.waiting(NOW) == {}
        store.settle(lease, Delivered())
        assert len(self.lease(store)) == 1

    def test_services_do_not_wait_for_each_other(self, store: DeadLetterStore, keep: Any) -> None:
        """A service whose letters are leased or have to wait holds up none but its own."""
        keep(letter("git"), letter("billing"), letter("chroma", next_attempt_at=NOW + 5))
        self.lease(store, "git")
        assert store.waiting(NOW) == {"billing": 1}
        assert store.waiting(NOW + 5) == {"billing": 1, "chroma": 1}

    def test_nobody_overtakes_a_letter_that_waits(self, store: DeadLetterStore, keep: Any) -> None:
        """A letter in its back-off keeps those behind it back, and only those."""
        kept = keep(letter(), letter(next_attempt_at=NOW + 30), letter())
        assert ids(self.lease(store)) == [kept[0].id]
        store.settle(self.lease(store, now=NOW + 60)[0], Delivered())
        assert self.lease(store) == []

    def test_dead_letters_are_passed_over(self, store: DeadLetterStore, keep: Any) -> None:
        """A letter that rests holds nobody up."""
        kept = keep(letter(), letter())
        store.settle(self.lease(store, limit=1)[0], Died(error="status 422"))
        assert ids(self.lease(store)) == [kept[1].id]

    def test_a_lease_that_ran_out_is_given_again(self, store: DeadLetterStore, keep: Any) -> None:
        """A worker that died gives way, and not before its time is over."""
        keep(letter())
        self.lease(store)
        assert self.lease(store, now=NOW + 59.9) == []
        assert len(self.lease(store, now=NOW + 60)) == 1

    def test_a_late_workers_word_is_void(self, store: DeadLetterStore, keep: Any) -> None:
        """Once another has the letter, the first one can neither settle it nor hold it for longer."""
        (kept,) = keep(letter())
        (first,) = self.lease(store)
        (second,) = self.lease(store, now=NOW + 60)
        assert first.token != second.token
        for settlement in (Delivered(), Died(), Retried(next_attempt_at=NOW), PutBack(next_attempt_at=NOW)):
            assert store.settle(first, settlement) is False
        assert store.extend(first, now=NOW + 61, seconds=900.0) is False
        assert store.settle(second, Delivered()) is True
        assert store.get(kept.id, NOW) is None

    def test_a_late_word_counts_while_nobody_else_has_the_letter(
        self, store: DeadLetterStore, keep: Any
    ) -> None:
        """A delivery that ends after its lease is noted, rather than made twice."""
        keep(letter())
        (lease,) = self.lease(store)
        assert self.lease(store, "other", now=NOW + 999) == []
        assert store.settle(lease, Delivered()) is True

    def test_a_lease_counts_once(self, store: DeadLetterStore, keep: Any) -> None:
        """After it has been settled a lease is void, also where the letter is still there."""
        keep(letter())
        (lease,) = self.lease(store)
        assert store.settle(lease, PutBack(next_attempt_at=NOW)) is True
        assert store.settle(lease, Delivered()) is False

    def test_a_lease_can_be_made_longer(self, store: DeadLetterStore, keep: Any) -> None:
        """Whoever has many letters in hand may hold the later ones for longer."""
        keep(letter())
        (lease,) = self.lease(store)
        assert store.extend(lease, now=NOW + 50, seconds=60.0) is True
        assert self.lease(store, now=NOW + 109) == []
        assert len(self.lease(store, now=NOW + 110)) == 1

    def test_a_lease_that_ran_out_can_be_taken_up_again(self, store: DeadLetterStore, keep: Any) -> None:
        """A worker that was slow goes on where nobody has stepped in."""
        keep(letter())
        (lease,) = self.lease(store)
        assert store.extend(lease, now=NOW + 70, seconds=60.0) is True
        assert self.lease(store, now=NOW + 129) == []

    def test_a_lease_that_ran_out_gives_way_to_another_hand(self, store: DeadLetterStore, keep: Any) -> None:
        """Once another has letters of the service, the rest of an old batch must not go out beside them."""
        keep(letter(), letter(), letter("billing"))
        _, later = self.lease(store)
        self.lease(store, "billing", now=NOW + 60)
        (other,) = self.lease(store, now=NOW + 60, limit=1)
        assert store.extend(later, now=NOW + 61, seconds=60.0) is False
        store.settle(other, Delivered())
        assert store.extend(later, now=NOW + 61, seconds=60.0) is True

    def test_a_batch_that_fits_into_memory(
        self, store: DeadLetterStore, keep: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Large letters are leased in smaller batches, but one at least."""
        monkeypatch.setattr(f"{type(store).__module__}.LEASED_AT_ONCE", 2000)
        keep(*(letter(body=b"x" * size) for size in (5000, 900, 900, 900)))
        (first,) = self.lease(store)
        store.settle(first, Delivered())
        assert len(self.lease(store)) == 2

    def test_two_hands_at_the_same_moment(self, store: DeadLetterStore) -> None:
        """Of sixteen threads that lease at once one gets the letters, and the others nothing."""
        store.add([letter() for _ in range(5)], LIMITS)
        found = together(16, lambda _: self.lease(store))
        assert sorted(map(len, found)) == [0] * 15 + [5]

    # -- clocks that jump ---------------------------------------------------------------------------

    def test_a_clock_that_was_far_ahead_when_a_lease_was_given(
        self, store: DeadLetterStore, keep: Any
    ) -> None:
        """Set right by a year, it does not keep the letter leased for a year."""
        keep(letter())
        year = 365 * 86_400.0
        (lost,) = self.lease(store, now=NOW + year)
        (again,) = self.lease(store, now=NOW)
        assert store.settle(lost, Delivered()) is False
        assert store.settle(again, Delivered()) is True

    def test_a_clock_that_was_far_ahead_when_a_lease_was_made_longer(
        self, store: DeadLetterStore, keep: Any
    ) -> None:
        """Nor does it when the clock was ahead for that moment only."""
        keep(letter())
        (lost,) = self.lease(store)
        store.extend(lost, now=NOW + 3600, seconds=60.0)
        assert len(self.lease(store)) == 1

    def test_a_clock_that_was_far_ahead_when_a_letter_was_put_back(
        self, store: DeadLetterStore, keep: Any
    ) -> None:
        """Set right, it does not make a letter wait for a year."""
        keep(letter())
        year = 365 * 86_400.0
        (lease,) = self.lease(store)
        store.settle(lease, Retried(next_attempt_at=NOW + year))
        assert len(self.lease(store, now=NOW)) == 1

    def test_a_clock_that_jumps_forward(self, store: DeadLetterStore, keep: Any) -> None:
        """A lease that a jump has ended is void: two workers can never settle one letter."""
        keep(letter())
        (first,) = self.lease(store)
        (second,) = self.lease(store, now=NOW + 86_400)
        assert [store.settle(lease, Delivered()) for lease in (first, second)] == [False, True]

    def test_a_clock_that_jumps_back_a_little(self, store: DeadLetterStore, keep: Any) -> None:
        """Some seconds back, as time servers do it, a lease still holds."""
        keep(letter())
        self.lease(store)
        assert self.lease(store, now=NOW - 4) == []

    # -- settling -----------------------------------------------------------------------------------

    def test_delivered(self, store: DeadLetterStore, keep: Any) -> None:
        """What has arrived is gone, and counted."""
        (kept,) = keep(letter())
        store.settle(self.lease(store)[0], Delivered())
        assert store.get(kept.id, NOW) is None
        assert store.stats(NOW)["totals"] == {"added": 1, "delivered": 1, "died": 0, "purged": 0}

    def test_words_that_are_no_unicode(self, store: DeadLetterStore, keep: Any) -> None:
        """An error's text with half a character in it keeps nobody from settling the letter."""
        (kept,) = keep(letter())
        assert store.settle(self.lease(store)[0], Retried(next_attempt_at=NOW, error="no \udcff")) is True
        assert store.settle(self.lease(store)[0], Died(error="no \udcff")) is True
        assert store.get(kept.id, NOW) is not None

    def test_retried(self, store: DeadLetterStore, keep: Any) -> None:
        """What was tried in vain has one attempt more, and why."""
        (kept,) = keep(letter(last_error="first", last_status=None))
        settlement = Retried(next_attempt_at=NOW + 7, error="status 503", status=503)
        store.settle(self.lease(store)[0], settlement)
        found = store.get(kept.id, NOW)
        assert found is not None
        assert (found.status, found.attempts, found.next_attempt_at) == (LetterStatus.PENDING, 1, NOW + 7)
        assert (found.last_error, found.last_status) == ("status 503", 503)

    def test_put_back(self, store: DeadLetterStore, keep: Any) -> None:
        """What was not tried has no attempt more, and its last error stays."""
        (kept,) = keep(letter(last_error="first"))
        store.settle(self.lease(store)[0], PutBack(next_attempt_at=NOW + 7))
        found = store.get(kept.id, NOW)
        assert found is not None
        assert (found.attempts, found.next_attempt_at, found.last_error) == (0, NOW + 7, "first")

    def test_died(self, store: DeadLetterStore, keep: Any) -> None:
        """What rests has the answer that says why."""
        (kept,) = keep(letter(body=b"12345"))
        before = store.stats(NOW)["bytes"]
        store.settle(self.lease(store)[0], Died(error="status 422", status=422, response=b"no such colour"))
        found = store.get(kept.id, NOW)
        assert found is not None
        assert (found.status, found.attempts) == (LetterStatus.DEAD, 1)
        assert (found.last_status, found.last_response) == (422, b"no such colour")
        assert store.stats(NOW)["bytes"] == before + 14

    # -- looking ------------------------------------------------------------------------------------

    def test_a_leased_letter_is_shown_as_such(self, store: DeadLetterStore, keep: Any) -> None:
        """As long as the lease holds."""
        (kept,) = keep(letter())
        self.lease(store)
        assert store.get(kept.id, NOW).status is LetterStatus.LEASED
        assert store.get(kept.id, NOW + 60).status is LetterStatus.PENDING

    def test_list_by_service_status_and_age(self, store: DeadLetterStore, keep: Any) -> None:
        """Each filter leaves out what it should, and all of them hold together."""
        old, dead, other, new = keep(
            letter(created_at=NOW - 10), letter(created_at=NOW - 9), letter("billing"), letter()
        )
        leases = self.lease(store, limit=2)
        store.settle(leases[1], Died())

        def found(**fields: Any) -> list[str]:
            return ids(store.list(Selection(**fields), limit=10, after=None, now=NOW))

        assert found() == ids([old, dead, other, new])
        assert found(service="git") == ids([old, dead, new])
        assert found(status=LetterStatus.LEASED) == [old.id]
        assert found(status=LetterStatus.PENDING) == ids([other, new])
        assert found(status=LetterStatus.DEAD) == [dead.id]
        assert found(before=NOW - 9) == [old.id]
        assert found(since=NOW - 9, service="git") == ids([dead, new])

    def test_pages(self, store: DeadLetterStore) -> None:
        """Page after page shows every letter once."""
        batch = [letter() for _ in range(7)]
        store.add(batch, LIMITS)
        pages, after = [], None
        while page := store.list(ALL, limit=3, after=after, now=NOW):
            pages.append(ids(page))
            after = page[-1].id
        assert pages == [ids(batch[:3]), ids(batch[3:6]), ids(batch[6:])]

    def test_pages_of_letters_that_go_meanwhile(self, store: DeadLetterStore) -> None:
        """That the last letter of a page was delivered before the next page is asked for ends no list."""
        batch = [letter() for _ in range(5)]
        store.add(batch, LIMITS)
        page = store.list(ALL, limit=2, after=None, now=NOW)
        for lease in self.lease(store, limit=2):
            store.settle(lease, Delivered())
        assert ids(store.list(ALL, limit=9, after=page[-1].id, now=NOW)) == ids(batch[2:])
        store.purge(ALL, NOW, 9)
        assert store.list(ALL, limit=9, after=batch[0].id, now=NOW) == []

    def test_stats(self, store: DeadLetterStore, keep: Any) -> None:
        """By status and by service, with bytes, the oldest one and totals of all times."""
        keep(letter("git", body=b"123"), letter("git"), letter("billing", created_at=NOW - 5))
        leases = self.lease(store, "git")
        store.settle(leases[1], Died(error="e"))
        found = store.stats(NOW)
        assert {name: found[name] for name in ("letters", "pending", "leased", "dead")} == {
            "letters": 3,
            "pending": 1,
            "leased": 1,
            "dead": 1,
        }
        assert found["services"] == {
            "billing": {"pending": 1, "leased": 0, "dead": 0},
            "git": {"pending": 0, "leased": 1, "dead": 1},
        }
        assert found["oldest_created_at"] == NOW
        assert found["bytes"] == 3 + 3 * len("/snapshot")
        assert found["totals"] == {"added": 3, "delivered": 0, "died": 1, "purged": 0}

    def test_stats_of_nothing(self, store: DeadLetterStore) -> None:
        """An empty store has zeros, not holes."""
        found = store.stats(NOW)
        assert (found["letters"], found["bytes"], found["oldest_created_at"]) == (0, 0, None)
        assert found["services"] == {}

    # -- deciding -----------------------------------------------------------------------------------

    def test_requeue(self, store: DeadLetterStore, keep: Any) -> None:
        """A letter that rested is tried again at once, with all its attempts, in its old place."""
        kept = keep(letter(), letter(), letter("billing"))
        leases = self.lease(store)
        store.settle(leases[0], Died(error="e"))
        store.settle(leases[1], PutBack(next_attempt_at=NOW + 99))
        assert store.requeue(kept[0].id, ALL, NOW) == 1
        found = store.get(kept[0].id, NOW)
        assert (found.status, found.attempts, found.last_error) == (LetterStatus.PENDING, 0, "e")
        assert ids(self.lease(store)) == [kept[0].id]

    def test_a_requeued_letter_of_many_has_its_old_place(self, store: DeadLetterStore) -> None:
        """One that rested goes out before those that came after it, retried ones among them."""
        batch = [letter() for _ in range(4)]
        store.add(batch, LIMITS)
        leases = self.lease(store)
        for number, settlement in ((3, PutBack(next_attempt_at=NOW)), (0, Retried(next_attempt_at=NOW))):
            store.settle(leases[number], settlement)
        for number in (1, 2):
            store.settle(leases[number], Died())
        store.requeue(None, Selection(status=LetterStatus.DEAD), NOW)
        assert ids(self.lease(store)) == ids(batch)

    def test_requeue_voids_the_lease_that_ran_out(self, store: DeadLetterStore, keep: Any) -> None:
        """A person's word counts more than that of a worker which comes too late."""
        (kept,) = keep(letter())
        (late,) = self.lease(store)
        assert store.requeue(kept.id, ALL, NOW + 60) == 1
        assert store.settle(late, Died()) is False

    def test_requeue_leaves_leased_letters_alone(self, store: DeadLetterStore, keep: Any) -> None:
        """What is being tried is tried already."""
        (kept,) = keep(letter())
        (lease,) = self.lease(store)
        assert store.requeue(kept.id, ALL, NOW) == 0
        assert store.settle(lease, Delivered()) is True

    def test_requeue_by_filter(self, store: DeadLetterStore, keep: Any) -> None:
        """All that fit the filter, and no others."""
        keep(letter(), letter("billing"))
        for service in ("git", "billing"):
            store.settle(self.lease(store, service)[0], Died())
        assert store.requeue(None, Selection(service="git", status=LetterStatus.DEAD), NOW) == 1
        assert store.waiting(NOW) == {"git": 1}

    def test_purge(self, store: DeadLetterStore, keep: Any) -> None:
        """What is purged is gone; leased letters and others stay."""
        old, leased, other = keep(
            letter("billing", created_at=NOW - 10, body=b"x"), letter(), letter("chroma")
        )
        self.lease(store)
        purged = store.purge(Selection(before=NOW - 5), NOW, 10)
        assert ids(purged) == [old.id]
        assert purged[0].body is None
        assert ids(store.purge(ALL, NOW, 10)) == [other.id]
        assert store.get(leased.id, NOW) is not None
        assert store.stats(NOW)["totals"]["purged"] == 2

    def test_purge_no_more_than_it_is_told(self, store: DeadLetterStore) -> None:
        """Many letters go in several steps, the oldest first."""
        batch = [letter() for _ in range(5)]
        store.add(batch, LIMITS)
        assert ids(store.purge(ALL, NOW, 3)) == ids(batch[:3])
        assert store.stats(NOW)["letters"] == 2
