"""What happens, as values, and how it is told to those who listen.

Clients, breakers and fallbacks tell their story in the frozen dataclasses below. Log lines, metrics and
traces are listeners: any callable that takes one event. A listener runs in the thread in which the thing
happened, never under a lock, and its bugs stop with it: an ``Exception`` out of a listener is logged and
changes nothing.

What nobody wants is not even made. A listener may say so by any of these, of which the methods must be quick;
one without them is told everything:

``wants_routine() -> bool``
    Whether it wants to hear of calls that go well. Asked at each call.
``hush(who, generation, at) -> Hush | None``
    Asked before a :class:`CircuitRejected` is made, with the pair of its ``service`` and ``name``: None to be
    told, or a :class:`Hush` in which such rejections are counted for a while instead.

``ignores_refusals`` (an attribute that is true)
    It has no use for the :class:`CallFinished` of a call that an open circuit has refused.
``ignores_rejections`` (an attribute that is true)
    It has no use for any :class:`CircuitRejected`.
"""

from __future__ import annotations

from service_utils.events.happenings import (
    AttemptFailed,
    AttemptStarted,
    BulkheadRejected,
    CallFinished,
    CallsPaused,
    CircuitChanged,
    CircuitRejected,
    CircuitState,
    DeadLetterAdded,
    DeadLetterSettled,
    DegradationChanged,
    Event,
    FailureKind,
    FallbackUsed,
    HealthChecked,
    LoadShed,
    RateLimited,
    RetryScheduled,
)
from service_utils.events.telling import (
    Hush,
    Listener,
    count_hushed,
    notify,
    notify_rejection,
    refusals_wanted,
    routine_wanted,
    subscribe,
)

__all__ = [
    "AttemptFailed",
    "AttemptStarted",
    "BulkheadRejected",
    "CallFinished",
    "CallsPaused",
    "CircuitChanged",
    "CircuitRejected",
    "CircuitState",
    "DeadLetterAdded",
    "DeadLetterSettled",
    "DegradationChanged",
    "Event",
    "FailureKind",
    "FallbackUsed",
    "HealthChecked",
    "Hush",
    "Listener",
    "LoadShed",
    "RateLimited",
    "RetryScheduled",
    "count_hushed",
    "notify",
    "notify_rejection",
    "refusals_wanted",
    "routine_wanted",
    "subscribe",
]
