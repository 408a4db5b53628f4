"""The bucket of tokens behind a rate limiter, as a function of a time that is handed in.

The bucket holds at most ``size`` tokens and gains ``rate`` of them a second; each turn takes one. Turns are
booked for moments, and of all of them any t seconds hold at most ``size + rate * t``.

A signal handler or a finalizer may run inside a method, in the same thread, and book, cancel or raise there.
Therefore the state only changes in pieces of code that call nothing and jump nowhere, which nothing can come
into, and what was worked out before is thrown away if ``changes`` tells that the state is another by then.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

__all__ = ["Bucket", "Turn"]

_NEARLY_ONE = 1.0 - 1e-9  # a token that has grown to 0.9999999999 is one, and its rest is owed
_ROUNDING = 1e-15  # of a moment: what adding and subtracting seconds may have lost of it
_REMEMBERED = 64  # turns that have come and may still be given back; also how often older ones are forgotten


class Turn:
    """The right to one token at one moment.

    Attributes:
        at: The moment; means nothing unless ``booked``.
        booked: Whether a token is put by for it.
        in_line: Whether nobody who comes later and wants to go at once may go before it.
    """

    __slots__ = ("at", "booked", "in_line")

    def __init__(self) -> None:
        self.at = -math.inf
        self.booked = False
        self.in_line = False


class Bucket:
    """Tokens, and the turns that are booked. Not for two threads at once.

    Args:
        rate: Tokens gained per second.
        size: Tokens it holds at most.
        level: Tokens in it at the moment ``at``; full when left out.
        at: See ``level``.
    """

    __slots__ = (
        *("_base_at", "_base_level", "_passed", "_slack", "_tidy_at"),
        *("at", "changes", "later", "level", "line", "rate", "size"),
    )

    def __init__(self, rate: float, size: float, level: float | None = None, at: float = -math.inf) -> None:
        self.rate = rate
        self.size = size
        self.level = self._base_level = size if level is None else level  # after all of ``line``
        self.at = self._base_at = at  # when that was or will be
        self.line: list[float] = []  # moments by time, past ones too; who comes now goes after the last
        self.later: list[float] = []  # moments by time, none before ``at``, between which there may be room
        self._passed: list[float] = []  # those in ``line`` that were in ``later`` before
        self.changes = 0
        self._slack = min(1e-9 / rate, 1e-6)  # seconds
        self._tidy_at = 2 * _REMEMBERED  # the length of ``line`` at which to look what can be forgotten

    def book(self, turn: Turn, now: float, wanted: float, latest: float) -> float:
        """Book the first moment from ``wanted`` on, unless that is after ``latest``.

        Who wants to go now comes behind all who wanted to go at once before; who wants to go later takes no
        moment from anybody who can go before.

        Returns:
            The moment, whether it was booked or not.
        """
        if wanted <= now <= latest and self.at <= now and not self.later:  # nobody waits
            level = self.level + (now - self.at) * self.rate
            if level > self.size:
                level = self.size
            if level >= _NEARLY_ONE:
                self.line += (now,)
                self.level, self.at = level - 1.0, now
                turn.at, turn.booked, turn.in_line = now, True, True
                self.changes += 1
                if len(self.line) >= self._tidy_at:
                    self._forget(now)
                return now
        return self._book_ahead(turn, now, wanted, latest)

    def _book_ahead(self, turn: Turn, now: float, wanted: float, latest: float) -> float:
        """The same where somebody has to wait."""
        self.settle(now)
        while not turn.booked:
            changes = self.changes
            moment, index, level = self._first(wanted)
            if not moment <= latest:
                return moment
            if changes == self.changes:
                if wanted <= now:
                    turn.in_line = True
                    self._passed += self.later[:index]
                    self.line += self.later[:index]
                    self.line += (moment,)
                    self.later = self.later[index:]
                    self.level, self.at = level, moment
                else:
                    self.later[index:index] = (moment,)
                turn.at, turn.booked = moment, True
                self.changes = changes + 1
        if len(self.line) >= self._tidy_at:
            self._forget(now)
        return turn.at

    def cancel(self, turn: Turn) -> None:
        """Take a turn back as if it had never been booked. One that has come too long ago stays as it is.

        Those who wait behind it keep their moments, and nobody who comes now goes before them.
        """
        while turn.booked:
            changes = self.changes
            line, passed, later = self.line[:], self._passed[:], self.later[:]
            if _remove(line, turn.at):
                if not turn.in_line:
                    _remove(passed, turn.at)
            elif not _remove(later, turn.at):
                return
            while line and passed and line[-1] == passed[-1]:  # nobody in line waits behind it any more
                later.insert(0, line.pop())
                passed.pop()
            level, at = self._run(self._base_level, self._base_at, line)
            if changes == self.changes:
                self.line, self._passed, self.later = line, passed, later
                self.level, self.at = level, at
                turn.booked = False
                self.changes = changes + 1

    def settle(self, now: float) -> None:
        """Put the turns that have come by now in line with those before."""
        while self.later and self.later[0] <= now:
            due = self.later[0]
            level = self.level + (due - self.at) * self.rate
            if level > self.size:
                level = self.size
            self.line += (due,)
            self._passed += (due,)
            del self.later[0]
            self.level, self.at = level - 1.0, due
            self.changes += 1

    def available(self, now: float) -> float:
        """Tokens that somebody who comes now could take at once, whole ones or not."""
        self.settle(now)
        level, at, later = self.level, self.at, self.later[:]
        if at > now:
            return 0.0
        needed = self._needs(later)[0] - (later[0] - now) * self.rate if later else 0.0
        return max(self._grown(level, now - at) - max(needed, 0.0), 0.0)

    def waiting(self, now: float) -> int:
        """Turns that have not come yet."""
        return sum(len(moments) - bisect_right(moments, now) for moments in (self.line, self.later))

    def without_bookings(self, now: float) -> Bucket:
        """A bucket with the same tokens in it, and none put by for turns that have not come yet."""
        past = [moment for moment in (*self.line, *self.later) if moment <= now]
        return Bucket(self.rate, self.size, *self._run(self._base_level, self._base_at, past))

    def _first(self, wanted: float) -> tuple[float, int, float]:
        """The first moment for one more, its place in ``later``, and the tokens that are left then.

        There must be a token at that moment, and none may be missing for a turn after it. In the time between
        two turns neither the tokens that will be there for the second nor those that are needed from then on
        depend on when the one more is taken, unless the bucket runs over: so that the first moment with a
        token is the one, if there are enough, and if the bucket has room for what is needed when it comes.
        """
        level, at, later, rate = self.level, self.at, self.later[:], self.rate
        for index, (due, need) in enumerate(zip(later, self._needs(later), strict=True)):
            moment = self._ready(level, at, wanted)
            coming = level + (due - at) * rate
            too_many = max(need - (self.size - 1.0), 0.0)
            enough = coming >= need + _NEARLY_ONE
            if enough and moment <= due and moment <= due - too_many / rate + self._slack:
                return moment, index, self._grown(level, moment - at) - 1.0
            level, at = min(coming, self.size) - 1.0, due
        moment = self._ready(level, at, wanted)
        return moment, len(later), self._grown(level, moment - at) - 1.0

    def _needs(self, later: Sequence[float]) -> list[float]:
        """For each of the moments, the tokens that must be there for it and for those after it."""
        needs, need, after = list[float](), 0.0, math.inf
        for due in reversed(later):
            need = 1.0 + max(need - (after - due) * self.rate, 0.0)
            after = due
            needs.append(need)
        needs.reverse()
        return needs

    def _ready(self, level: float, at: float, wanted: float) -> float:
        """The first moment from ``wanted`` on with a token, if nobody takes one before."""
        ready = at if level >= _NEARLY_ONE else at + (1.0 - level) / self.rate
        in_time = ready <= wanted + self._slack + abs(wanted) * _ROUNDING
        return max(wanted, at) if in_time else ready

    def _grown(self, level: float, seconds: float) -> float:
        return min(level + seconds * self.rate, self.size)

    def _run(self, level: float, at: float, moments: Iterable[float]) -> tuple[float, float]:
        """The level after turns at these moments, and when that is."""
        for moment in moments:
            level, at = self._grown(level, moment - at) - 1.0, moment
        return level, at

    def _forget(self, now: float) -> None:
        """Keep only the last of the turns that have come; the others are in the level for good."""
        changes, line = self.changes, self.line[:]
        gone = max(bisect_right(line, now) - _REMEMBERED, 0)
        level, at = self._run(self._base_level, self._base_at, line[:gone])
        forgotten = bisect_right(self._passed, at) if gone else 0
        tidy_at = len(line) - gone + _REMEMBERED
        if changes == self.changes:
            self._base_level, self._base_at = level, at
            del self.line[:gone], self._passed[:forgotten]
            self._tidy_at = tidy_at
            self.changes = changes + 1


def _remove(moments: list[float], moment: float) -> bool:
    """Take one out of the moments, if it is there."""
    index = bisect_left(moments, moment)
    found = index < len(moments) and moments[index] == moment
    if found:
        del moments[index]
    return found
