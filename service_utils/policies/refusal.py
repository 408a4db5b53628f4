"""Refusals: what is known of a circuit that lets nobody pass, and what its callers are told."""

from __future__ import annotations

import math
from typing import TypeAlias

from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitState, Hush
from service_utils.policies.circuit import Circuit
from service_utils.policies.permit import Spell

__all__ = ["Refusal", "Shut", "error_for"]

Refusal: TypeAlias = tuple[CircuitState, float]
"""Why a permit is refused: the state, and the seconds until an open circuit may be tried."""


class Shut:
    """A spell in which calls are refused.

    Attributes:
        spell: The spell.
        state: The state.
        until: When that is over, in seconds on the monotonic clock; infinite when that is not known.
        refusal: What callers are told, where it is the same for all of them.
        hush: Where refusals are counted instead of told, if somewhere.
    """

    __slots__ = ("hush", "refusal", "spell", "state", "until")

    def __init__(self, spell: Spell, state: CircuitState, until: float = math.inf) -> None:
        self.spell = spell
        self.state = state
        self.until = until
        self.refusal: Refusal | None = (state, 0.0) if until == math.inf else None
        self.hush: Hush | None = None

    @classmethod
    def of(cls, circuit: Circuit) -> Shut | None:
        """None for a circuit that is not shut at all, or only while its probes are under way."""
        if circuit.state is CircuitState.OPEN:
            return cls(circuit.spell, circuit.state, circuit.open_until)
        if circuit.state is CircuitState.FORCED_OPEN:
            return cls(circuit.spell, circuit.state)
        return None


def error_for(label: str, refusal: Refusal) -> CircuitOpenError:
    """The error that a caller gets to see."""
    state, remaining = refusal
    if state is CircuitState.OPEN:
        return CircuitOpenError(label, remaining)
    if state is CircuitState.HALF_OPEN:
        message = f"{label}: circuit breaker is half open and its probe is under way"
        return CircuitOpenError(label, 0.0, message=message)
    error = CircuitOpenError(label, 0.0, message=f"{label}: circuit breaker is held open by an operator")
    error.retry_after = None
    return error
