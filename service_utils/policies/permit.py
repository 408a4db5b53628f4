"""Permits and reports: what a circuit breaker hands out, for which of its spells, and what it gets back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from service_utils.calls import Outcome

__all__ = ["OWN_REFERENCES", "Leased", "Permit", "Probe", "Report", "Spell", "references_to"]

# A permit to which nobody else refers any more is as good as a new one: nobody can tell the difference.
# CPython tells by the number of references. A breaker's attribute, a local variable and the question itself
# make three; where it is not sure to be just these, every permit is a new one.
_SURE = sys.implementation.name == "cpython" and sys.version_info < (3, 14)
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
OWN_REFERENCES = 3 if _SURE and _GIL else 0
references_to: Callable[[Permit], int] = sys.getrefcount if _SURE else lambda _: 1


class Spell:
    """One stay of one circuit in one state. It never changes, and no two are the same one.

    Attributes:
        generation: The number of the spell.
        half_open: Whether it is a half-open one.
        over: What its permits belong to once they have been given back; of that, it is itself.
    """

    __slots__ = ("generation", "half_open", "over")

    def __init__(self, generation: int, *, half_open: bool = False, over: Spell | None = None) -> None:
        self.generation = generation
        self.half_open = half_open
        self.over: Spell = over or self

    @classmethod
    def begin(cls, generation: int, *, half_open: bool = False) -> Spell:
        """A spell that begins now."""
        return cls(generation, half_open=half_open, over=cls(generation, half_open=half_open))


class Permit:
    """The right to make one call, handed out by ``CircuitBreaker.acquire``.

    Its owner gives it back exactly once, by ``record`` or ``release``; whatever is tried with it afterwards
    does nothing. It is worth something only as long as the circuit stays in the spell in which it was given.

    Attributes:
        spell: That spell; once the permit has been given back, what is left of it.
    """

    __slots__ = ("spell",)

    spell: Spell

    @property
    def generation(self) -> int:
        """The number of the spell in which it was given."""
        return self.spell.generation

    @property
    def half_open(self) -> bool:
        """Whether the call is a probe."""
        return self.spell.half_open

    @property
    def expires_at(self) -> float | None:
        """When a probe that has not reported counts as failed; other calls never do."""
        return None

    def __repr__(self) -> str:
        kind = "probe" if self.half_open else "call"
        state = "given back" if self.spell.over is self.spell else "open"
        return f"<Permit {kind} generation={self.generation} {state}>"


class Probe(Permit):
    """The permit of a half-open circuit."""

    __slots__ = ("_expires_at",)

    def __init__(self, spell: Spell, expires_at: float) -> None:
        self.spell = spell
        self._expires_at = expires_at

    @property
    def expires_at(self) -> float:
        """When it counts as failed if it has not reported."""
        return self._expires_at


class Leased(Probe):
    """The permit of a half-open circuit that several members share.

    Attributes:
        token: The number of its lease.
    """

    __slots__ = ("token",)

    def __init__(self, spell: Spell, expires_at: float, token: int) -> None:
        super().__init__(spell, expires_at)
        self.token = token


class Report(NamedTuple):
    """How a call went: what ``CircuitBreaker.record`` is told of it."""

    outcome: Outcome
    duration: float = 0.0
    error: BaseException | str | None = None
    retry_after: float | None = None
