"""How events are told to those who listen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from service_utils.events.happenings import CircuitRejected, CircuitState, Event
from service_utils.forks import in_child

__all__ = [
    "Hush",
    "Listener",
    "count_hushed",
    "notify",
    "notify_rejection",
    "refusals_wanted",
    "routine_wanted",
    "subscribe",
]

_logger = logging.getLogger("service_utils")


class Listener(Protocol):
    """Anything that can be called with one event. It must not block: the caller's request waits for it."""

    def __call__(self, event: Any, /) -> object:
        """Take note of the event."""
        ...


class Hush:
    """How long a listener wants to know no more of the rejections of one circuit than their number.

    Attributes:
        until: When its patience is over, in seconds on the clock of whoever tells it.
        unsaid: The number so far; whoever reads it sets it to 0 in the same breath.
        subscribers: Who listened when it was last asked for.
    """

    __slots__ = ("subscribers", "unsaid", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.unsaid = 0
        self.subscribers: object = None


# By subscription. Replaced, never changed, so that telling an event needs no lock.
_subscribers: dict[object, Listener] = {}
_subscribing = threading.RLock()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Have every event of this process told to a listener, once for each time it is subscribed.

    Returns:
        The function that ends this subscription.

    Raises:
        TypeError: ``listener`` is not callable.
    """
    global _subscribers
    if not callable(listener):
        raise TypeError(f"listener={listener!r}: must be a callable that takes one event")
    subscription = object()
    with _subscribing:
        _subscribers = {**_subscribers, subscription: listener}

    def unsubscribe() -> None:
        global _subscribers
        with _subscribing:
            _subscribers = {key: each for key, each in _subscribers.items() if key is not subscription}

    return unsubscribe


def _unlock() -> None:
    global _subscribing
    _subscribing = threading.RLock()


in_child(_unlock)


_AskHush: TypeAlias = Callable[[tuple[str, str], int, float], Hush | None]


def _with_question(listeners: Iterable[Listener]) -> tuple[tuple[Listener, _AskHush | None], ...]:
    return tuple(
        (each, getattr(each, "hush", None))
        for each in listeners
        if not getattr(each, "ignores_rejections", False)
    )


class _Audience:
    """The listeners of the process as those who tell something need them."""

    __slots__ = ("listeners", "refusals", "rejections", "routine", "subscribers")

    def __init__(self, subscribers: dict[object, Listener]) -> None:
        self.subscribers = subscribers
        self.listeners = tuple(subscribers.values())
        self.routine: tuple[Callable[[], bool] | None, ...] = tuple(
            getattr(each, "wants_routine", None) for each in self.listeners
        )
        self.rejections = _with_question(self.listeners)
        self.refusals = any(not getattr(each, "ignores_refusals", False) for each in self.listeners)


_audience = _Audience(_subscribers)


def _new_audience() -> _Audience:
    """Made when somebody has come or gone since the last one was."""
    global _audience
    _audience = audience = _Audience(_subscribers)
    return audience


def notify(listeners: Iterable[Listener], event: Event) -> None:
    """Tell an event to the given listeners, then to those of the whole process; none can break the caller."""
    audience = _audience if _audience.subscribers is _subscribers else _new_audience()
    for listener in (*listeners, *audience.listeners):
        _tell(listener, event)


def routine_wanted(listeners: Iterable[Listener]) -> bool:
    """Whether anybody wants the events of a call that goes well: the given listeners or the process's.

    Where nobody does, :class:`AttemptStarted` and the :class:`CallFinished` of a success need not be made.
    """
    audience = _audience if _audience.subscribers is _subscribers else _new_audience()
    try:
        for listener in listeners:
            wants = getattr(listener, "wants_routine", None)
            if wants is None or wants():
                return True
        for wants in audience.routine:
            if wants is None or wants():
                return True
    except Exception:
        return True  # one that cannot say is told, and its bug shows there
    return False


def refusals_wanted(listeners: Iterable[Listener]) -> bool:
    """Whether anybody wants the :class:`CallFinished` of calls that an open circuit has refused."""
    audience = _audience if _audience.subscribers is _subscribers else _new_audience()
    if audience.refusals:
        return True
    for listener in listeners:  # noqa: SIM110 - a generator would cost more than all the rest
        if not getattr(listener, "ignores_refusals", False):
            return True
    return False


def notify_rejection(
    listeners: Iterable[Listener],
    who: tuple[str, str],
    generation: int,
    at: float,
    state: CircuitState,
    cooldown: float,
) -> Hush | None:
    """Tell a :class:`CircuitRejected` as :func:`notify` does, but make it only if somebody wants it.

    Args:
        listeners: Told before the listeners of the process.
        who: ``service`` and ``name`` of the event.
        generation: See :class:`CircuitRejected`.
        at: See :class:`Event`.
        state: See :class:`CircuitRejected`.
        cooldown: Its ``cooldown_remaining``.

    Returns:
        Where the only one to be told is a listener that hushes: its hush. The next rejections of this
        generation may be told by :func:`count_hushed` alone.
    """
    audience = _audience if _audience.subscribers is _subscribers else _new_audience()
    asked = audience.rejections
    if listeners:
        asked = (*_with_question(listeners), *asked)
    event = hush = None
    for listener, ask in asked:
        hush = None if ask is None else _hush(ask, who, generation, at)
        if hush is not None:
            hush.unsaid += 1  # no call in between: no other thread comes between reading and writing
            hush.subscribers = audience.subscribers
            continue
        if event is None:
            event = CircuitRejected(
                service=who[0],
                name=who[1],
                at=at,
                state=state,
                cooldown_remaining=cooldown,
                generation=generation,
            )
        _tell(listener, event)
    return hush if len(asked) == 1 else None


def _hush(ask: _AskHush, who: tuple[str, str], generation: int, at: float) -> Hush | None:
    try:
        return ask(who, generation, at)
    except Exception:
        return None  # as in routine_wanted


def count_hushed(hush: Hush | None, at: float) -> bool:
    """Tell a rejection to the listener of whom :func:`notify_rejection` got this; whether that was all."""
    if hush is None or at >= hush.until or hush.subscribers is not _subscribers:
        return False
    hush.unsaid += 1
    return True


def _tell(listener: Listener, event: Event) -> None:
    try:
        listener(event)
    except Exception as error:
        _report(listener, event, error)


def _report(listener: Listener, event: Event, error: Exception) -> None:
    try:
        text = "[%s] Listener %r failed on %s"
        _logger.error(text, event.service, listener, type(event).__name__, exc_info=error)
    except Exception:
        # A logging handler that raises is the last thing left to tell, and there is nobody to tell it to.
        return
