"""What every store of idempotency records must do: subclasses give it a store."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from service_utils.idempotency import (
    Answer,
    Began,
    IdempotencyStore,
    Mismatch,
    Question,
    Replay,
    Running,
    Started,
    Unknown,
)
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import together

DAY = 86_400.0
ANSWER = Answer(201, (("Content-Type", "text/plain"), ("X-One", "1"), ("X-One", "2")), b"\x00done\xff")


def asking(key: str = "k", fingerprint: bytes = b"f", **more: Any) -> Question:
    """A question under a key, each time of an execution of its own."""
    return Question(key, fingerprint, **more)


class StoreContract:
    """The tests. A subclass has the fixtures ``clock`` and ``store``."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    def broken_off(self, store: IdempotencyStore, **more: Any) -> Question:
        """An execution that ended without a word."""
        question = asking(**more)
        assert store.begin(question) == Started()
        store.leave(question)
        return question

    def test_it_is_a_store(self, store: IdempotencyStore) -> None:
        """It has all that the protocol asks for."""
        assert isinstance(store, IdempotencyStore)

    def test_the_first_answer_is_given_again(self, store: IdempotencyStore) -> None:
        """A repeat gets status, headers in their order and the bytes of the body."""
        first = asking()
        assert store.begin(first) == Started()
        assert store.finish(first, ANSWER, DAY) is True
        store.leave(first)
        assert store.begin(asking()) == Replay(ANSWER)
        assert store.begin(asking()) == Replay(ANSWER)

    def test_a_body_that_was_not_kept(self, store: IdempotencyStore) -> None:
        """An answer without its body comes back without it."""
        first = asking()
        store.begin(first)
        store.finish(first, Answer(200, (), None), DAY)
        assert store.begin(asking()) == Replay(Answer(200, (), None))

    def test_while_it_runs(self, store: IdempotencyStore) -> None:
        """A repeat is told that the first one is at it."""
        first, second = asking(), asking()
        store.begin(first)
        assert store.begin(second) == Running()
        store.leave(second)
        assert store.begin(asking()) == Running()
        store.leave(first)

    def test_something_else_under_the_same_key(self, store: IdempotencyStore) -> None:
        """Another fingerprint is a mismatch, whether the first is running, unknown or answered."""
        first = asking()
        store.begin(first)
        assert store.begin(asking(fingerprint=b"other")) == Mismatch()
        store.leave(first)
        assert store.begin(asking(fingerprint=b"other")) == Mismatch()
        store.finish(first, ANSWER, DAY)
        assert store.begin(asking(fingerprint=b"other")) == Mismatch()

    def test_a_forgotten_key_is_free(self, store: IdempotencyStore) -> None:
        """After forget the next one starts, with whatever it asks."""
        first = asking()
        store.begin(first)
        assert store.forget(first) is True
        store.leave(first)
        second = asking(fingerprint=b"other")
        assert store.begin(second) == Started()
        store.leave(second)

    def test_keys_are_apart(self, store: IdempotencyStore) -> None:
        """What happens under one key is nothing to another."""
        store.begin(first := asking("a"))
        assert store.begin(second := asking("b")) == Started()
        assert store.forget(second) is True
        assert store.begin(asking("a")) == Running()
        store.leave(first)

    def test_broken_off_without_a_word(self, store: IdempotencyStore, clock: FakeClock) -> None:
        """Left without answer or forget, a key is unknown, and says whose execution and when it began."""
        began_at = clock.now().timestamp()
        first = self.broken_off(store)
        assert store.begin(asking()) == Unknown(first.token, began_at)

    @pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)])
    def test_time_settles_nothing(self, store: IdempotencyStore, clock: FakeClock, jump: timedelta) -> None:
        """However the clock jumps: what runs is running, what is unknown stays so, also after a purge."""
        store.begin(running := asking("r"))
        lost = self.broken_off(store)
        clock.set_now(clock.now() + jump)
        assert store.purge() == 0
        assert store.begin(asking("r")) == Running()
        assert isinstance(found := store.begin(asking()), Unknown)
        assert found.token == lost.token
        store.leave(running)

    def test_a_late_word_counts(self, store: IdempotencyStore) -> None:
        """An execution that was taken for lost, and answers before anybody settled it, has answered."""
        first = self.broken_off(store)
        assert store.finish(first, ANSWER, DAY) is True
        assert store.begin(asking()) == Replay(ANSWER)

    def test_a_word_that_comes_too_late_is_void(self, store: IdempotencyStore) -> None:
        """Once another execution has the key, the first can neither answer nor free it."""
        first = self.broken_off(store)
        assert store.settle(first.record_id, first.token, None, DAY) is True
        store.begin(second := asking())
        assert store.finish(first, ANSWER, DAY) is False
        assert store.forget(first) is False
        store.leave(first)
        assert store.begin(asking()) == Running()
        assert store.finish(second, ANSWER, DAY) is True

    def test_an_answer_is_given_once(self, store: IdempotencyStore) -> None:
        """What is answered can be neither answered otherwise nor forgotten nor settled."""
        store.begin(first := asking())
        store.finish(first, ANSWER, DAY)
        assert store.finish(first, Answer(500), DAY) is False
        assert store.forget(first) is False
        assert store.settle(first.record_id, first.token, None, DAY) is False
        assert store.begin(asking()) == Replay(ANSWER)

    def test_an_unknown_record_is_taken_over_once(self, store: IdempotencyStore) -> None:
        """Who finds out that nothing was done may run it; one of many."""
        lost = self.broken_off(store)
        askers = [asking() for _ in range(8)]
        for each in askers:
            assert isinstance(store.begin(each), Unknown)
        got = together(8, lambda index: store.take_over(askers[index], lost.token))
        assert got.count(True) == 1
        winner = askers[got.index(True)]
        for each in askers:
            if each is not winner:
                store.leave(each)
        assert store.begin(asking()) == Running()
        assert store.finish(winner, ANSWER, DAY) is True
        store.leave(winner)

    def test_what_runs_cannot_be_settled(self, store: IdempotencyStore) -> None:
        """Neither an operator nor a check can end an execution that lives."""
        store.begin(first := asking())
        assert store.settle(first.record_id, first.token, None, DAY) is False
        second = asking()
        assert store.take_over(second, first.token) is False
        store.leave(second)
        assert store.begin(asking()) == Running()
        store.leave(first)

    def test_an_operator_says_what_was_answered(self, store: IdempotencyStore) -> None:
        """Settled with an answer, the key gives that."""
        lost = self.broken_off(store)
        assert store.settle(lost.record_id, lost.token, ANSWER, DAY) is True
        assert store.begin(asking()) == Replay(ANSWER)
        assert store.settle(lost.record_id, lost.token, None, DAY) is False

    def test_settling_names_the_execution(self, store: IdempotencyStore) -> None:
        """A word about an execution that is not the one the key has now is void."""
        lost = self.broken_off(store)
        assert store.settle(lost.record_id, lost.token + 1, None, DAY) is False
        assert store.settle("nothing", lost.token, None, DAY) is False
        assert isinstance(store.begin(asking()), Unknown)

    def test_the_unknown_are_listed(self, store: IdempotencyStore, clock: FakeClock) -> None:
        """An operator sees them oldest first, with who asked for what; not those that run or are answered."""
        store.begin(running := asking("r"))
        store.begin(answered := asking("a"))
        store.finish(answered, ANSWER, DAY)
        first = self.broken_off(store, key="1", caller="git", method="POST", path="/x")
        clock.advance(1)
        self.broken_off(store, key="2")
        found = store.list_unknown()
        assert [each.record_id for each in found] == ["1", "2"]
        assert (found[0].caller, found[0].method, found[0].path) == ("git", "POST", "/x")
        assert (found[0].token, found[0].since) == (first.token, clock.now().timestamp() - 1)
        assert [each.record_id for each in store.list_unknown(limit=1)] == ["1"]
        store.leave(running)

    def test_answers_expire(self, store: IdempotencyStore, clock: FakeClock) -> None:
        """Kept for its time an answer is given again, afterwards the key is new."""
        store.begin(first := asking())
        clock.advance(5)
        store.finish(first, ANSWER, DAY)
        store.leave(first)
        clock.advance(DAY - 1)
        assert store.begin(asking()) == Replay(ANSWER)
        clock.advance(1)
        again = asking(fingerprint=b"other")
        assert store.begin(again) == Started()
        store.finish(again, Answer(204), DAY)
        store.leave(again)
        assert store.begin(asking(fingerprint=b"other")) == Replay(Answer(204))

    def test_purge_drops_what_expired(self, store: IdempotencyStore, clock: FakeClock) -> None:
        """It tells how many, and leaves the rest alone."""
        for number in range(5):
            store.begin(question := asking(str(number)))
            store.finish(question, ANSWER, DAY * (1 + number % 2))
            store.leave(question)
        clock.advance(DAY)
        assert store.purge() == 3
        assert store.purge() == 0
        assert store.begin(asking("1")) == Replay(ANSWER)

    def test_one_of_sixteen_starts(self, store: IdempotencyStore) -> None:
        """Of sixteen threads with one key one is let in, fifteen are told that it runs."""
        questions = [asking() for _ in range(16)]
        began = together(16, lambda index: store.begin(questions[index]))
        assert began.count(Started()) == 1
        assert began.count(Running()) == 15
        for question in questions:
            store.leave(question)

    def test_nobody_sees_a_gap(self, store: IdempotencyStore) -> None:
        """Between running and answered there is no moment in which it looks lost or free."""
        seen: list[Began] = []
        store.begin(first := asking())
        finished = threading.Event()

        def look(index: int) -> None:
            if index == 0:
                store.finish(first, ANSWER, DAY)
                store.leave(first)
                finished.set()
                return
            while not finished.is_set():
                seen.append(store.begin(question := asking()))
                store.leave(question)

        together(4, look)
        assert all(each in (Running(), Replay(ANSWER)) for each in seen)
        assert store.begin(asking()) == Replay(ANSWER)

    def test_leaving_twice_or_without_beginning(self, store: IdempotencyStore) -> None:
        """To leave is always safe."""
        store.leave(asking())
        store.begin(first := asking())
        store.leave(first)
        store.leave(first)
        assert isinstance(store.begin(asking()), Unknown)

    def test_a_forked_child_goes_on(self, store: IdempotencyStore) -> None:
        """A child knows what was answered before, and can take keys of its own."""
        store.begin(first := asking())
        store.finish(first, ANSWER, DAY)
        store.leave(first)

        def child() -> list[Began]:
            own = asking("child")
            found = [store.begin(asking()), store.begin(own), store.begin(asking("child"))]
            store.leave(own)
            return found

        assert in_child(child) == [Replay(ANSWER), Started(), Running()]

    def test_reprs_show_no_answer(self, store: IdempotencyStore) -> None:
        """Neither body nor fingerprint is in a repr."""
        store.begin(first := asking(fingerprint=b"finger"))
        store.finish(first, ANSWER, DAY)
        shown = repr((store, first, store.begin(asking(fingerprint=b"finger"))))
        assert "done" not in shown
        assert "finger" not in shown.replace("fingerprint", "")
