"""Any order of steps on a store, against a dictionary that says what must be."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from service_utils.idempotency import (
    Answer,
    IdempotencyStore,
    MemoryIdempotency,
    Mismatch,
    Question,
    Replay,
    Running,
    SQLiteIdempotency,
    Started,
    Unknown,
)
from service_utils.storage import Database, Durability
from service_utils.testing import FakeClock

KEPT = 100.0

keys = st.sampled_from("ab")
fingerprints = st.sampled_from([b"1", b"2"])


@dataclass
class Kept:
    """What the model remembers of a key."""

    question: Question
    running: bool = True
    answer: Answer | None = None
    expires_at: float = 0.0
    was_expired: bool = False  # its time was over once, before the clock was set back: it may be gone

    @property
    def is_unknown(self) -> bool:
        return self.answer is None and not self.running


class StoreAgainstModel(RuleBasedStateMachine):
    """One execution at a time has a key; nothing but its own word, or a person's, ends that."""

    questions = Bundle("questions")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.model: dict[str, Kept] = {}
        self.count = 0
        self.store = self.make()

    def make(self) -> IdempotencyStore:
        return MemoryIdempotency(clock=self.clock)

    def answer(self) -> Answer:
        self.count += 1
        return Answer(200, (("X-Number", str(self.count)),), str(self.count).encode())

    def now(self) -> float:
        return self.clock.now().timestamp()

    def open_record(self, question: Question) -> Kept | None:
        """The record that this execution has and has not answered."""
        kept = self.model.get(question.record_id)
        if kept is None or kept.answer is not None or kept.question.token != question.token:
            return None
        return kept

    @rule(target=questions, key=keys, fingerprint=fingerprints)
    def begin(self, key: str, fingerprint: bytes) -> Question:
        question = Question(key, fingerprint)
        kept = self.model.get(key)
        if kept is not None and kept.answer is not None and kept.expires_at <= self.now():
            kept = None
        began = self.store.begin(question)
        if kept is not None and kept.was_expired and began == Started():
            kept = None
        if kept is None:
            assert began == Started()
            self.model[key] = Kept(question)
        elif kept.question.fingerprint != fingerprint:
            assert began == Mismatch()
        elif kept.answer is not None:
            assert began == Replay(kept.answer)
        elif kept.running:
            assert began == Running()
        else:
            assert isinstance(began, Unknown)
            assert began.token == kept.question.token
        return question

    @rule(question=questions)
    def finish(self, question: Question) -> None:
        answer, kept = self.answer(), self.open_record(question)
        assert self.store.finish(question, answer, KEPT) is (kept is not None)
        if kept is not None:
            kept.answer, kept.running, kept.expires_at = answer, False, self.now() + KEPT

    @rule(question=questions)
    def forget(self, question: Question) -> None:
        kept = self.open_record(question)
        assert self.store.forget(question) is (kept is not None)
        if kept is not None:
            del self.model[question.record_id]

    @rule(question=questions)
    def leave(self, question: Question) -> None:
        self.store.leave(question)
        kept = self.open_record(question)
        if kept is not None:
            kept.running = False

    @rule(question=questions, other=questions)
    def take_over(self, question: Question, other: Question) -> None:
        if self.open_record(question) is not None:
            return  # it has the key, or had it: only one that was told "unknown" takes over
        kept = self.model.get(question.record_id)
        fits = (
            kept is not None
            and kept.is_unknown
            and kept.question.token == other.token
            and kept.question.fingerprint == question.fingerprint
        )
        assert self.store.take_over(question, other.token) is fits
        if fits:
            self.model[question.record_id] = Kept(question)
        else:
            self.store.leave(question)

    @rule(question=questions, done=st.booleans())
    def settle(self, question: Question, done: bool) -> None:
        answer = self.answer() if done else None
        kept = self.open_record(question)
        fits = kept is not None and kept.is_unknown
        assert self.store.settle(question.record_id, question.token, answer, KEPT) is fits
        if kept is None or not fits:
            return
        if answer is None:
            del self.model[question.record_id]
        else:
            kept.answer, kept.expires_at = answer, self.now() + KEPT

    @rule(seconds=st.sampled_from([1.0, KEPT / 2, KEPT]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for kept in self.model.values():
            kept.was_expired |= kept.answer is not None and kept.expires_at <= self.now()

    @rule(seconds=st.sampled_from([-KEPT, -1.0]))
    def clock_set_back(self, seconds: float) -> None:
        self.clock.set_now(self.clock.now() + timedelta(seconds=seconds))

    @rule()
    def purge(self) -> None:
        self.store.purge()
        now = self.now()
        self.model = {
            key: kept for key, kept in self.model.items() if kept.answer is None or kept.expires_at > now
        }

    @invariant()
    def the_unknown_are_those(self) -> None:
        unknown = {kept.question.token for kept in self.model.values() if kept.is_unknown}
        assert {each.token for each in self.store.list_unknown()} == unknown


class SQLiteAgainstModel(StoreAgainstModel):
    """The same in a file."""

    def make(self) -> IdempotencyStore:
        self.folder = Path(tempfile.mkdtemp())
        database = Database(self.folder / "records.db", durability=Durability.NORMAL)
        return SQLiteIdempotency(database, clock=self.clock)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


TestMemoryAgainstModel = StoreAgainstModel.TestCase
TestMemoryAgainstModel.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestSQLiteAgainstModel = SQLiteAgainstModel.TestCase
TestSQLiteAgainstModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
