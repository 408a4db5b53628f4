"""Protection against more than an app can do: it turns requests away early instead of failing them all.

A request to a protected route needs, in this order: a closed circuit, one of the route's places, one of the
whole app's places, a permit of the circuit. What it takes it holds until its answer is closed: a streamed
body until the last byte is sent or the caller has hung up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.wsgi import get_path_info

from service_utils.clock import Clock
from service_utils.errors import TokenError
from service_utils.events import Listener, LoadShed, notify
from service_utils.http.context import current_deadline
from service_utils.integrations.flask.admission import Admission, run
from service_utils.integrations.flask.gates import Gate, Queue, Shed
from service_utils.integrations.flask.inbound import Inbound
from service_utils.integrations.flask.limits import Limits, Priority
from service_utils.integrations.flask.problems import problem
from service_utils.integrations.flask.tokens import Verdict, judge_request
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.checks import checked_clock, checked_listeners, require_count
from service_utils.policies.deadline import Deadline

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["PRIORITY_HEADER", "Limits", "Priority", "Protection", "protect"]

PRIORITY_HEADER = "X-Request-Priority"

_EXTENSION = "service_utils.protection"
_ADMISSION = "service_utils.admission"
_EXEMPT = (
    "/health",
    "/healthz",
    "/live",
    "/livez",
    "/metrics",
    "/ping",
    "/ready",
    "/readyz",
    "/status",
)
_ORDER = tuple(Priority)  # from the least
_SHARES = {Priority.LOW: 0.5, Priority.NORMAL: 0.8, Priority.HIGH: 1.0}
_WORDS = {
    "circuit open": "This part of the server is out of order at the moment.",
    "out of time": "The time of the request ran out while it waited for its turn.",
}
_BUSY = "The server has more to do than it can; the request was not begun."

_logger = logging.getLogger("service_utils")


def protect(
    app: Flask,
    limits: Mapping[str, Limits],
    *,
    max_concurrent: int | None = None,
    exempt: Iterable[str] = (),
    clock: Clock | None = None,
    listeners: Iterable[Listener] = (),
) -> Protection:
    """Protect routes of an app against overload, and their callers against routes that keep failing.

    Requests that are turned away get 503 problem JSON with Retry-After, before the app has done any work for
    them. One whose time (``request_deadline`` or ``X-Request-Timeout-Ms``, as the extension
    :class:`~service_utils.integrations.flask.ServiceUtils` binds it) is over before its turn gets 504.

    With ``max_concurrent`` the least important requests are turned away first: requests of priority low fill
    at most half of these places, and those of priority normal at most 80 % where any route has priority high.
    What waits for one of the app's places waits behind nobody of lower priority. A caller with a valid
    internal token may say in ``X-Request-Priority`` (``low``, ``normal``, ``high``) what its request is
    worth, up to the highest priority that any route has; nobody else is believed.

    The path of a request is protected by the longest prefix that is given for it, segment by segment:
    ``/chat`` stands for ``/chat`` and ``/chat/7``, not for ``/chats``. Health, status and metrics pages are
    never protected unless a prefix names them; nor are CORS preflights that Flask answers by itself.

    Args:
        app: The app. Whatever wraps ``app.wsgi_app`` later stands outside of the protection.
        limits: The limits of each path and all below it.
        max_concurrent: How many requests to all protected routes together may be under way at once; below
            the number of threads the server has, lest health checks wait with the others. None: any number.
        exempt: Further paths that are not protected unless named, with all below them.
        clock: Whose seconds count; the same as that of the extension.
        listeners: Told of what happens, besides those of the process.

    Returns:
        The protection, for its status and its circuits.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A path or a number is no good, or the app is protected already.
    """
    if _EXTENSION in app.extensions:
        raise ValueError(f"app={app!r}: is protected already")
    protection = Protection(
        app,
        limits,
        max_concurrent=max_concurrent,
        exempt=exempt,
        clock=checked_clock(clock),
        listeners=checked_listeners(listeners),
    )
    hooks = app.before_request_funcs.setdefault(None, [])
    # Behind the hook that binds the request's id and deadline, and before all others: they may be costly.
    first = next((n + 1 for n, hook in enumerate(hooks) if _is_inbound(hook)), 0)
    hooks.insert(first, protection._let_in)
    app.wsgi_app = protection._around(app.wsgi_app)  # type: ignore[method-assign,assignment]
    app.extensions[_EXTENSION] = protection
    return protection


def _is_inbound(hook: object) -> bool:
    return isinstance(getattr(hook, "__self__", None), Inbound)


class Protection:
    """What :func:`protect` has put round an app. For any number of threads.

    Args:
        app: See :func:`protect`, as all of them.
        limits: See there.
        max_concurrent: See there.
        exempt: See there.
        clock: See there.
        listeners: See there.
    """

    def __init__(
        self,
        app: Flask,
        limits: Mapping[str, Limits],
        *,
        max_concurrent: int | None,
        exempt: Iterable[str],
        clock: Clock,
        listeners: tuple[Listener, ...],
    ) -> None:
        checked = _checked_limits(limits)
        self._app = app
        self._clock = clock
        self._listeners = listeners
        self._exempt = (*_EXEMPT, *(_checked_path("exempt", path) for path in exempt))
        self._gates = [Gate(path, checked[path], clock, listeners) for path in sorted(checked, key=len)[::-1]]
        self._max_concurrent = max_concurrent
        self._highest = max((each.priority for each in checked.values()), key=_ORDER.index)
        self._house: dict[Priority, Queue] = {}
        if max_concurrent is not None:
            require_count("max_concurrent", max_concurrent)
            self._build(max_concurrent, max(each.max_queue_seconds for each in checked.values()))

    def _build(self, places: int, max_wait: float) -> None:
        """The app's places: those of each priority lie within those of the next higher one."""
        for priority in _ORDER[: _ORDER.index(self._highest) + 1]:
            share = 1.0 if priority is self._highest else _SHARES[priority]
            own = max(int(places * share), 1)
            name = f"{self._app.name} {priority.value}"
            self._house[priority] = Queue(
                own, own, max_wait, name=name, clock=self._clock, listeners=self._listeners
            )

    @property
    def breakers(self) -> dict[str, CircuitBreaker]:
        """The circuits of the routes by path, to be opened or reset by hand."""
        return {gate.prefix: gate.breaker for gate in self._gates if gate.breaker is not None}

    def get_status(self) -> dict[str, Any]:
        """JSON-ready: ``routes`` by path and ``app``, with limits, who is inside and who was turned away."""
        levels = {priority.value: queue.get_status() for priority, queue in self._house.items()}
        return {
            "routes": {gate.prefix: gate.get_status() for gate in self._gates},
            "app": {"max_concurrent": self._max_concurrent, "priorities": levels},
        }

    def _around(self, app: WSGIApplication) -> WSGIApplication:
        def protected(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            gate = self._gate_of(get_path_info(environ))
            if gate is None:
                return app(environ, start_response)
            admission = environ[_ADMISSION] = Admission(gate)
            return run(app, admission, environ, start_response)

        return protected

    def _gate_of(self, path: str) -> Gate | None:
        """The gate of the longest prefix of a path, unless the path is one that has to be named."""
        named = self._must_be_named(path)
        for gate in self._gates:
            if _below(path, gate.prefix) and (named is None or _below(gate.prefix, named)):
                return gate
        return None

    def _must_be_named(self, path: str) -> str | None:
        extension = self._app.extensions.get("service_utils")
        pages = () if extension is None else extension.options.status_paths
        return next((each for each in (*self._exempt, *pages) if _below(path, each)), None)

    def _let_in(self) -> Response | None:
        """Before the request: the refusal, or None when it may go on."""
        admission: Admission | None = request.environ.get(_ADMISSION)
        if admission is None or admission.asked or _is_preflight():
            return None
        admission.asked = True
        gate, deadline = admission.gate, current_deadline()
        try:
            gate.enter(admission, self._places_for(gate), deadline)
            if deadline is not None and deadline.expired:
                raise Shed("out of time", gate.limits.retry_after)
        except Shed as shed:
            admission.close()
            return self._refuse(gate, shed, deadline)
        admission.begin()
        return None

    def _places_for(self, gate: Gate) -> list[Queue]:
        if not self._house:
            return []
        own = min(_ORDER.index(_priority_said() or gate.limits.priority), _ORDER.index(self._highest))
        return [self._house[priority] for priority in _ORDER[own : _ORDER.index(self._highest) + 1]]

    def _refuse(self, gate: Gate, shed: Shed, deadline: Deadline | None) -> Response:
        late = deadline is not None and deadline.expired
        reason = "out of time" if late else shed.reason
        gate.count_shed(reason)
        event = LoadShed(
            service=self._app.name,
            name=self._app.name,
            at=self._clock.monotonic(),
            route=gate.prefix,
            reason=reason,
            retry_after=shed.retry_after,
        )
        notify(self._listeners, event)
        headers = {"Retry-After": str(max(math.ceil(shed.retry_after), 1))}
        return problem(504 if late else 503, detail=_WORDS.get(reason, _BUSY), headers=headers)


def _priority_said() -> Priority | None:
    """The priority that a caller with a valid internal token gives its request."""
    said = request.headers.get(PRIORITY_HEADER, "").lower()
    if said not in _SHARES:
        return None
    try:
        return Priority(said) if judge_request() is Verdict.ACCEPTED else None
    except TokenError as error:
        _logger.error("No caller's %s is believed: %s", PRIORITY_HEADER, error)
        return None


def _is_preflight() -> bool:
    rule = request.url_rule
    return request.method == "OPTIONS" and getattr(rule, "provide_automatic_options", False) is True


def _below(path: str, prefix: str) -> bool:
    return prefix == "/" or path == prefix or path.startswith(f"{prefix}/")


def _checked_limits(limits: object) -> dict[str, Limits]:
    if not isinstance(limits, Mapping):
        raise TypeError(f"limits={limits!r}: must be a mapping of paths to Limits")
    if not limits:
        raise ValueError(f"limits={limits!r}: at least one path is needed")
    checked: dict[str, Limits] = {}
    for path, each in limits.items():
        prefix = _checked_path("limits", path)
        if not isinstance(each, Limits):
            raise TypeError(f"limits: {path!r}: {each!r} must be Limits(...)")
        if prefix in checked:
            raise ValueError(f"limits: names the path {prefix!r} twice")
        checked[prefix] = each
    return checked


def _checked_path(what: str, path: object) -> str:
    if not isinstance(path, str):
        raise TypeError(f"{what}: {path!r} must be a path")
    if not path.startswith("/") or "//" in path or any(mark in path for mark in "?#<>"):
        raise ValueError(f"{what}: {path!r} must be a plain path that starts with a slash")
    return path.rstrip("/") or "/"
